"""Words: read by the models that come with RapidOCR, and encoded by a small model made here."""

import socket

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from famf_video.text import RapidOcr, SentenceTransformers, TextError


@pytest.fixture(scope="module")
def reader():
    pytest.importorskip("rapidocr", reason="the extra extract is not installed")
    return RapidOcr()


def written(*lines, size=(300, 200)):
    canvas = Image.new("RGB", size, (40, 60, 90))
    for place, line in enumerate(lines):
        font = ImageFont.load_default(32)
        ImageDraw.Draw(canvas).text((20, 30 + 70 * place), line, fill=(250, 240, 200), font=font)
    return np.asarray(canvas)


def test_what_stands_in_a_picture_is_read_from_the_top(reader, monkeypatch):
    def refused(*_):
        raise AssertionError("something is asked of the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert reader.read(written("Second of May", "FAMF 2020")) == ["Second of May", "FAMF 2020"]
    assert reader.read(written(size=(64, 64))) == []


def test_a_model_that_only_a_pickle_holds_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for folder, found in ((tmp_path, r"no \.safetensors in it"), (tmp_path / "b", "no such folder")):
        with pytest.raises(TextError, match=f"^{folder}: {found} found, expected the folder of a sentence"):
            SentenceTransformers(folder)


def test_a_sentence_is_a_vector(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra extract-text is not installed")
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "raw")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 17}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "raw")
    made = SentenceTransformer(modules=[models.Transformer(str(tmp_path / "raw")), models.Pooling(12)], device="cpu")
    made.save(str(tmp_path / "model"))
    encoder = SentenceTransformers(tmp_path / "model")
    assert encoder.dim == 12 and encoder.encode("hello world").dtype == np.float32
    np.testing.assert_allclose(encoder.encode("hello world"), made.encode("hello world"), rtol=1e-5)
    assert abs(encoder.encode("hello") - encoder.encode("world")).max() > 1e-3
