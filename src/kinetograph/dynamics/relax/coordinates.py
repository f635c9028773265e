"""What a relaxation moves, as rows of three lengths: atoms alone, or atoms and cell.

The cell follows a deformation gradient F, and U = log F is what moves (ASE's ``FrechetCellFilter``;
Tadmor, Smith, Bernstein and Kaxiras, Phys. Rev. B 59, 235 (1999), for the linear form). U is kept symmetric:
a rotation of everything changes no energy. With positions r̃ as they would be in the cell of the start::

    cell = cell₀ F,  r = r̃ F,  F = exp(U)
    −∂E/∂r̃ = f F,  −∂(E + p V)/∂U = Q (Φ ∘ (Qᵀ W F⁻¹ Q)) Qᵀ,  W = −V (σ + p 1)

with U = Q diag(λ) Qᵀ and Φᵢⱼ = (exp λᵢ − exp λⱼ) / (λᵢ − λⱼ), the derivative of an exponential (Daleckii and
Krein; Higham, *Functions of Matrices* (2008), Theorem 3.11).

A row of U is multiplied by the length J = V^{1/3} N^{1/6}, and its force divided by it, so that a cell is
about as stiff as its atoms whatever its size (Sheppard, Xiao, Chemelewski, Johnson and Henkelman, J. Chem.
Phys. 136, 074103 (2012)).

===============  =============================================
symbol           here
===============  =============================================
r̃, J U           the rows ``x``: atoms, then three of the cell
cell₀            ``start_cell``
J                ``lengths``
p                ``pressure``
===============  =============================================

Fixed atoms keep their r̃: they move with the cell and by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.nn.segments import sum_to
from kinetograph.potential import Prediction
from kinetograph.system import System

STRAINS = {"xx": (0, 0), "yy": (1, 1), "zz": (2, 2), "yz": (1, 2), "xz": (0, 2), "xy": (0, 1)}


@dataclass(frozen=True)
class CellFreedom:
    """Which strains of a cell are free, and the pressure on it."""

    free: str
    """``full``, ``isotropic``, or strains with commas between them: ``xx,yy,xy`` leaves z alone."""
    pressure: float = 0.0
    """eV/Å³; positive: compressed."""

    def __post_init__(self) -> None:
        words = self.free.split(",")
        if self.free not in ("full", "isotropic") and not (
            set(words) <= set(STRAINS) and len(set(words)) == len(words)
        ):
            raise UserError(
                f"cell is {self.free!r}",
                where="cell",
                mend=f"Use full, isotropic, or some of {','.join(STRAINS)} with commas between them.",
            )
        if not abs(self.pressure) < float("inf"):
            raise UserError("the pressure is not a finite number", where="pressure")

    def of(self, matrices: Tensor) -> Tensor:
        """(…, 3, 3): the part of these matrices that is free, and symmetric."""
        if self.free == "isotropic":
            mean = matrices.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
            return mean[..., None, None] * torch.eye(3).to(matrices)
        symmetric = 0.5 * (matrices + matrices.transpose(-2, -1))
        if self.free == "full":
            return symmetric
        mask = torch.zeros(3, 3).to(matrices)
        for word in self.free.split(","):
            i, j = STRAINS[word]
            mask[i, j] = mask[j, i] = 1.0
        return symmetric * mask


@dataclass(frozen=True)
class Rows:
    """Where the rows of a batch belong: of each structure first its atoms, then its cell where that moves."""

    owner: Tensor
    """(n_rows,) int64, ascending: to which structure a row belongs."""
    atoms: Tensor
    """(n_atoms,) int64: the rows of the atoms."""
    cells: Tensor
    """(n_systems, 3) or (0, 3) int64: the rows of the cells."""
    n_systems: int

    @staticmethod
    def of(system: System, *, with_cell: bool) -> Rows:
        if not with_cell:
            every = torch.arange(system.n_atoms, device=system.device)
            return Rows(system.system_index, every, every.new_zeros(0, 3), system.n_systems)
        structures = torch.arange(system.n_systems, device=system.device)
        atoms = torch.arange(system.n_atoms, device=system.device) + 3 * system.system_index
        ends = torch.cumsum(system.atoms_per_system + 3, dim=0)
        cells = ends.unsqueeze(1) + torch.arange(-3, 0, device=system.device)
        owner = torch.repeat_interleave(structures, system.atoms_per_system + 3)
        return Rows(owner, atoms, cells, system.n_systems)

    def dot(self, a: Tensor, b: Tensor) -> Tensor:
        """(n_systems,): the products of two (n_rows, 3), summed over the rows of each structure."""
        return sum_to(self.owner, (a * b).sum(dim=1), self.n_systems)

    def longest(self, a: Tensor) -> Tensor:
        """(n_systems,): the length of the longest row of each structure."""
        return largest_of(self.owner, torch.linalg.vector_norm(a, dim=1), self.n_systems)

    def spread(self, values: Tensor) -> Tensor:
        """(n_rows, 1) of values (n_systems,)."""
        return values[self.owner].unsqueeze(1)


@dataclass(frozen=True)
class Coordinates:
    """Between structures and rows."""

    freedom: CellFreedom | None
    """``None``: the atoms alone move."""
    start_cell: Tensor
    """(n_systems, 3, 3) Å."""
    lengths: Tensor
    """(n_systems,) Å: J."""

    @staticmethod
    def of(system: System, freedom: CellFreedom | None) -> Coordinates:
        volume, n = torch.linalg.det(system.cell).abs(), system.atoms_per_system
        return Coordinates(freedom, system.cell, volume ** (1 / 3) * n ** (1 / 6))

    def kept(self, keep: Tensor) -> Coordinates:
        """Of these structures alone."""
        return replace(self, start_cell=self.start_cell[keep], lengths=self.lengths[keep])

    def joined(self, other: Coordinates) -> Coordinates:
        """Of these structures and of others behind them."""
        return replace(
            self,
            start_cell=torch.cat([self.start_cell, other.start_cell]),
            lengths=torch.cat([self.lengths, other.lengths]),
        )

    def rows(self, system: System) -> Rows:
        return Rows.of(system, with_cell=self.freedom is not None)

    def start(self, system: System) -> Tensor:
        """(n_rows, 3) Å of structures as they were at the start."""
        if self.freedom is None:
            return system.positions
        rows = self.rows(system)
        x = system.positions.new_zeros(len(rows.owner), 3)
        x[rows.atoms] = system.positions
        return x

    def at(self, x: Tensor, system: System) -> System:
        """The system with positions, and cells, at these rows."""
        if self.freedom is None:
            return replace(system, positions=x)
        rows = self.rows(system)
        eigenvalues, q = torch.linalg.eigh(self._strain(x, rows))
        gradient = _product(q * eigenvalues.exp().unsqueeze(1), q.mT)
        positions = _product(x[rows.atoms].unsqueeze(1), gradient[system.system_index])[:, 0]
        return replace(system, positions=positions, cell=_product(self.start_cell, gradient))

    def forces(self, x: Tensor, system: System, prediction: Prediction) -> Tensor:
        """(n_rows, 3) eV/Å: along each row, zero on what is fixed."""
        forces = free_forces(system, prediction)
        if self.freedom is None:
            return forces
        assert prediction.stress is not None
        rows = self.rows(system)
        eigenvalues, q = torch.linalg.eigh(self._strain(x, rows))
        gradient, inverse = (
            _product(q * (sign * eigenvalues).exp().unsqueeze(1), q.mT) for sign in (1.0, -1.0)
        )
        excess = prediction.stress + self.freedom.pressure * torch.eye(3).to(q)
        pull = _product(-system.volume[:, None, None] * excess, inverse)
        in_eigenvectors = _product(_product(q.mT, pull), q)
        on_strain = _product(_product(q, _slopes(eigenvalues) * in_eigenvectors), q.mT)
        along = forces.new_zeros(len(rows.owner), 3)
        along[rows.atoms] = _product(forces.unsqueeze(1), gradient[system.system_index])[:, 0]
        along[rows.cells] = self.freedom.of(on_strain) / self.lengths[:, None, None]
        return along

    def largest_stress(self, forces: Tensor, system: System) -> Tensor | None:
        """(n_systems,) eV/Å³: the largest force on a free strain over the volume, from those along the rows.

        In a cell that was not strained that is a component of σ + p 1. ``None`` where the cell is held.
        """
        if self.freedom is None:
            return None
        on_strain = forces[self.rows(system).cells] * self.lengths[:, None, None]
        return on_strain.abs().amax(dim=(1, 2)) / system.volume

    def _strain(self, x: Tensor, rows: Rows) -> Tensor:
        """(n_systems, 3, 3): U."""
        return x[rows.cells] / self.lengths[:, None, None]


def _slopes(eigenvalues: Tensor) -> Tensor:
    """(n_systems, 3, 3): (exp λᵢ − exp λⱼ) / (λᵢ − λⱼ), or exp λᵢ where the two are the same."""
    mean = 0.5 * (eigenvalues.unsqueeze(2) + eigenvalues.unsqueeze(1))
    half = 0.5 * (eigenvalues.unsqueeze(2) - eigenvalues.unsqueeze(1))
    small = half.abs() < 1e-3
    ratio = torch.where(small, 1.0 + half.square() / 6.0, half.sinh() / torch.where(small, 1.0, half))
    return mean.exp() * ratio


def _product(a: Tensor, b: Tensor) -> Tensor:
    """(n, i, k): products of (n, i, j) and (n, j, k), each as if it were alone.

    A batched matrix product rounds as the size of the batch would have it.
    """
    return (a.unsqueeze(3) * b.unsqueeze(1)).sum(dim=2)


def largest_of(owner: Tensor, values: Tensor, n_systems: int) -> Tensor:
    """(n_systems,): the largest of the values, none below zero, of each structure; NaN where there is one."""
    return values.new_zeros(n_systems).scatter_reduce(0, owner, values, "amax")


def free_forces(system: System, prediction: Prediction) -> Tensor:
    """(n_atoms, 3) eV/Å: what moves the atoms. Zero on fixed atoms.

    Forces that are no gradient need not add up to zero. What would only carry a structure without fixed atoms
    away, or turn a molecule, is taken out: no relaxation would come to an end along it.
    """
    forces = prediction.forces
    if not prediction.conservative:
        forces = _without_rigid_motion(forces, system)
    return forces if system.fixed is None else torch.where(system.fixed.unsqueeze(1), 0.0, forces)


def _without_rigid_motion(forces: Tensor, system: System) -> Tensor:
    """(n_atoms, 3): the forces without what moves a structure that is free to as a whole.

    f − f̄ − ω × r, with r from the centre and I ω = Σ r × f for masses of 1: a projection. Where a direction
    is periodic nothing turns.
    """
    owner, n = system.system_index, system.n_systems
    held = torch.zeros(n, dtype=torch.bool, device=owner.device)
    if system.fixed is not None:
        held[owner[system.fixed]] = True

    def mean(values: Tensor) -> Tensor:
        n_atoms = system.atoms_per_system.reshape(-1, *[1] * (values.ndim - 1))
        return sum_to(owner, values, n) / n_atoms

    r = system.positions - mean(system.positions)[owner]
    centred = forces - mean(forces)[owner]
    torque = mean(torch.linalg.cross(r, centred))
    squares = r.square().sum(dim=1)[:, None, None] * torch.eye(3).to(r)
    inertia = mean(squares - r.unsqueeze(2) * r.unsqueeze(1))
    moments, axes = torch.linalg.eigh(inertia)
    # Nothing turns about the axis of a linear molecule.
    inverse = torch.where(moments > 1e-9 * moments[:, -1:], 1.0 / moments, 0.0)
    omega = _product(_product(axes * inverse.unsqueeze(1), axes.mT), torque.unsqueeze(2))[:, :, 0]
    turns = ~system.pbc.any(dim=1)
    omega = torch.where(turns.unsqueeze(1), omega, 0.0)
    freed = centred - torch.linalg.cross(omega[owner], r)
    return torch.where(held[owner].unsqueeze(1), forces, freed)
