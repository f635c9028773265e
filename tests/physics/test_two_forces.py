"""Multiple time steps: reversible RESPA against velocity Verlet, and what a cheap force may not change."""

from __future__ import annotations

from dataclasses import replace

import ase
import numpy as np
import pytest
import torch

from kinetograph import units
from kinetograph.dynamics import Integrator, Langevin, NoseHoover, TwoForces, VelocityVerlet
from kinetograph.dynamics.state import total_energy
from kinetograph.errors import UserError
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.models.classical import Harmonic, LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch

KELVIN = 120.0


class Crooked(Potential):
    """Another potential's forces, shifted by a constant force and turned a little: neither momentum nor
    energy is kept by them."""

    def __init__(self, inner: Potential, *, push: float, turn: float) -> None:
        super().__init__()
        self.inner = inner
        self.request = inner.request
        self.push = push
        self.turn = turn

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        forces = self.inner(system, neighbors).forces
        axis = torch.tensor([0.0, 0.0, 1.0], dtype=forces.dtype)
        forces = forces + self.turn * torch.linalg.cross(axis.expand_as(forces), forces) + self.push * axis
        return Prediction(forces=forces, conservative=False)


def short(fluid) -> LennardJones:
    """The fluid's repulsion and the bottom of its well: most of the force at a third of the edges."""
    return LennardJones(
        epsilon=fluid.epsilon,
        sigma=fluid.sigma,
        cutoff=1.35 * fluid.sigma,
        truncation="switch",
        switch_start=1.1 * fluid.sigma,
    )


@pytest.mark.parametrize(
    "integrator", [VelocityVerlet(4.0), NoseHoover(4.0, KELVIN)], ids=lambda i: type(i).__name__
)
def test_one_inner_step_or_one_force_is_plain_velocity_verlet(fluid, integrator: Integrator) -> None:
    """A ratio of one, whatever the inner force; and the same force inside and outside, at any ratio,
    is velocity Verlet at the inner step."""
    accurate = fluid.potential(1.6)
    start = integrator.init(fluid.system(2), accurate, 0)
    pair = TwoForces(short(fluid), accurate, 1)
    plain, split = start, integrator.init(fluid.system(2), pair, 0)
    for _ in range(50):
        plain, split = integrator.step(plain, accurate), integrator.step(split, pair)
    torch.testing.assert_close(split.positions, plain.positions, rtol=0, atol=1e-10)
    if isinstance(integrator, NoseHoover):
        return
    same, fine = TwoForces(accurate, accurate, 4), replace(integrator, timestep_fs=1.0)
    split, plain = integrator.init(fluid.system(2), same, 0), start
    for _ in range(20):
        split = integrator.step(split, same)
        for _ in range(4):
            plain = fine.step(plain, accurate)
    torch.testing.assert_close(split.positions, plain.positions, rtol=0, atol=1e-10)


def test_it_is_reversible_though_the_inner_force_is_no_gradient(fluid) -> None:
    pair = TwoForces(Crooked(short(fluid), push=0.01, turn=0.1), fluid.potential(1.6), 4)
    integrator = VelocityVerlet(8.0)
    first = integrator.init(fluid.system(2), pair, 0)
    state = first
    for _ in range(50):
        state = integrator.step(state, pair)
    state = integrator.init(replace(state.system, velocities=-state.velocities), pair, 0)
    for _ in range(50):
        state = integrator.step(state, pair)
    torch.testing.assert_close(state.positions, first.positions, rtol=0, atol=1e-8)


def test_the_error_of_the_energy_falls_with_the_square_of_the_step(fluid) -> None:
    """With a sound inner force and with a crooked one alike: both are consistent splittings."""
    accurate = fluid.potential(1.6)
    for inner in (short(fluid), Crooked(short(fluid), push=0.01, turn=0.05)):
        pair, errors, steps = TwoForces(inner, accurate, 4), [], [8.0, 4.0, 2.0]
        for timestep in steps:
            integrator = VelocityVerlet(timestep)
            state = integrator.init(fluid.system(2), pair, 0)
            energies = []
            for _ in range(round(400.0 / timestep)):
                state = integrator.step(state, pair)
                energy = total_energy(state)
                assert energy is not None
                energies.append(energy.item())
            errors.append(np.std(energies))
        assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.35)


def test_an_oscillator_resonates_where_the_matrix_of_a_step_says() -> None:
    """Bounded outside of the window around half its period, and growing inside as the eigenvalue does.

    n inner steps turn the phase of the cheap spring by nφ, 2 sin(φ/2) = ω h, and carry a velocity v to the
    place v h sin(nφ)/sin φ; kicks by the difference of the springs complete the trace of the whole step.
    """
    stiff, soft, ratio = 26.0, 24.0, 8  # eV/Å² outside and inside
    atoms = ase.Atoms("H2", positions=[[0, 0, 0], [0.7401, 0, 0]], masses=[1.0, 1.0])
    system = replace(System.from_ase(atoms), bonds=torch.tensor([[0, 1]]))
    inner, outer = (Harmonic(stiffness=k, length=0.74, cutoff=3.0) for k in (soft, stiff))
    reduced_mass = 0.5 * units.AMU_A2_PER_FS2_IN_EV
    period = 2.0 * np.pi * np.sqrt(reduced_mass / soft)
    grows = []
    for timestep in period * np.array([0.30, 0.42, 0.48, 0.49, 0.52, 0.60]):
        h = timestep / ratio
        phi = 2.0 * np.arcsin(0.5 * h * np.sqrt(soft / reduced_mass))
        trace = 2.0 * np.cos(ratio * phi)
        trace -= (stiff - soft) / reduced_mass * timestep * h * np.sin(ratio * phi) / np.sin(phi)
        largest = np.log(0.5 * (abs(trace) + np.sqrt(max(trace**2 - 4.0, 0.0))))
        grows.append(bool(abs(trace) > 2.0))
        integrator, pair = VelocityVerlet(timestep), TwoForces(inner, outer, ratio)
        state = integrator.init(system, pair, 0)
        energies = []
        for _ in range(60):
            state = integrator.step(state, pair)
            energies.append(total_energy(state))
        if abs(trace) > 2.0:  # from the 20th step on the growing eigenvector is all there is
            rate = np.log((energies[-1] / energies[19]).item()) / 40
            assert rate == pytest.approx(2.0 * largest, rel=0.01)
        else:
            assert max(energies) < 20.0 * min(energies)
    assert grows == [False, False, True, True, False, False]


