import time

import pytest

from famf_lib.support import progress as progress_module
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


def test_a_log_has_a_line_now_and_then_also_within_a_step(monkeypatch, capfd):
    monkeypatch.setitem(progress_module.SECONDS, "log", 0.01)
    with progress("counting", 7, lambda: 0.5) as bar:
        bar.to(3, "nearly")
        while "counting: 3 of 7 after 0 s, about 0 s left nearly\n" not in capfd.readouterr().err:
            time.sleep(0.05)
