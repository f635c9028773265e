"""Martyna–Tobias–Klein dynamics: deterministic, at constant pressure and temperature (NPT).

G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994): the equations of motion;
G. J. Martyna, M. E. Tuckerman, D. J. Tobias, M. L. Klein, Mol. Phys. 87, 1117 (1996) and M. E. Tuckerman,
J. Alejandre, R. López-Rendón, A. L. Jochim, G. J. Martyna, J. Phys. A 39, 5629 (2006): the integrator.

The cell h (rows) moves at the rate v_g, a symmetric matrix, and the atoms with it; a chain ξ acts on the
atoms, a chain η on the cell. n is the number of free parts of v_g, Tr its trace, 𝐏 the pressure tensor::

    dr/dt     = v + r v_g                       dh/dt = h v_g
    dv/dt     = a − v v_g − X Tr(v_g) v − v_ξ1 v
    W dv_g/dt = [V (𝐏 − P₀) + 2 X K] − v_η1 W v_g
    W = (N_f + 3) kT τ_p²/3,   Q_1 = N_f kT τ²,   Q_j = kT τ²,   Q'_1 = n kT τ_p²,   Q'_j = kT τ_p²

    H' = K + U + P₀ V + ½ W Σ v_g² + Σ ½ Q_j v_ξj² + N_f kT ξ_1 + kT Σ_(j>1) ξ_j
         + Σ ½ Q'_j v_ηj² + n kT η_1 + kT Σ_(j>1) η_j           is conserved at constant T.

The brackets keep what the mode allows (see ``strain``). For the isotropic form of the papers, v_ε is a
diagonal element of v_g, and W_ε = 3 W.

X = 1/N_f in the papers, for N_f = 3N. Where the centre of mass is held, N_f = 3N − 3: its position moves
with the cell, but it has no momentum. Then X = 2/N_f, for the sum of the divergences of (h, r, v) to be what
it is for N free atoms. Else V^(N−1) would stand in place of V^N in the weight of a volume. The ensemble is::

    p(r, v, h) ∝ exp(−(K + U + P₀ V)/kT) V^−2

that of ``cell_rescaling``. One step, where the outer ones are half steps; the middle is velocity Verlet or
RESPA::

    chains;  W v_g;  v ← v exp(−(v_g + X Tr v_g) Δt/2);  [kick, drift, kick];  v ← …;  W v_g;  chains

The papers solve the kick and the factor for v as one. Here there is one factor in each half, however many
kicks two forces make. In the drift, with x = v_g t: r ← r e^x + v t (e^x − 1)/x and h ← h e^x.

======  ==================================  =======
symbol  in code                             unit
======  ==================================  =======
v_g     cell_rate                           1/fs
W       _cell_mass                          eV fs²
ξ_j     chain_positions[:, 0]               1
η_j     chain_positions[:, 1]               1
v_ξj…   chain_velocities                    1/fs
Q, Q'   _inertias                           eV fs²
τ       time_constant_fs                    fs
τ_p     pressure_time_constant_fs           fs
P₀      pressure_bar                        bar
X       _share                              1
======  ==================================  =======
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.motion import propagate
from kinetograph.dynamics.nose_hoover import YOSHIDA_SUZUKI, propagate_chain
from kinetograph.dynamics.pressure import check_pressure, pressure_times_volume, require_pressure
from kinetograph.dynamics.settings import (
    Ramp,
    Temperature,
    check_temperature,
    for_each,
    require_positive,
    require_whole,
    thermal_energy,
)
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, moving, total_energy
from kinetograph.dynamics.strain import (
    PARTS,
    Array,
    Mode,
    allowed,
    check_mode,
    host,
    like,
    norm_square,
    of_symmetric,
    trace,
    transformed,
)
from kinetograph.errors import UserError
from kinetograph.potential import Potential
from kinetograph.system import System


@dataclass(frozen=True)
class MTK:
    """NPT dynamics by the equations of Martyna, Tobias and Klein."""

    timestep_fs: float
    temperature_K: Temperature
    pressure_bar: float | Sequence[float]
    """One, or one for each structure."""
    mode: Mode = "isotropic"
    """``isotropic`` for fluids and cubic crystals; ``semi-isotropic``: x and y together, z alone, for
    membranes and slabs of fluid; ``full`` for crystals: a fluid lets its cell be sheared without end."""
    time_constant_fs: float = 100.0
    """τ of the thermostat."""
    pressure_time_constant_fs: float = 1000.0
    """τ_p of the barostat."""
    chain_length: int = 3
    yoshida_suzuki: int = 3
    """Number of factors, 1, 3, 5 or 7, that one step of the chains is split into."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity and the net acceleration are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        check_temperature(self.temperature_K)
        check_pressure(self.pressure_bar)
        check_mode(self.mode)
        require_positive("time_constant_fs", self.time_constant_fs)
        require_positive("pressure_time_constant_fs", self.pressure_time_constant_fs)
        require_whole("chain_length", self.chain_length, least=1)
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
        require_pressure(system, potential)
        if system.rigid is not None and len(system.rigid):
            raise UserError(
                "the MTK barostat cannot hold rigid bonds",
                where="rigid bonds",
                mend="Use stochastic cell rescaling (CellRescaling), which moves molecules as a whole.",
            )
        state = first_state(system, potential, seed, skin_A=skin_A, remove_com=self.remove_com)
        self._thermal(state)
        self._pressure(state)
        chains = state.system.cell.new_zeros(system.n_systems, 2, self.chain_length)
        return state.keeping(
            cell_rate=torch.zeros_like(state.system.cell), chain_positions=chains, chain_velocities=chains
        )

    def step(self, state: State, potential: Potential) -> State:
        state = self._chains(state)
        state = self._cell_kick(state)
        state = self._damped(state)
        state = propagate(state, potential, self.timestep_fs, drift=_drift)
        state = self._damped(state)
        state = self._cell_kick(state)
        state = self._chains(state)
        return changed(state, step=state.step + 1)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        if energy is None or isinstance(self.temperature_K, Ramp):
            return None
        thermal, degrees = self._baths(state)
        positions, velocities = (
            host(state.of_systems[name]) for name in ("chain_positions", "chain_velocities")
        )
        inertias = np.stack(self._inertias(thermal, degrees), axis=2)
        chains = 0.5 * (inertias * velocities**2).sum(axis=2) + degrees * thermal * positions[:, :, 0]
        chains = chains + thermal * positions[:, :, 1:].sum(axis=2)
        cell = self._cell_kinetic(state) + chains.sum(axis=1)
        return energy + self._pressure(state) * state.system.volume + like(cell, energy)

    def _chains(self, state: State) -> State:
        """Half a step of the chains, and what they hold: velocities of the atoms and of the cell."""
        kinetic = np.stack([host(state.kinetic_energy), self._cell_kinetic(state)], axis=1)
        thermal, degrees = self._baths(state)
        old = (host(state.of_systems[name]) for name in ("chain_positions", "chain_velocities"))
        xi, v = (list(np.moveaxis(values, 2, 0)) for values in old)
        times = [0.5 * self.timestep_fs * factor for factor in YOSHIDA_SUZUKI[self.yoshida_suzuki]]
        with np.errstate(over="ignore", invalid="ignore"):  # a run that goes wrong is stopped by the loop
            scale, xi, v = propagate_chain(
                kinetic, xi, v, thermal, degrees, self._inertias(thermal, degrees), times, np.exp
            )
        cell = state.system.cell
        scales = like(scale, cell)
        velocities = state.velocities * scales[state.system.system_index, 0].unsqueeze(1)
        return moving(state, velocities).keeping(
            cell_rate=state.of_systems["cell_rate"] * scales[:, 1, None, None],
            chain_positions=like(np.stack(xi, axis=2), cell),
            chain_velocities=like(np.stack(v, axis=2), cell),
        )

    def _cell_kick(self, state: State) -> State:
        """Half a step of v_g in the pressure."""
        excess = host(pressure_times_volume(state))
        outside = host(self._pressure(state) * state.system.volume)
        extra = 2.0 * self._share(state) * host(state.kinetic_energy)
        force = allowed(excess + (extra - outside)[:, None, None] * np.eye(3), self.mode)
        push = 0.5 * self.timestep_fs / self._cell_mass(state)[:, None, None] * force
        rate = state.of_systems["cell_rate"]
        return state.keeping(cell_rate=rate + like(push, rate))

    def _damped(self, state: State) -> State:
        """v ← v exp(−(v_g + X Tr v_g) Δt/2)."""
        rate = host(state.of_systems["cell_rate"])
        whole = rate + (self._share(state) * trace(rate))[:, None, None] * np.eye(3)
        factor = of_symmetric(-0.5 * self.timestep_fs * whole, np.exp)
        return moving(state, transformed(state.velocities, like(factor, state.velocities), state.system))

    def _baths(self, state: State) -> tuple[Array, Array]:
        """(n_systems, 2) kT in eV, and degrees of freedom: of the atoms and of the cell."""
        thermal, degrees = host(self._thermal(state)), host(state.inertia.degrees)
        cell = np.full_like(degrees, PARTS[self.mode])
        return np.stack([thermal, thermal], axis=1), np.stack([degrees, cell], axis=1)

    def _inertias(self, thermal: Array, degrees: Array) -> list[Array]:
        """Q_j and Q'_j, each (n_systems, 2), in eV fs²."""
        q = thermal * np.array([self.time_constant_fs, self.pressure_time_constant_fs]) ** 2
        return [q * degrees] + [q] * (self.chain_length - 1)

    def _cell_mass(self, state: State) -> Array:
        """(n_systems,) W in eV fs²."""
        degrees, thermal = host(state.inertia.degrees), host(self._thermal(state))
        mass: Array = (degrees + 3.0) * thermal * (self.pressure_time_constant_fs**2 / 3.0)
        return mass

    def _cell_kinetic(self, state: State) -> Array:
        """(n_systems,) ½ W Σ v_g² in eV."""
        return 0.5 * self._cell_mass(state) * norm_square(host(state.of_systems["cell_rate"]))

    def _share(self, state: State) -> Array:
        """(n_systems,) X."""
        held = 1.0 if state.inertia.mass_share is None else 2.0
        return held / host(state.inertia.degrees)

    def _thermal(self, state: State) -> Tensor:
        return thermal_energy(self.temperature_K, state.system, state.step * self.timestep_fs)

    def _pressure(self, state: State) -> Tensor:
        """(n_systems,) eV/Å³."""
        return for_each("pressure_bar", self.pressure_bar, state.system) / units.EV_PER_A3_IN_BAR


def _drift(state: State, time_fs: float, part: int) -> State:
    """Positions and cell, at constant v and v_g."""
    x = time_fs * host(state.of_systems["cell_rate"])
    grown = like(of_symmetric(x, np.exp), state.positions)
    along = like(time_fs * of_symmetric(x, _mean_growth), state.positions)
    system = state.system
    positions = transformed(state.positions, grown, system) + transformed(state.velocities, along, system)
    return changed(state, system=changed(system, positions=positions, cell=system.cell @ grown))


def _mean_growth(x: Array) -> Array:
    """(e^x − 1)/x, one at zero."""
    small = np.abs(x) < 1e-8
    safe = np.where(small, 1.0, x)
    return np.where(small, 1.0 + 0.5 * x, np.expm1(safe) / safe)
