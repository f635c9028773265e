"""``analyze`` on trajectories with known temperatures, forces and cold starts."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from kinetograph import units
from kinetograph.analysis import Trace, analyze, compare_traces, force_magnitudes, temperature_trace
from kinetograph.errors import UserError
from kinetograph.trajectory import Trajectory

Write = Callable[..., Trajectory]
BOX = 10.0
N_ATOMS = 40


def gas(
    write: Write, rng: np.random.Generator, n_frames: int = 200, temperature: float = 100.0
) -> Trajectory:
    """An ideal gas in the canonical ensemble: every frame independent, mass 2 amu."""
    spread = np.sqrt(units.BOLTZMANN_EV_PER_K * temperature / (2.0 * units.AMU_A2_PER_FS2_IN_EV))
    velocities = spread * rng.normal(size=(n_frames, N_ATOMS, 3))
    kinetic = units.AMU_A2_PER_FS2_IN_EV * (velocities**2).sum(axis=(1, 2))
    return write(
        rng.uniform(0.0, BOX, size=(n_frames, N_ATOMS, 3)),
        np.eye(3) * BOX,
        np.full(N_ATOMS, 18),
        velocities=velocities,
        forces=rng.normal(size=(n_frames, N_ATOMS, 3)),
        kinetic_energy=kinetic,
        temperature=2.0 * kinetic / (3 * N_ATOMS * units.BOLTZMANN_EV_PER_K),
    )


def cold(write: Write, rng: np.random.Generator, slower: float = 1.0, n_atoms: int = N_ATOMS) -> Trajectory:
    times = np.arange(100) * 10.0
    warmth = 1.0 - np.exp(-times / (200.0 * slower))
    return write(
        rng.uniform(0.0, BOX, size=(100, n_atoms, 3)),
        np.eye(3) * BOX,
        np.full(n_atoms, 18),
        kinetic_energy=warmth * n_atoms / N_ATOMS,
        temperature=100.0 * warmth,
    )


def test_canonical_temperatures_have_the_expected_mean_and_spread(
    write: Write, rng: np.random.Generator
) -> None:
    measured = analyze([gas(write, rng), gas(write, rng)])
    temperature = measured.run.temperature
    assert temperature is not None
    assert temperature.n_dof == 3 * N_ATOMS
    assert temperature.expected_standard_deviation == pytest.approx(100.0 * np.sqrt(2.0 / 120.0), rel=0.01)
    # 400 independent samples: the spread is known to 1/sqrt(800) = 3.5 %, the mean to 12.9/20 = 0.65 K
    assert temperature.series.standard_deviation == pytest.approx(
        temperature.expected_standard_deviation, rel=0.12
    )
    assert temperature.series.standard_error == pytest.approx(12.9 / 20.0, rel=0.3)
    assert temperature.series.mean == pytest.approx(100.0, abs=3 * 0.65)


def test_temperature_from_velocities_equals_the_recorded_one(write: Write, rng: np.random.Generator) -> None:
    recorded = gas(write, rng, 10)
    bare = write(
        recorded.positions(),
        np.eye(3) * BOX,
        recorded.atomic_numbers,
        velocities=recorded.velocities(),
        metadata={"n_dof": 3 * N_ATOMS},
    )
    ours, theirs = temperature_trace(bare, "bare"), temperature_trace(recorded, "recorded")
    assert ours is not None
    assert theirs is not None
    assert ours.values == pytest.approx(theirs.values, rel=1e-5)  # velocities are stored in single precision


def test_two_samples_of_one_gas_agree_in_everything(write: Write, rng: np.random.Generator) -> None:
    measured = analyze([gas(write, rng)], [gas(write, rng)], bin_width_A=0.25)
    summary = measured.summary()
    assert summary["rdf_within_error_band"] is True
    assert float(summary["rdf_mae"]) < 0.1
    assert float(summary["force_magnitude_total_variation"]) < 0.1
    (histogram,) = measured.forces
    # 8000 independent atoms each: the observed distance is the predicted noise, give or take
    assert histogram.total_variation == pytest.approx(histogram.total_variation_noise, rel=0.4)


def test_a_cold_start_is_recognised_aligned_and_kept_out_of_averages(
    write: Write, rng: np.random.Generator
) -> None:
    measured = analyze([gas(write, rng), cold(write, rng, 1.1)], [cold(write, rng), gas(write, rng)])
    assert measured.run.cold == [False, True]
    assert measured.run.temperature is not None
    assert measured.run.temperature.series.mean == pytest.approx(100.0, abs=3.0)
    (comparison,) = measured.cold_starts
    times = np.arange(100) * 10.0
    ours, theirs = 1.0 - np.exp(-times / 220.0), 1.0 - np.exp(-times / 200.0)
    assert comparison.normalized_deviation == pytest.approx(np.abs(ours - theirs).mean() / theirs.mean())
    assert any("cold" in note for note in measured.notes)


def test_cold_starts_of_boxes_of_different_sizes_are_compared_per_atom(
    write: Write, rng: np.random.Generator
) -> None:
    measured = analyze([cold(write, rng)], [cold(write, rng, n_atoms=2 * N_ATOMS)])
    (comparison,) = measured.cold_starts
    assert comparison.normalized_deviation == pytest.approx(0.0, abs=1e-12)
    assert comparison.values[-1] == pytest.approx((1.0 - np.exp(-990.0 / 200.0)) / N_ATOMS)


def test_different_compositions_are_not_compared(write: Write, rng: np.random.Generator) -> None:
    positions = rng.uniform(0.0, BOX, size=(4, 6, 3))
    water = write(positions, np.eye(3) * BOX, np.array([8, 1, 1, 8, 1, 1]))
    peroxide = write(positions[:, :4], np.eye(3) * BOX, np.array([8, 1, 1, 8]))
    one_water = write(positions[:, :3], np.eye(3) * BOX, np.array([8, 1, 1]))
    with pytest.raises(UserError, match="runs hold H2O, the reference HO"):
        analyze([water], [peroxide])
    assert analyze([water], [one_water]).rdf_comparisons
    with pytest.raises(UserError, match="different atoms"):
        analyze([water, one_water])


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"skip_fs": 1e4}, "no frame is left"),
        ({"skip_fs": -1.0}, "skip_fs"),
        ({"skip_fs": float("nan")}, "skip_fs"),
        ({"skip_fs": float("inf")}, "skip_fs"),
        ({"r_max_A": float("nan")}, "r_max_A"),
        ({"r_max_A": float("inf")}, "r_max_A"),
        ({"r_max_A": 0.0}, "r_max_A"),
        ({"r_max_A": -2.0}, "r_max_A"),
        ({"bin_width_A": 0.0}, "bin_width_A"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    write: Write, rng: np.random.Generator, settings: dict[str, float], message: str, pbc: bool
) -> None:
    positions = rng.uniform(0.0, BOX, size=(5, 6, 3))
    run = write(positions, np.eye(3) * BOX, np.full(6, 18), pbc=pbc, temperature=np.full(5, 90.0))
    with pytest.raises(UserError, match=message):
        analyze([run], **settings)


def test_traces_are_compared_over_the_time_that_both_cover() -> None:
    own = Trace("own", np.array([5.0, 15.0, 25.0, 35.0]), np.array([0.0, 2.0, 4.0, 6.0]))
    reference = Trace("reference", np.array([0.0, 25.0]), np.array([0.0, 5.0]))
    comparison = compare_traces(own, reference)
    assert comparison.reference == pytest.approx([0.0, 2.0, 4.0])
    assert comparison.normalized_deviation == pytest.approx(0.0)


def test_disjoint_forces_have_total_variation_one(write: Write, rng: np.random.Generator) -> None:
    def with_forces(size: float) -> Trajectory:
        forces = np.zeros((4, N_ATOMS, 3))
        forces[..., 0] = size
        positions = rng.uniform(0.0, BOX, size=(4, N_ATOMS, 3))
        return write(positions, np.eye(3) * BOX, np.full(N_ATOMS, 18), forces=forces)

    (histogram,) = force_magnitudes(
        [with_forces(1.0)], [with_forces(2.0)], skip_fs=[0.0], reference_skip_fs=[0.0]
    )
    assert histogram.total_variation == pytest.approx(1.0)


def test_a_molecule_without_a_box_is_analysed_without_g(write: Write, rng: np.random.Generator) -> None:
    measured = analyze(
        [write(rng.normal(size=(5, 4, 3)), np.zeros((3, 3)), np.array([6, 1, 1, 1]), pbc=False)]
    )
    assert measured.run.rdfs == []
    assert any("g(r)" in note for note in measured.notes)
    assert any("no forces" in note for note in measured.notes)


def test_json_holds_the_curves_and_the_summary(write: Write, rng: np.random.Generator) -> None:
    numbers = analyze([gas(write, rng, 50)], [gas(write, rng, 50)]).to_json()
    text = json.loads(json.dumps(numbers))
    assert text["run"]["formula"] == "Ar"
    (rdf,) = text["run"]["rdf"]
    assert len(rdf["r_A"]) == len(rdf["g"]) == len(rdf["standard_error"]) == len(rdf["band95"])
    assert {"rdf_mae", "temperature_K", "temperature_error_K", "temperature_std_expected_K"} <= set(
        text["summary"]
    )
    assert text["reference"]["temperature_traces"][0]["temperature_K"]
