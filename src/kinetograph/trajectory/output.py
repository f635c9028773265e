"""Files that take their place in one step, and errors of writing as a sentence for the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kinetograph.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which then takes its place; on an error it vanishes."""
    temporary = path.with_name(path.name + ".writing")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def write_errors(path: Path, mend: str) -> Iterator[None]:
    """Turn what the operating system refuses into ``UserError``; h5py says RuntimeError for some of it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"the trajectory cannot be written: {reason}", where=str(path), mend=mend) from error
