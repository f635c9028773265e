"""Both barostats: the distributions of volume and shape against closed forms, and OpenMM's for the fluid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from kinetograph import units
from kinetograph.dynamics.cell_rescaling import CellRescaling
from kinetograph.dynamics.mtk import MTK
from kinetograph.dynamics.state import State
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

KELVIN, PRESSURE_BAR = 300.0, 100.0
KT = units.BOLTZMANN_EV_PER_K * KELVIN
UNIT_VOLUME = KT / (PRESSURE_BAR / units.EV_PER_A3_IN_BAR)
"""kT/P in Å³."""
N_ATOMS, N_COPIES = 4, 24


class SpringyCell(Potential):
    """No forces on atoms; an energy ½ k tr(F Fᵀ)/det(F)^(2/3) of the shape F of a cell that was cubic.

    Its derivative by a strain, F → F (1 + ε), is k [FᵀF/det(F)^(2/3) − one third of the trace].
    """

    gives_energy = True

    def __init__(self, stiffness: float = 0.0) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=0.1)
        self.stiffness = stiffness

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        strain = system.cell.mT @ system.cell / torch.linalg.det(system.cell)[:, None, None] ** (2.0 / 3.0)
        trace = strain.diagonal(dim1=1, dim2=2).sum(dim=1)
        virial = self.stiffness * (strain - trace[:, None, None] / 3.0 * torch.eye(3, dtype=system.dtype))
        return Prediction(
            forces=torch.zeros_like(system.positions),
            conservative=True,
            energy=0.5 * self.stiffness * trace,
            stress=virial / system.volume[:, None, None],
        )


def thermal(system: System, seed: int, *, remove_com: bool) -> System:
    """The system with velocities of the temperature."""
    kelvin = torch.full((system.n_systems,), KELVIN, dtype=torch.float64)
    inertia = inertia_of(system, remove_com=remove_com)
    return replace(system, velocities=maxwell_boltzmann(system, kelvin, seed, inertia))


def gas(*, remove_com: bool = True) -> System:
    """Many small cubes with atoms anywhere in them."""
    n, length = N_COPIES * N_ATOMS, ((N_ATOMS + 1) * UNIT_VOLUME) ** (1.0 / 3.0)
    rng = np.random.default_rng(0)
    system = System(
        positions=torch.from_numpy(length * rng.random((n, 3))),
        atomic_numbers=torch.full((n,), 18),
        masses=torch.full((n,), 40.0, dtype=torch.float64),
        cell=length * torch.eye(3, dtype=torch.float64).expand(N_COPIES, 3, 3),
        pbc=torch.ones(N_COPIES, 3, dtype=torch.bool),
        system_index=torch.arange(N_COPIES).repeat_interleave(N_ATOMS),
    )
    return thermal(system, 1, remove_com=remove_com)


def barostat(kind: str, mode: Any = "isotropic", *, remove_com: bool = True) -> CellRescaling | MTK:
    """One that moves fast, for a gas: its compressibility is 1/P."""
    common: dict[str, Any] = {
        "timestep_fs": 10.0,
        "temperature_K": KELVIN,
        "pressure_bar": PRESSURE_BAR,
        "mode": mode,
        "time_constant_fs": 100.0,
        "pressure_time_constant_fs": 150.0,
        "remove_com": remove_com,
    }
    if kind == "cell rescaling":
        return CellRescaling(**common, compressibility_per_bar=1.0 / PRESSURE_BAR, every=1)
    return MTK(**common, yoshida_suzuki=1)


def sampled(
    integrator: CellRescaling | MTK,
    system: System,
    potential: Potential,
    n_samples: int,
    every: int,
    quantity: Callable[[State], torch.Tensor],
    *,
    collisions: bool = False,
) -> np.ndarray:
    """(n_samples, …) of a quantity after a start; ``collisions`` draw velocities anew at each sample."""
    state = integrator.init(system, potential, 3, skin_A=15.0)
    samples = []
    for sample in range(n_samples + 5):
        for _ in range(every):
            state = integrator.step(state, potential)
        if sample >= 5:
            samples.append(quantity(state).numpy())
        if collisions:
            state = replace(state, system=thermal(state.system, 10 + sample, remove_com=True))
    return np.array(samples)


def assert_gamma(volumes: np.ndarray) -> None:
    """p(V) ∝ V^N exp(−P V/kT): a gamma distribution of shape N + 1."""
    x = volumes / UNIT_VOLUME
    n, shape = x.size, N_ATOMS + 1
    error = 4.0 * max(np.sqrt(shape / n), x.mean(axis=0).std(ddof=1) / np.sqrt(x.shape[1]))
    assert error < 0.7  # V^(N−1) has a mean that is one less
    assert abs(x.mean() - shape) < error
    assert scipy.stats.kstest(x.ravel(), "gamma", args=(shape,)).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["cell rescaling", "mtk"])
@pytest.mark.parametrize("remove_com", [True, False])
def test_volume_of_an_ideal_gas_has_its_exact_distribution(kind: str, remove_com: bool) -> None:
    """Whether the centre of mass is held or not: in both cases the position of every atom counts."""
    integrator = barostat(kind, remove_com=remove_com)
    system = gas(remove_com=remove_com)
    assert_gamma(sampled(integrator, system, SpringyCell(), 22, 50, lambda state: state.system.volume))


@pytest.mark.parametrize("kind", ["cell rescaling", "mtk"])
@pytest.mark.parametrize("mode", ["semi-isotropic", "full"])
def test_volume_and_shape_have_their_exact_distributions(kind: str, mode: str) -> None:
    """The measure of shapes is that of the group of matrices of determinant one.

    In terms of logarithms l of singular values that is Π sinh |l_i − l_j| for all shapes, and flat for those
    along one axis. An ideal gas has no collisions that would share its momenta between directions, so they
    are drawn anew from time to time.
    """
    potential = SpringyCell(4.0 * KT)

    def invariant(state: State) -> torch.Tensor:
        return 2.0 / potential.stiffness * state.prediction.energy

    both = sampled(
        barostat(kind, mode),
        gas(),
        potential,
        24,
        40,
        lambda state: torch.stack([state.system.volume, invariant(state)]),
        collisions=True,
    )
    assert_gamma(both[:, 0])
    values = both[:, 1].ravel()
    axis = np.linspace(-3.0, 3.0, 601)
    if mode == "full":
        l1, l2 = np.meshgrid(axis, axis)
        logs = np.stack([l1, l2, -l1 - l2])
        weight = np.abs(np.prod([np.sinh(logs[i] - logs[j]) for i, j in ((0, 1), (1, 2), (2, 0))], axis=0))
    else:
        logs = np.stack([axis, axis, -2.0 * axis])
        weight = np.ones_like(axis)
    invariants = np.exp(2.0 * logs).sum(axis=0).ravel()
    weight = weight.ravel() * np.exp(-0.5 * potential.stiffness / KT * (invariants - 3.0))
    order = np.argsort(invariants)
    cumulative = np.cumsum(weight[order]) / weight.sum()
    assert scipy.stats.kstest(values, lambda x: np.interp(x, invariants[order], cumulative)).pvalue > 1e-3
    mean = (weight * invariants).sum() / weight.sum()
    spread = np.sqrt((weight * (invariants - mean) ** 2).sum() / weight.sum())
    error = 4.0 * max(spread / np.sqrt(values.size), both[:, 1].mean(axis=0).std(ddof=1) / np.sqrt(N_COPIES))
    assert abs(values.mean() - mean) < error < 0.3 * (mean - 3.0)


# ---- the fluid -----------------------------------------------------------------------------------

HOT_K = 240.0
"""T* = 2: the fluid, at 0.65 of its particles in σ³ and less, forgets its volume within a picosecond."""
PRESSURES_BAR = (1200.0, 1800.0)


def fluid_volumes(fluid, kind: str, n_steps: int) -> np.ndarray:
    """(2, n_steps, 8) Å³: eight copies at each pressure."""
    settings: dict[str, Any] = {
        "timestep_fs": 8.0,
        "temperature_K": HOT_K,
        "pressure_bar": [pressure for pressure in PRESSURES_BAR for _ in range(8)],
        "pressure_time_constant_fs": 250.0,
    }
    integrator: CellRescaling | MTK
    if kind == "cell rescaling":
        integrator = CellRescaling(**settings, compressibility_per_bar=2e-4, every=2)
    else:
        integrator = MTK(**settings, yoshida_suzuki=1)
    potential = fluid.potential(1.5)
    state = integrator.init(fluid.system(2, n_copies=16, temperature_K=HOT_K), potential, 0, skin_A=1.5)
    volumes = []
    for step in range(n_steps + 150):
        state = integrator.step(state, potential)
        if step >= 150:
            volumes.append(state.system.volume.numpy())
    return np.array(volumes).reshape(n_steps, 2, 8).transpose(1, 0, 2)


def openmm_volumes(fluid, pressure_bar: float, n_samples: int) -> np.ndarray:
    """(n_samples,) Å³, every 20 steps, by a Monte Carlo barostat."""
    openmm = pytest.importorskip("openmm")
    atoms, potential, system = fluid.atoms(2), fluid.potential(1.5), openmm.System()
    force = openmm.NonbondedForce()
    for mass in atoms.get_masses():
        system.addParticle(mass)
        force.addParticle(0.0, fluid.sigma / units.NM_IN_A, fluid.epsilon / units.KJ_PER_MOL_IN_EV)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(potential.request.cutoff / units.NM_IN_A)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(potential.switch_start / units.NM_IN_A)
    force.setUseDispersionCorrection(False)
    system.addForce(force)
    monte_carlo = openmm.MonteCarloBarostat(pressure_bar, HOT_K, 10)
    monte_carlo.setRandomNumberSeed(2)
    system.addForce(monte_carlo)
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / units.NM_IN_A))
    thermostat = openmm.LangevinMiddleIntegrator(HOT_K, 2.0, 0.008)
    thermostat.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, thermostat, platform, {"Threads": "1"})
    context.setPositions(atoms.positions / units.NM_IN_A)
    thermostat.step(1500)
    volumes = []
    for _ in range(n_samples):
        thermostat.step(20)
        volumes.append(context.getState().getPeriodicBoxVolume()._value * units.NM_IN_A**3)
    return np.array(volumes)


def log_odds_per_volume(first: np.ndarray, second: np.ndarray) -> float:
    """The slope of ln[p1(V)/p2(V)] that is most likely, in 1/Å³ (M. R. Shirts, JCTC 9, 909 (2013))."""
    volumes = np.concatenate([first.ravel(), second.ravel()])
    center, scale = volumes.mean(), volumes.std()
    x = (volumes - center) / scale
    is_first = np.arange(len(x)) < first.size

    def loss(parameters: np.ndarray) -> float:
        score = parameters[0] + parameters[1] * x
        return float(np.logaddexp(0.0, np.where(is_first, -score, score)).sum())

    return float(scipy.optimize.minimize(loss, np.zeros(2)).x[1] / scale)


def compare_volumes(fluid, block_error, kind: str, n_steps: int, n_samples: int) -> None:
    volumes = fluid_volumes(fluid, kind, n_steps)
    for pressure, ours in zip(PRESSURES_BAR, volumes, strict=True):
        theirs = openmm_volumes(fluid, pressure, n_samples)
        error = np.hypot(ours.mean(axis=0).std(ddof=1) / np.sqrt(8), block_error(theirs))
        assert abs(ours.mean() - theirs.mean()) < 4.0 * error
        assert error < 0.02 * theirs.mean()  # the comparison means something
    # p(V) ∝ Q(V) exp(−P V/kT): the slope knows nothing of Q. Its error by leaving out copies in turn.
    slope = log_odds_per_volume(*volumes)
    without = [log_odds_per_volume(*np.delete(volumes, copy, axis=2)) for copy in range(8)]
    error = np.sqrt(7.0 / 8.0 * np.square(without - np.mean(without)).sum())
    difference_eV = (PRESSURES_BAR[1] - PRESSURES_BAR[0]) / units.EV_PER_A3_IN_BAR
    expected = difference_eV / (units.BOLTZMANN_EV_PER_K * HOT_K)
    assert abs(slope - expected) < 4.0 * error < 0.8 * expected


@pytest.mark.parametrize("kind", ["cell rescaling", "mtk"])
def test_volumes_of_the_fluid_are_those_of_openmm_and_of_two_pressures(fluid, block_error, kind: str) -> None:
    compare_volumes(fluid, block_error, kind, 600, 600)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["cell rescaling", "mtk"])
def test_long_runs_have_the_volumes_of_openmm_and_of_two_pressures(fluid, block_error, kind: str) -> None:
    compare_volumes(fluid, block_error, kind, 6000, 6000)
