"""Laws of dynamics with rigid bonds: TIP3P water in the gas phase, and rigid tops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import ellipj
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics import Langevin, State, VelocityVerlet
from kinetograph.dynamics.held_bonds import hold_bonds
from kinetograph.dynamics.restraints import PositionRestraint
from kinetograph.dynamics.rigid import Clusters
from kinetograph.dynamics.settle import Triangles
from kinetograph.dynamics.state import moving, total_energy
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.graph import GraphRequest
from kinetograph.models.electrostatics import COULOMB_EV_A
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System, batch

LEG_A, ANGLE_RAD = 0.9572, math.radians(104.52)
SIGMA_A, EPSILON = 3.15061, 0.6364 * units.KJ_PER_MOL_IN_EV
MASSES = [15.999, 1.008, 1.008]
CHARGES = [-0.834, 0.417, 0.417]
WATER = np.array(
    [[0.0, 0.0, 0.0]]
    + [[sign * LEG_A * math.sin(ANGLE_RAD / 2), -LEG_A * math.cos(ANGLE_RAD / 2), 0.0] for sign in (1, -1)]
)


class Tip3p(Potential):
    """Coulomb between molecules and Lennard-Jones between oxygens; atoms in the order O, H, H; no cutoff."""

    gives_energy = True

    def __init__(self, system: System) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=1.0)
        molecule = torch.arange(system.n_atoms) // 3
        first, second = torch.triu_indices(system.n_atoms, system.n_atoms, 1)
        keep = (system.system_index[first] == system.system_index[second]) & (
            molecule[first] != molecule[second]
        )
        self.first, self.second = first[keep], second[keep]
        charge = torch.tensor(CHARGES, dtype=torch.float64).repeat(system.n_atoms // 3)
        self.strength = COULOMB_EV_A * charge[self.first] * charge[self.second]
        self.oxygens = (self.first % 3 == 0) & (self.second % 3 == 0)

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        d = system.positions[self.second] - system.positions[self.first]
        squares = d.square().sum(dim=1)
        energy = self.strength / squares.sqrt()
        slope = energy / squares  # −u'(r)/r
        sixth = (SIGMA_A**2 / squares[self.oxygens]) ** 3
        energy[self.oxygens] += 4.0 * EPSILON * (sixth * sixth - sixth)
        slope[self.oxygens] += 24.0 * EPSILON * (2.0 * sixth * sixth - sixth) / squares[self.oxygens]
        push = slope.unsqueeze(1) * d
        forces = torch.zeros_like(system.positions)
        forces = forces.index_add(0, self.second, push).index_add(0, self.first, -push)
        sums = energy.new_zeros(system.n_systems)
        sums = sums.index_add(0, system.system_index[self.first], energy)
        return Prediction(forces=forces, conservative=True, energy=sums)


class Nothing(Potential):
    gives_energy = True
    request = GraphRequest(cutoff=1.0)

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        zero = torch.zeros_like(system.positions)
        return Prediction(forces=zero, conservative=True, energy=zero.new_zeros(system.n_systems))


def droplet(n_side: int, seed: int, *, masses: list[float] = MASSES, kelvin: float = 300.0) -> System:
    """n_side³ rigid molecules on a grid, turned at random, with thermal velocities."""
    n = n_side**3
    turns = Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix()
    grid = 3.2 * np.stack(np.meshgrid(*[np.arange(n_side)] * 3), axis=-1).reshape(-1, 1, 3)
    system = System(
        positions=torch.tensor((WATER @ turns.transpose(0, 2, 1) + grid).reshape(-1, 3)),
        atomic_numbers=torch.tensor([8, 1, 1]).repeat(n),
        masses=torch.tensor(masses, dtype=torch.float64).repeat(n),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        system_index=torch.zeros(3 * n, dtype=torch.int64),
        bonds=torch.tensor([[0, 1], [0, 2]]).repeat(n, 1) + 3 * torch.arange(n).repeat_interleave(2)[:, None],
    )
    system = hold_bonds(system, "water", "tip3p")
    inertia = inertia_of(system, remove_com=True)
    velocities = maxwell_boltzmann(system, torch.tensor([kelvin]).double(), seed, inertia)
    return replace(system, velocities=velocities)


def run(integrator, state: State, potential: Potential, n_steps: int) -> State:
    for _ in range(n_steps):
        state = integrator.step(state, potential)
    return state


def length_error(state: State) -> float:
    pairs, lengths = state.system.rigid, state.system.rigid_lengths
    d = state.positions[pairs[:, 1]] - state.positions[pairs[:, 0]]
    return (torch.linalg.norm(d, dim=1) - lengths).abs().max().item()


def stretching(state: State) -> float:
    """Å/fs: the fastest change of a rigid distance."""
    first, second = state.system.rigid.T
    d = state.positions[second] - state.positions[first]
    v = state.velocities[second] - state.velocities[first]
    return ((d * v).sum(dim=1) / torch.linalg.norm(d, dim=1)).abs().max().item()


@pytest.mark.parametrize(
    ("masses", "held_by"), [(MASSES, Triangles), ([15.999, 1.008, 2.014], Clusters)], ids=["settle", "shake"]
)
def test_lengths_hold_to_1e_10_and_energy_is_kept_over_2000_steps(masses: list[float], held_by: type) -> None:
    system = droplet(2, 0, masses=masses)
    potential, integrator = Tip3p(system), VelocityVerlet(1.0)
    state = integrator.init(system, potential, 0)
    assert [type(group) for group in state.rigid.clusters] == [held_by]
    errors, energies = [], []
    for _ in range(2000):
        state = integrator.step(state, potential)
        errors.append(length_error(state))
        energies.append(total_energy(state).item())
    assert max(errors) < 1e-10
    assert stretching(state) < 1e-13
    # per molecule; as the droplet forms, kinetic energy changes by several kT
    assert np.std(energies) / 8 < 5e-3 * units.BOLTZMANN_EV_PER_K * 300.0


def test_energy_error_scales_as_the_square_of_the_time_step() -> None:
    system = droplet(2, 1)
    potential, steps, errors = Tip3p(system), np.array([0.5, 1.0, 2.0]), []
    for step in steps:
        integrator = VelocityVerlet(float(step))
        state = integrator.init(system, potential, 0)
        first, squares = total_energy(state).item(), []
        for _ in range(round(200.0 / step)):
            state = integrator.step(state, potential)
            squares.append((total_energy(state).item() - first) ** 2)
        errors.append(math.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - 2.0) < 0.1


@pytest.mark.parametrize("masses", [MASSES, [15.999, 1.008, 2.014]], ids=["settle", "shake"])
def test_dynamics_with_rigid_bonds_is_reversible_in_time(masses: list[float]) -> None:
    system = droplet(2, 2, masses=masses)
    potential, integrator = Tip3p(system), VelocityVerlet(2.0)
    start = integrator.init(system, potential, 0)
    there = run(integrator, start, potential, 150)
    back = run(integrator, moving(there, -there.velocities), potential, 150)
    assert (there.positions - start.positions).abs().max() > 0.5
    # SHAKE's tolerance (1e-12 Å) and rounding grow by the chaos of 0.6 ps.
    torch.testing.assert_close(back.positions, start.positions, rtol=0, atol=1e-8)
    torch.testing.assert_close(-back.velocities, start.velocities, rtol=0, atol=1e-9)


def angular_momentum(state: State) -> Tensor:
    return torch.linalg.cross(state.positions, state.inertia.mass * state.velocities).sum(dim=0)


@pytest.mark.parametrize("masses", [MASSES, [15.999, 1.008, 2.014]], ids=["settle", "shake"])
def test_momentum_and_angular_momentum_are_conserved(masses: list[float]) -> None:
    system = droplet(2, 3, masses=masses)
    system = replace(system, velocities=system.velocities + 0.002)
    potential, integrator = Tip3p(system), VelocityVerlet(2.0, remove_com=False)
    start = integrator.init(system, potential, 0)
    end = run(integrator, start, potential, 300)
    momenta = [(s.inertia.mass * s.velocities).sum(dim=0) for s in (start, end)]
    torch.testing.assert_close(momenta[1], momenta[0], rtol=1e-11, atol=0)
    scale = torch.linalg.norm(start.inertia.mass * start.velocities, dim=1).sum() * 5.0  # amu Å²/fs
    torch.testing.assert_close(
        angular_momentum(end), angular_momentum(start), rtol=0, atol=1e-12 * scale.item()
    )


def test_a_batch_moves_as_its_droplets_do_one_by_one() -> None:
    parts = [droplet(1, 4), droplet(2, 5), droplet(2, 6, masses=[15.999, 1.008, 2.014])]
    system, integrator = batch(parts), VelocityVerlet(1.0, remove_com=False)
    potential = Tip3p(system)
    together = run(integrator, integrator.init(system, potential, 0), potential, 50)
    for index, part in enumerate(parts):
        own = Tip3p(part)
        alone = run(integrator, integrator.init(part, own, 0), own, 50)
        torch.testing.assert_close(
            alone.positions, together.positions[system.system_index == index], rtol=0, atol=1e-11
        )


def test_a_trajectory_of_rigid_water_is_that_of_openmm() -> None:
    """27 molecules, 50 steps, double precision; OpenMM's own forces and its own SETTLE."""
    openmm = pytest.importorskip("openmm")
    system, timestep = droplet(3, 7), 1.0
    potential, integrator = Tip3p(system), VelocityVerlet(timestep, remove_com=False)
    state = integrator.init(system, potential, 0)

    theirs, force = openmm.System(), openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    for atom in range(system.n_atoms):
        theirs.addParticle(MASSES[atom % 3])
        sigma, epsilon = (SIGMA_A, EPSILON) if atom % 3 == 0 else (1.0, 0.0)
        force.addParticle(CHARGES[atom % 3], sigma / units.NM_IN_A, epsilon / units.KJ_PER_MOL_IN_EV)
    for (first, second), length in zip(system.rigid.tolist(), system.rigid_lengths.tolist(), strict=True):
        theirs.addConstraint(first, second, length / units.NM_IN_A)
        force.addException(first, second, 0.0, 0.1, 0.0)
    theirs.addForce(force)
    leapfrog = openmm.VerletIntegrator(timestep / units.PS_IN_FS)
    leapfrog.setConstraintTolerance(1e-12)
    context = openmm.Context(theirs, leapfrog, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(state.positions.numpy() / units.NM_IN_A)
    forces = context.getState(getForces=True).getForces(asNumpy=True)._value
    forces = forces * units.KJ_PER_MOL_NM_IN_EV_PER_A
    np.testing.assert_allclose(state.prediction.forces.numpy(), forces, rtol=0, atol=1e-7)

    # Leapfrog keeps velocities of half a step before.
    earlier = state.velocities - 0.5 * timestep * state.acceleration
    context.setVelocities(earlier.numpy() * units.PS_IN_FS / units.NM_IN_A)
    for _ in range(50):
        leapfrog.step(1)
        state = integrator.step(state, potential)
    ours = state.positions.numpy()
    found = context.getState(getPositions=True).getPositions(asNumpy=True)._value * units.NM_IN_A
    assert np.abs(ours - system.positions.numpy()).max() > 0.3
    # The Coulomb constants of the two differ by 1e-9, which is all that is left to see.
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-6)


