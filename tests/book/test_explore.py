"""Exploring one clip: the numbers against those of ``famf predict``, and the sliders in a real browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup

from famf_book import explore
from famf_book.explore import Corruption, Explorer
from famf_book import answer_drawing
from famf_lib.data import imported, synthetic
from famf_lib.data.clipset import Modality
from famf_lib.data.sampling import Sampler
from famf_lib.support.files import ROOT
from famf_lib.training import checkpoint, prediction

NAME, OTHER = "mine", "NetVLAD + MMA"


@pytest.fixture(scope="module")
def explorer(made_up, tmp_path_factory):
    """An explorer of persons that are easy to distinguish, with trained models for two K and one to compare with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAMF_STORE", str(tmp_path_factory.mktemp("store")))
        made_up(persons=7, clips=13, dim=19, audio=11, spread=0.5, seed=3).save(imported.place(NAME))
        one = Explorer(NAME, "quick", device="cpu")
        for row in ("K = 2", explore.FAMF_ROW, OTHER):
            one.model(row)
        one.file = one.run().file
        assert one.clips
        yield one


@pytest.fixture(scope="module")
def other(explorer):
    """A clip with all modalities, and a person that it does not show."""
    clip = next(c for c in explorer.clips if all(has for _, has in c.modalities.values()))
    return clip, next(person for person in explorer.persons if person != clip.person)


def predicted(explorer, clipset):
    """The rows of ``famf predict`` by name of the clip."""
    model = checkpoint.open(explorer.file)
    tables = prediction.predict(model, clipset, top=len(model.card.persons))
    return {row["name"]: row for table in tables for row in table.to_pylist()}


def assert_says(answer, row):
    assert [name for _, name, _ in answer.ranking(3)] == row["persons"][:3]
    ranked = answer.ranking(len(answer.persons))
    np.testing.assert_allclose([p for _, _, p in ranked], row["probabilities"], rtol=2e-4, atol=1e-6)


def test_the_answer_to_an_unchanged_clip_is_that_of_predict(explorer):
    rows = predicted(explorer, explorer.clipset)
    for clip in explorer.clips:
        answer, row = explorer.ask(clip), rows[clip.name]
        assert_says(answer, row)
        within = clip.rows - row["first_face"]
        np.testing.assert_allclose(answer.weights, np.array(row["weights"])[within], rtol=1e-4)
        assert answer.rank(row["persons"][2]) == 3


def test_a_removed_modality_is_one_that_the_clip_lacks(explorer, other):
    clip, _ = other
    for gone in ("audio", "body"):
        given = explorer.clipset.modalities[gone]
        without = {gone: Modality(given.vectors, torch.zeros_like(given.present))}
        lacking = replace(explorer.clipset, modalities=explorer.clipset.modalities | without)
        answer = explorer.ask(clip, without=[gone])
        assert_says(answer, predicted(explorer, lacking)[clip.name])
        assert not np.allclose(answer.probabilities, explorer.ask(clip).probabilities, rtol=1e-3)

        model = explorer.model()
        every = torch.arange(len(lacking))
        sampler = Sampler(lacking, every, len(clip.drawn), model.config.modalities)
        drawn = lacking.offsets[:-1, None] + prediction.evenly(lacking.counts, len(clip.drawn))
        with torch.inference_mode():
            matrix = model.attention(sampler.batch(drawn, torch.tensor([clip.clip])))[0]
        np.testing.assert_allclose(answer.attention, matrix.numpy(), rtol=1e-3, atol=1e-6)


def test_faces_of_another_person_move_the_ranking_to_them(explorer, other):
    clip, person = other
    modalities = ["audio", "body"]
    assert explorer.ask(clip, without=modalities).rank(clip.person) == 1
    answer = explorer.ask(clip, Corruption("stranger", 1.0, person=person), modalities)
    assert answer.rank(person) == 1 and answer.rank(clip.person) > 1
    for number in range(1, len(answer.persons)):  # however few are shown, the clip's person is among them
        ranking = answer.ranking(number, clip.person)
        assert len(ranking) == number and (answer.rank(clip.person), clip.person) in [line[:2] for line in ranking]


