"""System: to and from ase.Atoms, batches, rotations, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest, build_graph
from kinetograph.neighbors import NeighborList
from kinetograph.system import System, batch, subset


def test_ase_round_trip_keeps_everything(rng: np.random.Generator) -> None:
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_momenta(rng.normal(size=(len(slab), 3)))
    slab.set_constraint(FixAtoms(indices=[0, 3]))
    slab.info.update(bonds=np.array([[0, 1], [2, 5]]), charge=-1, spin=2)
    (back,) = System.from_ase(slab).to_ase()
    assert (back.numbers == slab.numbers).all()
    np.testing.assert_allclose(back.positions, slab.positions, atol=1e-12)
    np.testing.assert_allclose(back.get_velocities(), slab.get_velocities(), rtol=1e-12)
    assert (back.pbc == slab.pbc).all()
    assert slab.cell[2, 2] > 10.0
    np.testing.assert_allclose(back.cell, slab.cell)  # the vacuum, though no period, is kept
    assert list(back.constraints[0].index) == [0, 3]
    assert back.info["bonds"].tolist() == [[0, 1], [2, 5]]
    assert (back.info["charge"], back.info["spin"]) == (-1.0, 2)
    without = System.from_ase([slab, fcc111("Cu", (2, 2, 3), vacuum=6.0)])
    assert without.charge is None
    assert without.spin is None


@pytest.mark.parametrize("pbc", [(True, True, False), (False, True, False), (False, False, False)])
def test_nothing_depends_on_the_vectors_of_directions_without_a_period(pbc: tuple[bool, ...]) -> None:
    atoms = bulk("Cu", "fcc", 3.6, cubic=True)
    atoms.rattle(0.1, seed=3)
    atoms.pbc = pbc
    other = atoms.copy()
    for axis in range(3):
        if not pbc[axis]:
            other.cell[axis] = [0.7, 0.3, 2.0]  # short and askew
    both = [System.from_ase(frame) for frame in (atoms, other)]
    first, second = (NeighborList.build(system, 5.0) for system in both)
    for name in ("center", "neighbor", "shift"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not first.shift[:, ~both[0].pbc[0]].any()
    request = GraphRequest(cutoff=5.0)
    vectors = [build_graph(s, n, request).edge_vectors for s, n in zip(both, (first, second), strict=True)]
    assert torch.equal(*vectors)
    assert all(system.volume.isnan().all() for system in both)


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


def test_atoms_fixed_in_one_part_stay_fixed_in_the_batch() -> None:
    slab = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    free = System.from_ase(slab)
    slab.set_constraint(FixAtoms(indices=[1]))
    joined = batch([free, System.from_ase(slab), free])
    assert joined.fixed is not None
    assert joined.fixed.tolist() == [False, False, False, True, False, False]
    assert batch([free, free]).fixed is None


def test_systems_with_and_without_velocities_are_not_batched() -> None:
    still = System.from_ase(molecule("H2O"))
    moving = replace(still, velocities=torch.zeros_like(still.positions))
    with pytest.raises(ValueError, match="1 of 2 systems have velocities"):
        batch([still, moving])
    assert batch([moving, moving]).velocities is not None


def test_a_subset_is_the_batch_that_was_made_without_the_others(rng: np.random.Generator) -> None:
    parts = []
    for n_images in (1, 3, 2, 1):
        water = molecule("H2O", cell=[8.0, 8.0, 8.0]) * (n_images, 1, 1)
        water.info.update(bonds=[[3 * i, 3 * i + 1] for i in range(n_images)], charge=n_images, spin=1)
        water.set_momenta(rng.normal(size=(len(water), 3)))
        water.set_constraint(FixAtoms(indices=[len(water) - 1]))
        part = System.from_ase(water)
        pairs = torch.tensor([[3 * i + 1, 3 * i + 2] for i in range(n_images)])
        parts.append(replace(part, rigid=pairs, rigid_lengths=torch.as_tensor(rng.random(n_images))))
    whole = batch(parts)
    for keep in ([0], [1, 3], [0, 2, 3], [0, 1, 2, 3]):
        expected = batch([parts[index] for index in keep])
        for chosen in (subset(whole, keep), subset(whole, torch.tensor(keep))):
            for field in fields(System):
                assert torch.equal(getattr(chosen, field.name), getattr(expected, field.name)), field.name
    assert subset(System.from_ase(molecule("H2O")), [0]).bonds is None
    assert subset(whole, []).n_atoms == 0
    for wrong in ([1, 0], [0, 0], [4], [-1]):
        with pytest.raises(ValueError, match="not ascending numbers of 4 structures"):
            subset(whole, wrong)


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


@pytest.mark.parametrize(
    ("bonds", "text"),
    [
        ([[0, 3]], "joins atoms 0 and 3"),
        ([[0, 1], [-1, 2]], "joins atoms -1 and 2"),
        ([["O", "H"]], "not pairs"),
        ([[0.0, 1.0]], "not pairs"),
        ([0, 1], "not pairs"),
        ([[0, 1, 2]], "not pairs"),
        ([[0, 1], [2]], "not pairs"),
        ("yes", "not pairs"),
        (None, "not pairs"),
    ],
)
def test_bonds_that_are_no_pairs_of_atoms_are_refused(bonds: object, text: str) -> None:
    good, bad = molecule("H2O"), molecule("H2O")
    good.info["bonds"] = [[0, 1], [0, 2]]
    bad.info["bonds"] = bonds
    with pytest.raises(UserError, match=text) as caught:
        System.from_ase([good, bad])
    assert caught.value.where == "structure 1"


def test_no_bonds_are_known_to_be_none() -> None:
    atoms = ase.Atoms("Ar")
    for none in ([], np.zeros((0, 2)), np.zeros(0)):
        atoms.info["bonds"] = none
        bonds = System.from_ase(atoms).bonds
        assert bonds is not None
        assert bonds.shape == (0, 2)


@pytest.mark.parametrize(("key", "value"), [("charge", "+"), ("charge", np.nan), ("spin", 0.5), ("spin", -1)])
def test_charge_and_spin_that_are_no_numbers_are_refused(key: str, value: object) -> None:
    atoms = ase.Atoms("Ar")
    atoms.info[key] = value
    with pytest.raises(UserError, match=key):
        System.from_ase(atoms)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"velocities": torch.full((6, 3), torch.nan)}, "velocities are not finite"),
        ({"positions": torch.full((6, 3), torch.inf)}, "positions are not finite"),
        ({"cell": torch.full((2, 3, 3), torch.nan)}, "cell is not finite"),
        ({"pbc": torch.tensor([[False] * 3, [True] * 3])}, "structure 1"),
        ({"bonds": torch.tensor([[0, 3]])}, "not two atoms of one structure"),
        ({"bonds": torch.tensor([[5, 6]])}, "not two atoms of one structure"),
        ({"system_index": torch.ones(6, dtype=torch.int64)}, r"no atoms \(structure 0\)"),
    ],
)
def test_tensors_are_checked_as_structures_are(change: dict[str, torch.Tensor], text: str) -> None:
    system = System.from_ase([molecule("H2O"), molecule("H2O")])
    system.check()
    with pytest.raises(UserError, match=text):
        replace(system, **change).check()
