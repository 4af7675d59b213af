"""Videos that are decoded in a process of their own: a file that makes FFmpeg crash costs no more than that file."""

import atexit
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from famf_lib.support.files import ROOT
from famf_video.onnx import needed
from famf_video.video import Frame, Video, VideoError

COMMAND = [sys.executable, "-P", "-m", "famf_video.contained"]
STATE = ("size", "duration", "has_sound", "damaged", "unheard")


class ContainedVideo(Video):
    """A ``Video`` that another process decodes. Where that ends, this is a ``VideoError`` like any other.

    The models stay in this process. What decodes is kept for the next walk and the next video, and begun anew after a
    crash.
    """

    def __init__(self, path: Path | str):
        needed("av")
        self.path = Path(path)
        self.damaged = self.unheard = 0
        for _ in self._ask(None):
            pass

    def frames(self, fps: float | int) -> Iterator[Frame]:
        yield from self._ask("frames", fps)

    def numbered(self, numbers: Collection[int]) -> Iterator[Frame]:
        yield from self._ask("numbered", set(numbers))

    def sound(self) -> Iterator[Float32[np.ndarray, " n"]]:
        yield from self._ask("sound")

    def _ask(self, walk: str | None, *arguments: Any) -> Iterator[Any]:
        request = Path.cwd(), self.path, walk, arguments
        decoder = _idle.pop() if _idle else _start()
        whole = False
        try:
            pickle.dump(request, decoder.stdin)
            decoder.stdin.flush()
            while True:
                kind, told = pickle.load(decoder.stdout)
                if kind != "piece":
                    break
                yield told
            whole = True
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = decoder.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise VideoError(
                f"{self.path}: FFmpeg crashed on it ({how}), expected a video that it can decode"
            ) from error
        finally:
            if whole:
                _idle.append(decoder)
            else:
                _end(decoder)
        if kind == "fault":
            raise VideoError(told)
        told["damaged"] = max(told["damaged"], self.damaged)
        vars(self).update(told)


_idle: list[subprocess.Popen] = []


def fault(path: Path, error: Exception) -> str:
    """The sentence on a video that something is wrong with: an error of ours is one, any other is named."""
    said = " ".join(str(error).split()) if isinstance(error, ValueError) else f"it fails ({_named(error)})"
    return said if str(path) in said else f"{path}: {said}"


def _named(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _start() -> subprocess.Popen:
    # Not by multiprocessing, which would run a script of the user's once more to begin a process.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    return subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _end(decoder: subprocess.Popen) -> None:
    decoder.kill()
    with suppress(OSError):  # what was not sent cannot be any more
        decoder.stdin.close()
    decoder.stdout.close()
    decoder.wait()


@atexit.register
def _end_all() -> None:
    while _idle:
        _end(_idle.pop())


def serve() -> None:
    """Decodes what is asked for on the standard input, until that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    while True:
        try:
            folder, path, walk, arguments = pickle.load(asked)
        except EOFError:
            return
        try:
            os.chdir(folder)
            video = Video(path)
            for piece in getattr(video, walk)(*arguments) if walk else ():
                pickle.dump(("piece", piece), answers, protocol=5)
                answers.flush()
            answer = "done", {name: getattr(video, name) for name in STATE}
        except VideoError as error:
            answer = "fault", str(error)
        except BrokenPipeError:
            return
        except Exception as error:
            answer = "fault", f"{path}: it cannot be decoded ({_named(error)}), expected a video"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve()
