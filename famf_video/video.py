"""Videos as they are shown: pictures at a chosen rate and sound, decoded as a stream by FFmpeg (PyAV).

One picture is in memory at a time, however long the file is. What is damaged is left out and counted.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from famf_video.onnx import needed

if TYPE_CHECKING:
    import av

RATE = 16_000
"""Samples of sound a second."""

WIDEST = 4  # how wide a pixel may be for its height; what a file says beyond is a mistake, and would take much memory

PICTURES = ("image2", "gif", "apng", "webp", "ico", "fits", "dds", "xbin")
PICTURE_BRANDS = ("avif", "avis", "heic", "heix", "mif1", "msf1")  # pictures in the container of MP4
LISTS = ("concat", "hls", "dash", "imf", "sdp", "lavfi", "webm_dash_manifest")  # files that name other files


class VideoError(ValueError):
    """A file that is no video, or nothing of which can be decoded."""


@dataclass(frozen=True)
class Frame:
    """A picture of a video: the ``number`` of those that can be decoded, from 0, and its time in seconds."""

    number: int
    time: float
    picture: UInt8[np.ndarray, "H W 3"]


class Video:
    """A video file. Each walk through it decodes it from the beginning.

    Args:
        path: of the file. Any container and codec that FFmpeg knows; other files that it names are not opened.

    Raises:
        VideoError: one sentence with the file, what was found and what was expected.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "no such file"
            raise VideoError(f"{self.path}: {found} found, expected a video file")
        needed("av")
        self.damaged = 0
        """Pieces of the pictures' track that were left out because they were damaged, in the longest walk so far."""
        self.unheard = 0
        """Pieces of the sound that were left out because they could not be decoded, when it was last heard."""
        with self._open() as container:
            stream = self._pictures(container)
            self.size: tuple[int, int] = (stream.codec_context.width, stream.codec_context.height)
            self.duration = None if container.duration is None else container.duration / 1e6
            self.has_sound = bool(container.streams.audio)

    def frames(self, fps: float | int) -> Iterator[Frame]:
        """``fps`` pictures a second or, where the video has fewer, all.

        Time is cut into pieces of 1/fps seconds, and the first picture of each is given, by the times that the file
        tells: a variable frame rate makes no difference. Pictures are turned as the file asks, and their pixels square.

        Raises:
            VideoError: there is no picture that can be decoded, or ``fps`` is no number above 0.
        """
        if not 0 < fps < math.inf:
            raise VideoError(f"fps: {fps} found, expected a number of pictures a second")
        piece, rate = -1, Fraction(fps).limit_denominator(1000)

        def first_of_piece(number: int, time: Fraction) -> bool:
            nonlocal piece
            new, piece = int(time * rate) > piece, max(int(time * rate), piece)
            return new

        yield from self._walk(first_of_piece)

    def numbered(self, numbers: Collection[int]) -> Iterator[Frame]:
        """The pictures of these numbers, in the order of the video."""
        if wanted := set(numbers):
            last = max(wanted)
            for frame in self._walk(lambda number, time: number in wanted):
                yield frame
                if frame.number == last:
                    return

    def sound(self) -> Iterator[Float32[np.ndarray, " n"]]:
        """The sound as pieces of one channel, 16,000 samples a second, −1 to 1; nothing where there is no track."""
        from av import AudioResampler, FFmpegError

        self.unheard = 0
        with self._open() as container:
            if (track := _sound(container)) is None:
                self.unheard = len(container.streams.audio)  # of kinds that FFmpeg does not know
                return
            resampler, last = None, None
            for packet in _packets(container, track):
                try:
                    for decoded in packet.decode():
                        now = decoded.format.name, decoded.layout.name, decoded.sample_rate
                        if resampler is None or now != last:  # sound may change in mid-stream, as in joined broadcasts
                            # One plane for all channels: of several, PyAV's arrays hold seven, and end the process.
                            resampler, last = AudioResampler(format="flt", rate=RATE), now
                        for piece in resampler.resample(decoded):
                            channels = piece.layout.nb_channels
                            yield piece.to_ndarray().reshape(-1, channels).mean(axis=1)
                except (FFmpegError, ValueError):  # ValueError: the resampler does not know what there is
                    self.unheard, resampler = self.unheard + 1, None

    def _walk(self, wanted: Callable[[int, Fraction], bool]) -> Iterator[Frame]:
        from av import FFmpegError

        damaged, number, start, time = 0, 0, None, Fraction(0)

        def count() -> None:
            nonlocal damaged
            damaged += 1
            self.damaged = max(self.damaged, damaged)

        with self._open() as container:
            stream = self._pictures(container)
            stream.thread_type = "AUTO"
            step = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
            for packet in _packets(container, stream, count):
                try:
                    decoded = packet.decode()
                except FFmpegError:
                    count()
                    continue
                for frame in decoded:
                    if frame.is_corrupt:
                        count()
                        continue
                    clock = None if frame.pts is None else frame.pts * frame.time_base
                    told = None if clock is None or start is None else clock - start
                    if number:  # where the clock stands still, runs back or is missing, the frame rate takes its place
                        time = told if told is not None and told > time else time + step
                    if clock is not None and told != time:
                        start = clock - time
                    if wanted(number, time):
                        yield Frame(number, float(time), _shown(frame, stream.sample_aspect_ratio))
                    number += 1
        if not number:
            raise VideoError(f"{self.path}: no picture in it can be decoded, expected one at least")

    def _open(self) -> "av.container.InputContainer":
        import av

        try:
            # "file:" and the white list: whatever the file says or is called, nothing is fetched from anywhere.
            return av.open(
                f"file:{self.path.resolve()}", options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{self.path}: no video can be opened here ({said}), expected a video file") from error

    def _pictures(self, container: "av.container.InputContainer") -> "av.video.stream.VideoStream":
        """The track of moving pictures: the cover of a song is none."""
        from av.stream import Disposition

        kinds = container.format.name.split(",")
        brand = container.metadata.get("major_brand", "")
        if any(kind in PICTURES or kind.endswith("_pipe") for kind in kinds) or brand in PICTURE_BRANDS:
            raise VideoError(f"{self.path}: a picture found ({brand or kinds[0]}), expected a video")
        if any(kind in LISTS for kind in kinds):
            raise VideoError(f"{self.path}: a list of other files found ({kinds[0]}), expected a video")
        cover = Disposition.attached_pic
        moving = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not moving:
            found = ", ".join(sorted({stream.type for stream in container.streams})) or "no track"
            raise VideoError(f"{self.path}: {found} found, expected a track of moving pictures")
        if moving[0].codec_context is None:
            raise VideoError(f"{self.path}: pictures of a kind that FFmpeg does not know, expected others")
        return moving[0]


def _sound(container: "av.container.InputContainer") -> "av.audio.stream.AudioStream | None":
    """The first track of sound that FFmpeg can decode."""
    return next((track for track in container.streams.audio if track.codec_context is not None), None)


def _packets(
    container: "av.container.InputContainer", stream: "av.stream.Stream", fault: Callable[[], None] = lambda: None
) -> Iterator["av.Packet"]:
    """The packets of a track; a file that breaks off gives those before the break."""
    from av import FFmpegError

    try:
        yield from container.demux(stream)
    except FFmpegError:
        fault()


def _shown(frame: "av.VideoFrame", aspect: Fraction | None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in RGB as a player shows it: square pixels, mirrored and turned by quarters as the file asks."""
    real = aspect and 1 / WIDEST <= aspect <= WIDEST
    width = max(round(frame.width * aspect), 1) if real else frame.width
    picture = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is not None:
        picture = _turned(picture, np.frombuffer(matrix, np.int32).tolist())
    return np.ascontiguousarray(picture)


def _turned(picture: UInt8[np.ndarray, "h w 3"], matrix: list[int]) -> UInt8[np.ndarray, "H W 3"]:
    """A picture under a display matrix (ISO/IEC 14496-12): (p, q) is shown at (a p + c q + x, b p + d q + y)."""
    a, b, _, c, d = matrix[:5]
    if a * d < b * c:  # mirrored: left and right change places first, and what is left is a turn
        picture, a, b = picture[:, ::-1], -a, -b
    return np.rot90(picture, round(math.atan2(-b, a) / (math.pi / 2)) % 4)
