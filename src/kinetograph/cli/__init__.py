"""The command line: one word a task. Thin: it turns words into calls and results into tables."""

from __future__ import annotations

import errno
import sys


def main() -> None:
    """Entry point of ``kinetograph`` and ``kg``: a user's mistake is one message and exit code 2."""
    from kinetograph.cli.app import app
    from kinetograph.errors import UserError

    try:
        app()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; what was written opens, and --resume continues it.\n")
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        fail(f"cannot write {error.filename or 'the output'}: {error.strerror}.")


def fail(message: str) -> None:
    """Print one message and end with exit code 2."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]Error:[/] {_plain(message)}")
    sys.exit(2)


def _plain(message: str) -> str:
    from rich.markup import escape

    return escape(message)
