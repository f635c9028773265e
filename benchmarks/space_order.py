"""What the order of atoms in memory costs a force call, and what computing in the order of space gives back.

    OMP_NUM_THREADS=1 python benchmarks/space_order.py --atoms 12255,72279

Boxes of water whose molecules stand as they were made, one lattice plane after the other; whose molecules are
shuffled; and whose atoms are. Processor time on one thread, medians, the two ways in turns.
"""

from __future__ import annotations

import argparse
import time

import ase
import numpy as np
import torch

from kinetograph import space
from kinetograph.benchmark.cases import CASES
from kinetograph.benchmark.structures import water
from kinetograph.neighbors import NeighborList
from kinetograph.system import System

SKIN_A = 0.5
NEVER = 1_000_000_000


def orders(n_atoms: int) -> dict[str, ase.Atoms]:
    """One box, its atoms in three orders."""
    atoms = water(n_atoms).to_ase()[0]
    random = np.random.default_rng(0)
    molecules = np.arange(len(atoms)).reshape(-1, 3)
    return {
        "as made": atoms,
        "molecules shuffled": atoms[random.permutation(molecules).flatten()],
        "atoms shuffled": atoms[random.permutation(len(atoms))],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--atoms", default="6282,12255,72279")
    parser.add_argument("--cases", default="painn,painn conservative")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    fewest = space.FEWEST_ATOMS
    print("| atoms | model | order | as it is, ms | in the order of space, ms | gain | choosing it, ms |")
    print("|---|---|---|---|---|---|---|")
    for n_atoms in (int(text) for text in arguments.atoms.split(",")):
        for name in arguments.cases.split(","):
            potential = CASES[name].potential()
            for order, atoms in orders(n_atoms).items():
                system = System.from_ase(atoms)
                lists = [NeighborList.build(system, potential.request.cutoff, skin=SKIN_A) for _ in range(2)]
                spent: list[list[float]] = [[], []]
                with torch.no_grad():
                    for _ in range(arguments.rounds + 1):  # the first warms up
                        for way, limit in enumerate((NEVER, fewest)):
                            space.FEWEST_ATOMS = limit
                            potential(system, lists[way])  # an order is chosen once for a list
                            began = time.process_time()
                            potential(system, lists[way])
                            spent[way].append(time.process_time() - began)
                    began = time.process_time()
                    space.SpaceOrder.of(system, lists[1])
                    choosing = time.process_time() - began
                plain, ordered = (1e3 * float(np.median(times[1:])) for times in spent)
                print(
                    f"| {len(atoms):,} | {name} | {order} | {plain:.0f} | {ordered:.0f} "
                    f"| {plain / ordered:.2f} | {1e3 * choosing:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
