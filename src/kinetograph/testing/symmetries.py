"""The same structure said or placed otherwise, and what forces add up to.

Each function gives one dimensionless number for a potential and a structure; see
``kinetograph.testing.predictions`` for what it is relative to. ``None``: the law has no meaning for that
structure. Potentials are measured in evaluation mode and left in the mode that they were in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kinetograph.potential import Potential, Prediction, SpaceEnergyPotential
from kinetograph.rotations import random_rotations
from kinetograph.system import System, batch
from kinetograph.testing.predictions import deviation, is_single, predict, rms, seeded
from kinetograph.testing.structures import doubled, lone_atom, part, reordered


def translation(potential: Potential, system: System, seed: int = 0) -> float | None:
    """Every structure is moved, and atoms are put into other cells by whole lattice vectors."""
    generator = seeded(seed)
    shift = 5.0 * torch.randn(system.n_systems, 3, generator=generator, dtype=torch.float64)
    hops = torch.randint(-2, 3, (system.n_atoms, 3), generator=generator)
    hops = hops * system.pbc[system.system_index].cpu()
    hops_A = torch.einsum("ni,nij->nj", hops.to(system.positions), system.cell[system.system_index])
    moved = system.positions + shift.to(system.positions)[system.system_index] + hops_A
    return deviation(predict(potential, replace(system, positions=moved)), predict(potential, system))


def _turned(prediction: Prediction, matrix: Tensor) -> Prediction:
    """What a turned or mirrored structure should give; ``matrix`` (3, 3)."""
    m = matrix.to(prediction.forces)
    return replace(
        prediction,
        forces=prediction.forces @ m.T,
        stress=None if prediction.stress is None else m @ prediction.stress @ m.T,
    )


def rotation(potential: Potential, system: System, seed: int = 0) -> float | None:
    """The whole batch is turned by a random rotation: forces and stress should turn along."""
    matrix = random_rotations(1, seeded(seed))[0]
    return deviation(predict(potential, system.rotated(matrix)), _turned(predict(potential, system), matrix))


def reflection(potential: Potential, system: System, seed: int = 0) -> float | None:
    """The whole batch is mirrored at a random plane."""
    normal = torch.nn.functional.normalize(torch.randn(3, generator=seeded(seed), dtype=torch.float64), dim=0)
    matrix = torch.eye(3, dtype=torch.float64) - 2.0 * torch.outer(normal, normal)
    return deviation(predict(potential, system.rotated(matrix)), _turned(predict(potential, system), matrix))


def permutation(potential: Potential, system: System, seed: int = 0) -> float | None:
    """The atoms of every structure are listed in another, random order."""
    key = torch.rand(system.n_atoms, generator=seeded(seed), dtype=torch.float64)
    order = torch.argsort(key + system.system_index.cpu()).to(system.device)
    expected = predict(potential, system)
    energies = expected.atomic_energies
    return deviation(
        predict(potential, reordered(system, order)),
        replace(
            expected,
            forces=expected.forces[order],
            atomic_energies=None if energies is None else energies[order],
        ),
    )


def extensivity(potential: Potential, system: System, axis: int = 0) -> float | None:
    """Twice as much of it: the same forces and stress, twice the energy.

    A periodic structure is repeated along ``axis``, which also tells whether every image of a
    neighbour counts. A structure that is not periodic gets a copy of itself out of reach.
    """
    if not is_single(system):
        return None
    once = predict(potential, system)
    if bool(system.pbc[0, axis]):
        twice = doubled(system, axis)
    elif bool(system.pbc.any()) or isinstance(potential, SpaceEnergyPotential):
        return None
    else:
        extent = system.positions.amax(dim=0) - system.positions.amin(dim=0)
        away = extent * torch.tensor([1.0, 0.0, 0.0]).to(extent)
        away[0] += 1.01 * max(potential.request.reach, potential.request.receptive_field)
        second = replace(system, positions=system.positions + away)
        twice = replace(
            batch([system, second]),
            cell=system.cell,
            pbc=system.pbc,
            system_index=system.system_index.repeat(2),
            charge=None,
            spin=None,
        )
    energies = once.atomic_energies
    expected = replace(
        once,
        forces=once.forces.repeat(2, 1),
        energy=None if once.energy is None else 2.0 * once.energy,
        atomic_energies=None if energies is None else energies.repeat(2),
    )
    return deviation(predict(potential, twice), expected)


def periodic_images(potential: Potential, system: System) -> float | None:
    """The same crystal, with other cell vectors that span the same lattice."""
    if not is_single(system) or int(system.pbc.sum()) < 2:
        return None
    change = torch.eye(3, dtype=torch.float64)
    change[0, 1], change[1] = 1.0, torch.tensor([0.0, 1.0, 0.0])
    if bool(system.pbc.all()):
        change[2, 1], change[1, 2] = -1.0, 0.0
    cell = change.to(system.cell) @ system.cell[0]
    cell[~system.pbc[0]] *= 1.7  # vacuum: nothing may be computed from it
    return deviation(predict(potential, replace(system, cell=cell[None])), predict(potential, system))


def batching(potential: Potential, system: System) -> float | None:
    """Every structure of a batch alone: a structure must not know what else is in its batch."""
    if is_single(system):
        return None
    alone = [predict(potential, part(system, index)) for index in range(system.n_systems)]
    together = predict(potential, system)

    def joined(values: Sequence[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return torch.cat(known) if len(known) == len(values) else None

    stress = together.stress
    if stress is not None:
        missing = torch.full_like(stress[:1], torch.nan)
        stress = torch.cat([missing if one.stress is None else one.stress for one in alone])
    return deviation(
        together,
        Prediction(
            forces=torch.cat([one.forces for one in alone]),
            conservative=together.conservative,
            energy=joined([one.energy for one in alone]),
            atomic_energies=joined([one.atomic_energies for one in alone]),
            stress=stress,
        ),
    )


def net_force(potential: Potential, system: System) -> float | None:
    """|Σ F| over √n times the rms force, the largest over structures: about 1 for forces at random."""
    forces = predict(potential, system).forces
    total = forces.new_zeros(system.n_systems, 3).index_add(0, system.system_index, forces)
    count = system.atoms_per_system.to(forces)
    return float((total.norm(dim=1) / count.sqrt()).max()) / max(rms(forces), 1e-300)


def torque(potential: Potential, system: System) -> float | None:
    """|Σ r × F| over the root of Σ r² times the rms force, of a molecule about its centre."""
    if not is_single(system) or bool(system.pbc.any()):
        return None
    forces = predict(potential, system).forces
    arms = system.positions - system.positions.mean(dim=0)
    total = torch.linalg.cross(arms, forces).sum(dim=0)
    return float(total.norm()) / max(float(arms.norm()) * rms(forces), 1e-300)


def isolated_atom(potential: Potential, system: System) -> float | None:
    """The force on one atom alone, over the rms force of the structure: it has nowhere to point."""
    request = potential.request
    if request.n_nearest is not None and request.nearest_required:
        return None
    scale = rms(predict(potential, system).forces)
    elements = torch.unique(system.atomic_numbers).tolist()
    forces = predict(potential, batch([lone_atom(z) for z in elements]).to(system.device)).forces
    return float(forces.norm(dim=1).max()) / max(scale, 1e-300)
