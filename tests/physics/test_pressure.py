"""The pressure tensor against ASE, closed forms, and strains of molecules that keep their shape."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones

from kinetograph import units
from kinetograph.dynamics import VelocityVerlet
from kinetograph.dynamics.pressure import of_centres, pressure_bar, pressure_tensor, require_pressure
from kinetograph.dynamics.state import State
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.system import System, batch

CUTOFF = 7.0
RIGID = torch.tensor([[0, 1], [2, 3], [3, 4], [2, 4], [5, 6], [6, 7]])
"""A dimer, a triangle and a chain of three; two atoms stay alone."""


def lennard_jones() -> LennardJones:
    return LennardJones(epsilon=0.0103, sigma=3.4, cutoff=CUTOFF, truncation="shift").eval()


def moving(atoms: ase.Atoms, seed: int) -> ase.Atoms:
    rng = np.random.default_rng(seed)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * [1.0, 2.0, 0.5])
    return atoms


def test_pressure_is_that_of_ase_in_triclinic_cells() -> None:
    """In a batch of two, without the centre of mass held: ASE has the momenta as they are."""
    cells = [np.eye(3), np.array([[1.0, 0.1, -0.05], [0.0, 1.03, 0.08], [0.0, 0.0, 0.98]])]
    frames = []
    for seed, deformation in enumerate(cells):
        atoms = bulk("Ar", "fcc", 5.3, cubic=True) * (2, 2, 2)
        atoms.rattle(0.2, seed=seed)
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        frames.append(moving(atoms, seed))
    potential = lennard_jones()
    integrator = VelocityVerlet(1.0, remove_com=False)
    state = integrator.init(batch([System.from_ase(a) for a in frames]), potential, 0)
    for index, atoms in enumerate(frames):
        atoms.calc = AseLennardJones(epsilon=0.0103, sigma=3.4, rc=CUTOFF, smooth=False)
        expected = -atoms.get_stress(voigt=False, include_ideal_gas=True)
        np.testing.assert_allclose(pressure_tensor(state)[index].numpy(), expected, rtol=1e-7, atol=1e-9)
        in_bar = np.trace(expected) / 3.0 / ase.units.bar
        assert pressure_bar(state)[index].item() == pytest.approx(in_bar, rel=1e-6)  # constants of two years


def test_two_atoms_push_with_their_force_times_their_distance() -> None:
    """P V = m v² + r·F for one pair along z and a velocity along x; a repulsion pushes outward."""
    atoms = ase.Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 3.3]], cell=[30.0, 30.0, 30.0], pbc=True)
    atoms.set_velocities(np.array([[0.002, 0, 0], [-0.002, 0, 0]]) * units.ASE_TIME_IN_FS)
    state = VelocityVerlet(1.0).init(System.from_ase(atoms), lennard_jones(), 0)
    force = 24.0 * 0.0103 / 3.3 * (2.0 * (3.4 / 3.3) ** 12 - (3.4 / 3.3) ** 6)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[0, 0] = 2.0 * 39.948 * units.AMU_A2_PER_FS2_IN_EV * 0.002**2
    expected[2, 2] = 3.3 * force
    torch.testing.assert_close(30.0**3 * pressure_tensor(state)[0], expected, rtol=1e-6, atol=1e-12)
    assert expected[2, 2] > 0


def molecules(seed: int) -> System:
    """Rigid clusters and single atoms of different masses, across the boundaries of a triclinic cell."""
    rng = np.random.default_rng(seed)
    triangle = np.array([[0, 0, 0], [2.0, 0, 0], [0.7, 1.5, 0]])
    parts = [
        np.array([[0, 0, 0], [0, 1.8, 0]]),
        triangle,
        np.array([[0, 0, 0], [1.6, 0.3, 0], [2.0, 1.9, 0.3]]),
        np.zeros((1, 3)),
        np.zeros((1, 3)),
    ]
    cell = np.array([[13.0, 0, 0], [1.0, 12.5, 0], [-1.5, 2.0, 12.0]])
    sites = np.array([[0.05, 0, 0], [0.5, 0.5, 0.05], [0.9, 0.1, 0.5], [0.5, 0.1, 0.6], [0, 0.6, 0.6]])
    positions = np.concatenate([part + site @ cell for part, site in zip(parts, sites, strict=True)])
    masses = rng.uniform(5.0, 40.0, len(positions))
    atoms = ase.Atoms("Ar10", positions=positions, cell=cell, pbc=True, masses=masses)
    rigid = torch.linalg.norm(torch.from_numpy(np.diff(positions[RIGID.numpy()], axis=1)[:, 0]), dim=1)
    atoms.wrap()
    system = System.from_ase(moving(atoms, seed))
    return replace(system, rigid=RIGID, rigid_lengths=rigid)


def state_of_molecules(seed: int = 3) -> tuple[State, LennardJones]:
    potential = LennardJones(epsilon=0.01, sigma=2.2, cutoff=6.0, truncation="switch", switch_start=4.0)
    return VelocityVerlet(1.0, remove_com=False).init(molecules(seed), potential, 0), potential


def test_pressure_of_rigid_molecules_is_the_derivative_by_a_strain_of_their_centres() -> None:
    """No forces of constraint are in it: the work of a strain that moves molecules as they are."""
    state, potential = state_of_molecules()
    positions, cell = state.positions.numpy(), state.system.cell[0].numpy()
    masses, velocities = state.system.masses.numpy(), state.velocities.numpy()
    clusters = [[0, 1], [2, 3, 4], [5, 6, 7], [8], [9]]

    def energy(strain: np.ndarray) -> float:
        moved = positions.copy()
        for members in clusters:
            moved[members] += np.average(positions[members], axis=0, weights=masses[members]) @ strain
        system = replace(
            state.system,
            positions=torch.from_numpy(moved),
            cell=torch.from_numpy(cell @ (np.eye(3) + strain))[None],
        )
        return potential(system, neighbors_for(system, potential.request)).energy.item()

    expected = np.zeros((3, 3))
    for members in clusters:
        momentum = masses[members] @ velocities[members]
        expected += units.AMU_A2_PER_FS2_IN_EV * np.outer(momentum, momentum) / masses[members].sum()
    step = 1e-5
    for i in range(3):
        for j in range(3):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            expected[i, j] -= (energy(strain) - energy(-strain)) / (2.0 * step)
    found = (pressure_tensor(state)[0] * state.system.volume).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)  # central differences
    per_atom = pressure_tensor(replace(state, rigid=None))[0] * state.system.volume
    assert np.abs(found - per_atom.numpy()).max() > 0.01  # the two are different things


def test_each_atom_knows_the_centre_of_its_cluster() -> None:
    state, _ = state_of_molecules()
    centres = of_centres(state.positions, state)
    mass = state.system.masses.unsqueeze(1)
    for members in ([0, 1], [2, 3, 4], [5, 6, 7], [8], [9]):
        expected = (mass[members] * state.positions[members]).sum(dim=0) / mass[members].sum()
        torch.testing.assert_close(centres[members], expected.expand(len(members), 3), rtol=0, atol=1e-12)


def test_what_has_no_pressure_is_refused_by_barostats() -> None:
    system, potential = System.from_ase(bulk("Ar", "fcc", 5.3)), lennard_jones()
    require_pressure(system, potential)
    with pytest.raises(UserError, match="periodic in three directions"):
        require_pressure(replace(system, pbc=torch.tensor([[True, True, False]])), potential)
    with pytest.raises(UserError, match="fixed"):
        require_pressure(replace(system, fixed=torch.tensor([True])), potential)

    class WithoutStress(LennardJones):
        gives_stress = False

    blind = WithoutStress(epsilon=0.01, sigma=3.4, cutoff=6.0)
    with pytest.raises(UserError, match="no stress"):
        require_pressure(system, blind)
