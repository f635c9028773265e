"""Atoms in an order in which those near in space are near in memory: what is gathered stays in cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.kernels.operators.edges import first_edges
from kinetograph.neighbors import NeighborList
from kinetograph.system import System

FEWEST_ATOMS = 8000
"""In a structure: fewer atoms lie in the cache of one core, in whatever order."""
BOX_A = 6.0
"""Edge of the boxes whose order is followed."""
MOST_BOXES = 1 << 16
"""Along a direction."""


@dataclass(frozen=True)
class SpaceOrder:
    """An order of the atoms of a neighbour list, structure by structure."""

    order: Tensor
    """(n_atoms,) int64: which atom stands at each place."""
    place: Tensor
    """(n_atoms,) int64: the place of each atom."""
    first: Tensor
    """(n_atoms + 1,) int64: the first edge of each atom in the list."""

    @staticmethod
    def of(system: System, neighbors: NeighborList) -> SpaceOrder | None:
        """By where the atoms were when the list was made; ``None`` where no structure is large enough.

        Structures smaller than ``FEWEST_ATOMS`` keep the order of their atoms, whatever else is in the batch.
        """
        large = system.atoms_per_system >= FEWEST_ATOMS
        if not bool(large.any()):
            return None
        keys = torch.where(large[system.system_index], _curve(system, neighbors), 0)
        by_key = torch.argsort(keys, stable=True)
        order = by_key[torch.argsort(system.system_index[by_key], stable=True)]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        return SpaceOrder(order, place, first_edges(neighbors.center, system.n_atoms))


def _curve(system: System, neighbors: NeighborList) -> Tensor:
    """(n_atoms,) int64: number of an atom's box along Morton's curve.

    G. M. Morton, IBM technical report (1966): the bits of a box's three numbers, in turns.
    """
    positions, index = neighbors.positions.detach().double(), system.system_index
    cells = neighbors.cell.detach().double()
    # Atoms of a crystal are put back into its cell. Elsewhere they are taken where they are.
    whole = system.pbc.all(dim=1) & (torch.linalg.det(cells) != 0.0)
    safe = torch.where(whole[:, None, None], cells, torch.eye(3, dtype=cells.dtype, device=cells.device))
    fractional = torch.einsum("ni,nij->nj", positions, torch.linalg.inv(safe)[index])
    inside = torch.where(whole[index].unsqueeze(1), fractional - torch.floor(fractional), fractional)
    inside = inside * torch.linalg.norm(safe, dim=2)[index]
    # From each structure's own lowest corner: nobody's order depends on who else is there.
    lowest = inside.new_zeros(system.n_systems, 3).scatter_reduce(
        0, index.unsqueeze(1).expand(-1, 3), inside, "amin", include_self=False
    )
    inside = inside - lowest[index]
    box = torch.floor(inside / BOX_A).clamp(max=MOST_BOXES - 1).long()
    key = torch.zeros_like(box[:, 0])
    for bit in range(MOST_BOXES.bit_length() - 1):
        for axis in range(3):
            key |= ((box[:, axis] >> bit) & 1) << (3 * bit + axis)
    return key
