"""Random numbers that depend on where they are used, not on what was drawn before.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011) is a function of a
key and a counter. With key = (seed, replica) and counter = (step, purpose, part), a restarted run draws
what the uninterrupted one would have drawn, and each structure of a batch has a stream of its own,
which it keeps when others leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.system import System

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stream:
    """The random numbers of one structure."""

    seed: int
    replica: int = 0
    """Its place in the batch that the run began with."""

    def at(self, step: int, purpose: Purpose, part: int = 0) -> Generator:
        """The numbers of a step, drawn for one purpose; a step may be made in several parts."""
        key = np.array([self.seed, self.replica], dtype=np.uint64)
        return Generator(Philox(key=key, counter=[0, part, int(purpose), step]))


Streams = tuple[Stream, ...]
"""One for each structure of a batch."""


class Purpose(IntEnum):
    """What a number is drawn for: streams of different purposes never overlap."""

    INITIAL_VELOCITIES = 0
    LANGEVIN = 1
    VELOCITY_RESCALING = 2
    CELL_RESCALING = 3


def streams_of(seed: int | Sequence[int], n_systems: int) -> Streams:
    """The streams of a batch, from one seed for all or one for each.

    Raises:
        UserError: there are more or fewer seeds than structures.
    """
    seeds = [seed] * n_systems if isinstance(seed, int) else list(seed)
    if len(seeds) != n_systems:
        raise UserError(
            f"{len(seeds)} seeds for {n_systems} structures", where="seed", mend="Give one, or one for each."
        )
    return tuple(Stream(int(value), replica) for replica, value in enumerate(seeds))


def standard_normal(system: System, streams: Streams, step: int, purpose: Purpose, part: int = 0) -> Tensor:
    """(n_atoms, 3) independent standard normal numbers in the type of the positions."""
    counts = [system.n_atoms] if system.n_systems == 1 else system.atoms_per_system.tolist()
    draws = [
        stream.at(step, purpose, part).standard_normal((count, 3))
        for stream, count in zip(streams, counts, strict=True)
    ]
    noise = draws[0] if len(draws) == 1 else np.concatenate(draws)
    return torch.from_numpy(noise).to(device=system.device, dtype=system.dtype)


def of_each_structure(
    system: System,
    streams: Streams,
    step: int,
    purpose: Purpose,
    draw: Callable[[Generator, int], Sequence[float] | Array],
) -> Tensor:
    """(n_systems, n) numbers that a structure needs as a whole, in the type of the positions.

    Args:
        draw: makes the n numbers of one structure from its generator and its place in the batch.
    """
    rows = [draw(stream.at(step, purpose), index) for index, stream in enumerate(streams)]
    return torch.as_tensor(np.array(rows)).to(device=system.device, dtype=system.dtype)
