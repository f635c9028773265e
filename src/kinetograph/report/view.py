"""A trajectory made small enough to play inside a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from kinetograph import units
from kinetograph.bonds import molecules
from kinetograph.trajectory import Trajectory

MAX_FRAMES = 60
MAX_ATOM_FRAMES = 200_000
"""Large systems get fewer frames, so that a page stays below some megabytes."""
FINEST_A = 0.01
"""Positions are rounded to this, or to what sixteen bits resolve in a larger box."""


@dataclass(frozen=True)
class Scene:
    """Frames for display: molecules whole, their centres inside the cell."""

    numbers: NDArray[np.int64]
    """(n_atoms,)."""
    bonds: NDArray[np.int64]
    """(n_bonds, 2)."""
    positions: NDArray[np.float64]
    """(n_frames, n_atoms, 3) Å."""
    cells: NDArray[np.float64]
    """(n_frames, 3, 3) Å; zero rows where not periodic."""
    times_ps: NDArray[np.float64]
    """(n_frames,)."""

    def to_json(self) -> dict[str, Any]:
        """Positions as base64 of little-endian int16 multiples of ``resolution_A``."""
        resolution = max(FINEST_A, float(np.abs(self.positions).max()) / 32_000)
        packed = np.rint(self.positions / resolution).astype("<i2")
        elements, species = np.unique(self.numbers, return_inverse=True)
        return {
            "elements": [chemical_symbols[z] for z in elements],
            "species": species.tolist(),
            "bonds": self.bonds.reshape(-1).tolist(),
            "n_frames": len(self.positions),
            "resolution_A": resolution,
            "positions": base64.b64encode(packed.tobytes()).decode(),
            "cell": np.round(self.cells[0], 4).tolist() if np.any(self.cells[0]) else None,
            "times_ps": [float(f"{t:.6g}") for t in self.times_ps],
        }


def scene_of(trajectory: Trajectory) -> Scene:
    """At most :data:`MAX_FRAMES` evenly spaced frames, the first and the last among them."""
    n_shown = int(np.clip(MAX_ATOM_FRAMES // trajectory.n_atoms, 2, MAX_FRAMES))
    frames = np.unique(
        np.linspace(0, trajectory.n_frames - 1, min(n_shown, trajectory.n_frames)).astype(np.int64)
    )
    bonds = np.zeros((0, 2), dtype=np.int64) if trajectory.bonds is None else np.asarray(trajectory.bonds)
    cells = np.asarray(trajectory.cells[frames])
    times = trajectory.times_fs[frames] - trajectory.times_fs[0]
    return Scene(
        numbers=np.asarray(trajectory.atomic_numbers),
        bonds=bonds,
        positions=wrapped_molecules(np.asarray(trajectory.positions(frames)), cells, trajectory.pbc, bonds),
        cells=cells,
        times_ps=times / units.PS_IN_FS,
    )


def wrapped_molecules(
    positions: NDArray[np.float64],
    cells: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    bonds: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Positions with every molecule whole and its centre inside the cell.

    Args:
        positions: (n_frames, n_atoms, 3) Å.
        cells: (n_frames, 3, 3) Å.
        pbc: (3,) directions that are wrapped.
        bonds: (n_bonds, 2).
    """
    if not np.any(pbc):
        return positions
    n_atoms = positions.shape[1]
    ones = np.ones(len(bonds))
    graph = sparse.coo_array((ones, (bonds[:, 0], bonds[:, 1])), shape=(n_atoms, n_atoms)).tocsr()
    molecule = molecules(torch.as_tensor(bonds), n_atoms).numpy()
    n_molecules = int(molecule.max()) + 1
    # Missing cell vectors of directions that are not periodic are filled in, only to invert the matrix.
    full = np.where(np.asarray(pbc)[None, :, None], cells, np.eye(3))
    fractional = np.einsum("fak,fkl->fal", positions, np.linalg.inv(full))
    for parent, child in _outward(graph, molecule):
        step = fractional[:, child] - fractional[:, parent]
        fractional[:, child] -= np.rint(step) * np.asarray(pbc)
    size = np.bincount(molecule, minlength=n_molecules)
    centers = np.zeros((len(positions), n_molecules, 3))
    for frame, values in enumerate(fractional):
        np.add.at(centers[frame], molecule, values)
    centers /= size[None, :, None]
    fractional -= (np.floor(centers) * np.asarray(pbc))[:, molecule]
    return np.asarray(np.einsum("fak,fkl->fal", fractional, full))


def _outward(
    graph: sparse.csr_array, molecule: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Bonds as (parents, children), layer by layer outward from one atom of each molecule."""
    both = (graph + graph.T).tocsr()
    reached = np.zeros(len(molecule), dtype=bool)
    front = np.unique(molecule, return_index=True)[1].astype(np.int64)
    reached[front] = True
    layers = []
    while len(front):
        rows = both[front].tocoo()
        parent, child = front[rows.row], rows.col.astype(np.int64)
        new = ~reached[child]
        child, first = np.unique(child[new], return_index=True)
        parent = parent[new][first]
        reached[child] = True
        if len(child):
            layers.append((parent, child))
        front = child
    return layers
