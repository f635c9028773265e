"""Energy and stress error metrics against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kinetograph.analysis import energy_errors, stress_errors
from kinetograph.errors import UserError

WATER, PEROXIDE = [8, 1, 1], [8, 8, 1, 1]


def test_metrics_are_those_worked_out_by_hand() -> None:
    # Errors: 0.3 eV of three atoms, −0.4 eV of four; the second frame has no energy.
    errors = energy_errors([-10.0, np.nan, -20.0], [-9.7, 5.0, -20.4], [WATER, WATER, PEROXIDE])
    assert errors is not None
    assert errors.n_frames == 2
    assert errors.mae == pytest.approx(0.35)
    assert errors.rmse == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    assert errors.mae_per_atom == pytest.approx(0.1)
    assert errors.rmse_per_atom == pytest.approx(0.1)
    assert errors.parity_sample[:, 2].tolist() == [0, 2]


def test_on_the_axes_the_energies_of_the_elements_are_subtracted() -> None:
    # O −2041 eV, H −13.5 eV; water in two geometries 0.06 eV apart, peroxide in two 0.08 eV apart
    water, peroxide = -2041.0 - 27.0, -4082.0 - 27.0
    reference = [water - 0.03, water + 0.03, peroxide - 0.04, peroxide + 0.04]
    errors = energy_errors(reference, np.add(reference, 0.3), [WATER, WATER, PEROXIDE, PEROXIDE])
    assert errors is not None
    assert errors.element_energies == pytest.approx({"H": -13.5, "O": -2041.0})
    np.testing.assert_allclose(errors.parity_sample[:, 0], [-0.01, 0.01, -0.01, 0.01], atol=1e-9)
    np.testing.assert_allclose(errors.parity_sample[:, 1], [0.09, 0.11, 0.065, 0.085], atol=1e-9)
    numbers = errors.to_json()
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["energy_parity_sample"]["predicted_eV_per_atom"] == [0.09, 0.11, 0.065, 0.085]


def test_one_composition_is_shown_relative_to_its_mean(rng: np.random.Generator) -> None:
    reference = -1e5 + rng.normal(size=50)
    errors = energy_errors(reference, reference, [WATER] * 50)
    assert errors is not None
    np.testing.assert_allclose(errors.parity_sample[:, 0], (reference - reference.mean()) / 3.0, atol=1e-9)
    assert errors.mae == 0.0


def test_of_many_structures_a_fixed_draw_is_kept(rng: np.random.Generator) -> None:
    reference = rng.normal(size=5000)
    first, second = (energy_errors(reference, reference, [[18]] * 5000) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.parity_sample.shape == (4000, 3)
    assert len(np.unique(first.parity_sample[:, 2])) == 4000
    np.testing.assert_array_equal(first.parity_sample, second.parity_sample)


def test_without_reference_energies_there_are_no_errors_and_a_broken_prediction_is_refused() -> None:
    assert energy_errors([np.nan], [1.0], [WATER]) is None
    with pytest.raises(UserError, match="predicted energies are not finite"):
        energy_errors([1.0], [np.nan], [WATER])


def test_stress_errors_are_those_of_the_structures_known_on_both_sides() -> None:
    reference, predicted = np.zeros((3, 3, 3)), np.zeros((3, 3, 3))
    predicted[0, 0, 0], predicted[2, 1, 2] = 0.09, -0.18
    reference[1] = np.nan
    errors = stress_errors(reference, predicted)
    assert errors is not None
    assert errors.n_frames == 2
    assert errors.mae == pytest.approx((0.09 + 0.18) / 18)
    assert errors.rmse == pytest.approx(np.sqrt((0.09**2 + 0.18**2) / 18))
    assert stress_errors(reference[1:2], predicted[1:2]) is None
