"""Nosé–Hoover chains: deterministic dynamics at constant temperature (NVT).

G. J. Martyna, M. L. Klein, M. Tuckerman, J. Chem. Phys. 97, 2635 (1992): the equations of motion;
G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996): the reversible
integrator, Eqs. (26)–(33): half a step of the chain, a step of velocity Verlet, half a step of the chain.

A chain of M variables ξ_j with velocities v_j and masses Q_j acts on N_f degrees of freedom of kinetic
energy K::

    dp/dt   = F − v_1 p
    dξ_j/dt = v_j
    dv_1/dt = (2K − N_f kT)/Q_1 − v_2 v_1
    dv_j/dt = (Q_(j−1) v_(j−1)² − kT)/Q_j − v_(j+1) v_j
    Q_1     = N_f kT τ²,   Q_j = kT τ²

    H' = K + U + Σ ½ Q_j v_j² + N_f kT ξ_1 + kT Σ_(j>1) ξ_j      is conserved at constant T.

======  ======================  =======
symbol  in code                 unit
======  ======================  =======
ξ_j     chain_positions         1
v_j     chain_velocities        1/fs
Q_j     inertias                eV fs²
M       chain_length            1
τ       time_constant_fs        fs
kT      thermal                 eV
N_f     degrees                 1
======  ======================  =======

With ``massive`` every degree of freedom has a chain of its own, N_f = 1. Thermostats on single Cartesian
components would break the conservation of momentum. Therefore the chains act on the components of
u = sqrt(m) v after a Householder reflection that turns the direction of the centre of mass,
sqrt(m_i/M), into the coordinate of the last atom, which is left alone: 3N − 3 independent
coordinates, each atom's own velocity but for a share of order 1/N, and momentum stays exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.motion import propagate
from kinetograph.dynamics.settings import (
    Ramp,
    Temperature,
    check_temperature,
    require_positive,
    thermal_energy,
)
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, moving, total_energy
from kinetograph.dynamics.velocities import per_atom, per_system
from kinetograph.errors import UserError
from kinetograph.potential import Potential
from kinetograph.system import System

Array = np.ndarray[Any, Any]
Number = TypeVar("Number", float, Array, Tensor)
HostNumber = TypeVar("HostNumber", float, Array)
LARGEST_EXPONENT = 709.0

# Suzuki, Phys. Lett. A 165, 387 (1992); Yoshida, Phys. Lett. A 150, 262 (1990), solution A.
_CUBE_ROOT_2, _CUBE_ROOT_4 = 2.0 ** (1.0 / 3.0), 4.0 ** (1.0 / 3.0)
_OUTER_3, _OUTER_5 = 1.0 / (2.0 - _CUBE_ROOT_2), 1.0 / (4.0 - _CUBE_ROOT_4)
_OUTER_7 = (0.784513610477560, 0.235573213359357, -1.17767998417887)
YOSHIDA_SUZUKI: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    3: (_OUTER_3, 1.0 - 2.0 * _OUTER_3, _OUTER_3),
    5: (_OUTER_5, _OUTER_5, 1.0 - 4.0 * _OUTER_5, _OUTER_5, _OUTER_5),
    7: (*_OUTER_7, 1.0 - 2.0 * sum(_OUTER_7), *_OUTER_7[::-1]),
}


@dataclass(frozen=True)
class NoseHoover:
    """NVT dynamics by Nosé–Hoover chains."""

    timestep_fs: float
    temperature_K: Temperature
    time_constant_fs: float = 100.0
    """τ; the thermostat's own oscillation has a period near 2π τ/√2."""
    chain_length: int = 3
    yoshida_suzuki: int = 3
    """Number of factors, 1, 3, 5 or 7, that one step of the chain is split into."""
    sub_steps: int = 1
    """How often the chain is stepped in one time step."""
    massive: bool = False
    """One chain for every degree of freedom instead of one for every structure: for equilibration."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity and the net acceleration are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        check_temperature(self.temperature_K)
        require_positive("time_constant_fs", self.time_constant_fs)
        require_positive("chain_length", self.chain_length)
        require_positive("sub_steps", self.sub_steps)
        if self.yoshida_suzuki not in YOSHIDA_SUZUKI:
            raise UserError(
                f"yoshida_suzuki is {self.yoshida_suzuki}", where="yoshida_suzuki", mend="Use 1, 3, 5 or 7."
            )

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
        if self.massive and state.rigid is not None:
            raise UserError(
                "rigid bonds leave no degree of freedom of one coordinate, which massive chains need",
                where="massive",
                mend="Use one chain for each structure, or free the bonds.",
            )
        thermal, _ = self._baths(state)
        chains = torch.zeros(len(thermal), self.chain_length, dtype=thermal.dtype, device=thermal.device)
        return self._with_chains(state, chains, chains)

    def step(self, state: State, potential: Potential) -> State:
        state = self._thermostat(state)
        state = propagate(state, potential, self.timestep_fs)
        state = self._thermostat(state)
        return changed(state, step=state.step + 1)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        if energy is None or isinstance(self.temperature_K, Ramp):
            return None
        thermal, degrees = self._baths(state)
        positions, velocities = self._chains(state)
        inertias = torch.stack(self._inertias(thermal, degrees), dim=1)
        chain = 0.5 * (inertias * velocities.square()).sum(dim=1)
        chain = chain + degrees * thermal * positions[:, 0]
        chain = chain + thermal * positions[:, 1:].sum(dim=1)
        return energy.index_add(0, self._system_of_chain(state), chain)

    def _thermostat(self, state: State) -> State:
        """Half a step of the chains, on the degrees of freedom that they hold."""
        if self.massive:
            return self._massive_thermostat(state)
        scale, state = self._half_step_of_chains(state, state.kinetic_energy)
        return moving(state, state.velocities * per_atom(scale.unsqueeze(1), state.system))

    def _massive_thermostat(self, state: State) -> State:
        root_mass = state.inertia.mass.sqrt()
        active = _active(state)
        components = _reflected(root_mass * state.velocities, state)
        chosen = components[active]
        scale, state = self._half_step_of_chains(state, 0.5 * units.AMU_A2_PER_FS2_IN_EV * chosen.square())
        components = components.masked_scatter(active, chosen * scale)
        return moving(state, _reflected(components, state) / root_mass)

    def _half_step_of_chains(self, state: State, kinetic: Tensor) -> tuple[Tensor, State]:
        """The factors for the velocities, (n_chains,), and the state with its chains half a step later."""
        thermal, degrees = self._baths(state)
        old_positions, old_velocities = self._chains(state)
        factors = YOSHIDA_SUZUKI[self.yoshida_suzuki] * self.sub_steps
        times = [0.5 * self.timestep_fs / self.sub_steps * factor for factor in factors]
        # Numbers on the host are faster than small tensors, and one chain alone has the same bits.
        values = (kinetic, thermal, degrees, old_positions.T, old_velocities.T)
        k, kt, n_f, xi, v = (value.cpu().numpy() for value in values)
        new: tuple[Any, list[Any], list[Any]]
        if len(k) == 1:
            kt_1, n_f_1 = float(kt[0]), float(n_f[0])
            q_1 = self._inertias(kt_1, n_f_1)
            new = propagate_chain(
                float(k[0]), xi[:, 0].tolist(), v[:, 0].tolist(), kt_1, n_f_1, q_1, times, _exp
            )
        else:
            exp = np.exp if self.massive else _exp_of_each
            with np.errstate(over="ignore", invalid="ignore"):  # the loop stops a run that goes wrong
                new = propagate_chain(k, list(xi), list(v), kt, n_f, self._inertias(kt, n_f), times, exp)
        scale, positions, velocities = (
            torch.from_numpy(np.asarray(value).reshape(-1, len(kinetic))).to(kinetic) for value in new
        )
        scale, positions, velocities = scale[0], positions.T, velocities.T
        return scale, self._with_chains(state, positions, velocities)

    def _chains(self, state: State) -> tuple[Tensor, Tensor]:
        """(n_chains, chain_length): ξ_j, and v_j in 1/fs."""
        if not self.massive:
            return state.of_systems["chain_positions"], state.of_systems["chain_velocities"]
        active = _active(state)
        return state.of_atoms["chain_positions"][active], state.of_atoms["chain_velocities"][active]

    def _with_chains(self, state: State, positions: Tensor, velocities: Tensor) -> State:
        if not self.massive:
            return state.keeping(chain_positions=positions, chain_velocities=velocities)
        active = _active(state).unsqueeze(2)
        room = positions.new_zeros(*active.shape[:2], self.chain_length)
        chains = {
            "chain_positions": room.masked_scatter(active, positions),
            "chain_velocities": room.masked_scatter(active, velocities),
        }
        return changed(state, of_atoms={**state.of_atoms, **chains})

    def _baths(self, state: State) -> tuple[Tensor, Tensor]:
        """(n_chains,) kT in eV and degrees of freedom of each chain."""
        thermal = thermal_energy(self.temperature_K, state.system, state.step * self.timestep_fs)
        if not self.massive:
            return thermal, state.inertia.degrees
        thermal = thermal[self._system_of_chain(state)]
        return thermal, torch.ones_like(thermal)

    def _inertias(self, kt: Number, n_f: Number) -> list[Number]:
        """Q_j in eV fs²."""
        q = kt * self.time_constant_fs**2
        return [q * n_f] + [q] * (self.chain_length - 1)

    def _system_of_chain(self, state: State) -> Tensor:
        """(n_chains,) which structure a chain belongs to."""
        if self.massive:
            return state.system.system_index.unsqueeze(1).expand(-1, 3)[_active(state)]
        return torch.arange(state.system.n_systems, device=state.system.device)


def propagate_chain(
    kinetic: HostNumber,
    xi: list[HostNumber],
    v: list[HostNumber],
    kt: HostNumber,
    n_f: HostNumber,
    q: list[HostNumber],
    times: Sequence[float],
    exp: Callable[[HostNumber], HostNumber],
) -> tuple[HostNumber, list[HostNumber], list[HostNumber]]:
    """One chain, or many at once, moved on by each of ``times`` (fs): Martyna et al. 1996, Eqs. (29)–(33).

    Args:
        kinetic: K in eV of the degrees of freedom that the chain holds.
        xi, v: ξ_j and v_j, first the one that acts on the particles.
        q: Q_j in eV fs².

    Returns:
        The factor for the velocities of the particles, then ξ_j and v_j.
    """
    xi, v = list(xi), list(v)
    last = len(v) - 1
    scale = exp(0.0 * kinetic)
    for h in times:
        for j in range(last, -1, -1):  # from the end of the chain to the particles
            drive = (q[j - 1] * v[j - 1] * v[j - 1] - kt) if j else (2.0 * kinetic - n_f * kt)
            damping = exp(v[j + 1] * (-0.25 * h)) if j < last else 1.0
            v[j] = (v[j] * damping + drive / q[j] * (0.5 * h)) * damping
        factor = exp(v[0] * -h)
        scale, kinetic = scale * factor, kinetic * factor * factor
        for j in range(last + 1):
            xi[j] = xi[j] + v[j] * h
        for j in range(last + 1):  # and back
            drive = (q[j - 1] * v[j - 1] * v[j - 1] - kt) if j else (2.0 * kinetic - n_f * kt)
            damping = exp(v[j + 1] * (-0.25 * h)) if j < last else 1.0
            v[j] = (v[j] * damping + drive / q[j] * (0.5 * h)) * damping
    return scale, xi, v


def _exp(x: float) -> float:
    """``math.exp`` that overflows to infinity."""
    return math.exp(x) if x < LARGEST_EXPONENT else math.inf


def _exp_of_each(x: Array) -> Array:
    """The same of several: NumPy's own is another function in the last bit."""
    return np.array([_exp(float(each)) for each in x])


