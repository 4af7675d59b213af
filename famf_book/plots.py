"""The style of all figures, and two dot plots with intervals that many pages share.

The paper's values are hollow black diamonds; a verdict is the shape of a mark, and a setting its colour.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import SupportsFloat

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib_inline.backend_inline import set_matplotlib_formats

from famf_lib.evidence.claims import Comparison, Verdict
from famf_lib.experiments.parameters import SettingName
from famf_lib.experiments.settings import SHORT

PALETTE = sns.color_palette("colorblind")
OURS, PAPER, MUTED = PALETTE[0], "black", "0.55"
DIAMOND = {"s": 48, "marker": "D", "facecolor": "none", "edgecolor": PAPER, "linewidth": 1.6}
SETTING_COLOURS: dict[SettingName, tuple] = {"printed": PALETTE[1], "own": OURS, "shared": PALETTE[7]}
SETTING_OFFSETS: dict[SettingName, float] = {"printed": -0.24, "own": 0.0, "shared": 0.24}
# A verdict is read from the shape of its mark: colour is free for the setting, and a grey print loses nothing.
VERDICT_MARKS: dict[Verdict, dict] = {
    Verdict.HOLDS: {"marker": "o"},
    Verdict.DOES_NOT_HOLD: {"marker": "X"},
    Verdict.CANNOT_TELL: {"marker": "o", "markerfacecolor": "white"},
    Verdict.TOO_EASY: {"marker": "s", "markerfacecolor": "white"},
    Verdict.DEPENDS: {"marker": "o", "fillstyle": "left", "markerfacecoloralt": "white"},
}
TIP = "tip: "
WIDTH = 7.5  # inches: the text column of the book
GB, MB = 2**30, 2**20  # as for graphics cards: an "11 GB" card has 11 × 2³⁰ bytes


def theme() -> None:
    """Sets the style of every figure and SVG output in notebooks. The background is transparent."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 4.0),
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "0.88",
            "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
            "svg.hashsalt": "famf",  # makes the SVG of a figure reproducible
        }
    )
    if (shell := get_ipython()) is not None:
        set_matplotlib_formats("svg")
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def tip(artist: Artist, text: str) -> None:
    """Gives a mark the text that an SVG figure shows when a reader points at it."""
    artist.set_gid(f"{TIP}{text}")


def svg(figure: Figure) -> str:
    """The figure as SVG, with its tips."""
    with _lines_apart(figure):
        drawn = print_figure(figure, "svg", metadata={"Date": None})
    return re.sub(rf'<g id="{TIP}([^"]*)">', r"<g><title>\1</title>", drawn)


@contextmanager
def _lines_apart(figure: Figure) -> Iterator[None]:
    """Draws the lines of a text as texts of their own for a while.

    An SVG says of a single line whether it begins, ends or has its middle at a point. Lines of one text get the place
    where each begins in the font of this machine, and do not align in another font.
    """
    folded = [t for t in figure.findobj(Text) if "\n" in t.get_text() and t.get_visible() and not t.get_rotation()]
    if not folded:
        yield
        return
    figure.draw_without_rendering()
    engine, own = figure.get_layout_engine(), []
    figure.set_layout_engine("none")  # everything stays in its place
    for text in folded:
        box = text.get_window_extent().transformed(figure.transFigure.inverted())
        side = text.get_horizontalalignment()
        x = {"left": box.x0, "center": (box.x0 + box.x1) / 2, "right": box.x1}[side]
        lines = text.get_text().split("\n")
        look = {"fontproperties": text.get_fontproperties(), "color": text.get_color(), "ha": side, "va": "center"}
        for n, line in enumerate(lines):
            own.append(figure.text(x, box.y1 - (n + 0.5) * box.height / len(lines), line, **look))
        text.set_visible(False)
    yield
    for text in own:
        text.remove()
    for text in folded:
        text.set_visible(True)
    figure.set_layout_engine(engine)


def differences(compared: Mapping[SettingName, Sequence[Comparison]], unit: str = "mAP at 100") -> Figure:
    """Paired differences with their intervals under each setting, and the paper's.

    The shape of a mark is the verdict; a difference within the grey band is negligible.
    """
    first = next(iter(compared.values()))
    figure, axes = plt.subplots(figsize=(WIDTH, 1.4 + 0.62 * max(len(first), 1)), layout="constrained")
    axes.axvline(0, color="0.35", linewidth=1)
    for setting, comparisons in compared.items():
        colour, offset = SETTING_COLOURS[setting], SETTING_OFFSETS[setting]
        for y, one in enumerate(comparisons):
            axes.plot([one.ours.low, one.ours.high], [y + offset] * 2, color=colour, linewidth=2.2)
            (mark,) = axes.plot(one.ours.mean, y + offset, color=colour, markersize=8, **VERDICT_MARKS[one.verdict])
            ours = f"{one.ours.mean:+.4f} [{one.ours.low:+.4f}, {one.ours.high:+.4f}]"
            tip(mark, f"{one.name}, {SHORT[setting]}: {ours}, {one.outcome}")
    for y, one in enumerate(first):
        axes.fill_betweenx([y - 0.45, y + 0.45], *one.rule.band(one.margin), color="0.5", alpha=0.15, linewidth=0)
        if one.paper is not None:
            tip(axes.scatter(one.paper, y, **DIAMOND, zorder=3), f"{one.name}, the paper: {one.paper:+.4f}")
    several = len({one.claim for one in first}) > 1  # the name of a single claim would be on every line
    name_rows(axes, [f"{one.claim}:\n{one.case}" if several else one.case for one in first])
    axes.set_xlabel(f"difference in {unit}")
    verdicts = {one.verdict for comparisons in compared.values() for one in comparisons}
    legend(figure, list(compared), verdicts, paper=any(one.paper is not None for one in first), band=True)
    return figure


def legend(
    figure: Figure,
    settings: Sequence[SettingName],
    verdicts: Iterable[Verdict] = (),
    paper: bool = True,
    band: bool = False,
) -> None:
    """A legend above the figure: the settings' colours, the verdicts' shapes, the paper's diamond, the grey band."""
    handles = [Line2D([], [], color=SETTING_COLOURS[s], linewidth=4, label=SHORT[s]) for s in settings]
    for verdict in (v for v in Verdict if v in set(verdicts)):
        handles.append(Line2D([], [], color="0.3", linestyle="", markersize=8, label=verdict, **VERDICT_MARKS[verdict]))
    if paper:
        handles.append(Line2D([], [], color=PAPER, marker="D", markerfacecolor="none", linestyle="", label="paper"))
    if band:
        handles.append(Patch(color="0.5", alpha=0.15, linewidth=0, label="within the margin"))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=9)


def name_rows(axes: Axes, names: list[str]) -> None:
    """Names the rows of a dot plot, from the top: row n is at y = n."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def bytes_text(value: SupportsFloat) -> str:
    """A number of bytes as MB or GB, which are 2²⁰ and 2³⁰ bytes."""
    return f"{value / GB:.3g} GB" if value >= GB else f"{value / MB:.3g} MB"
