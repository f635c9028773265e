"""Structures on which a law can be tried, of any elements, and weights that hide nothing."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import atomic_masses
from numpy.typing import NDArray
from torch import Tensor, nn

from kinetograph.learned_potential import LearnedPotential
from kinetograph.nn.elements import ElementEmbedding, ElementSlots
from kinetograph.potential import Potential
from kinetograph.system import System, batch

SPACING_A = 1.5
"""Å: about the distance of nearest neighbours, unless told otherwise."""
RATTLE = 0.08
"""Standard deviation of the random displacements, in units of the spacing."""

Array = NDArray[np.float64]


def structures(
    elements: Sequence[int], *, spacing: float = SPACING_A, isolated: bool = True
) -> dict[str, System]:
    """A structure of each kind, in float64, the same whenever they are asked for.

    =============  ===============================================================================
    ``molecule``   8 atoms on a helix (so that its mirror image is another one), not periodic
    ``plane``      6 atoms in one plane, in no order there; dihedral angles are 0 or 180°
    ``crystal``    8 atoms in a triclinic cell
    ``slab``       6 atoms, periodic along two skewed directions only
    ``small cell`` 2 atoms in a triclinic cell about two spacings wide: many images within a cutoff
    ``mixed``      a batch of all these, with an isolated atom between them
    =============  ===============================================================================

    Elements are dealt out in turn. Bonds are given, so that edge types do not depend on how large an
    element is: along the molecule, and one pair in each periodic structure.

    Args:
        elements: atomic numbers.
        spacing: Å, about the distance of nearest neighbours; everything scales with it.
        isolated: whether the batch holds an isolated atom, which a model of the k nearest refuses.
    """
    rng = np.random.default_rng(7)
    deal = _Dealer(elements)
    every = [0.22, 0.64]
    grid = np.array([[x, y, z] for x in every for y in every for z in every])
    crystal_cell = np.array([[3.3, 0.0, 0.0], [0.7, 3.4, 0.0], [-0.5, 0.6, 3.6]])
    slab_cell = np.array([[3.4, 0.2, 0.0], [-0.9, 3.2, 0.0], [0.3, -0.4, 9.0]])
    slab_grid = np.array([[x, y, z] for x in every for y in every for z in (0.4, 0.52)])[:6]
    small_cell = np.array([[2.1, 0.0, 0.0], [0.4, 2.2, 0.0], [-0.3, 0.5, 2.3]])
    small_grid = np.array([[0.1, 0.2, 0.1], [0.5, 0.55, 0.45]])

    def rattled(positions: Array) -> Array:
        return positions + RATTLE * rng.standard_normal(positions.shape)

    molecule = rattled(helix(8))
    flat = np.array([[0.0, 0.0], [1.1, 0.3], [1.5, 1.4], [0.6, 2.1], [-0.6, 1.2], [-1.0, -0.6]])
    made = {
        "molecule": _system(deal, spacing * molecule, None, 0, [[i, i + 1] for i in range(7)]),
        "plane": _system(deal, spacing * flat @ _tilt(), None, 0, [[0, 1], [1, 2], [2, 3]]),
        "crystal": _system(
            deal, spacing * rattled(grid @ crystal_cell), spacing * crystal_cell, 3, [[0, 1], [4, 6]]
        ),
        "slab": _system(deal, spacing * rattled(slab_grid @ slab_cell), spacing * slab_cell, 2, [[0, 1]]),
        "small cell": _system(
            deal, spacing * rattled(small_grid @ small_cell), spacing * small_cell, 3, [[0, 1]]
        ),
    }
    parts = list(made.values())
    if isolated:
        parts.insert(1, lone_atom(elements[-1]))
    return {**made, "mixed": batch(parts)}


def special_structures(elements: Sequence[int], *, spacing: float = SPACING_A) -> dict[str, System]:
    """Structures without any disorder, on which angles are undefined and distances are tied.

    ``line`` is five atoms on a straight line, ``lattice`` an exact simple cubic crystal of eight.
    Forces must be finite there; what else holds depends on how a model resolves the undefined.
    """
    deal = _Dealer(elements)
    line = np.array([[float(i), 0.0, 0.0] for i in range(5)])
    cube = np.array([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
    return {
        "line": _system(deal, spacing * line, None, 0, []),
        "lattice": _system(deal, spacing * cube, 2.0 * spacing * np.eye(3), 3, []),
    }


def _tilt() -> Array:
    """(2, 3): two unit vectors at right angles, along no axis, that a plane is spanned by."""
    return np.array([[2.0, -1.0, 2.0], [2.0, 2.0, -1.0]]) / 3.0


def lone_atom(element: int) -> System:
    """One atom in empty space."""
    return _system(_Dealer([element]), np.zeros((1, 3)), None, 0, [])


def helix(n_atoms: int) -> Array:
    """(n_atoms, 3) places on a helix along x, nearest neighbours 1.2 apart."""
    turn = 1.9 * np.arange(n_atoms)
    return np.stack([0.7 * np.arange(n_atoms), 0.6 * np.cos(turn), 0.6 * np.sin(turn)], axis=1)


class _Dealer:
    """Deals out elements in turn."""

    def __init__(self, elements: Sequence[int]) -> None:
        self.elements = list(elements)
        self.dealt = 0

    def __call__(self, n: int) -> list[int]:
        chosen = [self.elements[(self.dealt + i) % len(self.elements)] for i in range(n)]
        self.dealt += n
        return chosen


def _system(
    deal: _Dealer, positions: Array, cell: Array | None, n_periodic: int, bonds: list[list[int]]
) -> System:
    numbers = torch.tensor(deal(len(positions)))
    return System(
        positions=torch.as_tensor(positions, dtype=torch.float64),
        atomic_numbers=numbers,
        masses=torch.as_tensor(atomic_masses, dtype=torch.float64)[numbers],
        cell=torch.as_tensor(np.zeros((1, 3, 3)) if cell is None else cell[None], dtype=torch.float64),
        pbc=torch.tensor([[axis < n_periodic for axis in range(3)]]),
        system_index=torch.zeros(len(positions), dtype=torch.int64),
        bonds=torch.tensor(bonds, dtype=torch.int64).reshape(-1, 2),
    )


# ---- the same structure said in another way ----------------------------------------------------------


def part(system: System, index: int) -> System:
    """One structure of a batch."""
    atoms = torch.nonzero(system.system_index == index)[:, 0]
    bonds = system.bonds
    if bonds is not None:
        bonds = bonds[(system.system_index[bonds] == index).all(dim=1)] - atoms[0]
    return replace(
        system,
        positions=system.positions[atoms],
        atomic_numbers=system.atomic_numbers[atoms],
        masses=system.masses[atoms],
        cell=system.cell[index : index + 1],
        pbc=system.pbc[index : index + 1],
        system_index=torch.zeros_like(atoms),
        velocities=None if system.velocities is None else system.velocities[atoms],
        fixed=None if system.fixed is None else system.fixed[atoms],
        charge=None if system.charge is None else system.charge[index : index + 1],
        spin=None if system.spin is None else system.spin[index : index + 1],
        bonds=bonds,
    )


def reordered(system: System, order: Tensor) -> System:
    """The same atoms in another order, in which structures must stay together and in turn."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return replace(
        system,
        positions=system.positions[order],
        atomic_numbers=system.atomic_numbers[order],
        masses=system.masses[order],
        velocities=None if system.velocities is None else system.velocities[order],
        fixed=None if system.fixed is None else system.fixed[order],
        bonds=None if system.bonds is None else place[system.bonds],
    )