def test_a_larger_share_corrupts_more_faces_and_leaves_the_others(explorer, other):
    clip, _ = other
    before = np.zeros(len(clip.rows), dtype=bool)
    for share in (0.0, 0.3, 0.5, 0.8, 1.0):
        how = Corruption("stranger", share)
        bad = clip.corrupted(how)
        assert bad.sum() == round(share * len(clip.rows)) and (bad | ~before).all()
        changed = (clip.faces(how) != explorer.clipset.faces[clip.rows]).any(dim=1).numpy()
        assert (changed == bad).all()  # no two of these vectors are equal
        before = bad


def test_which_faces_replace_others(explorer):
    assert list(explorer.kinds) == ["poor", "stranger"]  # without labels of blur and occlusion
    table, clipset = explorer.clipset.clips, explorer.clipset
    of_face = np.repeat(np.arange(len(clipset)), clipset.counts.numpy())
    person, split = (table[column].to_numpy(dtype=object)[of_face] for column in ("person", "split"))
    quality = clipset.face_columns()["quality"].to_numpy()
    limit = np.quantile(quality[split == "train"], 0.1)
    for clip in explorer.clips:
        for how in (
            Corruption("poor", 1.0),
            Corruption("stranger", 1.0),
            Corruption("stranger", 1.0, person=explorer.persons[0]),
        ):
            rows = clip.face_rows(how)
            assert (split[rows] == "train").all()
            if how.kind == "poor":
                assert (quality[rows] <= limit).all()
            elif how.person:
                assert (person[rows] == how.person).all()
            else:
                assert (person[rows] != clip.person).all()


def test_synthetic_faces_are_generated_again(tiny):
    explorer = Explorer("synthetic", "quick", device="cpu")
    assert list(explorer.kinds) == list(explore.KINDS)
    clip = explorer.clips[0]
    faces = explorer.clipset.faces[clip.rows]
    for kind in explore.REGENERATED:
        how = Corruption(kind, 0.5, 0.97)
        again, bad = clip.faces(how), torch.from_numpy(clip.corrupted(how))
        assert torch.equal(again[~bad], faces[~bad])
        assert (again[bad].float().norm(dim=1) < faces[bad].float().norm(dim=1)).all()  # no face gets clearer
        own = explorer.clipset.face_columns()[kind].to_numpy()[clip.rows]
        assert clip.degrees(how) == pytest.approx(np.where(clip.corrupted(how), np.maximum(own, 0.97), own))
        np.testing.assert_allclose(clip.faces(Corruption(kind, 1.0, 0.0)).float(), faces.float(), atol=0.02)


def test_generating_a_clip_again_without_change_gives_the_clip():
    config = synthetic.SyntheticConfig(persons=11, dim=13, seed=5)
    made = synthetic.generate(config)
    for clip in (0, 17, len(made) - 1):
        faces = made.faces[made.offsets[clip] : made.offsets[clip + 1]].numpy().astype(float)
        np.testing.assert_allclose(synthetic.Retake(config, clip).faces().astype(float), faces, atol=0.02)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda e: Corruption("smear"), "kind: 'smear' found, expected one of blur"),
        (lambda e: Corruption(share=1.3), "share: 1.3 found, expected a number from 0 to 1"),
        (lambda e: e.clip("clip 999"), "clip: 'clip 999' is not known"),
        (lambda e: e.clip("clip 093"), "clip: 'clip 093' shows no person that the model knows"),  # a noise clip
        (lambda e: e.clip("clip 000"), "clip: 'clip 000' has no face"),
        (lambda e: e.ask(e.clips[0], Corruption("stranger", 1.0, person="nobody")), "person: 'nobody' is not known"),
        (lambda e: e.model("K = 3"), "row: 'K = 3' is not known, expected one of Mean pooling + Concat, NetVLAD + MMA"),
        (lambda e: Explorer(NAME, "huge"), "profile: 'huge' is not known, expected one of quick"),
    ],
)
def test_bad_input_gives_one_sentence(explorer, monkeypatch, ask, sentence):
    monkeypatch.setattr(imported, "names", lambda: [NAME])
    monkeypatch.setattr(imported, "open", lambda name: explorer.clipset)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ask(explorer)


