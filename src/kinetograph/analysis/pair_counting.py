"""g(r) from trajectories: pairs of atoms counted by their distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from kinetograph.analysis.frames import frames_after, require_same_atoms
from kinetograph.analysis.rdf import Kind, RadialDistribution
from kinetograph.bonds import molecules
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

BIN_WIDTH_A = 0.05
LARGEST_R_A = 15.0
"""Default limit of r in large boxes; otherwise half the smallest height of the box."""
N_BLOCKS = 5
"""Time blocks per trajectory."""
PAIRS_PER_FRAME = 2_000_000
"""In larger systems a random subset of atoms serves as centres, so that a frame costs this many pairs."""
CENTER_SEED = 7
FRAMES_PER_READ = 32


def radial_distributions(
    trajectories: Sequence[Trajectory],
    *,
    r_max_A: float | None = None,
    bin_width_A: float = BIN_WIDTH_A,
    skip_fs: Sequence[float] | float = 0.0,
    max_frames: int = 500,
    n_blocks: int = N_BLOCKS,
) -> list[RadialDistribution]:
    """Partial radial distribution functions of every pair of elements.

    Where the trajectories know their bonds and some bond exists, each pair comes twice: over all pairs of
    atoms, and over those of different molecules.

    Args:
        trajectories: runs of the same atoms; any cell periodic in three directions, also a changing one.
        r_max_A: largest distance; by default half the smallest height of the box over all frames, at most
            :data:`LARGEST_R_A`.
        bin_width_A: width of a bin.
        skip_fs: time left out at the start of each trajectory.
        max_frames: at most so many evenly spaced frames of each trajectory are read.
        n_blocks: time blocks per trajectory.

    Raises:
        UserError: the box is not periodic in three directions, trajectories hold different atoms, nothing is
            left after ``skip_fs``, or ``r_max_A`` is no length or more than half the smallest height of the
            box.
    """
    require_same_atoms(trajectories)
    require_length("r_max_A", r_max_A)
    require_length("bin_width_A", bin_width_A)
    first = trajectories[0]
    numbers = np.asarray(first.atomic_numbers, dtype=np.int64)
    for trajectory in trajectories:
        if not bool(np.all(trajectory.pbc)):
            raise UserError(
                "g(r) needs a box that is periodic in three directions", where=str(trajectory.path)
            )
    skips = [skip_fs] * len(trajectories) if isinstance(skip_fs, int | float) else list(skip_fs)
    chosen = [frames_after(t, skip, max_frames) for t, skip in zip(trajectories, skips, strict=True)]
    cells = [t.cells[frames] for t, frames in zip(trajectories, chosen, strict=True)]
    largest = min(0.5 * float(heights(cell).min()) for cell in cells)
    reach = min(largest, LARGEST_R_A) if r_max_A is None else r_max_A
    if reach > largest + 1e-9:
        raise UserError(
            f"r_max_A = {reach:g} is more than half the smallest height of the box, {largest:.4g} Å",
            mend="Beyond that an atom meets its own images; choose a smaller one or a larger box.",
        )
    n_bins = int(np.floor(reach / bin_width_A + 1e-9))
    if n_bins < 2:
        raise UserError(f"bins of {bin_width_A:g} Å are too wide for distances up to {reach:.4g} Å")
    labels = None
    if first.bonds is not None and len(first.bonds):
        labels = molecules(torch.as_tensor(first.bonds), len(numbers)).numpy()
    count = _PairCount(numbers, labels, bin_width_A, n_bins)

    blocks: list[NDArray[np.float64]] = []
    index: list[int] = []
    sizes: list[int] = []
    for run, (trajectory, frames, boxes) in enumerate(zip(trajectories, chosen, cells, strict=True)):
        n_parts = min(n_blocks, len(frames))
        sums = np.zeros((n_parts, *count.shape))
        filled = np.zeros(n_parts)
        for start in range(0, len(frames), FRAMES_PER_READ):
            part = frames[start : start + FRAMES_PER_READ]
            for offset, positions in enumerate(trajectory.positions(part)):
                block = (start + offset) * n_parts // len(frames)
                sums[block] += count(positions, boxes[start + offset])
                filled[block] += 1
        blocks.extend(np.divide(sums, filled[:, None, None, None, None]))
        index.extend([run] * n_parts)
        sizes.extend(int(size) for size in filled)

    r = np.asarray((np.arange(n_bins) + 0.5) * bin_width_A, dtype=np.float64)
    stacked = np.stack(blocks)
    return [
        RadialDistribution(
            (chemical_symbols[a], chemical_symbols[b]),
            kind,
            r,
            stacked[:, which, i, j],
            np.array(index),
            np.array(sizes),
        )
        for which, kind in enumerate(count.kinds)
        for i, a in enumerate(count.elements)
        for j, b in enumerate(count.elements)
        if i <= j and count.possible[which, i, j]
    ]


def require_length(name: str, value: float | None) -> None:
    """Raise ``UserError`` unless the value is a positive finite number or ``None``."""
    if value is not None and not 0.0 < value < np.inf:
        raise UserError(f"{name} is {value}", where=name, mend="It must be a positive number of Å.")


def heights(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) Å: distances between opposite faces of cells (..., 3, 3)."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cells), axis=-2))


class _PairCount:
    """g(r) of single frames, for every ordered pair of elements at once."""

    def __init__(
        self, numbers: NDArray[np.int64], labels: NDArray[np.int64] | None, bin_width: float, n_bins: int
    ) -> None:
        # by atomic number with hydrogen last, so that pairs are named as people name them: O–H, Na–Cl
        self.elements = np.array(sorted({int(z) for z in numbers}, key=lambda z: (z == 1, z)))
        self.species = np.argmax(numbers[:, None] == self.elements, axis=1)
        self.labels = labels
        self.kinds: tuple[Kind, ...] = ("all",) if labels is None else ("all", "intermolecular")
        self.bin_width, self.n_bins = bin_width, n_bins
        n_elements, n_atoms = len(self.elements), len(numbers)
        self.shape = (len(self.kinds), n_elements, n_elements, n_bins)
        edges = np.arange(n_bins + 1) * bin_width
        self.shells = 4.0 * np.pi / 3.0 * np.diff(edges**3)
        # partners[kind, atom, element]: how many atoms of an element this atom can be paired with
        per_element = np.bincount(self.species, minlength=n_elements)
        partners = np.tile(per_element, (len(self.kinds), n_atoms, 1))
        partners[0, np.arange(n_atoms), self.species] -= 1
        if labels is not None:
            inside = np.zeros((labels.max() + 1, n_elements), dtype=np.int64)
            np.add.at(inside, (labels, self.species), 1)
            partners[1] -= inside[labels]
        self.partners = partners
        self.possible = np.stack(
            [[k[self.species == e].sum(axis=0) > 0 for e in range(n_elements)] for k in partners]
        )
        self.random = np.random.default_rng(CENTER_SEED)
        self.n_centers = min(n_atoms, max(100, PAIRS_PER_FRAME // n_atoms))

    def __call__(self, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_kinds, n_elements, n_elements, n_bins) of one frame.

        Within half the smallest height of the cell, rounding fractional differences finds the one image that
        can be so near: a vector shorter than that has all fractional components below 1/2.
        """
        n_elements, n_atoms = len(self.elements), len(positions)
        fractional = np.ascontiguousarray((positions @ np.linalg.inv(cell)).T)
        centers = self._centers(n_atoms)
        counts = np.zeros((2, n_elements, n_elements, self.n_bins))
        rows = max(1, 200_000 // n_atoms)
        for start in range(0, len(centers), rows):
            center = centers[start : start + rows]
            delta = fractional[:, None, :] - fractional[:, center, None]
            delta -= np.rint(delta)
            vectors = np.tensordot(cell.T, delta, axes=1)
            distance = np.sqrt(np.einsum("kij,kij->ij", vectors, vectors))
            row, neighbor = np.nonzero(distance < self.n_bins * self.bin_width)
            itself = center[row] == neighbor
            row, neighbor = row[~itself], neighbor[~itself]
            atom = center[row]
            bins = np.minimum((distance[row, neighbor] / self.bin_width).astype(np.int64), self.n_bins - 1)
            key = (self.species[atom] * n_elements + self.species[neighbor]) * self.n_bins + bins
            if self.labels is not None:
                key += (self.labels[atom] == self.labels[neighbor]) * (n_elements**2 * self.n_bins)
            counts += np.bincount(key, minlength=counts.size).reshape(counts.shape)
        found = np.stack([counts.sum(axis=0), counts[0]][: len(self.kinds)])
        pairs = np.zeros(self.shape[:-1])
        for element in range(n_elements):
            pairs[:, element] = self.partners[:, centers[self.species[centers] == element]].sum(axis=1)
        # a–b and b–a are one function, seen from both sides
        found, pairs = found + found.swapaxes(1, 2), pairs + pairs.swapaxes(1, 2)
        volume = abs(float(np.linalg.det(cell)))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(found * volume / (pairs[..., None] * self.shells))

    def _centers(self, n_atoms: int) -> NDArray[np.int64]:
        """All atoms, or in a large system a random subset with the same share of every element."""
        if self.n_centers == n_atoms:
            return np.arange(n_atoms)
        share = self.n_centers / n_atoms
        parts = []
        for element in range(len(self.elements)):
            members = np.nonzero(self.species == element)[0]
            parts.append(self.random.choice(members, max(1, round(share * len(members))), replace=False))
        return np.sort(np.concatenate(parts))
