"""What a generation leaves on disk, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

from kinetograph import units
from kinetograph.errors import UserError
from kinetograph.reference import GeneratedData, equilibrated_water, generate_argon, generate_water
from kinetograph.trajectory import Trajectory

pytest.importorskip("openmm")

QUICK: dict[str, Any] = {"n_trajectories": 4, "n_frames": 10, "equilibration_ps": 2.0, "reference_ps": 1.5}
TINY: dict[str, Any] = {
    "n_trajectories": 3,
    "n_frames": 2,
    "spacing_fs": 20.0,
    "equilibration_ps": 0.02,
    "reference_ps": 0.0,
    "reference_spacing_fs": 10.0,
    "cold_start_ps": 0.02,
}


@pytest.fixture(scope="module")
def argon(tmp_path_factory: pytest.TempPathFactory) -> GeneratedData:
    return generate_argon(tmp_path_factory.mktemp("data") / "argon", **QUICK)


@pytest.fixture(scope="module", params=[False, True], ids=["flexible", "rigid"])
def water(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GeneratedData:
    folder = tmp_path_factory.mktemp("data") / "water"
    return generate_water(folder, rigid=request.param, **TINY)


def frames_of(path: Path) -> list[ase.Atoms]:
    frames = ase.io.read(path, ":")
    assert isinstance(frames, list)
    return frames


def test_every_file_is_there_and_nothing_else(argon: GeneratedData) -> None:
    expected = {argon.train, argon.valid, argon.test, argon.start, *argon.references, argon.cold_start}
    assert set(argon.folder.iterdir()) == expected | {argon.folder / "provenance.json"}
    assert argon.n_frames == {"train": 20, "valid": 10, "test": 10}


def test_splits_share_no_trajectory(argon: GeneratedData) -> None:
    members = {
        name: {frame.info["trajectory"] for frame in frames_of(argon.folder / f"{name}.extxyz")}
        for name in ("train", "valid", "test")
    }
    assert members == {"train": {0, 1}, "valid": {2}, "test": {3}}
    splits = {frame.info["trajectory"]: frame.info["split"] for frame in frames_of(argon.start)}
    assert splits == {0: "train", 1: "train", 2: "valid", 3: "test"}


def test_frames_are_spaced_and_counted_as_asked(argon: GeneratedData) -> None:
    for path, count in ((argon.train, 20), (argon.valid, 10), (argon.test, 10)):
        frames = frames_of(path)
        assert len(frames) == count
        times = [
            frame.info["time_fs"]
            for frame in frames
            if frame.info["trajectory"] == frames[0].info["trajectory"]
        ]
        assert times == [100.0 * (k + 1) for k in range(10)]


def test_momenta_have_the_temperature_of_the_thermostat(argon: GeneratedData) -> None:
    frames = [
        frame for name in ("train", "valid", "test") for frame in frames_of(argon.folder / f"{name}.extxyz")
    ]
    degrees = 3 * 258 - 3
    temperatures = [2 * frame.get_kinetic_energy() / (degrees * units.BOLTZMANN_EV_PER_K) for frame in frames]
    assert np.mean(temperatures) == pytest.approx(argon.mean_temperature_K, abs=1e-3)
    # One frame scatters by T sqrt(2/771) = 5 K; four trajectories with at least two independent frames each.
    assert np.mean(temperatures) == pytest.approx(100.0, abs=4 * 5 / np.sqrt(8))
    for frame in frames:
        assert np.abs(frame.get_momenta().sum(axis=0)).max() < 1e-5 * np.abs(frame.get_momenta()).sum()


def test_labels_in_the_file_are_the_exact_potential(argon: GeneratedData) -> None:
    from kinetograph.graph import neighbors_for
    from kinetograph.models.classical import ARGON_EPSILON_K, ARGON_SIGMA_A, LennardJones
    from kinetograph.system import System

    potential = LennardJones(
        epsilon=ARGON_EPSILON_K * units.BOLTZMANN_EV_PER_K,
        sigma=ARGON_SIGMA_A,
        cutoff=10.2,
        truncation="shift",
    )
    frame = frames_of(argon.test)[-1]
    system = System.from_ase(frame)
    expected = potential(system, neighbors_for(system, potential.request))
    assert expected.energy is not None
    assert expected.forces is not None
    # Single precision in OpenMM's CPU platform, eight decimals in the file.
    assert np.abs(frame.get_forces() - expected.forces.numpy()).max() < 1e-5
    assert frame.get_potential_energy() == pytest.approx(float(expected.energy[0]), rel=1e-5)


def test_reference_trajectory_holds_the_labelled_frames(argon: GeneratedData) -> None:
    assert [path.name for path in argon.references] == ["reference_2.h5", "reference_3.h5"]
    labelled = frames_of(argon.test)
    with Trajectory.open(argon.references[1]) as reference:
        assert list(reference.times_fs) == [20.0 * k for k in range(76)]
        positions, forces = reference.positions(), reference.forces()
        velocities = reference.velocities()
        assert forces is not None
        assert velocities is not None
        for k, frame in enumerate(labelled, start=1):
            assert np.allclose(positions[5 * k], frame.positions, atol=1e-5)  # the file has single precision
            assert np.allclose(forces[5 * k], frame.get_forces(), atol=1e-6)
            assert np.allclose(velocities[5 * k] * units.ASE_TIME_IN_FS, frame.get_velocities(), atol=1e-6)


def test_the_cold_start_begins_at_rest_where_the_test_trajectory_does(argon: GeneratedData) -> None:
    start = next(frame for frame in frames_of(argon.start) if frame.info["split"] == "test")
    with Trajectory.open(argon.cold_start) as cold:
        assert np.allclose(cold.positions()[0], start.positions, atol=1e-5)
        kinetic = cold.observables["kinetic_energy_eV"]
        assert kinetic[0] == pytest.approx(0.0, abs=1e-9)
        thermal = 0.5 * (3 * 258 - 3) * units.BOLTZMANN_EV_PER_K * 100.0
        # 5 ps are 125 collisions of the thermostat; one frame scatters by 5 %.
        assert np.mean(kinetic[-50:]) == pytest.approx(thermal, rel=0.1)


def test_provenance_is_in_every_file(argon: GeneratedData) -> None:
    told = json.loads((argon.folder / "provenance.json").read_text())
    assert told == argon.provenance
    assert told["model"]["cutoff_A"] == pytest.approx(10.2)
    assert told["model"]["reduced_density"] == pytest.approx(0.5, abs=1e-3)
    assert {"openmm_version", "version", "platform", "seed", "thermostat", "units"} <= set(told)
    for name in ("train", "valid", "test", "start"):
        assert json.loads(frames_of(argon.folder / f"{name}.extxyz")[0].info["provenance"]) == told
    for path in (*argon.references, argon.cold_start):
        with Trajectory.open(path) as trajectory:
            assert told == {key: trajectory.metadata[key] for key in told}


def test_water_molecules_are_whole_and_forces_balance(water: GeneratedData) -> None:
    rigid = water.provenance["model"]["rigid"]
    for frame in frames_of(water.train):
        assert len(frame) == 192
        molecules = frame.positions.reshape(-1, 3, 3)
        lengths = np.linalg.norm(molecules[:, 1:] - molecules[:, :1], axis=-1)
        assert np.abs(lengths - 0.9572).max() < (1e-5 if rigid else 0.2)
        assert np.abs(frame.get_forces().sum(axis=0)).max() < 0.02
    assert ("forces" in water.provenance["model"]) == rigid
    assert water.provenance["degrees_of_freedom"] == 576 - 3 - (192 if rigid else 0)
    with Trajectory.open(water.references[0]) as reference:
        assert reference.bonds is not None
        assert reference.bonds.shape == (128, 2)


def test_velocities_of_rigid_water_do_not_stretch_it(tmp_path: Path) -> None:
    frame = equilibrated_water(64, rigid=True, equilibration_ps=0.02)
    positions, velocities = frame.positions.reshape(-1, 3, 3), frame.get_velocities().reshape(-1, 3, 3)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        along = positions[:, one] - positions[:, other]
        rate = ((velocities[:, one] - velocities[:, other]) * along).sum(axis=-1)
        assert np.abs(rate).max() < 1e-6 * np.abs(velocities).max()


@pytest.mark.parametrize("generate", [generate_argon, generate_water])
def test_one_seed_gives_one_data_set(tmp_path: Path, generate: Any) -> None:
    first, second, other = (
        generate(tmp_path / name, seed=seed, **TINY) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in ("train", "valid", "test", "start"):
        text = (first.folder / f"{name}.extxyz").read_bytes()
        assert text == (second.folder / f"{name}.extxyz").read_bytes()
        assert text != (other.folder / f"{name}.extxyz").read_bytes()
    with Trajectory.open(first.references[1]) as one, Trajectory.open(second.references[1]) as two:
        assert (one.positions() == two.positions()).all()


def test_an_earlier_generation_is_never_overwritten_unasked(tmp_path: Path) -> None:
    generate_argon(tmp_path, seed=1, **{**TINY, "n_trajectories": 4})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="generated data already"):
        generate_argon(tmp_path, seed=2, progress=lambda *_: pytest.fail("work was begun"), **TINY)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    generate_argon(tmp_path, seed=2, overwrite=True, **TINY)
    assert (tmp_path / "test.extxyz").read_bytes() != before["test.extxyz"]
    assert not (tmp_path / "reference_3.h5").exists(), "what is left of the earlier generation has to go"


def test_a_generation_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_late(done: int, total: int, text: str) -> None:
        if text == "cold start":
            raise Stop

    with pytest.raises(Stop):
        generate_argon(tmp_path / "new", progress=stop_late, **TINY)
    assert not (tmp_path / "new").exists()


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    generate_water(tmp_path, progress=lambda *told: seen.append(told), **TINY)
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trajectories": 2}, "cannot be split"),
        ({"box_A": 20.0}, "twice the cutoff"),
        ({"box_A": 27.27, "density": 0.5}, "both"),
        ({"density": -1.0}, "density"),
        ({"spacing_fs": 101.0}, "whole multiple"),
        ({"reference_spacing_fs": 30.0}, "whole multiple"),
        ({"n_frames": 0}, "n_frames"),
        ({"temperature_K": 0.0}, "temperature_K"),
        ({"platform": "Abacus"}, "platform"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        generate_argon(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()
