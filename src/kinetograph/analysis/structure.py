"""Radial distribution functions with error bands, and how two of them compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from kinetograph.analysis.statistics import t_factor
from kinetograph.bonds import molecules
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

Kind = Literal["all", "intermolecular"]

BIN_WIDTH_A = 0.05
LARGEST_R_A = 15.0
"""Default limit of r in large boxes; otherwise half the smallest height of the box."""
N_BLOCKS = 5
"""Time blocks per trajectory."""
PAIRS_PER_FRAME = 2_000_000
"""In larger systems a random subset of atoms serves as centres, so that a frame costs this many pairs."""
CENTER_SEED = 7
FRAMES_PER_READ = 32


@dataclass(frozen=True)
class FirstPeak:
    """The first maximum of g(r), from a parabola through its top; errors by leaving out block after block."""

    position: float
    """Å."""
    height: float
    position_error: float
    """Å, one standard error."""
    height_error: float

    def to_json(self) -> dict[str, float]:
        return {
            "position_A": self.position,
            "height": self.height,
            "position_error_A": self.position_error,
            "height_error": self.height_error,
        }


@dataclass(frozen=True)
class RadialDistribution:
    """One partial radial distribution function.

    With N pairs of atoms of the two elements in the volume V, and n(r) of them in the shell between
    r ± Δr/2, g(r) = n(r) V / (N · 4π/3 · ((r+Δr/2)³ − (r−Δr/2)³)), averaged over frames. N counts the pairs
    that could be found: N_a (N_a − 1) for one element with itself, N_a N_b for two, and without the pairs
    inside one molecule for ``intermolecular``. An ideal gas therefore has g = 1 at every size.
    """

    elements: tuple[str, str]
    kind: Kind
    r: NDArray[np.float64]
    """(n_bins,) Å: the middle of each bin."""
    blocks: NDArray[np.float64]
    """(n_blocks, n_bins): g(r) of each time block of each trajectory."""
    trajectory_index: NDArray[np.int64]
    """(n_blocks,): from which trajectory a block is."""
    block_frames: NDArray[np.int64] | None = None
    """(n_blocks,): frames in each block, its weight in every average; ``None``: all alike."""

    @property
    def name(self) -> str:
        return f"{self.elements[0]}–{self.elements[1]}"

    @property
    def g(self) -> NDArray[np.float64]:
        """(n_bins,)."""
        return np.asarray(self.weights @ self.blocks)

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n_blocks,): the share of each block in averages; they sum to 1."""
        frames = np.ones(len(self.blocks)) if self.block_frames is None else self.block_frames
        return np.asarray(frames / frames.sum())

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """(n_bins,): standard deviation of the blocks over sqrt(n_blocks), widened where blocks are related.

        Where there are at least three trajectories and their means differ by more than independent blocks
        would, the whole curve is multiplied by the root of that ratio of variances (averaged over r). NaN for
        a single block.
        """
        if self.n_blocks < 2:
            return np.full(len(self.r), np.nan)
        weights, deviations = self.weights, self.blocks - self.g
        variance = weights**2 @ deviations**2 * (self.n_blocks / (self.n_blocks - 1))
        runs = np.unique(self.trajectory_index)
        if len(runs) >= 3 and self.n_blocks > len(runs):
            summed = [
                (weights[:, None] * deviations)[self.trajectory_index == run].sum(axis=0) for run in runs
            ]
            between = (np.stack(summed) ** 2).sum(axis=0) * (len(runs) / (len(runs) - 1))
            if variance.sum() > 0:
                variance = variance * max(1.0, float(between.sum() / variance.sum()))
        return np.asarray(np.sqrt(variance))

    @property
    def band(self) -> NDArray[np.float64]:
        """(n_bins,): half-width of the 95 % band, Student's t times the standard error."""
        return self.standard_error * t_factor(self.n_blocks)

    def first_peak(self) -> FirstPeak | None:
        """The first maximum, or ``None`` where no peak stands out of the noise."""
        found = _peak(self.r, self.g)
        if found is None:
            return None
        position_error = height_error = float("nan")
        n = self.n_blocks
        if n >= 2:
            left_out = [
                _peak(self.r, (self.g - weight * block) / (1.0 - weight), near=found[0])
                for weight, block in zip(self.weights, self.blocks, strict=True)
            ]
            peaks = np.array([peak for peak in left_out if peak is not None])
            if len(peaks) == n:
                position_error, height_error = np.sqrt(
                    (n - 1) / n * ((peaks - peaks.mean(axis=0)) ** 2).sum(axis=0)
                )
        return FirstPeak(found[0], found[1], float(position_error), float(height_error))

    def to_json(self) -> dict[str, Any]:
        peak = self.first_peak()
        return {
            "pair": self.name,
            "kind": self.kind,
            "r_A": [round(float(x), 5) for x in self.r],
            "g": _rounded(self.g),
            "standard_error": _rounded(self.standard_error),
            "band95": _rounded(self.band),
            "n_blocks": self.n_blocks,
            "first_peak": None if peak is None else peak.to_json(),
        }


