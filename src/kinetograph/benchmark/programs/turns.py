"""The peer's side of the conversation: a JSON line in and one out.

The first line says what to compute; the answer says by what and with which versions. After that every
line ``{"calls": n}`` is answered by the seconds that n calls took: processor time on one thread, wall time
on several.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Ready:
    """A program that is ready to be called."""

    title: str
    """Its name; with the version of the first of the distributions it is the name of a row."""
    distributions: tuple[str, ...]
    """What versions are said of."""
    computes: str
    """What a call is."""
    precision: str
    calls: Callable[[int], Any]
    """Make so many calls, or steps."""
    n_edges: int | None = None
    """Directed, where the program has a list of them."""
    energy_eV: float | None = None
    """Of the structure as it was given, where that is the same for every program."""


def serve(prepare: Callable[[dict[str, Any]], Ready]) -> None:
    """Answer until there are no more lines.

    What libraries print on standard output goes where errors go, so ``prepare`` imports them.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    task = json.loads(sys.stdin.readline())
    ready = prepare(task)
    versions = {name: version(name) for name in ready.distributions}
    answer(
        {
            "name": f"{ready.title} {versions[ready.distributions[0]]}",
            "versions": versions,
            "computes": ready.computes,
            "precision": ready.precision,
            "n_edges": ready.n_edges,
            "energy_eV": ready.energy_eV,
        }
    )
    clock = time.process_time if task["threads"] == 1 else time.perf_counter
    for line in sys.stdin:
        n_calls = json.loads(line)["calls"]
        began = clock()
        ready.calls(n_calls)
        answer({"seconds": clock() - began})
