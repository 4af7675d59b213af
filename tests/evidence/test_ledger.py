from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

from famf_book import report, verdicts
from famf_lib.data.datasets import DATASETS
from famf_lib.evidence import ledger
from famf_lib.evidence.bootstrap import Estimate
from famf_lib.evidence.claims import Comparison, Verdict
from famf_lib.evidence.ledger import Entry, Outcome
from famf_lib.experiments.catalogue import EXPERIMENTS, specs
from famf_lib.experiments.parameters import SETTINGS
from famf_lib.experiments.results import run_settings
from famf_lib.experiments.settings import BASE, RowSettings
from famf_lib.models.aggregation import GhostVLAD

HOLDS, FAILS, UNKNOWN = Verdict.HOLDS, Verdict.DOES_NOT_HOLD, Verdict.CANNOT_TELL
CLAIM = {claim.number: claim for claim in ledger.CLAIMS}
MMA, ONE = "AttentionVLAD + MMA", "MMA: one convolution alone"
BEST = {"Face+Audio+Body": 0.7, "Face+Audio": 0.6}
ALL = "AttentionVLAD + {}, all modalities"


def results_for(number, made_results, changed, dataset="synthetic"):
    """Results of the claim's experiment in which all rows are equal except those that are changed."""
    experiment = EXPERIMENTS[CLAIM[number].experiment]
    every = specs(experiment.variants, DATASETS[dataset], RowSettings(BASE["quick"]), [1])
    return made_results({label: 0.5 for label, _ in every} | changed)


def entry(number, parts, untested=(), **others):
    """The entry of a claim from its parts under the deciding setting, and from those under others."""
    outcomes = {"own": Outcome(tuple(parts), tuple(untested), "")}
    return Entry(CLAIM[number], "synthetic", outcomes | {n: Outcome(tuple(p), (), "") for n, p in others.items()})


def answers(results, rows):
    """Rows of a probe: for each seed and person what ``rows`` gives, as (label, columns)."""
    every = product(rows, results.seeds, range(-1, 13))
    return pd.DataFrame([{"label": label, "seed": s, "person": p} | columns for (label, columns), s, p in every])


@pytest.mark.parametrize(
    ("number", "true", "false"),
    [
        ("1", {"AttentionVLAD + MLMA": 0.6}, {"AttentionVLAD + MLMA": 0.6, "NeXtVLAD + Concat": 0.7}),
        ("2", {"AttentionVLAD + MLMA": 0.6, MMA: 0.6}, {"AttentionVLAD + MLMA": 0.6}),
        ("3", {"AttentionVLAD + MLMA": 0.6, "NetVLAD + MLMA": 0.6}, {"AttentionVLAD + MLMA": 0.6}),
        ("5", {"AttentionVLAD + MLMA": 0.6, "AttentionVLAD + Concat": 0.6}, {"GhostVLAD + MLMA": 0.6}),
        ("6", BEST, BEST | {"Face+Head": 0.8}),
        ("8", {"K = 8": 0.6}, {"K = 8": 0.6, "K = 16": 0.7}),
        ("9", {ONE: 0.4}, {ONE: 0.4, "MMA: no residual": 0.4}),
    ],
)
def test_a_claim_about_levels(number, true, false, made_results):
    claim = CLAIM[number]
    for changed, verdict in ((true, HOLDS), (false, FAILS)):
        parts = claim.comparisons(results_for(number, made_results, changed))
        assert entry(number, parts).verdict == verdict, [p.sentence() for p in parts]


def test_text_hurts_and_not_the_other_way_round_and_paper_differences_are_the_papers(made_results):
    results = results_for("6", made_results, BEST | {"Face+Audio+Text": 0.65})
    of_part = {part.case: part for part in CLAIM["6"].comparisons(results)}
    assert of_part["text hurts"].ours.mean == pytest.approx(0.6 - 0.65)
    assert of_part["text hurts"].verdict == FAILS and of_part["audio helps"].verdict == HOLDS
    assert len([case for case in of_part if case.startswith("best")]) == 7
    parts = {p.case: p.paper for p in CLAIM["6"].comparisons(results_for("6", made_results, {}))}
    assert parts["audio helps"] == pytest.approx(0.8688 - 0.8656)
    assert parts["text hurts"] == pytest.approx(0.8688 - 0.8385)
    parts = {p.case: p.paper for p in CLAIM["8"].comparisons(results_for("8", made_results, {}))}
    assert parts["K = 8 over 2"] == pytest.approx(0.8824 - 0.7952)


