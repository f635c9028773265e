"""The density of flexible TIP3P at 1 bar, measured: where ``WATER_DENSITY_G_PER_CM3`` comes from.

Measure it again with ``python -m kinetograph.reference.water_density``; ``--help`` lists the settings.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.reference.openmm_systems import (
    WATER_MASS_AMU,
    import_openmm,
    openmm_platform,
    water_box,
    water_system,
)
from kinetograph.reference.starts import water_start


@dataclass(frozen=True)
class WaterDensity:
    """A measured density and how it was obtained."""

    density_g_per_cm3: float
    standard_error: float
    """g/cm³, from block averages."""
    n_blocks: int
    n_molecules: int
    temperature_K: float
    pressure_bar: float
    timestep_fs: float
    equilibration_ps: float
    production_ps: float
    seed: int


def measure_water_density(
    *,
    n_molecules: int = 216,
    temperature_K: float = 300.0,
    pressure_bar: float = 1.0,
    timestep_fs: float = 1.0,
    equilibration_ps: float = 50.0,
    production_ps: float = 400.0,
    n_blocks: int = 10,
    seed: int = 0,
    platform: str = "CPU",
    threads: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> WaterDensity:
    """The mean density of flexible TIP3P, with this package's cutoff and mesh, under a barostat.

    Langevin dynamics (OpenMM's middle scheme, friction 1/ps) with Monte Carlo volume moves that scale
    the centres of the molecules, tried every 25 steps. The mean and its standard error come from
    ``n_blocks`` equal blocks of the production time.
    """
    openmm = import_openmm()
    rng = np.random.default_rng(seed)
    box_A = water_box(n_molecules)
    system = water_system(n_molecules, box_A, rigid=False)
    barostat = openmm.MonteCarloBarostat(pressure_bar, temperature_K, 25)
    barostat.setRandomNumberSeed(seed + 1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(temperature_K, 1.0, timestep_fs / units.PS_IN_FS)
    integrator.setRandomNumberSeed(seed + 1)
    context = openmm.Context(system, integrator, *openmm_platform(platform, threads))
    context.setPositions(water_start(n_molecules, box_A, rng) / units.NM_IN_A)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 200)
    context.setVelocitiesToTemperature(temperature_K, seed + 1)

    every = max(1, round(100.0 / timestep_fs))
    skipped = round(equilibration_ps * units.PS_IN_FS / timestep_fs / every)
    kept = round(production_ps * units.PS_IN_FS / timestep_fs / every)
    densities = []
    for sample in range(skipped + kept):
        integrator.step(every)
        volume = context.getState().getPeriodicBoxVolume()._value * units.NM_IN_A**3
        if sample >= skipped:
            densities.append(n_molecules * WATER_MASS_AMU / volume * units.AMU_PER_A3_IN_G_PER_CM3)
        if progress is not None and (sample + 1) % 100 == 0:
            progress(sample + 1, skipped + kept, f"density {np.mean(densities or [np.nan]):.4f} g/cm³")
    mean, error = block_average(np.array(densities), n_blocks)
    return WaterDensity(
        density_g_per_cm3=mean,
        standard_error=error,
        n_blocks=n_blocks,
        n_molecules=n_molecules,
        temperature_K=temperature_K,
        pressure_bar=pressure_bar,
        timestep_fs=timestep_fs,
        equilibration_ps=equilibration_ps,
        production_ps=production_ps,
        seed=seed,
    )


def block_average(samples: NDArray[np.float64], n_blocks: int) -> tuple[float, float]:
    """Mean and standard error of correlated samples, from the means of equal blocks.

    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989), with one size of block: it must be much
    longer than the time over which samples remember each other.
    """
    blocks = np.array([block.mean() for block in np.array_split(samples, n_blocks)])
    return float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(n_blocks))


def main(arguments: list[str] | None = None) -> None:
    """Measure, with progress on stderr and the result as JSON on stdout."""
    parser = argparse.ArgumentParser(prog="python -m kinetograph.reference.water_density")
    parser.add_argument("--molecules", type=int, default=216)
    parser.add_argument("--equilibration-ps", type=float, default=50.0)
    parser.add_argument("--production-ps", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    measured = measure_water_density(
        n_molecules=given.molecules,
        equilibration_ps=given.equilibration_ps,
        production_ps=given.production_ps,
        seed=given.seed,
        platform=given.platform,
        threads=given.threads,
        progress=lambda done, total, text: print(f"{done}/{total} {text}", file=sys.stderr),  # noqa: T201
    )
    sys.stdout.write(json.dumps(asdict(measured), indent=2) + "\n")


if __name__ == "__main__":
    main()
