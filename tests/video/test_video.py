"""Videos made here, whose pictures show their number: which come out, when and how, and what is left out."""

import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import video_files
from coloured_faces import everything
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_files import SIZE, marked, number_of, tone

from famf_video.clips import extract_clips, remarks
from famf_video.video import RATE, Video, VideoError


def numbers(path, fps):
    return [number_of(frame.picture) for frame in Video(path).frames(fps)]


@pytest.mark.parametrize(
    ("codec", "ending"),
    [("libx264", "mp4"), ("mpeg4", "mkv"), ("libvpx-vp9", "webm"), ("mjpeg", "mov"), ("libx264", "ts")],
)
def test_every_fifth_picture_of_25_a_second(tmp_path, codec, ending):
    path = video_files.write(tmp_path / f"a.{ending}", map(marked, range(41)), codec=codec)
    video = Video(path)
    frames = list(video.frames(5))
    assert [frame.number for frame in frames] == [number_of(frame.picture) for frame in frames] == list(range(0, 41, 5))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(0, 1.61, 0.2), abs=0.002)
    assert video.size == SIZE and video.duration == pytest.approx(41 / 25, abs=0.1) and video.damaged == 0
    assert numbers(path, 1000) == list(range(41)) and numbers(path, 0.1) == [0]
    assert not video.has_sound and list(video.sound()) == []


def test_a_rate_that_is_none(tmp_path):
    video = Video(video_files.write(tmp_path / "a.mp4", map(marked, range(3))))
    for fps in (0, -3, float("inf"), float("nan")):
        with pytest.raises(VideoError, match="fps: .* found, expected a number of pictures per second"):
            next(video.frames(fps))


@given(steps=st.lists(st.integers(1, 37), min_size=1, max_size=12), fps=st.sampled_from([1, 3, 5, 7.5]))
def test_variable_frame_rate(tmp_path_factory, steps, fps):
    """The first picture of each piece of 1/fps seconds, by a naive count in milliseconds."""
    times = np.cumsum([0, *steps]) * 20
    path = tmp_path_factory.mktemp("vfr") / "a.mkv"
    video_files.write(path, map(marked, range(len(times))), times=times.tolist(), base=Fraction(1, 1000), codec="mpeg4")
    expected, taken = [], set()
    for number, time in enumerate(times):
        piece = int(time * fps / 1000)
        if piece not in taken and taken.add(piece) is None:
            expected.append(number)
    frames = list(Video(path).frames(fps))
    assert [number_of(frame.picture) for frame in frames] == expected
    assert [frame.time for frame in frames] == pytest.approx(times[expected] / 1000)


def corners():
    """Red in the upper left, green in the upper right, blue in the lower left, black in the lower right."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48, 0] = picture[:32, 48:, 1] = picture[32:, :48, 2] = 255
    return picture


def turn_in_file(path, matrix):
    """Puts a matrix into the header of the MP4's video track, as cameras do."""
    content = bytearray(path.read_bytes())
    header = content.index(b"tkhd") + 4
    values = [round(value * (1 << (30 if place % 3 == 2 else 16))) for place, value in enumerate(matrix)]
    content[header + 40 : header + 76] = struct.pack(">9i", *values)
    path.write_bytes(content)


STRAIGHT = [(p, 0, 0, q) for p in (1, -1) for q in (1, -1)]
ASIDE = [(0, p, q, 0) for p in (1, -1) for q in (1, -1)]


@pytest.mark.parametrize("matrix", STRAIGHT + ASIDE)
def test_turned_as_the_matrix_of_the_file_says(tmp_path, matrix):
    """ISO/IEC 14496-12: a point (p, q) of the picture is shown at (a p + c q + x, b p + d q + y)."""
    a, b, c, d = matrix
    original = corners()
    path = video_files.write(tmp_path / "a.mp4", [original] * 3)
    turn_in_file(path, (a, b, 0, c, d, 0, 0, 0, 1))
    (shown,) = (frame.picture for frame in Video(path).frames(1))
    x, y = np.meshgrid(np.arange(96), np.arange(64))
    right, down = a * x + c * y, b * x + d * y
    expected = np.zeros((np.ptp(down) + 1, np.ptp(right) + 1, 3), np.uint8)
    expected[down - down.min(), right - right.min()] = original
    assert shown.shape == expected.shape
    assert np.median(abs(shown.astype(int) - expected)) <= 3


