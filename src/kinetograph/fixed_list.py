"""Neighbour lists and graphs of fixed size: steps of a GPU that wait for no answer are recorded with them.

Which edges lie within the cutoff is known on the device alone, so nothing can be made as long as they are
many. Here everything has the length of the list: edges within the cutoff come first, in their order, and
those that are left over lie between atoms that are not there, behind the real ones. Such a graph is like any
other; what its models say of the first ``n_atoms`` atoms is what they say of the exact graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kinetograph.graph import COINCIDENT_A, Graph, GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.system import System

ROOM = 1.25
"""Entries of a fixed list for each of the list that it is made for."""
EDGES_PER_NOBODY = 128
"""Entries for each atom that is not there; those within the cutoff take about half of them."""


class FixedList:
    """A neighbour list in memory that stays where it is.

    Args:
        neighbors: the first that it holds.
        n_atoms: of the system.
        request: what graphs are made for; edges within a cutoff alone.

    Raises:
        ValueError: the request asks for more than edges within a cutoff.
    """

    def __init__(self, neighbors: NeighborList, n_atoms: int, request: GraphRequest) -> None:
        if request != request.edges_only() or request.n_nearest is not None:
            raise ValueError("only edges within a cutoff have a graph of fixed size")
        self.request, self.n_atoms, self.skin = request, n_atoms, neighbors.skin
        self.capacity = int(ROOM * neighbors.n_edges) + 64
        self.n_nobodies = -(-self.capacity // EDGES_PER_NOBODY)
        device = neighbors.center.device
        self.center, self.neighbor = torch.zeros(2, self.capacity, dtype=torch.int64, device=device)
        self.shift = neighbors.shift.new_zeros(self.capacity, 3)
        self.edge_types = None if neighbors.edge_types is None else torch.zeros_like(self.center)
        self.n_listed = torch.zeros((), dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(neighbors.positions)
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        """Whether something happened since :meth:`clear` that a step with this list cannot answer for."""
        self.fill(neighbors)

    def fill(self, neighbors: NeighborList) -> bool:
        """Hold another list of these atoms; false, and unchanged, where there is no room for it."""
        n = neighbors.n_edges
        if n > self.capacity:
            return False
        self.center[:n].copy_(neighbors.center)
        self.neighbor[:n].copy_(neighbors.neighbor)
        self.shift[:n].copy_(neighbors.shift)
        if self.edge_types is not None:
            assert neighbors.edge_types is not None
            self.edge_types[:n].copy_(neighbors.edge_types)
        self.n_listed.fill_(n)
        self.positions.copy_(neighbors.positions)
        return True

    def clear(self) -> None:
        """Forget what was bad."""
        self.bad.zero_()

    def note(self, bad: Tensor) -> None:
        """Remember that something went wrong, if it did."""
        self.bad.logical_or_(bad)

    def updated(self, system: System) -> FixedList:
        """This list; that it should have been made anew is noted. The cell must be that of the list."""
        moved = (system.positions - self.positions).square().sum(dim=1).max()
        self.note(~(moved <= (0.5 * self.skin) ** 2))
        return self

    def graph(self, system: System, dtype: torch.dtype, *, differentiable: bool = False) -> Graph:
        """The edges within the cutoff, and behind them others between ``n_nobodies`` further atoms.

        That two atoms coincide is noted.
        """
        n_atoms, slot = self.n_atoms, torch.arange(self.capacity, device=self.center.device)
        cell = system.cell[0] if system.n_systems == 1 else system.cell[system.system_index[self.center]]
        offset = self.shift @ cell if system.n_systems == 1 else (self.shift.unsqueeze(1) @ cell).squeeze(1)
        vectors = (system.positions[self.neighbor] - system.positions[self.center]) + offset
        squares = vectors.square().sum(dim=1)
        kept = (slot < self.n_listed) & (squares < self.request.cutoff**2)
        self.note((kept & (squares < COINCIDENT_A**2)).any())

        so_far = kept.cumsum(dim=0)
        n_kept = so_far[-1]
        place = slot.new_zeros(self.capacity + 1)
        place = place.scatter(0, torch.where(kept, so_far - 1, self.capacity), slot)[:-1]
        real = slot < n_kept
        each = ((self.capacity - n_kept + self.n_nobodies - 1) // self.n_nobodies).clamp(min=1)
        nobody = n_atoms + ((slot - n_kept) // each).clamp(min=0, max=self.n_nobodies - 1)
        far = vectors.new_zeros(3)
        far[0].fill_(0.9 * self.request.cutoff)
        vectors = torch.where(real.unsqueeze(1), vectors[place], far).to(dtype)
        if differentiable:
            vectors = vectors.detach().requires_grad_(True)
        types = None if self.edge_types is None else torch.where(real, self.edge_types[place], 0)
        return Graph(
            atomic_numbers=_continued(system.atomic_numbers, self.n_nobodies),
            system_index=_continued(system.system_index, self.n_nobodies),
            n_systems=system.n_systems,
            center=torch.where(real, self.center[place], nobody),
            neighbor=torch.where(real, self.neighbor[place], nobody),
            edge_vectors=vectors,
            distances=torch.linalg.norm(vectors, dim=1),
            edge_types=types,
        )


def _continued(values: Tensor, n: int) -> Tensor:
    """With the last value n times more."""
    return torch.cat([values, values[-1:].expand(n)])