def doubled(system: System, axis: int) -> System:
    """One structure beside its own copy: the next cell along a periodic axis; atoms i and n + i are one."""
    assert system.n_systems == 1
    assert bool(system.pbc[0, axis])
    n, cell = system.n_atoms, system.cell.clone()
    bonds = system.bonds
    if bonds is not None and len(bonds):
        # A bond to the image in the next cell joins the two copies.
        crossing = _nearest_shift(system, bonds)[:, axis] % 2
        near, far = bonds[:, 0], bonds[:, 1]
        bonds = torch.cat(
            [
                torch.stack([near, far + crossing * n], dim=1),
                torch.stack([near + n, far + (1 - crossing) * n], dim=1),
            ]
        )
    cell[0, axis] *= 2.0
    return replace(
        system,
        positions=torch.cat([system.positions, system.positions + system.cell[0, axis]]),
        atomic_numbers=system.atomic_numbers.repeat(2),
        masses=system.masses.repeat(2),
        cell=cell,
        system_index=system.system_index.repeat(2),
        velocities=None if system.velocities is None else system.velocities.repeat(2, 1),
        fixed=None if system.fixed is None else system.fixed.repeat(2),
        charge=None if system.charge is None else 2.0 * system.charge,
        spin=None if system.spin is None else 2 * system.spin,
        bonds=bonds,
    )


