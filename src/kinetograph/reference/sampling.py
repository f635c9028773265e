"""Equilibration and Nosé-Hoover dynamics in OpenMM, as frames of this package.

Equilibration is minimisation and then Langevin dynamics (the "middle" scheme). Production is OpenMM's
``NoseHooverIntegrator``: Nosé-Hoover chains in the same scheme (Zhang et al., J. Phys. Chem. A 123,
6056 (2019)).

**What the velocities mean.** Both integrators are of leapfrog type: after a step OpenMM holds positions
at time t and velocities at t − Δt/2. A frame here holds the velocities at t: half a kick by the forces
at t is added, v(t) = v(t − Δt/2) + Δt F(t)/2m, and where bonds are rigid the part along them is taken
out. A run that begins at a frame takes the same half kick off. Kinetic energy and temperature are those
of the velocities in the frame, with 3 N − 3 degrees of freedom (the centre of mass rests) less one for
each constraint. What the thermostat holds at its temperature are the velocities at half steps; a
vibration of frequency ω shows a temperature lower by (ωΔt)²/4 of it in the velocities at full steps:
0.8 % (2.4 K of 300 K) over all of flexible water at 0.5 fs, nothing that shows for argon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.reference.openmm_systems import import_openmm, openmm_platform
from kinetograph.trajectory import Frame

Array = NDArray[np.float64]

CHAIN_LENGTH = 10
"""Thermostats in a Nosé-Hoover chain, as in GAMD (Li et al. 2022)."""
EQUILIBRATION_FRICTION_PER_PS = 2.0
A_PER_FS_IN_NM_PER_PS = units.PS_IN_FS / units.NM_IN_A


@dataclass(frozen=True)
class Material:
    """What is simulated: an OpenMM system and where its atoms begin."""

    name: str
    system: Any
    """``openmm.System``; forces beyond group 0 add to the energy only."""
    box_A: float
    atomic_numbers: NDArray[np.int64]
    bonds: NDArray[np.int64] | None
    start: Callable[[np.random.Generator], Array]
    """Positions (n_atoms, 3) Å to minimise and equilibrate from."""
    collisions_per_ps: float
    """Of the Nosé-Hoover chain."""
    equilibration_timestep_fs: float

    @property
    def masses(self) -> Array:
        """(n_atoms,) amu."""
        return np.asarray(atomic_masses[self.atomic_numbers], dtype=np.float64)

    @property
    def cell(self) -> Array:
        """(3, 3) Å."""
        return np.eye(3) * self.box_A

    @property
    def n_constraints(self) -> int:
        return int(self.system.getNumConstraints())

    @property
    def degrees_of_freedom(self) -> int:
        return 3 * len(self.atomic_numbers) - 3 - self.n_constraints


@dataclass(frozen=True)
class Phase:
    """Positions and velocities at one time."""

    positions: Array
    """(n_atoms, 3) Å."""
    velocities: Array
    """(n_atoms, 3) Å/fs."""


class Sampler:
    """Runs one material at one temperature on one OpenMM platform.

    Args:
        timestep_fs: of the production runs.
        threads: of OpenMM's CPU platform.
    """

    def __init__(
        self,
        material: Material,
        *,
        temperature_K: float,
        timestep_fs: float,
        platform: str = "CPU",
        threads: int = 1,
    ) -> None:
        self.material = material
        self.temperature_K = temperature_K
        self.timestep_fs = timestep_fs
        self.openmm = import_openmm()
        self.platform, self.properties = openmm_platform(platform, threads)
        self._constraints = self._constraints_only() if material.n_constraints else None

    def equilibrate(
        self, rng: np.random.Generator, duration_ps: float, *, tick: Callable[[int], None] | None = None
    ) -> Phase:
        """A start of its own for each generator: minimised, then warmed by Langevin dynamics.

        Args:
            tick: told the number of steps each time some are done.
        """
        material, timestep_fs = self.material, self.material.equilibration_timestep_fs
        positions = material.start(rng)
        noise_seed, velocity_seed = (int(number) for number in rng.integers(1, 2**31 - 1, size=2))
        integrator = self.openmm.LangevinMiddleIntegrator(
            self.temperature_K, EQUILIBRATION_FRICTION_PER_PS, timestep_fs / units.PS_IN_FS
        )
        integrator.setRandomNumberSeed(noise_seed)
        context = self._context(integrator)
        context.setPositions(positions / units.NM_IN_A)
        self.openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
        context.setVelocitiesToTemperature(self.temperature_K, velocity_seed)
        left = round(duration_ps * units.PS_IN_FS / timestep_fs)
        while left > 0:
            steps = min(500, left)
            integrator.step(steps)
            if tick is not None:
                tick(steps)
            left -= steps
        frame = self._frame(context, 0, timestep_fs)
        assert frame.velocities is not None
        return Phase(frame.positions, frame.velocities)

    def run(self, start: Phase, n_frames: int, steps_per_frame: int) -> Iterator[Frame]:
        """Nosé-Hoover dynamics from a phase: its frame at time zero, then ``n_frames`` more.

        Each frame has velocities, forces, energies and temperature. The chain begins at rest.
        """
        integrator = self.openmm.NoseHooverIntegrator(
            self.temperature_K,
            self.material.collisions_per_ps,
            self.timestep_fs / units.PS_IN_FS,
            CHAIN_LENGTH,
        )
        context = self._context(integrator)
        context.setPositions(start.positions / units.NM_IN_A)
        self._set_velocities(context, start.velocities)
        yield self._frame(context, 0, self.timestep_fs)
        for index in range(1, n_frames + 1):
            integrator.step(steps_per_frame)
            yield self._frame(context, index * steps_per_frame, self.timestep_fs)

    def _context(self, integrator: Any) -> Any:
        integrator.setIntegrationForceGroups({0})
        return self.openmm.Context(self.material.system, integrator, self.platform, self.properties)

    def _half_kick(self, forces: Array, timestep_fs: float) -> Array:
        """Å/fs, from forces in kJ/(mol nm)."""
        acceleration = forces / self.material.masses[:, None]  # nm/ps²
        return acceleration * (0.5 * timestep_fs / units.PS_IN_FS) / A_PER_FS_IN_NM_PER_PS

    def _set_velocities(self, context: Any, velocities: Array) -> None:
        """Give OpenMM the velocities half a step before those of the frame."""
        state = context.getState(getForces=True)
        forces = state.getForces(asNumpy=True)._value
        earlier = velocities - self._half_kick(forces, self.timestep_fs)
        context.setVelocities(earlier * A_PER_FS_IN_NM_PER_PS)
        if self.material.n_constraints:
            context.applyVelocityConstraints(1e-6)

    def _frame(self, context: Any, step: int, timestep_fs: float) -> Frame:
        state = context.getState(getPositions=True, getVelocities=True, getForces=True, getEnergy=True)
        positions = state.getPositions(asNumpy=True)._value
        forces = state.getForces(asNumpy=True)._value
        velocities = state.getVelocities(asNumpy=True)._value / A_PER_FS_IN_NM_PER_PS
        velocities = velocities + self._half_kick(forces, timestep_fs)
        if self._constraints is not None:
            self._constraints.setPositions(positions)
            self._constraints.setVelocities(velocities)
            self._constraints.applyVelocityConstraints(1e-8)
            velocities = self._constraints.getState(getVelocities=True).getVelocities(asNumpy=True)._value
        mass_times_square = float((self.material.masses[:, None] * velocities**2).sum())
        twice_kinetic = units.AMU_A2_PER_FS2_IN_EV * mass_times_square
        return Frame(
            step=step,
            time_fs=step * timestep_fs,
            positions=np.array(positions) * units.NM_IN_A,
            cell=self.material.cell,
            velocities=np.array(velocities),
            forces=np.array(forces) * units.KJ_PER_MOL_NM_IN_EV_PER_A,
            potential_energy=float(state.getPotentialEnergy()._value) * units.KJ_PER_MOL_IN_EV,
            kinetic_energy=0.5 * twice_kinetic,
            temperature=twice_kinetic / (self.material.degrees_of_freedom * units.BOLTZMANN_EV_PER_K),
        )

    def _constraints_only(self) -> Any:
        """A context without forces, to take the part along rigid bonds out of velocities."""
        bare = self.openmm.System()
        for index in range(self.material.system.getNumParticles()):
            bare.addParticle(self.material.system.getParticleMass(index))
        for index in range(self.material.n_constraints):
            bare.addConstraint(*self.material.system.getConstraintParameters(index))
        platform, properties = openmm_platform("Reference", 1)
        return self.openmm.Context(bare, self.openmm.VerletIntegrator(0.001), platform, properties)
