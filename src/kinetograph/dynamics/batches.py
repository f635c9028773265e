"""Batches of replicas: as many at once as memory holds, then the next ones.

What a force call takes grows with the edges and the atoms of a batch; how fast, depends on the model and is
measured. Trial calls of the largest structures, twice as many each time, are made until one takes a
noticeable part of the memory, or all structures are in it. A batch may then grow until its force call
would fill a share of what is free; the rest is for the last good states, which a run keeps, and for fluids
that grow denser.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from kinetograph.bonds import with_bonds
from kinetograph.dynamics.memory import memory_of
from kinetograph.errors import UserError
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential
from kinetograph.system import System, subset

FILL = 0.6
"""Share of the free memory that the force call of a batch may take."""
NOTICEABLE = 0.1
"""Share of that which a trial must take to tell the rest; the next one may take twice as much."""
ATOMS_PER_LIST = 20_000
"""Edges are counted on neighbour lists of so many atoms."""

_bytes_per_size: WeakKeyDictionary[Potential, float] = WeakKeyDictionary()
"""The most that was measured: a model may keep memory of earlier calls, and take it again unseen."""


def consecutive(sizes: Sequence[float], limit: float) -> list[range]:
    """Groups of neighbours in a row, each as long as its sizes add up to no more than the limit.

    One that is larger than the limit makes a group of its own.
    """
    groups, first, total = [], 0, 0.0
    for index, size in enumerate(sizes):
        if index > first and total + size > limit:
            groups.append(range(first, index))
            first, total = index, 0.0
        total += size
    return [*groups, range(first, len(sizes))]


def by_atoms(system: System, most: int) -> list[range]:
    """Batches of at most so many atoms."""
    return consecutive(system.atoms_per_system.tolist(), most)


def by_memory(system: System, potential: Potential, skin_A: float) -> list[range]:
    """Batches whose force calls fit into the free memory of the device, as far as a trial can tell.

    Where a trial is refused all are one batch: the start of the run says what is wrong.
    """
    all_at_once = [range(system.n_systems)]
    if system.n_systems == 1:
        return all_at_once
    try:
        system = with_bonds(system.to(dtype=torch.float64), potential.request.bond_rule)
        sizes = _edges_and_atoms(system, potential, skin_A)
        largest_first = sorted(range(system.n_systems), key=lambda index: -sizes[index])
        _force_call(subset(system, largest_first[-1:]), potential, skin_A)  # libraries load at the first call
        memory = memory_of(system.device)
        budget = FILL * memory.free
        n = 1
        while True:
            _force_call(subset(system, sorted(largest_first[:n])), potential, skin_A)
            taken = memory.most_taken()
            if n == system.n_systems or taken > NOTICEABLE * budget:
                break
            n = min(2 * n, system.n_systems)
    except UserError:
        return all_at_once
    per_size = taken / sum(sizes[index] for index in largest_first[:n])
    per_size = _bytes_per_size[potential] = max(per_size, _bytes_per_size.get(potential, 0.0))
    return consecutive(sizes, budget / per_size) if per_size > 0 else all_at_once


def _edges_and_atoms(system: System, potential: Potential, skin_A: float) -> list[int]:
    """(n_systems,) what the memory of a force call grows with."""
    sizes: list[int] = []
    for group in by_atoms(system, ATOMS_PER_LIST):
        part = subset(system, list(group))
        neighbors = NeighborList.build(part, potential.request.reach, skin=skin_A)
        edges = torch.bincount(part.system_index[neighbors.center], minlength=part.n_systems)
        sizes += (edges + part.atoms_per_system).tolist()
    return sizes


def _force_call(system: System, potential: Potential, skin_A: float) -> None:
    """As every step makes it."""
    request = potential.request
    neighbors = NeighborList.build(system, request.reach, skin=skin_A, bond_rule=request.bond_rule)
    potential(system, neighbors)
