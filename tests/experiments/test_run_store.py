"""The run store: a run is trained once, even if two processes ask for it or it is interrupted."""

import functools
import json
import os
import shutil
import threading
import time
from operator import truediv

import grimp
import numpy as np
import pandas as pd
import pytest
import torch
from famf_command import famf
from forked import ended, forked, wait_for
from joblib import delayed

from famf_lib.data import imported
from famf_lib.data.clipset import ClipSet
from famf_lib.experiments import results, run_store
from famf_lib.experiments.catalogue import FAMF
from famf_lib.experiments.run_store import RunSpec, find, get_or_train, get_or_train_all, run_key
from famf_lib.experiments.run_table import chosen, find_run, run_table
from famf_lib.training import checkpoint, evaluation, train

CPU = torch.device("cpu")
SMALL = {"aggregation_options": {"clusters": 3}, "fusion_options": {"hidden": [7, 5]}, "hidden": 13}
SPEC = RunSpec(
    model=SMALL | {"modalities": ["audio"]},
    training={"epochs": 5, "decay_after": 2, "batch_size": 16, "faces": 5},
    evaluation={"faces": 5},
)


def changed(**values):
    return RunSpec(**(SPEC.model_dump() | values))


def within(part, **values):
    return changed(**{part: SPEC.model_dump()[part] | values})


@pytest.fixture(scope="module")
def clips(made_up):
    return made_up()


@pytest.fixture
def kept(clips, tmp_path):
    """The same clips, saved to disk."""
    return ClipSet.open(clips.save(tmp_path / "clips"))


@pytest.fixture
def trainings(monkeypatch):
    """A list of the seeds that this process has trained."""
    seen, real = [], train.train
    monkeypatch.setattr(train, "train", lambda *args, **kwargs: seen.append(args[4]) or real(*args, **kwargs))
    return seen


def same(a, b):
    pd.testing.assert_series_equal(a.ap, b.ap, check_exact=True)
    assert (a.losses, a.rank_1, a.key, a.spec) == (b.losses, b.rank_1, b.key, b.spec)
    return True


def test_a_run_is_trained_once_and_then_hashed_and_read_once(clips, trainings, store, monkeypatch):
    assert find(SPEC, clips, CPU) is None
    first = get_or_train(SPEC, clips, CPU)
    calls = []
    for name in ("run_key", "_read"):
        real = getattr(run_store, name)
        monkeypatch.setattr(run_store, name, lambda *given, name=name, real=real: calls.append(name) or real(*given))
    again = get_or_train(RunSpec(**json.loads(SPEC.model_dump_json())), clips, CPU)
    (one,) = get_or_train_all([SPEC], clips, CPU)
    assert trainings == [1] and calls == ["run_key", "_read"] * 2
    assert same(first, again) and same(first, one) and same(first, find(SPEC, clips, CPU))
    assert [p.name for p in (store / "runs").iterdir()] == [first.key], "something was left behind"


def test_a_run_holds_what_its_training_gave(clips, store):
    run = get_or_train(SPEC, clips, CPU)
    parts = run.split(clips)
    threads = torch.get_num_threads()
    trained = train.train(SPEC.model, SPEC.training, clips, parts, 1)
    scores = evaluation.evaluate(trained.model, SPEC.evaluation, clips, parts, 1)
    assert torch.get_num_threads() == threads
    assert run.losses == trained.losses and run.rank_1 == scores.rank_1
    np.testing.assert_array_equal(run.ap, scores.ap)
    assert run.ap.index.tolist() == parts.persons and run.mean_ap == pytest.approx(scores.mean_ap)
    for key, value in run.model(clips).state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[key])
    assert not run.model(clips).training
    assert run.folder == store / "runs" / run.key
    record = json.loads((run.folder / "run.json").read_text())
    assert RunSpec(**record["spec"]) == SPEC and record["data"] == clips.fingerprint
    assert record["mean_ap"] == run.mean_ap and {"when", "commit", "versions", "hardware"} <= record["origin"].keys()


def test_the_saved_model_knows_the_run_that_it_is_of(clips):
    run = get_or_train(SPEC, clips, CPU)
    card = checkpoint.open(run.file).card
    assert (card.run, card.data, card.seed) == (run.key, clips.fingerprint, SPEC.seed)
    assert (card.config, card.evaluation) == (SPEC.model, SPEC.evaluation)
    assert list(card.persons) == run.split(clips).persons == run.ap.index.tolist()
    assert (card.dim, card.modality_dims) == (11, {"audio": 7})


