import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest

from famf_lib.data import npz

FIELDS = {"name": ("U", 1), "number": ("iu", 1), "vector": ("f", 2)}
GOOD = {"name": np.array(["a", "b", "c"]), "number": np.arange(3), "vector": np.ones((3, 5))}


class Refused(ValueError):
    """What the caller raises."""


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


def test_arrays_are_read_by_name_or_all_of_them(tmp_path):
    np.savez(tmp_path / "x.npz", **GOOD)
    for found in (npz.read(tmp_path / "x.npz", Refused), npz.read_rows(tmp_path / "x.npz", Refused, FIELDS)):
        assert list(found) == list(GOOD)
        for name, array in GOOD.items():
            np.testing.assert_array_equal(found[name], array)
    assert list(npz.read(tmp_path / "x.npz", Refused, ["number"])) == ["number"]


OBJECTS = np.array([Bomb()], dtype=object)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"vector": None}, "the array vector is missing, found name, number, expected name, number, vector"),
        ({name: None for name in GOOD}, "the array name is missing, found nothing, expected name, number, vector"),
        ({"name": OBJECTS}, "the array name holds Python objects, expected text, numbers or booleans"),
        ({"vector": OBJECTS}, "the array vector holds Python objects, expected text, numbers or booleans"),
        ({"vector": np.ones((2, 5))}, "the shape of vector is (2, 5), expected (3, D)"),
        ({"vector": np.ones(3)}, "the shape of vector is (3,), expected (3, D)"),
        ({"vector": np.ones((3, 0))}, "the shape of vector is (3, 0), expected (3, D)"),
        ({"number": np.ones((3, 1), int)}, "the shape of number is (3, 1), expected (3,)"),
        ({"name": np.array("a")}, "the shape of name is (), expected (1,)"),
        ({name: array[:0] for name, array in GOOD.items()}, "name has no rows, expected one or more"),
        ({"name": np.arange(3)}, "name is int64, expected text"),
        ({"number": np.ones(3)}, "number is float64, expected integers"),
        ({"vector": np.ones((3, 5), int)}, "vector is int64, expected floats"),
        ({"vector": np.ones((3, 5), np.longdouble)}, f"vector is {np.dtype(np.longdouble)}, expected floats"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(changed, sentence, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{name: array for name, array in (GOOD | changed).items() if array is not None})
    with pytest.raises(Refused) as refusal:
        npz.read_rows(path, Refused, FIELDS)
    assert str(refusal.value) == f"{path}: {sentence}"


def test_an_array_that_occurs_twice_or_is_a_pickle_is_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.arange(7))
    for member, content, sentence in (
        ("number.npy", stream.getvalue(), "the array number occurs twice, expected once"),
        ("number", stream.getvalue(), "the array number occurs twice, expected once"),
        ("more.npy", pickle.dumps(Bomb()), "the array more cannot be read (it is not a NumPy array), expected text"),
        ("more.npy", stream.getvalue()[:-1], "the array more cannot be read ("),
    ):
        path = tmp_path / "x.npz"
        np.savez(path, **GOOD)
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr(member, content)
        with pytest.raises(Refused) as refusal:
            npz.read(path, Refused)
        assert str(refusal.value).startswith(f"{path}: {sentence}")


@pytest.mark.parametrize("kind", ["absent", "empty", "text", "half", "a single array", "a pickle"])
def test_what_is_no_npz_is_one_sentence(kind, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **GOOD)
    whole, stream = path.read_bytes(), io.BytesIO()
    np.save(stream, np.ones(3))
    contents = {"empty": b"", "text": b"clip,frame", "half": whole[: len(whole) // 2], "a pickle": pickle.dumps(Bomb())}
    if kind == "absent":
        path.unlink()
    else:
        path.write_bytes((contents | {"a single array": stream.getvalue()})[kind])
    with pytest.raises(
        Refused, match="it cannot be read as an .npz file .*, expected an .npz file with name$"
    ) as refusal:
        npz.read(path, Refused, ["name"])
    assert str(refusal.value).startswith(str(path)) and "pickle" not in str(refusal.value)
