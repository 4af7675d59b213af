import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from famf_command import famf
from hypothesis import given
from hypothesis import strategies as st

from famf_lib.data import iqiyi_text
from famf_lib.data.clipset import ClipSet
from famf_lib.data.datasets import DatasetAbsent
from famf_lib.data.iqiyi_text import read_submission, read_val
from famf_lib.data.splits import split
from famf_lib.experiments import run_store, submission
from famf_lib.experiments.run_store import RunSpec
from famf_lib.training import checkpoint, evaluation
from famf_lib.training.evaluation import logits_of

CPU = torch.device("cpu")
SPEC = RunSpec(
    model={"aggregation_options": {"clusters": 3}, "modalities": ["audio"], "hidden": 13},
    training={"epochs": 2, "decay_after": 1, "batch_size": 64, "faces": 5},
    evaluation={"faces": 7},
    seed=3,
)


def official_map(submitted, truth):
    """The official evaluation from its description, with plain lists: the mAP of two text files."""
    answers = {line.split()[0]: line.split()[1:] for line in submitted.splitlines()}
    precisions = []
    for line in truth.splitlines():
        person, *positives = line.split()
        seen, total = [], 0.0
        for name in answers.get(person, []):
            if name in seen or len(seen) == 100:
                continue
            seen.append(name)
            if name in positives:
                total += sum(other in positives for other in seen) / len(seen)
        precisions.append(total / len(positives))
    return sum(precisions) / len(precisions)


def truth_file(path, truth):
    path.write_text("".join(f"{person} " + "".join(f"{n}.mp4 " for n in own) + "\n" for person, own in truth.items()))
    return path


def evaluate(*arguments):
    """The lines that the command prints; raises its error."""
    done = famf("evaluate", *arguments)
    if done.exception is not None:
        raise done.exception
    return done.output.splitlines()


def test_the_precision_at_each_hit_over_all_positives_and_all_ids_down_to_the_hundredth_clip():
    truth = {"1": ["a", "b", "c"], "2": ["d"], "3": ["e"], "4": ["f", "g"]}
    ranked = {"1": ["a", "noise", "a", "b"], "2": ["a", "e", "d"], "4": [], "5": ["a"]}
    found = submission.score(ranked, truth)
    expected = [(1 + 2 / 3) / 3, 1 / 3, 0, 0]
    assert found.persons["ap"].tolist() == pytest.approx(expected, rel=1e-12)
    assert found.mean_ap == pytest.approx(sum(expected) / 4, rel=1e-12)
    counts = found.persons[["person", "positives", "listed", "hits"]].values.tolist()
    assert counts == [["1", 3, 3, 2], ["2", 1, 3, 1], ["3", 1, 0, 0], ["4", 2, 0, 0]]
    assert (found.answered, found.strangers, found.clips, found.noise) == (2, 1, 5, 1)  # a b d e and noise
    assert (found.repeated, found.cut) == (1, 0)
    assert submission.score({"1": ["a"]}, {"1": ["a"], "2": ["d"]}).answered == 1
    noise = [f"n{n}" for n in range(99)]
    truth = {"1": ["x"], "2": ["y", "z"], "3": ["w"]}
    ranked = {"1": [*noise, *noise, "x"], "2": [*noise, "y", "z"], "3": [*noise, "more", "w"]}
    found = submission.score(ranked, truth)  # x and y are the 100th, z and w the 101st
    assert found.persons["ap"].tolist() == pytest.approx([1 / 100, 1 / 100 / 2, 0])
    assert found.persons["hits"].tolist() == [1, 1, 0] and found.persons["listed"].tolist() == [100] * 3
    assert (found.repeated, found.cut) == (1, 2)


CLIPS = [f"clip_{n}" for n in range(150)]


