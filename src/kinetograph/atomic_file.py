"""Files that are replaced in one step."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

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


def json_text(data: Any) -> str:
    """Strict JSON, which knows no NaN: numbers that are not finite become ``null``."""
    return json.dumps(_finite(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write strict JSON in one step; see :func:`json_text` and :func:`write_atomically`."""
    write_atomically(path, json_text(data).encode())


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
