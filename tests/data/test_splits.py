import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from famf_lib.data.clipset import ClipSet
from famf_lib.data.splits import SplitError, split

SEEDS = range(6)


def table(rows):
    clips = pd.DataFrame(rows, columns=["person", "split", "group"], dtype=object)
    clips.insert(0, "name", [f"clip {n}" for n in range(len(clips))])
    faces = pd.DataFrame(index=range(len(clips)))
    return ClipSet.build(np.zeros((len(clips), 1)), np.ones(len(clips)), clips, face_table=faces)


names = st.sampled_from(["ann", "bob", "cat", "dan", None])
sides = st.sampled_from(["train", "val", None])
films = st.sampled_from([*"abcdefg", None])
SPLITTABLE = [("eve", "train", "x"), ("eve", "train", "y"), ("eve", "train", "z"), ("eve", "val", "x")]
rows_of_tables = st.lists(st.tuples(names, sides, films), max_size=30)


def units(clipset, clips, protocol):
    """What is dealt out of these clips: the person's films, or the clips themselves."""
    rows = clipset.clips.iloc[clips.tolist()]
    return set(zip(rows["person"], rows["group"] if protocol == "groups" else rows["name"], strict=True))


protocols, either = st.sampled_from(["given", "groups", "random"]), st.sampled_from(["report", "tune"])


@settings(max_examples=30)
@given(rows_of_tables, protocols, st.integers(0, 9), either)
def test_whatever_the_table_the_sides_are_apart_and_the_classes_right(rows, protocol, seed, part):
    clipset = table(rows + SPLITTABLE)
    found, again = (split(clipset, protocol, seed, part) for _ in range(2))
    train, gallery = found.train.tolist(), found.gallery.tolist()
    assert (again.train.tolist(), again.gallery.tolist()) == (train, gallery)
    assert len(set(train)) == len(train) > 0 and len(set(gallery)) == len(gallery) > 0
    assert not set(train) & set(gallery)
    assert not units(clipset, found.train, protocol) & units(clipset, found.gallery, protocol)
    # Classes count the persons who train; in the gallery whoever else there is has none.
    person = clipset.clips["person"]
    assert found.persons == sorted(set(person.iloc[train])) and not any(pd.isna(p) for p in found.persons)
    assert [found.persons[c] for c in found.train_classes] == person.iloc[train].tolist()
    for clip, c in zip(gallery, found.gallery_classes.tolist(), strict=True):
        assert c == (found.persons.index(person[clip]) if person[clip] in found.persons else -1)
        assert c >= 0 or (protocol == "given" and part == "report")


@settings(max_examples=30)
@given(rows_of_tables, st.sampled_from(["groups", "random"]))
def test_development_films_are_never_reported_and_always_train(rows, protocol):
    clipset = table(rows + SPLITTABLE)
    tune = split(clipset, protocol, part="tune")
    development = units(clipset, tune.gallery, protocol)
    for seed in SEEDS:
        report = split(clipset, protocol, seed)
        assert not development & units(clipset, report.gallery, protocol)
        assert development <= units(clipset, report.train, protocol)


@settings(max_examples=30)
@given(rows_of_tables)
def test_the_given_protocol_keeps_the_split_of_the_source(rows):
    clipset = table(rows + SPLITTABLE)
    clips = clipset.clips
    training = np.flatnonzero((clips["split"] == "train") & clips["person"].notna()).tolist()
    report, tune = split(clipset, "given"), split(clipset, "given", part="tune")
    assert report.train.tolist() == training
    assert report.gallery.tolist() == np.flatnonzero(clips["split"] == "val").tolist()  # noise included
    assert sorted(tune.train.tolist() + tune.gallery.tolist()) == training
    assert set(clips["person"].iloc[tune.gallery.tolist()]) <= set(tune.persons), "somebody cannot be found"


MANY = [(p, None, f"film {f}") for p in "abcdefghijk" for f in range(7) for _ in range(2)]


@pytest.mark.parametrize("protocol", ["groups", "random"])
def test_the_seed_deals_anew_but_not_for_tuning(protocol):
    clipset = table(MANY)
    assert len({tuple(split(clipset, protocol, seed).gallery.tolist()) for seed in SEEDS}) == len(SEEDS)
    assert len({tuple(split(clipset, protocol, seed, "tune").gallery.tolist()) for seed in SEEDS}) == 1


