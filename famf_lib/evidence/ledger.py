"""The ledger: every claim of the paper, how it is tested, and its verdict on a dataset under each setting.

A claim is tested on the results of one experiment. Its parts and their rules were fixed before the runs under the
deciding setting (see ``settings``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from famf_lib.data import datasets
from famf_lib.data.traits import SIGNS
from famf_lib.evidence.bootstrap import Estimate, difference, estimate
from famf_lib.evidence.claims import (
    BETTER,
    BY_MARGIN,
    MARGIN,
    NOT_WORSE,
    SAME,
    SHARE_MARGIN,
    Comparison,
    Rule,
    Verdict,
    across,
    combined,
    parts_held,
)
from famf_lib.experiments.catalogue import EXPERIMENTS, FAMF, FAMF_WITH_MMA, TABLE_1, TABLE_2, reading, set_name
from famf_lib.experiments.parameters import Profile, SettingName
from famf_lib.experiments.results import Results, attention_share, command, run_settings
from famf_lib.experiments.settings import DECIDING, SHORT
from famf_lib.models.aggregation import AttentionVLAD, GhostVLAD

IDENTITY = 1e-5  # the unit of a difference that should be zero; rounding in float32 is below one such unit
LACKING = "it lacks what the claim is about"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its test.

    Args:
        number: its number in the book's list; empty for a claim of our own.
        parts: tests the claim on the results of its experiment; yields a comparison for each part, or only the name of
            a part that the results cannot test.
    """

    number: str
    short: str
    statement: str
    where: str
    experiment: str
    test: str
    parts: Callable[["Claim", Results], Iterator[Comparison | str]]

    def tested(self, results: Results) -> tuple[list[Comparison], list[str]]:
        """The parts that the results can test, with their estimates, and the names of those that they cannot."""
        parts = list(self.parts(self, results))
        return [part for part in parts if not isinstance(part, str)], [part for part in parts if isinstance(part, str)]

    def comparisons(self, results: Results) -> list[Comparison]:
        """The parts that the results can test, with their estimates."""
        return self.tested(results)[0]


@dataclass(frozen=True)
class Outcome:
    """A claim under one setting: its tested parts, the names of the untested ones, and the command of its runs."""

    parts: tuple[Comparison, ...]
    untested: tuple[str, ...]
    command: str

    @property
    def verdict(self) -> Verdict | None:
        """None if no part could be tested."""
        return combined([part.verdict for part in self.parts], self.untested) if self.parts else None

    @property
    def held(self) -> str:
        """How many parts hold, in words, and how many the results cannot test."""
        held = parts_held([part.verdict for part in self.parts] + [Verdict.CANNOT_TELL] * len(self.untested))
        return f"{held}, {len(self.untested)} cannot be tested" if held and self.untested else held


@dataclass(frozen=True)
class Entry:
    """A claim on a dataset: its outcome under each setting, or the reason why nothing was tested."""

    claim: Claim
    dataset: str
    outcomes: Mapping[SettingName, Outcome]
    reason: str = ""

    @property
    def deciding(self) -> Outcome | None:
        """The outcome under the deciding setting."""
        return self.outcomes.get(DECIDING)

    @property
    def verdict(self) -> Verdict | None:
        """That of the deciding setting, unless another setting contradicts it; None if nothing was tested."""
        if self.deciding is None or self.deciding.verdict is None:
            return None
        return across(self.deciding.verdict, [o.verdict for o in self.outcomes.values() if o.verdict])

    @property
    def by_setting(self) -> str:
        """The verdicts that ``verdict`` does not give, in words, such as "as printed: holds; shared: cannot tell"."""
        verdicts = {name: outcome.verdict for name, outcome in self.outcomes.items() if outcome.verdict}
        if len(set(verdicts.values())) == 1:
            return "the same under every setting"
        given = () if self.verdict == Verdict.DEPENDS else (DECIDING,)
        return "; ".join(f"{SHORT[name]}: {verdict}" for name, verdict in verdicts.items() if name not in given)


def _over(
    claim: Claim, results: Results, case: str, a: str, b: str, rule: Rule = BETTER, margin: float = MARGIN
) -> Comparison:
    """The mAP of row ``a`` minus that of row ``b``."""
    printed = EXPERIMENTS[claim.experiment].paper()
    values = (printed.get(a), printed.get(b))
    paper = None if None in values else round(values[0] - values[1], 4)
    words = {"no difference": "with", "no worse": "against"}.get(rule.name, "over")
    ours = difference(results.ap(a), results.ap(b))
    return Comparison(claim.short, case, f"{a} {words} {b}", paper, ours, rule, margin, _headroom(results))


