"""Newton's equations, one time step: what every integrator makes between its thermostat's moves.

A step is put together from two operators (Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992))::

    kick    v ← v + a t
    drift   r ← r + v t

Velocity Verlet is kick(Δt/2), drift(Δt), new forces, kick(Δt/2). With two force models it is their
reversible RESPA: the difference of the accurate force and the cheap one kicks at both ends of the step,
and in between the cheap force makes n steps of velocity Verlet (the same paper, Eq. (2.19)).

An integrator may bring a drift or a kick of its own: a bath in the middle of the drift (BAOAB), or a cell
that moves with the atoms (MTK). Rigid bonds are held after each operator: positions by SHAKE, velocities
by RATTLE's second half.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kinetograph.dynamics.state import State, accelerations, changed, evaluated, moving
from kinetograph.dynamics.two_forces import TwoForces
from kinetograph.potential import Potential

Kick = Callable[[State, Tensor, float], State]
"""State, acceleration (Å/fs²), time (fs)."""
Drift = Callable[[State, float, int], State]
"""State, time (fs), and which part of the step it is, for noise of its own."""


def kick(state: State, acceleration: Tensor, time_fs: float) -> State:
    """v ← v + a t."""
    velocities = state.velocities.add(acceleration, alpha=time_fs)
    if state.rigid is not None:
        velocities = state.rigid.held_velocities(state.positions, velocities)
    return moving(state, velocities)


def drift(state: State, time_fs: float, part: int = 0) -> State:
    """r ← r + v t; forces and neighbours are left as they were."""
    positions = state.positions.add(state.velocities, alpha=time_fs)
    system = state.system
    if state.rigid is None:
        return changed(state, system=changed(system, positions=positions))
    held = state.rigid.held_positions(state.positions, positions)
    velocities = state.velocities.add(held - positions, alpha=1.0 / time_fs)
    velocities = state.rigid.held_velocities(held, velocities)
    return changed(state, system=changed(system, positions=held, velocities=velocities))


def propagate(
    state: State, potential: Potential, timestep_fs: float, *, kick: Kick = kick, drift: Drift = drift
) -> State:
    """One step of velocity Verlet, or of RESPA for two forces; the step counter is left to the caller."""
    if isinstance(potential, TwoForces):
        return _respa(state, potential, timestep_fs, kick, drift)
    state = kick(state, state.acceleration, 0.5 * timestep_fs)
    state = drift(state, timestep_fs, 0)
    state = evaluated(state, potential)
    return kick(state, state.acceleration, 0.5 * timestep_fs)


def _respa(state: State, forces: TwoForces, timestep_fs: float, kick: Kick, drift: Drift) -> State:
    inner_fs = timestep_fs / forces.ratio
    cheap = _cheap_acceleration(state)
    state = _kick_by_difference(state, cheap, timestep_fs)
    for part in range(forces.ratio):
        state = kick(state, cheap, 0.5 * inner_fs)
        state = drift(state, inner_fs, part)
        if part + 1 < forces.ratio:
            neighbors = state.neighbors.updated(state.system)
            inner = forces.inner_forces(state.system, neighbors)
            cheap, _ = accelerations(inner, state.system, state.inertia)
            state = changed(state, neighbors=neighbors)
        else:
            state = evaluated(state, forces)
            cheap = _cheap_acceleration(state)
        state = kick(state, cheap, 0.5 * inner_fs)
    return _kick_by_difference(state, cheap, timestep_fs)


def _cheap_acceleration(state: State) -> Tensor:
    inner = state.prediction.inner_forces
    assert inner is not None
    return accelerations(inner, state.system, state.inertia)[0]


def _kick_by_difference(state: State, cheap: Tensor, timestep_fs: float) -> State:
    return kick(state, state.acceleration - cheap, 0.5 * timestep_fs)
