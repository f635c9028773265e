"""A Lennard-Jones fluid at ρ* = 0.8, T* = 1.0, with argon's units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk

from kinetograph import units
from kinetograph.dynamics.cell_rescaling import CellRescaling
from kinetograph.dynamics.mtk import MTK
from kinetograph.dynamics.velocities import inertia_of, maxwell_boltzmann
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A, LennardJones
from kinetograph.system import System, batch

DENSITY = 0.8
"""ρ* = N σ³/V."""


@dataclass(frozen=True)
class Fluid:
    """What the tests need to know of the fluid."""

    epsilon: float = ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K
    sigma: float = ARGON_SIGMA_A
    temperature_K: float = ARGON_EPSILON_K

    def potential(self, cutoff: float = 2.5) -> LennardJones:
        """Switched from 0.8 of the cutoff (in σ), so that the forces are smooth."""
        return LennardJones(
            epsilon=self.epsilon,
            sigma=self.sigma,
            cutoff=cutoff * self.sigma,
            truncation="switch",
            switch_start=0.8 * cutoff * self.sigma,
        ).eval()

    def inner(self) -> LennardJones:
        """Of shorter reach: the cheap one of two forces."""
        return LennardJones(
            epsilon=self.epsilon,
            sigma=self.sigma,
            cutoff=1.4 * self.sigma,
            truncation="switch",
            switch_start=1.1 * self.sigma,
        ).eval()

    def mtk(self, timestep_fs: float = 4.0, **settings: Any) -> MTK:
        """A fast one, at a pressure at which the fluid stays near its density."""
        given = {"pressure_bar": 600.0, "time_constant_fs": 60.0, "pressure_time_constant_fs": 300.0}
        return MTK(timestep_fs, 120.0, **{**given, **settings})

    def cell_rescaling(self, timestep_fs: float = 4.0, **settings: Any) -> CellRescaling:
        """At that pressure too."""
        given = {"pressure_bar": 600.0, "compressibility_per_bar": 1e-4, "every": 2}
        return CellRescaling(timestep_fs, 120.0, **{**given, **settings})

    def atoms(self, n_side: int, *, seed: int = 0, rattle: float = 0.1) -> ase.Atoms:
        """4 n_side³ atoms at the density of the fluid, near a lattice."""
        lattice = (4.0 * self.sigma**3 / DENSITY) ** (1.0 / 3.0)
        atoms = bulk("Ar", "fcc", lattice, cubic=True) * (n_side, n_side, n_side)
        atoms.rattle(rattle, seed=seed)
        return atoms

    def system(
        self, n_side: int, *, seed: int = 0, n_copies: int = 1, temperature_K: float = 120.0
    ) -> System:
        """The same with velocities; copies differ in both."""
        system = batch([System.from_ase(self.atoms(n_side, seed=seed + i)) for i in range(n_copies)])
        inertia = inertia_of(system, remove_com=True)
        kelvin = torch.full((n_copies,), temperature_K, dtype=torch.float64)
        return replace(system, velocities=maxwell_boltzmann(system, kelvin, seed, inertia))


@pytest.fixture(scope="session")
def fluid() -> Fluid:
    return Fluid()


@pytest.fixture(params=["mtk", "cell_rescaling"])
def barostat(fluid: Fluid, request: pytest.FixtureRequest) -> Callable[..., MTK | CellRescaling]:
    """Makes either barostat for the fluid: ``barostat(timestep_fs, **settings)``."""
    make: Callable[..., MTK | CellRescaling] = getattr(fluid, request.param)
    return make


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def block_error() -> Callable[[np.ndarray], float]:
    """Standard error of a mean by the largest estimate over block lengths (Flyvbjerg and Petersen 1989)."""

    def error(series: np.ndarray) -> float:
        estimates = []
        for n_blocks in (10, 20, 40):
            blocks = series[: len(series) // n_blocks * n_blocks].reshape(n_blocks, -1).mean(axis=1)
            estimates.append(blocks.std(ddof=1) / np.sqrt(n_blocks))
        return float(max(estimates))

    return error
