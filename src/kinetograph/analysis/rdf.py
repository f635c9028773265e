"""Radial distribution functions with error bands, and how two of them compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from kinetograph.analysis.statistics import t_factor

Kind = Literal["all", "intermolecular"]


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
