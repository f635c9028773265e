"""Lennard-Jones argon in kinetograph, ASE, OpenMM and torch-sim: ns/day side by side, in one run.

    OMP_NUM_THREADS=1 python benchmarks/argon.py --torch-sim PYTHON

``PYTHON`` is the interpreter of an environment of its own that has torch-sim; left out, it is left out.
Every engine makes the same steps: NVE, 2 fs, from the same rattled cubic lattice, pairs cut at 6.8 Å (2 σ: a
box of 64 atoms allows no more). torch-sim draws velocities of its own at the same temperature.
Engines take turns, several rounds; the median counts. All compute on one thread: kinetograph, ASE and
torch-sim in double precision, OpenMM on its CPU platform in its mixed one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.build import bulk

EPSILON_EV, SIGMA_A, CUTOFF_A = 0.0103408, 3.4, 6.8
TIMESTEP_FS = 2.0
KELVIN = 90.0
SPACING_A = 3.41
Advance = Callable[[int], None]


def lattice(n_side: int) -> ase.Atoms:
    """n_side³ atoms with velocities, at the density of the liquid; the lattice melts at once."""
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary

    atoms = bulk("Ar", "sc", SPACING_A) * n_side
    atoms.rattle(0.05, seed=1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=np.random.default_rng(2))
    Stationary(atoms)
    return atoms


def with_kinetograph(atoms: ase.Atoms) -> Advance:
    """The run loop, its guards included."""
    import torch

    import kinetograph as kg
    from kinetograph.models.classical import LennardJones

    torch.set_num_threads(1)
    potential = LennardJones(
        epsilon=EPSILON_EV,
        sigma=SIGMA_A,
        cutoff=CUTOFF_A,
        truncation="switch",
        switch_start=0.9 * CUTOFF_A,
    )
    system = kg.System.from_ase(atoms)

    def advance(n_steps: int) -> None:
        nonlocal system
        result = kg.simulate(potential, system, kg.VelocityVerlet(TIMESTEP_FS), n_steps=n_steps, status=False)
        system = result.state.system

    return advance


def with_ase(atoms: ase.Atoms) -> Advance:
    from ase import units
    from ase.calculators.lj import LennardJones
    from ase.md.verlet import VelocityVerlet

    atoms = atoms.copy()
    atoms.calc = LennardJones(sigma=SIGMA_A, epsilon=EPSILON_EV, rc=CUTOFF_A, ro=0.9 * CUTOFF_A, smooth=True)
    dynamics = VelocityVerlet(atoms, TIMESTEP_FS * units.fs)
    return lambda n_steps: dynamics.run(n_steps) and None


def with_openmm(atoms: ase.Atoms) -> Advance:
    import openmm
    from openmm import unit

    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(0.1 * atoms.cell.array))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.1 * CUTOFF_A)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(0.09 * CUTOFF_A)
    force.setUseDispersionCorrection(False)
    for mass in atoms.get_masses():
        system.addParticle(mass)
        force.addParticle(0.0, 0.1 * SIGMA_A, EPSILON_EV * 96.48533212331)
    system.addForce(force)
    integrator = openmm.VerletIntegrator(TIMESTEP_FS * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(0.1 * atoms.positions)
    context.setVelocities(atoms.get_velocities() * 10.180505 * 10.0)  # Å over ASE's time to nm/ps

    def advance(n_steps: int) -> None:
        integrator.step(n_steps)
        context.getState(getEnergy=True).getPotentialEnergy()  # wait for the steps

    return advance


def with_torch_sim(atoms: ase.Atoms, python: str) -> Advance:
    """A process of its own that is told how many steps to make."""
    folder = Path(__file__).parent
    process = subprocess.Popen(
        [python, str(folder / "argon_torch_sim.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    versions = ask(
        {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "sigma": SIGMA_A,
            "epsilon": EPSILON_EV,
            "cutoff": CUTOFF_A,
            "timestep_fs": TIMESTEP_FS,
        }
    )
    print(f"torch-sim {versions['torch_sim']}, torch {versions['torch']}", file=sys.stderr)
    return lambda n_steps: ask({"n_steps": n_steps}) and None


def measure(engines: dict[str, Advance], rounds: int, seconds: float) -> dict[str, float]:
    """Median seconds a step; engines take turns."""
    n_steps = {}
    for name, advance in engines.items():
        advance(5)  # lists, code
        began = time.perf_counter()
        advance(10)
        n_steps[name] = max(10, int(seconds / ((time.perf_counter() - began) / 10)))
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, advance in engines.items():
            began = time.perf_counter()
            advance(n_steps[name])
            times[name].append((time.perf_counter() - began) / n_steps[name])
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", default="4,6,10,16,22", help="n³ atoms each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--torch-sim", help="interpreter of an environment with torch-sim")
    parser.add_argument("--engines", default="kinetograph,ase,openmm")
    parser.add_argument("--json", type=Path, help="write the figures")
    arguments = parser.parse_args()
    makers: dict[str, Callable[[ase.Atoms], Advance]] = {
        "kinetograph": with_kinetograph,
        "ase": with_ase,
        "openmm": with_openmm,
    }
    rows = []
    for n_side in (int(side) for side in arguments.sides.split(",")):
        atoms = lattice(n_side)
        engines = {name: makers[name](atoms) for name in arguments.engines.split(",")}
        if arguments.torch_sim:
            engines["torch-sim"] = with_torch_sim(atoms, arguments.torch_sim)
        for name, step_s in measure(engines, arguments.rounds, arguments.seconds).items():
            ns_per_day = 86400.0 / step_s * TIMESTEP_FS * 1e-6
            rows.append(
                {"engine": name, "n_atoms": len(atoms), "step_ms": 1e3 * step_s, "ns_per_day": ns_per_day}
            )
            print(
                f"{len(atoms):6d} {name:12s} {1e3 * step_s:9.3f} ms/step {ns_per_day:9.3g} ns/day", flush=True
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": platform.machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