@pytest.fixture
def three(clips, store):
    """Three runs with keys that we choose, and the checkpoint of a fourth."""
    folder = get_or_train(SPEC, clips, CPU).folder
    for key in ("ab12", "abcd", "cafe"):
        shutil.copytree(folder, store / "runs" / key)
        record = json.loads((folder / "run.json").read_text()) | {"key": key}
        (store / "runs" / key / "run.json").write_text(json.dumps(record))
    shutil.rmtree(folder)
    (store / "runs" / "abcd.partial").mkdir()
    return store / "runs"


def test_a_run_is_known_by_its_key_its_beginning_or_its_folder(three, clips, tmp_path):
    for name in ("abcd", "abc", three / "abcd"):
        run = run_store.open_run(name)
        assert (run.key, run.spec, run.folder) == ("abcd", SPEC, three / "abcd")
        assert run.ap.index.tolist() == run.split(clips).persons
    shutil.copytree(three / "ab12", three / "ab1")
    assert run_store.open_run("ab1").folder == three / "ab1", "a whole key wins over the beginning of another"
    elsewhere = three.rename(tmp_path / "elsewhere")
    assert run_store.open_run(str(elsewhere / "abcd")).file == elsewhere / "abcd" / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ab", "run: 2 begin with 'ab', expected more digits of one of ab12, abcd"),
        ("ff", "run: 'ff' is not known, expected one of the 3 in {three}: ab12, abcd, cafe"),
        ("abcd.partial", "run: 'abcd.partial' is not known, expected one of the 3 in {three}: ab12, abcd, cafe"),
        ("", "run: 3 begin with '', expected more digits of one of ab12, abcd, cafe"),
    ],
)
def test_a_run_that_is_not_known_gives_a_sentence_with_those_that_are(three, name, sentence):
    with pytest.raises(ValueError) as refusal:
        run_store.open_run(name)
    assert str(refusal.value) == sentence.format(three=three)


def test_many_runs_are_not_all_listed(store):
    for number in range(30):
        (store / "runs" / f"{number:04d}").mkdir(parents=True)
        (store / "runs" / f"{number:04d}" / "run.json").touch()
    with pytest.raises(ValueError, match=r"one of the 30 in .*: 0000, 0001, .*, 0009, …$"):
        run_store.open_run("x")


@pytest.mark.parametrize("content", ["", "[]", '{"spec": {"seeds": 1}}'])
def test_a_damaged_run_is_one_sentence(three, content):
    (three / "abcd" / "run.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"/abcd: a damaged run found \(.*\), expected .*; remove the folder to train it again$"
    ):
        run_store.open_run("abcd")


DECIDES = {
    "the seed": changed(seed=2),
    "the part": changed(part="tune"),
    "the protocol": changed(protocol="random"),
    "an aggregation": within("model", aggregation="netvlad", aggregation_options={"clusters": 3}),
    "an option": within("model", fusion_options={"hidden": [7, 6]}),
    "the modalities": within("model", modalities=["audio", "body"]),
    "the order of modalities": within("model", modalities=["body", "audio"]),
    "the training": within("training", lr_aggregation=0.05),
    "the evaluation": within("evaluation", rank_by="logit"),
}


