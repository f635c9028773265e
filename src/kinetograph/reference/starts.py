"""Where the atoms of a reference run begin, before minimisation and equilibration."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from kinetograph.reference.openmm_systems import ANGLE_RAD, BOND_LENGTH_A
from kinetograph.rotations import rotations_of

Array = NDArray[np.float64]


def lattice_points(n_points: int, box_A: float, rng: np.random.Generator) -> Array:
    """(n_points, 3) Å: different sites of the smallest cubic lattice that has room, chosen by chance."""
    per_side = math.ceil(math.cbrt(n_points) - 1e-9)
    axis = (np.arange(per_side) + 0.5) * (box_A / per_side)
    sites = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen: Array = sites[np.sort(rng.permutation(len(sites))[:n_points])]
    return chosen


def argon_start(n_atoms: int, box_A: float, rng: np.random.Generator) -> Array:
    """(n_atoms, 3) Å: a lattice with vacancies, every atom moved by up to a tenth of the spacing."""
    points = lattice_points(n_atoms, box_A, rng)
    spacing = box_A / math.ceil(math.cbrt(n_atoms) - 1e-9)
    return points + rng.uniform(-0.1, 0.1, points.shape) * spacing


def water_start(n_molecules: int, box_A: float, rng: np.random.Generator) -> Array:
    """(3 n_molecules, 3) Å, O, H, H: molecules turned by chance, on a lattice with vacancies."""
    oxygens = lattice_points(n_molecules, box_A, rng)
    half = 0.5 * ANGLE_RAD
    molecule = BOND_LENGTH_A * np.array(
        [[0.0, 0.0, 0.0], [math.sin(half), 0.0, math.cos(half)], [-math.sin(half), 0.0, math.cos(half)]]
    )
    rotations = rotations_of(torch.from_numpy(rng.normal(size=(n_molecules, 4)))).numpy()
    turned = np.einsum("mij,aj->mai", rotations, molecule)
    return np.reshape(oxygens[:, None, :] + turned, (-1, 3))


def tiles_per_side(n_molecules: int) -> int:
    """How many small boxes of at least 125 molecules go along an edge: 1 for less than 1000 molecules."""
    return max(1, math.floor(math.cbrt(n_molecules / 125) + 1e-9))


def tiled_water(
    tile: Array, tile_box_A: float, per_side: int, n_molecules: int, box_A: float, rng: np.random.Generator
) -> Array:
    """(3 n_molecules, 3) Å: copies of a small periodic box of water, without the molecules too many.

    Which molecules go is left to chance; they are less than one for each copy. The others move as a
    whole, a little together, so that the box fits.

    Args:
        tile: (3 n, 3) Å, O, H, H, molecules whole.
    """
    molecules = tile.reshape(-1, 3, 3)
    axis = np.arange(per_side) * tile_box_A
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 1, 3)
    copies = (corners + molecules).reshape(-1, 3, 3)
    kept = copies[np.sort(rng.permutation(len(copies))[:n_molecules])]
    oxygens = kept[:, :1]
    return np.reshape(oxygens * (box_A / (per_side * tile_box_A)) + (kept - oxygens), (-1, 3))
