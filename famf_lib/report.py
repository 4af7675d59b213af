"""Tables and sentences from the runs. Nothing here trains, and no number is typed in."""

import json

import pandas as pd
from IPython.display import HTML

from famf_lib import datasets, paper
from famf_lib.claims import Comparison, Verdict
from famf_lib.experiments import GRID, TABLE_1, Profile, Results, Setting, tuning_file
from famf_lib.splits import HELD_OUT
from famf_lib.statistics import LEVEL, difference, estimate

FAMF = "AttentionVLAD + MLMA"
RECORDED_DIGITS = 1e-5  # a recording keeps five digits of each AP
PAPER_TABLE_1 = {v.label: paper.TABLE_1.get(v.modules) for v in TABLE_1}


def table_1(results: Results) -> pd.DataFrame:
    """A row a method: the paper's mAP, ours with its interval, rank-1, seconds a training."""
    rows = {}
    for label in results.labels:
        ours = estimate(results.ap(label))
        runs = [results.runs[label, seed] for seed in results.seeds]
        rows[label] = {
            "paper": PAPER_TABLE_1[label],
            "ours": ours.mean,
            "low": ours.low,
            "high": ours.high,
            "rank-1": sum(run.rank_1 for run in runs) / len(runs),
            "seconds": sum(run.seconds for run in runs) / len(runs),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def by_seed(results: Results) -> pd.DataFrame:
    """mAP of every run: a row a method, a column a seed."""
    return results.mean_ap().rename_axis("method")


def comparisons(results: Results) -> list[Comparison]:
    """The claims of Table 1 as paired differences, in the paper's order of argument (Sec. 4.2 and 4.4)."""
    pairs = [
        ("AttentionVLAD over NetVLAD", "with MMA", "AttentionVLAD + MMA", "NetVLAD + MMA"),
        ("AttentionVLAD over NetVLAD", "with MLMA", FAMF, "NetVLAD + MLMA"),
        ("MLMA over MMA", "with NetVLAD", "NetVLAD + MLMA", "NetVLAD + MMA"),
        ("MLMA over MMA", "with AttentionVLAD", FAMF, "AttentionVLAD + MMA"),
        ("FAMF over earlier methods", "NetVLAD + MMA", FAMF, "NetVLAD + MMA"),
        ("FAMF over earlier methods", "GhostVLAD + Concat", FAMF, "GhostVLAD + Concat"),
        ("FAMF over earlier methods", "NeXtVLAD + Concat", FAMF, "NeXtVLAD + Concat"),
        ("FAMF over the simplest", "mean pooling + Concat", FAMF, "Mean pooling + Concat"),
    ]
    compared = []
    for claim, case, a, b in pairs:
        there = (PAPER_TABLE_1[a], PAPER_TABLE_1[b])
        said = None if None in there else round(there[0] - there[1], 4)
        compared.append(Comparison(claim, case, a, b, said, difference(results.ap(a), results.ap(b))))
    return compared


def comparison_table(compared: list[Comparison]) -> pd.DataFrame:
    """A row a comparison: the paper's difference, ours with its interval, the verdict."""
    return pd.DataFrame(
        {
            "paper": [c.paper for c in compared],
            "ours": [c.ours.mean for c in compared],
            "low": [c.ours.low for c in compared],
            "high": [c.ours.high for c in compared],
            "verdict": [str(c.verdict) for c in compared],
        },
        index=pd.Index([c.name for c in compared], name="claim"),
    )


def answer(results: Results, compared: list[Comparison]) -> str:
    """What Table 1 says here, in a paragraph written from the numbers."""
    table = table_1(results)
    order = table["ours"].sort_values(ascending=False)
    place = list(order.index).index(FAMF) + 1
    ranked = "first" if place == 1 else f"number {place}"
    parts = [
        f"FAMF ({FAMF}) comes out {ranked} of {len(order)} rows, with mAP {order[FAMF]:.4f} "
        f"[{table['low'][FAMF]:.4f}, {table['high'][FAMF]:.4f}]"
    ]
    parts.append("." if place == 1 else f"; the best is {order.index[0]} with {order.iloc[0]:.4f}.")
    for claim in dict.fromkeys(c.claim for c in compared):
        verdicts = [c.verdict for c in compared if c.claim == claim]
        number = {1: "", 2: " in both comparisons"}.get(len(verdicts), f" in all {len(verdicts)} comparisons")
        if len(set(verdicts)) == 1:
            parts.append(f" “{claim}”: **{verdicts[0]}**{number}.")
        else:
            counts = ", ".join(f"{verdicts.count(v)} × {v}" for v in Verdict if v in verdicts)
            parts.append(f" “{claim}”: **mixed** ({counts}).")
    return "".join(parts)


def where_from(results: Results) -> str:
    """Whether the numbers were made here, and if not, where."""
    if results.recorded is None:
        when = max(run.origin["when"] for run in results.runs.values())
        return f"Trained on this machine, the last run on {when}; data fingerprint `{results.data}`."
    recorded, origin = results.recorded, results.recorded["origin"]
    machine = origin["hardware"].get("gpu") or f"{origin['hardware']['processor']}, {origin['hardware']['cores']} cores"
    return (
        f"**Recorded, not run here**: the dataset is not on this machine. Made by `{recorded['command']}` at commit "
        f"`{(origin['commit'] or 'unknown')[:12]}` on {machine}, PyTorch {origin['versions']['torch']}; profile "
        f"{results.profile}; data fingerprint `{results.data}`."
    )


def beside_recording(results: Results, recorded: Results | None) -> str | None:
    """Whether fresh runs differ from the recorded ones, in a sentence; None where there is nothing to compare."""
    if results.recorded is not None or recorded is None:
        return None
    if results.data != recorded.data:
        return f"The recorded runs were made on other data (fingerprint `{recorded.data}`): nothing to compare."
    both = [key for key in results.runs if key in recorded.runs]
    same = [key for key in both if results.runs[key].spec == recorded.runs[key].spec]
    if not same:
        return "The recorded runs have other settings or seeds: nothing to compare."
    apart = {key: abs(results.runs[key].mean_ap - recorded.runs[key].mean_ap) for key in same}
    worst = max(apart, key=apart.get)
    differ = sum(d >= RECORDED_DIGITS for d in apart.values())
    if not differ:
        return f"All {len(same)} runs give the numbers that were recorded."
    here, there = (sum(r.runs[key].mean_ap for key in same) / len(same) for r in (results, recorded))
    return (
        f"Of {len(same)} runs {differ} differ from the recorded ones: at most by {apart[worst]:.4f} mAP ({worst[0]}, "
        f"seed {worst[1]}), on average over all by {abs(here - there):.4f}."
    )


def setting_table(setting: Setting) -> pd.DataFrame:
    """What all rows share, a line a setting."""
    flat = setting.model_dump() | setting.training.model_dump()
    del flat["training"]
    return pd.DataFrame({"value": [str(v) for v in flat.values()]}, index=pd.Index(flat, name="setting"))


def styled(table: pd.DataFrame) -> HTML:
    """A table for a page: four digits, an interval in one column, nothing where there is no value."""
    shown = table.copy()
    if {"low", "high"} <= set(shown):
        interval = [f"{low:.4f} … {high:.4f}" for low, high in zip(shown["low"], shown["high"], strict=True)]
        shown.insert(shown.columns.get_loc("low"), f"{LEVEL:.0%} interval", interval)
        shown = shown.drop(columns=["low", "high"])
    if "seconds" in shown:
        shown["seconds"] = [f"{s:.1f}" for s in shown["seconds"]]
    named = shown.index.name is not None
    if named:
        shown = shown.rename_axis(index=None, columns=shown.index.name)  # the name of the rows in the header, not below
    # The page gives names their room, and sets many columns smaller.
    kinds = ["famf-names"] * (named and shown.index.dtype != int) + ["famf-wide"] * (shown.shape[1] > 6)
    html = shown.to_html(index=named, border=0, classes=kinds, na_rep="", float_format="{:.4f}".format)
    return HTML(html)


def protocol(dataset: str, results: Results) -> str:
    """How the runs were split, trained and scored, in a paragraph."""
    spec = next(iter(results.runs.values())).spec
    source = datasets.get(dataset)
    split = {
        "given": "The source fixes which clips train and which are ranked; the gallery keeps its noise clips, training "
        "has none (Sec. 4.1). A seed decides the first weights and the faces that are sampled.",
        "groups": "No film of a person is on both sides: of each person's films a third, one or more, are ranked, the "
        "others train, and persons with a single film are left out. Every seed deals the films anew, so the interval "
        "covers the choice of films too.",
        "random": "A third of each person's clips are ranked and the others train, dealt anew by every seed.",
    }[spec.protocol]
    beside = " and ".join(spec.model.modalities)
    given = f"The face is fused with {beside}." if beside else "There is the face alone: fusion mixes its clusters."
    return (
        f"Data: {source.title}. {split} {given} A run ranks the clips by {spec.evaluation.rank_by}; a person keeps the "
        f"best {spec.evaluation.k}, and AP divides by all the person's clips. Seeds: "
        f"{', '.join(map(str, results.seeds))}. All rows share the settings below."
    )


def choice(dataset: str, profile: Profile) -> str:
    """How the settings were chosen, in a paragraph."""
    place = tuning_file(dataset, profile)
    if not place.exists():
        return "These are the settings of the profile; nothing was chosen by a measurement."
    told = json.loads(place.read_text())
    grid = ", ".join(f"`{key}` among {' · '.join(map(str, values))}" for key, values in GRID.items())
    return (
        f"Chosen on the tuning part, which is never reported: {grid}. Its gallery is {HELD_OUT:.0%} of each person's "
        f"training films or clips. One choice serves all rows: the best mAP on average over the rows and the seeds "
        f"{', '.join(map(str, told['seeds']))}. `{told['command']}` repeats it. It gave:"
    )


def tuning_table(dataset: str, profile: Profile) -> pd.DataFrame | None:
    """Every setting that was tried, best first, with the mAP on the tuning part."""
    place = tuning_file(dataset, profile)
    if not place.exists():
        return None
    told = json.loads(place.read_text())
    table = pd.DataFrame([{k: str(v) for k, v in line.items() if k in GRID} | line["rows"] for line in told["table"]])
    table.insert(len(GRID), "all rows", [line["mean_ap"] for line in told["table"]])
    return table.sort_values("all rows", ascending=False, ignore_index=True)
