"""Speed and memory of the library, as recorded by the scripts in ``benchmarks/``: sentences, tables and figures.

Nothing is measured here. Benchmarks without a record in results/ are left out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from famf_book.plots import GB, MB, OURS, PALETTE, WIDTH, bytes_text, name_rows
from famf_lib.models.aggregation import AGGREGATIONS

Records = Mapping[str, Mapping[str, dict[str, Any]]]
"""The records by name of the benchmark, then by device, ``cpu`` or ``gpu``."""

FORMS = {
    "residuals": "stored residuals",
    "loop": "a loop over clusters",
    "products": "two matrix products",
    "chunks": "products in chunks",
    "compiled": "two products, compiled",
    "fused": "three fused kernels",
}
COLOURS = {
    "residuals": PALETTE[1],
    "loop": PALETTE[4],
    "products": PALETTE[2],
    "chunks": OURS,
    "compiled": PALETTE[5],
    "fused": PALETTE[6],
}
SHOWN = ("attentionvlad", 8, 1024)  # the case in the sentences: module, K, B


def records(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Every record in the folder, results/, that the page shows."""
    found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in _TOLD}
    for name, of_device in found.items():
        for device in ("cpu", "gpu"):
            if (place := folder / f"{name}-{device}.json").is_file():
                of_device[device] = json.loads(place.read_text())
    return found


# --- sentences -------------------------------------------------------------------------------------------------------


def answer(found: Records) -> str:
    """A Markdown list with one point per record."""
    lines = [tell(record, device) for name, tell in _TOLD.items() for device, record in found[name].items()]
    if lines and not any("gpu" in of_device for of_device in found.values()):
        lines.append("No GPU has been measured yet: all numbers are for a CPU.")
    return "\n".join(f"- {one}" for one in lines if one) or "Nothing is recorded yet. `make bench` makes the records."


def _kernels(record: dict, device: str) -> str:
    row = next((r for r in _wanted(record) if (r["module"], r["K"], r["B"]) == SHOWN), None)
    if row is None:
        return ""
    own, times, memory = row["library"], row["times the library's"], row["memory (bytes)"]
    parts = [
        f"{FORMS[form]} need {times[form]:.1f} times the time and {memory[form] / memory[own]:,.0f} times the memory"
        for form in ("residuals", "products")
        if form in times and form != own
    ]
    case = f"AttentionVLAD forward and backward, K = {row['K']}, {row['B']:,} clips whose faces require a gradient"
    compared = f"; {', '.join(parts)}" if parts else ""
    first = (
        f"On the {device.upper()}, the residual sums ({case}) take {1e3 * row['seconds'][own]:.3g} ms as {FORMS[own]}"
    )
    more = [kept(record) if record["memory kept"] else "", in_training(record) if record["training"] else ""]
    return " ".join([f"{first}{compared}.", *filter(None, more)])


def kept(record: dict) -> str:
    """The gain of chunks in a process that keeps its memory, in a sentence."""
    ratios = [row["products / chunks"] for row in record["memory kept"]]
    return (
        "Part of the difference is the system's allocation of memory for large tensors in each step: in a process that "
        f"keeps its memory, {FORMS['products']} take {spread(ratios)} times as long as chunks, over all K and B."
    )


def in_training(record: dict) -> str:
    """The speed of a training step, whose faces require no gradient, with another form, in a sentence."""
    ratios = [row["products / form"] for row in record["training"]]
    form = FORMS[record["training"][0]["form"]]
    return (
        f"In training the faces require no gradient, and the library uses {FORMS['products']}: with {form}, a whole "
        f"step has {spread(ratios)} times the speed."
    )


def spread(ratios: Sequence[float]) -> str:
    """The smallest and largest ratio, or one number if they are equal."""
    return " to ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in (min(ratios), max(ratios))))


def _clusters(record: dict, device: str) -> str:
    rows = {(row["residuals"], row["K"]): row["counted (bytes)"] for row in record["rows"]}
    if device == "gpu" or not {(False, 64), (True, 64), (False, 8)} <= rows.keys():
        return ""  # the count is the same on every device
    return (
        f"A full-size training step takes {bytes_text(rows[False, 64])} with K = 64, {bytes_text(rows[True, 64])} if "
        f"every residual is stored, and {bytes_text(rows[False, 8])} with K = 8."
    )


