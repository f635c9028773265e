"""One line of live status on stderr: it changes on a terminal, and is printed now and then elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class StatusLine:
    """A bar and a text.

    Args:
        total: what the bar counts up to.
        seconds: between changes on a terminal.
        seconds_between_lines: between lines where there is none.
    """

    def __init__(
        self,
        total: int,
        *,
        console: Console | None = None,
        seconds: float = 0.5,
        seconds_between_lines: float = 15.0,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._seconds = seconds if self._live else seconds_between_lines
        self._last_time = -float("inf")
        self._progress = Progress(
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=total)

    def is_due(self, *, always: bool = False) -> bool:
        """Whether it is time for a new text."""
        now = time.monotonic()
        if not always and now - self._last_time < self._seconds:
            return False
        self._last_time = now
        return True

    def show(self, text: str, done: int, total: int) -> None:
        if self._live:
            self._progress.start()
            self._progress.update(self._task, completed=done, total=total, description=text)
            self._progress.refresh()
        else:
            self._console.print(text, highlight=False, soft_wrap=True)

    def announce(self, sentence: str) -> None:
        """Print a sentence of its own."""
        self._console.print(f"[yellow]warning[/yellow] {sentence}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._live:
            self._progress.stop()


def time_left(seconds: float) -> str:
    """Such as ``0:12:05 left``."""
    left = round(seconds)
    return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
