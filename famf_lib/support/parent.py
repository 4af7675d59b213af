"""What a worker process has from its parent: the environment, and its end, however the parent ends."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

LOOK = 1.0  # seconds between two looks


def call(environment: Mapping[str, str], function: Callable, *arguments: Any, **named: Any) -> Any:
    """Calls the function in a worker process, which from then on ends with its parent.

    The worker may be older than a variable, so it gets the parent's ``environment`` with every call.
    """
    os.environ.update(environment)
    _watch()
    return function(*arguments, **named)


@cache  # once per process
def _watch() -> None:
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
