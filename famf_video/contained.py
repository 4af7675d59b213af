"""Videos decoded in a separate process, so that a file on which FFmpeg crashes costs no more than that file."""

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
from famf_lib.support.wording import named
from famf_video.onnx import require
from famf_video.video import Frame, Video, VideoError

COMMAND = [sys.executable, "-P", "-m", "famf_video.contained"]
STATE = ("size", "duration", "has_sound", "damaged", "unheard")


class ContainedVideo(Video):
    """A ``Video`` that another process decodes. If that process crashes, a ``VideoError`` says so.

    The decoding process is kept for later iterations and videos; after a crash a new one is started.
    """

    def __init__(self, path: Path | str):
        require("av")
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

    def _ask(self, method: str | None, *arguments: Any) -> Iterator[Any]:
        decoder = _idle.pop() if _idle else _start()
        finished = False
        try:
            pickle.dump((Path.cwd(), self.path, method, arguments), decoder.stdin)
            decoder.stdin.flush()
            while True:
                kind, answer = pickle.load(decoder.stdout)
                if kind != "piece":
                    break
                yield answer
            finished = True
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = decoder.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise VideoError(
                f"{self.path}: FFmpeg crashed on it ({how}), expected a video that it can decode"
            ) from error
        finally:
            if finished:
                _idle.append(decoder)
            else:
                _stop(decoder)
        if kind == "fault":
            raise VideoError(answer)
        answer["damaged"] = max(answer["damaged"], self.damaged)
        vars(self).update(answer)


_idle: list[subprocess.Popen] = []


def describe(path: Path, error: Exception) -> str:
    """One sentence on what is wrong with a video: the message of an error of ours, or the name of any other."""
    reason = " ".join(str(error).split()) if isinstance(error, ValueError) else f"it fails ({named(error)})"
    return reason if str(path) in reason else f"{path}: {reason}"


def _start() -> subprocess.Popen:
    # Not by multiprocessing, which would run the user's main script again in the new process.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    return subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _stop(decoder: subprocess.Popen) -> None:
    decoder.kill()
    with suppress(OSError):  # unsent data can no longer be sent
        decoder.stdin.close()
    decoder.stdout.close()
    decoder.wait()


@atexit.register
def _stop_all() -> None:
    while _idle:
        _stop(_idle.pop())


def serve() -> None:
    """Answers requests from standard input until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints is mistaken for an answer
    with suppress(EOFError, BrokenPipeError):
        while True:
            folder, path, method, arguments = pickle.load(requests)
            try:
                os.chdir(folder)
                video = Video(path)
                for piece in getattr(video, method)(*arguments) if method else ():
                    pickle.dump(("piece", piece), answers, protocol=5)
                    answers.flush()
                answer = "done", {name: getattr(video, name) for name in STATE}
            except VideoError as error:
                answer = "fault", str(error)
            except BrokenPipeError:
                return
            except Exception as error:
                answer = "fault", f"{path}: it cannot be decoded ({named(error)}), expected a video"
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    serve()