def test_over_the_seeds_every_other_film_of_a_person_is_ranked_once():
    clipset = table(MANY)
    development = units(clipset, split(clipset, "groups", part="tune").gallery, "groups")
    ranked = set.union(*(units(clipset, split(clipset, "groups", s).gallery, "groups") for s in range(40)))
    assert ranked == {(person, film) for person, _, film in MANY} - development


@pytest.mark.parametrize("films", [2, 3, 4, 5, 7, 12])
def test_a_third_of_a_persons_films_is_held_out_and_one_at_least(films):
    clipset = table([(p, None, f) for p in "abc" for f in range(films) for _ in range(2)])
    for seed, part in [*((seed, "report") for seed in SEEDS), *[(0, "tune")] * (films >= 3)]:
        held = units(clipset, split(clipset, "groups", seed, part).gallery, "groups")
        assert [sum(p == who for p, _ in held) for who in "abc"] == [max(1, round(films / 3))] * 3


def test_a_person_needs_two_films_and_a_third_to_be_tuned_on():
    films = {"one": "aaaaa", "two": "ab", "three": "abc"}
    clipset = table([(p, None, f) for p, own in films.items() for f in own])
    report, tune = split(clipset, "groups"), split(clipset, "groups", part="tune")
    assert report.persons == tune.persons == ["three", "two"]
    assert {p for p, _ in units(clipset, report.gallery, "groups")} == {"two", "three"}
    assert {p for p, _ in units(clipset, tune.gallery, "groups")} == {"three"}


def test_a_given_split_tunes_on_persons_of_two_training_clips():
    clipset = table([("one", "train", "a"), ("two", "train", "a"), ("two", "train", "a"), ("two", "val", "a")])
    found = split(clipset, "given", part="tune")
    assert found.persons == ["one", "two"] and len(found.train) == 2
    assert clipset.clips["person"].iloc[found.gallery.tolist()].tolist() == ["two"]


@pytest.mark.parametrize(("protocol", "part"), [("random", "report"), ("random", "tune"), ("given", "tune")])
def test_where_clips_are_dealt_out_a_film_may_be_on_both_sides(protocol, part):
    clipset = table([(p, "train", "the only film") for p in "abc" for _ in range(9)])
    found = split(clipset, protocol, 5, part)
    for side, each in ((found.train, 6), (found.gallery, 3)):
        assert sorted(clipset.clips["person"].iloc[side.tolist()]) == sorted("abc" * each)


def test_films_are_dealt_out_for_each_person_on_their_own_and_clips_without_either_left_out():
    clipset = table([(p, None, f) for p in "abcdefgh" for f in range(4)])
    found = split(clipset, "groups", 1)
    films = [{f for _, f in units(clipset, side, "groups")} for side in (found.train, found.gallery)]
    assert films[0] & films[1]
    clipset = table([("a", None, "x"), ("a", None, "y"), ("a", None, None), (None, None, "x")])
    found = split(clipset, "groups")
    assert sorted(found.train.tolist() + found.gallery.tolist()) == [0, 1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", ["given", "groups"])
def test_nothing_is_asked_of_pandas_that_it_is_about_to_refuse(protocol):
    split(table([("ann", "val", "x"), *SPLITTABLE]), protocol)


@pytest.mark.parametrize(
    ("rows", "protocol", "part", "sentence"),
    [
        ([("a", None, "x"), ("a", None, "y")], "given", "report", "split: the source fixes no train and val, expected"),
        ([("a", "train", "x")], "given", "report", "given: 1 training and 0 gallery clips, expected some of each"),
        ([("a", "val", "x")], "given", "report", "given: 0 training and 1 gallery clips, expected some of each"),
        ([("a", "train", "x")], "given", "tune", "given: 1 training and 0 gallery clips, expected some of each"),
        ([("a", None, "x")] * 3, "groups", "report", "groups: 0 training and 0 gallery clips, expected some of each"),
        ([("a", None, None)] * 3, "groups", "report", "groups: 0 training and 0 gallery clips, expected some of each"),
        ([("a", None, "x"), ("a", None, "y")], "groups", "tune", "groups: 2 training and 0 gallery clips, expected"),
        ([(None, None, "x")] * 3, "random", "report", "random: 0 training and 0 gallery clips, expected some of each"),
    ],
)
def test_what_cannot_be_split_gives_its_sentence(rows, protocol, part, sentence):
    with pytest.raises(SplitError, match=f"^{sentence}"):
        split(table(rows), protocol, 0, part)
