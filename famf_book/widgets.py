"""The controls of the exploration notebook in JupyterLab. They choose what ``answer_drawing`` draws."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape

import numpy as np
from ipywidgets import HTML, Button, Checkbox, Dropdown, FloatSlider, HBox, Layout, SelectionSlider, ToggleButtons, VBox

from famf_book.answer_drawing import Album, drawing
from famf_book.explore import CLUSTERS, FAMF_ROW, OTHERS, Corruption, Explored, Explorer

WORDS = {"blur": "blur", "occlusion": "cover", "poor": "swap for poor faces", "stranger": "swap for a stranger's"}
HINTS = {
    "blur": "the same faces, out of focus",
    "occlusion": "the same faces, partly hidden",
    "poor": "each replaced by one of the poorest training faces, of any person",
    "stranger": "each replaced by a training face of somebody else",
}


class Exploration:
    """The controls with the picture below them. Display its ``widget``."""

    def __init__(self, explorer: Explorer, clip: str = "", other: str = "NetVLAD + MMA"):
        self.explorer, self.album, self._silent = explorer, Album(explorer), False
        first = [explorer.clip(clip)] if clip else []
        clips = {one.clip: one for one in [*first, *explorer.clips]}
        self.clip = Dropdown(options=[(self._named(one), one) for one in clips.values()], **_described("Clip", "26rem"))
        self.clusters = SelectionSlider(
            options=[(str(k), f"K = {k}") for k in CLUSTERS],
            value=FAMF_ROW,
            **_described("Clusters K of FAMF", "24rem", "9rem"),
        )
        self.other = Dropdown(
            options=[("no other model", ""), *((row, row) for row in OTHERS)],
            value=other,
            **_described("Compare with", "26rem"),
        )
        self.kind = ToggleButtons(
            options=[(WORDS[kind], kind) for kind in explorer.kinds],
            tooltips=[HINTS[kind] for kind in explorer.kinds],
            style={"button_width": "auto"},
        )
        self.person = Dropdown(**_described("Stranger", "18rem"))
        self.share = _slider("Share of faces", 0.0)
        self.strength = _slider("Strength", 1.0)
        names = explorer.model().config.modalities
        self.modalities = {name: Checkbox(True, description=name, indent=False, layout=_wide("7rem")) for name in names}
        self.reset = Button(description="Reset", icon="undo", tooltip="The unchanged clip", layout=_wide("7rem"))
        self.status, self.picture = HTML(), HTML(layout=Layout(margin="0.8rem 0 0 0"))
        self._controls = (self.clusters, self.other, self.person, self.share, self.strength, *self.modalities.values())

        self._clip_changed()
        self._kind_changed()
        self.clip.observe(lambda change: (self._clip_changed(), self.draw()), "value")
        self.kind.observe(lambda change: (self._kind_changed(), self.draw()), "value")
        self.person.observe(lambda change: self._load(self.corruption), "value")
        for control in self._controls:
            control.observe(lambda change: self.draw(), "value")
        self.reset.on_click(lambda button: self.restore())
        self.draw()

    @property
    def corruption(self) -> Corruption:
        """The corruption that the controls describe."""
        person = self.person.value or "" if self.kind.value == "stranger" else ""
        return Corruption(self.kind.value, self.share.value, self.strength.value, person)

    @property
    def widget(self) -> VBox:
        """The whole widget."""
        label = HTML("Other modalities:" if self.modalities else "These data have only faces.")
        kinds = HBox([HTML("Corrupt by"), self.kind], layout=_folding("0.5rem", "0 0 0 1.2rem"))
        return VBox(
            [
                HBox([self.clip, self.reset], layout=_folding()),
                HBox([self.other, self.clusters], layout=_folding()),
                HBox([kinds, self.person], layout=_folding()),
                HBox([self.share, self.strength], layout=_folding()),
                HBox([label, *self.modalities.values()], layout=_folding("1rem", "0 0 0 1.2rem")),
                self.status,
                self.picture,
            ]
        )

    def draw(self) -> None:
        """Draws the picture for the current controls. Trains the models first if need be."""
        if self._silent:
            return
        without = [name for name, box in self.modalities.items() if not box.value]
        models = self.clusters.value, self.other.value
        try:
            for row in filter(None, models):
                if not self.explorer.is_trained(row):
                    self._train(row)
            self.picture.value = drawing(self.album, self.clip.value, self.corruption, without, *models)
        except (ValueError, LookupError) as error:  # errors in event handlers are shown nowhere else
            self.status.value = f"<b>{escape(str(error))}</b>"

    def restore(self) -> None:
        """Puts every control back, except the choice of the clip and of the model compared with."""
        with self._together():
            self.kind.value = next(iter(self.explorer.kinds))
            self.share.value, self.strength.value, self.clusters.value = 0.0, 1.0, FAMF_ROW
            self.person.value = ""
            for box in self.modalities.values():
                box.value = True

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Several controls change, and the picture is drawn once."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False
        self.draw()

    def _train(self, row: str) -> None:
        epochs = self.explorer.spec(row).training.epochs

        def report(epoch: int, loss: float) -> None:
            self.status.value = f"Training {row}: epoch {epoch} of {epochs} …"

        self.status.value = f"Training {row} …"
        self.explorer.model(row, report)
        self.status.value = ""

    def _named(self, clip: Explored) -> str:
        rank = self.explorer.original(clip).rank(clip.person)
        return f"{clip.person}, {clip.name} {'✓' if rank == 1 else f'(rank {rank})'}"

    def _clip_changed(self) -> None:
        """Updates the modalities that the clip has and the persons who can replace its faces."""
        clip = self.clip.value
        for name, box in self.modalities.items():
            has = clip.modalities[name][1]
            box.disabled, box.description = not has, name if has else f"{name}: none"
        others = [person for person in self.explorer.persons if person != clip.person]
        self.person.options = [("anybody", ""), *((person, person) for person in others)]
        self.person.value = ""  # a Dropdown does not choose its first option by itself
        if clip.retake is None:  # the archive of real pictures is slow to read, so it is read once
            self._load(*(Corruption(kind) for kind in self.explorer.kinds))

    def _load(self, *corruptions: Corruption) -> None:
        """Loads all pictures that these corruptions can show."""
        clip = self.clip.value
        self.album.pictures(np.concatenate([clip.face_rows(replace(how, share=1.0)) for how in corruptions]))

    def _kind_changed(self) -> None:
        """Shows the controls that apply to this kind of corruption, and loads its pictures."""
        again = self.clip.value.regenerates(Corruption(self.kind.value))
        self.strength.layout.visibility = "visible" if again else "hidden"
        self.person.layout.visibility = "visible" if self.kind.value == "stranger" else "hidden"
        self._load(self.corruption)


def _described(text: str, width: str, label: str = "6.5rem") -> dict:
    return {"description": text, "style": {"description_width": label}, "layout": _wide(width)}


def _slider(text: str, value: float) -> FloatSlider:
    return FloatSlider(value, min=0, max=1, step=0.05, readout_format=".0%", **_described(text, "26rem"))


def _wide(width: str) -> Layout:
    return Layout(width=width, max_width="100%")


def _folding(gap: str = "0.4rem 1.5rem", padding: str = "0") -> Layout:
    return Layout(flex_flow="row wrap", grid_gap=gap, padding=padding)