@st.composite
def files(draw):
    """A ground truth that leaves some clips out, and a submission with repetitions, strangers and long lists."""
    shuffled = draw(st.permutations(CLIPS))
    ids = draw(st.lists(st.integers(1, 10034).map(str), min_size=1, max_size=5, unique=True))
    cuts = sorted(draw(st.lists(st.integers(1, 140), min_size=len(ids), max_size=len(ids), unique=True)))
    truth = {p: shuffled[a:b] for p, a, b in zip(ids, [0, *cuts], cuts, strict=False)}
    asked = [p for p in [*ids, "10035", "ann"] if draw(st.booleans())] or ["1"]
    sizes = [draw(st.sampled_from([0, 1, 4, 7, 99, 100, 140, 149])) for _ in asked]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    ranked = {
        p: rng.choice(CLIPS, n, replace=bool(rng.random() < 0.5)).tolist() for p, n in zip(asked, sizes, strict=True)
    }
    return ranked, truth


@given(files())
def test_any_file_scores_as_the_plain_evaluation_says(tmp_path_factory, found):
    ranked, truth = found
    folder = tmp_path_factory.getbasetemp()
    submitted = iqiyi_text.write_submission(folder / "submission.txt", ranked)
    known = truth_file(folder / "val_gt.txt", truth)
    report = submission.score(read_submission(submitted), read_val(known))
    assert report.mean_ap == pytest.approx(official_map(submitted.read_text(), known.read_text()), rel=1e-12)
    assert report.persons["person"].tolist() == list(truth)
    named = {name for person in truth for name in ranked.get(person, [])}
    assert report.clips == len(named) and report.noise == len(named - {n for own in truth.values() for n in own})


@pytest.fixture(scope="module")
def clips(made_up):
    """Clips as the official ones are: persons are numbers, noise only in val, test clips without a person.

    Person 30 has no training clip, person 4 none in val; the gallery is of more than 100 clips.
    """
    base = made_up(persons=5, clips=44, noise=83)
    table = base.clips.assign(name=base.clips["name"].str.replace("clip ", "V_"))
    table["person"] = table["person"].map({f"person {n}": p for n, p in enumerate(["2", "17", "10034", "4", "30"])})
    table.loc[table["person"] == "4", "split"] = "train"
    unseen = (table["person"] == "30") & (table["split"] == "train")
    table.loc[unseen, ["split", "person"]] = ["test", None]
    given = {name: (m.vectors.numpy(), m.present.numpy()) for name, m in base.modalities.items()}
    return ClipSet.build(base.faces, base.counts.numpy(), table, face_table=base.face_columns(), modalities=given)


@pytest.fixture
def imported(clips, store):
    return ClipSet.open(clips.save(store / "imported" / "mine"))


@pytest.fixture
def run(imported):
    return run_store.get_or_train(SPEC, imported, CPU)


def test_official_clips_train_and_are_ranked_as_their_lists_say(clips):
    found, table = split(clips, "given"), clips.clips
    gallery = table.iloc[found.gallery.tolist()]
    assert found.persons == ["10034", "17", "2", "4"] and len(gallery) > 100
    assert gallery["person"].isna().sum() == 83 and (gallery["person"] == "30").sum() == 11
    for protocol in ("given", "groups", "random"):
        for part in ("report", "tune"):
            dealt = split(clips, protocol, 5, part)
            assert "test" not in set(table["split"].iloc[[*dealt.train.tolist(), *dealt.gallery.tolist()]])


def test_a_run_lists_its_best_clips_a_person(run, imported):
    found = submission.rank(checkpoint.open(run.file), imported, run.split(imported))
    parts = run.split(imported)
    with torch.inference_mode():
        logits = torch.cat([b for _, b in logits_of(run.model(imported), 7, imported, parts.gallery, 3)])
    scores = logits.log_softmax(dim=1).tolist()
    names = imported.clips["name"].iloc[parts.gallery.tolist()].tolist()
    for c, person in enumerate(parts.persons):
        order = sorted(range(len(names)), key=lambda v, c=c: (-scores[v][c], v))
        assert found.lists[person] == [names[v] for v in order[:100]]
    assert list(found.lists) == parts.persons == list(run.ap.index)
    np.testing.assert_array_equal(found.scores.ap, run.ap)
    assert found.scores.rank_1 == run.rank_1


def test_a_ranking_tells_how_far_it_is(run, imported, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 50)
    seen = []
    parts = run.split(imported)
    evaluation.rank(run.model(imported), run.spec.evaluation, imported, parts, run.spec.seed, seen.append)
    assert seen == [50, 100, 127]


