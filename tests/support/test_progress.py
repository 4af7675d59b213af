import pytest

from famf_lib.support.progress import progress


@pytest.mark.parametrize(("told", "seen"), [("terminal", True), ("silent", False), (None, False)])
def test_progress_goes_where_it_was_told_to(told, seen, monkeypatch, capfd):
    if told:
        monkeypatch.setenv("FAMF_PROGRESS", told)
    with progress("counting", 3) as bar:
        bar.to(2, "nearly")
    out, err = capfd.readouterr()
    assert ("counting" in err) == seen
    assert not out
    if seen:  # the bar is erased at the end
        assert not err.rsplit("\r", 1)[1].strip()


def test_progress_ends_where_the_work_fails(monkeypatch, capfd):
    monkeypatch.setenv("FAMF_PROGRESS", "terminal")
    with pytest.raises(ZeroDivisionError), progress("counting", 3):
        raise ZeroDivisionError
    assert not capfd.readouterr().err.rsplit("\r", 1)[1].strip()
