"""Settings of integrators: numbers for all structures or one for each, and temperatures that change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.system import System


@dataclass(frozen=True)
class Ramp:
    """A temperature that goes from point to point in straight lines, and stays at the last one.

    A heat-up from 100 to 520 K within 50 ps, as GNNFF's: ``Ramp((0, 50), (100, 520))``.
    """

    times_ps: tuple[float, ...]
    temperatures_K: tuple[float, ...]
    cycle: bool = False
    """Begin anew after the last point."""

    def __post_init__(self) -> None:
        times, kelvin = self.times_ps, self.temperatures_K
        if len(times) != len(kelvin) or len(times) < 2:
            raise UserError(
                f"a ramp of {len(times)} times and {len(kelvin)} temperatures",
                where="temperature_K",
                mend="Give as many of both, two at least.",
            )
        if times[0] != 0.0 or not all(a < b < math.inf for a, b in pairwise(times)):
            raise UserError(
                f"the times of a ramp are {times} ps", where="temperature_K", mend="Let them rise from 0."
            )
        require_positive("temperature_K", kelvin)

    def at(self, time_fs: float) -> float:
        """K."""
        t = time_fs / units.PS_IN_FS
        if self.cycle:
            t = t % self.times_ps[-1]
        for (t0, kelvin0), (t1, kelvin1) in pairwise(zip(self.times_ps, self.temperatures_K, strict=True)):
            if t < t1:
                return kelvin0 + (kelvin1 - kelvin0) * (t - t0) / (t1 - t0)
        return self.temperatures_K[-1]


Temperature = float | Sequence[float] | Ramp
"""K: one, one for each structure, or one that changes."""


def check_temperature(temperature_K: Temperature) -> None:
    """Raise ``UserError`` unless every temperature is a positive number."""
    if not isinstance(temperature_K, Ramp):
        require_positive("temperature_K", temperature_K)


def thermal_energy(temperature_K: Temperature, system: System, time_fs: float) -> Tensor:
    """(n_systems,) kT in eV at a time of the run.

    Raises:
        UserError: there are more or fewer temperatures than structures.
    """
    now = temperature_K.at(time_fs) if isinstance(temperature_K, Ramp) else temperature_K
    return units.BOLTZMANN_EV_PER_K * for_each("temperature_K", now, system)


def for_each(name: str, values: float | Sequence[float], system: System) -> Tensor:
    """(n_systems,) of a setting that is one number or one for each structure.

    Raises:
        UserError: there are more or fewer numbers than structures.
    """
    if isinstance(values, int | float):  # without a copy from the host, which a recorded step cannot have
        return torch.full((system.n_systems,), values, dtype=system.dtype, device=system.device)
    each = torch.as_tensor(values, dtype=system.dtype, device=system.device)
    if each.ndim > 0 and each.shape != (system.n_systems,):
        raise UserError(
            f"{each.numel()} values of {name} for {system.n_systems} structures",
            where=name,
            mend="Give one, or one for each structure.",
        )
    return each.expand(system.n_systems)


def hottest(temperature_K: Temperature, system: System) -> Tensor:
    """(n_systems,) K: the highest temperature that each structure is meant to have."""
    ends = max(temperature_K.temperatures_K) if isinstance(temperature_K, Ramp) else temperature_K
    return for_each("temperature_K", ends, system)


def require_positive(name: str, value: float | Sequence[float]) -> None:
    """Raise ``UserError`` unless every value is a positive finite number."""
    values = [float(value)] if isinstance(value, int | float) else [float(v) for v in value]
    if not all(0.0 < v < float("inf") for v in values):
        raise UserError(f"{name} is {value}", where=name, mend="It must be a positive number.")


def require_whole(name: str, value: int, *, least: int) -> int:
    """The number, or ``UserError`` unless it is a whole one from ``least`` on."""
    if value != int(value) or value < least:
        raise UserError(f"{name} is {value}", where=name, mend=f"It must be a whole number from {least} on.")
    return int(value)
