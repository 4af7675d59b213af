"""Names of clips and who is in them."""

import pytest

from famf_lib.data.doubtful_names import doubts
from famf_video import labels
from famf_video.labels import Label, LabelsError


def touched(folder, *names):
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["b.mp4", "a.mkv"], ["b", "a"]),
        (["x/b.mp4"], ["b"]),
        (["ann/1.mp4", "bo/1.mp4", "bo/2.tar.mp4"], ["ann/1", "bo/1", "bo/2.tar"]),
        (["a.mp4", "a.mkv", "b.mp4"], ["a.mp4", "a.mkv", "b"]),
        (["a.mp4", "a.mkv", "a.mp4.mkv"], ["a.mp4", "a.mkv", "a.mp4.mkv"]),
        (["a.mp4", "a#2.mp4", "b#2.mp4", "a#x.mp4"], ["a", "a#2.mp4", "b#2", "a#x"]),
        (["a#2.mp4", "a#2.mkv", "a", "a#2.mp4#3.ts"], ["a#2.mp4", "a#2.mkv", "a", "a#2.mp4#3.ts"]),
    ],
)
def test_clips_are_called_as_their_files(tmp_path, files, names):
    paths = touched(tmp_path, *files)
    assert labels.names(paths) == names
    assert labels.from_folders(paths) == {n: Label(p.parent.name) for n, p in zip(names, paths, strict=True)}
    with pytest.raises(LabelsError, match="a#2: another video has a track of this name, expected another name"):
        labels.names(touched(tmp_path, "a", "a#2"))


def test_a_folder_stands_for_its_videos(tmp_path):
    b, a, deep, single = touched(tmp_path, "v/b.mp4", "v/a.MKV", "v/deep/c.webm", "odd.xyz")
    touched(tmp_path, "v/labels.csv", "v/.hidden.mp4", "v/cover.jpg")
    assert labels.videos([single, tmp_path / "v"]) == [single, a, b, deep]
    with pytest.raises(LabelsError, match=r"a\.MKV: named twice, expected every file once"):
        labels.videos([a, tmp_path / "v"])


def test_what_a_folder_holds_besides_is_said(tmp_path):
    videos = touched(tmp_path, "v/ann/1.MTS", "v/ann/2.m2ts", "v/ann/3.3g2", "v/ann/deep/4.VOB", "v/bo/1.mp4")
    touched(tmp_path, "v/ann/a.txt", "v/b.TXT", "v/cy/1.Heic", "v/cy/deep/README", "v/.hidden.doc")
    said = []
    assert labels.videos([tmp_path / "v"], said.append) == videos
    assert len(said) == 1 and said[0].startswith(f"{tmp_path / 'v'}: 4 files left out because of their ending")
    assert "(2 .txt, 1 .heic, 1 no ending)" in said[0] and said[0].endswith("no video remains in cy, cy/deep")
    said.clear()
    labels.videos(videos, said.append)
    assert not said
    said = r"cy: no file in it that can be read, 2 files .*\(1 \.heic, 1 no ending\), expected videos \(.mp4"
    with pytest.raises(LabelsError, match=said):
        labels.videos([tmp_path / "v" / "cy"])


def test_a_table(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text('\ufeffperson,clip,split,note\nAnn,a,train,x\n"O\'Neil, Bo",b.mp4,val,\n,c,,\nDi,d,,\n')
    named = {"a": Label("Ann", "train"), "b.mp4": Label("O'Neil, Bo", "val")}
    assert labels.read(table) == named | {"c": Label(), "d": Label("Di")}
    table.write_text("clip,person\na,Ann\n")
    assert labels.read(table) == {"a": Label("Ann")}


def test_names_that_may_not_be_meant_are_taken_and_told(tmp_path):
    table, said = tmp_path / "labels.csv", []
    table.write_text("clip,person\na,nan\nb,nan\nc,P \nd,P\ne,p\nf,\ng,Q\n")
    found = labels.read(table, said.append)
    assert [label.person for label in found.values()] == ["nan", "nan", "P ", "P", "p", None, "Q"]
    assert [one.split(" found")[0].split(" differ")[0] for one in said] == [
        f"{table}: person: 'nan' (2 times)",
        f"{table}: person: 3 names",
    ]
    assert said[1].endswith("'P' (1 time), 'P ' (1 time), 'p' (1 time)")
    table.write_text("clip,person\na,nan\n")
    with pytest.warns(UserWarning, match="'nan' .1 time."):
        labels.read(table)


def test_many_names_that_are_alike_make_one_short_sentence():
    (sentence,) = doubts([f"n{n}{end}" for n in range(1000) for end in ("", " ")], "here")
    assert "2,000 names" in sentence and sentence.count("times") < 10


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("clip;person\na;b\n", "the column clip is missing, found clip;person, expected clip, person, split"),
        ("", "the column clip is missing, found nothing"),
        ("clip\na\n", "the column person is missing, found clip"),
        ("clip,person\na,b\na,c\n", "line 3 has 'a' again, expected every clip once"),
        ("clip,person\n,b\n", "line 2 has no clip, expected its name"),
        ("clip,person,split\na,b,test\nc,d,dev\n", "line 3 has the split 'dev', expected one of train, val, test, or"),
        ("clip,person\na,Doe, Ann\n", "line 2 has 3 fields, expected 2; quote a name with a comma"),
        ("clip,person,person\na,b,c\n", "the column person occurs twice, expected once"),
        ("clip,person,Split\na,b,val\n", "the column 'Split' is almost spelt like split, expected split or another"),
        ("clip,person,split \na,b,val\n", "the column 'split ' is almost spelt like split, expected split or another"),
        ('clip,person\n"a,b\n', "cannot be read ("),
        ("clip,person\na,\udcff\n", "cannot be read ("),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, sentence):
    table = tmp_path / "labels.csv"
    table.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(LabelsError) as caught:
        labels.read(table)
    assert str(caught.value).startswith(f"{table}: {sentence}")
    with pytest.raises(LabelsError, match="cannot be read"):
        labels.read(tmp_path / "none.csv")