def test_a_ranking_has_one_thread_whatever_the_caller_has(run, imported, monkeypatch):
    seen, rank, before = [], evaluation.rank, torch.get_num_threads()
    monkeypatch.setattr(evaluation, "rank", lambda *given: seen.append(torch.get_num_threads()) or rank(*given))
    torch.set_num_threads(2)
    try:
        submission.rank(checkpoint.open(run.file), imported, run.split(imported))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_file_of_a_run_scores_what_the_run_does(run, imported, tmp_path):
    parts = run.split(imported)
    found = submission.rank(checkpoint.open(run.file), imported, parts)
    submitted = iqiyi_text.write_submission(tmp_path / "submission.txt", found.lists)
    gallery = imported.clips[imported.clips["split"] == "val"].dropna(subset="person")
    truth = {p: gallery["name"][gallery["person"] == p].tolist() for p in ("2", "17", "30", "10034")}
    assert found.truth == truth
    # Over the ids that train and are in the ground truth the two are one; the official mean holds the others as 0.
    both = {p: own for p, own in truth.items() if p != "30"}
    scored = submission.score(read_submission(submitted), both)
    assert scored.mean_ap == pytest.approx(run.mean_ap, rel=1e-12) and 0 < run.mean_ap < 1
    assert scored.persons.set_index("person")["ap"].to_dict() == pytest.approx(run.ap.drop("4").to_dict(), rel=1e-12)
    assert math.isnan(run.ap["4"]) and scored.strangers == 1
    known = truth_file(tmp_path / "val_gt.txt", truth)
    everybody = submission.score(read_submission(submitted), read_val(known))
    assert everybody.mean_ap == pytest.approx(run.mean_ap * 3 / 4, rel=1e-12)
    assert everybody.mean_ap == pytest.approx(official_map(submitted.read_text(), known.read_text()), rel=1e-12)


def test_the_data_of_a_run_are_found_by_what_they_are(run, imported, clips, made_up, store, tmp_path):
    card = checkpoint.open(run.file).card
    others = made_up(seed=9)
    others.save(store / "imported" / "another")
    others.save(store / "clipsets" / "synthetic-0123")
    (store / "imported" / "broken").mkdir()
    (store / "imported" / "broken" / "arrays.safetensors").write_text("no")
    told = []
    submission.data_of(card, say=told.append)
    assert len(told) == 1 and "broken" in told[0] and "famf data verify" in told[0] and told[0].endswith("left out")
    for dataset in ("", "mine", str(clips.save(tmp_path / "elsewhere"))):
        assert submission.data_of(card, dataset).fingerprint == card.data == clips.fingerprint
    for dataset in ("another", "synthetic", str(others.save(tmp_path / "wrong"))):
        with pytest.raises(ValueError) as caught:
            submission.data_of(card, dataset)
        assert str(caught.value) == (
            f"{dataset}: the fingerprint {others.fingerprint} found, expected {card.data}, the data of run {run.key}"
        )
    with pytest.raises(ValueError, match="dataset: 'nobody' is not known, expected one of synthetic"):
        submission.data_of(card, "nobody")
    with pytest.raises(DatasetAbsent, match="iqiyi: not imported"):
        submission.data_of(card, "iqiyi")
    (store / "imported" / "mine").rename(store / "clipsets" / "mine-0123")
    assert submission.data_of(card).fingerprint == card.data
    for folder in ("clipsets", "imported"):
        shutil.rmtree(store / folder)
    with pytest.raises(ValueError, match=f"{store}: no data found, expected {card.data}, the data of run {run.key}"):
        submission.data_of(card)


