"""Stochastic cell rescaling: its time constant, its account of energy, rigid molecules, and what it refuses.

What holds for both barostats is in ``test_barostats``, the distributions of volume and shape are in
``test_constant_pressure``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from kinetograph import units
from kinetograph.dynamics import TwoForces
from kinetograph.dynamics.cell_rescaling import CellRescaling, deformed
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

PRESSURE_BAR, KELVIN = 100.0, 300.0
UNIT_VOLUME = units.BOLTZMANN_EV_PER_K * KELVIN / (PRESSURE_BAR / units.EV_PER_A3_IN_BAR)
"""kT/P in Å³."""
KT_FLUID = units.BOLTZMANN_EV_PER_K * 120.0


class IdealGas(Potential):
    gives_energy = True

    def __init__(self) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=0.1)

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return Prediction(
            forces=torch.zeros_like(system.positions),
            conservative=True,
            energy=system.positions.new_zeros(system.n_systems),
            stress=torch.zeros_like(system.cell),
        )


def dimers(n_systems: int, n_molecules: int) -> System:
    """Boxes of molecules of two unlike atoms, 1.5 Å apart and rigid, that do not see each other."""
    n = n_systems * n_molecules
    length = ((n_molecules + 1) * UNIT_VOLUME) ** (1.0 / 3.0)
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(n, 3))
    first = length * rng.random((n, 3))
    second = first + 1.5 * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    system = System(
        positions=torch.from_numpy(np.stack([first, second], axis=1).reshape(-1, 3)),
        atomic_numbers=torch.tensor([17, 18]).repeat(n),
        masses=torch.tensor([10.0, 40.0], dtype=torch.float64).repeat(n),
        cell=length * torch.eye(3, dtype=torch.float64).expand(n_systems, 3, 3),
        pbc=torch.ones(n_systems, 3, dtype=torch.bool),
        system_index=torch.arange(n_systems).repeat_interleave(2 * n_molecules),
        rigid=torch.arange(2 * n).reshape(n, 2),
        rigid_lengths=torch.full((n,), 1.5, dtype=torch.float64),
    )
    kelvin = torch.full((n_systems,), KELVIN, dtype=torch.float64)
    velocities = maxwell_boltzmann(system, kelvin, 1, inertia_of(system, remove_com=True))
    return replace(system, velocities=velocities)


def test_the_volume_forgets_where_it_was_within_the_time_constant() -> None:
    """An ideal gas of compressibility 1/P at constant temperature: ⟨δV(t) δV(0)⟩ = ⟨δV²⟩ e^(−t/τ), exactly.

    The molecules are rigid, so their number, not that of their atoms, makes the distribution of volumes; the
    bath is fast, so that the temperature is constant while the volume moves.
    """
    n_molecules, n_systems = 3, 24
    integrator = CellRescaling(
        10.0,
        KELVIN,
        PRESSURE_BAR,
        time_constant_fs=10.0,
        pressure_time_constant_fs=200.0,
        compressibility_per_bar=1.0 / PRESSURE_BAR,
        every=2,
    )
    state = integrator.init(dimers(n_systems, n_molecules), IdealGas(), 2, skin_A=15.0)
    samples = []
    for step in range(860):
        state = integrator.step(state, IdealGas())
        if step >= 60:
            samples.append(state.system.volume.numpy() / UNIT_VOLUME)
    values, shape = np.array(samples), n_molecules + 1
    assert scipy.stats.kstest(values[::60].ravel(), "gamma", args=(shape,)).pvalue > 1e-3
    error = 4.0 * values.mean(axis=0).std(ddof=1) / np.sqrt(n_systems)
    assert abs(values.mean() - shape) < error < 0.8  # of atoms instead of molecules it would be 7, not 4
    away = values - values.mean()
    correlation = (away[20:] * away[:-20]).mean() / (away**2).mean()
    # Four standard errors from the number of times that the volume forgot.
    assert abs(correlation - np.exp(-1.0)) < 4.0 / np.sqrt(n_systems * len(values) / 20.0)
    apart = state.positions.reshape(-1, 2, 3).diff(dim=1).norm(dim=2)
    assert (apart - 1.5).abs().max() < 1e-9


def test_molecules_keep_their_inside_when_the_cell_is_deformed() -> None:
    """Centres and their momenta follow, R → R M and V → V M^−T; distances and relative velocities stay."""
    state = CellRescaling(1.0, KELVIN, 1.0).init(dimers(2, 3), IdealGas(), 0)
    deformation = np.eye(3) + 0.1 * np.random.default_rng(1).normal(size=(2, 3, 3))
    after = deformed(state, deformation)
    share = torch.tensor([0.2, 0.8], dtype=torch.float64)[:, None]

    def centres_and_differences(vectors: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        pairs = vectors.reshape(2, 3, 2, 3)
        return (share * pairs).sum(dim=2).numpy(), pairs.diff(dim=2).numpy()

    for what, factor in (
        ("positions", deformation),
        ("velocities", np.linalg.inv(deformation).swapaxes(1, 2)),
    ):
        centres, differences = centres_and_differences(getattr(state, what))
        new_centres, new_differences = centres_and_differences(getattr(after, what))
        np.testing.assert_allclose(new_centres, centres @ factor, rtol=1e-12)
        np.testing.assert_allclose(new_differences, differences, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(after.system.cell.numpy(), state.system.cell.numpy() @ deformation, rtol=1e-12)


def test_energy_is_accounted_the_better_the_smaller_the_steps(fluid) -> None:
    potential, system = fluid.potential(1.6), fluid.system(2, n_copies=4)
    errors = []
    for timestep in (2.0, 8.0):
        integrator = fluid.cell_rescaling(timestep, mode="full")
        state = integrator.init(system, potential, 0)
        conserved, energies = [], []
        for _ in range(round(800 / timestep)):
            state = integrator.step(state, potential)
            conserved.append(integrator.conserved_quantity(state).numpy() / KT_FLUID)
            energies.append((state.kinetic_energy + state.prediction.energy).numpy() / KT_FLUID)
        errors.append(np.std(conserved, axis=0).mean())
        assert errors[-1] < 0.02 * np.std(energies, axis=0).mean()
    # A move of time t errs by t^(3/2), and 1/t of them add up at random: by t in all.
    assert errors[0] < 0.5 * errors[1]


def test_two_forces_conserve_as_well_as_one(fluid) -> None:
    """Also where the cell moves between two inner steps, with a cheap force of shorter reach."""
    outer, system = fluid.potential(1.6), fluid.system(2, n_copies=4)
    inner = fluid.inner()
    errors = []
    for potential in (outer, TwoForces(inner, outer, 3), TwoForces(inner, outer, 4)):
        integrator = fluid.cell_rescaling(16.0, mode="full", pressure_time_constant_fs=3000.0)
        state = integrator.init(system, potential, 0)
        conserved = []
        for _ in range(60):
            state = integrator.step(state, potential)
            conserved.append(integrator.conserved_quantity(state).numpy() / KT_FLUID)
        errors.append(np.std(conserved, axis=0).mean())
        assert state.of_systems["volume_momentum"].abs().min() > 0.0
    assert max(errors[1:]) < errors[0] < 0.1


def test_the_cell_moves_every_so_many_steps(fluid) -> None:
    potential, integrator = fluid.potential(1.6), fluid.cell_rescaling(every=3)
    state = integrator.init(fluid.system(2), potential, 0)
    moved = []
    for _ in range(7):
        cell = state.system.cell
        state = integrator.step(state, potential)
        moved.append(not torch.equal(cell, state.system.cell))
    assert moved == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("mode", ["isotropic", "semi-isotropic", "full"])
def test_modes_keep_what_they_promise(fluid, mode: str) -> None:
    potential, system = fluid.potential(1.6), fluid.system(2)
    integrator = fluid.cell_rescaling(mode=mode)
    state = integrator.step(integrator.init(system, potential, 0), potential)
    deformation = torch.linalg.solve(system.cell[0], state.system.cell[0])
    diagonal = deformation.diagonal()
    if mode != "full":
        torch.testing.assert_close(deformation, torch.diag(diagonal), rtol=0, atol=1e-12)
        assert abs(diagonal[0] - diagonal[1]) < 1e-12
    assert (abs(diagonal[1] - diagonal[2]) < 1e-12) == (mode == "isotropic")
    # The first move starts from no momentum: it is one symmetric strain, so that nothing turns.
    torch.testing.assert_close(deformation, deformation.T, rtol=0, atol=1e-6)


def test_what_it_cannot_do_is_refused(fluid) -> None:
    for wrong in ({"compressibility_per_bar": 0.0}, {"every": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            fluid.cell_rescaling(**wrong)
    with pytest.raises(UserError, match="too rarely"):
        fluid.cell_rescaling(every=200)