def test_translation_and_rotation_of_rigid_water_have_one_temperature() -> None:
    """27 molecules, each tied to its place: 6 degrees of freedom per molecule, three of each kind."""
    kelvin, n = 300.0, 27
    system = droplet(3, 8)
    oxygens = torch.arange(0, 3 * n, 3)
    ties = PositionRestraint(atoms=oxygens.tolist(), positions=system.positions[oxygens], stiffness=0.5)
    potential = SumPotential(Tip3p(system), ties).eval()
    integrator = Langevin(1.0, kelvin, friction_per_ps=100.0, remove_com=False)
    state = integrator.init(system, potential, 0)
    assert state.inertia.degrees.item() == 6 * n
    mass = state.inertia.mass.reshape(n, 3, 1)
    factor = units.AMU_A2_PER_FS2_IN_EV / units.BOLTZMANN_EV_PER_K  # m v² in K
    translation, rotation = [], []
    for step in range(1100):
        state = integrator.step(state, potential)
        if step >= 150 and step % 10 == 0:
            v = state.velocities.reshape(n, 3, 3)
            centre = (mass * v).sum(dim=1, keepdim=True) / mass.sum(dim=1, keepdim=True)
            translation.append(factor * (mass.sum(dim=1) * centre.squeeze(1).square()).sum().item() / (3 * n))
            rotation.append(factor * (mass * (v - centre).square()).sum().item() / (3 * n))
    # Samples two relaxation times of the energy (1/2γ) apart: correlations of e⁻² make errors 15 % larger.
    # BAOAB's kinetic energy of librations, ω ≈ 0.1/fs, is too low by (ωΔt/2)² ≈ 0.3 %, inside the tolerance.
    error = 4.0 * 1.15 * math.sqrt(2.0 / (3 * n * len(translation)))  # 7.4 %
    assert abs(np.mean(translation) / kelvin - 1.0) < error
    assert abs(np.mean(rotation) / kelvin - 1.0) < error


