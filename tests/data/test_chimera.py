import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imfdb_files import World
from sklearn.preprocessing import StandardScaler

from famf_lib.data import chimera, datasets, imfdb
from famf_lib.data.chimera import ChimeraError, assign_utterances, exchange, pair
from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import SplitError, split
from famf_lib.paper import IQIYI

WIDTHS = {"text": 7, "audio": 5, "video": 11}
SPEAKERS = {"ann": 23, "bob": 9, "cid": 5, "dan": 2}


def spoken(speakers: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of made-up utterances, in no order, one column of video constant and one of audio very long."""
    rng = np.random.default_rng(seed)
    said = [(video, number) for video, count in speakers.items() for number in range(1, count + 1)]
    said = [said[i] for i in rng.permutation(len(said))]
    arrays = {name: rng.normal(size=(len(said), width)).astype(np.float32) for name, width in WIDTHS.items()}
    arrays["audio"][:, 0] = 100_000 + 9_000 * arrays["audio"][:, 0]  # more than float16 holds
    arrays["video"][:, 3] = 0
    return {"video_id": np.array([v for v, _ in said]), "utterance": np.array([n for _, n in said]), **arrays}


def filmed(films: dict[str, list[int]], dim: int = 3) -> ClipSet:
    """Clips of one face: for each person the number of clips in each film."""
    table = pd.DataFrame(
        [(p, f"film {f}") for p, counts in films.items() for f, n in enumerate(counts) for _ in range(n)],
        columns=["person", "group"],
    ).assign(split=pd.Series(dtype="str"))
    table["name"] = [f"clip {n}" for n in table.index]
    faces = np.random.default_rng(0).normal(size=(len(table), dim))
    return ClipSet.build(faces, np.ones(len(table), int), table, face_table=pd.DataFrame({"face": table.index}))


@pytest.fixture
def world() -> World:
    """Asha has four films and a mix of others, Birju three, Chandra two, Devi one; a clip is three frames."""
    films = {"Birju": {"One": 6, "Five": 2, "Six": 2}, "Chandra": {"One": 1, "Six": 1}, "Devi": {"Six": 4}}
    made, films["Asha"] = World(), {"One": 5, "Two": 3, "Three": 2, "Four": 1, "Misc": 2}
    for person, own in films.items():
        for name, clips in own.items():
            made.film(person, name, [1000 * clip + frame for clip in range(clips) for frame in (1, 2, 3)])
    return made


@pytest.fixture
def faces(world, tmp_path) -> ClipSet:
    return imfdb.build(world.archive(tmp_path), world.embeddings(tmp_path))


@pytest.fixture
def utterances(tmp_path):
    target = tmp_path / chimera.UTTERANCES
    np.savez(target, **spoken(SPEAKERS))
    return target


def leaks(clipset: ClipSet, dealt) -> set[str]:
    """Films (of a person) and utterances that stand on both sides of a split."""
    clips = clipset.clips.assign(film=clipset.clips["person"] + " in " + clipset.clips["group"])
    assert (clips[["utterance", "film"]].drop_duplicates()["utterance"].value_counts() == 1).all()
    train, gallery = (clips.iloc[side.numpy()] for side in (dealt.train, dealt.gallery))
    return {name for column in ("film", "utterance") for name in set(train[column]) & set(gallery[column])}


def test_what_was_joined_is_counted(faces, utterances):
    clipset = chimera.build(faces, utterances, clips_per_film=99, other_speaker=0.0)
    assert clipset.info["dataset"] == "chimera" and clipset.info["faces"] == faces.info
    assert clipset.info["joining"] == {
        "persons": 3,
        "persons left out: fewer than two known films": 1,
        "persons left out: no speaker with as many utterances as they have films": 0,
        "clips": 23,
        "clips left out: of persons left out": 4,
        "clips left out: no known film": 2,
        "clips left out: their film has enough": 0,
        "films (of a person)": 9,
        "speakers": 4,
        "speakers left out": 1,
        "utterances": 39,
        "utterances used": 22,  # Asha's 11 clips fit ann, Birju's 10 have bob's 9, Chandra's 2 cid or dan
        "clips that repeat an utterance of their film": 1,
        "clips with an utterance of another speaker": 0,
        "columns of body that never change": 1,
    }
    assert len(clipset) == 23 and clipset.persons == split(clipset, "groups").persons == ["Asha", "Birju", "Chandra"]
    speaker = clipset.clips["utterance"].str.split("/").str[0].groupby(clipset.clips["person"]).unique().map(list)
    assert speaker["Asha"] == ["ann"] and speaker["Birju"] == ["bob"] and speaker["Chandra"] in (["cid"], ["dan"])


def test_a_film_gives_few_clips_and_in_some_another_speaker_is_heard(faces, utterances):
    every = chimera.build(faces, utterances, clips_per_film=99, other_speaker=0.0).clips
    clipset = chimera.build(faces, utterances, clips_per_film=2, other_speaker=0.4)
    films = every.groupby(["person", "group"]).size()
    assert clipset.clips.groupby(["person", "group"]).size().to_dict() == films.clip(upper=2).to_dict()
    assert len(clipset) == 15 and set(clipset.clips["name"]) < set(every["name"])
    assert clipset.info["joining"]["clips left out: their film has enough"] == 8
    assert clipset.info["joining"]["clips with an utterance of another speaker"] == 6  # 0.4 × 15

    clips = clipset.clips.assign(speaker=clipset.clips["utterance"].str.split("/").str[0])
    own = clips[clips["own_voice"]].groupby("person")["speaker"].unique()
    assert (own.map(len) == 1).all() and (~clips["own_voice"]).sum() == 6
    expected = clips["speaker"] == clips["person"].map(own.str[0])
    assert (clips["own_voice"] == expected).all() and not clips["utterance"].duplicated().any()
    chosen = [set(chimera.build(faces, utterances, seed=seed).clips["name"]) for seed in range(9)]
    assert set.union(*chosen) == set(every["name"])  # the clips of a film are drawn, not its first


@given(
    st.lists(st.integers(0, 29), min_size=1, max_size=20),
    st.lists(st.integers(0, 3), min_size=30, max_size=30),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_exchanged_utterances_are_new_and_of_another_speaker(utterances, speakers, share, seed):
    before, speakers = np.array(utterances), np.array(speakers)
    after = exchange(before, speakers, share, np.random.default_rng(seed))
    changed = after != before
    assert changed.sum() <= round(share * len(before)) and before.tolist() == utterances
    assert (speakers[after[changed]] != speakers[before[changed]]).all()
    assert len(set(after[changed])) == changed.sum() and not set(after[changed]) & set(utterances)
    unused = set(range(30)) - set(utterances)
    fitting = [len([u for u in unused if speakers[u] != speakers[own]]) for own in utterances]
    if min(fitting) >= len(utterances):  # enough for all, whoever draws first
        assert changed.sum() == round(share * len(before))


def test_a_clip_has_its_own_faces_and_the_vectors_of_its_utterance(faces, utterances):
    clipset = chimera.build(faces, utterances)
    before, after = (
        {name: (given.faces[a:b].tolist(), given.face_columns()["path"][a:b].tolist()) for name, a, b in rows}
        for given in (faces, clipset)
        for rows in [zip(given.clips["name"], given.offsets.tolist(), given.offsets[1:].tolist(), strict=False)]
    )
    assert after == {name: before[name] for name in clipset.clips["name"]}

    said = spoken(SPEAKERS)
    names = [f"{v}/{n}" for v, n in zip(said["video_id"], said["utterance"], strict=True)]
    assert set(clipset.modalities) == {"body", "audio", "text"}
    for modality, field in {"body": "video", "audio": "audio", "text": "text"}.items():
        expected = pd.DataFrame(StandardScaler().fit_transform(said[field].astype(float)), index=names)
        found = clipset.modalities[modality]
        assert found.present.all() and found.vectors.shape[1] == WIDTHS[field]
        expected = expected.loc[clipset.clips["utterance"]].to_numpy()
        np.testing.assert_allclose(found.vectors.numpy(), expected, atol=2e-3)


def test_seeds_give_other_pairs_and_the_order_of_the_rows_in_the_file_decides_nothing(faces, utterances):
    first, again = chimera.build(faces, utterances), chimera.build(faces, utterances)
    assert first.fingerprint == again.fingerprint and first.info == again.info
    others = [chimera.build(faces, utterances, seed=seed) for seed in range(1, 5)]
    assert len({one.fingerprint for one in (first, *others)}) == 5
    said = spoken(SPEAKERS)
    turned = np.random.default_rng(1).permutation(len(said["utterance"]))
    np.savez(utterances, **{name: array[turned] for name, array in said.items()})
    second = chimera.build(faces, utterances)
    pd.testing.assert_frame_equal(first.clips, second.clips)
    for name, modality in first.modalities.items():  # sums of another order may round to the next float16
        np.testing.assert_allclose(modality.vectors.numpy(), second.modalities[name].vectors.numpy(), atol=2e-3)


persons = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=1, max_size=4)


@given(persons, st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 5))
@settings(max_examples=30)
def test_no_split_leaks_whatever_the_numbers_of_films_and_utterances(tmp_path_factory, films, speakers, seed):
    faces = filmed({f"person {i}": counts for i, counts in enumerate(films)})
    path = tmp_path_factory.mktemp("said") / "utterances.npz"
    np.savez(path, **spoken({f"video {i}": count for i, count in enumerate(speakers)}))
    try:
        clipset = chimera.build(faces, path, seed=seed)
    except ChimeraError as error:
        assert "expected a speaker with as many utterances" in str(error)
        assert not any(1 < len(counts) <= max(speakers) for counts in films)
        return
    for part in ("report", "tune"):
        for turn in range(3):
            try:
                dealt = split(clipset, "groups", turn, part)
            except SplitError:
                assert part == "tune" and clipset.clips.groupby("person")["group"].nunique().max() == 2
                continue
            assert not leaks(clipset, dealt)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), max_size=7),
    st.lists(st.integers(1, 30), max_size=7),
    st.integers(0, 9),
)
def test_pairs_are_apart_and_large_enough(films_and_more, lengths, seed):
    rows = {f"p{i}": (films + more, films) for i, (films, more) in enumerate(films_and_more)}
    people = pd.DataFrame(rows.values(), rows.keys(), ["clips", "films"], dtype=int)
    videos = pd.Series(lengths, [f"v{i}" for i in range(len(lengths))], dtype=int)
    paired = pair(people, videos, np.random.default_rng(seed))
    assert len(set(paired.values())) == len(paired) and set(paired.values()) <= set(videos.index)
    assert all(videos[video] >= people["films"][person] for person, video in paired.items())
    left = videos[~videos.index.isin(paired.values())]
    assert all(people["films"][p] > left.max() for p in people.index if p not in paired and len(left))
    if (len(lengths) and len(people)) and min(lengths) >= people["clips"].max():
        assert len(paired) == min(len(people), len(videos))
        assert all(videos[video] >= people["clips"][person] for person, video in paired.items())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 30), st.integers(0, 9))
def test_a_film_has_a_stretch_of_the_video_and_none_is_wasted(clips, more, seed):
    films, utterances = np.repeat([f"film {f}" for f in range(len(clips))], clips), len(clips) + more
    order = np.random.default_rng(seed).permutation(len(films))
    place = assign_utterances(films[order], utterances, np.random.default_rng(seed))
    stretches = []
    for film in set(films):
        own = place[films[order] == film]
        stretch = len(set(own))
        assert own.tolist() == [own[0] + turn % stretch for turn in range(len(own))]  # in turn, and from the start
        stretches.append((own[0], own[0] + stretch))
    stretches.sort()
    assert stretches[0][0] >= 0 and stretches[-1][1] <= utterances
    assert all(end <= start for (_, end), (start, _) in zip(stretches, stretches[1:], strict=False))
    assert len(set(place)) == min(utterances, len(films))  # nothing twice that need not be


FINE = spoken({"ann": 3, "bob": 4})


FIFTH = f"{FINE['video_id'][5]}/{FINE['utterance'][5]}"


def spoilt(name: str, value: float) -> np.ndarray:
    array = FINE[name].astype(np.float64)
    array[5, 2] = value
    return array


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"audio": None}, "audio is missing, found video_id, utterance, text, video, expected video_id, utterance, "),
        ({"text": FINE["text"][:6]}, r"the shape of text is \(6, 7\), expected \(7, D\)"),
        ({"utterance": np.arange(7.0)}, "utterance is float64, expected integers"),
        ({"utterance": np.ones(7, int)}, r"the utterance (ann|bob)/1 occurs twice, expected once"),
        ({"audio": spoilt("audio", np.nan)}, f"audio of {FIFTH} is not finite, expected"),
        ({"video": spoilt("video", -np.inf)}, "video of (ann|bob)/. is not finite"),
        ({"text": spoilt("text", 1e300)}, "text of (ann|bob)/. is not finite"),
        ({"video_id": np.array([f"v{i}" for i in range(7)])}, "3 persons .* 7 speakers, expected a speaker with as"),
    ],
)
def test_bad_utterances(faces, utterances, changed, sentence):
    np.savez(utterances, **FINE)
    chimera.build(faces, utterances)  # so that only the change is at fault
    np.savez(utterances, **{k: v for k, v in (FINE | changed).items() if v is not None})
    with pytest.raises(ChimeraError, match=sentence) as error:
        chimera.build(faces, utterances)
    assert str(utterances) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMF_DATA", str(tmp_path / "data"))
    for name in ("mosi", "imfdb"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def test_absence_names_what_is_missing_of_either(world, home):
    both = chimera.absence()
    assert "utterances.npz not found in" in both and str(home / "mosi") in both and "IMFDB_final.tar.gz" in both
    assert "\n" not in both and "README" in both
    np.savez(home / "mosi" / chimera.UTTERANCES, **spoken(SPEAKERS))
    assert "utterances.npz" not in chimera.absence() and "mobilefacenet128.npz" in chimera.absence()
    with pytest.raises(datasets.DatasetAbsent, match=r"chimera: its faces, imfdb: the archive IMFDB_final.tar.gz"):
        datasets.load("chimera")
    for entry in (chimera.key, chimera.make):
        with pytest.raises(ChimeraError, match="its faces"):
            entry("quick")
    world.archive(home / "imfdb")
    world.embeddings(home / "imfdb")
    assert chimera.absence() is None
    (home / "mosi" / chimera.UTTERANCES).unlink()
    assert "utterances.npz" in chimera.absence() and "imfdb" not in chimera.absence().replace(str(home), "")


def test_the_dataset_is_made_once_and_again_when_a_file_changes(world, home):
    said = home / "mosi" / chimera.UTTERANCES
    np.savez(said, **spoken(SPEAKERS))
    world.archive(home / "imfdb")
    world.embeddings(home / "imfdb")
    clipset = datasets.load("chimera", "quick")
    assert len(clipset) == 15 and clipset.info["joining"]["persons"] == 3
    assert tuple(clipset.modalities) == datasets.get("chimera").modalities
    key = chimera.key("quick")
    assert key == chimera.key("paper") and len(key) == 16
    os.utime(said, (0, 0))
    assert chimera.key("quick") == key
    np.savez(said, **spoken(SPEAKERS, seed=1))
    other = chimera.key("quick")
    world.embeddings(home / "imfdb", scores={world.pictures[0]: 0.1})
    assert len({key, other, chimera.key("quick")}) == 3


@pytest.fixture(scope="module")
def real(real_imfdb) -> ClipSet:
    if reason := chimera.absence():
        pytest.skip(reason)
    return chimera.build(real_imfdb, chimera._utterances())


def test_real_vectors_fit_films_are_apart_and_a_person_has_as_many_training_clips_as_in_iqiyi_vid(real):
    for name, modality in real.modalities.items():
        assert modality.present.all() and float(modality.vectors.abs().max()) < 50, name
    for seed, part in [(0, "tune"), *((seed, "report") for seed in range(5))]:
        dealt = split(real, "groups", seed, part)
        assert len(dealt.persons) == 90 and not leaks(real, dealt)
    dealt = split(real, "groups", 1)
    assert np.median(np.bincount(dealt.train_classes)) == IQIYI["train_clips_a_person"]["median"]
