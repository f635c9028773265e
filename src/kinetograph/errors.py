"""The one exception that stands for a user's mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend: says what is wrong, where, and how to mend it.

    The command line prints it as one message without a traceback and ends with exit code 2;
    Python callers can catch it.

    Args:
        what: what is wrong, in one sentence.
        where: the file, frame, key or argument in which it was found.
        mend: what the user can do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        place = f" ({where})" if where else ""
        cure = f" {mend}" if mend else ""
        stop = "" if what.endswith("?") and not place else "."
        super().__init__(f"{what}{place}{stop}{cure}")


class RunFailed(Exception):
    """A training or a simulation went wrong on its own; what it wrote is kept.

    The command line prints it as one message and ends with exit code 1.
    """


@contextmanager
def needs(module: str, *, extra: str) -> Iterator[None]:
    """Turn a missing optional package, imported inside the block, into a message with the install command.

    Raises:
        UserError: ``module`` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module:
            raise
        raise UserError(
            f"this needs {module}, which is not installed",
            mend=f"Install it: pip install 'kinetograph[{extra}]'",
        ) from error


def nearest(word: str, known: list[str]) -> str:
    """``; did you mean …?`` with the nearest known word, or nothing where none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
