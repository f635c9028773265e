"""Velocity Verlet: constant energy (NVE).

W. C. Swope, H. C. Andersen, P. H. Berens, K. R. Wilson, J. Chem. Phys. 76, 637 (1982), Eqs. (A2)–(A3)::

    v(t + Δt/2) = v(t)        + a(t) Δt/2
    r(t + Δt)   = r(t)        + v(t + Δt/2) Δt
    v(t + Δt)   = v(t + Δt/2) + a(t + Δt) Δt/2

======  ==================
symbol  in code
======  ==================
r       state.positions
v       state.velocities
a       state.acceleration
Δt      timestep_fs
======  ==================

Symplectic and time-reversible; the error of the energy is of order Δt² and does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kinetograph.dynamics.motion import propagate
from kinetograph.dynamics.settings import require_positive
from kinetograph.dynamics.state import DEFAULT_SKIN_A, State, changed, first_state, total_energy
from kinetograph.potential import Potential
from kinetograph.system import System


@dataclass(frozen=True)
class VelocityVerlet:
    """NVE dynamics."""

    timestep_fs: float
    remove_com: bool = True
    """Hold the centre of mass: its velocity and the net acceleration are taken out."""

    def __post_init__(self) -> None:
        require_positive("timestep_fs", self.timestep_fs)

    @property
    def target_temperature_K(self) -> None:
        return None

    def init(
        self,
        system: System,
        potential: Potential,
        seed: int | Sequence[int],
        *,
        skin_A: float = DEFAULT_SKIN_A,
    ) -> State:
        return first_state(system, potential, seed, skin_A=skin_A, remove_com=self.remove_com)

    def step(self, state: State, potential: Potential) -> State:
        return changed(propagate(state, potential, self.timestep_fs), step=state.step + 1)

    def conserved_quantity(self, state: State) -> Tensor | None:
        return total_energy(state)