@dataclass(frozen=True)
class RdfComparison:
    """How far one g(r) lies from a reference."""

    mae: float
    """Mean of |Δg(r)| over all bins of the common range."""
    mean_band: float
    """Mean over r of the half-width of the combined 95 % band: the two bands added in squares."""
    share_within_band: float
    """Share of bins with |Δg| inside that band, among those where either g is not zero."""
    within_band: bool
    """``mae`` is no larger than ``mean_band``: averaged over r the curves agree within their noise.

    Two samples of one distribution give about 0.4 of ``mean_band``. A share of bins would be no better
    criterion, because neighbouring bins err together.
    """
    peak: FirstPeak | None
    reference_peak: FirstPeak | None

    @property
    def peak_position_difference(self) -> float:
        """Relative to the reference; NaN where one has no peak."""
        if self.peak is None or self.reference_peak is None:
            return float("nan")
        return self.peak.position / self.reference_peak.position - 1.0

    @property
    def peak_height_difference(self) -> float:
        """Relative to the reference; NaN where one has no peak."""
        if self.peak is None or self.reference_peak is None:
            return float("nan")
        return self.peak.height / self.reference_peak.height - 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "mae": self.mae,
            "mean_band95": self.mean_band,
            "share_within_band": self.share_within_band,
            "within_band": self.within_band,
            "peak_position_relative_difference": self.peak_position_difference,
            "peak_height_relative_difference": self.peak_height_difference,
        }


def compare_rdf(rdf: RadialDistribution, reference: RadialDistribution) -> RdfComparison:
    """Compare g(r) with a reference over their common range; where bins differ it is interpolated."""
    common = rdf.r <= reference.r[-1] + 1e-9
    r = rdf.r[common]
    other = np.interp(r, reference.r, reference.g)
    band = np.hypot(rdf.band[common], np.interp(r, reference.r, reference.band))
    g = rdf.g[common]
    difference = np.abs(g - other)
    occupied = (g > 0) | (other > 0)
    mae, mean_band = float(difference.mean()), float(band.mean())
    return RdfComparison(
        mae=mae,
        mean_band=mean_band,
        share_within_band=float((difference <= band)[occupied].mean()) if occupied.any() else float("nan"),
        within_band=bool(mae <= mean_band),
        peak=rdf.first_peak(),
        reference_peak=reference.first_peak(),
    )


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


def require_same_atoms(trajectories: Sequence[Trajectory]) -> None:
    """Raise ``UserError`` unless there are trajectories and all hold the same atoms."""
    if not trajectories:
        raise UserError("no trajectories were given")
    for trajectory in trajectories:
        if not np.array_equal(trajectory.atomic_numbers, trajectories[0].atomic_numbers):
            raise UserError(
                "the trajectories hold different atoms",
                where=str(trajectory.path),
                mend="Analyse runs of one system together, others on their own.",
            )


def require_length(name: str, value: float | None) -> None:
    """Raise ``UserError`` unless the value is a positive finite number or ``None``."""
    if value is not None and not 0.0 < value < np.inf:
        raise UserError(f"{name} is {value}", where=name, mend="It must be a positive number of Å.")


def frames_after(trajectory: Trajectory, skip_fs: float, max_frames: int) -> NDArray[np.int64]:
    """Indices of at most ``max_frames`` evenly spaced frames later than ``skip_fs`` after the first.

    Raises:
        UserError: none is left.
    """
    times = trajectory.times_fs
    kept = np.nonzero(times - times[0] >= skip_fs - 1e-9)[0] if len(times) else np.zeros(0, dtype=np.int64)
    if len(kept) == 0:
        raise UserError(
            f"no frame is left after the first {skip_fs:g} fs",
            where=str(trajectory.path),
            mend="Leave out less, or run for longer.",
        )
    return np.asarray(kept[:: max(1, int(np.ceil(len(kept) / max_frames)))], dtype=np.int64)


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


def _peak(
    r: NDArray[np.float64], g: NDArray[np.float64], near: float | None = None
) -> tuple[float, float] | None:
    """Position and height of the first maximum, or of the maximum nearest to ``near``.

    The maximum is looked for in g smoothed over 0.05 Å, and refined by a parabola through the bins of the
    raw g around it that reach nine tenths of it.
    """
    width = r[1] - r[0]
    smooth = gaussian_filter1d(g, max(0.05 / width, 1.0), mode="constant")
    candidates, _ = find_peaks(smooth, prominence=max(0.1, 0.1 * float(smooth.max())))
    if len(candidates) == 0:
        return None
    top = int(candidates[0] if near is None else candidates[np.argmin(np.abs(r[candidates] - near))])
    low = high = top
    limit = 0.9 * smooth[top]
    while low > 0 and smooth[low - 1] >= limit:
        low -= 1
    while high < len(r) - 1 and smooth[high + 1] >= limit:
        high += 1
    low, high = min(low, max(0, top - 2)), max(high, min(len(r) - 1, top + 2))
    window = slice(low, high + 1)
    curvature, slope, offset = np.polyfit(r[window] - r[top], g[window], 2)
    shift = -0.5 * slope / curvature if curvature < 0 else np.inf
    if not r[low] <= r[top] + shift <= r[high]:
        return float(r[top]), float(smooth[top])
    return float(r[top] + shift), float(offset + 0.5 * slope * shift)


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 5) if np.isfinite(value) else None for value in values]
