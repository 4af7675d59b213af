"""Experiments as data: the rows are the paper's, and differ only in what the table compares."""

from copy import deepcopy
from dataclasses import replace
from functools import reduce
from itertools import combinations
from operator import getitem

import pytest

from famf_lib import paper
from famf_lib.data.datasets import DATASETS
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, READINGS, TABLE_1, TABLE_2, Variant, set_name, specs
from famf_lib.experiments.settings import BASE, RowSettings

STANDARD = BASE["standard"]
SYNTHETIC, IMFDB = DATASETS["synthetic"], DATASETS["imfdb"]


def dumped(experiment):
    found = specs(EXPERIMENTS[experiment].variants, SYNTHETIC, RowSettings(STANDARD), [1])
    return {label: spec.model_dump() for (label, _), spec in found.items()}


def without(spec, paths):
    """The dumped spec without some of its values."""
    spec = deepcopy(spec)
    for path in paths:
        *way, last = path.split(".")
        reduce(getitem, way, spec).pop(last, None)
    return spec


def test_table_1_has_every_row_of_the_paper_and_mean_pooling():
    modules = [variant.modules for variant in TABLE_1]
    assert len(set(modules)) == len(TABLE_1) == 7
    assert {v.modules: v.paper for v in TABLE_1[1:]} == paper.TABLE_1


def test_table_2_has_every_set_of_the_paper():
    assert {v.modalities: v.paper for v in TABLE_2} == paper.TABLE_2
    assert TABLE_2[0].label == "Face" and set_name(("audio", "body")) == "Face+Audio+Body"


@pytest.mark.parametrize(
    ("experiment", "about"),
    [
        ("table-1", ["model.aggregation", "model.aggregation_options", "model.fusion", "model.fusion_options"]),
        ("table-2", ["model.modalities"]),
        ("clusters", ["model.aggregation_options.clusters", "training.batch_size"]),
        ("faces", ["training.faces", "evaluation.faces"]),
        ("missing-modalities", ["model.fusion", "model.fusion_options"]),
    ],
)
def test_rows_differ_in_what_the_table_is_about(experiment, about):
    rows = dumped(experiment)
    shared = [without(spec, about) for spec in rows.values()]
    assert all(one == shared[0] for one in shared)
    assert all(a != b for a, b in combinations(rows.values(), 2)), "two rows are the same run"


def test_famf_is_one_run_wherever_it_stands():
    places = {"table-1": FAMF.label, "table-2": "Face+Audio+Body", "clusters": "K = 8"}
    places |= {"faces": "trained with N = 24", "readings": "φ: sigmoid"}
    one, *others = (dumped(name)[label] for name, label in places.items())
    assert all(other == one for other in others)


def test_clusters_share_a_batch_but_for_the_one_that_says_so():
    sizes = {label: spec["training"]["batch_size"] for label, spec in dumped("clusters").items()}
    half = sizes.pop("K = 16, half the batch")
    assert set(sizes.values()) == {STANDARD.training.batch_size} and half == STANDARD.training.batch_size // 2


@pytest.mark.parametrize("normalisation", ["none", "cluster", "cluster+whole"])
@pytest.mark.parametrize("features", ["raw", "unit"])
def test_every_question_has_the_books_reading_and_each_other_changes_one_thing(normalisation, features):
    used = STANDARD.model_copy(update={"normalisation": normalisation, "features": features})
    for question in dict.fromkeys(r.question for r in READINGS):
        readings = [r for r in READINGS if r.question == question]
        base = readings[0].base.spec(SYNTHETIC, used, 1)
        made = [r.variant.spec(SYNTHETIC, used, 1) for r in readings]
        assert made.count(base) == 1, f"{question}: {made.count(base)} readings are the book's"
        assert len({spec.model_dump_json() for spec in made}) == len(made)


def test_a_row_that_a_dataset_cannot_serve_is_left_out():
    none = specs(TABLE_2, IMFDB, RowSettings(STANDARD), [1])
    assert [label for label, _ in none] == ["Face"]
    assert not EXPERIMENTS["table-2"].serves(IMFDB) and EXPERIMENTS["table-1"].serves(IMFDB)
    only_gait = replace(SYNTHETIC, modalities=("gait",))
    serving = {name for name, experiment in EXPERIMENTS.items() if experiment.serves(only_gait)}
    assert set(EXPERIMENTS) - serving == {"table-2", "attention"}  # neither knows that modality
    partial = specs(TABLE_1, IMFDB, RowSettings(STANDARD), [1])
    assert len(partial) == 7 and {s.model.modalities for s in partial.values()} == {()}
    everything = Variant("all", modalities=None)
    assert everything.available_modalities(SYNTHETIC) == ("head", "body", "audio", "text")


def test_options_of_a_row_win_over_the_setting():
    used = STANDARD.model_copy(update={"normalisation": "cluster", "features": "unit"})
    plain = replace(FAMF, label="plain").spec(SYNTHETIC, used, 3, "tune", "groups")
    assert (plain.model.aggregation_options["normalisation"], plain.model.features) == ("cluster", "unit")
    assert (plain.seed, plain.part, plain.protocol) == (3, "tune", "groups")
    own = replace(FAMF, aggregation_options={"normalisation": "whole"}, model={"features": "raw"}, rate=3.0, batch=0.25)
    own = own.spec(SYNTHETIC, used, 3, "tune", "groups")
    assert (own.model.aggregation_options["normalisation"], own.model.features) == ("whole", "raw")
    assert own.training.lr_aggregation == pytest.approx(3 * own.training.lr)
    assert own.training.batch_size == used.training.batch_size // 4


def test_a_modality_of_another_name_is_named_and_can_be_taken():
    walked = replace(SYNTHETIC, modalities=("audio", "gait"))
    table_1 = EXPERIMENTS["table-1"]
    assert table_1.unused(walked) == ["gait"] and table_1.unused(SYNTHETIC) == table_1.unused(IMFDB) == []
    other = table_1.with_modalities(["audio", "gait"], walked)
    assert other.unused(walked) == [] and {v.modalities for v in other.variants} == {("audio", "gait")}
    assert [v.label for v in other.variants] == [v.label for v in table_1.variants]
    with pytest.raises(ValueError, match="modalities: 'gate' found, expected some of those of synthetic: audio, gait"):
        table_1.with_modalities(["gate"], walked)
    with pytest.raises(ValueError, match="the rows of table-2 have their own"):
        EXPERIMENTS["table-2"].with_modalities(["gait"], walked)
