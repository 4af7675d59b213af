"""Processes that are killed before one of their changes to the file system, or at any time."""

import itertools
import os
import random
import signal
import sys
import time

from forked import ended, forked

CHANGES = {
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.link",
    "os.symlink",
    "os.truncate",
}  # replace is rename


def killed_before(at, function, *arguments):
    """Calls the function in another process, which is killed before its change number ``at``; False if it has fewer."""
    with forked(_until, at, function, arguments) as processes:
        (code,) = ended(processes)
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    return code != 0


def killed_after(seconds, function, *arguments):
    """Calls the function in another process, which is killed after so many seconds; False if it was done before."""
    with forked(_until, 0, function, arguments) as processes:
        time.sleep(seconds)
        processes[0].kill()
        (code,) = ended(processes)
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    return code != 0


def every_kill(function, arguments, prepare, check, rounds=0, seed=0, longest=1.0):
    """Kills before every change, and ``rounds`` times at any time; ``prepare`` and ``check`` come before and after.

    Returns the number of kills.
    """
    draw, kills = random.Random(seed), 0
    for at in itertools.count(1):
        prepare()
        if not killed_before(at, function, *arguments):
            break
        check()
        kills += 1
    for _ in range(rounds):
        prepare()
        kills += killed_after(draw.uniform(0, longest), function, *arguments)
        check()
    return kills


def _until(at, function, arguments):
    number = itertools.count(1)

    def before(event, given):
        if event in CHANGES and next(number) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(before)
    function(*arguments)