def _metric(record: dict, device: str) -> str:
    others = [f"{row['library']} takes {row['theirs / ours']:.1f} times as long" for row in record["beside"]]
    compared = f" On a hundredth of these data, {' and '.join(others)}, with the same results." if others else ""
    return told_metric(record["full"], device) + compared


def told_metric(full: dict, device: str) -> str:
    """Time and memory of the metric at full size, in a sentence."""
    return (
        f"Ranking {full['clips']:,} clips for {full['persons']:,} persons takes {full['seconds']:.1f} s and "
        f"{bytes_text(full['memory, tensors (bytes)'])} on the {device.upper()}."
    )


def _batched(record: dict, device: str) -> str:
    ratios = [row["one after the other / batched"] for row in record["rows"] if row["profile"] == "standard"]
    if not ratios:
        return ""
    gain = "no gain" if max(ratios) < 1.05 else "mixed results" if min(ratios) < 1.05 else "a gain"
    return (
        f"Training several seeds as one batch has {min(ratios):.2f} to {max(ratios):.2f} times the speed of training "
        f"them one after the other on the {device.upper()}: {gain}."
    )


def _precision(record: dict, device: str) -> str:
    rows = record["rows"]
    faster = [row["float32 / bfloat16"] for row in rows]
    lost = sum(row["mAP, float32"] - row["mAP, bfloat16"] for row in rows) / len(rows)
    return (
        f"bfloat16 trains {min(faster):.1f} to {max(faster):.1f} times as fast as float32 on the {device.upper()}, and "
        f"{'loses' if lost > 0 else 'gains'} {abs(lost):.4f} mAP on average."
    )


def _import(record: dict, device: str) -> str:
    if "import / pickle.load, seconds" not in record:
        return ""
    return (
        f"Importing {record['faces']:,} faces from pickles takes {record['seconds']['import']:.0f} s, "
        f"{record['import / pickle.load, seconds']:.1f} times as long as `pickle.load`, which would run any code in a "
        f"file, and {record['peak memory, MiB']['import']:,} MiB of memory instead of "
        f"{record['peak memory, MiB']['pickle.load']:,}."
    )


def _extraction(record: dict, device: str) -> str:
    speed = {name: row["a processor second"] for name, row in record["speed"].items()}
    (short, least), *_, (length, most) = [
        (name.partition(",")[0], row["peak memory (MiB)"]) for name, row in record["length"].items()
    ]
    return (
        f"One core processes {speed['seconds of video, 5 pictures a second, one picture at a time']:.1f} seconds of "
        "video per second, at five pictures with two faces each per second of video. It detects faces in "
        f"{speed['pictures looked at for faces, one thread']:.0f} pictures per second, and aligns and embeds "
        f"{speed['faces aligned and embedded, one thread']:.0f} faces per second; the network alone reaches "
        f"{speed['faces through the network alone, one thread']:.0f}. A video of {length} takes {most} MiB of memory, "
        f"one of {short.partition(' ')[0]} takes {least}."
    )


def _pictures(record: dict, device: str) -> str:
    speed = record["faces a second"]
    return (
        f"All cores together decode, align and embed {speed['whole']:.0f} faces of IMFDB per second; the network alone "
        f"reaches {speed['network alone']:.0f}."
    )


_TOLD = {
    "aggregation-kernels": _kernels,
    "cluster-memory": _clusters,
    "metric": _metric,
    "batched-seeds": _batched,
    "precision": _precision,
    "import-iqiyi": _import,
    "extraction": _extraction,
    "imfdb-embedding": _pictures,
}


# --- tables ----------------------------------------------------------------------------------------------------------


