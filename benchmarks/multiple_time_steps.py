"""A model with both kinds of forces: its conservative ones alone, and its direct ones inside them.

    OMP_NUM_THREADS=1 python benchmarks/multiple_time_steps.py MODEL.kg START.extxyz --temperature-K 300

Runs the first structures of a file in one batch at constant energy, and prints processor time per simulated
picosecond and the largest drift of the energy, as the heating of all degrees of freedom that it would be.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

import kinetograph as kg
from kinetograph import model_file
from kinetograph.data.frames import read_structures
from kinetograph.dynamics import TwoForces
from kinetograph.potential import LearnedPotential, Potential
from kinetograph.system import System


def run(potential: Potential, system: System, timestep_fs: float, length_ps: float, kelvin: float) -> str:
    """One line of the table."""
    began = time.process_time()
    result = kg.simulate(
        potential,
        system,
        kg.VelocityVerlet(timestep_fs),
        n_steps=round(1000.0 * length_ps / timestep_fs),
        initial_temperature_K=kelvin,
        seed=1,
        status=False,
    )
    cpu_s = (time.process_time() - began) / length_ps
    stopped = f", {len(result.failures)} stopped by a guard" if result.failures else ""
    return f"{cpu_s:8.2f} s/ps, drift {result.drift_K:+8.1f} K, {result.mean_temperature_K:.0f} K{stopped}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("--structures", type=int, default=16)
    parser.add_argument("--ratios", default="2,4,8")
    parser.add_argument("--timestep-fs", type=float, default=0.5, help="of the inner steps")
    parser.add_argument("--length-ps", type=float, default=1.0)
    parser.add_argument("--temperature-K", type=float, default=300.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = model_file.load(arguments.model)
    assert isinstance(model, LearnedPotential)
    system = System.from_ase(read_structures(arguments.start)[: arguments.structures])
    system = replace(system, velocities=None)
    settings = (arguments.length_ps, arguments.temperature_K)
    print("conservative", run(model, system, arguments.timestep_fs, *settings), flush=True)
    for ratio in (int(text) for text in arguments.ratios.split(",")):
        pair = TwoForces.of_heads(model, ratio)
        print(f"ratio {ratio:6d}", run(pair, system, ratio * arguments.timestep_fs, *settings), flush=True)


if __name__ == "__main__":
    main()
