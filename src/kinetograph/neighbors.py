"""``NeighborList``: who is within reach; build, and update with a skin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kinetograph.bonds import BondRule, separations
from kinetograph.errors import UserError
from kinetograph.pairs import edges_within
from kinetograph.system import System

NEAREST_IMAGE_TOLERANCE_A = 0.1
"""Images of a bonded pair within this of the shortest one count as bonded too (ties in crystals)."""


@dataclass(frozen=True)
class NeighborList:
    """Directed edges from each centre to every neighbour image closer than ``cutoff + skin``.

    Sorted by centre, then neighbour, then shift: the order depends only on where the atoms are, so
    sums over edges come out the same after a restart. Build one with :meth:`build` and keep it
    valid with :meth:`updated`.
    """

    center: Tensor
    """(n_edges,) int64."""
    neighbor: Tensor
    """(n_edges,) int64."""
    shift: Tensor
    """(n_edges, 3) whole numbers of cell vectors, in the floating-point type of the positions."""
    cutoff: float
    """Å: the reach that is guaranteed."""
    skin: float
    """Å: edges up to ``cutoff + skin`` are listed."""
    positions: Tensor
    """(n_atoms, 3) Å: where the atoms were when the list was built."""
    cell: Tensor
    """(n_systems, 3, 3) Å at that time."""
    bond_rule: BondRule | None = None
    edge_types: Tensor | None = None
    """(n_edges,) int64: number of bonds between the atoms by ``bond_rule``, 0 where not bonded."""

    @property
    def n_edges(self) -> int:
        return int(self.center.shape[0])

    @staticmethod
    def build(
        system: System, cutoff: float, *, skin: float = 0.0, bond_rule: BondRule | None = None
    ) -> NeighborList:
        """All pairs closer than ``cutoff + skin`` (Å), every periodic image of its own.

        Raises:
            UserError: a bond rule is given but the system's bonds are not known
                (``bonds.with_bonds`` finds them).
        """
        center, neighbor, shift = edges_within(system, cutoff + skin)
        edge_types = None
        if bond_rule is not None:
            edge_types = _edge_types(system, center, neighbor, shift, bond_rule)
        return NeighborList(
            center=center,
            neighbor=neighbor,
            shift=shift,
            cutoff=cutoff,
            skin=skin,
            positions=system.positions,
            cell=system.cell,
            bond_rule=bond_rule,
            edge_types=edge_types,
        )

    @cached_property
    def half(self) -> tuple[Tensor, Tensor, Tensor]:
        """Centre, neighbour and shift of one edge of each pair: the other one goes back the same way."""
        once = self.center < self.neighbor
        own_image = self.center == self.neighbor
        if bool(own_image.any()):  # of two opposite images the one whose first shift is positive
            first = self.shift[:, 0]
            first = torch.where(first == 0, self.shift[:, 1], first)
            first = torch.where(first == 0, self.shift[:, 2], first)
            once = once | (own_image & (first > 0))
        chosen = torch.nonzero(once)[:, 0]
        return self.center[chosen], self.neighbor[chosen], self.shift[chosen]

    def subset(self, systems: Tensor, atoms: Tensor) -> NeighborList:
        """The edges of some structures of a batch, their atoms numbered anew.

        Args:
            systems: (n_keep,) which structures, ascending.
            atoms: (n_atoms,) bool: the atoms of these.
        """
        edges, new_number = atoms[self.center], atoms.cumsum(dim=0) - 1
        return replace(
            self,
            center=new_number[self.center[edges]],
            neighbor=new_number[self.neighbor[edges]],
            shift=self.shift[edges],
            positions=self.positions[atoms],
            cell=self.cell[systems],
            edge_types=None if self.edge_types is None else self.edge_types[edges],
        )

    def to(self, device: torch.device | str) -> NeighborList:
        """The same list on another device."""
        return replace(
            self,
            center=self.center.to(device),
            neighbor=self.neighbor.to(device),
            shift=self.shift.to(device),
            positions=self.positions.to(device),
            cell=self.cell.to(device),
            edge_types=None if self.edge_types is None else self.edge_types.to(device),
        )

    def is_stale(self, system: System) -> bool:
        """Whether a pair inside the cutoff could be missing for these positions in this cell.

        Two atoms approach by at most the sum of their displacements, so the list holds while no
        atom has moved more than half the skin. Where the cell has changed, h = h₀ F, positions are
        compared with r₀ F: a pair that is not listed was beyond cutoff + skin, F shortens that to no
        less than its smallest singular value times it, and displacements from r₀ F do the rest.
        """
        if self.cell is not system.cell and not torch.equal(self.cell, system.cell):
            return self._is_stale_in_another_cell(system)
        if self.positions is system.positions:
            return False
        moved = (system.positions - self.positions).square().sum(dim=1).max()
        # NaN positions compare false with everything: ask for "not within" instead of "beyond".
        return not bool(moved <= (0.5 * self.skin) ** 2)

    def _is_stale_in_another_cell(self, system: System) -> bool:
        if not bool(system.pbc.all() & torch.isfinite(system.cell).all()):
            return True  # a vector of a direction that is not periodic says nothing of positions
        deformation = torch.linalg.solve(self.cell, system.cell)
        shortest: Tensor = torch.linalg.matrix_norm(deformation, ord=-2)
        affine = torch.einsum("ni,nij->nj", self.positions, deformation[system.system_index])
        squares = (system.positions - affine).square().sum(dim=1)
        moved = torch.zeros_like(shortest).scatter_reduce(0, system.system_index, squares, "amax").sqrt()
        return not bool((shortest * (self.cutoff + self.skin) - 2.0 * moved >= self.cutoff).all())

    def updated(self, system: System) -> NeighborList:
        """This list while it holds for the system, a new one otherwise."""
        if not self.is_stale(system):
            return self
        return NeighborList.build(system, self.cutoff, skin=self.skin, bond_rule=self.bond_rule)


def _edge_types(system: System, center: Tensor, neighbor: Tensor, shift: Tensor, rule: BondRule) -> Tensor:
    """(n_edges,) number of bonds between the ends of each edge; of several images only the nearest."""
    if system.bonds is None:
        raise UserError(
            "edge types were asked for but the bonds are not known",
            where="neighbour list",
            mend="Find them first with kinetograph.bonds.with_bonds.",
        )
    types = torch.zeros_like(center)
    pairs, apart = separations(system.bonds, system.n_atoms, rule.max_separation)
    if len(pairs) == 0:
        return types
    keys = pairs[:, 0] * system.n_atoms + pairs[:, 1]
    edge_keys = center * system.n_atoms + neighbor
    slot = torch.searchsorted(keys, edge_keys).clamp(max=len(keys) - 1)
    hit = torch.nonzero(keys[slot] == edge_keys)[:, 0]
    offset = torch.einsum("ei,eij->ej", shift[hit], system.cell[system.system_index[center[hit]]])
    length = torch.linalg.norm(
        system.positions[neighbor[hit]] + offset - system.positions[center[hit]], dim=1
    )
    shortest = torch.full((len(keys),), torch.inf, dtype=length.dtype, device=length.device)
    shortest = shortest.scatter_reduce(0, slot[hit], length, "amin")
    nearest = length <= shortest[slot[hit]] + NEAREST_IMAGE_TOLERANCE_A
    types[hit[nearest]] = apart[slot[hit[nearest]]]
    return types


def join(lists: Sequence[NeighborList]) -> NeighborList:
    """The lists of several batches as the list of one batch of them all, in order."""
    first = lists[0]
    if any(item.cutoff != first.cutoff or item.bond_rule != first.bond_rule for item in lists):
        raise ValueError("only lists of one cutoff and one bond rule can be joined")
    offsets = [0]
    for item in lists[:-1]:
        offsets.append(offsets[-1] + len(item.positions))
    types = [item.edge_types for item in lists if item.edge_types is not None]
    return NeighborList(
        center=torch.cat([item.center + offset for item, offset in zip(lists, offsets, strict=True)]),
        neighbor=torch.cat([item.neighbor + offset for item, offset in zip(lists, offsets, strict=True)]),
        shift=torch.cat([item.shift for item in lists]),
        cutoff=first.cutoff,
        skin=min(item.skin for item in lists),
        positions=torch.cat([item.positions for item in lists]),
        cell=torch.cat([item.cell for item in lists]),
        bond_rule=first.bond_rule,
        edge_types=torch.cat(types) if first.bond_rule is not None else None,
    )