def test_parts_that_a_dataset_cannot_test_are_left_out(made_results):
    def cases(*labels):
        return [part.case for part in CLAIM["6"].comparisons(made_results(dict.fromkeys(labels, 0.5)))]

    assert cases("Face", "Face+Head", "Face+Audio", "Face+Audio+Body") == [
        "audio helps", *(f"best: over {other}" for other in ("Face", "Face+Head", "Face+Audio")),
    ]  # fmt: skip
    assert cases("Face", "Face+Audio", "Face+Text", "Face+Audio+Text") == ["audio helps", "text hurts"]
    assert cases("Face", "Face+Head") == []
    without_text = made_results(BEST | {"Face": 0.5}, noise=0.001)
    parts, lacking = CLAIM["6"].tested(without_text)
    assert all(part.verdict == HOLDS for part in parts) and "text hurts" in lacking and len(parts) + len(lacking) == 9
    one = entry("6", parts, lacking)
    assert (
        one.verdict == UNKNOWN and one.deciding.held == f"{len(parts)} of 9 parts hold, {len(lacking)} cannot be tested"
    )


def test_how_far_verdicts_reach_depends_on_the_data():
    paper, other, both = (verdicts.reach(names) for names in (["iqiyi"], ["synthetic"], ["synthetic", "iqiyi"]))
    assert "are not among the datasets" in other and "paper's own data" in paper and paper in both
    assert "other data" in both and "other data" not in paper
    assert "same data" in report.beside_paper("iqiyi")
    assert "not the dataset of this page" in report.beside_paper("imfdb")


def test_claim_4_looks_in_the_direction_claimed(made_results):
    results = results_for("4", made_results, {})
    famf = "AttentionVLAD + MLMA"

    def table(blur, occlusion, size, quality, clear):
        rho = {"blur": blur, "occlusion": occlusion, "size": size, "quality": quality, "norm": 0.9}
        rows = [(famf, {"trait": t, "rho": r, "fifth 1": 0.2, "fifth 5": clear}) for t, r in rho.items()]
        return answers(results, rows)

    for given, verdict in (
        ((-0.5, -0.4, 0.3, 0.6, 0.3), HOLDS),  # the weights are small, but only their ratio counts
        ((0.5, -0.4, 0.3, 0.6, 0.97), FAILS),  # blurred faces weigh more
        ((-0.5, -0.4, 0.3, 0.6, 0.2), FAILS),  # clear faces weigh as much as poor ones
    ):
        results.answers["weights"] = table(*given)
        parts = CLAIM["4"].comparisons(results)
        assert len(parts) == 5
        assert entry("4", parts).verdict == verdict
    results.answers["weights"] = table(-0.5, -0.4, 0.3, 0.6, 0.3)
    assert CLAIM["4"].comparisons(results)[-1].ours.mean == pytest.approx(0.3 / (0.3 + 0.2) - 0.5)
    results.answers["weights"] = table(-0.5, np.nan, 0.3, 0.6, np.nan)  # NaN: the same for all faces
    assert [part.case for part in CLAIM["4"].comparisons(results)] == ["blurred", "low resolution", "poor"]
    results.answers["weights"] = table(-0.5, -0.4, 0.3, 0.6, 0.97).query("trait != 'blur'")
    assert "blurred" not in {part.case for part in CLAIM["4"].comparisons(results)}, "a trait that was not measured"


