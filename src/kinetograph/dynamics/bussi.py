"""Stochastic velocity rescaling: constant temperature (NVT) by one factor for all velocities.

G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), Eq. (A7): the kinetic energy follows::

    dK = (K̄ − K) dt/τ + 2 sqrt(K K̄/N_f) dW/sqrt(τ),   K̄ = N_f kT/2

whose exact solution over a time t is the factor α for all velocities, with c = e^(−t/τ), a normal number R
and the sum S of the squares of N_f − 1 others::

    α² = c + (1 − c) K̄/(N_f K) (R² + S) + 2 R sqrt(c (1 − c) K̄/(N_f K))
    sign α = sign of R + sqrt(c N_f K/((1 − c) K̄))

The sign is that of G. Bussi, M. Parrinello, Comput. Phys. Commun. 179, 26 (2008): the velocities are one
vector in the bath of Langevin dynamics, and α is negative where that turns back. S is twice a gamma variate
of shape (N_f − 1)/2.

======  ====================================================
symbol  in code
======  ====================================================
τ       time_constant_fs
K       state.kinetic_energy
N_f     state.inertia.degrees
R, S    normal, squares: keyed by seed, structure and step
======  ====================================================

A step is one of velocity Verlet (or RESPA), then the bath. Total energy minus the heat taken in from the bath
is conserved but for the error of the integration.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.dynamics.motion import propagate
from kinetograph.dynamics.noise import Purpose, normal_and_squares
from kinetograph.dynamics.settings import Temperature, check_temperature, require_positive, thermal_energy
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, moving, total_energy
from kinetograph.dynamics.velocities import per_atom
from kinetograph.potential import Potential
from kinetograph.system import System


@dataclass(frozen=True)
class Bussi:
    """NVT dynamics by stochastic velocity rescaling."""

    timestep_fs: float
    temperature_K: Temperature
    time_constant_fs: float = 100.0
    """τ: the kinetic energy forgets where it was within this time."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity and the net acceleration are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        check_temperature(self.temperature_K)
        require_positive("time_constant_fs", self.time_constant_fs)

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
        state = propagate(state, potential, self.timestep_fs)
        thermal = thermal_energy(self.temperature_K, state.system, state.step * self.timestep_fs)
        state = rescaled(state, thermal, math.exp(-self.timestep_fs / self.time_constant_fs))
        return changed(state, step=state.step + 1)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        return None if energy is None else energy - state.of_systems["heat"]


def rescaled(state: State, thermal: Tensor, decay: float) -> State:
    """The state after a time in the bath; the change of kinetic energy is added to ``heat``.

    Args:
        thermal: (n_systems,) kT in eV.
        decay: e^(−t/τ).
    """
    normal, squares = normal_and_squares(
        state.system, state.streams, state.step, Purpose.VELOCITY_RESCALING, state.inertia.degrees
    )
    before = state.kinetic_energy
    scale = rescaling_factor(before, 0.5 * thermal, decay, normal, squares)
    state = moving(state, state.velocities * per_atom(scale.unsqueeze(1), state.system))
    return state.keeping(heat=state.of_systems["heat"] + (state.kinetic_energy - before))


def rescaling_factor(
    kinetic: Tensor, kinetic_per_degree: Tensor, decay: float, normal: Tensor, squares: Tensor
) -> Tensor:
    """α, one for what is at rest; all arguments but ``decay`` are (n_systems,).

    Args:
        kinetic: K in eV.
        kinetic_per_degree: K̄/N_f = kT/2 in eV.
        decay: c.
        normal: R.
        squares: S.
    """
    moves = kinetic > 0.0
    fresh = (1.0 - decay) * kinetic_per_degree / torch.where(moves, kinetic, 1.0)
    along = math.sqrt(decay) + fresh.sqrt() * normal  # α² = along² + fresh S
    scale = (along.square() + fresh * squares).sqrt().copysign(along)
    return torch.where(moves, scale, 1.0)
