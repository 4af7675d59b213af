"""Errors for which the input is to blame."""


class Refusal:
    """Mixed into an error class, it makes a notebook show the error's sentence without the traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]