def test_claim_7_compares_with_an_even_attention(made_results):
    results = results_for("7", made_results, {})
    names = ["face 1", "face 2", "audio", "body"]

    def table(body_on_face, audio_on_itself):
        rest = (1 - audio_on_itself) / 3
        weights = np.array([[0.25] * 4, [0.25] * 4, [rest, rest, audio_on_itself, rest], [0.0] * 4])
        weights[3] = np.repeat([body_on_face / 2, (1 - body_on_face) / 2], 2)
        places = product(results.labels, enumerate(names), enumerate(names))
        rows = [(n, {"row": row, "column": of, "weight": weights[r, c]}) for n, (r, row), (c, of) in places]
        return answers(results, rows)

    for given, verdicts_ in (
        ((0.8, 0.7), [HOLDS, HOLDS]),
        ((0.3, 0.7), [FAILS, HOLDS]),  # two of four tokens are faces: even is 0.5
        ((0.8, 0.25), [HOLDS, FAILS]),
        ((0.53, 0.7), [FAILS, HOLDS]),  # certainly above an even share, but by less than the margin
    ):
        results.answers["attention"] = table(*given)
        parts = CLAIM["7"].comparisons(results)
        assert [part.verdict for part in parts] == verdicts_
    assert parts[0].ours.mean == pytest.approx(0.03) and parts[0].outcome == "does not hold: no practical difference"
    table = results.answers["attention"]
    results.answers["attention"] = table[(table["row"] != "body") & (table["column"] != "body")]
    assert [part.case for part in CLAIM["7"].comparisons(results)] == ["audio stands apart"]


def test_claim_10_compares_losses(made_results):
    results = results_for("10", made_results, {})
    whole = {"Concat": 0.9, "MMA": 0.7, "MLMA": 0.8}
    without = {"Concat": 0.6, "MMA": 0.4, "MLMA": 0.75}

    def table(without, modalities):
        rows = [(ALL.format(f), {"missing": "", "ap": ap}) for f, ap in whole.items()]
        rows += [(ALL.format(f), {"missing": m, "ap": ap}) for f, ap in without.items() for m in modalities]
        return answers(results, rows)

    results.answers["missing"] = table(without, ("audio", "body", "head", "all"))
    parts = CLAIM["10"].comparisons(results)
    gone = ("body", "head", "audio", "all")
    assert [p.case for p in parts] == [f"{m}, against {f}" for m in gone for f in ("Concat", "MMA")]
    assert all(p.verdict == HOLDS and p.ours.mean == pytest.approx(0.3 - 0.05) for p in parts)
    results.answers["missing"] = table(without | {"MLMA": 0.3}, ("body",))
    assert [p.verdict for p in CLAIM["10"].comparisons(results)] == [FAILS, FAILS]
    assert CLAIM["10"].tested(results)[1] == ["head, against Concat", "head, against MMA"]


def test_claim_11_tests_both_at_the_same_number(made_results):
    results = results_for("11", made_results, {})

    def table(of_24, of_8, of_48):
        level = {"trained with N = 24": of_24, "trained with N = 8": of_8, "trained with N = 48": of_48}
        return answers(results, [(label, {"faces": n, "ap": ap}) for label, ap in level.items() for n in (8, 24, 48)])

    for given, found in (((0.5, 0.5, 0.5), [HOLDS, HOLDS]), ((0.5, 0.6, 0.4), [FAILS, HOLDS])):
        results.answers["faces"] = table(*given)
        assert [part.verdict for part in CLAIM["11"].comparisons(results)] == found


def test_ghosts_are_clusters_without_weight_and_the_check_can_fail(monkeypatch):
    found = ledger.ghost_identity()
    assert 0 <= found.low <= found.mean <= found.high < 1  # below 0.00001
    before = torch.get_rng_state()
    ledger.ghost_identity()
    assert torch.equal(before, torch.get_rng_state()), "the caller's random numbers were moved"
    kept = GhostVLAD.forward
    monkeypatch.setattr(GhostVLAD, "forward", lambda self, x, mask=None: 1.001 * kept(self, x, mask))
    assert ledger.ghost_identity().mean > 1


def test_every_claim_has_its_place():
    assert [c.number for c in ledger.CLAIMS] == [str(n) for n in range(1, 12)]
    assert {c.experiment for c in ledger.CLAIMS} <= set(EXPERIMENTS)
    assert all(c.statement.endswith(".") and c.where and c.test for c in ledger.CLAIMS)