def test_whatever_decides_a_run_changes_its_key(monkeypatch):
    keys = {what: run_key(spec, "data", CPU) for what, spec in DECIDES.items()}
    keys["none of these"] = run_key(SPEC, "data", CPU)
    keys["the data"] = run_key(SPEC, "other data", CPU)
    keys["the kind of device"] = run_key(SPEC, "data", torch.device("meta"))
    other = "bfloat16" if train.precision_of(SPEC.training, CPU) == torch.float32 else "float32"
    keys["the precision"] = run_key(within("training", precision=other), "data", CPU)
    for what, module, name, other in (
        ("what auto means on this machine", train, "precision_of", lambda config, device: torch.float64),
        ("PyTorch", torch, "__version__", "2.0.0"),
        ("the format of the saved model", checkpoint, "FORMAT", "famf-model-0"),
        ("the code", run_store, "_code", lambda: "other code"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, other)
            keys[what] = run_key(SPEC, "data", CPU)
    assert len(set(keys.values())) == len(keys), keys


def test_what_does_not_decide_a_run_leaves_its_key(made_up, trainings):
    first = get_or_train(SPEC, made_up(info={"made": "today"}), CPU)
    again = get_or_train(SPEC, made_up(info={"made": "tomorrow"}), CPU)
    assert same(first, again) and trainings == [1]
    spelt = within("model", aggregation_options={"clusters": 3.0}, modalities=("audio",))
    assert run_key(spelt, "data", torch.device("cpu:0")) == run_key(SPEC, "data", CPU)


def test_the_code_that_decides_is_all_that_training_stands_on():
    """The key covers all library code that training imports, except support code, which changes no number."""
    graph, decide = grimp.build_graph("famf_lib"), ("famf_lib.training.train", "famf_lib.training.evaluation")
    found = set(decide).union(*map(graph.find_upstream_modules, decide))
    deciding = {name for name in found if not name.startswith("famf_lib.support")}
    packages = {"famf_lib.data", "famf_lib.training"}  # docstrings alone
    assert deciding - packages == {name for name in deciding if name.startswith(run_store.DECIDING_MODULES)} and all(
        any(name.startswith(one) for name in deciding) for one in run_store.DECIDING_MODULES
    )


def train_until(folder, stop):
    """Trains with a checkpoint per epoch, and waits after ``stop`` epochs until there is a file ``go``."""

    def report(epoch, loss):
        (folder / f"epoch {epoch}").touch()
        while epoch == stop and not (folder / "go").exists():
            time.sleep(0.02)

    train.train = functools.partial(train.train, checkpoint_seconds=0.0)
    get_or_train(SPEC, ClipSet.open(folder), CPU, report)


def test_two_processes_that_ask_at_once_train_once(kept, trainings):
    found = []
    with forked(train_until, kept.folder, 1) as processes:
        wait_for(kept.folder / "epoch 1", processes)
        asking = threading.Thread(target=lambda: found.append(get_or_train(SPEC, kept, CPU)))
        asking.start()
        time.sleep(0.5)  # it asks while the other one trains
        assert not found
        (kept.folder / "go").touch()
        assert ended(processes) == [0]
        asking.join(timeout=120)
    assert trainings == [] and same(found[0], find(SPEC, kept, CPU))


def test_a_failed_run_leaves_nothing_that_looks_finished(clips, monkeypatch, store):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(checkpoint, "save", lambda *_: 1 / 0)
        get_or_train(SPEC, clips, CPU)
    assert find(SPEC, clips, CPU) is None
    assert get_or_train(SPEC, clips, CPU).mean_ap > 0


def test_a_run_with_a_module_that_is_not_known_is_refused_with_the_start_of_its_name(clips):
    file = get_or_train(SPEC, clips, CPU).folder / "run.json"
    record = json.loads(file.read_text())
    record["spec"]["model"]["fusion"] = "x" * 30_000
    file.write_text(json.dumps(record))
    with pytest.raises(
        run_store.AddedElsewhere, match="attentionvlad and x.* … x+ found, expected modules in"
    ) as caught:
        run_store.open_run(file.parent)
    assert len(str(caught.value)) < 600 and str(file.parent) in str(caught.value)


MANY = [changed(seed=seed) for seed in (3, 1, 2)]


def test_runs_come_in_the_order_asked_for_and_only_what_is_missing_is_trained(clips, trainings):
    get_or_train(MANY[1], clips, CPU)
    found = get_or_train_all([*MANY, MANY[0]], clips, CPU)
    assert [run.spec.seed for run in found] == [3, 1, 2, 3] and trainings == [1, 3, 2]


def test_interrupted_what_is_done_stays_done(clips, trainings, monkeypatch):
    real = evaluation.evaluate
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(evaluation, "evaluate", lambda *given: real(*given) if trainings != [3, 1] else 1 / 0)
        get_or_train_all(MANY, clips, CPU)
    assert [find(spec, clips, CPU) is not None for spec in MANY] == [True, False, False]
    get_or_train_all(MANY, clips, CPU)
    assert trainings == [3, 1, 1, 2]


def test_runs_on_several_clipsets_are_trained_in_one_go(clips, made_up, trainings, monkeypatch):
    bars, real = [], run_store.progress
    monkeypatch.setattr(
        run_store, "progress", lambda label, total, *more: bars.append(total) or real(label, total, *more)
    )
    other = made_up(seed=7)
    asked = [(clips, MANY[:2]), (other, MANY[1:]), (clips, MANY[:1])]  # one is asked for twice
    run_store.train_missing(asked, CPU)
    assert bars == [4] and trainings == [3, 1, 1, 2]
    assert all(find(spec, clipset, CPU) for clipset, specs in asked for spec in specs)
    run_store.train_missing(asked, CPU)
    assert bars == [4]


def test_side_by_side_they_are_what_they_are_one_after_another(kept, clips, trainings, monkeypatch, tmp_path):
    from joblib.externals.loky import get_reusable_executor

    monkeypatch.setattr(run_store, "cores", lambda: 2)
    get_reusable_executor().shutdown(wait=True)  # workers keep the environment they were started with
    try:
        together = get_or_train_all(MANY[:2], kept, CPU)
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert trainings == [], "trained here and not in the workers"
    monkeypatch.setenv("FAMF_STORE", str(tmp_path / "another"))
    apart = get_or_train_all(MANY[:2], clips, CPU)
    assert trainings == [3, 1] and all(same(a, b) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (delayed(truediv)(1, 0), "a worker process failed with ZeroDivisionError: division by zero"),
        (delayed(os._exit)(1), "a worker process was killed, perhaps for lack of memory"),
    ],
)
def test_what_happens_in_a_worker_is_one_sentence(task, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        list(run_store.in_parallel([task], 2))


def test_an_unknown_key_gives_a_sentence():
    with pytest.raises(ValueError, match="^seeds: no such key, expected one of model, training, evaluation, protocol"):
        RunSpec(seeds=3)


@pytest.fixture
def mine(made_up, tiny, results_folder):
    """The runs of Table 1 by row and seed, on an import called mine."""
    made_up().save(imported.place("mine"))
    return results.run_experiment("table-1", "mine", "quick", [1, 2]).runs


def test_runs_are_listed_and_found_by_their_words(mine, made_up, store):
    other = get_or_train(SPEC, made_up(seed=9), CPU)  # of no experiment, and on clips in memory
    table = run_table()
    assert set(table["key"]) == {run.key for run in (*mine.values(), other)}
    (line,) = table[table["key"] == other.key].to_dict("records")
    assert line["dataset"] == line["profile"] == line["experiment"] == "—" and line["mAP"] == other.mean_ap
    assert line["row"] == "attentionvlad + mlma (face, audio)"
    of_table = table[table["experiment"] == "table-1"]
    assert {(line.row, line.seed): line.key for line in of_table.itertuples()} == {k: r.key for k, r in mine.items()}
    assert set(of_table["dataset"]) == {"mine"} and set(of_table["profile"]) == {"quick"}
    assert set(of_table["setting"]) == {"as printed, own best, shared"}  # nothing was tuned, so they are one

    said = famf("runs", "--dataset", "mine", "--row", "famf").output
    assert [mine[FAMF.label, seed].key in said for seed in (1, 2)] == [True, True] and said.count(FAMF.label) == 2
    best = max(mine[FAMF.label, 1], mine[FAMF.label, 2], key=lambda run: run.mean_ap)
    assert best.key in famf("runs", "--experiment", "table-1", "--best").output
    assert find_run("best:mine/table-1/FAMF").key == find_run("best:own best/famf/QUICK").key == best.key
    assert find_run(best.key[:9]).key == best.key
    for key, when in zip([mine[FAMF.label, seed].key for seed in (2, 1)], ("2026-05-01", "2026-04-01"), strict=True):
        path = store / "runs" / key / "run.json"
        record = json.loads(path.read_text())
        record["origin"]["when"] = when
        path.write_text(json.dumps(record | {"dataset": None}))  # as an older version wrote it
    assert find_run("best:mine/FAMF").key == best.key
    assert list(chosen(run_table(), {"row": "FAMF", "experiment": "table-1"})["key"]) == [
        mine[FAMF.label, seed].key for seed in (1, 2)
    ]
    for sentence, call in (
        ("--row: 'FAM' found in no run, expected one of", lambda: chosen(table, {"row": "FAM"})),
        ("run: no run with 'theirs' found for 'latest:theirs/FAMF'", lambda: find_run("latest:theirs/FAMF")),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_a_damaged_run_does_not_hide_the_others(store, clips):
    whole, damaged = (get_or_train(changed(seed=seed), clips, CPU) for seed in (2, 1))
    (damaged.folder / "run.json").write_text("{")
    done = famf("runs", "--last", "1")
    assert whole.key in done.stdout and damaged.key not in done.stdout and "1 run in the store" in done.stdout
    assert f"{damaged.folder}: a damaged run" in done.stderr