def _nearest_shift(system: System, pairs: Tensor) -> Tensor:
    """(n_pairs, 3) int64: the cell in which the image of the second atom nearest to the first lies."""
    reach = [range(-2, 3) if periodic else range(1) for periodic in system.pbc[0].tolist()]
    shifts = torch.cartesian_prod(*(torch.tensor(list(r)) for r in reach)).to(pairs.device)
    vectors = system.positions[pairs[:, 1]] - system.positions[pairs[:, 0]]
    images = vectors[:, None] + (shifts.to(system.dtype) @ system.cell[0])[None]
    nearest: Tensor = shifts[images.norm(dim=2).argmin(dim=1)]
    return nearest


def copies(system: System, positions: Tensor, cells: Tensor | None = None) -> System:
    """One structure at many places: ``positions`` (n, n_atoms, 3) and, where given, ``cells`` (n, 3, 3)."""
    moved = [replace(system, positions=places) for places in positions]
    if cells is not None:
        moved = [replace(one, cell=cell[None]) for one, cell in zip(moved, cells, strict=True)]
    return batch(moved)


# ---- weights -----------------------------------------------------------------------------------------

POSITIVE_STATISTICS = ("var", "std", "scale", "factor", "scales", "factors")
"""Last words of the names of floating buffers that hold positive statistics."""
SIGNED_STATISTICS = ("mean", "median", "shift")
"""Last words of the names of floating buffers that hold statistics of either sign."""


def randomize(potential: Potential, seed: int = 0) -> None:
    """Draw every weight anew, and every statistic that a model keeps of its training data, in place.

    A fresh network has biases of zero, norms of one and statistics of nothing, and each can hide an
    error. Values are such that activations neither vanish nor saturate: matrices have standard
    deviation 1/√inputs, tables of elements 1 and biases 0.2; vectors of one value, such as the weights of a
    norm, vary by 20 % around it, and others, which are frequencies and centres, move by 5 %.

    Values are drawn in single precision and keyed by seed and name: they depend neither on the order of
    the parameters nor on which heads there are beside them.
    """
    tables = {id(m.weight) for m in potential.modules() if isinstance(m, nn.Embedding | ElementEmbedding)}
    with torch.no_grad():
        for name, parameter in potential.named_parameters():
            noise = _normal(parameter, name, seed)
            parameter.copy_(noise if id(parameter) in tables else _weight(name, parameter, noise))
        for name, buffer in potential.named_buffers():
            if not buffer.is_floating_point():
                continue
            last = name.rsplit(".", 1)[-1]
            noise = _normal(buffer, name, seed)
            if last == "reference_energies" and isinstance(potential, LearnedPotential):
                buffer.copy_(5.0 * noise)
            elif last.rsplit("_", 1)[-1] in POSITIVE_STATISTICS:
                buffer.mul_(torch.exp(0.3 * noise.clamp(-2.0, 2.0)).to(buffer.dtype))
            elif last.rsplit("_", 1)[-1] in SIGNED_STATISTICS:
                buffer.copy_(buffer + 0.2 * noise * (buffer.abs() + (buffer == 0)))


def _normal(like: Tensor, name: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def _weight(name: str, parameter: Tensor, noise: Tensor) -> Tensor:
    if parameter.ndim >= 2:
        return noise / math.sqrt(parameter[0].numel())
    if name.endswith("bias") or not bool(parameter.any()):
        return 0.2 * noise
    if bool((parameter == parameter.flatten()[0]).all()):
        return parameter * (1.0 + 0.2 * noise)
    return parameter * (1.0 + 0.05 * noise)


def elements_of(potential: nn.Module) -> tuple[int, ...]:
    """Atomic numbers that a potential knows; hydrogen, carbon and oxygen where it does not say."""
    domain = getattr(potential, "domain", None)
    if domain is not None:
        return tuple(domain.elements)
    known = [
        set(torch.nonzero(m.slot >= 0)[:, 0].tolist())
        for m in potential.modules()
        if isinstance(m, ElementSlots)
    ]
    return tuple(sorted(set.intersection(*known))) if known else (1, 6, 8)
