"""The sliders of the exploration notebook, in JupyterLab: they say what to draw, ``figures.exploration`` draws it."""

from dataclasses import replace
from html import escape

import numpy as np
from ipywidgets import HTML, Checkbox, Dropdown, FloatSlider, HBox, Layout, SelectionSlider, ToggleButtons, VBox

from famf_book.explore import CLUSTERS, START, Explored, Explorer, Ruin
from famf_book.figures.exploration import Album, drawing

WORDS = {"blur": "blur", "occlusion": "occlude", "poor": "poor faces", "stranger": "replace"}
HINTS = {
    "blur": "the same faces, out of focus",
    "occlusion": "the same faces, with something in the way",
    "poor": "one of the poorest training faces in place of each, whoever it shows",
    "stranger": "a training face of somebody else in place of each",
}


class Exploration:
    """The sliders and the picture under them. Displayed by ``widget``."""

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
        self.degree = _slider("How far", 1.0)
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
        """What the sliders say of the faces."""
        person = self.person.value or "" if self.kind.value == "stranger" else ""
        return Ruin(self.kind.value, self.share.value, self.degree.value, person)

    @property
    def widget(self) -> VBox:
        """All of it."""
        told = [HTML("Heard and seen beside the face:")] if self.modalities else [HTML("These data have faces alone.")]
        return VBox(
            [
                HBox([self.clip, self.clusters], layout=_folding()),
                HBox([HBox([HTML("Ruin by"), self.kind], layout=_folding("0.5rem", "0 0 0 1.2rem")), self.person]),
                HBox([self.share, self.degree], layout=_folding()),
                HBox([*told, *self.modalities.values()], layout=_folding("1rem", "0 0 0 4.8rem")),
                self.status,
                self.picture,
            ]
        )

    def draw(self) -> None:
        """The picture for where the sliders are. A model that is not there yet is trained first."""
        without = [name for name, box in self.modalities.items() if not box.value]
        clusters = self.clusters.value
        try:
            if not self.explorer.there(clusters):
                self._train(clusters)
            self.picture.value = drawing(self.album, self.clip.value, self.ruin, without, clusters)
        except (ValueError, LookupError) as error:  # what goes wrong in an event is seen nowhere else
            self.status.value = f"<b>{escape(str(error))}</b>"

    def _train(self, clusters: int) -> None:
        epochs = self.explorer.spec(clusters).training.epochs

        def report(epoch: int, loss: float) -> None:
            self.status.value = f"Training the model of K = {clusters}: epoch {epoch} of {epochs} …"

        self.status.value = f"Training the model of K = {clusters} …"
        self.explorer.model(clusters, report)
        self.status.value = ""

    def _named(self, clip: Explored) -> str:
        place = self.explorer.untouched(clip).place(clip.person)
        return f"{clip.person}, {clip.name} {'✓' if place == 1 else f'(place {place})'}"

    def _chosen(self) -> None:
        """The modalities that the clip has, and who could replace its faces."""
        clip = self.clip.value
        for name, box in self.modalities.items():
            there = clip.modalities[name][1]
            box.disabled, box.description = not there, name if there else f"{name}: none"
        others = [person for person in self.explorer.persons if person != clip.person]
        self.person.options = [("any stranger", ""), *((person, person) for person in others)]
        if clip.retake is None:  # real pictures lie in an archive read from its beginning each time: once will do
            self._show(*(Ruin(kind) for kind in self.explorer.kinds))

    def _show(self, *ruins: Ruin) -> None:
        """Has all pictures at hand that the faces may need."""
        self.album.pictures(np.concatenate([self.clip.value.shown(replace(ruin, share=1.0)) for ruin in ruins]))

    def _ruined(self) -> None:
        """The sliders that say something of this kind of ruin, and all pictures that they may ask for."""
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