def _headroom(results: Results) -> float | None:
    return None if results.simple is None else 1 - results.simple


def _all_of_table_1(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for other in TABLE_1:
        if other.paper is not None and other != FAMF:
            yield _over(claim, results, other.label, FAMF.label, other.label)


def _aggregations(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for fusion in ("MMA", "MLMA"):
        yield _over(claim, results, f"with {fusion}", f"AttentionVLAD + {fusion}", f"NetVLAD + {fusion}")


def _fusions(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for aggregation in ("NetVLAD", "AttentionVLAD"):
        yield _over(claim, results, f"with {aggregation}", f"{aggregation} + MLMA", f"{aggregation} + MMA")


def _simplest(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    yield _over(claim, results, "mean pooling", FAMF.label, "Mean pooling + Concat")


def _weights(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    measured = set(results.answers["weights"]["trait"])
    for trait, words in (
        ("blur", "blurred"),
        ("occlusion", "occluded"),
        ("size", "low resolution"),
        ("quality", "poor"),
    ):
        if trait in measured:
            rho = SIGNS[trait] * results.answer("weights", FAMF.label, "rho", trait=trait)
            effect = f"rank correlation of weight with {'less ' * (SIGNS[trait] < 0)}{trait}"
            if _varies(rho):
                yield Comparison(claim.short, words, effect, None, estimate(rho), BETTER, SHARE_MARGIN)
                continue
        yield words
    poor, clear = (results.answer("weights", FAMF.label, f"fifth {n}", trait="quality") for n in (1, 5))
    if _varies(clear):
        effect = "the clearest fifth's part of the weight of clearest and poorest fifth, minus a half"
        share = clear / (clear + poor) - 0.5  # (S, P): a ratio within a person
        yield Comparison(claim.short, "clear", effect, None, estimate(share), BETTER, SHARE_MARGIN)
    else:
        yield "clear"


def _varies(values: Float[np.ndarray, "S P"]) -> bool:
    """Whether every run has a value: a trait that is the same for all faces gives only NaN."""
    return bool((~np.isnan(values)).any(axis=1).all())


def _graded(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for fusion in ("Concat", "MLMA"):
        yield _over(claim, results, f"with {fusion}", f"AttentionVLAD + {fusion}", f"GhostVLAD + {fusion}")
    effect = (
        "largest difference of the tokens with φ = 1 for clusters and 0 for ghosts, in units of 10⁻⁵; the margin is 1"
    )
    yield Comparison(claim.short, "the special case", effect, 0.0, ghost_identity(), SAME, 1.0)


def ghost_identity(draws: int = 5) -> Estimate:
    """The largest difference of the K tokens between GhostVLAD and AttentionVLAD with weights 1 and 0.

    Returns the mean over randomly initialised models, with the smallest and largest, in units of 0.00001.
    """
    clusters, ghosts, dim = 8, 3, 64
    found = []
    with torch.random.fork_rng(), torch.no_grad():
        for seed in range(draws):
            torch.manual_seed(seed)
            ghost = GhostVLAD(dim, clusters=clusters, ghosts=ghosts)
            graded = AttentionVLAD(dim, clusters=clusters + ghosts)
            graded.assignment.load_state_dict(ghost.assignment.state_dict())
            graded.centres[:clusters] = ghost.centres
            graded.cluster_attention = lambda: (torch.arange(clusters + ghosts) < clusters).float()
            x = torch.randn(31, 24, dim)
            tokens = graded(x)
            apart = torch.cat([tokens[:, :clusters] - ghost(x), tokens[:, clusters:]], dim=1)
            found.append(float(apart.abs().max()) / IDENTITY)
    return Estimate(float(np.mean(found)), min(found), max(found), draws, 0)


def _modalities(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    face, audio, best = set_name(()), set_name(("audio",)), set_name(("audio", "body"))
    parts = [("audio helps", audio, face), ("text hurts", audio, set_name(("audio", "text")))]
    parts += [(f"best: over {row.label}", best, row.label) for row in TABLE_2 if row.label != best]
    for case, a, b in parts:
        available = {a, b} <= set(results.labels)  # not every dataset has every set
        yield _over(claim, results, case, a, b) if available else case


def _attention(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    used = set(results.answers["attention"]["row"])
    for row, columns, case in (("body", "face", "body leans on the face"), ("audio", "audio", "audio stands apart")):
        if row in used:
            share, even = attention_share(results, FAMF.label, row, columns)
            effect = f"attention of {row} on {'itself' if row == columns else f'the {columns}'}, minus an even share"
            yield Comparison(claim.short, case, effect, None, estimate(share - even), BY_MARGIN, SHARE_MARGIN)
        else:
            yield case


def _clusters(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for k in (2, 4, 16):
        yield _over(claim, results, f"K = 8 over {k}", "K = 8", f"K = {k}")


def _convolutions(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    one = reading("MMA", "one convolution alone").label
    yield _over(claim, results, "two beat one", FAMF.label, one)
    mma = FAMF_WITH_MMA.label
    for name in ("no residual", "no L2"):
        yield _over(claim, results, f"MMA with {name}", reading("MMA", name).label, mma, SAME)


def _missing(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    rows = {fusion: f"AttentionVLAD + {fusion}, all modalities" for fusion in ("Concat", "MMA", "MLMA")}

    def loss(fusion: str, gone: str) -> np.ndarray:
        answer = partial(results.answer, "missing", rows[fusion], "ap")
        return answer(missing="") - answer(missing=gone)

    removed = [gone for gone in results.answers["missing"]["missing"].unique() if gone]
    # What the paper calls correlated with the face comes first, and is untested where the data lack it.
    for gone in dict.fromkeys(["body", "head", *removed]):
        for other in ("Concat", "MMA"):
            case = f"{gone}, against {other}"
            effect = f"loss without {'all but the face' if gone == 'all' else gone}: {other} minus MLMA"
            if gone in removed:
                ours = difference(loss(other, gone), loss("MLMA", gone))
                yield Comparison(claim.short, case, effect, None, ours, headroom=_headroom(results))
            else:
                yield case


def _faces(claim: Claim, results: Results) -> Iterator[Comparison | str]:
    for n in (8, 48):
        a, b = "trained with N = 24", f"trained with N = {n}"
        ours = difference(*(results.answer("faces", row, "ap", faces=n) for row in (a, b)))
        effect = f"{a} against {b}, both tested with {n}"
        case = f"tested with {n}"
        yield Comparison(claim.short, case, effect, None, ours, NOT_WORSE, headroom=_headroom(results))


CLAIMS = (
    Claim(
        "1",
        "FAMF over the others",
        "FAMF beats the five other combinations of Table 1.",
        "Table 1, Sec. 4.4",
        "table-1",
        "mAP of FAMF over that of each other row",
        _all_of_table_1,
    ),
    Claim(
        "2",
        "AttentionVLAD over NetVLAD",
        "AttentionVLAD beats NetVLAD, everything else equal.",
        "Table 1, Sec. 4.4",
        "table-1",
        "mAP with AttentionVLAD over that with NetVLAD, once with MMA and once with MLMA",
        _aggregations,
    ),
    Claim(
        "3",
        "MLMA over MMA",
        "MLMA beats MMA, everything else equal.",
        "Table 1, Sec. 4.4",
        "table-1",
        "mAP with MLMA over that with MMA, once after NetVLAD and once after AttentionVLAD",
        _fusions,
    ),
    Claim(
        "4",
        "poor faces weigh less",
        "Cluster attention gives blurred, occluded and low-resolution faces less weight, and clear ones close to 1.",
        "Fig. 3, Sec. 4.2",
        "weights",
        "Spearman's rank correlation of a face's weight with each trait, within persons, in the direction claimed; and "
        "the clearest fifth of a person's faces weighs more than the poorest fifth. “Close to 1” is not tested: "
        "where clusters are normalised, only ratios of weights have a meaning",
        _weights,
    ),
    Claim(
        "5",
        "graded over binary weights",
        "Graded cluster weights beat GhostVLAD's binary ones, which are a special case of them.",
        "Sec. 3.2, Table 1",
        "graded-weights",
        "mAP with AttentionVLAD over that with GhostVLAD, once with Concat and once with MLMA; and the tokens of "
        "both are equal if φ is 1 for clusters and 0 for ghosts",
        _graded,
    ),
    Claim(
        "6",
        "audio helps, text hurts",
        "Audio helps the face; text hurts face and audio; face, audio and body are the best set.",
        "Table 2, Sec. 4.4",
        "table-2",
        "mAP of the sets in pairs; the best one over each other one",
        _modalities,
    ),
    Claim(
        "7",
        "body leans on the face, audio stands apart",
        "In MLMA's attention matrix the body leans on the face, and audio stands apart.",
        "Fig. 4, Sec. 4.4",
        "attention",
        "the body's attention on all tokens of the face exceeds an even share of its attention by more than the "
        "margin, and so does the audio's on itself",
        _attention,
    ),
    Claim(
        "8",
        "eight clusters",
        "K = 2 and 4 are too few, K = 8 is best.",
        "Sec. 4.4",
        "clusters",
        "mAP with K = 8 over that with 2, 4 and 16, all with the same batch size",
        _clusters,
    ),
    Claim(
        "9",
        "two convolutions, no tricks",
        "Two consecutive convolutions beat one in the Gram matrix; MMA's residual and L2 term make no difference.",
        "Sec. 3.3",
        "convolutions",
        "mAP of MLMA over that of one convolution alone; MMA without the residual, and without the L2 term, is "
        "equivalent to MMA",
        _convolutions,
    ),
    Claim(
        "10",
        "MLMA makes up for a missing modality",
        "MLMA makes up for a missing modality with a correlated one.",
        "Sec. 3.3",
        "missing-modalities",
        "a modality that is removed at test time costs less mAP with MLMA than with Concat and with MMA: body and "
        "head, which are correlated with the face, then every other modality, and all of them at once",
        _missing,
    ),
    Claim(
        "11",
        "N may differ",
        "The number of faces may differ between training and test.",
        "Sec. 4.3",
        "faces",
        "trained with N = 24 and tested with 8 and 48: mAP no worse than when trained with that number",
        _faces,
    ),
)
"""The paper's claims, in its order."""

OURS = (
    Claim(
        "",
        "FAMF over the simplest",
        "FAMF beats the mean of the faces.",
        "not in the paper",
        "table-1",
        "mAP of FAMF over that of mean pooling with Concat",
        _simplest,
    ),
)
"""Claims that the paper does not make but that a reader will ask about."""


def comparisons(experiment: str, results: Results) -> list[Comparison]:
    """The comparisons of all claims that are tested on an experiment, the paper's first."""
    return [part for claim in _tested_on(experiment) for part in claim.comparisons(results)]


def entries(experiment: str, dataset: str, found: Mapping[SettingName, Results]) -> list[Entry]:
    """The entries of all claims that are tested on an experiment, the paper's first."""
    return [entry(claim, dataset, found) for claim in _tested_on(experiment)]


def _tested_on(experiment: str) -> list[Claim]:
    return [claim for claim in (*CLAIMS, *OURS) if claim.experiment == experiment]


def evaluate_claims(dataset: str, profile: Profile, seeds: Sequence[int] = (), device: str = "auto") -> list[Entry]:
    """Tests every claim of the paper on a dataset under every setting, from the same runs that its page shows.

    Args:
        seeds: for all experiments; by default each uses those of its page.
    """
    found: dict[str, Mapping[SettingName, Results] | str] = {}
    for name in dict.fromkeys(claim.experiment for claim in CLAIMS):
        if not EXPERIMENTS[name].serves(datasets.get(dataset)):
            found[name] = LACKING
            continue
        try:
            found[name] = run_settings(name, dataset, profile, seeds, device)
        except datasets.DatasetAbsent as absence:
            found[name] = str(absence)
    return [entry(claim, dataset, found[claim.experiment]) for claim in CLAIMS]


def entry(claim: Claim, dataset: str, found: Mapping[SettingName, Results] | str) -> Entry:
    """The entry of a claim from the results of its experiment, or from the reason why there are none."""
    if isinstance(found, str):
        return Entry(claim, dataset, {}, found)
    outcomes = {name: outcome(claim, dataset, results) for name, results in found.items()}
    return Entry(claim, dataset, outcomes, "" if any(o.parts for o in outcomes.values()) else LACKING)


def outcome(claim: Claim, dataset: str, results: Results) -> Outcome:
    """The outcome of a claim under the setting of some results."""
    here = command(claim.experiment, dataset, results.profile, results.seeds)
    parts, untested = claim.tested(results)
    return Outcome(tuple(parts), tuple(untested), results.recorded["command"] if results.recorded else here)
