"""Draws the house, ``book/figures/house.svg``, from the layers that test_architecture compares with the code.

``python tests/house.py`` draws it again when a module has come, gone or moved.
"""

from collections.abc import Iterator, Sequence

from famf_lib.files import ROOT

FILE = ROOT / "book" / "figures" / "house.svg"
WIDTH, MARGIN, LINE = 640, 32, 40
LETTER = 10.3  # the width of one at 17 px, in the widest of the fonts below
WAY = ("datasets", "ClipSet", "sample", "aggregate", "fuse", "classify", "ranking", "run", "page")
# A storey of the house begins with the layer that holds its module, from the top to the bottom.
STOREYS = {
    "cli": ("the command", "#cc79a7"),
    "printed": ("from runs to pages", "#e69f00"),
    "results": ("what is run, and what it gave", "#009e73"),
    "training": ("data, model, training", "#0072b2"),
    "splits": ("clips, and the tools of all", "#52606d"),
}
HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} HEIGHT" role="img" aria-labelledby="title desc">
  <title id="title">The house: the way of a clip, and the modules in layers</title>
  <desc id="desc">DESCRIPTION</desc>
  <style>
    text {{ font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
           fill: #1f2933; font-size: 18px }}
    .head {{ font-size: 21px; font-weight: 600 }}
    .module {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 17px;
              text-anchor: middle }}
    .arrow {{ fill: #52606d; text-anchor: middle }}
  </style>
  <rect x="1" y="1" width="{WIDTH - 2}" height="BOTTOM" rx="16" fill="#f5f7fa" stroke="#cbd2d9" stroke-width="2"/>
"""


def draw(layers: Sequence[Sequence[str]]) -> str:
    """The picture of layers, given from the bottom to the top."""
    out = [f'  <text class="head" x="{MARGIN}" y="40">The way of a clip</text>']
    y = 58
    for line in _lines(WAY, between="→"):
        out += _boxes(line, y, "#9aa5b1", between="→")
        y += LINE
    out.append(f'  <text class="head" x="{MARGIN}" y="{y + 34}">Modules, which import from rows below</text>')
    y += 52
    colour, told = "", []
    for layer in reversed(layers):
        for name, (caption, new) in STOREYS.items():
            if name in layer:
                out.append(f'  <text x="{MARGIN}" y="{y + 22}">{caption}</text>')
                colour, y = new, y + 34
                told.append(f"{caption}:")
        begin = y
        for line in _lines(layer):
            out += _boxes(line, y, colour)
            y += LINE
        out.append(f'  <rect x="12" y="{begin}" width="6" height="{y - begin - 8}" rx="3" fill="{colour}"/>')
        y += 6
        told.append(f"{', '.join(layer)};")
    words = f"{', '.join(WAY)}. The modules from the top to the bottom: {' '.join(told).rstrip(';')}."
    head = HEAD.replace("HEIGHT", str(y + 16)).replace("BOTTOM", str(y + 14)).replace("DESCRIPTION", words)
    return head + "\n".join(out) + "\n</svg>\n"


def _lines(names: Sequence[str], between: str = "") -> Iterator[list[str]]:
    """The names, as many on a line as there is room for."""
    line: list[str] = []
    for name in names:
        if line and sum(_width(one, between) for one in [*line, name]) > WIDTH - 2 * MARGIN:
            yield line
            line = []
        line.append(name)
    yield line


def _width(name: str, between: str = "") -> float:
    return LETTER * len(name) + 20 + (30 if between else 8)


def _boxes(names: Sequence[str], y: int, colour: str, between: str = "") -> Iterator[str]:
    x: float = MARGIN
    for name in names:
        wide = LETTER * len(name) + 20
        rect = f'x="{x:.0f}" y="{y}" width="{wide:.0f}" height="32" rx="8"'
        yield f'  <rect {rect} fill="#fff" stroke="{colour}" stroke-width="2"/>'
        yield f'  <text class="module" x="{x + wide / 2:.0f}" y="{y + 22}">{name}</text>'
        if between and name != WAY[-1]:
            yield f'  <text class="arrow" x="{x + wide + 15:.0f}" y="{y + 22}">{between}</text>'
        x += _width(name, between)


if __name__ == "__main__":
    from test_architecture import LAYERS

    FILE.write_text(draw(LAYERS))
