"""Another program at work in an environment of its own, told by JSON lines and answering by them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from kinetograph.benchmark.environments import last_line

Json = Mapping[str, Any]
PATIENCE_S = 10.0
"""For a program to end after it has been told to."""


class PeerFailed(Exception):
    """A program ended, or said what is no answer; with its last line."""


class PeerProcess:
    """A program that is told once what to compute, and then makes calls when it is asked to.

    ``programs/turns.py`` is its side of the conversation. While it is not asked, it waits and takes no time.

    Args:
        python: the interpreter of its environment.
        program: what that runs.
        task: what to compute; ``task["threads"]`` is also what its libraries are told.

    Raises:
        PeerFailed: it did not answer.
    """

    def __init__(self, python: Path, program: Path, task: Json) -> None:
        threads = str(task["threads"])
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-E", "-s", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        try:
            self.answer = self._ask(task)
        except BaseException:
            self.close()
            raise

    def seconds(self, n_calls: int) -> float:
        """That so many calls take.

        Raises:
            PeerFailed: it did not answer.
        """
        answer = self._ask({"calls": n_calls})
        if not isinstance(answer.get("seconds"), float) or not math.isfinite(answer["seconds"]):
            raise PeerFailed(f"it said {answer!r}, which are no seconds")
        return float(answer["seconds"])

    def _ask(self, message: Json) -> Json:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._last_line()) from None
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(self._last_line())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise PeerFailed(f"it said {line.strip()!r}, which is no answer")
        return answer

    def _last_line(self) -> str:
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "it closed its answers and did not end"
        self._said.seek(0)
        return last_line(self._said.read())

    def close(self) -> None:
        """Tell it that there are no more lines, and end it if it does not end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
