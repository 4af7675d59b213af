"""Models by name: the right file or a sentence, and nothing is fetched that nobody asked for."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from famf_command import famf

from famf_video import registry
from famf_video.registry import RegistryError

CONTENT = b"the weights of a network" * 1000


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A registry of one model, in a folder of its own; further fields as given."""

    def write(content=CONTENT, **fields):
        entry = {"kind": "face embedder", "file": "a.onnx", "sha256": hashlib.sha256(content).hexdigest()}
        entry |= {"origin": "somewhere", "terms": "for tests", "url": None}
        path = tmp_path / "models.yml"
        path.write_text(yaml.safe_dump({"ann": entry | fields}))
        monkeypatch.setattr(registry, "REGISTRY", path)
        monkeypatch.setattr(registry, "ROOT", tmp_path)
        return path

    monkeypatch.setenv("FAMF_MODELS", str(tmp_path / "models"))
    write()
    return write


@pytest.fixture
def file(tmp_path):
    (tmp_path / "any name").write_bytes(CONTENT)
    return tmp_path / "any name"


@contextmanager
def server(content, status=200, short=0):
    """Answers every request with this content; gives its address and the list of the requests."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) + short))
            self.end_headers()
            self.wfile.write(content)

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/a.onnx", asked
        http.shutdown()


def test_the_registry_of_the_repository_is_whole():
    entries = registry.entries()
    assert {"mobilefacenet128", "mtcnn-pnet", "mtcnn-rnet", "mtcnn-onet"} <= set(entries)
    assert len({entry.file for entry in entries.values()}) == len({e.sha256 for e in entries.values()}) == len(entries)
    assert all(entry.terms.strip() and entry.origin.strip() for entry in entries.values())


def test_a_model_is_found_by_its_name_or_its_path(known, file, tmp_path):
    assert registry.add(file).path == tmp_path / "models" / "a.onnx"
    assert registry.find("ann").read_bytes() == CONTENT
    assert registry.find(file) == file == registry.find(str(file))
    with pytest.raises(RegistryError, match="model: 'bob' is unknown, expected a file or one of ann$"):
        registry.find("bob")


def test_a_model_that_is_not_here_says_how_to_get_it(known, tmp_path):
    expected = rf"model ann: a\.onnx is not in {tmp_path}/models; .* famf models add FILE .* \(models\.yml says"
    with pytest.raises(RegistryError, match=expected):
        registry.find("ann")
    known(url="http://127.0.0.1:9/a.onnx")
    assert "or famf models fetch ann" in registry.absence("ann")


def test_another_file_under_its_name_is_refused(known, file, tmp_path):
    registry.add(file)
    path = tmp_path / "models" / "a.onnx"
    path.write_bytes(CONTENT[:-1] + b"!")  # of the same size
    with pytest.raises(RegistryError, match=r"a\.onnx: the SHA-256 is [0-9a-f]{64}, expected .* that of ann"):
        registry.find("ann")
    registry.add(file)  # puts it right
    assert registry.find("ann").read_bytes() == CONTENT


def test_what_is_added_is_told_by_its_checksum(known, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"another model under the right name")
    for name, said in (("a.onnx", "SHA-256 .* found, expected that of a model in"), ("nothing", "no such file found")):
        with pytest.raises(RegistryError, match=f"{name}: {said}"):
            registry.add(tmp_path / name)
    assert not (tmp_path / "models").exists()


def test_fetching_keeps_the_right_file_and_asks_once(known):
    with server(CONTENT) as (url, asked):
        known(url=url)
        assert registry.absence("ann") and not asked  # to look is not to fetch
        assert registry.fetch("ann").read_bytes() == CONTENT
        assert registry.fetch("ann") == registry.find("ann") and asked == ["/a.onnx"]


@pytest.mark.parametrize(
    ("content", "answer", "said"),
    [
        (b"another file", {}, "the SHA-256 is .* nothing was kept"),
        (CONTENT, {"status": 404}, "ann cannot be fetched .*404"),
        (CONTENT[:-7], {"short": 7}, "cannot be fetched|the SHA-256 is"),
    ],
)
def test_what_is_not_the_model_is_not_kept(known, tmp_path, content, answer, said):
    earlier = tmp_path / "models" / "a.onnx"
    earlier.parent.mkdir()
    earlier.write_bytes(b"an older one")
    with server(content, **answer) as (url, _):
        known(url=url)
        with pytest.raises(RegistryError, match=said):
            registry.fetch("ann")
    assert list(earlier.parent.iterdir()) == [earlier] and earlier.read_bytes() == b"an older one"


def test_without_an_address_nothing_is_fetched(known):
    unknown, said = (
        "model: 'bob' is not known, expected one of ann",
        "model ann: no url in the registry, expected one .*famf",
    )
    for name, url, sentence in (
        ("bob", None, unknown),
        ("ann", None, f"{said} models add FILE"),
        *(("ann", url, "expected https://") for url in ("file:///etc/hostname", "ftp://127.0.0.1/a", "a.onnx")),
    ):
        known(url=url)
        with pytest.raises(RegistryError, match=sentence):
            registry.fetch(name)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sha256": "abc"}, r"ann\.sha256: 'abc' found"),
        ({"file": "../a.onnx"}, r"ann\.file: '\.\./a\.onnx' found"),
        ({"licence": "none"}, r"ann\.licence: 'none' found"),
        ({"url": 7}, r"ann\.url: 7 found"),
        (None, "cannot be read as a registry of models"),
    ],
)
def test_a_faulty_registry_is_one_sentence_and_runs_no_code(known, fields, said):
    path = known(**fields or {})
    if fields is None:
        path.write_text("ann: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RegistryError, match=rf"models\.yml: {said}"):
        registry.entries()


def test_the_commands_list_add_and_fetch(known, file):
    assert "absent" in famf("models", "list").output
    added = famf("models", "add", file)
    assert added.exit_code == 0 and "for tests" in added.output
    listed = famf("models", "list", "--terms").output
    assert "here" in listed and "somewhere" in listed
    failed = famf("models", "fetch", "bob")
    assert isinstance(failed.exception, RegistryError)