def test_the_ledger_of_a_dataset_from_its_runs(results_folder, tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(ledger, "CLAIMS", tuple(CLAIM[n] for n in ("2", "3", "6")))
    rows = ledger.evaluate_claims("synthetic", "quick", [1], "cpu")
    assert [row.claim.number for row in rows] == ["2", "3", "6"] and all(row.verdict for row in rows)
    assert rows[0].deciding.command == "famf run table-1 -p dataset synthetic -p profile quick -p seeds 1"
    fresh = run_settings("table-1", "synthetic", "quick", [1], "cpu")
    for setting in SETTINGS:
        expected = tuple(CLAIM["3"].comparisons(fresh[setting]))
        assert rows[1].outcomes[setting].parts == expected, "not the numbers of the runs"
    monkeypatch.setenv("FAMF_DATA", str(tmp_path))
    absent = ledger.evaluate_claims("imfdb", "quick")
    assert all(row.verdict is None and not row.outcomes for row in absent)
    assert "not found" in absent[0].reason and absent[2].reason == ledger.LACKING

    parts = verdicts.parts([*rows, *absent])
    assert len(parts) == sum(len(row.deciding.parts) for row in rows) and set(parts["dataset"]) == {"synthetic"}
    assert "`imfdb`" not in verdicts.counts([*rows, *absent])


def part(mean, spread=0.001):
    return Comparison("A", "B", "a over b", None, Estimate(mean, mean - spread, mean + spread, 5, 11), margin=0.005)


def test_the_verdict_is_that_of_the_deciding_setting_unless_another_one_contradicts_it():
    good, bad, unclear = [part(0.03)], [part(-0.03)], [part(0.004, spread=0.03)]
    assert entry("2", good, printed=unclear, shared=unclear).verdict == HOLDS
    assert entry("2", unclear, printed=good, shared=good).verdict == UNKNOWN
    one = entry("2", good, printed=bad, shared=unclear)
    assert one.verdict == Verdict.DEPENDS
    assert one.by_setting == ("own best: holds; as printed: does not hold; shared: cannot tell")
    assert entry("2", good, printed=good).by_setting == "the same under every setting"


def test_the_table_of_verdicts_has_a_sign_and_a_link_for_every_setting():
    good, bad = [part(0.03)], [part(-0.03)]
    entries = [
        entry("2", good, printed=bad, shared=good),
        entry("9", bad, printed=bad, shared=bad),
        Entry(CLAIM["10"], "synthetic", {}, "it lacks <this>"),
    ]
    soup = BeautifulSoup(verdicts.table(entries).data, "html.parser")
    rows = [[cell.get_text() for cell in row.find_all(["td", "th"])] for row in soup.select("tbody tr")]
    assert rows[0] == ["2. AttentionVLAD over NetVLAD", "◐ depends on the setting", "✕", "●", "●"]
    assert rows[1][1:] == ["✕ does not hold", "✕", "✕", "✕"] and rows[2][1:] == ["—"]
    assert [a["href"] for a in soup.select("a")] == ["table-1.html"] * 3 + ["readings.html"] * 3
    assert soup.select("td[title='it lacks <this>']") and len(set(verdicts.SIGNS.values())) == len(Verdict)
    first = [
        entry("1", good, printed=bad, shared=bad),
        replace(entry("1", bad, printed=bad, shared=bad), dataset="imfdb"),
    ]
    assert verdicts.best(first).endswith("of the combinations on generated persons (`synthetic`).")
    assert verdicts.best(first[1:]).endswith("on none of our datasets.")
    assert verdicts.sizes("standard", []) == ""
    assert "profile quick, seeds 2, 5;" in verdicts.sizes("quick", [2, 5])
    assert "profile paper;" in verdicts.sizes("paper", []) and "standard, seed 3;" in verdicts.sizes("standard", [3])
    words = verdicts.counts(entries)
    assert words == (
        "On generated persons (`synthetic`), of the 2 claims that can be tested, "
        "1 does not hold and 1 depends on the setting."
    )
    assert verdicts.parts([]).empty and verdicts.counts([]) == "" and "<tbody></tbody>" in verdicts.table([]).data
