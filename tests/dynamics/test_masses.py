"""Hydrogen-mass repartitioning."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.bonds import BondRule, with_bonds
from kinetograph.dynamics.masses import repartition_hydrogen_mass
from kinetograph.dynamics.velocities import kinetic_energy
from kinetograph.errors import UserError
from kinetograph.system import System, batch


def known(name: str) -> System:
    return with_bonds(System.from_ase(molecule(name)), BondRule())


def test_mass_goes_from_heavy_atoms_to_their_own_hydrogens() -> None:
    system = batch([known("CH3CH2OH"), known("H2O")])
    heavier = repartition_hydrogen_mass(system, 3.0)
    gain = 3.0 - 1.008
    numbers = system.atomic_numbers
    assert (heavier.masses[numbers == 1] == 3.0).all()
    lost = (system.masses - heavier.masses)[numbers != 1]
    # ASE's ethanol begins with two C, then O; the oxygen of water follows
    ethanol = molecule("CH3CH2OH")
    middle = int(np.argmin([ethanol.get_distance(carbon, 2) for carbon in (0, 1)]))
    hydrogens = [2 if carbon == middle else 3 for carbon in (0, 1)]
    np.testing.assert_allclose(lost.numpy(), gain * np.array([*hydrogens, 1, 2]), atol=1e-12)
    before, after = (
        torch.zeros(2, dtype=torch.float64).index_add(0, system.system_index, s.masses)
        for s in (system, heavier)
    )
    torch.testing.assert_close(after, before, rtol=1e-15, atol=0)
    assert repartition_hydrogen_mass(system).masses[numbers == 1].unique().tolist() == [3.024]


def test_water_can_be_left_as_it_is() -> None:
    system = batch([known("CH4"), known("H2O")])
    heavier = repartition_hydrogen_mass(system, keep_water=True)
    assert torch.equal(heavier.masses[5:], system.masses[5:])
    assert (heavier.masses[:5] != system.masses[:5]).all()


def test_each_atom_keeps_its_kinetic_energy(rng: np.random.Generator) -> None:
    system = known("CH4")
    system = replace(system, velocities=torch.tensor(rng.normal(size=(5, 3))))
    heavier = repartition_hydrogen_mass(system)
    for atom in range(5):
        before, after = (s.masses[atom] * s.velocities[atom].square().sum() for s in (system, heavier))
        assert after.item() == pytest.approx(before.item(), rel=1e-14)
    assert kinetic_energy(heavier).item() == pytest.approx(kinetic_energy(system).item(), rel=1e-14)
    torch.testing.assert_close(  # the directions stay
        torch.nn.functional.normalize(heavier.velocities), torch.nn.functional.normalize(system.velocities)
    )


@pytest.mark.parametrize(
    ("system", "hydrogen_amu", "message"),
    [
        (System.from_ase(molecule("H2O")), 3.024, "the bonds are not known"),
        (known("CO2"), 3.024, "there is no hydrogen"),
        (known("H2"), 3.024, "hydrogen 0 is bonded to 0 heavy atoms, not to one"),
        (
            with_bonds(System.from_ase(ase.Atoms("FHF", [[0, 0, -1.1], [0, 0, 0], [0, 0, 1.1]])), BondRule()),
            3.024,
            "hydrogen 1 is bonded to 2 heavy atoms, not to one",
        ),
        (known("CH4"), 3.5, "atom 0 would be left with 2.043 amu, less than its hydrogens"),
        (known("CH4"), -1.0, "hydrogen_amu is -1.0"),
    ],
)
def test_what_cannot_be_repartitioned_is_refused(system: System, hydrogen_amu: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        repartition_hydrogen_mass(system, hydrogen_amu)