def test_the_mean_weight_of_the_faces_is_the_mean_of_phi_over_the_clusters(explorer):
    answer = explorer.ask(explorer.clips[0])
    assert answer.phi.shape == (8,) and answer.load.sum() == pytest.approx(1)
    assert answer.phi @ answer.load == pytest.approx(answer.weights.mean(), rel=1e-4)
    assert not len(explorer.ask(explorer.clips[0], row=OTHER).phi)  # NetVLAD has none


def test_controls_draw_the_answers_of_both_models(explorer, store):
    widgets = pytest.importorskip("famf_book.widgets", reason="ipywidgets is not installed (the extra lab has it)")
    shutil.copytree(explorer.file.parents[2], store)
    one = widgets.Exploration(explorer)
    clip = one.clip.value

    def weights(of="x-weight"):
        found = re.findall(rf'<div class="{of}"><div class="x-bar">.*?</div>(\d\.\d\d)</div>', one.picture.value)
        return [float(w) for w in found]

    unchanged = one.picture.value
    assert one.person.label == "anybody"
    one.kind.value, one.share.value = "stranger", 0.5
    how = Corruption("stranger", 0.5)
    answer, other = explorer.ask(clip, how), explorer.ask(clip, how, row=OTHER)
    assert weights() == pytest.approx(answer.weights, abs=0.0051)
    assert weights("x-other") == pytest.approx(other.weights, abs=0.0051)
    assert one.picture.value.count("x-face x-corrupted") == round(0.5 * len(clip.rows))
    for name, each in (("FAMF, K = 8", answer), (OTHER, other)):
        title, _, ranked = one.picture.value.partition(f'x-title">{name} ')
        assert title and f"<span>{each.probability(clip.person):.2f}</span>" in ranked
        assert f'title="{clip.person}">{clip.person} ✓' in ranked  # the true person is in every ranking
    assert one.picture.value.count("of faces</span>") == 8  # φ of each cluster

    before = one.picture.value
    one.modalities["body"].value = False
    assert one.picture.value != before and 'line-through">body<' in one.picture.value
    one.clusters.value = "K = 2"
    assert one.picture.value.count("<title>") == explorer.ask(clip, row="K = 2").attention.size == 4**2
    one.person.value = explorer.persons[-1] if clip.person != explorer.persons[-1] else explorer.persons[0]
    one.share.value = 1.0
    assert one.corruption == Corruption("stranger", 1.0, person=one.person.value)
    one.other.value = ""
    assert not weights("x-other") and weights()
    one.other.value = OTHER
    one.reset.click()
    assert one.picture.value == unchanged and one.status.value == ""


def test_every_picture_has_an_alternative_text(tiny):
    explorer = Explorer("synthetic", "quick", device="cpu")
    album, clip = answer_drawing.Album(explorer), explorer.clips[0]
    for kind in explorer.kinds:
        how = Corruption(kind, 0.5)
        html = answer_drawing.drawing(album, clip, how, parts=("faces",))
        texts = [image["alt"] for image in BeautifulSoup(html, "html.parser").find_all("img")]
        assert len(texts) == len(clip.rows)
        named = [f"Face {n} of {len(clip.rows)}" for n in range(1, len(clip.rows) + 1)]
        bad = clip.corrupted(how)
        assert texts == [f"{name}, {explore.KINDS[kind]}" if bad[n] else name for n, name in enumerate(named)]