def test_the_command_ranks_and_scores_its_own_file(run, imported, tmp_path):
    out, table = tmp_path / "submission.txt", tmp_path / "persons.csv"
    assert evaluate(run.folder, "--device", "cpu", "--dataset", "mine")[0].startswith("mAP ")
    said = evaluate(run.key[:6], "--out", out, "--device", "cpu")
    official_mean = run.mean_ap * 3 / 4
    assert said == [
        f"mAP {run.mean_ap:.4f}, rank-1 {run.rank_1:.4f}",
        "3 persons, 127 clips ranked, 83 of them noise",
        "1 person without a clip in the gallery, left out",
        "1 person in the gallery without a training clip, left out; with AP 0 for them:",
        f"mAP {official_mean:.4f}, as in the official evaluation",
        str(out),
    ]
    truth = submission.rank(checkpoint.open(run.file), imported, run.split(imported)).truth
    known = truth_file(tmp_path / "val_gt.txt", truth)
    said = evaluate(out, "--truth", known, "--per-person", table)
    assert said[:3] + said[4:] == [
        f"mAP {official_mean:.4f}",
        "4 ids of the ground truth: 3 answered, 1 not",
        f"44 clips of the ground truth: {pd.read_csv(table)['hits'].sum()} listed for their id",
        "1 id not in the ground truth, not scored",
        str(table),
    ]
    assert said[3].endswith(" clips listed, 83 of them not in the ground truth (noise)")
    of_run = evaluate("latest:mine", "--truth", known, "--device", "cpu")
    assert of_run[5:] == [f"against {known}:", *said[:-1]]
    written = pd.read_csv(table, dtype={"person": str})
    assert list(written) == ["person", "positives", "listed", "hits", "ap"] and len(written) == 4
    assert written["ap"].mean() == pytest.approx(official_mean, rel=1e-12)


def test_names_that_the_file_cannot_hold_stop_before_anything_is_ranked(made_up, store, tmp_path, monkeypatch):
    run = run_store.get_or_train(SPEC, ClipSet.open(made_up().save(store / "imported" / "spaced")), CPU)
    monkeypatch.setattr(submission, "rank", None)
    with pytest.raises(ValueError, match="the name 'person 0' cannot be written, expected printable characters and no"):
        evaluate(run.key, "--out", tmp_path / "out.txt", "--device", "cpu")
    assert not (tmp_path / "out.txt").exists()


def test_what_the_command_cannot_do_is_said(run, tmp_path):
    file = tmp_path / "submission.txt"
    file.write_text("1 a.mp4\n")
    truth = truth_file(tmp_path / "val_gt.txt", {"1": ["a"]})
    both = file, "--truth", truth
    for arguments, sentence in (
        ((file,), f"--truth: nothing found, expected the ground truth for the submission {file}"),
        ((run.key, "--per-person", tmp_path / "p.csv"), "--truth: nothing found"),
        ((*both, "--out", file), "--truth: found with a submission and --out or --dataset, expected these with a run"),
        ((*both, "--per-person", tmp_path), f"--per-person: {tmp_path} is a folder, expected"),
        ((*both, "--per-person", file / "x"), "cannot be written"),
        ((*both, "--per-person", file), "is one of the other files, expected another file to write"),
        ((*both, "--per-person", truth), "is one of the other files, expected another file to write"),
        ((run.key, "--truth", truth), f"run {run.key}: ids such as '10034' found"),
        ((tmp_path / "no.txt", "--truth", truth), "no.txt: it cannot be read"),
        ((run.key, "--out", tmp_path), f"{tmp_path}: a folder found, expected"),
        (("nobody",), "run: 'nobody' is not known"),
    ):
        with pytest.raises(ValueError) as caught:
            evaluate(*arguments)
        assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert file.read_text() == "1 a.mp4\n" and truth.exists() and tmp_path.is_dir()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("1\n7 a.mp4\n", "no clip for any id of TRUTH found, expected ID NAME.mp4 NAME.mp4 …"),
        ("id\n0001 a.mp4\n", "ids such as '0001' found, none of 2 in TRUTH, expected ids such as '1'"),
        ("1 v/a.mp4 c.mp4\n2 v/b.mp4\n", "clips such as 'c' found, none of 3 in TRUTH, expected clips such as 'a'"),
    ],
)
def test_a_submission_that_meets_nothing_of_the_ground_truth_is_not_scored(content, sentence, tmp_path):
    truth = truth_file(tmp_path / "val_gt.txt", {"1": ["a"], "2": ["b"]})
    (file := tmp_path / "submission.txt").write_text(content)
    with pytest.raises(ValueError) as caught:
        evaluate(file, "--truth", truth, "--per-person", tmp_path / "p.csv")
    assert str(caught.value) == f"{file}: {sentence.replace('TRUTH', str(truth))}" and not (tmp_path / "p.csv").exists()
