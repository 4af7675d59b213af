"""Video files: pictures at a chosen rate as a player shows them, and sound, decoded as a stream by FFmpeg (PyAV).

Only one picture is in memory at a time, however long the file is. Damaged parts are left out and counted.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from famf_video.onnx import require

if TYPE_CHECKING:
    import av

RATE = 16_000
"""Sound samples per second."""

WIDEST = 4  # the largest credible ratio of a pixel's sides; a larger one is an error in the file and would cost memory

PICTURES = ("image2", "gif", "apng", "webp", "ico", "fits", "dds", "xbin")
PICTURE_BRANDS = ("avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")  # in an MP4 container
LISTS = ("concat", "hls", "dash", "imf", "sdp", "lavfi", "webm_dash_manifest")  # files that name other files


class VideoError(ValueError):
    """A file is no video, or nothing in it can be decoded."""


@dataclass(frozen=True)
class Frame:
    """A picture of a video. ``number`` counts the pictures that can be decoded, from 0; ``time`` is in seconds."""

    number: int
    time: float
    picture: UInt8[np.ndarray, "H W 3"]


class Video:
    """A video file, decoded in this process. Each iteration starts from the beginning of the file.

    Use ``contained.ContainedVideo``, which has the same methods and survives crashes of FFmpeg.

    Args:
        path: of the file, in any container and codec that FFmpeg knows; other files that it names are not opened.

    Raises:
        VideoError: one sentence that names the file, what was found and what was expected.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "no such file"
            raise VideoError(f"{self.path}: {found} found, expected a video file")
        require("av")
        self.damaged = 0
        """Parts of the picture track left out because they were damaged, in the longest iteration so far."""
        self.unheard = 0
        """Parts of the sound left out because they could not be decoded, in the last iteration over it."""
        with self._open() as container:
            stream = self._pictures(container)
            self.size: tuple[int, int] = (stream.codec_context.width, stream.codec_context.height)
            self.duration = None if container.duration is None else container.duration / 1e6
            self.has_sound = bool(container.streams.audio)

    def frames(self, fps: float | int) -> Iterator[Frame]:
        """Yields ``fps`` pictures per second, or all pictures if the video has fewer.

        Time is divided into intervals of 1/fps seconds, and the first picture of each is yielded, by the times in the
        file, so a variable frame rate makes no difference. Pictures are rotated as the file asks, with square pixels.

        Raises:
            VideoError: no picture can be decoded, or ``fps`` is not a number above 0.
        """
        if not 0 < fps < math.inf:
            raise VideoError(f"fps: {fps} found, expected a number of pictures per second")
        last, rate = -1, Fraction(fps).limit_denominator(1000)

        def first_of_interval(number: int, time: Fraction) -> bool:
            nonlocal last
            new, last = int(time * rate) > last, max(int(time * rate), last)
            return new

        yield from self._decode(first_of_interval)

    def numbered(self, numbers: Collection[int]) -> Iterator[Frame]:
        """Yields the pictures with these numbers, in the order of the video."""
        if wanted := set(numbers):
            last = max(wanted)
            for frame in self._decode(lambda number, time: number in wanted):
                yield frame
                if frame.number == last:
                    return

    def sound(self) -> Iterator[Float32[np.ndarray, " n"]]:
        """Yields the sound in pieces: one channel, 16,000 samples per second, −1 to 1; nothing without a track."""
        from av import AudioResampler, FFmpegError

        self.unheard = 0
        with self._open() as container:
            tracks = container.streams.audio
            track = next((track for track in tracks if track.codec_context is not None), None)
            if track is None:
                self.unheard = len(tracks)  # their codecs are unknown to FFmpeg
                return
            resampler, last = None, None
            for packet in _packets(container, track):
                try:
                    for decoded in packet.decode():
                        now = decoded.format.name, decoded.layout.name, decoded.sample_rate
                        if resampler is None or now != last:  # it may change within a file, as in joined broadcasts
                            # Packed samples: with planar ones PyAV reads at most seven channels and then crashes.
                            resampler, last = AudioResampler(format="flt", rate=RATE), now
                        for piece in resampler.resample(decoded):
                            channels = piece.layout.nb_channels
                            yield piece.to_ndarray().reshape(-1, channels).mean(axis=1)
                except (FFmpegError, ValueError):  # ValueError: the resampler cannot convert this sound
                    self.unheard, resampler = self.unheard + 1, None

    def _decode(self, wanted: Callable[[int, Fraction], bool]) -> Iterator[Frame]:
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
                    elapsed = None if clock is None or start is None else clock - start
                    if number:  # if the clock stands still, runs back or is missing, the frame rate replaces it
                        time = elapsed if elapsed is not None and elapsed > time else time + step
                    if clock is not None and elapsed != time:
                        start = clock - time
                    if wanted(number, time):
                        yield Frame(number, float(time), _shown(frame, stream.sample_aspect_ratio))
                    number += 1
        if not number:
            raise VideoError(f"{self.path}: no picture in it can be decoded, expected at least one")

    def _open(self) -> "av.container.InputContainer":
        import av

        try:
            # With "file:" and the whitelist nothing is fetched from elsewhere, whatever the file's name or content.
            return av.open(
                f"file:{self.path.resolve()}", options={"protocol_whitelist": "file"}, metadata_errors="replace"
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{self.path}: cannot be opened as a video ({reason}), expected a video file") from error

    def _pictures(self, container: "av.container.InputContainer") -> "av.video.stream.VideoStream":
        """The track of moving pictures, which the cover of a song is not."""
        from av.stream import Disposition

        kinds = container.format.name.split(",")
        brand = container.metadata.get("major_brand", "")
        if any(kind in PICTURES or kind.endswith("_pipe") for kind in kinds) or brand in PICTURE_BRANDS:
            raise VideoError(f"{self.path}: a picture found ({brand or kinds[0]}), expected a video")
        if any(kind in LISTS for kind in kinds):
            raise VideoError(f"{self.path}: a list of other files found ({kinds[0]}), expected a video")
        moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not moving:
            found = ", ".join(sorted({stream.type for stream in container.streams})) or "no track"
            raise VideoError(f"{self.path}: {found} found, expected a track of moving pictures")
        if moving[0].codec_context is None:
            raise VideoError(f"{self.path}: a picture track of unknown codec found, expected one that FFmpeg knows")
        return moving[0]


def _packets(
    container: "av.container.InputContainer", stream: "av.stream.Stream", fault: Callable[[], None] = lambda: None
) -> Iterator["av.Packet"]:
    """Yields the packets of a track; if the file breaks off, those before the break."""
    from av import FFmpegError

    try:
        yield from container.demux(stream)
    except FFmpegError:
        fault()


def _shown(frame: "av.VideoFrame", aspect: Fraction | None) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture in RGB as a player shows it: square pixels, mirrored and rotated as the file asks."""
    credible = aspect and 1 / WIDEST <= aspect <= WIDEST
    width = max(round(frame.width * aspect), 1) if credible else frame.width
    picture = frame.to_ndarray(format="rgb24", width=width, height=frame.height)
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is not None:
        # ISO/IEC 14496-12: the point (p, q) is shown at (a p + c q + x, b p + d q + y).
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if a * d < b * c:  # mirrored: undone first, so that a rotation remains
            picture, a, b = picture[:, ::-1], -a, -b
        picture = np.rot90(picture, round(math.atan2(-b, a) / (math.pi / 2)) % 4)
    return np.ascontiguousarray(picture)
