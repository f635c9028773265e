"""Who is bonded to whom: given lists or covalent radii, and how many bonds lie between two atoms."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sparse
import torch
from ase.data import covalent_radii
from torch import Tensor

from kinetograph.pairs import edges_within
from kinetograph.system import System


@dataclass(frozen=True)
class BondRule:
    """How the bond type of an edge is made, so that any engine can make it again.

    The type of an edge is 0 for atoms that are not bonded, otherwise the smallest number of bonds
    between them: 1 for a bond, 2 for the ends of an angle, up to ``max_separation``. Bonds are those
    of ``System.bonds``; where that is ``None`` two atoms are bonded when they are closer than
    ``tolerance`` times the sum of their covalent radii. In a run the bonds are found once, in the
    first frame, and stay.
    """

    max_separation: int = 1
    """Largest number of bonds that has a type of its own."""
    tolerance: float = 1.3
    """Dimensionless factor on the sum of covalent radii (Cordero et al. 2008, as in ASE)."""

    @property
    def n_types(self) -> int:
        return self.max_separation + 1


def find_bonds(system: System, tolerance: float = 1.3) -> Tensor:
    """Pairs of atoms closer than ``tolerance`` times the sum of their covalent radii.

    Returns:
        (n_bonds, 2) int64, each pair once, the lower index first. Several images of one pair count once.
    """
    radii = torch.as_tensor(covalent_radii, dtype=system.dtype, device=system.device)[system.atomic_numbers]
    center, neighbor, shift = edges_within(system, float(2.0 * tolerance * radii.max()))
    offset = torch.einsum("ei,eij->ej", shift, system.cell[system.system_index[center]])
    distance = torch.linalg.norm(system.positions[neighbor] + offset - system.positions[center], dim=1)
    bonded = (center < neighbor) & (distance < tolerance * (radii[center] + radii[neighbor]))
    pairs: Tensor = torch.unique(torch.stack([center[bonded], neighbor[bonded]], dim=1), dim=0)
    return pairs


def with_bonds(system: System, rule: BondRule | None) -> System:
    """The system with its bonds known: found by the rule unless they were given or no rule asks for them."""
    if rule is None or system.bonds is not None:
        return system
    return replace(system, bonds=find_bonds(system, rule.tolerance))


def separations(bonds: Tensor, n_atoms: int, max_separation: int) -> tuple[Tensor, Tensor]:
    """Pairs of atoms up to ``max_separation`` bonds apart.

    Args:
        bonds: (n_bonds, 2), each pair once.

    Returns:
        Pairs (n_pairs, 2), both directions, sorted; and the number of bonds between them (n_pairs,).
    """
    first, second = bonds.cpu().numpy().T
    ones = np.ones(len(first), dtype=np.int64)
    adjacency = sparse.coo_array((ones, (first, second)), shape=(n_atoms, n_atoms)).tocsr()
    adjacency = ((adjacency + adjacency.T) > 0).astype(np.int64)
    nearest = adjacency.copy()
    reached = adjacency.copy()
    for separation in range(2, max_separation + 1):
        reached = ((reached @ adjacency) > 0).astype(np.int64)
        new = reached - reached.multiply(nearest > 0)
        nearest = nearest + separation * new
    coo = nearest.tocoo()
    order = np.lexsort((coo.col, coo.row))
    rows, columns, values = coo.row[order], coo.col[order], coo.data[order]
    keep = (rows != columns) & (values > 0)
    pairs = np.stack([rows[keep], columns[keep]], axis=1).astype(np.int64)
    return (
        torch.as_tensor(pairs, device=bonds.device),
        torch.as_tensor(values[keep].astype(np.int64), device=bonds.device),
    )


def molecules(bonds: Tensor, n_atoms: int) -> Tensor:
    """(n_atoms,) int64: which molecule (connected component of the bonds) an atom belongs to."""
    first, second = bonds.cpu().numpy().reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n_atoms, n_atoms))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    return torch.as_tensor(labels.astype(np.int64), device=bonds.device)
