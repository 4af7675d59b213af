"""Sweeps: the grid is done once, with the numbers of a run alone, whoever is killed meanwhile."""

import gc
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pandas as pd
import psutil
import pytest
import torch
from famf_command import famf

from famf_book import notebooks, sweep
from famf_lib.data import imported
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments import run_store
from famf_lib.experiments.catalogue import EXPERIMENTS, SIMPLE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_client_of_an_earlier_test():
    """Dask's clients close when they are collected, and wait for ever if that is while another one starts."""
    gc.collect()


@pytest.fixture
def kept(made_up):
    return ClipSet.open(made_up().save(imported.place("mine")))


def kill_in_the_middle(pids, store, killed):
    """Kills one of the processes while it trains: it is stopped first, so that it cannot have come to the end since."""
    while not killed:
        for process in map(psutil.Process, pids):
            process.suspend()
            held = [file.path for file in process.open_files() if file.path.endswith(".lock")]
            if any(os.path.isdir(path.replace(".lock", ".partial")) for path in held):
                process.kill()
                killed.append(process.pid)
                return
            process.resume()
            time.sleep(0.01)


def test_a_worker_killed_in_the_middle_costs_nothing_but_time(kept, store, tmp_path, monkeypatch):
    tasks = sweep.grid(["attention", "confidence"], ["mine"], "quick", [3])
    killed = []
    with sweep.cluster(workers=2, device="cpu") as (client, kind):
        pids = list(client.run(os.getpid).values())
        assert kind == "cpu" and len(set(pids)) == 2
        killer = threading.Thread(target=kill_in_the_middle, args=(pids, store, killed), daemon=True)
        killer.start()
        made = sweep.sweep(tasks, client, kind)
        killer.join(timeout=10)
    assert killed, "nobody was killed"
    assert len(tasks) == 4 and len(made) == 6, "FAMF stands in both experiments, and mean pooling beside each"
    assert {path.name for path in (store / "runs").iterdir()} == set(made["key"]), "something is missing or left behind"
    swept = {key: run_store.open_run(key) for key in made["key"]}
    for task in tasks:
        asked = [EXPERIMENTS[name] for name, label in task.rows if label != SIMPLE.label]
        probes = {probe for experiment in asked for probe in experiment.probes}
        run = run_store.find(task.spec, kept, CPU)
        assert {path.name.split("-")[0] for path in run.folder.glob("*-*.parquet")} == probes
    monkeypatch.setenv("FAMF_STORE", str(tmp_path / "another"))
    for task in tasks:
        alone = run_store.get_or_train(task.spec, kept, CPU)
        pd.testing.assert_series_equal(alone.ap, swept[alone.key].ap, check_exact=True)
        assert alone.losses == swept[alone.key].losses
        lines = made[made["key"] == alone.key]
        assert set(zip(lines["experiment"], lines["label"], strict=True)) == set(task.rows)
        assert set(lines["mean_ap"]) == {alone.mean_ap} and set(lines["seed"]) == {task.spec.seed}


def test_rows_that_experiments_share_are_one_task(kept):
    tasks = sweep.grid(["attention", "confidence"], ["mine"], "quick", [3, 5])
    assert len({task.spec.model_dump_json() for task in tasks}) == len(tasks) == 8
    shared = [task for task in tasks if len(task.rows) == 2 and task.rows[0][1] != SIMPLE.label]
    assert [task.spec.seed for task in shared] == [3, 5]
    assert all(task.probes == {"attention", "answers"} for task in shared)
    assert all(task.clipset.fingerprint == kept.fingerprint for task in tasks)
    tasks = sweep.grid(["attention"], ["mine"], "quick")  # by default the experiment's seeds
    assert {task.spec.seed for task in tasks} == set(EXPERIMENTS["attention"].seeds)


def test_an_experiment_with_nothing_to_see_is_left_out(made_up):
    clips = made_up()
    faces = ClipSet.build(clips.faces, clips.counts.numpy(), clips.clips, face_table=clips.face_columns())
    faces.save(imported.place("faces"))
    assert {e for task in sweep.grid(["table-2", "clusters"], ["faces"], "quick", [1]) for e, _ in task.rows} == {
        "clusters"
    }
    with pytest.raises(ValueError, match="^table-2: nothing to see on faces, expected other modalities$"):
        sweep.grid(["table-2"], ["faces"], "quick", [1])


@pytest.fixture
def client(request):
    """One worker in this process, with as many threads as asked for."""
    from distributed import Client

    threads = getattr(request, "param", 1)
    with Client(
        n_workers=1, threads_per_worker=threads, processes=False, dashboard_address=None, silence_logs=50
    ) as client:
        yield client


def test_a_task_that_fails_stops_no_other(kept, tiny, client, store, monkeypatch):
    *others, last = EXPERIMENTS["weights"].variants
    broken = replace(last, aggregation_options={"groups": 7})  # which do not divide faces of 11 numbers
    monkeypatch.setitem(EXPERIMENTS, "weights", replace(EXPERIMENTS["weights"], variants=(*others, broken)))
    tasks = sweep.grid(["weights"], ["mine"], "quick", [1])
    with pytest.raises(ValueError, match=r"^1 of 5 tasks failed, the others are done; the first: groups: 7 do not div"):
        sweep.sweep(tasks, client, "cpu")
    assert len(list(store.glob("runs/*/run.json"))) == 4