def _active(state: State) -> Tensor:
    """(n_atoms, 3) bool: what has a chain in the massive form: not fixed, not the centre of mass."""
    active = state.inertia.inverse_mass > 0
    if state.inertia.mass_share is not None:
        active = active & ~(_is_last(state) & (state.inertia.mass_share > 0))
    return active.expand(-1, 3)


def _is_last(state: State) -> Tensor:
    """(n_atoms, 1) bool: the last atom of each structure."""
    last = state.system.atoms_per_system.cumsum(dim=0) - 1
    is_last = torch.zeros_like(state.system.system_index, dtype=torch.bool)
    is_last[last] = True
    return is_last.unsqueeze(1)


def _reflected(components: Tensor, state: State) -> Tensor:
    """u − 2 w (w·u)/(w·w) with w_i = sqrt(m_i/M), plus one at the last atom: its own inverse.

    It maps the direction of the centre of mass onto minus the last atom's coordinate.
    """
    if state.inertia.mass_share is None:
        return components
    root_share = state.inertia.mass_share.sqrt()
    w = root_share + (_is_last(state) & (root_share > 0)).to(root_share)
    norm = per_system(w * w, state.system).clamp(min=1e-300)
    projection = per_system(w * components, state.system) / norm
    return components - 2.0 * w * per_atom(projection, state.system)
