"""System: to and from ase.Atoms, batches, rotations, and what is refused."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.system import System, batch


def test_ase_round_trip_keeps_everything(rng: np.random.Generator) -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_momenta(rng.normal(size=(len(slab), 3)))
    slab.set_constraint(FixAtoms(indices=[0, 3]))
    slab.info["bonds"] = np.array([[0, 1], [2, 5]])
    (back,) = System.from_ase(slab).to_ase()
    assert (back.numbers == slab.numbers).all()
    np.testing.assert_allclose(back.positions, slab.positions, atol=1e-12)
    np.testing.assert_allclose(back.get_velocities(), slab.get_velocities(), rtol=1e-12)
    assert (back.pbc == slab.pbc).all()
    np.testing.assert_allclose(back.cell[:2], slab.cell[:2])
    assert list(back.constraints[0].index) == [0, 3]
    assert back.info["bonds"].tolist() == [[0, 1], [2, 5]]


def test_velocity_unit_gives_ase_kinetic_energy(rng: np.random.Generator) -> None:
    atoms = bulk("Ar", "fcc", 5.3, cubic=True)
    atoms.set_momenta(rng.normal(size=(4, 3)))
    system = System.from_ase(atoms)
    assert system.velocities is not None
    kinetic = 0.5 * (system.masses[:, None] * system.velocities**2).sum() * units.AMU_A2_PER_FS2_IN_EV
    assert float(kinetic) == pytest.approx(
        atoms.get_kinetic_energy(), rel=1e-7
    )  # ASE's own constants: CODATA 2014


def test_batch_offsets_indices_of_later_systems() -> None:
    water = molecule("H2O")
    water.info["bonds"] = np.array([[0, 1], [0, 2]])
    one = System.from_ase(water)
    two = batch([one, one])
    assert two.system_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert two.bonds is not None
    assert two.bonds.tolist() == [[0, 1], [0, 2], [3, 4], [3, 5]]
    together = System.from_ase([water, water])
    assert torch.equal(two.positions, together.positions)
    assert together.bonds is not None
    assert torch.equal(two.bonds, together.bonds)
    first, second = two.to_ase()
    assert first.info["bonds"].tolist() == second.info["bonds"].tolist() == [[0, 1], [0, 2]]


def test_rotation_keeps_scaled_positions(rng: np.random.Generator) -> None:
    atoms = ase.Atoms(
        "Si8", cell=rng.normal(size=(3, 3)) + 5 * np.eye(3), pbc=True, scaled_positions=rng.random((8, 3))
    )
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    (turned,) = System.from_ase(atoms).rotated(torch.as_tensor(q)).to_ase()
    np.testing.assert_allclose(turned.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    np.testing.assert_allclose(turned.positions, atoms.positions @ q.T, atol=1e-12)


@pytest.mark.parametrize(
    ("atoms", "text"),
    [
        (ase.Atoms("Ar", positions=[[np.nan, 0, 0]]), "not finite"),
        (ase.Atoms("Ar", pbc=True), "cell vector is missing"),
        (ase.Atoms("Ar", cell=[[5, 0, 0], [5, 0, 0], [0, 0, 5]], pbc=True), "singular"),
        (ase.Atoms(), "no atoms"),
    ],
)
def test_unusable_structures_are_refused(atoms: ase.Atoms, text: str) -> None:
    with pytest.raises(UserError, match=text):
        System.from_ase(atoms)