def kernels_table(record: dict) -> pd.DataFrame:
    """One row per case: milliseconds and MB of the library's form, and the relative time of each form."""
    rows = {}
    for row in record["rows"]:
        module = AGGREGATIONS[row["module"]].__name__
        case = f"{module}, K = {row['K']}, B = {row['B']:,}" + ", no gradient for faces" * row["faces given"]
        own, times = row["library"], row["times the library's"]
        rows[case] = {
            "ms": f"{1e3 * row['seconds'][own]:,.{1 if row['seconds'][own] < 0.1 else 0}f}",
            "MB": f"{row['memory (bytes)'][own] / MB:,.{1 if row['memory (bytes)'][own] < 10 * MB else 0}f}",
            "times the roofline": f"{row['library / floor']:.1f}",
        } | {form: f"{times[form]:.2f}" if form in times else "" for form in FORMS if form in _forms(record)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("case")


def clusters_table(found: Mapping[str, dict]) -> pd.DataFrame:
    """One row per form and K: the calculated peak and the measured ones, in GB."""
    rows: dict[str, dict] = {}
    for device, record in found.items():
        for row in record["rows"]:
            line = rows.setdefault(
                f"{row['form']}, K = {row['K']}", {"calculated": f"{row['counted (bytes)'] / GB:.2f} GB"}
            )
            if row.get("real (bytes)"):
                line[f"measured, {device.upper()}"] = f"{row['real (bytes)'] / GB:.2f} GB"
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("form")


def metric_table(found: Mapping[str, dict]) -> pd.DataFrame:
    """One row per comparison with another library."""
    rows = {
        f"{row['library']}, k = {row['k']:,}, {device.upper()}": {
            "persons × clips": f"{row['persons']:,} × {row['clips']:,}",
            "ours (s)": f"{row['seconds']['ours']:.3g}",
            "theirs (s)": f"{row['seconds'][row['library']]:.3g}",
            "theirs / ours": f"{row['theirs / ours']:.1f}",
            "largest difference": f"{row['largest difference of an AP']:.0e}",
        }
        for device, record in found.items()
        for row in record["beside"]
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("library")


def import_table(record: dict) -> pd.DataFrame:
    """One row per step: seconds, and peak memory of its process and child process."""
    memory = record["peak memory, MiB"]
    rows = {
        step: {"wall time (s)": f"{s:.1f}", "peak (MiB)": f"{memory[step]:,}"} for step, s in record["seconds"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")


def extraction_table(record: dict) -> pd.DataFrame:
    """One row per step, then one per file: units per second of core time and of wall time, and peak memory."""
    rows = {
        name: {
            "per core-second": f"{row['a processor second']:,.1f}",
            "per second": f"{row['a second']:,.1f}",
            "peak (MiB)": f"{row['peak memory (MiB)']:,}",
        }
        for name, row in (record["speed"] | {f"seconds of video, {n}": r for n, r in record["length"].items()}).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")


def origins(found: Records) -> str:
    """A Markdown list with the command, commit and machine of each record."""
    lines = []
    for name, of_device in found.items():
        for device, record in of_device.items():
            origin = record.get("origin", record)
            hardware, commit = origin["hardware"], origin.get("commit") or "unknown"
            machine = hardware.get("gpu") or f"{hardware['processor']}, {hardware['cores']} cores"
            load = " … ".join(f"{value:.1f}" for value in origin.get("load average", {}).values())
            lines.append(
                f"- **{name}, {device.upper()}**: `{record['command']}` at commit `{commit[:12]}`"
                f"{' with uncommitted changes' if commit.endswith('-dirty') else ''}, on {machine}, PyTorch "
                f"{origin['versions']['torch']}{f', load {load}' if load else ''}."
            )
    return "\n".join(lines)


# --- figures ---------------------------------------------------------------------------------------------------------


def kernels(found: Mapping[str, dict], module: str = "attentionvlad") -> Figure:
    """Microseconds per clip of each form against batch size: one row of panels per device, one panel per K."""
    sizes = {device: sorted({row["K"] for row in _wanted(record)}) for device, record in found.items()}
    columns = max(map(len, sizes.values()), default=1) or 1
    shape = (max(len(found), 1), columns)
    figure, panels = plt.subplots(
        *shape, figsize=(WIDTH, 1.0 + 2.6 * shape[0]), layout="constrained", sharey="row", squeeze=False
    )
    named: dict[str, Any] = {}
    for line, (device, record) in zip(panels, found.items(), strict=False):
        for axes, k in zip(line, sizes[device], strict=False):
            rows = sorted((r for r in _wanted(record) if (r["module"], r["K"]) == (module, k)), key=lambda r: r["B"])
            for form in FORMS:
                points = [(r["B"], 1e6 * r["seconds"][form] / r["B"]) for r in rows if form in r["seconds"]]
                if points:
                    (named[FORMS[form]],) = axes.plot(
                        *zip(*points, strict=True), color=COLOURS[form], marker="o", markersize=5
                    )
            least = [(r["B"], 1e6 * max(r["floor (s)"].values()) / r["B"]) for r in rows]
            if least:
                (named["roofline of the machine"],) = axes.plot(
                    *zip(*least, strict=True), color="0.35", linewidth=1, linestyle=(0, (4, 3))
                )
            _logarithmic(axes, [r["B"] for r in rows], f"K = {k}" + f", {device.upper()}" * (len(found) > 1))
            axes.margins(x=0.12)  # keeps the last tick label apart from the first of the next panel
        line[0].set_ylabel("microseconds per clip")
    figure.supxlabel("B, clips per batch", fontsize=10)
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def clusters(found: Mapping[str, dict]) -> Figure:
    """Peak memory of a full-size training step against K: calculated as lines, measured as rings."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    drawn = set()
    for number, (device, record) in enumerate(found.items()):
        for stored, colour in ((False, OURS), (True, PALETTE[1])):
            rows = sorted((row for row in record["rows"] if row["residuals"] == stored), key=lambda row: row["K"])
            if not rows:
                continue
            if stored not in drawn:
                drawn.add(stored)
                numbers = [row["K"] for row in rows], [row["counted (bytes)"] for row in rows]
                axes.plot(*numbers, color=colour, marker="o", markersize=4, label=rows[0]["form"])
            real = [(row["K"], row["real (bytes)"]) for row in rows if row.get("real (bytes)")]
            if real:
                ring = {"s": 110, "facecolor": "none", "edgecolor": colour, "linewidth": 1.4, "marker": "os"[number]}
                axes.scatter(*zip(*real, strict=True), **ring, zorder=4, label=f"measured, {device.upper()}")
    _logarithmic(axes, [row["K"] for record in found.values() for row in record["rows"]], "")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value)))
    axes.set_xlabel("K, the number of clusters")
    axes.set_ylabel("peak memory of a training step")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def attempts(found: Records) -> Figure:
    """The speed-up of each attempt at faster training: one dot per measured case, and the median."""
    rows = [(label, device, speeds) for label, device, speeds in _speeds(found) if speeds]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.1 + 0.5 * max(len(rows), 1)), layout="constrained")
    axes.axvline(1, color="0.35", linewidth=1)
    for y, (_, device, speeds) in enumerate(rows):
        colour = OURS if device == "cpu" else PALETTE[2]
        middle = pd.Series(speeds).median()
        axes.scatter(speeds, [y + 0.2] * len(speeds), s=16, color=colour, alpha=0.5, linewidth=0)
        axes.scatter(middle, y, s=60, color=colour, zorder=3)
        axes.annotate(f"{middle:.2f}", (middle, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9)
    name_rows(axes, [f"{label}, {device.upper()}" for label, device, _ in rows])
    axes.set_xlabel("speed relative to training without it")
    return figure


def _speeds(found: Records) -> list[tuple[str, str, list[float]]]:
    lines = []
    for device, record in found["aggregation-kernels"].items():
        rows = record["training"]
        lines += [(f"aggregation as {FORMS[row['form']]}", device, [row["products / form"]]) for row in rows]
    for device, record in found["batched-seeds"].items():
        rows = [row for row in record["rows"] if row["profile"] == "standard"]
        lines.append(("several seeds in one batch", device, [row["one after the other / batched"] for row in rows]))
    for device, record in found["precision"].items():
        lines.append(("bfloat16", device, [row["float32 / bfloat16"] for row in record["rows"]]))
    return lines


def _wanted(record: dict) -> list[dict]:
    """The cases whose faces require a gradient."""
    return [row for row in record["rows"] if not row["faces given"]]


def _forms(record: dict) -> set[str]:
    return {form for row in record["rows"] for form in row["seconds"]}


def _logarithmic(axes: Axes, numbers: list, title: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = sorted(set(numbers))
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_title(title, fontsize=10)