@pytest.mark.parametrize(("aspect", "width"), [(Fraction(4, 3), 128), (Fraction(200, 1), 96)])
def test_pixels_that_are_not_square(tmp_path, aspect, width):
    """They are made square, unless the file gives them a shape that cannot be."""
    path = video_files.write(tmp_path / "a.mp4", [corners()] * 3, aspect=aspect)
    (shown,) = (frame.picture for frame in Video(path).frames(1))
    assert shown.shape == (64, width, 3)
    assert shown[10, width // 2 - 10, 0] > 200 and shown[10, width // 2 + 10, 1] > 200


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg"])
def test_damage_in_the_middle_is_left_out_and_counted(tmp_path, codec):
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(45)), codec=codec, options={"g": "1"})
    video_files.damage(path, [20, 21, 22])
    video = Video(path)
    found = [number_of(frame.picture) for frame in video.frames(25)]
    assert video.damaged == 3 and found == [*range(20), *range(23, 45)]


def test_a_picture_of_which_half_is_damaged_is_left_out(tmp_path):
    """The decoder makes up the other half, and says so."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 96, 3), dtype=np.uint8)
    path = video_files.write(tmp_path / "a.mp4", noise, codec="mpeg4", options={"g": "1"})
    video_files.damage(path, [10], sparing=0.5)
    video = Video(path)
    assert len(list(video.frames(25))) == 29 and video.damaged == 1


@pytest.mark.parametrize(("ending", "times"), [("ts", 2), ("h264", 1)])
def test_a_clock_that_runs_back_or_is_missing(tmp_path, ending, times):
    """Two broadcasts in one file, each of which counts from 0; and a bare stream, with a rate and no times."""
    path = video_files.write(tmp_path / f"a.{ending}", map(marked, range(30)))
    path.write_bytes(times * path.read_bytes())
    frames = list(Video(path).frames(5))
    assert [number_of(frame.picture) for frame in frames] == times * list(range(0, 30, 5))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(6 * times) / 5, abs=0.001)


def test_numbers_are_the_same_in_every_walk(tmp_path):
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(45)), options={"g": "1"})
    video_files.damage(path, [11, 30])
    video = Video(path)
    frames = list(video.frames(10))
    again = list(video.numbered({frame.number for frame in frames}))
    assert [(frame.number, frame.time) for frame in again] == [(frame.number, frame.time) for frame in frames]
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(again, frames, strict=True))
    assert [frame.number for frame in video.numbered({3, 17})] == [3, 17] and list(video.numbered(())) == []


def test_file_that_breaks_off(tmp_path):
    path = video_files.write(tmp_path / "a.mkv", map(marked, range(45)), codec="mpeg4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = numbers(path, 25)
    assert 5 < len(found) < 45 and found == list(range(len(found)))


def test_sound_that_cannot_be_decoded_is_left_out_and_counted(tmp_path):
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(45)), sound=tone(1.8))
    spoilt, video = video_files.damage(path, [13], kind="audio"), Video(path)
    heard = np.concatenate(list(video.sound()))
    assert video.unheard == spoilt and 1.5 * RATE < len(heard) < 2 * RATE and abs(heard[-4000:-2000]).max() > 0.4
    spoilt = video_files.damage(path, kind="audio")
    assert list(video.sound()) == [] and video.unheard == spoilt and len(list(video.frames(5))) == 9


def test_sound_of_an_unknown_codec(tmp_path):
    path = video_files.write(tmp_path / "a.mkv", map(marked, range(5)), sound=tone(0.2))
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    video = Video(path)
    assert video.has_sound and list(video.sound()) == [] and video.unheard == 1 and numbers(path, 25) == list(range(5))


def joined(folder, *kinds):
    """Broadcasts of two seconds in one file, each with a tone of its own kind."""
    path = folder / "joined.ts"
    with path.open("wb") as file:
        for kind in kinds:
            sound = tone(2, kind["rate"], kind.pop("hertz"))
            file.write(video_files.write(folder / "a.ts", map(marked, range(50)), sound=sound, **kind).read_bytes())
    return path


def test_sound_whose_format_changes_in_mid_stream(tmp_path):
    """Stereo at 48 kHz, then one channel at 32 kHz: both are heard."""
    path = joined(tmp_path, dict(rate=48_000, layout="stereo", hertz=440), dict(rate=32_000, hertz=800))
    video = Video(path)
    heard = np.concatenate(list(video.sound()))
    assert len(heard) == pytest.approx(4 * RATE, abs=RATE // 4) and not video.unheard
    heard_tone(heard[8000:24000], 440)
    heard_tone(heard[-24000:-8000], 800)


@pytest.mark.parametrize("codecs", [("aac", "mp2"), ("mp2", "ac3")])
def test_sound_whose_codec_changes_in_mid_stream(tmp_path, codecs):
    """FFmpeg decodes only the first: the rest is counted, and the remark says so, although there is a voice."""
    path = joined(tmp_path, *(dict(rate=48_000, hertz=440, sound_codec=codec) for codec in codecs))
    video, models = Video(path), everything()
    heard = np.concatenate(list(video.sound()))
    assert len(heard) == pytest.approx(2 * RATE, abs=RATE // 4) and video.unheard > 50
    (clip,) = extract_clips(video, models)
    expected = f"{video.unheard} parts of the sound left out as undecodable"
    assert "audio" in clip.vectors and remarks(video, clip, models)[-1] == expected


def heard_tone(sound, hertz):
    assert np.argmax(abs(np.fft.rfft(sound))) == hertz and sound.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(("rate", "layout"), [(44_100, "stereo"), (48_000, "mono"), (16_000, "mono")])
def test_tone(tmp_path, rate, layout):
    """Whatever the rate and the channels: one channel at 16 kHz, as loud as it was, of the same frequency."""
    sound = {"sound": tone(2, rate), "rate": rate, "layout": layout}
    path = video_files.write(tmp_path / "a.mp4", map(marked, range(50)), **sound)
    pieces = list(Video(path).sound())
    heard = np.concatenate(pieces)
    assert heard.dtype == np.float32 and len(pieces) > 10 and len(heard) == pytest.approx(2 * RATE, abs=RATE // 8)
    heard_tone(heard[8000:24000], 440)


@pytest.mark.parametrize("layout", ["7.1", "hexadecagonal", "22.2"])
def test_many_channels(tmp_path, layout):
    """The mean of all of them, of which each has a part of the tone."""
    parts = np.linspace(0.1, 1, av.AudioLayout(layout).nb_channels)
    sound = {"layout": layout, "sound_codec": "pcm_s16le"}
    path = video_files.write(tmp_path / "a.mkv", map(marked, range(25)), sound=np.outer(parts, tone(1)), **sound)
    heard = np.concatenate(list(Video(path).sound()))
    np.testing.assert_allclose(heard, parts.mean() * tone(1), atol=1e-3)


def song(path):
    with av.open(path, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=RATE)
        frame = av.AudioFrame.from_ndarray(tone(0.064)[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = RATE, 0
        out.mux(track.encode(frame))
        out.mux(track.encode(None))


def heic(path):
    """The head of a picture of an iPhone."""
    video_files.write(path, [corners()] * 3)
    path.write_bytes(path.read_bytes().replace(b"ftypisom", b"ftypheic"))


def hopeless(path):
    video_files.write(path, map(marked, range(9)), codec="mjpeg")
    video_files.damage(path, range(9))


def playlist(path):
    video_files.write(path.with_name("b.mp4"), map(marked, range(9)))
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nb.mp4\n#EXT-X-ENDLIST\n")


KINDS = ("png", "jpeg", "gif", "bmp", "tiff", "webp")
BAD = {kind: (lambda path, kind=kind: Image.fromarray(corners()).save(path, kind), "a picture found") for kind in KINDS}
BAD |= {
    "heic": (heic, r"a picture found \(heic\), expected a video"),
    "song": (song, "audio found, expected a track of moving pictures"),
    "hopeless": (hopeless, "no picture in it can be decoded"),
    "playlist": (playlist, "expected a video"),
    "list": (lambda path: path.write_text("ffconcat version 1.0\nfile 'b.mp4'\n"), "expected a video"),
    "nothing": (lambda path: None, "no such file found"),
    "folder": (lambda path: path.mkdir(), "a folder found"),
}
for content in (b"", b"plain text", bytes(1000), b"\0\0\0\x18ftypisom"):
    BAD[str(content[:9])] = lambda path, content=content: path.write_bytes(content), "expected a video file"


@pytest.mark.parametrize(("write", "sentence"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_video_is_one_sentence(tmp_path, write, sentence):
    path = tmp_path / "a.mp4"
    write(path)
    with pytest.raises(VideoError, match=sentence) as caught:
        list(Video(path).frames(5))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Ten times the pictures, as much memory of Python's: one picture at a time is there."""

    def peak(count):
        path = video_files.write(tmp_path / f"{count}.mp4", (marked(n % 64, (330, 256)) for n in range(count)))
        tracemalloc.start()
        for _ in Video(path).frames(25):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(300) < 2 * peak(30)
