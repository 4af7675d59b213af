"""Processes forked from one that has imported PyTorch and the command, so that each of them starts at once."""

import multiprocessing
import os
import time
from contextlib import contextmanager


@contextmanager
def forked(function, *arguments, environments=({},)):
    """Calls the function in one process per environment, with the store of the test, and ends them afterwards."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["famf_book.cli", "famf_lib.experiments.results"])
    own = {"FAMF_STORE": os.environ["FAMF_STORE"]}
    processes = [context.Process(target=_call, args=(own | each, function, arguments)) for each in environments]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def _call(environment, function, arguments):
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)


def ended(processes):
    """Their exit codes, once they have ended."""
    for process in processes:
        process.join(timeout=120)
    return [process.exitcode for process in processes]


def wait_for(path, processes):
    """Until the file exists; the processes must run until then."""
    while not path.exists():
        assert all(process.is_alive() for process in processes), f"ended before there was {path.name}"
        time.sleep(0.02)
