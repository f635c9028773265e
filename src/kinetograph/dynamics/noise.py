"""Random numbers that depend on where they are used, not on what was drawn before.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011) is a function of a
key and a counter. With key = (seed, replica) and counter = (step, purpose, part), a restarted run draws
what the uninterrupted one would have drawn, and each structure of a batch has a stream of its own,
which it keeps when others leave the batch.

On a CPU the numbers are NumPy's. A GPU draws its own (``kernels/philox.py``), others than a CPU's for the
same seed: the step may then be a number on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.kernels.philox import normal_numbers
from kinetograph.nn.segments import sum_to
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


Step = int | Tensor
"""A number of steps; () int64 where only the device knows it."""


def drawn_by_device(system: System, step: Step) -> bool:
    """Whether the device that a system is on draws the numbers of a step."""
    return isinstance(step, Tensor) or system.device.type != "cpu"


def standard_normal(system: System, streams: Streams, step: Step, purpose: Purpose, part: int = 0) -> Tensor:
    """(n_atoms, 3) independent standard normal numbers in the type of the positions."""
    if drawn_by_device(system, step):
        return _of_device(system, streams, step, purpose, part)
    assert isinstance(step, int)
    counts = [system.n_atoms] if system.n_systems == 1 else system.atoms_per_system.tolist()
    draws = [
        stream.at(step, purpose, part).standard_normal((count, 3))
        for stream, count in zip(streams, counts, strict=True)
    ]
    noise = draws[0] if len(draws) == 1 else np.concatenate(draws)
    return torch.from_numpy(noise).to(device=system.device, dtype=system.dtype)


def _of_device(system: System, streams: Streams, step: Step, purpose: Purpose, part: int) -> Tensor:
    """Counted by the atom in its structure, the step, and the purpose with the part and the replica."""
    low, high, replica = words_of(streams, system.device)
    counts = system.atoms_per_system
    atom = torch.arange(system.n_atoms, device=system.device)
    atom = atom - (counts.cumsum(dim=0) - counts)[system.system_index]
    now = step if isinstance(step, Tensor) else torch.full_like(atom[:1], step)
    of_structure = [word[system.system_index] for word in (low, high, replica)]
    what = torch.full_like(atom, int(purpose) * 2**16 + part)
    counter = (atom, what, of_structure[2], now & 0xFFFFFFFF)
    return normal_numbers(counter, (of_structure[0], of_structure[1])).to(system.dtype)


@lru_cache(maxsize=16)
def words_of(streams: Streams, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(n_systems,) each: both halves of the seeds, and the replicas, on the device that draws with them."""
    rows = [(stream.seed & 0xFFFFFFFF, stream.seed >> 32, stream.replica) for stream in streams]
    low, high, replica = torch.tensor(rows, device=device).T.contiguous()
    return low, high, replica


def normal_and_squares(
    system: System, streams: Streams, step: Step, purpose: Purpose, degrees: Tensor
) -> tuple[Tensor, Tensor]:
    """(n_systems,) each: a standard normal number, and the sum of the squares of ``degrees − 1`` others."""
    if not drawn_by_device(system, step):
        assert isinstance(step, int)
        each = degrees.tolist()
        draws = of_each_structure(
            system,
            streams,
            step,
            purpose,
            lambda generator, index: [
                generator.standard_normal(),
                2.0 * generator.standard_gamma(0.5 * (each[index] - 1.0)),
            ],
        )
        return draws[:, 0], draws[:, 1]
    counts = system.atoms_per_system
    first = counts.cumsum(dim=0) - counts
    one = _of_device(system, streams, step, purpose, 1)[first, 0]
    squares = _of_device(system, streams, step, purpose, 0).square()
    place = 3 * (torch.arange(system.n_atoms, device=system.device) - first[system.system_index])
    number = place.unsqueeze(1) + torch.arange(3, device=system.device)
    counted = torch.where(number < degrees[system.system_index].unsqueeze(1) - 1.0, squares, 0.0)
    return one, sum_to(system.system_index, counted.sum(dim=1), system.n_systems)


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
