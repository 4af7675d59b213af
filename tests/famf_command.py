"""The command ``famf`` in this process."""

from typer.testing import CliRunner, Result

from famf_book.cli import app

SENTENCES = SystemExit, ValueError, LookupError, OSError  # the errors of which ``cli.main`` makes a sentence


def famf(*arguments) -> Result:
    """What the command printed and how it ended, on a wide terminal; the arguments may be of any type."""
    done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SENTENCES), done.exception
    return done
