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

For a harmonic oscillator averages over positions are exact at any stable time step. Where the centre
of mass is held, R's momentum is projected out: then O is the exact process in the space of zero
momentum, and 3N − 3 degrees of freedom are thermal.

Total energy minus the heat taken in from the bath (the changes of kinetic energy in O) is conserved but
for the error of the integration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.noise import Purpose, standard_normal
from kinetograph.dynamics.state import (
    DEFAULT_SKIN_A,
    State,
    first_state,
    moved,
    moving,
    require_positive,
    thermal_energy,
    total_energy,
)
from kinetograph.dynamics.velocities import kinetic_energy, per_atom, without_drift
from kinetograph.potential import Potential
from kinetograph.system import System


@dataclass(frozen=True)
class Langevin:
    """NVT dynamics in contact with a bath at every atom."""

    timestep_fs: float
    temperature_K: float | Sequence[float]
    """One, or one for each structure."""
    friction_per_ps: float = 1.0
    """γ: the bath acts over 1/γ."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity, the net acceleration and the net noise are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        require_positive("temperature_K", self.temperature_K)
        require_positive("friction_per_ps", self.friction_per_ps)

    @property
    def target_temperature_K(self) -> float | Sequence[float]:
        return self.temperature_K

    def init(
        self, system: System, potential: Potential, seed: int, *, skin_A: float = DEFAULT_SKIN_A
    ) -> State:
        state = first_state(system, potential, seed, skin_A=skin_A, remove_com=self.remove_com)
        thermal_energy(self.temperature_K, state.system)
        return replace(state, heat=torch.zeros_like(state.inertia.degrees))

    def step(self, state: State, potential: Potential) -> State:
        half = 0.5 * self.timestep_fs
        velocities = state.velocities.add(state.acceleration, alpha=half)  # B
        positions = state.positions.add(velocities, alpha=half)  # A
        before = moving(state, velocities)
        velocities = self._bath(before)  # O
        after = moving(state, velocities)
        assert state.heat is not None
        heat = state.heat + (kinetic_energy(after.system) - kinetic_energy(before.system))
        state = moved(after, positions.add(velocities, alpha=half), potential)  # A
        state = moving(state, velocities.add(state.acceleration, alpha=half))  # B
        return replace(state, step=state.step + 1, heat=heat)

    def _bath(self, state: State) -> Tensor:
        """O: the exact solution of dv = −γ v dt + sqrt(2 γ kT/m) dW over one time step."""
        decay = math.exp(-self.friction_per_ps * self.timestep_fs / units.PS_IN_FS)
        thermal = thermal_energy(self.temperature_K, state.system).unsqueeze(1) * (1.0 - decay * decay)
        width = (per_atom(thermal, state.system) * state.inertia.inverse_mass).sqrt()
        noise = standard_normal(state.system, state.seed, state.step, Purpose.LANGEVIN)
        kick = without_drift(width * noise, state.system, state.inertia)
        return torch.add(kick, state.velocities, alpha=decay)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        assert state.heat is not None
        return None if energy is None else energy - state.heat
