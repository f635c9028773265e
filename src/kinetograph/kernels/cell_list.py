"""The search for pairs in torch's operations, on the device where the atoms are.

Atoms are sorted into bins no narrower than the reach where the cell allows that, and look for neighbours in
the bins around their own. Where a cell is narrower than the reach its images take the place of bins. No array
is as long as there are bins: a vacuum costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES_AT_ONCE = 1 << 22
"""Pairs that are looked at together, to bound memory."""
MOST_BINS = 1 << 20
"""Along a direction, so that numbers of bins stay whole numbers of 64 bits."""
NARROWEST_A = 1e-6
"""Extent of structures all of whose atoms lie in a plane."""


def edges_by_bins(
    positions: Tensor, cells: Tensor, pbc: Tensor, counts: Tensor, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges closer than ``reach``: centre, neighbour and shift, sorted by these.

    Args:
        positions: (n_atoms, 3) float64, finite.
        cells: (n_systems, 3, 3) float64, with vectors also along directions that are not periodic.
        pbc: (n_systems, 3) bool.
        counts: (n_systems,) int64: atoms of each structure.
    """
    n_atoms = len(positions)
    if n_atoms == 0:
        nothing = counts.new_zeros(0)
        return nothing, nothing, positions.new_zeros(0, 3)
    bins = _Bins.of(positions, cells, pbc, counts, reach)
    at_once = max(1, CANDIDATES_AT_ONCE // bins.most_candidates())
    every = torch.arange(n_atoms, device=positions.device)
    found = [bins.edges_of(some) for some in torch.split(every, at_once)]
    center, neighbor, shift = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = _canonical_order(center, neighbor, shift, n_atoms)
    return center[order], neighbor[order], shift[order].to(positions)


@dataclass(frozen=True)
class _Bins:
    positions: Tensor
    cells: Tensor
    pbc: Tensor
    reach: float
    system: Tensor
    """(n_atoms,) the structure of each atom."""
    turns: Tensor
    """(n_atoms, 3) how many cell vectors an atom lies outside of the cell, zero along open directions."""
    place: Tensor
    """(n_atoms, 3) of its bin in the structure's grid."""
    grid: Tensor
    """(n_systems, 3) numbers of bins."""
    around: Tensor
    """(n_offsets, 3) where the bins lie that an atom looks into, from its own."""
    order: Tensor
    """(n_atoms,) atoms sorted by their bins."""
    numbers: Tensor
    """(n_atoms,) of these bins, ascending."""

    @staticmethod
    def of(positions: Tensor, cells: Tensor, pbc: Tensor, counts: Tensor, reach: float) -> _Bins:
        device = positions.device
        which = torch.arange(len(counts), device=device)
        system = torch.repeat_interleave(which, counts, output_size=len(positions))
        inverse = torch.linalg.inv(cells)
        fractional = torch.einsum("ni,nij->nj", positions, inverse[system])
        turns = torch.where(pbc[system], torch.floor(fractional), 0.0)
        inside = fractional - turns
        # In fractions of a cell vector: the whole cell, or along open directions what lies between its atoms.
        rows, empty = system.unsqueeze(1).expand(-1, 3), positions.new_zeros(len(cells), 3)
        low = empty.scatter_reduce(0, rows, inside, "amin", include_self=False).where(~pbc, 0.0)
        high = empty.scatter_reduce(0, rows, inside, "amax", include_self=False).where(~pbc, 1.0)
        heights = 1.0 / torch.linalg.norm(inverse, dim=1)  # Å between the planes of the two other vectors
        extent = ((high - low) * heights).clamp(min=NARROWEST_A)
        grid = torch.floor(extent / reach).clamp(1, MOST_BINS)
        place = torch.floor((inside - low[system]) * (heights * grid / extent)[system])
        place = torch.minimum(place.clamp(min=0.0), grid[system] - 1.0).long()
        farthest = torch.where(pbc, torch.ceil(reach * grid / extent), 1.0).amax(dim=0)
        ranges = [torch.arange(-int(n), int(n) + 1, device=device) for n in farthest.tolist()]
        grid = grid.long()
        numbers, order = torch.sort(_number(place, grid, system), stable=True)
        around = torch.cartesian_prod(*ranges)
        return _Bins(positions, cells, pbc, reach, system, turns.long(), place, grid, around, order, numbers)

    def most_candidates(self) -> int:
        """Pairs that an atom may have to look at, if all the bins around it are as full as the fullest."""
        _, filling = torch.unique_consecutive(self.numbers, return_counts=True)
        return int(filling.max()) * len(self.around)

    def edges_of(self, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, neighbour and shift of the edges of some atoms, in any order."""
        system = self.system[centers].unsqueeze(1).expand(-1, len(self.around))
        place = self.place[centers].unsqueeze(1) + self.around
        image = torch.div(place, self.grid[system], rounding_mode="floor")
        there = (self.pbc[system] | (image == 0)).all(dim=2)
        wanted = _number(place - image * self.grid[system], self.grid, system)
        begin = torch.searchsorted(self.numbers, wanted)
        count = ((torch.searchsorted(self.numbers, wanted, right=True) - begin) * there).flatten()
        looked = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
        rank = torch.arange(len(looked), device=count.device) - (count.cumsum(0) - count)[looked]
        i, j = centers[looked // len(self.around)], self.order[begin.flatten()[looked] + rank]
        shift = image.flatten(0, 1)[looked] - self.turns[j] + self.turns[i]
        if len(self.cells) == 1:
            offset = shift.to(self.positions) @ self.cells[0]
        else:
            offset = torch.einsum("ei,eij->ej", shift.to(self.positions), self.cells[self.system[i]])
        squares = ((self.positions[j] - self.positions[i]) + offset).square().sum(dim=1)
        kept = (squares < self.reach**2) & ((i != j) | (shift != 0).any(dim=1))
        return i[kept], j[kept], shift[kept]


def _number(place: Tensor, grid: Tensor, system: Tensor) -> Tensor:
    """(…,) numbers of the bins at (…, 3) places in the grids of these structures, one after the other."""
    size = grid.prod(dim=1)
    g, base = grid[system], (torch.cumsum(size, 0) - size)[system]
    return base + (place[..., 0] * g[..., 1] + place[..., 1]) * g[..., 2] + place[..., 2]


def _canonical_order(center: Tensor, neighbor: Tensor, shift: Tensor, n_atoms: int) -> Tensor:
    """Order by (centre, neighbour, shift)."""
    if len(center) == 0:
        return center
    lowest = shift.amin(dim=0)
    span = shift.amax(dim=0) - lowest + 1
    moved = shift - lowest
    image = (moved[:, 0] * span[1] + moved[:, 1]) * span[2] + moved[:, 2]
    # One key of all three would not always be a whole number of 64 bits.
    by_image = torch.argsort(image)
    pair = center * n_atoms + neighbor
    return by_image[torch.argsort(pair[by_image], stable=True)]
