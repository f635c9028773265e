"""``benchmark scaling``: how the time of a whole step grows with the number of atoms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kinetograph.benchmark.cases import Case
from kinetograph.benchmark.measure import Clock, Row
from kinetograph.benchmark.step import whole_step
from kinetograph.benchmark.structures import water

DEFAULT_CASES = "painn,gamd"


def scaling_rows(
    cases: Mapping[str, Case], sizes: Sequence[int], clock: Clock, seconds: float
) -> Iterator[Row]:
    """Whole steps at each size; the last row of a case also has the exponent b of time = a (atoms)^b."""
    for name, case in cases.items():
        rows: list[Row] = []
        boxes = {system.n_atoms: system for system in (water(min(n, case.largest)) for n in sizes)}
        for n_atoms, system in boxes.items():
            row = whole_step(name, case, system.to(clock.device), clock, seconds)
            rows.append(row)
            if n_atoms == max(boxes) and len(rows) > 1:
                atoms, times = [r.n_atoms for r in rows], [r.median_s for r in rows]
                exponent = float(np.polyfit(np.log(atoms), np.log(np.array(times, dtype=float)), 1)[0])
                row = replace(row, more={**row.more, "exponent": exponent})
            yield row
