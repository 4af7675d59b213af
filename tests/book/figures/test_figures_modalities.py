"""The gain from a modality against differences computed by hand on made-up results."""

import numpy as np
import pytest

from famf_book.figures.modalities import AVERAGE, joining, summary
from famf_lib.evidence.bootstrap import difference

LEVELS = {
    "Face": 0.31,
    "Face+Head": 0.37,
    "Face+Audio": 0.41,
    "Face+Text": 0.29,
    "Face+Audio+Text": 0.43,
    "Face+Audio+Body": 0.47,
    "Face+Body+Text": 0.59,
    "Face+Audio+Body+Text": 0.53,
}
PAIRS = {
    "audio": {"Face": 0.10, "Face+Text": 0.14, "Face+Body+Text": -0.06},
    "body": {"Face+Audio": 0.06, "Face+Text": 0.30, "Face+Audio+Text": 0.10},
    "head": {"Face": 0.06},
    "text": {"Face": -0.02, "Face+Audio": 0.02, "Face+Audio+Body": 0.06},
}
AVERAGES = {"audio": 0.06, "body": 0.46 / 3, "text": 0.02}


def test_every_two_sets_that_differ_in_one_modality(made_results):
    table = joining(made_results(LEVELS))
    expected = {(modality, joins): value for modality, sets in PAIRS.items() for joins, value in sets.items()}
    expected |= {(modality, AVERAGE): value for modality, value in AVERAGES.items()}
    table = table.set_index(["modality", "joins"])
    assert table["ours"].to_dict() == pytest.approx(expected)
    table = table["paper"]
    assert table["audio", "Face"] == pytest.approx(0.8688 - 0.8656)
    text = [0.8685 - 0.8656, 0.8385 - 0.8688, 0.8761 - 0.8824]
    assert table["text", AVERAGE] == pytest.approx(np.mean(text), abs=1e-4)


def test_differences_are_paired(made_results):
    results = made_results(LEVELS, noise=0.02)
    row = joining(results).set_index(["modality", "joins"]).loc[("head", "Face")]
    one = difference(results.ap("Face+Head"), results.ap("Face"))
    assert (row["ours"], row["low"], row["high"]) == pytest.approx((one.mean, one.low, one.high))
    shared = joining(made_results(LEVELS))
    assert (shared["high"] - shared["low"]).to_numpy() == pytest.approx(0, abs=1e-9)


def test_a_set_that_a_dataset_lacks_is_left_out(made_results):
    table = joining(made_results({label: v for label, v in LEVELS.items() if "Head" not in label}))
    assert set(table["modality"]) == {"audio", "body", "text"}
    one_pair = joining(made_results({"Face": 0.3, "Face+Text": 0.2}))
    assert one_pair[["modality", "joins"]].to_numpy().tolist() == [["text", "Face"]]


def test_summary_has_averages_and_single_pairs_largest_first(made_results):
    table = summary(joining(made_results(LEVELS)))
    assert dict(zip(table["modality"], table["ours"], strict=True)) == pytest.approx(AVERAGES | {"head": 0.06})
    assert table["ours"].is_monotonic_decreasing