def body_axes(state: State) -> Tensor:
    """(3, 3) rows: along H-H, from there to O, and the normal of a water molecule."""
    o, a, b = state.positions
    x = (a - b) / torch.linalg.norm(a - b)
    y = o - 0.5 * (a + b)
    y = y / torch.linalg.norm(y)
    return torch.stack([x, y, torch.linalg.cross(x, y)])


def spinning(positions: np.ndarray, masses: list[float], pairs: list[list[int]], omega: np.ndarray) -> System:
    """A free top at rest at the origin, with an angular velocity (rad/fs)."""
    weights = np.array(masses)
    positions = positions - weights @ positions / weights.sum()
    rigid = torch.tensor(pairs)
    at = torch.tensor(positions)
    return System(
        positions=at,
        atomic_numbers=torch.ones(len(masses), dtype=torch.int64),
        masses=torch.tensor(weights),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        system_index=torch.zeros(len(masses), dtype=torch.int64),
        velocities=torch.linalg.cross(torch.tensor(omega).expand_as(at), at),
        rigid=rigid,
        rigid_lengths=torch.linalg.norm(at[rigid[:, 1]] - at[rigid[:, 0]], dim=1),
    )


def test_a_free_water_molecule_turns_as_jacobis_elliptic_functions_say() -> None:
    """Landau and Lifshitz, Mechanics, § 37, for M² > 2 E I_2: the angular velocity in the body's frame."""
    start = np.array([0.015, 0.0, 0.04])  # rad/fs about the axes of least and greatest moment
    i1, i2, i3 = moments = np.sort(
        np.linalg.eigvalsh(
            sum(
                m * (r @ r * np.eye(3) - np.outer(r, r))
                for m, r in zip(MASSES, WATER - np.array(MASSES) @ WATER / sum(MASSES), strict=True)
            )
        )
    )
    m2, e2 = ((moments * start) ** 2).sum(), (moments * start**2).sum()
    assert m2 > e2 * i2
    modulus = (i2 - i1) * (e2 * i3 - m2) / ((i3 - i2) * (m2 - e2 * i1))
    rate = math.sqrt((i3 - i2) * (m2 - e2 * i1) / (i1 * i2 * i3))

    def exact(time: float) -> np.ndarray:
        sn, cn, dn, _ = ellipj(rate * time, modulus)
        return np.array(
            [
                cn * math.sqrt((e2 * i3 - m2) / (i1 * (i3 - i1))),
                sn * math.sqrt((e2 * i3 - m2) / (i2 * (i3 - i2))),
                dn * math.sqrt((m2 - e2 * i1) / (i3 * (i3 - i1))),
            ]
        )

    np.testing.assert_allclose(exact(0.0), start, atol=1e-12)
    system = spinning(WATER, MASSES, [[0, 1], [0, 2], [1, 2]], start)
    errors = []
    for timestep in (0.5, 1.0, 2.0):
        integrator = VelocityVerlet(timestep)
        state = integrator.init(system, Nothing(), 0)
        spin, energy = angular_momentum(state), total_energy(state).item()
        worst = 0.0
        for step in range(1, round(400.0 / timestep) + 1):
            state = integrator.step(state, Nothing())
            r = state.positions
            squares = r.square().sum(dim=1)[:, None, None] * torch.eye(3).double()
            tensor = (state.inertia.mass[:, :, None] * (squares - r[:, :, None] * r[:, None, :])).sum(dim=0)
            omega = body_axes(state) @ torch.linalg.solve(tensor, angular_momentum(state))
            worst = max(worst, np.abs(omega.numpy() - exact(step * timestep)).max())
        errors.append(worst)
        torch.testing.assert_close(angular_momentum(state), spin, rtol=0, atol=1e-12 * spin.norm().item())
        assert total_energy(state).item() == pytest.approx(energy, rel=2e-3 * timestep**2)
    assert errors[0] < 0.01 * start.max()
    assert np.polyfit(np.log([0.5, 1.0, 2.0]), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1)


