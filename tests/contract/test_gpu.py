"""On a GPU every architecture says what it says on the CPU."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from variants import Case, cases

from kinetograph.potential import Prediction
from kinetograph.testing import Contract
from kinetograph.testing.predictions import deviation, predict

CASES = [case for case in cases() if case.dtype == "float64" and not case.slow]
GRID = [pytest.param(case, "cuda", id=case.name, marks=pytest.mark.gpu) for case in CASES]
# Once without a GPU too, so that the test itself is known to run.
GRID.append(pytest.param(CASES[-1], "cpu", id="cpu"))


def moved(prediction: Prediction, device: str) -> Prediction:
    values = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    return Prediction(
        **{name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in values.items()}
    )


@pytest.mark.parametrize(("case", "device"), GRID)
def test_every_device_gives_the_same_prediction(case: Case, device: str) -> None:
    contract = Contract(case.build())
    system = contract.structures["mixed"]
    here = predict(contract.potential, system)
    there = predict(case.build().to(device), system.to(device))
    assert deviation(moved(there, "cpu"), here) <= contract.tolerance("rotation")  # sums in another order
