"""Errors for which the input is to blame."""

from famf_lib.support.wording import plain


class Refusal:
    """Mixed into an error class, it makes a notebook show the error's sentence without the traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [plain(f"{type(self).__name__}: {self}")]