def test_a_net_force_of_the_cheap_model_moves_nothing(fluid) -> None:
    """Held centre of mass or not; with fixed atoms there is none to hold and the force stays."""
    accurate = fluid.potential(1.6)
    pair = TwoForces(Crooked(short(fluid), push=0.5, turn=0.0), accurate, 4)
    for remove_com in (True, False):
        integrator = VelocityVerlet(4.0, remove_com=remove_com)
        state = integrator.init(fluid.system(2), pair, 0)
        for _ in range(20):
            state = integrator.step(state, pair)
        momentum = (state.inertia.mass * state.velocities).sum(dim=0)
        assert momentum.abs().max() < 1e-10
    system = fluid.system(2)
    fixed = torch.zeros(system.n_atoms, dtype=torch.bool)
    fixed[0] = True
    two = batch([system, replace(system, fixed=fixed)])
    neighbors = NeighborList.build(two, pair.request.reach)
    net = torch.zeros(2, 3, dtype=torch.float64).index_add(
        0, two.system_index, pair.inner_forces(two, neighbors)
    )
    assert net[0].abs().max() < 1e-12
    assert net[1, 2].item() == pytest.approx(0.5 * system.n_atoms, abs=1e-6)


def test_temperatures_are_those_of_the_accurate_force_under_every_thermostat(fluid) -> None:
    """Mean potential energy and kinetic temperature of 12 boxes against plain runs at the inner step."""
    accurate = fluid.potential(1.6)
    pair = TwoForces(Crooked(short(fluid), push=0.0, turn=0.02), accurate, 4)
    n_copies = 12
    for make in (
        lambda step: NoseHoover(step, KELVIN),
        lambda step: Langevin(step, KELVIN, friction_per_ps=4.0),
    ):
        means = []
        for potential, timestep, n_steps in ((accurate, 4.0, 480), (pair, 16.0, 120)):
            integrator = make(timestep)
            state = integrator.init(fluid.system(2, n_copies=n_copies), potential, 1)
            energies, kelvin = [], []
            for step in range(n_steps):
                state = integrator.step(state, potential)
                if step >= n_steps // 4:
                    energies.append(state.prediction.energy.numpy())
                    kelvin.append(state.temperature.numpy())
            means.append((np.mean(energies, axis=0), np.mean(kelvin, axis=0)))
        for plain, split in zip(*means, strict=True):  # copies are independent: errors from their spread
            error = np.hypot(plain.std(ddof=1), split.std(ddof=1)) / np.sqrt(n_copies)
            assert abs(plain.mean() - split.mean()) < 4.0 * error


def test_one_model_with_both_heads_is_its_own_cheap_force() -> None:
    """One pass gives both; forces are those of the two heads asked one by one."""
    torch.manual_seed(0)
    model = (
        build("painn", [18], {"cutoff": 5.0, "forces": "both", "width": 16, "n_layers": 2}).double().eval()
    )
    atoms = batch([System.from_ase(a) for a in _dimers()])
    pair = TwoForces.of_heads(model, 4)
    neighbors = NeighborList.build(atoms, pair.request.reach)
    with torch.no_grad():
        together = pair(atoms, neighbors)
        assert together.inner_forces is not None
        conservative = model(atoms, neighbors).forces
        model.use_forces("direct")
        direct = model(atoms, neighbors).forces
    torch.testing.assert_close(together.forces, conservative, rtol=1e-12, atol=0)
    torch.testing.assert_close(pair.inner_forces(atoms, neighbors), together.inner_forces, rtol=0, atol=1e-13)
    mean = torch.zeros(2, 3, dtype=torch.float64).index_add(0, atoms.system_index, direct) / 3.0
    torch.testing.assert_close(together.inner_forces, direct - mean[atoms.system_index], rtol=0, atol=1e-13)
    assert together.direct_forces is None
    assert not together.inner_forces.requires_grad
    single = build("painn", [18], {"cutoff": 5.0, "forces": "direct", "width": 16, "n_layers": 2})
    with pytest.raises(UserError, match="conservative"):
        TwoForces.of_heads(single, 4)
    with pytest.raises(UserError, match="ratio"):
        TwoForces(model, model, 0)
    assert isinstance(pair.outer, LearnedPotential)


def _dimers() -> list:
    return [ase.Atoms("Ar3", positions=[[0, 0, 0], [3.5, 0, 0.2], [0.1, 3.3 + x, 1.0]]) for x in (0.0, 0.4)]
