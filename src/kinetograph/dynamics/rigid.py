"""Rigid bonds: SHAKE for positions and RATTLE for velocities, solved by Newton's method, cluster by cluster.

J.-P. Ryckaert, G. Ciccotti, H. J. C. Berendsen, J. Comput. Phys. 23, 327 (1977); H. C. Andersen,
J. Comput. Phys. 52, 24 (1983); V. Kräutler, W. F. van Gunsteren, P. H. Hünenberger, J. Comput. Chem. 22,
501 (2001): the bonds of a cluster as one set of equations, whose matrix is the Jacobian itself.

Bond c joins atoms a and b, d_c = r_b − r_a has the length L_c. With s_ac = −1, s_bc = +1, zero elsewhere,
and M_cc' = Σ_a s_ac s_ac' / m_a of bonds that share an atom::

    positions    d_c(λ) = d_c(new) + Σ_c' M_cc' λ_c' d_c'(old),   |d_c(λ)|² = L_c²
    velocities   d_c · (v_b − v_a + Σ_c' M_cc' μ_c' d_c') = 0

The atoms then move by Σ_c s_ac λ_c d_c(old) / m_a, which changes neither momentum nor angular momentum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.system import System

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-12
"""Relative error of squared lengths at which the iteration ends: the noise of double precision."""
MAX_ITERATIONS = 30
LARGEST_START_ERROR_A = 0.1
"""A start whose bonds are further from their lengths than this is refused."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of atoms held together by k bonds each, none shared between clusters."""

    pairs: Tensor
    """(n_clusters, k, 2) int64: atoms of each bond."""
    lengths: Tensor
    """(n_clusters, k) Å."""
    inverse_mass: Tensor
    """(n_clusters, k, 2, 1) 1/amu of the two atoms; zero for fixed ones."""
    coupling: Tensor
    """(n_clusters, k, k) 1/amu: M."""


