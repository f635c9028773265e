"""Langevin dynamics at constant temperature by the BAOAB splitting.

B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34 (2013); J. Chem. Phys. 138, 174102 (2013).
The equations dr = v dt, dv = a dt − γ v dt + sqrt(2 γ kT/m) dW are split into parts solved exactly::

    B   v ← v + a Δt/2
    A   r ← r + v Δt/2
    O   v ← e^(−γΔt) v + sqrt(1 − e^(−2γΔt)) sqrt(kT/m) R
    A   r ← r + v Δt/2
        a ← F(r)/m
    B   v ← v + a Δt/2

======  ====================================================
symbol  in code
======  ====================================================
r       state.positions
v       state.velocities
a       state.acceleration
γ       friction_per_ps
Δt      timestep_fs
R       standard_normal: keyed by seed, structure and step
======  ====================================================

Rigid bonds are held after each part (g-BAOAB, Leimkuhler and Matthews, Proc. R. Soc. A 472, 20160138
(2016)). For a harmonic oscillator averages over positions are exact at any stable time step. Where the centre
of mass is held, R's momentum is projected out: then O is the exact process in the space of zero
momentum, and 3N − 3 degrees of freedom are thermal.

Total energy minus the heat taken in from the bath (the changes of kinetic energy in O) is conserved but
for the error of the integration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.motion import drift, propagate
from kinetograph.dynamics.noise import Purpose, standard_normal
from kinetograph.dynamics.settings import Temperature, check_temperature, require_positive, thermal_energy
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, moving, total_energy
from kinetograph.dynamics.velocities import per_atom, without_drift
from kinetograph.potential import Potential
from kinetograph.system import System


@dataclass(frozen=True)
class Langevin:
    """NVT dynamics in contact with a bath at every atom."""

    timestep_fs: float
    temperature_K: Temperature
    friction_per_ps: float = 1.0
    """γ: the bath acts over 1/γ."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity, the net acceleration and the net noise are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        check_temperature(self.temperature_K)
        require_positive("friction_per_ps", self.friction_per_ps)

    @property
    def target_temperature_K(self) -> Temperature:
        return self.temperature_K

    def init(
        self,
        system: System,
        potential: Potential,
        seed: int | Sequence[int],
        *,
        skin_A: float = DEFAULT_SKIN_A,
    ) -> State:
        state = first_state(system, potential, seed, skin_A=skin_A, remove_com=self.remove_com)
        thermal_energy(self.temperature_K, state.system, 0.0)
        return state.keeping(heat=torch.zeros_like(state.inertia.degrees))

    def step(self, state: State, potential: Potential) -> State:
        state = propagate(state, potential, self.timestep_fs, drift=self._drift_in_bath)
        return changed(state, step=state.step + 1)

    def _drift_in_bath(self, state: State, time_fs: float, part: int) -> State:
        """A, O, A over so much time."""
        state = drift(state, 0.5 * time_fs)
        before = state.kinetic_energy
        state = self._bath(state, time_fs, part)
        state = state.keeping(heat=state.of_systems["heat"] + (state.kinetic_energy - before))
        return drift(state, 0.5 * time_fs)

    def _bath(self, state: State, time_fs: float, part: int) -> State:
        """O: the exact solution of dv = −γ v dt + sqrt(2 γ kT/m) dW."""
        decay = math.exp(-self.friction_per_ps * time_fs / units.PS_IN_FS)
        kt = thermal_energy(self.temperature_K, state.system, state.step * self.timestep_fs)
        width = per_atom(kt.unsqueeze(1) * (1.0 - decay * decay), state.system)
        noise = standard_normal(state.system, state.streams, state.step, Purpose.LANGEVIN, part)
        jump = (width * state.inertia.inverse_mass).sqrt() * noise
        jump = without_drift(jump, state.system, state.inertia)
        velocities = torch.add(jump, state.velocities, alpha=decay)
        if state.rigid is not None:
            velocities = state.rigid.held_velocities(state.positions, velocities)
        return moving(state, velocities)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        return None if energy is None else energy - state.of_systems["heat"]
