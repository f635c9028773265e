"""Stochastic cell rescaling: constant pressure and temperature (NPT) by noise on the cell.

M. Bernetti, G. Bussi, J. Chem. Phys. 153, 114107 (2020): the volume; V. Del Tatto, P. Raiteri, M. Bernetti,
G. Bussi, Appl. Sci. 12, 1139 (2022): the whole cell. Positions follow a strain ε of the cell, r → r exp(ε),
velocities its inverse. What is sampled, of a cell h = V^(1/3) ĥ with det ĥ = 1 under the pressure P₀::

    p(r, v, h) ∝ exp(−(K + U + P₀ V)/kT) V^−2,     V^−2 dh = dV dĥ

dĥ is the measure that any deformation leaves as it is: a volume has the weight ∫ exp(−(U + P₀ V)/kT) dr, and
of a fluid, whose U does not know of shapes, no shape has more than another. Coordinates s and velocities u
that a strain takes along make dr dv = V^f ds du, with f = 1 where the centre of mass is held (three
velocities less than positions), else f = 0. Hence at constant s and u, of λ = sqrt(V) and of ĥ::

    dλ = (D/kT) F dt + sqrt(2 D) dW,     F = 2 λ (P − P₀) + (1 + 2 f) kT/λ,   D = kT β/(4 τ)
    ĥ → ĥ exp(dε),  dε = (D'/kT) F' dt + sqrt(2 D') dW',     F' = V 𝐏',       D' = kT β/(3 V τ)

where P is the mean diagonal of the internal pressure tensor 𝐏, 𝐏' the rest of it as far as the mode allows,
and W' is normal in the space of such strains. For f = 0 these are the papers' equations.

The integrator is reversible in time. A move of time t uses momenta p of mass one that are drawn anew each
time, which is Langevin dynamics (BAOAB) in its limit of high friction::

    p ← p + ½ θ F                                       θ² = 2 D t/kT    (the same with p', θ' and F')
    in the middle of the drift of the atoms:
        λ ← λ + ½ θ p,    p ← sqrt(kT) R,    λ ← λ + ½ θ p
    p ← p + ½ θ F                                       with the new forces

The forces are those of the atoms' own step, no more. An energy is conserved but for the error of the
integration, as the effective energy of the papers is: K + U + P₀ V − (1 + 2 f) kT ln λ + ½ p² + ½ p'², less
the heat taken in by p, p' and the velocities.

Rigid bonds: the centre of a cluster moves as an atom would, its inside stays as it is.

======  =========================================  ============
symbol  in code                                    unit
======  =========================================  ============
P₀      pressure_bar                               bar
β       compressibility_per_bar                    1/bar
τ       pressure_time_constant_fs                  fs
t       every × timestep_fs                        fs
λ       root                                       Å^(3/2)
p, p'   volume_momentum, shape_momentum            sqrt(eV)
θ, θ'   _volume_pace, _shape_pace
f       _held
======  =========================================  ============

The temperature is held by stochastic velocity rescaling (``bussi``), after each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.bussi import rescaled
from kinetograph.dynamics.motion import drift, propagate
from kinetograph.dynamics.noise import Purpose, of_each_structure
from kinetograph.dynamics.pressure import (
    check_pressure,
    of_centres,
    pressure_times_volume,
    require_pressure,
)
from kinetograph.dynamics.settings import (
    Ramp,
    Temperature,
    check_temperature,
    for_each,
    require_positive,
    require_whole,
    thermal_energy,
)
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, total_energy
from kinetograph.dynamics.strain import (
    Array,
    Mode,
    allowed,
    check_mode,
    host,
    like,
    norm_square,
    of_symmetric,
    trace,
    traceless,
    transformed,
)
from kinetograph.dynamics.two_forces import TwoForces
from kinetograph.errors import UserError
from kinetograph.potential import Potential
from kinetograph.system import System

WATER_COMPRESSIBILITY_PER_BAR = 4.5e-5


@dataclass(frozen=True)
class CellRescaling:
    """NPT dynamics by stochastic cell rescaling and stochastic velocity rescaling."""

    timestep_fs: float
    temperature_K: Temperature
    pressure_bar: float | Sequence[float]
    """One, or one for each structure."""
    mode: Mode = "isotropic"
    """``isotropic`` for fluids and cubic crystals; ``semi-isotropic``: x and y together, z alone, for
    membranes and slabs of fluid; ``full`` for crystals: a fluid lets its cell be sheared without end."""
    time_constant_fs: float = 100.0
    """Of the thermostat."""
    pressure_time_constant_fs: float = 1000.0
    """τ: the volume forgets where it was within this time, if the compressibility is right."""
    compressibility_per_bar: float = WATER_COMPRESSIBILITY_PER_BAR
    """β: only β/τ matters, and only for how fast the cell moves."""
    every: int = 10
    """The cell moves once in so many steps."""
    remove_com: bool = True
    """Hold the centre of mass: its velocity and the net acceleration are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)
        check_temperature(self.temperature_K)
        check_pressure(self.pressure_bar)
        check_mode(self.mode)
        require_positive("time_constant_fs", self.time_constant_fs)
        require_positive("pressure_time_constant_fs", self.pressure_time_constant_fs)
        require_positive("compressibility_per_bar", self.compressibility_per_bar)
        require_whole("every", self.every, least=1)
        if self.every * self.timestep_fs > 0.5 * self.pressure_time_constant_fs:
            raise UserError(
                f"the cell moves every {self.every * self.timestep_fs:g} fs, "
                f"too rarely for a time constant of {self.pressure_time_constant_fs:g} fs",
                where="pressure_time_constant_fs",
                mend="Make it ten times the time between two moves, or longer.",
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
        state = first_state(system, potential, seed, skin_A=skin_A, remove_com=self.remove_com)
        self._thermal(state)
        self._pressure(state)
        nothing = torch.zeros_like(state.inertia.degrees)
        return state.keeping(
            heat=nothing, volume_momentum=nothing, shape_momentum=torch.zeros_like(state.system.cell)
        )

    def step(self, state: State, potential: Potential) -> State:
        thermal = self._thermal(state)
        if state.step % self.every == 0:
            middle = potential.ratio // 2 if isinstance(potential, TwoForces) else 0

            def drift_with_cell(state: State, time_fs: float, part: int) -> State:
                if part != middle:
                    return drift(state, time_fs)
                return drift(self._cell_move(drift(state, 0.5 * time_fs)), 0.5 * time_fs)

            state = self._cell_kick(state)
            state = propagate(state, potential, self.timestep_fs, drift=drift_with_cell)
            state = self._cell_kick(state)
        else:
            state = propagate(state, potential, self.timestep_fs)
        state = rescaled(state, thermal, math.exp(-self.timestep_fs / self.time_constant_fs))
        return changed(state, step=state.step + 1)

    def conserved_quantity(self, state: State) -> Tensor | None:
        energy = total_energy(state)
        if energy is None or isinstance(self.temperature_K, Ramp):
            return None
        volume, kept = state.system.volume, state.of_systems
        measure = (0.5 + self._held(state)) * self._thermal(state) * volume.log()
        cell = self._pressure(state) * volume - measure + like(self._cell_kinetic(state), volume)
        return energy + cell - kept["heat"]

    def _cell_kick(self, state: State) -> State:
        """p ← p + ½ θ F."""
        volume = host(state.system.volume)
        times_volume = host(pressure_times_volume(state))
        excess = trace(times_volume) / (3.0 * volume) - host(self._pressure(state))
        root = np.sqrt(volume)
        measure = (1.0 + 2.0 * self._held(state)) * host(self._thermal(state))
        push = 0.5 * self._volume_pace() * (2.0 * root * excess + measure / root)
        momentum = state.of_systems["volume_momentum"]
        kept = {"volume_momentum": momentum + like(push, momentum)}
        if self.mode != "isotropic":
            shear = self._shape_pace(volume) * traceless(allowed(times_volume, self.mode))
            momentum = state.of_systems["shape_momentum"]
            kept["shape_momentum"] = momentum + like(0.5 * shear, momentum)
        return state.keeping(**kept)

    def _cell_move(self, state: State) -> State:
        """The cell moved by old momenta and by new ones, with all that is in it."""
        noise = host(
            of_each_structure(
                state.system,
                state.streams,
                state.step,
                Purpose.CELL_RESCALING,
                lambda generator, _: generator.standard_normal(10),
            )
        )
        width = np.sqrt(host(self._thermal(state)))
        volume = host(state.system.volume)
        old, new = host(state.of_systems["volume_momentum"]), width * noise[:, 0]
        root = np.sqrt(volume)
        new_root = root + 0.5 * self._volume_pace() * (old + new)
        ratio = np.where(new_root > 0.0, new_root / root, np.nan)
        deformation = np.cbrt(ratio * ratio)[:, None, None] * np.eye(3)
        kept = {"volume_momentum": like(new, state.system.cell)}
        if self.mode != "isotropic":
            # Symmetric, and of unit variance along every direction in the space of symmetric matrices.
            normal = noise[:, 1:].reshape(-1, 3, 3)
            shape_new = width[:, None, None] * traceless(allowed(normal, self.mode))
            first = self._shape_pace(volume) * host(state.of_systems["shape_momentum"])
            second = self._shape_pace(new_root * new_root) * shape_new
            deformation = of_symmetric(0.5 * first, np.exp) @ deformation @ of_symmetric(0.5 * second, np.exp)
            kept["shape_momentum"] = like(shape_new, state.system.cell)
        before = self._cell_kinetic(state)
        state = deformed(state, deformation).keeping(**kept)
        gain = like(self._cell_kinetic(state) - before, state.system.cell)
        return state.keeping(heat=state.of_systems["heat"] + gain)

    def _cell_kinetic(self, state: State) -> Array:
        """(n_systems,) ½ p² + ½ p'² in eV."""
        momentum = host(state.of_systems["volume_momentum"])
        return 0.5 * (momentum * momentum + norm_square(host(state.of_systems["shape_momentum"])))

    def _volume_pace(self) -> float:
        """θ in sqrt(Å³/eV): of λ."""
        return math.sqrt(0.5 * self._compressibility * self._fraction)

    def _shape_pace(self, volume: Array) -> Array:
        """(n_systems, 1, 1) θ' in 1/sqrt(eV): of the shape."""
        pace: Array = np.sqrt(2.0 / 3.0 * self._compressibility * self._fraction / volume)
        return pace[:, None, None]

    @property
    def _fraction(self) -> float:
        """t/τ."""
        return self.every * self.timestep_fs / self.pressure_time_constant_fs

    @property
    def _compressibility(self) -> float:
        """Å³/eV."""
        return self.compressibility_per_bar * units.EV_PER_A3_IN_BAR

    def _thermal(self, state: State) -> Tensor:
        return thermal_energy(self.temperature_K, state.system, state.step * self.timestep_fs)

    def _pressure(self, state: State) -> Tensor:
        """(n_systems,) eV/Å³."""
        return for_each("pressure_bar", self.pressure_bar, state.system) / units.EV_PER_A3_IN_BAR

    @staticmethod
    def _held(state: State) -> float:
        """f."""
        return 0.0 if state.inertia.mass_share is None else 1.0


def deformed(state: State, deformation: Array) -> State:
    """The state in a deformed cell: positions of centres along with it, their momenta against it.

    Args:
        deformation: (n_systems, 3, 3) M: h → h M, R → R M, V → V M^−T.
    """
    system = state.system
    broken = ~np.isfinite(deformation).all(axis=(1, 2), keepdims=True)
    inverse = np.linalg.inv(np.where(broken, np.eye(3), deformation)).swapaxes(1, 2)
    strain = like(deformation - np.eye(3), system.cell)
    counter = like(inverse - np.eye(3), system.cell)
    positions, velocities = state.positions, state.velocities
    positions = positions + transformed(of_centres(positions, state), strain, system)
    velocities = velocities + transformed(of_centres(velocities, state), counter, system)
    cell = system.cell + system.cell @ strain
    return changed(state, system=changed(system, positions=positions, cell=cell, velocities=velocities))
