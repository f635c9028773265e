"""A million steps of Lennard-Jones argon at constant energy: does the energy drift, does memory grow?

    OMP_NUM_THREADS=1 python benchmarks/long_run.py FOLDER

64 atoms as in ``argon.py``, 2 fs, guards on, a frame every 1000 steps. The energy is that of the frames;
memory is what the process has resident, read from Linux's ``/proc``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from argon import CUTOFF_A, EPSILON_EV, SIGMA_A, TIMESTEP_FS, lattice

import kinetograph as kg
from kinetograph import units
from kinetograph.dynamics import State
from kinetograph.models.classical import LennardJones
from kinetograph.trajectory import Trajectory


def resident_MB() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Memory:
    """Prints what is resident now and then."""

    every = 100_000

    def report(self, state: State) -> None:
        print(f"step {state.step:8d}: {resident_MB():.1f} MB, {time.process_time():.0f} s", flush=True)

    def close(self) -> None:
        pass


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    potential = LennardJones(
        epsilon=EPSILON_EV,
        sigma=SIGMA_A,
        cutoff=CUTOFF_A,
        truncation="switch",
        switch_start=0.9 * CUTOFF_A,
    )
    system = kg.System.from_ase(lattice(4))
    path = arguments.folder / "long_run.h5"
    result = kg.simulate(
        potential,
        system,
        kg.VelocityVerlet(TIMESTEP_FS),
        n_steps=arguments.steps,
        path=path,
        every=1000,
        overwrite=True,
        reporters=[Memory()],
        status=False,
    )
    with Trajectory.open(path) as trajectory:
        energy, time_ns = trajectory.observables["conserved_eV"], trajectory.times_fs * 1e-6
    slope = float(np.polyfit(time_ns, energy, 1)[0])
    degrees = 3 * system.n_atoms - 3
    kelvin = 2.0 / (degrees * units.BOLTZMANN_EV_PER_K)
    print(
        f"{result.n_steps} steps, {result.wall_s:.0f} s of wall time, {result.mean_temperature_K:.1f} K; "
        f"from the first frame to the last {1e6 * (energy[-1] - energy[0]):+.2f} µeV "
        f"({kelvin * (energy[-1] - energy[0]):+.1e} K), slope {1e6 * slope:+.2f} µeV/ns "
        f"({kelvin * slope:+.1e} K/ns), standard deviation {1e6 * energy.std():.2f} µeV"
    )


if __name__ == "__main__":
    main()
