"""Words in a picture, and their vector: RapidOCR reads, a model of sentence-transformers encodes."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from famf_video import registry
from famf_video.onnx import needed


class TextError(ValueError):
    """A folder that holds no model of sentences."""


@runtime_checkable
class TextReader(Protocol):
    """What reads the words in a picture. ``checksum`` tells one from another."""

    checksum: str

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        """The lines of text in an RGB picture, from the top."""
        ...


@runtime_checkable
class SentenceEncoder(Protocol):
    """What turns text into a vector. ``checksum`` tells one from another: their vectors do not mix."""

    dim: int
    checksum: str

    def encode(self, text: str) -> Float32[np.ndarray, " D"]: ...


class RapidOcr:
    """RapidOCR with the models that come with its package (PaddleOCR's, for Chinese and English), by ONNX Runtime.

    Args:
        certain: the least score of a line that counts.
        threads: that one picture uses; 0 is a thread a core.
    """

    def __init__(self, certain: float = 0.5, threads: int = 0):
        needed("rapidocr")
        from rapidocr import RapidOCR

        options = {"Global.log_level": "error", "Global.text_score": certain}
        options["EngineConfig.onnxruntime.intra_op_num_threads"] = threads or -1
        self._engine = RapidOCR(params=options)
        self.checksum = f"rapidocr {version('rapidocr')} {certain}"

    def read(self, picture: UInt8[np.ndarray, "H W 3"]) -> list[str]:
        found = self._engine(np.ascontiguousarray(picture[..., ::-1]))  # BGR
        return list(found.txts or ())


class SentenceTransformers:
    """A model of sentence-transformers in a folder on this machine. It is only read as safetensors, which run no code.

    Raises:
        TextError: there is no such model in the folder.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        files = sorted(self.folder.rglob("*.safetensors"))
        if not files:
            found = "no .safetensors in it" if self.folder.is_dir() else "no such folder"
            raise TextError(f"{folder}: {found} found, expected the folder of a sentence-transformers model")
        needed("sentence_transformers")
        os.environ["HF_HUB_OFFLINE"] = "1"  # what a model lacks is not fetched
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(
                str(self.folder.resolve()),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # every kind of damage has a class of its own
            said = " ".join(str(error).split())[:300]
            raise TextError(f"{folder}: no model of sentences can be opened here ({said})") from error
        self.checksum = " ".join(registry.checksum(file) for file in files)
        self.dim = len(self.encode("."))

    def encode(self, text: str) -> Float32[np.ndarray, " D"]:
        return self._model.encode(text, show_progress_bar=False, convert_to_numpy=True).astype(np.float32)
