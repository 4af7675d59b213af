import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forked import ended, forked, wait_for

from famf_book import cli
from famf_lib.data import imported
from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import split
from famf_lib.experiments import run_store
from famf_lib.experiments.run_store import RunSpec
from famf_lib.models.config import ModelConfig
from famf_lib.support.files import ROOT
from famf_lib.training import distributed, train
from famf_lib.training.train import TrainingConfig

CPU = torch.device("cpu")
MODEL = ModelConfig(aggregation_options={"clusters": 3}, fusion="mma", fusion_options={"hidden": 7}, hidden=29)
# 30 training clips in steps of 8, 8, 7 and 7: two processes cannot share all of them equally.
SETTINGS = TrainingConfig(epochs=3, decay_after=2, batch_size=9, faces=5, precision="float32", lr=1e-3)
ROUNDING = ("classifier.0.bias", "classifier.3.bias")  # with batch normalisation their gradient is rounding error


@pytest.fixture
def kept(made_up):
    return ClipSet.open(made_up().save(imported.place("mine")))


@contextmanager
def together(folder, command, *arguments, other=None):
    """Runs the command in two processes as torchrun starts them; ``other`` is called in the second before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [address | {"RANK": r, "LOCAL_RANK": r, "LOCAL_WORLD_SIZE": "2"} for r in "01"]
    with forked(_process, folder, command, arguments, other, environments=ranks) as started:
        yield started


def _process(folder, command, arguments, other):
    rank = os.environ["RANK"]
    for name, stream in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{name} {rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), stream)
    sys.argv = ["famf", *arguments]
    if other is not None and rank != "0":
        other()
    cli.app = command
    cli.main()


def output(folder, stream):
    return "".join(path.read_text() for path in sorted(folder.glob(f"{stream} *")))


def train_twice():
    folder, out = map(Path, sys.argv[1:])
    clips = ClipSet.open(folder)
    for _ in range(2):
        trained = distributed.train(MODEL, SETTINGS, clips, split(clips, "given"), 1)
    torch.save({"losses": trained.losses, "model": trained.model.state_dict()}, out)


def test_two_processes_train_the_model_of_one(kept, tmp_path):
    with together(tmp_path, train_twice, str(kept.folder), str(tmp_path / "out.pt")) as processes:
        assert ended(processes) == [0, 0], output(tmp_path, "err")
    found = torch.load(tmp_path / "out.pt")
    alone = train.train(MODEL, SETTINGS, kept, split(kept, "given"), 1)
    assert found["losses"] == pytest.approx(alone.losses, rel=1e-4)
    weights = alone.model.state_dict()
    assert found["model"].keys() == weights.keys()
    for name in weights.keys() - set(ROUNDING):
        atol = 0.02 if name.endswith("running_mean") else 2e-4  # it contains the bias
        torch.testing.assert_close(found["model"][name], weights[name], rtol=0.02, atol=atol, msg=name)


def test_a_step_of_fewer_clips_than_processes_is_refused(kept, monkeypatch):
    processes = train.SingleProcess()
    processes.size = 8
    with pytest.raises(ValueError, match=r"^processes: 8 for a step of 7 clips, expected at least a clip for each$"):
        train.train(MODEL, SETTINGS, kept, split(kept, "given"), 1, processes=processes)


def test_torchrun_makes_the_runs_of_an_experiment(kept, tmp_path, monkeypatch, store):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    famf = ["-m", "famf_book.cli", "run", "attention", "-d", "mine", "--profile", "quick", "--seeds", "1"]
    done = subprocess.run(command + famf, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AttentionVLAD + MLMA") == 3, "not printed once under each setting, by one process"
    found = [run_store.open_run(path.name) for path in store.glob("runs/*")]
    assert len(found) == 3 and all(run.origin["processes"] == 2 for run in found)
    rows = [run for run in found if run.spec.model.aggregation != "mean"]  # which only says how easy the data are
    assert len(rows) == 2 and all(list(run.folder.glob("attention-*.parquet")) for run in rows)
    for run in found:
        assert run_store.find(run.spec, kept, CPU) is None, "taken for a run of one process"
        alone = run_store.get_or_train(run.spec, kept, CPU)
        assert run.losses == pytest.approx(alone.losses, rel=0.05)
        assert run.mean_ap == pytest.approx(alone.mean_ap, abs=0.1)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as in a child process under torchrun
    assert all(run_store.get_or_train(run.spec, kept, CPU).key == run.key for run in found)
    with pytest.raises(ValueError, match="^WORLD_SIZE: 2 found for a new run, expected torchrun"):
        run_store.get_or_train(RunSpec(seed=7), kept, CPU)


def train_slowly():
    """Trains with a checkpoint every epoch, and waits after the second one until the file ``go`` exists."""
    folder, place = map(Path, sys.argv[1:])

    def report(epoch, loss):
        with (place / "epochs").open("a") as file:
            file.write(f"{epoch} {loss}\n")
        while epoch == 2 and not (place / "go").exists():
            (place / "waits").touch()
            time.sleep(0.02)

    clips = ClipSet.open(folder)
    kept = {"checkpoint": place / "checkpoint.pt", "checkpoint_seconds": 0.0, "report": report}
    distributed.train(MODEL, SETTINGS, clips, split(clips, "given"), 1, **kept)


def test_a_lost_process_ends_all_with_a_sentence_and_the_training_goes_on_later(kept, tmp_path):
    arguments = train_slowly, str(kept.folder), str(tmp_path)
    with together(tmp_path, *arguments) as processes:
        wait_for(tmp_path / "waits", processes)
        os.kill(processes[1].pid, signal.SIGKILL)
        processes[1].join()  # it could still answer the next message, and gloo would wait for the rest of its answer
        (tmp_path / "go").touch()
        assert ended(processes) == [1, -signal.SIGKILL]
    (sentence,) = [line for line in output(tmp_path, "err").splitlines() if line.startswith("famf: ")]
    assert sentence.startswith("famf: a process was lost (") and "Traceback" not in output(tmp_path, "err")
    assert (tmp_path / "checkpoint.pt").exists()
    with together(tmp_path, *arguments) as processes:
        assert ended(processes) == [0, 0], output(tmp_path, "err")
    epochs = [tuple(map(float, line.split())) for line in (tmp_path / "epochs").read_text().splitlines()]
    assert [epoch for epoch, _ in epochs] in ([1, 2, 2, 3], [1, 2, 3])  # not from the start; saved before it or after
    alone = train.train(MODEL, SETTINGS, kept, split(kept, "given"), 1)
    assert list(dict(epochs).values()) == pytest.approx(alone.losses, rel=1e-4)


def lose_the_clips():
    distributed._open = lambda *_: ClipSet.open("/folder")


def test_a_process_without_the_clips_ends_all_with_a_sentence(kept, tmp_path):
    arguments = train_twice, str(kept.folder), str(tmp_path / "out.pt")
    with together(tmp_path, *arguments, other=lose_the_clips) as processes:
        assert ended(processes) == [1, 1]
    assert output(tmp_path, "err").startswith("famf: process 1: /folder: ") and output(tmp_path, "err").count("\n") == 1


def join_late():
    barrier = distributed.dist.barrier

    def late(*args, **kwargs):
        time.sleep(1)
        Path(sys.argv[1]).touch()
        barrier(*args, **kwargs)

    distributed.dist.barrier = late


def end_at_once():
    if not Path(sys.argv[1]).exists():
        raise LookupError("the other process has not joined")


def test_a_command_that_ends_at_once_waits_for_the_others_to_join(tmp_path):
    """The first process holds the addresses by which they join; without it they would fail with a traceback."""
    with together(tmp_path, end_at_once, str(tmp_path / "joined"), other=join_late) as processes:
        assert ended(processes) == [0, 0], output(tmp_path, "err")


def test_a_single_process_of_torchrun_needs_no_group_and_the_number_must_be_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    called = []
    distributed.run(lambda: called.append(distributed.dist.is_initialized()))
    assert called == [False]
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ValueError, match="^WORLD_SIZE: 'many' found, expected the number of processes"):
        train.world_size()
