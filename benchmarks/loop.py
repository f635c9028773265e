"""What the run loop costs beside the forces, and what a replica costs in a batch.

    OMP_NUM_THREADS=1 python benchmarks/loop.py

The first table is of 256 argon atoms with forces that cost nothing: integrator, guards and loop are left.
The second is of 258 molecules of water with the preset ``gamd`` (width 128, four layers, weights by chance):
the share of a step that is not the model's. The third is of Lennard-Jones argon, 64 atoms a replica, under
Nosé–Hoover chains. Least of several, in processor time.
"""

from __future__ import annotations

import argparse
import time

import ase
import numpy as np
import torch
from ase.build import bulk

import kinetograph as kg
from kinetograph.dynamics import DEFAULT_GUARDS
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import PRESETS, build
from kinetograph.models.classical import LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
from kinetograph.reference.openmm_systems import water_bonds, water_box, water_numbers
from kinetograph.reference.starts import water_start
from kinetograph.system import batch

KELVIN = 90.0


class Free(kg.Potential):
    """No forces, made beforehand."""

    gives_energy = True

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.request = kg.GraphRequest(cutoff=5.0)
        self.answer = Prediction(
            forces=torch.zeros(n_atoms, 3, dtype=torch.float64),
            conservative=True,
            energy=torch.zeros(1, dtype=torch.float64),
            stress=torch.zeros(1, 3, 3, dtype=torch.float64),
        )

    def forward(self, system: kg.System, neighbors: NeighborList) -> Prediction:
        return self.answer


def overhead() -> None:
    """Print milliseconds a step without forces."""
    atoms = bulk("Ar", "fcc", 5.4, cubic=True) * 4
    system, free = kg.System.from_ase(atoms), Free(len(atoms))
    integrators = {
        "velocity Verlet": kg.VelocityVerlet(0.2),
        "Nosé–Hoover": kg.NoseHoover(0.2, KELVIN),
        "Langevin": kg.Langevin(0.2, KELVIN),
        "Bussi": kg.Bussi(0.2, KELVIN),
    }
    for name, integrator in integrators.items():
        row = []
        for guards in (DEFAULT_GUARDS, ()):
            times = []
            for _ in range(8):
                began = time.process_time()
                kg.simulate(
                    free,
                    system,
                    integrator,
                    n_steps=400,
                    initial_temperature_K=KELVIN,
                    status=False,
                    guards=guards,
                )
                times.append((time.process_time() - began) / 400)
            row.append(1e3 * min(times))
        print(f"{name:16s} {row[0]:.3f} ms/step, without guards {row[1]:.3f}", flush=True)


class Timed(kg.Potential):
    """Another potential, and the processor time that it takes."""

    def __init__(self, inner: kg.Potential) -> None:
        super().__init__()
        self.inner = inner
        self.request = inner.request
        self.seconds = 0.0

    def forward(self, system: kg.System, neighbors: NeighborList) -> Prediction:
        began = time.process_time()
        prediction: Prediction = self.inner(system, neighbors)
        self.seconds += time.process_time() - began
        return prediction


def gamd() -> LearnedPotential:
    """The paper's size for water; forces so small that the start lasts."""
    torch.manual_seed(0)
    sizes = {"cutoff": 4.2, "max_bond_separation": 2, **PRESETS["gamd"].hyperparameters}
    potential = build("gamd", [1, 8], sizes)
    potential.force_scale.fill_(1e-4)
    return potential


def share(compiled: bool) -> None:
    """Print how much of a step with GAMD is integrator, thermostat, guards, neighbour list and loop."""
    n_molecules, n_steps, kelvin = 258, 40, 300.0
    box = water_box(n_molecules)
    atoms = ase.Atoms(
        water_numbers(n_molecules),
        positions=water_start(n_molecules, box, np.random.default_rng(0)),
        cell=[box] * 3,
        pbc=True,
    )
    atoms.info["bonds"] = water_bonds(n_molecules)
    system, potential = kg.System.from_ase(atoms), gamd()
    if compiled:
        potential.use_compiler()
    for name, integrator in {
        "Nosé–Hoover": kg.NoseHoover(0.25, kelvin),
        "Langevin": kg.Langevin(0.25, kelvin, friction_per_ps=10.0),
    }.items():
        rows = []
        for _ in range(5):
            timed = Timed(potential)
            state = integrator.init(system, timed, 0)  # code is compiled, memory is there
            timed.seconds = 0.0
            began = time.process_time()
            kg.simulate(
                timed, system, integrator, n_steps=n_steps, initial_temperature_K=kelvin, status=False
            )
            rows.append(((time.process_time() - began) / n_steps, timed.seconds / n_steps))
        whole, model = min(rows)
        print(
            f"GAMD, {system.n_atoms} atoms, {state.neighbors.n_edges} listed edges, {name:12s} "
            f"{1e3 * whole:.1f} ms/step, {1e3 * (whole - model):.2f} not the model's: "
            f"{1e2 * (1.0 - model / whole):.1f} %",
            flush=True,
        )


def replicas() -> None:
    """Print milliseconds a step of batches."""
    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=6.8, truncation="switch", switch_start=6.0)
    atoms = bulk("Ar", "sc", 3.41) * 4
    atoms.rattle(0.05, seed=1)
    for n in (1, 4, 16, 64):
        times = []
        for _ in range(3):
            began = time.process_time()
            kg.simulate(
                potential,
                batch([kg.System.from_ase(atoms)] * n),
                kg.NoseHoover(2.0, KELVIN),
                n_steps=60,
                status=False,
            )
            times.append((time.process_time() - began) / 60)
        step = 1e3 * min(times)
        print(f"{n:3d} replicas {step:7.2f} ms/step, {step / n:.3f} a replica", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", default="overhead,share,replicas", help="which of them")
    parser.add_argument("--compile", action="store_true", help="compile GAMD")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = arguments.tables.split(",")
    if "overhead" in tables:
        overhead()
    if "share" in tables:
        share(arguments.compile)
    if "replicas" in tables:
        replicas()


if __name__ == "__main__":
    main()
