"""Distillation: a student learns a teacher's forces, on the data's structures and on more made from them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.constraints import FixAtoms
from torch import Tensor

from kinetograph import model_file, units
from kinetograph.config import check_config
from kinetograph.data.frames import LabelledFrames, read_frames
from kinetograph.errors import UserError
from kinetograph.evaluation import evaluate
from kinetograph.graph import Graph, GraphRequest, neighbors_for
from kinetograph.neighbors import NeighborList
from kinetograph.potential import EnergyPotential, Potential, Prediction
from kinetograph.system import System
from kinetograph.training import distillation
from kinetograph.training.distillation import Teacher, structures_of
from kinetograph.training.fit import train
from kinetograph.training.settings import TrainingSettings
from kinetograph.training_domain import TrainingDomain

STUDENT = {"preset": "painn-small", "cutoff_A": 6.0, "width": 16, "n_layers": 1}


def student(config: dict[str, Any], teacher: Path, **changed: Any) -> TrainingSettings:
    model = changed.pop("model", {})
    data = changed.pop("data", {})
    training = {**config["training"], "teacher": str(teacher), "teacher_temperature_K": 40.0, **changed}
    return check_config(
        {"model": {**STUDENT, **model}, "data": {**config["data"], **data}, "training": training}, "test"
    )


@pytest.fixture(scope="module")
def accurate(argon_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on Lennard-Jones argon, forces 2 % off; without energies."""
    training = {**argon_config["training"], "max_steps": 600, "validate_every": 300, "learning_rate": 0.01}
    config = check_config(
        {**argon_config, "model": {**argon_config["model"], "width": 16}, "training": training}, "test"
    )
    return train(config, tmp_path_factory.mktemp("teacher") / "run", progress=False).model


def labels_of(folder: Path, stem: str) -> Path:
    (path,) = folder.glob(f"teacher-{stem}-*.extxyz")
    return path


def test_a_student_comes_near_its_teacher_and_so_to_the_reference(
    argon_config: dict[str, Any], argon_data: Path, accurate: Path, tmp_path: Path
) -> None:
    budget = {"max_steps": 400, "validate_every": 200, "learning_rate": 0.01}
    result = train(student(argon_config, accurate, **budget), tmp_path / "run", progress=False)
    learned, teacher = model_file.load(result.model), model_file.load(accurate)
    reference = read_frames(argon_data / "test.extxyz")
    true, told = evaluate(learned, reference).forces, evaluate(teacher, reference).forces
    test = Teacher.load(accurate).labelled(
        structures_of(argon_data / "test.extxyz"), tmp_path, n_made=0, temperature_K=1.0, seed=0
    )
    to_teacher = evaluate(learned, test).forces
    assert to_teacher.relative_error < 0.35  # no forces at all: 1
    assert true.mae < to_teacher.mae + told.mae  # the triangle, for sums of |ΔF|

    header = model_file.read_header(result.model)
    known = header.training["teacher"]
    assert known["sha256"] == Teacher.load(accurate).sha256
    assert known["frames"] == 8 * 5
    assert header.training["train_data"]["frames"] == 8
    assert header.training["metrics"]["valid_force_mae_eV_per_A"] == result.valid_force_mae_eV_per_A
    assert not header.training["train_data"]["file"].startswith("teacher")


def test_labels_are_the_teachers_on_structures_old_and_new(
    argon_config: dict[str, Any], argon_data: Path, accurate: Path, tmp_path: Path
) -> None:
    train(student(argon_config, accurate, max_steps=1), tmp_path / "run", progress=False)
    frames = ase.io.read(labels_of(tmp_path / "run", "train"), ":")
    sources = ase.io.read(argon_data / "train.extxyz", ":")
    teacher = model_file.load(accurate)
    made = [frame.info["made"] for frame in frames]
    assert {kind: made.count(kind) for kind in set(made)} == {"data": 8, "rattled": 16, "run": 16}
    moved: dict[str, list[float]] = {"rattled": [], "run": []}
    for frame in frames:
        system = System.from_ase(frame)
        expected = teacher(system, neighbors_for(system, teacher.request)).forces
        # Positions and forces have eight decimals in the file, single precision seven digits.
        np.testing.assert_allclose(frame.get_forces(), expected, atol=1e-6)
        assert "energy" not in frame.calc.results  # this teacher has none
        source = sources[frame.info["source_frame"]]
        apart = np.linalg.norm(frame.positions - source.positions, axis=1)
        if frame.info["made"] == "data":
            assert apart.max() < 1e-7
            assert np.abs(frame.get_forces() - source.get_forces()).max() > 1e-5
        else:
            moved[frame.info["made"]].append(float(apart.mean()))
    assert len(set(moved["rattled"])) == 16  # no two alike
    # The mean length of a displacement is (8/π)^½ of its amplitude, 1 to 4 % of some 2.7 Å.
    assert 0.03 < min(moved["rattled"]) < 0.06
    assert 0.14 < max(moved["rattled"]) < 0.22
    assert 0.02 < min(moved["run"]) < max(moved["run"]) < 1.0
    valid = ase.io.read(labels_of(tmp_path / "run", "valid"), ":")
    assert [frame.info["made"] for frame in valid] == ["data"] * 3


