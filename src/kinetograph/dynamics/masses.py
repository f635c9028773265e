"""Hydrogen-mass repartitioning: heavier hydrogens vibrate slower, so that a longer time step is possible.

K. A. Feenstra, B. Hess, H. J. C. Berendsen, J. Comput. Chem. 20, 786 (1999); C. W. Hopkins et al., J. Chem.
Theory Comput. 11, 1864 (2015), whose 3.024 amu are the default. What a hydrogen gains its heavy neighbour
loses. Averages over positions do not depend on masses; rates, such as diffusion, do.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kinetograph.dynamics.held_bonds import HYDROGEN, water_molecules
from kinetograph.dynamics.settings import require_positive
from kinetograph.errors import UserError
from kinetograph.system import System


def repartition_hydrogen_mass(
    system: System, hydrogen_amu: float = 3.024, *, keep_water: bool = False
) -> System:
    """The system with every hydrogen of one mass, taken from the heavy atom that it is bonded to.

    The mass of every molecule stays as it was. Velocities, where there are any, are scaled so that each atom
    keeps its kinetic energy: a thermal distribution stays one.

    Args:
        keep_water: leave water molecules as they are, such as those that are held rigid.

    Raises:
        UserError: bonds are not known, there is no hydrogen, one is not bonded to exactly one heavy
            atom, or a heavy atom would be lighter than its hydrogens.
    """
    require_positive("hydrogen_amu", hydrogen_amu)
    if system.bonds is None:
        raise UserError(
            "the bonds are not known, so the heavy neighbours of hydrogens are not either",
            where="bonds",
            mend="Find them first: kinetograph.bonds.with_bonds(system, BondRule()).",
        )
    changed = system.atomic_numbers == HYDROGEN
    if keep_water:
        changed[water_molecules(system).reshape(-1)] = False
    hydrogens = torch.nonzero(changed)[:, 0]
    if len(hydrogens) == 0:
        raise UserError("there is no hydrogen to make heavier", where="structure", mend="Leave the masses.")
    heavy = _heavy_neighbors(system, hydrogens)
    masses = system.masses.index_add(0, heavy, system.masses[hydrogens] - hydrogen_amu)
    masses = torch.where(changed, hydrogen_amu, masses)
    too_light = heavy[masses[heavy] < hydrogen_amu]
    if len(too_light):
        atom = int(too_light[0])
        raise UserError(
            f"atom {atom} would be left with {float(masses[atom]):.3f} amu, less than its hydrogens",
            where="hydrogen_amu",
            mend="Choose a smaller mass for hydrogen.",
        )
    velocities = system.velocities
    if velocities is not None:
        velocities = velocities * (system.masses / masses).sqrt().unsqueeze(1)
    return replace(system, masses=masses, velocities=velocities)


def _heavy_neighbors(system: System, hydrogens: Tensor) -> Tensor:
    """(n_hydrogens,) the atom that each is bonded to."""
    assert system.bonds is not None
    ends = torch.cat([system.bonds, system.bonds.flip(1)])  # each bond both ways
    ends = ends[system.atomic_numbers[ends[:, 1]] != HYDROGEN]
    counts = torch.bincount(ends[:, 0], minlength=system.n_atoms)[hydrogens]
    if bool((counts != 1).any()):
        wrong = int(torch.nonzero(counts != 1)[0])
        raise UserError(
            f"hydrogen {int(hydrogens[wrong])} is bonded to {int(counts[wrong])} heavy atoms, not to one",
            where="bonds",
            mend="Give the bonds without it, or leave the masses as they are.",
        )
    neighbor = torch.zeros_like(system.atomic_numbers)
    neighbor[ends[:, 0]] = ends[:, 1]
    return neighbor[hydrogens]
