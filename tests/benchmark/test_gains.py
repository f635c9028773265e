"""The fast forms are still fast: a change that loses a gain fails here, long before anybody times a run.

Limits are about half of what was asked of a form, or of what the slowest machine so far has reached where
that is less (docs/results.md): a busy machine passes, a form that is no longer taken does not. Calls take
turns and processor time counts; who misses the limit may try twice more.
"""

from __future__ import annotations

import pytest
import torch

from kinetograph import kernels
from kinetograph.benchmark.cases import CASES
from kinetograph.benchmark.lists import neighbor_rows
from kinetograph.benchmark.measure import Clock
from kinetograph.benchmark.step import step_rows
from kinetograph.benchmark.train import train_rows

CPU = Clock(torch.device("cpu"), 1)
PEAKS = {"float32": 1e11, "bfloat16": 2e11}  # nothing here depends on them
ATTEMPTS = 3

# Case, variant and precision; atoms; gain over the naive form, or over the plain one where there is no other.
LIMITS = [
    ("painn", "float32", 192, 3.0),
    ("painn conservative", "float32", 192, 3.0),
    ("gamd", "float32", 192, 2.2),
    ("gamd", "bfloat16", 192, 3.5),
    ("gamd-code", "float32", 192, 1.3),
    ("gnnff", "float32", 192, 6.0),
    ("gnnff three-body", "float32", 192, 12.0),
    ("forcenet", "float32", 24, 1.25),
    ("schnet", "float32", 192, 3.0),
    ("dimenet", "float32", 12, 4.0),
    ("dimenet++", "float32", 24, 2.0),
    ("gemnet-t", "float32", 24, 2.0),
]


@pytest.fixture(autouse=True)
def wide_kernels() -> None:
    """Gains are those of wide registers: a narrow machine has others."""
    library = kernels.library()
    if library is None or library.width < 16:
        pytest.skip(f"limits are for AVX-512, in use is {kernels.choice().name}")


@pytest.mark.parametrize(("name", "precision", "n_atoms", "limit"), LIMITS, ids=lambda value: str(value))
def test_a_fast_form_keeps_its_gain(name: str, precision: str, n_atoms: int, limit: float) -> None:
    library = kernels.library()
    assert library is not None
    if precision == "bfloat16" and not library.has_bfloat16:
        pytest.skip("this processor has no products of bfloat16")
    reached = []
    while len(reached) < ATTEMPTS and max(reached, default=0.0) < limit:
        model = name.removesuffix(" three-body")
        (gain,) = (
            row.speedup
            for row in step_rows({model: CASES[model]}, n_atoms, CPU, PEAKS, 0.0)
            if (row.case, row.variant, row.precision) == (name, "fast", precision)
        )
        assert gain is not None
        reached.append(gain)
    assert max(reached) >= limit, reached


def test_the_pair_search_keeps_its_gain() -> None:
    reached = []
    while len(reached) < ATTEMPTS and max(reached, default=0.0) < 1.25:
        (gain,) = (row.speedup for row in neighbor_rows([774], CPU, 0.0) if row.variant == "fast")
        assert gain is not None
        reached.append(gain)
    assert max(reached) >= 1.25, reached


@pytest.mark.parametrize(("name", "limit"), [("painn", 1.3), ("painn conservative", 1.5)])
def test_training_keeps_its_gain(name: str, limit: float) -> None:
    reached = []
    while len(reached) < ATTEMPTS and max(reached, default=0.0) < limit:
        _, row = train_rows({name: CASES[name]}, 192, CPU, 0.0)
        assert row.speedup is not None
        reached.append(row.speedup)
    assert max(reached) >= limit, reached