@pytest.fixture
def lab(tmp_path, store):
    """The address of a JupyterLab started by ``famf lab`` on a copy of the notebook, so that nothing is saved here."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (the extra lab has it)")
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed (the extra lab has it)")
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "lab", checkout / "lab")
    (checkout / "book").mkdir()
    notebook = (ROOT / "book" / "explore.ipynb").read_text().replace('\\"standard\\"', '\\"quick\\"')
    (checkout / "book" / "explore.ipynb").write_text(notebook)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from famf_book import cli; from pathlib import Path; cli.ROOT = Path({str(checkout)!r}); cli.main()"
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=here"]
    options += ["--LabApp.expose_app_in_browser=True"]
    environment = {name: value for name, value in os.environ.items() if name != "FAMF_PROGRESS"}
    environment |= {"FAMF_STORE": os.path.relpath(store), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    with (tmp_path / "log").open("w+") as log:
        started = subprocess.Popen([sys.executable, "-c", code, "lab", *options], stderr=log, stdout=log,
                                   env=environment)  # fmt: skip
        address = f"http://127.0.0.1:{port}/?token=here"
        try:
            while True:  # on a busy machine it takes minutes to start
                try:
                    urllib.request.urlopen(address).read()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert started.poll() is None, log.seek(0) or log.read()
                    time.sleep(0.1)
            yield SimpleNamespace(address=address, log=tmp_path / "log")
        finally:
            started.terminate()
            started.wait(30)


def test_jupyterlab_does_not_look_for_news_updates_or_extensions(lab):
    def read(place):
        return urllib.request.urlopen(lab.address.replace("/?", f"/lab{place}?")).read().decode()

    settings = json.loads(read("/api/settings/@jupyterlab/apputils-extension:notification"))["schema"]["properties"]
    assert settings["checkForUpdates"]["default"] is False and settings["fetchNews"]["default"] == "false"
    manager = json.loads(re.search(r'"extensionManager":\s*(\{[^}]*\})', read(""))[1])
    assert manager["name"] == "read-only"  # the default one asks PyPI for versions of the installed packages


def test_in_a_browser_the_cells_run_and_sliders_change_the_picture(browser, lab, store):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(600_000)  # only a limit for what never happens: a busy machine needs minutes
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(lab.address, wait_until="domcontentloaded")
    page.click(".jp-RenderedMarkdown a:text-is('explore')")  # on the start page
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("#jp-main-statusbar :text('Python 3 (ipykernel) | Idle')")  # before, it asks for a kernel
    # Not by the menu, which closes when the kernel changes its state meanwhile. Resolves when all cells have run.
    page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    picture = page.locator(".widget-html-content:has(.famf-x)")
    picture.or_(failed).first.wait_for()
    assert not failed.count(), failed.first.inner_text()

    assert picture.locator(".x-face").count() == 8 and picture.locator(".x-corrupted").count() == 0
    controls = page.locator(".widget-slider:has-text('Share of faces')")
    assert controls.bounding_box()["y"] < page.locator(".famf-x").first.bounding_box()["y"]  # on top
    controls.locator(".noUi-handle").press("End")
    page.wait_for_function("document.querySelectorAll('.widget-html-content .x-corrupted').length == 8")
    blurred = picture.inner_html()
    page.locator(".widget-slider:has-text('Strength') .noUi-handle").press("Home")
    page.wait_for_function("html => document.querySelector('.widget-html-content').innerHTML != html", arg=blurred)
    page.click("button:text-is('swap for a stranger\\'s')")
    page.wait_for_function("document.querySelectorAll('.widget-html-content .x-corrupted').length == 8")
    page.locator(".widget-checkbox:has-text('body') input").uncheck()
    page.wait_for_selector(".widget-html-content text[text-decoration]:text-is('body')")
    page.click("button:text-is('Reset')")
    page.wait_for_function("document.querySelectorAll('.widget-html-content .x-corrupted').length == 0")
    assert all(url.startswith((lab.address.split("?")[0], "data:", "blob:")) for url in requests)
    page.close()
    assert list((store / "runs").glob("*/model.safetensors"))  # a relative $FAMF_STORE reaches the kernel
    assert lab.log.read_text() == "" or "token=" in lab.log.read_text()
