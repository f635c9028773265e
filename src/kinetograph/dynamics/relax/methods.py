"""What the methods of relaxation share: their form, and what they remember of each structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kinetograph.dynamics.relax.coordinates import Rows


@dataclass(frozen=True)
class Memory:
    """What a method keeps between steps."""

    of_rows: Mapping[str, Tensor]
    """(n_rows, …) by name."""
    of_systems: Mapping[str, Tensor]
    """(n_systems, …) by name."""

    def kept(self, rows: Tensor, systems: Tensor) -> Memory:
        """Of these rows and structures alone."""
        return Memory(
            {name: value[rows] for name, value in self.of_rows.items()},
            {name: value[systems] for name, value in self.of_systems.items()},
        )

    def joined(self, other: Memory) -> Memory:
        """Of these structures and of others behind them."""
        return Memory(
            {name: torch.cat([value, other.of_rows[name]]) for name, value in self.of_rows.items()},
            {name: torch.cat([value, other.of_systems[name]]) for name, value in self.of_systems.items()},
        )


class Method(Protocol):
    """A way downhill that needs forces alone. A frozen dataclass; one structure's steps know of no other."""

    @property
    def max_step_A(self) -> float: ...

    def start(self, x: Tensor, rows: Rows) -> Memory:
        """The memory before the first step."""

    def step(self, x: Tensor, forces: Tensor, rows: Rows, memory: Memory) -> tuple[Tensor, Memory]:
        """Where to go from ``x`` (n_rows, 3), with ``forces`` there; and what to remember."""


def shortened(step: Tensor, rows: Rows, longest_A: float) -> Tensor:
    """The steps, those of a structure scaled down together until none of its rows is longer than that."""
    lengths = rows.longest(step)
    return step * rows.spread(torch.where(lengths > longest_A, longest_A / lengths, 1.0))
