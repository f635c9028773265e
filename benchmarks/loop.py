"""What the run loop costs beside the forces, and what a replica costs in a batch.

    OMP_NUM_THREADS=1 python benchmarks/loop.py

The first table is of 256 argon atoms with forces that cost nothing: integrator, guards and loop are left.
The second is of Lennard-Jones argon, 64 atoms a replica, under Nosé–Hoover chains. Least of several.
"""

from __future__ import annotations

import time

import torch
from ase.build import bulk

import kinetograph as kg
from kinetograph.dynamics import DEFAULT_GUARDS
from kinetograph.models.classical import LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Prediction
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    overhead()
    replicas()