@dataclass(frozen=True)
class RigidBonds:
    """Holds distances between atoms; positions are such that a bond is the plain difference of two."""

    clusters: tuple[Clusters, ...]
    """One for every number of bonds in a cluster."""

    def held_positions(self, old: Tensor, new: Tensor) -> Tensor:
        """(n_atoms, 3) Å: ``new`` moved along the bonds of ``old`` until every bond has its length.

        Bonds that cannot be mended come out as NaN, which stops a run.
        """
        for group in self.clusters:
            new = _move(group, new, _bond_vectors(group, old), _position_multipliers(group, old, new))
        return new

    def held_velocities(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """(n_atoms, 3) Å/fs: velocities without the part that would change the length of a bond."""
        for group in self.clusters:
            d = _bond_vectors(group, positions)
            matrix = group.coupling * torch.einsum("ncx,nex->nce", d, d)
            opening = (d * _bond_vectors(group, velocities)).sum(dim=2)
            velocities = _move(group, velocities, d, torch.linalg.solve(matrix, -opening))
        return velocities


def _position_multipliers(group: Clusters, old: Tensor, new: Tensor) -> Tensor:
    """(n_clusters, k) amu: λ."""
    d_old, d_new = _bond_vectors(group, old), _bond_vectors(group, new)
    squares = group.lengths.square()
    multipliers = torch.zeros_like(squares)
    d = d_new
    for _ in range(MAX_ITERATIONS):
        excess = d.square().sum(dim=2) - squares
        if bool((excess.abs() <= TOLERANCE * squares).all()):
            return multipliers
        slope = 2.0 * group.coupling * torch.einsum("ncx,nex->nce", d, d_old)
        step, singular = torch.linalg.solve_ex(slope, -excess)
        if bool((singular != 0).any()):
            break
        multipliers = multipliers + step
        d = d_new + torch.einsum("nce,ne,nex->ncx", group.coupling, multipliers, d_old)
    lost = ~((d.square().sum(dim=2) - squares).abs() <= 1e-6 * squares)
    return torch.where(lost, torch.nan, multipliers)


def _bond_vectors(group: Clusters, vectors: Tensor) -> Tensor:
    """(n_clusters, k, 3): second atom less first."""
    return vectors[group.pairs[:, :, 1]] - vectors[group.pairs[:, :, 0]]


def _move(group: Clusters, vectors: Tensor, bonds: Tensor, multipliers: Tensor) -> Tensor:
    """Vectors of atoms plus Σ_c s_ac λ_c d_c / m_a."""
    pull = multipliers.unsqueeze(2) * bonds
    moves = torch.stack([-pull, pull], dim=2) * group.inverse_mass
    return vectors.index_add(0, group.pairs.reshape(-1), moves.reshape(-1, 3))


def rigid_bonds(system: System) -> tuple[System, RigidBonds]:
    """What holds the rigid pairs of a system, and the system with each cluster in one piece.

    Positions are moved so that every bond has its length, velocities so that none changes it.

    Raises:
        UserError: two pairs contradict each other, or a bond of the start is far from its length.
    """
    assert system.rigid is not None
    assert system.rigid_lengths is not None
    free = torch.ones_like(system.masses) if system.fixed is None else (~system.fixed).to(system.masses)
    inverse_mass = free / system.masses
    loose = inverse_mass[system.rigid].sum(dim=1) > 0  # nothing to hold between two fixed atoms
    pairs, lengths = system.rigid[loose], system.rigid_lengths[loose].to(system.dtype)
    system = replace(system, positions=_in_one_piece(system, pairs))
    found = torch.linalg.norm(system.positions[pairs[:, 1]] - system.positions[pairs[:, 0]], dim=1)
    error = (found - lengths).abs()
    if len(error) and float(error.max()) > LARGEST_START_ERROR_A:
        worst = int(error.argmax())
        first, second = pairs[worst].tolist()
        raise UserError(
            f"atoms {first} and {second} are {found[worst]:.3f} Å apart, "
            f"but are to be held at {lengths[worst]:.3f} Å",
            where="rigid bonds",
            mend="Relax the structure with these bonds first, or hold them at other lengths.",
        )
    bonds = RigidBonds(tuple(_clusters(pairs, lengths, inverse_mass)))
    positions = bonds.held_positions(system.positions, system.positions)
    if not bool(torch.isfinite(positions).all()):
        raise UserError(
            "the rigid bonds contradict each other: no positions have all these lengths",
            where="rigid bonds",
            mend="Check that the three distances of a molecule make a triangle.",
        )
    velocities = system.velocities
    if velocities is not None:
        velocities = bonds.held_velocities(positions, velocities)
    return replace(system, positions=positions, velocities=velocities), bonds


def _clusters(pairs: Tensor, lengths: Tensor, inverse_mass: Tensor) -> list[Clusters]:
    """The bonds by cluster, clusters of equally many bonds together."""
    member = torch.from_numpy(_component_of(pairs.cpu().numpy(), len(inverse_mass)))[pairs[:, 0].cpu()]
    order = torch.argsort(member, stable=True)
    sizes = torch.unique_consecutive(member[order], return_counts=True)[1]
    size_of_bond = sizes.repeat_interleave(sizes)
    groups = []
    for k in torch.unique(sizes).tolist():
        chosen = order[size_of_bond == k].to(pairs.device)
        own_pairs = pairs[chosen].reshape(-1, k, 2)
        own_inverse = inverse_mass[own_pairs]
        sign = torch.tensor([-1.0, 1.0], dtype=lengths.dtype, device=lengths.device)
        shared = own_pairs[:, :, None, :, None] == own_pairs[:, None, :, None, :]
        terms = shared * (own_inverse * sign)[:, :, None, :, None] * sign
        groups.append(
            Clusters(
                pairs=own_pairs,
                lengths=lengths[chosen].reshape(-1, k),
                inverse_mass=own_inverse.unsqueeze(3),
                coupling=terms.sum(dim=(3, 4)),
            )
        )
    return groups


def _component_of(pairs: Array, n_atoms: int) -> Array:
    """(n_atoms,) number of the connected component of each atom."""
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_atoms, n_atoms))
    return np.asarray(connected_components(graph, directed=False)[1]).astype(np.int64)


def _in_one_piece(system: System, pairs: Tensor) -> Tensor:
    """(n_atoms, 3) Å: each cluster from its first atom on, every bond the shortest image."""
    bonds, n = pairs.cpu().numpy(), system.n_atoms
    _, roots = np.unique(_component_of(bonds, n), return_index=True)
    # One tree for all clusters: an atom more, joined to the first atom of each.
    first = np.concatenate([bonds[:, 0], np.full(len(roots), n)])
    second = np.concatenate([bonds[:, 1], roots])
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n + 1, n + 1)).tocsr()
    order, parents = breadth_first_order(graph, n, directed=False)
    atoms = order[1:]
    atoms = atoms[parents[atoms] != n]
    positions = system.positions.cpu().double().numpy().copy()
    vectors = positions[atoms] - positions[parents[atoms]]
    cells, pbc = system.cell.cpu().double().numpy(), system.pbc.cpu().numpy()
    structure = system.system_index.cpu().numpy()[atoms]
    for index in np.unique(structure):
        chosen = structure == index
        vectors[chosen], _ = find_mic(vectors[chosen], cells[index], pbc[index])
    for atom, parent, vector in zip(atoms, parents[atoms], vectors, strict=True):
        positions[atom] = positions[parent] + vector
    return torch.as_tensor(positions).to(system.positions)
