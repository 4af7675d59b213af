"""Text in pictures and its vector: RapidOCR reads, a sentence-transformers model encodes."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from famf_video import registry
from famf_video.onnx import require


class TextError(ValueError):
    """A folder holds no sentence-transformers model."""


@runtime_checkable
class TextReader(Protocol):
    """Reads the text in a picture. ``checksum`` identifies the reader."""

    checksum: str

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        """Reads the lines of text in an RGB picture, from the top."""
        ...


@runtime_checkable
class SentenceEncoder(Protocol):
    """Turns text into a vector. ``checksum`` identifies the encoder: vectors of two encoders do not mix."""

    dim: int
    checksum: str

    def encode(self, text: str) -> Float32[np.ndarray, " D"]: ...


class RapidOcr:
    """RapidOCR with the models of its package (PaddleOCR's, for Chinese and English), run by ONNX Runtime.

    Args:
        certain: the least score of a line to keep.
        threads: used for one picture; 0 means one per core.
    """

    def __init__(self, certain: float = 0.5, threads: int = 0):
        require("rapidocr")
        from rapidocr import RapidOCR

        options = {"Global.log_level": "error", "Global.text_score": certain}
        options["EngineConfig.onnxruntime.intra_op_num_threads"] = threads or -1
        self._engine = RapidOCR(params=options)
        self.checksum = f"rapidocr {version('rapidocr')} {certain}"

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        found = self._engine(np.ascontiguousarray(picture[..., ::-1]))  # BGR
        return list(found.txts or ())


class SentenceTransformers:
    """A sentence-transformers model in a local folder, opened only from safetensors, which cannot run code.

    Raises:
        TextError: the folder holds no such model.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        files = sorted(self.folder.rglob("*.safetensors"))
        if not files:
            found = "no .safetensors in it" if self.folder.is_dir() else "no such folder"
            raise TextError(f"{folder}: {found} found, expected the folder of a sentence-transformers model")
        require("sentence_transformers")
        os.environ["HF_HUB_OFFLINE"] = "1"  # missing files are not downloaded
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(
                str(self.folder.resolve()),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # each kind of damage raises a class of its own
            reason = " ".join(str(error).split())[:300]
            raise TextError(f"{folder}: cannot be opened as a sentence-transformers model ({reason})") from error
        self.checksum = " ".join(registry.checksum(file) for file in files)
        self.dim = len(self.encode("."))

    def encode(self, text: str) -> Float32[np.ndarray, " D"]:
        return self._model.encode(text, show_progress_bar=False, convert_to_numpy=True).astype(np.float32)
