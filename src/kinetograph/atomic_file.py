"""Files that are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from kinetograph.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new one, never a part.

    Raises:
        UserError: the disk is full or the place cannot be written.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write: {error.strerror}",
            where=str(path),
            mend="Free some space or choose another place.",
        ) from error
