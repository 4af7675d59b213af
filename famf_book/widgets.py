"""The sliders of the exploration notebook in JupyterLab. They choose what ``figures.exploration`` draws."""

from dataclasses import replace
from html import escape

import numpy as np
from ipywidgets import HTML, Checkbox, Dropdown, FloatSlider, HBox, Layout, SelectionSlider, ToggleButtons, VBox

from famf_book.explore import CLUSTERS, START, Explored, Explorer, Ruin
from famf_book.figures.exploration import Album, drawing

WORDS = {"blur": "blur", "occlusion": "occlude", "poor": "poor faces", "stranger": "replace"}
HINTS = {
    "blur": "the same faces, out of focus",
    "occlusion": "the same faces, partly hidden",
    "poor": "each replaced by one of the poorest training faces, of any person",
    "stranger": "each replaced by a training face of somebody else",
}


class Exploration:
    """The sliders with the picture below them. Display its ``widget``."""

    def __init__(self, explorer: Explorer, clip: str = ""):
        self.explorer, self.album = explorer, Album(explorer)
        first = [explorer.clip(clip)] if clip else []
        clips = {one.clip: one for one in [*first, *explorer.clips]}
        self.clip = Dropdown(options=[(self._named(one), one) for one in clips.values()], **_described("Clip", "26rem"))
        self.clusters = SelectionSlider(options=CLUSTERS, value=START, **_described("K", "18rem"))
        self.kind = ToggleButtons(
            options=[(WORDS[kind], kind) for kind in explorer.kinds],
            tooltips=[HINTS[kind] for kind in explorer.kinds],
            style={"button_width": "6.2rem"},
        )
        self.person = Dropdown(**_described("with", "15rem"))
        self.share = _slider("Faces", 0.0)
        self.degree = _slider("Degree", 1.0)
        names = explorer.model().config.modalities
        self.modalities = {name: Checkbox(True, description=name, indent=False, layout=_wide("7rem")) for name in names}
        self.status, self.picture = HTML(), HTML(layout=Layout(margin="0.8rem 0 0 0"))

        self._chosen()
        self._ruined()
        self.clip.observe(lambda change: (self._chosen(), self.draw()), "value")
        self.kind.observe(lambda change: (self._ruined(), self.draw()), "value")
        self.person.observe(lambda change: self._ruined(), "value")
        for slider in (self.clusters, self.person, self.share, self.degree, *self.modalities.values()):
            slider.observe(lambda change: self.draw(), "value")
        self.draw()

    @property
    def ruin(self) -> Ruin:
        """The ruin that the sliders describe."""
        person = self.person.value or "" if self.kind.value == "stranger" else ""
        return Ruin(self.kind.value, self.share.value, self.degree.value, person)

    @property
    def widget(self) -> VBox:
        """The whole widget."""
        label = HTML("Other modalities:" if self.modalities else "These data have only faces.")
        return VBox(
            [
                HBox([self.clip, self.clusters], layout=_folding()),
                HBox([HBox([HTML("Ruin by"), self.kind], layout=_folding("0.5rem", "0 0 0 1.2rem")), self.person]),
                HBox([self.share, self.degree], layout=_folding()),
                HBox([label, *self.modalities.values()], layout=_folding("1rem", "0 0 0 4.8rem")),
                self.status,
                self.picture,
            ]
        )

    def draw(self) -> None:
        """Draws the picture for the current sliders. Trains the model first if need be."""
        without = [name for name, box in self.modalities.items() if not box.value]
        clusters = self.clusters.value
        try:
            if not self.explorer.there(clusters):
                self._train(clusters)
            self.picture.value = drawing(self.album, self.clip.value, self.ruin, without, clusters)
        except (ValueError, LookupError) as error:  # errors in event handlers are shown nowhere else
            self.status.value = f"<b>{escape(str(error))}</b>"

    def _train(self, clusters: int) -> None:
        epochs = self.explorer.spec(clusters).training.epochs

        def report(epoch: int, loss: float) -> None:
            self.status.value = f"Training the model with K = {clusters}: epoch {epoch} of {epochs} …"

        self.status.value = f"Training the model with K = {clusters} …"
        self.explorer.model(clusters, report)
        self.status.value = ""

    def _named(self, clip: Explored) -> str:
        place = self.explorer.untouched(clip).place(clip.person)
        return f"{clip.person}, {clip.name} {'✓' if place == 1 else f'(rank {place})'}"

    def _chosen(self) -> None:
        """Updates the modalities that the clip has and the persons who can replace its faces."""
        clip = self.clip.value
        for name, box in self.modalities.items():
            has = clip.modalities[name][1]
            box.disabled, box.description = not has, name if has else f"{name}: none"
        others = [person for person in self.explorer.persons if person != clip.person]
        self.person.options = [("any stranger", ""), *((person, person) for person in others)]
        if clip.retake is None:  # the archive of real pictures is slow to read, so it is read once
            self._show(*(Ruin(kind) for kind in self.explorer.kinds))

    def _show(self, *ruins: Ruin) -> None:
        """Loads all pictures that these ruins can show."""
        self.album.pictures(np.concatenate([self.clip.value.shown(replace(ruin, share=1.0)) for ruin in ruins]))

    def _ruined(self) -> None:
        """Shows the sliders that apply to this kind of ruin, and loads its pictures."""
        again = self.clip.value.takes_again(Ruin(self.kind.value))
        self.degree.layout.visibility = "visible" if again else "hidden"
        self.person.layout.visibility = "visible" if self.kind.value == "stranger" else "hidden"
        self._show(self.ruin)


def _described(text: str, width: str) -> dict:
    return {"description": text, "style": {"description_width": "4.5rem"}, "layout": _wide(width)}


def _slider(text: str, value: float) -> FloatSlider:
    return FloatSlider(value, min=0, max=1, step=0.05, readout_format=".0%", **_described(text, "24rem"))


def _wide(width: str) -> Layout:
    return Layout(width=width, max_width="100%")


def _folding(gap: str = "0.4rem 1.5rem", padding: str = "0") -> Layout:
    return Layout(flex_flow="row wrap", grid_gap=gap, padding=padding)
