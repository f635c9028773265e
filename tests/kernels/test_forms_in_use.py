"""Fast forms as users meet them: on weights that have learned, and in dynamics."""

from __future__ import annotations

import copy
from typing import Any

import ase.units
import numpy as np
import pytest
from ase.build import bulk
from forms import batch, error, form_of, learn, model, predict

from kinetograph import kernels
from kinetograph.dynamics import VelocityVerlet
from kinetograph.dynamics.state import total_energy
from kinetograph.kernels.native import Library
from kinetograph.models.classical import LennardJones
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System

DIRECTIONAL: dict[str, Any] = {"width": 16, "n_layers": 1}
GEMNET: dict[str, Any] = {**DIRECTIONAL, "edge_width": 16, "triplet_width": 16, "quadruplets": False}
DIRECT = [
    ("painn", {"width": 16}),
    ("gamd", {"width": 32}),
    ("gamd", {"width": 32, "form": "code", "n_layers": 2}),
    ("gamd", {"width": 32, "form": "covariant"}),
    ("gnnff", {"width": 16, "edge_width": 16, "nearest_required": False}),
    ("forcenet", {"width": 32, "n_layers": 2}),
]
CONSERVATIVE = [
    ("painn", {"width": 16}),
    ("schnet", {"width": 16, "n_layers": 2}),
    ("gnnff", {"width": 16, "edge_width": 16, "n_layers": 2}),
    ("dimenet", {**DIRECTIONAL, "n_bilinear": 4}),
    ("dimenet++", {**DIRECTIONAL, "triplet_width": 16, "readout_width": 16}),
    ("gemnet", GEMNET),
]


@pytest.mark.parametrize(
    ("forces", "architecture", "options"),
    [*(("direct", *case) for case in DIRECT), *(("conservative", *case) for case in CONSERVATIVE)],
    ids=str,
)
def test_on_weights_that_have_learned(
    library: Library, forces: str, architecture: str, options: dict[str, Any]
) -> None:
    potential, system = model(architecture, forces, **options), batch()
    untrained = predict(potential, system).forces
    learn(potential, system, 60 if forces == "direct" else 15)
    exact = predict(copy.deepcopy(potential).double(), system).forces
    ours = predict(potential, system).forces
    assert form_of(potential) is not None
    with kernels.plain_forms():
        plain = predict(potential, system).forces
    assert error(untrained, exact) > 0.1
    assert error(ours, exact) < 2.0 * error(plain, exact) + 5e-6


def crystals(n: int) -> System:
    """Of 32 atoms, somewhat shaken, at 300 K."""
    frames = []
    for seed in range(n):
        atoms = bulk("O", "fcc", a=4.1, cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=seed)
        widths = np.sqrt(ase.units.kB * 300.0 * atoms.get_masses()[:, None])
        atoms.set_momenta(widths * np.random.default_rng(seed).normal(size=(len(atoms), 3)))
        frames.append(atoms)
    return System.from_ase(frames)


def drifts(potential: SumPotential, system: System, n_steps: int) -> np.ndarray:
    """(n_systems,) slopes of the total energies, eV/ps."""
    integrator = VelocityVerlet(1.0)
    state = integrator.init(system, potential, 0)
    energies = []
    for _ in range(n_steps):
        state = integrator.step(state, potential)
        energy = total_energy(state)
        assert energy is not None
        energies.append(energy.numpy())
    slopes: np.ndarray = np.polyfit(1e-3 * np.arange(n_steps), np.stack(energies), 1)[0]
    return slopes


TAKES_A_WHILE = ("dimenet", "dimenet++", "gemnet")


@pytest.mark.parametrize(
    ("architecture", "options"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in TAKES_A_WHILE)) for case in CONSERVATIVE],
    ids=str,
)
def test_energies_drift_as_those_of_the_plain_form(architecture: str, options: dict[str, Any]) -> None:
    """Beside a Lennard-Jones crystal that holds the atoms while the model pushes them about."""
    learned, system = model(architecture, "conservative", **options), crystals(4)
    learned.force_scale.mul_(0.3 / predict(learned, system).forces.std())
    holding = LennardJones(epsilon=0.1, sigma=2.6, cutoff=4.0, truncation="switch", switch_start=3.5)
    potential = SumPotential(learned, holding)
    assert form_of(learned) is not None
    fast = drifts(potential, system, 150)
    with kernels.plain_forms():
        plain = drifts(potential, system, 150)
    # Small beside the drifts themselves, which are of the time step; 2e-5 eV/ps are of rounding.
    assert 1e-9 < np.abs(fast - plain).max() < 1e-4
