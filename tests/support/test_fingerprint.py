import pytest

from famf_lib.support.fingerprint import class_fingerprint, source_fingerprint

SOURCE = '"""About."""\n\n\ndef f(x):\n    """Twice x."""\n    return 2 * x  # twice\n\n\nclass A:\n    """None."""\n'


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "sample_package"
    (folder / "inner").mkdir(parents=True)
    contents = {"__init__.py": "raise RuntimeError('imported')", "inner/__init__.py": "", "inner/one.py": SOURCE}
    for name, content in (contents | {"two.py": "y = 1\n", "values.json": "{}"}).items():
        (folder / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_comments_docstrings_and_layout_do_not_count(package):
    before = source_fingerprint("sample_package.inner.one", "sample_package")
    other = "# new\ndef f(x):\n\n    return (2 *\n        x)\n\nclass A:\n    '''Now.'''\n"
    (package / "inner" / "one.py").write_text(other)
    assert source_fingerprint("sample_package", "sample_package.inner.one") == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("inner/one.py", SOURCE.replace("2 * x", "3 * x")),
        ("inner/one.py", SOURCE.replace("class A", "class B")),
        ("inner/one.py", SOURCE + "\n'a string'\n"),
        ("two.py", "y = 1\nz = 2\n"),
        ("three.py", ""),
        ("values.json", "{ }"),
    ],
)
def test_code_and_data_count(package, file, content):
    before = source_fingerprint("sample_package")
    (package / file).write_text(content)
    assert source_fingerprint("sample_package") != before


def test_only_the_modules_named_count(package):
    one = source_fingerprint("sample_package.inner.one")
    rest = source_fingerprint("sample_package", without=["sample_package.two"])
    (package / "two.py").write_text("y = 2\n")
    assert source_fingerprint("sample_package.inner.one") == one
    assert source_fingerprint("sample_package", without=["sample_package.two"]) == rest
    with pytest.raises(ModuleNotFoundError, match="sample_package.nothing"):
        source_fingerprint("sample_package.nothing")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        source_fingerprint("nowhere_to_be_found.x")


CLASS = "class A(Base):\n    rate = 3\n\n    def f(self, x, y=1):\n        return [x + y for x in x]\n"


def made(source, base="class Base:\n    def g(self):\n        return 1\n"):
    """A class as a notebook defines it: its source is in no file."""
    space = {"__name__": "__main__"}
    exec(base + source, space)
    return space["A"]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("for x in x]", "for x in x]  # all", True),
        ("\n    def f", "\n\n\n    def f", True),
        ("x + y", "x - y", False),
        ("x + y for", "x + 1 for", False),
        ("rate = 3", "rate = 5", False),
        ("y=1", "y=2", False),
        ("def f", "def g", False),
    ],
)
def test_a_class_counts_by_what_it_does(old, new, same):
    assert old in CLASS
    before = class_fingerprint(made(CLASS))
    assert (class_fingerprint(made(CLASS.replace(old, new))) == before) is same


def test_bases_of_a_class_count_but_for_those_of_named_packages():
    other = "class Base:\n    def g(self):\n        return 2\n"
    assert class_fingerprint(made(CLASS)) != class_fingerprint(made(CLASS, other))
    same = {class_fingerprint(made(CLASS, base), without=["__main__"]) for base in (other, other.replace("2", "3"))}
    assert len(same) == 1
