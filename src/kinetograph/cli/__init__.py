"""The command line: one word a task. Thin: it turns words into calls and results into tables."""

from __future__ import annotations

import errno
import sys

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


def end_with(message: str, *, code: int) -> None:
    """Print one message and end."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]Error:[/] {escape(message)}")
    sys.exit(code)