def test_pages_are_executed_after_their_runs(kept, tiny, client, store, tmp_path, monkeypatch):
    seen = []

    def execute(notebook, out, given, watched):
        seen.append((out, notebooks.check(notebook, given), len(list(store.glob("runs/*/run.json")))))

    monkeypatch.setattr(notebooks, "execute", execute)
    tasks = sweep.grid(["attention"], ["mine"], "quick", [5, 3])
    sweep.sweep(tasks, client, "cpu", sweep.pages(tasks, tmp_path), "quick")
    given = {"dataset": "mine", "profile": "quick", "seeds": [5, 3], "device": "cpu"}
    assert seen == [(tmp_path / "attention-mine.ipynb", given, 6)]


def test_a_task_that_kills_its_workers_fails():
    """As one that needs more memory than there is."""
    import dask
    import distributed  # noqa: F401 - its settings come first

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with sweep.cluster(workers=1, device="cpu") as (client, _):
            with pytest.raises(ValueError, match=r"^1 of 1 tasks failed, the others are done; the first: .*died"):
                sweep._finish([client.submit(os._exit, 9)], client, None, print)


@pytest.mark.parametrize("client", [2], indirect=True)
def test_workers_of_several_threads_are_refused(kept, client):
    with pytest.raises(ValueError, match=r"the first: worker \S+: 2 threads found, expected --nthreads 1$"):
        sweep.sweep(sweep.grid(["attention"], ["mine"], "quick", [1]), client, "cpu")


def test_a_worker_with_another_store_is_refused(kept, client, monkeypatch, tmp_path):
    tasks = sweep.grid(["attention"], ["mine"], "quick", [1])

    def store():
        return tmp_path / ("here" if threading.current_thread() is threading.main_thread() else "there")

    monkeypatch.setattr(sweep, "store", store)
    with pytest.raises(ValueError, match=r"its store is .*/there, expected FAMF_STORE to be .*/here$"):
        sweep.sweep(tasks, client, "cpu")


def test_a_scheduler_that_does_not_answer_gives_its_sentence(monkeypatch):
    monkeypatch.setattr(sweep, "TIMEOUT", "0.2s")
    with pytest.raises(ValueError, match="^--scheduler: 'tcp://127.0.0.1:1' does not answer, expected tcp://host:8786"):
        with sweep.cluster("tcp://127.0.0.1:1"):
            pass


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [("", "nothing found, expected an address or a file"), ("no.json", "there is no file no.json")],
)
def test_a_scheduler_that_is_not_there_is_not_replaced_by_this_machine(scheduler, sentence, kept):
    done = famf("sweep", "attention", "-d", "mine", "--profile", "quick", "--scheduler", scheduler)
    assert done.exit_code and str(done.exception).startswith(f"--scheduler: {sentence}")


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler without workers, in a process of its own; its file."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", file], stderr=subprocess.DEVNULL)
    while not file.is_file() or not file.stat().st_size:
        assert process.poll() is None
        time.sleep(0.05)
    yield file
    process.terminate()
    process.wait()


def test_without_workers_it_says_what_it_waits_for_and_ends_when_asked(kept, scheduler, monkeypatch):
    monkeypatch.setattr(sweep, "EVERY", 0.2)
    command = ["sweep", "attention", "-d", "mine", "--profile", "quick", "--scheduler", scheduler]
    done = famf(*command, "--wait", "0.02")
    assert done.exit_code == 1 and re.match(
        r"--wait: no worker at tcp://127\.0\.0\.1:\d+ for 0\.02 minutes, expected", str(done.exception)
    )
    assert done.stderr.count("famf: no worker at tcp://127.0.0.1") > 1


def test_a_worker_elsewhere_gets_the_plug_ins_and_once_it_died_the_sweep_ends_when_asked(
    kept, scheduler, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweep, "EVERY", 0.2)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", scheduler, "--no-nanny"]
    tasks = sweep.grid(["attention"], ["mine"], "quick", [1])
    worker = subprocess.Popen([*command, "--nthreads", "1", "--no-dashboard"], stderr=subprocess.DEVNULL, cwd=tmp_path)
    said = []
    try:
        with sweep.cluster(str(scheduler), device="cpu") as (client, kind):
            monkeypatch.setenv("FAMF_PLUGINS", "famf_today.plugin")  # the worker is older
            sweep.sweep(tasks[:1], client, kind)
            there = client.run(lambda: (os.environ["FAMF_PLUGINS"], "famf_today.plugin" in sys.modules))
            assert list(there.values()) == [("famf_today.plugin", True)]
            worker.kill()
            worker.wait()
            with pytest.raises(ValueError, match="^--wait: no worker at tcp://"):
                sweep.sweep(tasks[1:], client, kind, wait=0.01, say=said.append)
    finally:
        worker.kill()
    assert said


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"address": 5}', '{"address": "nonsense"}', "\0\x80"])
def test_a_file_that_no_scheduler_wrote_gives_its_sentence(tmp_path, monkeypatch, content):
    monkeypatch.setattr(sweep, "TIMEOUT", "0.2s")
    file = tmp_path / "scheduler.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="^--scheduler: .*, expected .*file"):
        with sweep.cluster(str(file)):
            pass


def test_a_gpu_that_no_worker_offers_gives_its_sentence(client):
    with pytest.raises(ValueError, match="^--scheduler: none of 1 worker offers a GPU, expected --resources GPU=1$"):
        with sweep.cluster(client.scheduler.address, device="cuda"):
            pass
    with sweep.cluster(client.scheduler.address) as (_, kind):
        assert kind == "cpu"


def test_without_dask_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^distributed: not installed, expected it for a sweep: pip install distribut"):
        with sweep.cluster():
            pass
