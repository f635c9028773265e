"""``md``: every ensemble, many replicas, two force models, guards; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from kinetograph import kernels, model_file
from kinetograph.additions import build_addition
from kinetograph.config import check_config
from kinetograph.graph import neighbors_for
from kinetograph.system import System
from kinetograph.training.fit import train
from kinetograph.trajectory import Trajectory

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., None]


@pytest.fixture
def start(tmp_path: Path) -> Path:
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    ase.io.write(tmp_path / "start.extxyz", atoms, format="extxyz")
    return tmp_path / "start.extxyz"


@pytest.fixture(scope="module")
def energy_model(argon_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with both kinds of forces."""
    config = {**argon_config, "model": {"preset": "painn-both", "cutoff_A": 6.0, "width": 8, "n_layers": 1}}
    return train(check_config(config, "test"), tmp_path_factory.mktemp("both") / "run", progress=False).model


@pytest.fixture(scope="module")
def sum_model(argon_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same beside a repulsive core."""
    both = {"preset": "painn-both", "cutoff_A": 6.0, "width": 8, "n_layers": 1, "add": {"zbl": {}}}
    config = check_config({**argon_config, "model": both}, "test")
    return train(config, tmp_path_factory.mktemp("sum") / "run", progress=False).model


def of(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run("md", *words, "--steps", "8", "--every", "4", "--timestep-fs", "2")
    assert code == 0, err
    assert "Molecular dynamics" in out
    record: dict[str, Any] = json.loads(Path("a.h5.json").read_text())
    return record


@pytest.mark.parametrize("ensemble", ["nose-hoover", "langevin", "bussi"])
def test_thermostats(run: Run, argon_model: Path, start: Path, ensemble: str) -> None:
    words = (argon_model, start, "--ensemble", ensemble, "--temperature-K", "60", "--out", "a.h5")
    assert of(run, *words)["n_steps"] == 8


def test_a_run_says_which_kernels_it_used(run: Run, argon_model: Path, start: Path) -> None:
    words = (argon_model, start, "--ensemble", "nve", "--initial-temperature-K", "60", "--out", "a.h5")
    assert of(run, *words)["kernels"] == kernels.choice().name
    code, out, _ = run("md", *words, "--overwrite", "--steps", "1")
    assert code == 0
    assert f"kernels {kernels.choice().name}" in " ".join(out.split())


@pytest.mark.parametrize("ensemble", ["mtk", "cell-rescaling"])
@pytest.mark.parametrize("cell", ["isotropic", "semi-isotropic", "full"])
def test_barostats_move_the_cell(run: Run, energy_model: Path, start: Path, ensemble: str, cell: str) -> None:
    words = (energy_model, start, "--ensemble", ensemble, "--cell", cell, "--out", "a.h5")
    words += ("--temperature-K", "60", "--pressure-bar", "5000", "--pressure-time-constant-fs", "200")
    code, _, err = run("md", *words, "--steps", "20", "--every", "10", "--timestep-fs", "2")
    assert code == 0, err
    with Trajectory.open("a.h5") as trajectory:
        first, last = trajectory.cells[0], trajectory.cells[-1]
    assert abs(first - last).max() > 0
    sheared = abs(last - np.diag(last.diagonal())).max() > 1e-9
    assert sheared == (cell == "full")
    if cell == "isotropic":
        assert np.ptp(last.diagonal()) < 1e-9


def test_replicas_have_files_and_temperatures_of_their_own(run: Run, argon_model: Path, start: Path) -> None:
    words = (argon_model, start, "--replicas", "3", "--temperature-K", "30,60,90", "--out", "a.h5")
    record = of(run, *words)
    assert [Path(path).name for path in record["trajectories"]] == ["a-0.h5", "a-1.h5", "a-2.h5"]
    assert record["temperatures_K"] == sorted(record["temperatures_K"])
    with Trajectory.open("a-2.h5") as trajectory:
        assert trajectory.n_frames == 3
        assert trajectory.metadata["replica"] == 2
    code, _, err = run("md", *words, "--steps", "16", "--every", "4", "--timestep-fs", "2", "--resume")
    assert code == 0, err
    with Trajectory.open("a-2.h5") as trajectory:
        assert trajectory.n_frames == 5


def test_replicas_run_in_batches_by_the_number_of_their_atoms(
    run: Run, argon_model: Path, start: Path
) -> None:
    words = (argon_model, start, "--replicas", "3", "--temperature-K", "30,60,90", "--batch-atoms", "70")
    record = of(run, *words, "--out", "a.h5")
    assert record["batches"] == [2, 1]
    assert len(record["trajectories"]) == len(record["temperatures_K"]) == 3
    code, out, err = run("md", *words, "--out", "a.h5", "--steps", "16", "--every", "4", "--resume")
    assert code == 2  # of another time step
    longer = ("--steps", "16", "--every", "4", "--timestep-fs", "2", "--resume")
    code, out, err = run("md", *words, "--out", "a.h5", *longer)
    assert code == 0, err
    assert "2, of at most 2 replicas" in out
    assert "9 to 16" in out
    with Trajectory.open("a-2.h5") as trajectory:
        assert trajectory.n_frames == 5


def test_numbers_of_a_run_that_is_replaced_go_with_it(
    run: Run, refused: Refused, argon_model: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--temperature-K", "60", "--out", "a.h5")
    of(run, argon_model, start, *words)
    fused = ase.io.read(start)
    fused.positions[1] = fused.positions[0] + 0.7
    ase.io.write("near.extxyz", fused)
    refused(run("md", argon_model, "near.extxyz", *words, "--overwrite"), "Å apart")
    assert Path("a.h5.json").exists()  # and the run that it tells of

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kinetograph.dynamics.loop.Loop._guarded_step", interrupt)
    code, _, err = run("md", argon_model, start, *words, "--overwrite")
    assert code == 130, err
    assert Path("a.h5").exists()
    assert not Path("a.h5.json").exists()


def test_copies_of_a_moving_structure_part(run: Run, argon_model: Path, start: Path) -> None:
    """Their velocities are drawn anew: with the file's own they would make the same run."""
    atoms = ase.io.read(start)
    atoms.set_momenta(atoms.positions * 0.01)
    ase.io.write("moving.extxyz", atoms)
    of(run, argon_model, "moving.extxyz", "--replicas", "2", "--temperature-K", "60", "--out", "a.h5")
    with Trajectory.open("a-0.h5") as first, Trajectory.open("a-1.h5") as second:
        assert abs(first.velocities(0) - second.velocities(0)).max() > 0


def test_all_frames_of_a_file_start_together(run: Run, argon_model: Path, start: Path) -> None:
    frames = [ase.io.read(start), bulk("Ar", "fcc", 5.5, cubic=True)]
    ase.io.write("two.extxyz", frames)
    record = of(run, argon_model, "two.extxyz", "--frame", "all", "--temperature-K", "60", "--out", "a.h5")
    assert len(record["trajectories"]) == 2


def test_a_ramp(run: Run, argon_model: Path, start: Path) -> None:
    words = (argon_model, start, "--ensemble", "langevin", "--temperature-K", "0:20,0.016:400")
    of(run, *words, "--friction-per-ps", "500", "--out", "a.h5")
    with Trajectory.open("a.h5") as trajectory:
        kelvin = trajectory.observables["temperature_K"]
    assert kelvin[-1] > 4.0 * kelvin[0]


def test_two_force_models(run: Run, argon_model: Path, energy_model: Path, start: Path) -> None:
    words = (energy_model, start, "--ensemble", "nve", "--initial-temperature-K", "60")
    for index, inner in enumerate((argon_model, "direct")):
        record = of(run, *words, "--inner", inner, "--ratio", "4", "--out", "a.h5", *["--overwrite"][:index])
        assert record["drift_K"] is not None


def test_the_direct_forces_of_a_sum_stand_inside_it(run: Run, sum_model: Path, start: Path) -> None:
    words = (sum_model, start, "--ensemble", "nve", "--initial-temperature-K", "60", "--out", "a.h5")
    assert of(run, *words, "--inner", "direct", "--ratio", "4")["drift_K"] is not None


ADDITIONS = {
    "zbl": {"inner": 4.0, "outer": 5.5},
    "d3": {"functional": "pbe", "cutoff": 8.0},
    "d4": {"functional": "pbe", "cutoff": 8.0, "three_body": False},
    "charges": {"charges": {"Ar": 0.3, "Kr": -0.3}},
}


@pytest.mark.parametrize("kind", ADDITIONS)
def test_what_is_added_to_a_model_moves_the_atoms(
    run: Run, argon_config: dict[str, Any], start: Path, tmp_path: Path, kind: str
) -> None:
    def half_krypton(name: str | Path, to: str) -> str:
        frames = ase.io.read(name, ":")
        for atoms in frames:
            atoms.numbers[::2] = 36
        ase.io.write(tmp_path / to, frames)
        return str(tmp_path / to)

    data = {of: half_krypton(argon_config["data"][of], f"{of}.extxyz") for of in ("train", "valid")}
    model = {"preset": "painn-energy", "cutoff_A": 6.0, "width": 8, "n_layers": 1}
    config = {**argon_config, "data": data, "model": {**model, "add": {kind: ADDITIONS[kind]}}}
    trained = train(check_config(config, "test"), tmp_path / "run", progress=False).model
    atoms = half_krypton(start, "start.extxyz")
    of(run, trained, atoms, "--ensemble", "nve", "--initial-temperature-K", "60", "--out", "a.h5")

    together = model_file.load(trained)
    learned = together.parts[0]
    added = build_addition(kind, [18, 36], ADDITIONS[kind])
    with Trajectory.open("a.h5") as trajectory:
        system = System.from_ase(trajectory.frame(-1))
        energy = trajectory.observables["potential_energy_eV"][-1]
        forces = trajectory.forces(-1)
    one, other = (part(system, neighbors_for(system, part.request)) for part in (learned, added))
    assert energy == pytest.approx(float(one.energy + other.energy), abs=1e-4)
    np.testing.assert_allclose(forces, one.forces + other.forces, atol=1e-4)
    assert float(other.forces.abs().max()) > 1e-3  # it is felt


def test_a_guard_stops_one_replica_and_the_exit_code_says_so(
    run: Run, argon_model: Path, start: Path
) -> None:
    words = (
        "md",
        argon_model,
        start,
        "--ensemble",
        "langevin",
        "--friction-per-ps",
        "500",
        "--replicas",
        "3",
    )
    words += ("--temperature-K", "20,400,20", "--initial-temperature-K", "20", "--max-temperature-K", "150")
    words += ("--replicas", "3")
    code, out, err = run(*words, "--timestep-fs", "2", "--steps", "20", "--every", "5", "--out", "a.h5")
    assert code == 1
    assert "guards stopped 1 replicas; 2 went on" in err
    assert "replica 1 went wrong" in out
    (failure,) = json.loads(Path("a.h5.json").read_text())["failures"]
    assert failure["replica"] == 1
    assert "above the limit of 150 K" in failure["reason"]
    assert Path(failure["last_frames"]).is_file()
    with Trajectory.open("a-0.h5") as trajectory:
        assert trajectory.n_frames == 5


def test_rigid_water_and_heavy_hydrogen(run: Run, tmp_path: Path, argon_config: dict[str, Any]) -> None:
    """The start of a run shows both; the model knows water from a moment of training."""
    torch.manual_seed(0)
    frames = []
    for seed in range(4):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        from ase.calculators.emt import EMT

        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    ase.io.write(tmp_path / "w.extxyz", frames[:3])
    ase.io.write(tmp_path / "v.extxyz", frames[3:])
    config = {
        **argon_config,
        "model": {"preset": "painn", "cutoff_A": 4.0, "width": 8, "n_layers": 1},
        "data": {"train": str(tmp_path / "w.extxyz"), "valid": str(tmp_path / "v.extxyz")},
    }
    model = train(check_config(config, "test"), tmp_path / "run", progress=False).model
    words = (model, tmp_path / "v.extxyz", "--ensemble", "nve", "--initial-temperature-K", "10")
    of(run, *words, "--rigid", "water", "--rigid-lengths", "tip3p", "--out", "a.h5")
    with Trajectory.open("a.h5") as trajectory:
        first, second, third = trajectory.positions(-1)
    assert abs(((first - second) ** 2).sum() ** 0.5 - 0.9572) < 1e-5
    assert abs(((second - third) ** 2).sum() ** 0.5 - 1.5139) < 1e-4
    of(run, *words, "--hydrogen-mass-amu", "3", "--out", "a.h5", "--overwrite")
    with Trajectory.open("a.h5") as trajectory:
        assert trajectory.masses[1:].tolist() == [3.0, 3.0]
        assert trajectory.masses.sum() == pytest.approx(18.015, abs=1e-2)


def test_what_is_refused(
    run: Run, refused: Refused, argon_model: Path, energy_model: Path, start: Path, tmp_path: Path
) -> None:
    nvt = ("md", argon_model, start, "--temperature-K", "60", "--steps", "2", "--out", "a.h5")
    npt = ("md", argon_model, start, "--temperature-K", "60", "--steps", "2", "--out", "a.h5")
    refused(run(*npt, "--ensemble", "mtk", "--pressure-bar", "1"), "stress")
    refused(run(*npt, "--ensemble", "cell-rescaling", "--pressure-bar", "1"), "stress")
    refused(run(*npt, "--ensemble", "mtk"), "needs a pressure")
    refused(run(*nvt, "--pressure-bar", "1"), "--pressure-bar has no meaning")
    refused(run(*nvt, "--cell", "full"), "--cell has no meaning")
    refused(run(*nvt, "--ratio", "4"), "--ratio has no meaning without --inner")
    refused(run(*nvt, "--inner", "direct"), "conservative")
    refused(run(*nvt, "--inner", "none.kg"), "none.kg")
    refused(run(*nvt, "--replicas", "2", "--initial-temperature-K", "1,2,3"), "3 values")
    refused(run("md", argon_model, start, "--temperature-K", "50:60", "--out", "a.h5"), "temperature")
    refused(run("md", argon_model, start, "--temperature-K", "hot", "--out", "a.h5"), "hot")
    refused(run("md", argon_model, start, "--temperature-K=-4", "--out", "a.h5"), "temperature")
    refused(run(*nvt, "--frame", "first"), "--frame is 'first'")
    refused(run(*nvt, "--rigid", "water"), "water")
    refused(run(*nvt, "--hydrogen-mass-amu", "3"), "hydrogen")
    refused(run(*nvt, "--max-temperature-K", "90", "--without-guard", "temperature"), "guard")
    overlapping = ase.io.read(start)
    overlapping.positions[1] = overlapping.positions[0] + 0.7
    ase.io.write(tmp_path / "near.extxyz", overlapping)
    near = ("md", argon_model, "near.extxyz", "--temperature-K", "60", "--steps", "2", "--out", "a.h5")
    refused(run(*near), "1.21 Å apart", "atoms 0 (Ar) and 1 (Ar)")
    assert not (tmp_path / "a.h5").exists()
    assert model_file.read_header(energy_model).architecture == "painn"


def test_a_precision_that_the_model_has_not_is_refused(
    run: Run, refused: Refused, energy_model: Path, start: Path
) -> None:
    words = ("md", energy_model, start, "--precision", "bfloat16", "--temperature-K", "60")
    refused(run(*words), "bfloat16")
    refused(run(*words, "--inner", "direct"), "--precision has no meaning with --inner")
