"""The command line: one word a task. Thin: it turns words into calls and results into tables."""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

USERS_MISTAKES = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EROFS,
}
"""Errors of the operating system that the user can mend."""


def main() -> None:
    """Entry point of ``kinetograph`` and ``kg``.

    A user's mistake is one message and exit code 2, a run that went wrong one message and exit code 1.
    """
    from kinetograph.cli.app import app
    from kinetograph.errors import RunFailed, UserError

    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app()
    except UserError as error:
        end_with(str(error), code=2)
    except RunFailed as error:
        end_with(str(error), code=1)
    except OSError as error:
        if error.errno not in USERS_MISTAKES:
            raise
        end_with(f"{error.filename or 'the output'}: {error.strerror}.", code=2)


def _show_warning(
    otherwise: Callable[..., None], message: Warning | str, category: type[Warning], filename: str, *rest: Any
) -> None:
    """A sentence for what this package warns of; where it was written helps nobody on a command line."""
    if not Path(filename).is_relative_to(Path(__file__).parents[1]):
        otherwise(message, category, filename, *rest)
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold yellow]Warning:[/] {escape(str(message).rstrip('.'))}.")


def end_with(message: str, *, code: int) -> None:
    """Print one message and end."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]Error:[/] {escape(message)}")
    sys.exit(code)
