"""Rigid bonds: SHAKE for positions and RATTLE for velocities, solved by Newton's method, cluster by cluster.

J.-P. Ryckaert, G. Ciccotti, H. J. C. Berendsen, J. Comput. Phys. 23, 327 (1977); H. C. Andersen,
J. Comput. Phys. 52, 24 (1983); V. Kräutler, W. F. van Gunsteren, P. H. Hünenberger, J. Comput. Chem. 22,
501 (2001): the bonds of a cluster as one set of equations, whose matrix is the Jacobian itself.

Bond c joins atoms a and b, d_c = r_b − r_a has the length L_c. With s_ac = −1, s_bc = +1, zero elsewhere,
and M_cc' = Σ_a s_ac s_ac' / m_a of bonds that share an atom::

    positions    d_c(λ) = d_c(new) + Σ_c' M_cc' λ_c' d_c'(old),   |d_c(λ)|² = L_c²
    velocities   d_c · (v_b − v_a + Σ_c' M_cc' μ_c' d_c') = 0

The atoms then move by Σ_c s_ac λ_c d_c(old) / m_a, which changes neither momentum nor angular momentum.
Triangles such as water are held in closed form instead, which is faster: see ``settle``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order
from torch import Tensor

from kinetograph.bonds import molecules
from kinetograph.dynamics.settle import Triangles, find_triangles
from kinetograph.errors import UserError
from kinetograph.system import System

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-12
"""Relative error of squared lengths at which the iteration ends: the noise of double precision."""
MAX_ITERATIONS = 30
LARGEST_START_ERROR_A = 0.3
"""A start whose bonds are further from their lengths than this is refused: heat does not do that."""
SMALLEST_EIGENVALUE = 1e-5
"""Of d_c · d_c' M_cc', scaled to a diagonal of one: below, the bonds of a cluster are not independent. A
triangle comes down to it within half a degree of a straight line, a straight chain at 700 bonds."""


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

    def held_positions(self, old: Tensor, new: Tensor) -> Tensor:
        """(n_atoms, 3) Å: ``new`` moved along the bonds of ``old`` until every bond has its length.

        What cannot be mended comes out as NaN.
        """
        d_old, d_new = self._vectors(old), self._vectors(new)
        squares = self.lengths.square()
        multipliers, d = torch.zeros_like(squares), d_new
        for _ in range(MAX_ITERATIONS):
            excess = d.square().sum(dim=2) - squares
            # What is done stays as it is, whatever else is in the batch; and so does NaN.
            going = (excess.abs() > TOLERANCE * squares).any(dim=1, keepdim=True)
            if not bool(going.any()):
                break
            slope = 2.0 * self.coupling * (d @ d_old.mT)
            multipliers = torch.where(going, multipliers + _solved(slope, -excess), multipliers)
            d = d_new + self.coupling @ (multipliers.unsqueeze(2) * d_old)
        else:
            multipliers = torch.where(going, torch.nan, multipliers)
        return self._moved(new, d_old, multipliers)

    def held_velocities(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """(n_atoms, 3) Å/fs: velocities without the part that would change the length of a bond."""
        d = self._vectors(positions)
        opening = (d * self._vectors(velocities)).sum(dim=2)
        return self._moved(velocities, d, _solved(self.coupling * (d @ d.mT), -opening))

    def smallest_eigenvalues(self, positions: Tensor) -> Tensor:
        """(n_clusters,) of d_c · d_c' M_cc', scaled to a diagonal of one: zero where bonds are dependent."""
        d = self._vectors(positions)
        matrix = self.coupling * (d @ d.mT)
        root = matrix.diagonal(dim1=1, dim2=2).sqrt()
        values: Tensor = torch.linalg.eigvalsh(matrix / (root.unsqueeze(1) * root.unsqueeze(2)))
        return values[:, 0]

    def _vectors(self, of_atoms: Tensor) -> Tensor:
        """(n_clusters, k, 3): second atom less first."""
        return of_atoms[self.pairs[:, :, 1]] - of_atoms[self.pairs[:, :, 0]]

    def _moved(self, of_atoms: Tensor, bonds: Tensor, multipliers: Tensor) -> Tensor:
        """Vectors of atoms plus Σ_c s_ac λ_c d_c / m_a."""
        pull = multipliers.unsqueeze(2) * bonds
        moves = torch.stack([-pull, pull], dim=2) * self.inverse_mass
        return of_atoms.index_add(0, self.pairs.reshape(-1), moves.reshape(-1, 3))


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """x of A x = b for each cluster, NaN where A is singular."""
    solution, singular = torch.linalg.solve_ex(matrix, right)
    return torch.where((singular != 0).unsqueeze(1), torch.nan, solution)


@dataclass(frozen=True)
class RigidBonds:
    """Holds distances between atoms; positions are such that a bond is the plain difference of two."""

    clusters: tuple[Clusters | Triangles, ...]
    """By the number of bonds in a cluster; triangles that SETTLE can hold by themselves."""

    def held_positions(self, old: Tensor, new: Tensor) -> Tensor:
        """(n_atoms, 3) Å: ``new`` moved along the bonds of ``old`` until every bond has its length.

        The bonds of ``old`` must have theirs. What cannot be mended comes out as NaN, which stops a run.
        """
        for group in self.clusters:
            new = group.held_positions(old, new)
        return new

    def held_velocities(self, positions: Tensor, velocities: Tensor) -> Tensor:
        """(n_atoms, 3) Å/fs: velocities without the part that would change the length of a bond."""
        for group in self.clusters:
            velocities = group.held_velocities(positions, velocities)
        return velocities


def rigid_bonds(system: System) -> tuple[System, RigidBonds]:
    """What holds the rigid pairs of a system, and the system with each cluster in one piece.

    Positions are moved so that every bond has its length, velocities so that none changes it.

    Raises:
        UserError: pairs contradict each other or are more than can be held independently, a bond of the
            start is far from its length, or the bonds join an atom to its own periodic image.
    """
    assert system.rigid is not None
    assert system.rigid_lengths is not None
    free = torch.ones_like(system.masses) if system.fixed is None else (~system.fixed).to(system.masses)
    inverse_mass = free / system.masses
    loose = inverse_mass[system.rigid].sum(dim=1) > 0  # nothing to hold between two fixed atoms
    pairs, lengths = system.rigid[loose], system.rigid_lengths[loose].to(system.dtype)
    positions = in_one_piece(system, pairs)
    _require_near(positions, pairs, lengths)
    groups = _clusters(pairs, lengths, inverse_mass)
    # Newton's form for the start: SETTLE's needs bonds that have their lengths already.
    by_newton = RigidBonds(tuple(groups))
    positions = by_newton.held_positions(positions, positions)
    if not bool(torch.isfinite(positions).all()):
        raise UserError(
            "the rigid bonds contradict each other: no positions near the start have all these lengths",
            where="rigid bonds",
            mend="Check that the three distances of a molecule make a triangle.",
        )
    _require_independent(groups, positions)
    velocities = system.velocities
    if velocities is not None:
        velocities = by_newton.held_velocities(positions, velocities)
    bonds = RigidBonds(tuple(part for group in groups for part in _with_triangles(group, inverse_mass)))
    return replace(system, positions=positions, velocities=velocities), bonds


def _require_near(positions: Tensor, pairs: Tensor, lengths: Tensor) -> None:
    found = torch.linalg.norm(positions[pairs[:, 1]] - positions[pairs[:, 0]], dim=1)
    error = (found - lengths).abs()
    if len(error) and not float(error.max()) <= LARGEST_START_ERROR_A:
        worst = int(error.argmax())
        first, second = pairs[worst].tolist()
        raise UserError(
            f"atoms {first} and {second} are {found[worst]:.3f} Å apart, "
            f"but are to be held at {lengths[worst]:.3f} Å",
            where="rigid bonds",
            mend="Relax the structure with these bonds first, or hold them at other lengths.",
        )


def _require_independent(groups: list[Clusters], positions: Tensor) -> None:
    for group in groups:
        values = group.smallest_eigenvalues(positions)
        if not float(values.min()) > SMALLEST_EIGENVALUE:
            atoms = torch.unique(group.pairs[int(values.argmin())]).tolist()
            raise UserError(
                f"the {group.pairs.shape[1]} rigid bonds between atoms {', '.join(map(str, atoms))} "
                "are not independent",
                where="rigid bonds",
                mend="Hold fewer of them: three atoms in a straight line can have two, and no pair may "
                "stand there twice.",
            )


def _clusters(pairs: Tensor, lengths: Tensor, inverse_mass: Tensor) -> list[Clusters]:
    """The bonds by cluster, clusters of equally many bonds together."""
    member = molecules(pairs, len(inverse_mass)).cpu()[pairs[:, 0].cpu()]
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


def _with_triangles(group: Clusters, inverse_mass: Tensor) -> list[Clusters | Triangles]:
    """The same clusters, those that SETTLE can hold as triangles."""
    if group.pairs.shape[1] != 3:
        return [group]
    chosen, triangles = find_triangles(group.pairs, group.lengths, inverse_mass)
    parts: list[Clusters | Triangles] = [triangles] if bool(chosen.any()) else []
    if not bool(chosen.all()):
        rest = (getattr(group, field.name)[~chosen] for field in fields(group))
        parts.append(Clusters(*rest))
    return parts


def in_one_piece(system: System, pairs: Tensor) -> Tensor:
    """(n_atoms, 3) Å: each cluster of pairs (n_pairs, 2) built from its first atom on, without broken pairs.

    Raises:
        UserError: that cannot be, because the pairs lead from an atom to its own periodic image.
    """
    bonds, n = pairs.cpu().numpy(), system.n_atoms
    _, roots = np.unique(molecules(pairs, n).cpu().numpy(), return_index=True)
    # One tree for all clusters: an atom more, joined to the first atom of each.
    first = np.concatenate([bonds[:, 0], np.full(len(roots), n)])
    second = np.concatenate([bonds[:, 1], roots])
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n + 1, n + 1)).tocsr()
    order, parents = breadth_first_order(graph, n, directed=False)
    atoms = order[1:]
    atoms = atoms[parents[atoms] != n]
    positions = system.positions.cpu().double().numpy().copy()
    vectors = _nearest_images(positions, parents[atoms], atoms, system)
    for atom, parent, vector in zip(atoms, parents[atoms], vectors, strict=True):
        positions[atom] = positions[parent] + vector
    length = np.linalg.norm(positions[bonds[:, 1]] - positions[bonds[:, 0]], axis=1)
    nearest = np.linalg.norm(_nearest_images(positions, bonds[:, 0], bonds[:, 1], system), axis=1)
    if (length > nearest + 1e-6).any():
        one, other = bonds[int((length - nearest).argmax())]
        raise UserError(
            f"the rigid bonds around atoms {one} and {other} lead to their own periodic images",
            where="rigid bonds",
            mend="Hold the bonds of molecules only, not of chains or crystals without an end; repeat a cell "
            "that is smaller than its molecules.",
        )
    return torch.as_tensor(positions).to(system.positions)


def _nearest_images(positions: Array, first: Array, second: Array, system: System) -> Array:
    """(n, 3) Å: the shortest vectors from the first atoms to the second."""
    vectors = positions[second] - positions[first]
    cells, pbc = system.cell.cpu().double().numpy(), system.pbc.cpu().numpy()
    structure = system.system_index.cpu().numpy()[first]
    for index in np.unique(structure):
        chosen = structure == index
        vectors[chosen], _ = find_mic(vectors[chosen], cells[index], pbc[index])
    return vectors