def test_a_symmetric_top_precesses_at_its_rate() -> None:
    """Ammonia with all six distances held: its axis turns about L by L t/I_1."""
    angles = 2.0 * math.pi / 3.0 * np.arange(3)
    ring = np.stack([0.94 * np.cos(angles), 0.94 * np.sin(angles), np.full(3, -0.38)], axis=1)
    positions, masses = np.vstack([[[0.0, 0.0, 0.0]], ring]), [14.007, 1.008, 1.008, 1.008]
    pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    system = spinning(positions, masses, pairs, np.array([0.02, 0.0, 0.03]))
    r, m = system.positions.numpy(), np.array(masses)
    across = (m * (r[:, 1] ** 2 + r[:, 2] ** 2)).sum()
    errors = []
    for timestep in (0.5, 1.0, 2.0):
        integrator = VelocityVerlet(timestep)
        first = integrator.init(system, Nothing(), 0)
        assert first.inertia.degrees.item() == 3
        spin = angular_momentum(first).numpy()
        rate = np.linalg.norm(spin) / across
        n_steps = round(2.0 * math.pi / rate / timestep)  # about one turn
        last = run(integrator, first, Nothing(), n_steps)
        turn = Rotation.from_rotvec(spin / np.linalg.norm(spin) * rate * n_steps * timestep)
        axes = []
        for state in (first, last):
            axis = (state.positions[0] - state.positions[1:].mean(dim=0)).numpy()
            axes.append(axis / np.linalg.norm(axis))
        errors.append(np.linalg.norm(axes[1] - turn.apply(axes[0])))
    assert errors[0] < 1e-3
    assert np.polyfit(np.log([0.5, 1.0, 2.0]), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.1)
