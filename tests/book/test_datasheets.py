import json

import numpy as np
import pandas as pd
import pytest

from famf_book import datasheets
from famf_lib.data import datasets
from famf_lib.data.clipset import ClipSet
from famf_lib.support.files import ROOT

RECORDED = sorted((ROOT / "results").glob("*-datasheet.json"))


@pytest.fixture
def clipset(made_up):
    """Clips with labels of light; each known person and film has a name that could tell somebody."""
    made = made_up(persons=7, clips=11, dim=13, seed=2, info={"cleaning": {"lines": 17}})
    light = np.where(np.arange(len(made.faces)) % 3 == 0, "BAD", "HIGH")
    table = made.face_columns().assign(illumination=pd.Series(light).where(np.arange(len(light)) > 4))
    return ClipSet.build(made.faces, made.counts.numpy(), made.clips, face_table=table, info=made.info)


def test_the_numbers_are_those_of_the_clips(clipset):
    sheet = datasheets.measure(clipset)
    clips, faces = clipset.clips, clipset.face_columns()
    assert (sheet["persons"], sheet["clips"], sheet["numbers per face"]) == (7, 7 * 11 + 3, 13)
    assert sum(sheet["clips per person"]) == 7 * 11 and len(sheet["groups per person"]) == 7
    assert sheet["groups per person"] == [clips["group"].nunique()] * 7  # films 0 to 5, all of them for everybody
    assert sum(sheet["faces per clip"]) == sheet["faces"] == len(faces) and sheet["faces per clip"][-1] == 0
    norm = np.linalg.norm(clipset.faces.float().numpy(), axis=1)
    bad = (faces["illumination"] == "BAD").to_numpy()
    expected = {"faces": bad.sum(), "norm": pytest.approx(np.median(norm[bad]) / np.median(norm), abs=1e-4)}
    assert sheet["labels"]["illumination"]["BAD"] == expected
    assert sheet["counts"] == {"lines": 17} and len(sheet["by fifth"]["norm"]) == len(sheet["who is it"]) == 5


def test_a_recording_is_what_was_measured_and_names_nobody(clipset, monkeypatch, results_folder):
    results_folder.mkdir()
    here = datasets.Dataset("faces", "faces", absence=lambda: None, make=lambda profile: clipset)
    monkeypatch.setattr(datasets, "get", lambda name: here)
    measured = datasheets.datasheet("faces")
    assert datasheets.where_from(measured).startswith("Measured on this machine")
    text = datasheets.record("faces").read_text()
    names = ["person", "film", *clipset.clips["name"]]
    assert not [name for name in names if f'"{name} ' in text or f'"{name}"' in text]

    for more in ({"alone": [0.75]}, {}):  # what a page adds stays while the data are the same
        assert json.loads(datasheets.record("faces", **more).read_text())["alone"] == [0.75]
    absent = datasets.Dataset("faces", "faces", absence=lambda: "faces: not found in data; see there")
    monkeypatch.setattr(datasets, "get", lambda name: absent)
    read = datasheets.datasheet("faces")
    assert "Recorded, not measured here" in datasheets.where_from(read)
    assert read | {"recorded": None} == json.loads(json.dumps(measured)) | {"alone": [0.75]}
    datasheets.recording("faces").unlink()
    with pytest.raises(datasets.DatasetAbsent, match="^faces: not found in data; see there$"):
        datasheets.datasheet("faces")


@pytest.mark.parametrize("place", RECORDED, ids=lambda place: place.stem)
def test_what_is_recorded_is_what_is_measured_where_the_data_are(place):
    name = place.stem.removesuffix("-datasheet")
    if absence := datasets.get(name).absence():
        pytest.skip(absence)
    clipset, recorded = datasets.load(name), json.loads(place.read_text())
    text = place.read_text()
    columns = [column for column in ("person", "group", "video") if column in clipset.clips]
    named = {str(value) for column in columns for value in clipset.clips[column].dropna()}
    assert not [value for value in named if f'"{value}"' in text]
    assert recorded["fingerprint"] == clipset.fingerprint, f"record it again: famf data info {name} --record"
    assert (recorded["persons"], recorded["clips"]) == (len(clipset.persons), len(clipset))
    assert sum(recorded["faces per clip"]) == recorded["faces"] == len(clipset.faces)
