"""Restraints: potentials that hold atoms near places, at distances, or inside walls.

They are added to a model by :class:`~kinetograph.SumPotential`. Atoms are named by their number within
each structure, so that every replica of a batch has the same restraints::

    PositionRestraint   Σ ½ k |r − r₀|²
    DistanceRestraint   Σ ½ k (|r_b − r_a| − d₀)²
    FlatWall            Σ ½ k (x − upper)² beyond ``upper``, Σ ½ k (lower − x)² before ``lower``
    SphericalWall       Σ ½ k (|r − c| − R)² outside of the sphere

Differences r − r₀, r_b − r_a and r − c are those to the nearest periodic image, which must stay nearer than
half a cell. All but the distances are bound to places in space. They exert a net force, so let the centre of
mass move (``remove_com=False``); and there is no stress, because a strain of the cell does not say where
these places go: predictions, and those of a sum with a model, have none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from kinetograph.dynamics.settings import require_positive
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction, SpaceEnergyPotential
from kinetograph.system import System

Axis = Literal["x", "y", "z"]
NEXT_IMAGES = tuple(product((0.0, 1.0, -1.0), repeat=3))


class Restraint(SpaceEnergyPotential):
    """An energy of each of some atoms, or of some groups of them, the same ones in every structure.

    Args:
        atoms: (n_groups, group size) numbers within each structure; ``None`` for every atom by itself.
        stiffness: k in eV/Å², one or one for each group.
    """

    atoms: Tensor | None
    stiffness: Tensor

    def __init__(self, atoms: ArrayLike | None, stiffness: float | Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("atoms", None if atoms is None else _numbers(atoms))
        n_groups = 1 if self.atoms is None else len(self.atoms)
        self.register_buffer("stiffness", _one_or_each("stiffness", stiffness, n_groups))
        # No neighbours are looked up, and no halo keeps the numbers of the atoms.
        self.request = GraphRequest(cutoff=1.0, n_layers=1_000_000_000)

    @abstractmethod
    def excess(self, groups: Tensor, system: System) -> Tensor:
        """(n_systems n_groups,) Å² that are zero where the restraint is at rest.

        Args:
            groups: (n_systems n_groups, group size) int64, structure by structure.
        """

    def system_energies(self, system: System, neighbors: NeighborList) -> Tensor:
        groups = self._groups(system)
        energies = 0.5 * _for_all(self.stiffness, system) * self.excess(groups, system)
        nothing = energies.new_zeros(system.n_systems)
        return nothing.index_add(0, system.system_index[groups[:, 0]], energies)

    def _groups(self, system: System) -> Tensor:
        if self.atoms is None:
            return torch.arange(system.n_atoms, device=system.device).unsqueeze(1)
        counts = system.atoms_per_system
        largest, fewest = int(self.atoms.max()), int(counts.min())
        if largest >= fewest:
            raise UserError(
                f"atom {largest} is restrained, but a structure has {fewest} atoms",
                where="restraint",
                mend="Atoms are counted from 0 within each structure.",
            )
        first = counts.cumsum(0) - counts
        groups: Tensor = first[:, None, None] + self.atoms
        return groups.flatten(0, 1)


class PlaceRestraint(Restraint):
    """A restraint to places in space: without stress."""

    gives_stress = False

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return replace(super().forward(system, neighbors), stress=None)


class PositionRestraint(PlaceRestraint):
    """Harmonic springs from atoms to places.

    Args:
        atoms: (n,) numbers within each structure.
        positions: (n, 3) r₀ in Å, of these atoms.
        stiffness: k in eV/Å², one or one for each atom.
    """

    places: Tensor

    def __init__(
        self, *, atoms: Sequence[int], positions: ArrayLike | Tensor, stiffness: float | Sequence[float]
    ) -> None:
        super().__init__(np.asarray(atoms).reshape(-1, 1), stiffness)
        self.register_buffer("places", _places(positions, (len(atoms), 3), "positions"))

    def excess(self, groups: Tensor, system: System) -> Tensor:
        places = self.places.to(system.dtype).repeat(system.n_systems, 1)
        away = _nearest_image(system.positions[groups[:, 0]] - places, groups, system)
        return away.square().sum(dim=1)


class DistanceRestraint(Restraint):
    """Harmonic springs between pairs of atoms.

    Args:
        pairs: (n, 2) numbers within each structure.
        distances: d₀ in Å, one or one for each pair.
        stiffness: k in eV/Å², one or one for each pair.
    """

    distances: Tensor

    def __init__(
        self,
        *,
        pairs: Sequence[Sequence[int]],
        distances: float | Sequence[float],
        stiffness: float | Sequence[float],
    ) -> None:
        super().__init__(pairs, stiffness)
        assert self.atoms is not None
        if self.atoms.shape[1] != 2 or bool((self.atoms[:, 0] == self.atoms[:, 1]).any()):
            raise UserError("the pairs are not two atoms each", where="pairs", mend="Give (n, 2) numbers.")
        self.register_buffer("distances", _one_or_each("distances", distances, len(self.atoms)))

    def excess(self, groups: Tensor, system: System) -> Tensor:
        apart = system.positions[groups[:, 1]] - system.positions[groups[:, 0]]
        length = _length(_nearest_image(apart, groups, system))
        return (length - _for_all(self.distances, system)).square()


class FlatWall(PlaceRestraint):
    """Two planes, or one, between which atoms stay; they push back what is beyond.

    Positions count as they are: across a periodic direction the atoms must lie between the walls at the
    start, not in another image.

    Args:
        axis: the direction along which the walls stand.
        lower, upper: Å; one may be ``None``.
        stiffness: k in eV/Å².
        atoms: numbers within each structure; all by default.
    """

    def __init__(
        self,
        *,
        axis: Axis,
        lower: float | None = None,
        upper: float | None = None,
        stiffness: float,
        atoms: Sequence[int] | None = None,
    ) -> None:
        super().__init__(None if atoms is None else np.asarray(atoms).reshape(-1, 1), float(stiffness))
        if axis not in get_args(Axis):
            raise UserError(f"the axis is {axis!r}", where="axis", mend="Use x, y or z.")
        if (lower is None and upper is None) or (lower is not None and upper is not None and lower >= upper):
            raise UserError(
                f"walls at {lower} and {upper} Å hold nothing",
                where="lower, upper",
                mend="Give one of them, or both with lower below upper.",
            )
        self.axis = axis
        self.lower = -torch.inf if lower is None else float(lower)
        self.upper = torch.inf if upper is None else float(upper)

    def excess(self, groups: Tensor, system: System) -> Tensor:
        x = system.positions[groups[:, 0], get_args(Axis).index(self.axis)]
        return (x - x.clamp(self.lower, self.upper)).square()


class SphericalWall(PlaceRestraint):
    """A sphere in which atoms stay; it pushes back what is outside.

    Args:
        center: (3,) c in Å.
        radius: R in Å.
        stiffness: k in eV/Å².
        atoms: numbers within each structure; all by default.
    """

    center: Tensor

    def __init__(
        self,
        *,
        center: ArrayLike | Tensor,
        radius: float,
        stiffness: float,
        atoms: Sequence[int] | None = None,
    ) -> None:
        super().__init__(None if atoms is None else np.asarray(atoms).reshape(-1, 1), float(stiffness))
        require_positive("radius", radius)
        self.register_buffer("center", _places(center, (3,), "center"))
        self.radius = float(radius)

    def excess(self, groups: Tensor, system: System) -> Tensor:
        away = _nearest_image(system.positions[groups[:, 0]] - self.center.to(system.dtype), groups, system)
        return (_length(away) - self.radius).clamp(min=0.0).square()


def _nearest_image(vectors: Tensor, groups: Tensor, system: System) -> Tensor:
    """(n, 3) Å: vectors that belong to atoms (n, …), each plus the cell vectors that make it shortest."""
    if not bool(system.pbc.any()):
        return vectors
    structure = system.system_index[groups[:, 0]]
    cell = system.cell * system.pbc.unsqueeze(2)
    with torch.no_grad():
        fractions = torch.einsum("ni,nij->nj", vectors, torch.linalg.pinv(cell)[structure])
        shifts = vectors.new_tensor(NEXT_IMAGES) - fractions.round().unsqueeze(1)
        images = vectors.unsqueeze(1) + shifts @ cell[structure]
        nearest = images.square().sum(dim=2).argmin(dim=1)
        shift = shifts[torch.arange(len(shifts), device=shifts.device), nearest]
    return vectors + torch.einsum("ni,nij->nj", shift, cell[structure])


def _length(vectors: Tensor) -> Tensor:
    """(n,) Å; where it is zero nothing pulls."""
    return vectors.square().sum(dim=1).clamp(min=1e-30).sqrt()


def _numbers(atoms: ArrayLike) -> Tensor:
    """(n, group size) int64."""
    numbers = np.asarray(atoms)
    if numbers.ndim != 2 or numbers.size == 0 or numbers.dtype.kind not in "iu" or numbers.min() < 0:
        raise UserError(
            "the atoms are not named by whole numbers from 0",
            where="atoms",
            mend="Give their numbers within each structure.",
        )
    return torch.as_tensor(numbers.astype(np.int64))


def _one_or_each(name: str, values: float | Sequence[float], n_groups: int) -> Tensor:
    """A scalar, or (n_groups,) positive numbers."""
    require_positive(name, values)
    each = torch.as_tensor(values, dtype=torch.float64)
    if each.ndim > 0 and each.shape != (n_groups,):
        raise UserError(
            f"{each.numel()} values of {name} for {n_groups} atoms or pairs",
            where=name,
            mend="Give one, or one for each.",
        )
    return each


def _for_all(values: Tensor, system: System) -> Tensor:
    """A scalar, or (n_systems n_groups,) values of each structure's groups."""
    values = values.to(system.dtype)
    return values if values.ndim == 0 else values.repeat(system.n_systems)


def _places(values: ArrayLike | Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Finite numbers in Å of this shape."""
    places = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    if places.shape != shape or not bool(places.isfinite().all()):
        raise UserError(
            f"{name} are not finite numbers of the shape {shape}", where=name, mend="Give them in Å."
        )
    return places
