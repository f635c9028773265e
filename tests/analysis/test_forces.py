"""Force error metrics against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinetograph.analysis import force_errors
from kinetograph.errors import UserError

HYDROGEN, OXYGEN = 1, 8
REFERENCE = np.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
PREDICTED = np.array([[3.0, 4.0, 0.0], [0.0, 4.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -5.0]])
NUMBERS = np.array([OXYGEN, HYDROGEN, HYDROGEN, HYDROGEN])


def test_metrics_are_those_worked_out_by_hand() -> None:
    # |ΔF| of the atoms: 4, 0, 1, 10; |F|: 3, 4, 0, 5; cosines: 3/5, 1, none, −1.
    errors = force_errors(REFERENCE, PREDICTED, NUMBERS)
    assert errors.n_atoms == 4
    assert errors.mae == pytest.approx((4 + 1 + 10) / 12)
    assert errors.rmse == pytest.approx(np.sqrt((16 + 1 + 100) / 12))
    assert errors.relative_error == pytest.approx(15 / 12)
    assert errors.mean_force == pytest.approx(3.0)
    assert errors.cosine_mean == pytest.approx((0.6 + 1.0 - 1.0) / 3)
    assert errors.cosine_shares[0.96] == pytest.approx(1 / 3)
    assert errors.n_zero_reference == 1
    assert errors.per_element["O"].relative_error == pytest.approx(4 / 3)
    assert errors.per_element["H"].relative_error == pytest.approx((11 / 3) / (9 / 3))
    assert errors.per_element["H"].n_zero_reference == 1


def test_cosines_keep_their_digits_near_one() -> None:
    angle = 1e-6
    errors = force_errors([[1.0, 0.0, 0.0]], [[np.cos(angle), np.sin(angle), 0.0]], [HYDROGEN])
    # 1 − cos = angle²/2 = 5·10⁻¹³, below the first edge of the histogram
    assert errors.cosine_counts is not None
    assert errors.cosine_counts[0] == 1
    assert 1.0 - errors.cosine_mean == pytest.approx(5e-13, rel=1e-3)


def test_frames_and_flat_atoms_agree(rng: np.random.Generator) -> None:
    true = rng.normal(size=(5, 7, 3))
    model = true + 0.1 * rng.normal(size=true.shape)
    numbers = rng.integers(1, 4, size=7)
    flat = force_errors(true.reshape(-1, 3), model.reshape(-1, 3), np.tile(numbers, 5))
    assert force_errors(true, model, numbers).to_json() == flat.to_json()


def test_json_has_the_promised_keys_and_survives_a_round_trip(rng: np.random.Generator) -> None:
    true = rng.normal(size=(3000, 3))
    numbers = force_errors(true, 1.01 * true, np.full(3000, 18)).to_json()
    assert numbers["relative_error"] == pytest.approx(0.01)
    assert numbers["cosine_share_above_0.96"] == 1.0
    assert {"force_mae_eV_per_A", "force_rmse_eV_per_A", "cosine_mean", "cosine_share_above_0.995"} <= set(
        numbers
    )
    assert set(numbers["per_element"]) == {"Ar"}
    assert len(numbers["parity_sample"]["reference_eV_per_A"]) == 4000
    assert sum(numbers["cosine_histogram"]["counts"]) == 3000
    histogram = numbers["force_magnitude_histogram"]
    assert sum(histogram["reference"]) == sum(histogram["predicted"]) == 3000
    assert json.loads(json.dumps(numbers)) == numbers


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        force_errors(REFERENCE, PREDICTED[:2], NUMBERS)
    with pytest.raises(UserError, match="do not fit"):
        force_errors(REFERENCE, PREDICTED, NUMBERS[:2])
    with pytest.raises(UserError, match="predicted forces are not finite"):
        force_errors(REFERENCE, PREDICTED * np.nan, NUMBERS)
