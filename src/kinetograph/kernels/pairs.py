"""Classical pair potentials in compiled code."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetograph.kernels.native import Library, require


@dataclass(frozen=True)
class PairSums:
    """What all pairs add up to, in double precision."""

    forces: Tensor
    """(n_atoms, 3) eV/Å."""
    energies: Tensor
    """(n_atoms,) eV: half of every pair's to each of its atoms."""
    virial: Tensor
    """(n_systems, 3, 3) eV."""
    shortest: float
    """Å² of the shortest pair."""
    shortest_pair: int


def lennard_jones(
    library: Library,
    first: Tensor,
    second: Tensor,
    shift: Tensor,
    positions: Tensor,
    cells: Tensor,
    system_index: Tensor | None,
    *,
    epsilon: float,
    sigma: float,
    cutoff: float,
    taken_off: float,
    switch_start: float | None,
) -> PairSums:
    """4ε [(σ/r)¹² − (σ/r)⁶] minus a constant, times a switching function, over pairs looked at once.

    Args:
        first, second: (n_pairs,) int64, those of one ``first`` together.
        shift: (n_pairs, 3) float64.
        positions: (n_atoms, 3) float64.
        cells: (n_systems, 3, 3) float64.
        system_index: (n_atoms,) int64; ``None``: a single structure.
        taken_off: eV, off the energy of every pair within the cutoff.
        switch_start: Å; ``None``: no switch.
    """
    require(torch.float64, shift, positions, cells)
    require(torch.int64, first, second, system_index)
    n_atoms = len(positions)
    sums = torch.zeros(4 * n_atoms + 9 * len(cells), dtype=torch.float64)
    forces, energies, virial = sums[: 3 * n_atoms], sums[3 * n_atoms : 4 * n_atoms], sums[4 * n_atoms :]
    parameters = (ctypes.c_double * 5)(
        4.0 * epsilon, sigma, cutoff, taken_off, 2.0 * cutoff if switch_start is None else switch_start
    )
    shortest, shortest_pair = ctypes.c_double(), ctypes.c_int64()
    library(
        "kg_lennard_jones",
        len(first),
        *(first, second, shift, positions.contiguous(), cells.contiguous(), system_index),
        parameters,
        *(forces, energies, virial),
        ctypes.byref(shortest),
        ctypes.byref(shortest_pair),
    )
    return PairSums(
        forces.view(n_atoms, 3), energies, virial.view(-1, 3, 3), shortest.value, shortest_pair.value
    )
