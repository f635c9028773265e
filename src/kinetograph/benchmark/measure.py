"""How a figure is made: calls in turns, their median, what they compute, and how far off they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kinetograph import kernels

Action = Callable[[], Any]
T = TypeVar("T")
MIN_ROUNDS = 3
MAX_ROUNDS = 25


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark."""

    case: str
    """What is computed, such as ``"gamd"``."""
    variant: str
    """How: ``"naive"``, ``"plain"``, ``"fast"``, ``"whole step"``, or the name of another program."""
    precision: str
    n_atoms: int
    n_edges: int
    median_s: float | None
    """Seconds of one call; ``None`` where something else was measured."""
    speedup: float | None = None
    """Over ``against``, in the same turns."""
    against: str | None = None
    fraction_of_peak: float | None = None
    """Floating-point operations of matrix products a second, over what the machine's best product makes."""
    relative_error: float | None = None
    """‖F − F′‖ / ‖F′‖ over all atoms, where F′ is the same in double precision."""
    more: Mapping[str, float | str] = field(default_factory=dict)
    """What else a benchmark has to say of it."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, ``more`` among the rest."""
        data = asdict(self)
        return {**data, **data.pop("more")}


@dataclass(frozen=True)
class Clock:
    """Seconds since some moment.

    On one thread of a CPU it is the time that the processor gave, which another program beside does not
    lengthen much; otherwise that of the wall, with the device's queue run empty.
    """

    device: torch.device
    n_threads: int

    @property
    def name(self) -> str:
        return "processor time" if self._own else "wall time"

    @property
    def _own(self) -> bool:
        return self.device.type == "cpu" and self.n_threads == 1

    def __call__(self) -> float:
        if self._own:
            return time.process_time()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, action: Action) -> float:
        """Of one call."""
        began = self()
        action()
        return self() - began


def in_turns(
    actions: Mapping[str, Action], clock: Clock, seconds: float, *, first_s: float | None = None
) -> dict[str, float]:
    """Median seconds of each action.

    Every action is called once to warm up; then all take turns, as many rounds as ``seconds`` allow but
    at least three, so that what slows the machine down for a while slows down all of them.

    Args:
        first_s: what a call of each took together, where they are warm already.
    """
    takers = {name: partial(clock.seconds, action) for name, action in actions.items()}
    return timed_in_turns(takers, seconds, first_s=first_s)


def timed_in_turns(
    takers: Mapping[str, Callable[[], float]], seconds: float, *, first_s: float | None = None
) -> dict[str, float]:
    """The same of those that say themselves how many seconds a turn took."""
    first = sum(take() for take in takers.values()) if first_s is None else first_s
    rounds = 1 + 2 * int(min(MAX_ROUNDS, max(MIN_ROUNDS, seconds / max(first, 1e-9))) // 2)
    times: dict[str, list[float]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            times[name].append(take())
    return {name: median(values) for name, values in times.items()}


def counted(action: Callable[[], T]) -> tuple[T, int]:
    """What a call gives, and the floating-point operations of its products, torch's and our kernels'."""
    library = kernels.library()
    before = library("kg_flop") if library else 0
    with FlopCounterMode(display=False) as counter:
        result = action()
    return result, int(counter.get_total_flops()) + (library("kg_flop") - before if library else 0)


def relative_error(forces: Tensor, exact: Tensor) -> float:
    """‖F − F′‖ / ‖F′‖."""
    return float((forces.double().cpu() - exact.cpu()).norm() / exact.norm().cpu())


def plainly(action: Action) -> Action:
    """The same without compiled kernels."""

    def run() -> Any:
        with kernels.plain_forms():
            return action()

    return run
