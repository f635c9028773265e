"""What every verb does alike: tables for a person, the same as JSON, and refusing to overwrite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from kinetograph import atomic_file
from kinetograph.atomic_file import json_text
from kinetograph.errors import UserError

err = Console(stderr=True, highlight=False)


def table(title: str, rows: list[tuple[str, str]], *, to_stderr: bool = False) -> None:
    """Print name and value pairs."""
    view = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    view.add_column(style="dim", no_wrap=True)
    view.add_column(overflow="fold")
    for name, value in rows:
        view.add_row(name, value)
    (err if to_stderr else Console(highlight=False)).print(view)


def write_json(path: Path | None, data: Any) -> None:
    """Write data as JSON to a path, to stdout for ``-``, nowhere for ``None``."""
    if path is None:
        return
    if str(path) == "-":
        sys.stdout.write(json_text(data))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_json(path, data)


@contextmanager
def resumable() -> Iterator[None]:
    """Turn Ctrl-C in a run that can go on into a sentence and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("Interrupted; what was written opens, and --resume continues it.")
        raise typer.Exit(130) from None


@contextmanager
def structures_of(path: Path) -> Iterator[None]:
    """Let an error that is found in a structure say which file it came from."""
    try:
        yield
    except UserError as error:
        where = error.where or ""
        if not where.startswith(("structure", "the structure")):
            raise
        numbered = any(letter.isdigit() for letter in where)
        place = f"{path}, {where}" if numbered else str(path)
        raise UserError(error.what, where=place, mend=error.mend) from error


def checked_device(name: str) -> str:
    """A device that torch knows and this machine has, or ``UserError``."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device {name!r} cannot be used here", where="--device", mend="Use cpu."
        ) from error
    return name


def refuse_existing(*paths: Path | None, overwrite: bool | None) -> None:
    """Raise ``UserError`` if an output exists and may not be replaced; ``None`` and ``-`` never do.

    Args:
        overwrite: ``None`` where the command has no such option.
    """
    for path in paths:
        if path is not None and str(path) != "-" and path.exists() and not overwrite:
            mend = "Give another place." if overwrite is None else "Give --overwrite, or another place."
            raise UserError("the output exists already", where=str(path), mend=mend)
