"""Masses and degrees of freedom, kinetic energy and temperature, Maxwell–Boltzmann velocities.

=======  =====================  ====================================================
symbol   in code                meaning
=======  =====================  ====================================================
c        AMU_A2_PER_FS2_IN_EV   turns amu Å²/fs² into eV
m        system.masses          mass of an atom, amu
1/(c m)  inertia.inverse_mass   zero for fixed atoms
m/M      inertia.mass_share     share of an atom in its structure's mass
N_f      inertia.degrees        degrees of freedom: 3N − 3 where the centre of mass is
                                held, 3N where it is not, 3 N_free with fixed atoms;
                                less one for every rigid bond
K        kinetic_energy         ½ c Σ m v²
T        temperature            2 K / (N_f k)
=======  =====================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.noise import Purpose, standard_normal, streams_of
from kinetograph.errors import UserError
from kinetograph.nn.segments import sum_of_blocks
from kinetograph.system import System


@dataclass(frozen=True)
class Inertia:
    """What the masses say of the motion; stays the same through a run."""

    mass: Tensor
    """(n_atoms, 1) amu."""
    inverse_mass: Tensor
    """(n_atoms, 1) Å²/(eV fs²): force (eV/Å) times this is acceleration (Å/fs²); zero for fixed atoms."""
    mass_share: Tensor | None
    """(n_atoms, 1) mass over the mass of the structure, zero where a structure has fixed atoms;
    ``None`` where no centre of mass is held."""
    degrees: Tensor
    """(n_systems,) degrees of freedom."""


def inertia_of(system: System, *, remove_com: bool) -> Inertia:
    """Masses, fixed atoms and degrees of freedom.

    Args:
        remove_com: hold the centre of mass of every structure that has no fixed atoms.

    Raises:
        UserError: a mass is not positive, or a structure has nothing left that could move.
    """
    if not bool((system.masses > 0).all()):
        raise UserError("an atom has no mass", where="structure", mend="Give it one, or remove the atom.")
    free = torch.ones_like(system.atomic_numbers) if system.fixed is None else (~system.fixed).long()
    n_free = torch.zeros_like(system.atoms_per_system).index_add(0, system.system_index, free)
    degrees = 3 * n_free
    if system.rigid is not None and len(system.rigid):
        held_pairs = system.rigid
        if system.fixed is not None:
            held_pairs = held_pairs[~system.fixed[held_pairs].all(dim=1)]
        degrees = degrees - torch.bincount(system.system_index[held_pairs[:, 0]], minlength=system.n_systems)
    mass_share = None
    if remove_com:
        held = n_free == system.atoms_per_system
        degrees = degrees - 3 * held.long()
        total = system.cell.new_zeros(system.n_systems).index_add(0, system.system_index, system.masses)
        mass_share = (system.masses * held[system.system_index] / total[system.system_index]).unsqueeze(1)
    if bool((degrees <= 0).any()):
        raise UserError(
            "nothing can move: no degree of freedom is left",
            where="structure",
            mend="Free some atoms, or give more than one: the motion of their centre of mass is taken out, "
            "unless an integrator in Python is made with remove_com=False.",
        )
    mass = system.masses.unsqueeze(1)
    return Inertia(
        mass=mass,
        inverse_mass=free.unsqueeze(1) / (mass * units.AMU_A2_PER_FS2_IN_EV),
        mass_share=mass_share,
        degrees=degrees.to(system.dtype),
    )


def per_system(values: Tensor, system: System) -> Tensor:
    """Sum over the atoms of each structure: (n_atoms, …) to (n_systems, …)."""
    return sum_of_blocks(values, system.atoms_per_system)


def per_atom(values: Tensor, system: System) -> Tensor:
    """The value of its structure for each atom: (n_systems, k) to what broadcasts with (n_atoms, k)."""
    return values if system.n_systems == 1 else values[system.system_index]


def without_drift(velocities: Tensor, system: System, inertia: Inertia) -> Tensor:
    """Velocities (or displacements) relative to the centre of mass, where that is held."""
    if inertia.mass_share is None:
        return velocities
    drift = per_atom(per_system(inertia.mass_share * velocities, system), system)
    if system.fixed is None:
        return velocities - drift
    return velocities - drift * (inertia.mass_share > 0)


def kinetic_energy(system: System) -> Tensor:
    """(n_systems,) eV."""
    assert system.velocities is not None
    twice = per_system(system.masses * system.velocities.square().sum(dim=1), system)
    return 0.5 * units.AMU_A2_PER_FS2_IN_EV * twice


def temperature(system: System, inertia: Inertia) -> Tensor:
    """(n_systems,) K."""
    return 2.0 * kinetic_energy(system) / (inertia.degrees * units.BOLTZMANN_EV_PER_K)


def maxwell_boltzmann(
    system: System, temperature_K: Tensor, seed: int | Sequence[int], inertia: Inertia
) -> Tensor:
    """Velocities drawn from the Maxwell–Boltzmann distribution, (n_atoms, 3) Å/fs.

    Where the centre of mass is held the draw is projected: exactly the distribution among
    velocities of zero total momentum. Fixed atoms stay at rest.

    Args:
        temperature_K: (n_systems,) K; the draw has this temperature on average, not exactly.
    """
    thermal = units.BOLTZMANN_EV_PER_K * temperature_K.to(system.positions).unsqueeze(1)
    width = (per_atom(thermal, system) * inertia.inverse_mass).sqrt()
    noise = standard_normal(system, streams_of(seed, system.n_systems), 0, Purpose.INITIAL_VELOCITIES)
    return without_drift(width * noise, system, inertia)