def test_the_data_needs_no_labels_and_the_teacher_may_give_energies(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    model = {**STUDENT, "forces": "conservative", "width": 8}
    first = check_config({**argon_config, "model": model}, "test")
    teacher = train(first, tmp_path / "teacher", progress=False).model
    data = {}
    for name in ("train", "valid"):
        bare = [
            ase.Atoms(f.symbols, positions=f.positions, cell=f.cell, pbc=True)
            for f in ase.io.read(argon_data / f"{name}.extxyz", ":")
        ]
        ase.io.write(tmp_path / f"{name}.extxyz", bare)
        data[name] = str(tmp_path / f"{name}.extxyz")
    config = student(
        argon_config,
        teacher,
        data=data,
        teacher_frames=2,
        max_steps=4,
        stress_weight=0.1,
        initial_model=str(teacher),
        model={"forces": "conservative", "width": 8},
    )
    result = train(config, tmp_path / "run", progress=False)
    labelled = read_frames(labels_of(tmp_path / "run", "train"))
    assert labelled.n_with_energy == len(labelled) == 24
    assert np.isfinite(labelled.stresses).all()
    exact = model_file.load(teacher)
    assert evaluate(exact, labelled).to_json()["energy_mae_eV"] < 1e-5
    assert evaluate(exact, labelled).to_json()["stress_mae_eV_per_A3"] < 1e-8
    assert (
        evaluate(model_file.load(result.model), labelled).forces.relative_error < 0.5
    )  # it began as the teacher


def test_an_ensemble_of_students_shares_the_labels(
    argon_config: dict[str, Any], accurate: Path, tmp_path: Path
) -> None:
    config = student(argon_config, accurate, teacher_frames=1, ensemble=2, max_steps=1)
    result = train(config, tmp_path / "run", progress=False)
    assert len(read_frames(labels_of(tmp_path / "run", "train"))) == 16
    assert not list((tmp_path / "run" / "member-0").glob("teacher-*"))
    assert model_file.read_header(result.model).training["teacher"]["frames"] == 16
    train(
        student(argon_config, result.model, teacher_frames=0, max_steps=1), tmp_path / "one", progress=False
    )


class Stop(Exception):
    pass


def test_a_labelling_that_was_stopped_goes_on(
    argon_config: dict[str, Any], accurate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kinetograph.evaluation.ATOMS_PER_BATCH", 64)  # two structures in each part
    config = student(argon_config, accurate, teacher_frames=1, max_steps=4)
    train(config, tmp_path / "whole", progress=False)
    asked: list[range] = []
    frames = Teacher._frames

    def stop_at_the_third(self: Teacher, structures: LabelledFrames, numbers: range, *more: Any) -> Any:
        asked.append(numbers)
        if len(asked) == 3:
            raise Stop
        return frames(self, structures, numbers, *more)

    monkeypatch.setattr(Teacher, "_frames", stop_at_the_third)
    folder = tmp_path / "parts"
    with pytest.raises(Stop):
        train(config, folder, progress=False)
    (parts,) = folder.glob("teacher-*.parts")
    assert [len(read_frames(part)) for part in sorted(parts.iterdir())] == [4, 4]
    result = train(config, folder, resume=True, progress=False)
    assert asked == [
        range(2),
        range(2, 4),
        range(4, 6),
        range(4, 6),
        range(6, 8),
        range(2),
        range(2, 3),
    ]
    for stem in ("train", "valid"):
        assert labels_of(folder, stem).read_bytes() == labels_of(tmp_path / "whole", stem).read_bytes()
    assert not list(folder.glob("*.parts"))

    asked.clear()
    assert train(config, folder, resume=True, progress=False).best_step == result.best_step
    assert asked == []  # read from the files
    monkeypatch.undo()
    train(
        student(argon_config, accurate, teacher_frames=0, max_steps=1), folder, overwrite=True, progress=False
    )
    assert len(read_frames(labels_of(folder, "train"))) == 8  # and the old ones are gone


def test_what_cannot_be_taught_is_refused(
    argon_config: dict[str, Any], accurate: Path, tmp_path: Path
) -> None:
    krypton = bulk("Kr", "fcc", 5.6, cubic=True)
    ase.io.write(tmp_path / "train.extxyz", krypton)
    krypton.rattle(0.1)
    ase.io.write(tmp_path / "valid.extxyz", krypton)
    data = {name: str(tmp_path / f"{name}.extxyz") for name in ("train", "valid")}
    with pytest.raises(UserError, match=r"never saw the element Kr \(.*train.extxyz\)"):
        train(student(argon_config, accurate, data=data), tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="no such model file"):
        train(student(argon_config, tmp_path / "none.kg"), tmp_path / "run", progress=False)
    both = {"valid": argon_config["data"]["train"]}
    with pytest.raises(UserError, match="also in"):
        train(student(argon_config, accurate, data=both), tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="gives no stress"):
        train(student(argon_config, accurate, stress_weight=1.0), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.yaml").exists()


class Trap(EnergyPotential):
    """A weak spring to where each atom was, but krypton explodes."""

    def __init__(self) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=6.0)
        self.domain = TrainingDomain((18, 36), None, {})

    def graph_energies(self, graph: Graph) -> Tensor:
        heavy = graph.atomic_numbers[graph.center] == 36
        pair = torch.where(heavy, -50.0, 1e-3) * (graph.distances - 4.0) ** 2
        return torch.zeros(graph.n_atoms, dtype=pair.dtype).index_add(0, graph.center, pair)


def test_a_run_that_goes_wrong_ends_and_the_others_go_on(tmp_path: Path) -> None:
    solid = bulk("Ar", "fcc", 5.6, cubic=True)
    solid.set_constraint(FixAtoms([0]))
    mixed = solid.copy()
    mixed.set_atomic_numbers([18, 36, 18, 18])
    ase.io.write(
        tmp_path / "three.extxyz", [solid, mixed, solid], columns=["symbols", "positions", "move_mask"]
    )
    ase.io.write(tmp_path / "two.extxyz", [solid], columns=["symbols", "positions", "move_mask"])
    teacher = Teacher(Trap(), tmp_path / "trap.kg", "0", "trap")
    labelled = {}
    for name in ("three", "two"):
        structures = structures_of(tmp_path / f"{name}.extxyz")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            labelled[name] = teacher.labelled(
                structures, tmp_path, n_made=5, temperature_K=50.0, seed=3, progress=False
            )
        assert ["of 15 structures" in str(w.message) for w in said] == ([True] if name == "three" else [])
    made = [(atoms.info["source_frame"], atoms.info["made"]) for atoms in labelled["three"].atoms]
    assert made.count((0, "run")) == made.count((2, "run")) == 3
    assert made.count((1, "run")) < 3
    assert made.count((1, "rattled")) == 2
    for one, other in zip(labelled["three"].atoms, labelled["two"].atoms, strict=False):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)  # whatever else is in the batch
        np.testing.assert_allclose(one.positions[0], solid.positions[0], atol=1e-7)  # held
        assert len(one.constraints) == 1
    far = np.linalg.norm(labelled["two"].atoms[-1].positions[1:] - solid.positions[1:], axis=1)
    assert 0.01 < far.mean() < 1.0


class Springs(Potential):
    """Each atom on a spring to the origin, none where the constant is zero."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.request, self.domain = GraphRequest(cutoff=1e-3), TrainingDomain((18,), None, {})
        self.constant = constant

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        return Prediction(forces=-self.constant * system.positions, conservative=False)


@pytest.mark.parametrize("constant", [0.0, 0.05])
def test_runs_move_atoms_as_their_temperature_wants(constant: float) -> None:
    """Free atoms fly sqrt(kT/m) t in the mean square; those on springs stay at kT/constant.

    Of 3000 coordinates a variance has a standard error of (2/3000)^½ = 2.6 %; four of them. A spring has
    a period of 180 fs, a run between two frames 160 fs.
    """
    kelvin, n = 80.0, 1000
    kt = units.BOLTZMANN_EV_PER_K * kelvin
    start = np.random.default_rng(0).normal(size=(n, 3)) * ((kt / constant) ** 0.5 if constant else 0.0)
    argon = System.from_ase(ase.Atoms(f"Ar{n}", positions=start))
    teacher = Teacher(Springs(constant), Path("none"), "0", "springs")
    timestep = distillation._timestep_fs([18])
    assert timestep == pytest.approx(0.5 * (39.948 / 1.008) ** 0.5)
    frames = teacher._runs([argon], [(7, 0)], distillation._Run(3, kelvin, timestep))[0]
    assert len(frames) == 3
    speed2 = kt / (39.948 * units.AMU_A2_PER_FS2_IN_EV)
    time = distillation.STEPS_PER_FRAME * timestep
    before = argon.positions
    for frame in frames:
        if constant:
            assert float(frame.positions.var()) == pytest.approx(kt / constant, rel=0.104)
        else:
            assert float((frame.positions - before).square().mean()) == pytest.approx(
                speed2 * time**2, rel=0.104
            )
        before = frame.positions
    assert abs(np.corrcoef(frames[1].positions.flatten(), frames[0].positions.flatten())[0, 1]) < 0.9
