"""FIRE 2.0: downhill with inertia, stopped whenever the way leads up.

Bitzek, Koskinen, Gähler, Moseler and Gumbsch, Phys. Rev. Lett. 97, 170201 (2006), as Guénolé et al., Comput.
Mater. Sci. 175, 109584 (2020), made it anew, with semi-implicit Euler steps::

    F·v > 0      n ← n + 1; once n > N:  Δt ← min(f₊ Δt, Δt_max),  α ← f_α α
    otherwise    n ← 0,  Δt ← max(f₋ Δt, Δt_min),  α ← α₀,  r ← r − ½ Δt v,  v ← 0
    then         v ← v + Δt F,  v ← (1 − α) v + α |v| F/|F|,  r ← r + Δt v

All masses are 1, so that a time is in Å/√eV; products are over all rows of a structure. After the half step
back the force at hand serves, and is not asked for again. Where the step is shortened the velocity is too:
what a collision gave would carry the atoms apart.

==========================  ==========================================
symbol                      field
==========================  ==========================================
Δt, Δt_min, Δt_max          ``timestep``, ``min_timestep``, ``max_timestep``
N                           ``delay``
f₊, f₋                      ``increase``, ``decrease``
α₀, f_α                     ``mixing``, ``mixing_decay``
==========================  ==========================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.dynamics.relax.coordinates import Rows
from kinetograph.dynamics.relax.methods import Memory, shortened
from kinetograph.dynamics.settings import require_positive


@dataclass(frozen=True)
class FIRE:
    """The fast inertial relaxation engine."""

    timestep: float = 0.1
    """Å/√eV: the first."""
    min_timestep: float = 0.002
    max_timestep: float = 1.0
    delay: int = 20
    """Steps downhill before the time step grows."""
    increase: float = 1.1
    decrease: float = 0.5
    mixing: float = 0.25
    """How much the velocity is turned towards the force."""
    mixing_decay: float = 0.99
    max_step_A: float = 0.2
    """The longest step of an atom."""

    def __post_init__(self) -> None:
        require_positive("max_step_A", self.max_step_A)

    def start(self, x: Tensor, rows: Rows) -> Memory:
        n = rows.n_systems
        return Memory(
            of_rows={"velocity": torch.zeros_like(x)},
            of_systems={
                "timestep": x.new_full((n,), self.timestep),
                "mixing": x.new_full((n,), self.mixing),
                "n_downhill": x.new_zeros(n),
            },
        )

    def step(self, x: Tensor, forces: Tensor, rows: Rows, memory: Memory) -> tuple[Tensor, Memory]:
        v = memory.of_rows["velocity"]
        old_dt, old_mixing, n = (memory.of_systems[name] for name in ("timestep", "mixing", "n_downhill"))
        down = rows.dot(forces, v) > 0.0
        up = ~down & (rows.longest(v) > 0.0)  # at rest, as at the start, it is neither
        n = torch.where(down, n + 1.0, 0.0)
        faster = n > self.delay
        dt = torch.where(faster, (self.increase * old_dt).clamp(max=self.max_timestep), old_dt)
        dt = torch.where(up, (self.decrease * old_dt).clamp(min=self.min_timestep), dt)
        mixing = torch.where(faster, self.mixing_decay * old_mixing, old_mixing)
        mixing = torch.where(up, self.mixing, mixing)

        back = torch.where(rows.spread(up), 0.5 * rows.spread(dt) * v, 0.0)
        v = torch.where(rows.spread(down), v, 0.0) + rows.spread(dt) * forces
        # Where there is no force there is nowhere to turn to.
        ratio = (rows.dot(v, v) / rows.dot(forces, forces).clamp(min=torch.finfo(v.dtype).tiny)).sqrt()
        v = (1.0 - rows.spread(mixing)) * v + rows.spread(mixing * ratio) * forces
        step = shortened(rows.spread(dt) * v, rows, self.max_step_A)
        v = step / rows.spread(dt)
        return x - back + step, Memory({"velocity": v}, {"timestep": dt, "mixing": mixing, "n_downhill": n})
