"""Training on energies and stresses, both kinds of forces at once, and beside potentials that are added."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.config import check_config
from kinetograph.data.dataset import ForceDataset, less
from kinetograph.data.frames import read_frames
from kinetograph.errors import UserError
from kinetograph.evaluation import evaluate
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.classical import LennardJones
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System
from kinetograph.training.fit import train
from kinetograph.training.settings import TrainingSettings


def painn(
    config: dict[str, Any], forces: str, *, add: dict[str, Any] | None = None, **training: Any
) -> TrainingSettings:
    return check_config(
        {
            "model": {
                "preset": "painn-small",
                "forces": forces,
                "cutoff_A": 6.0,
                "width": 8,
                "n_layers": 1,
                "add": add or {},
            },
            "data": config["data"],
            "training": {**config["training"], "learning_rate": 3e-3, **training},
        },
        "test",
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_energies_of_elements_are_the_least_squares_of_the_training_energies(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    result = train(painn(argon_config, "conservative"), tmp_path / "run", progress=False)
    frames = read_frames(argon_data / "train.extxyz")
    model = model_file.load(result.model)
    assert isinstance(model, LearnedPotential)
    expected = frames.energies.mean() / len(frames.atoms[0])  # one composition: the mean
    assert float(model.reference_energies[18]) == pytest.approx(expected, rel=1e-9)
    assert float(model.reference_energies[8]) == 0.0
    assert model.reference_energies.dtype == torch.float64


def test_training_lowers_the_errors_of_energies_and_forces(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    train(
        painn(argon_config, "conservative", max_steps=300, validate_every=100, learning_rate=5e-3),
        tmp_path / "run",
        progress=False,
    )
    table = rows(tmp_path / "run")
    # Eight frames are soon known by heart: held-out forces fall little, the loss and the energies must.
    assert float(table[-1]["valid_energy_mae_eV_per_atom"]) < 0.9 * float(
        table[0]["valid_energy_mae_eV_per_atom"]
    )
    assert float(table[-1]["train_loss"]) < 0.2 * float(table[0]["train_loss"])
    errors = evaluate(model_file.load(tmp_path / "run" / "best.kg"), read_frames(argon_data / "test.extxyz"))
    assert errors.energies is not None
    assert errors.energies.n_frames == 3


def test_both_kinds_of_forces_come_from_one_training(argon_config: dict[str, Any], tmp_path: Path) -> None:
    result = train(painn(argon_config, "both"), tmp_path / "run", progress=False)
    assert float(rows(tmp_path / "run")[-1]["valid_direct_force_mae_eV_per_A"]) > 0.0
    assert model_file.read_header(result.model).heads == ["direct", "conservative"]
    frame = read_frames(argon_config["data"]["train"]).atoms[0]
    system = System.from_ase(frame)
    forces = {}
    for head in ("direct", "conservative"):
        model = model_file.load(result.model, forces=head)
        prediction = model(system, neighbors_for(system, model.request))
        assert prediction.conservative == model.gives_energy == (head == "conservative")
        assert (prediction.energy is not None) == (head == "conservative")
        forces[head] = prediction.forces
    assert float((forces["direct"] - forces["conservative"]).abs().max()) > 1e-6


def test_a_direct_model_is_trained_on_as_a_conservative_one(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    direct = train(painn(argon_config, "direct"), tmp_path / "direct", progress=False).model
    config = painn(argon_config, "conservative", initial_model=str(direct), max_steps=1, learning_rate=1e-12)
    tuned = model_file.load_model(train(config, tmp_path / "tuned", progress=False).model)
    start = model_file.load_model(direct)
    shared = dict(start.model.named_parameters())
    carried = {n: p for n, p in tuned.model.named_parameters() if n in shared}
    assert len(carried) > 5
    assert {n for n in dict(tuned.model.named_parameters()) if n not in shared}  # a head of its own
    for name, parameter in carried.items():
        torch.testing.assert_close(parameter, shared[name], rtol=0, atol=1e-9)
    assert float(tuned.reference_energies[18]) != 0.0


def test_the_model_learns_what_an_added_potential_leaves(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    add = {"zbl": {}}
    config = painn(argon_config, "conservative", add=add)
    result = train(config, tmp_path / "run", progress=False)
    assert model_file.read_header(result.model).additions == add
    whole = model_file.load(result.model)
    assert isinstance(whole, SumPotential)
    learned, core = model_file.load_model(result.model), build_addition("zbl", [18], {})
    frame = read_frames(argon_config["data"]["train"]).atoms[0]
    frame.rattle(0.8, seed=1)  # close pairs, so that the core is felt
    system = System.from_ase(frame)
    parts = [p(system, neighbors_for(system, p.request)).forces for p in (learned, core)]
    assert float(parts[1].abs().max()) > 1e-3
    total = whole(system, neighbors_for(system, whole.request)).forces
    torch.testing.assert_close(total, parts[0] + parts[1], rtol=0, atol=1e-12)
    # The validation error in the table is that of the whole, not of the difference.
    errors = evaluate(whole, read_frames(argon_config["data"]["valid"]))
    assert float(rows(tmp_path / "run")[-1]["valid_force_mae_eV_per_A"]) == pytest.approx(errors.forces.mae)


def test_labels_less_a_potential_are_the_difference(argon_data: Path) -> None:
    frames = read_frames(argon_data / "train.extxyz")
    core = build_addition("zbl", [18], {})
    dataset = ForceDataset(frames, core.request)
    rest = less(dataset, core)
    for before, after in zip(dataset.samples, rest.samples, strict=True):
        known = core(before.system, before.neighbors)
        torch.testing.assert_close(after.forces + known.forces, before.forces)
        torch.testing.assert_close(after.energies + known.energy, before.energies)


def test_a_baseline_without_parameters_is_fitted_and_saved(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    config = check_config({**argon_config, "model": {"preset": "median", "cutoff_A": 5.0}}, "test")
    result = train(config, tmp_path / "run", progress=False)
    errors = evaluate(model_file.load(result.model), read_frames(argon_config["data"]["valid"]))
    assert errors.forces.mae == pytest.approx(result.valid_force_mae_eV_per_A)
    assert errors.forces.relative_error == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"preset": "gamd", "forces": "conservative"}, "GAMD has no conservative forces"),
        (
            {"preset": "painn-small", "options": {"n_radail": 3}},
            "no option 'n_radail'; did you mean 'n_radial'",
        ),
        ({"preset": "painn-small", "add": {"zlb": {}}}, "unknown addition 'zlb'; did you mean 'zbl'"),
        ({"preset": "gns", "max_bond_separation": 1}, "gns has no use for bonds"),
        ({"preset": "median", "width": 8}, "median has no width"),
    ],
)
def test_what_a_model_has_not_is_refused_before_work_starts(
    argon_config: dict[str, Any], tmp_path: Path, model: dict[str, Any], says: str
) -> None:
    config = check_config({**argon_config, "model": {"cutoff_A": 6.0, **model}}, "test")
    with pytest.raises(UserError, match=says):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_stresses_and_energies_are_read_and_bad_ones_named(tmp_path: Path, argon_data: Path) -> None:
    frames = ase.io.read(argon_data / "train.extxyz", ":3")
    stress = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    frames[1].calc.results["stress"] = stress
    del frames[2].calc.results["energy"]
    ase.io.write(tmp_path / "a.extxyz", frames)
    read = read_frames(tmp_path / "a.extxyz")
    assert read.n_with_energy == 2
    assert np.isnan(read.energies[2])
    assert np.isnan(read.stresses[0]).all()
    assert read.stresses[1].tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    frames[0].calc.results["energy"] = np.inf
    ase.io.write(tmp_path / "b.extxyz", frames)
    with pytest.raises(UserError, match="the energy is inf, not a finite number"):
        read_frames(tmp_path / "b.extxyz")


def mixed_frames(path: Path, shift_eV: float = 0.0) -> Path:
    """Crystals with stresses, and a molecule and a lone atom without, all of argon; exact labels."""
    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=6.0, truncation="switch", switch_start=5.0)
    frames = []
    for number in range(9):
        atoms = [bulk("Ar", "fcc", 5.3, cubic=True), ase.Atoms("Ar3", np.eye(3) * 3.6), ase.Atoms("Ar")][
            number % 3
        ]
        atoms.rattle(0.2, seed=len(str(path)) + number)
        system = System.from_ase(atoms)
        prediction = potential(system, neighbors_for(system, potential.request))
        assert prediction.energy is not None
        results = {
            "energy": prediction.energy.item() + shift_eV * len(atoms),
            "forces": prediction.forces.numpy(),
        }
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].numpy())
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


def test_stresses_are_learned_beside_structures_that_have_none(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    data = {
        "train": str(mixed_frames(tmp_path / "t.extxyz")),
        "valid": str(mixed_frames(tmp_path / "va.extxyz")),
    }
    config = {**argon_config, "data": data}
    result = train(
        painn(config, "conservative", max_steps=40, validate_every=20, stress_weight=1.0, batch_size=9),
        tmp_path / "run",
        progress=False,
    )
    errors = evaluate(model_file.load(result.model), read_frames(data["valid"]))
    assert errors.stresses is not None
    assert np.isfinite(errors.stresses.mae)
    assert errors.stresses.n_frames == 3
    alone = painn(config, "conservative", max_steps=40, validate_every=20, stress_weight=0.0, batch_size=9)
    other = train(alone, tmp_path / "other", progress=False)
    assert other.valid_force_mae_eV_per_A != result.valid_force_mae_eV_per_A  # the weight counts


@pytest.mark.parametrize(
    ("forces", "says"), [("direct", "gives no stress"), ("conservative", "no training frame")]
)
def test_a_weight_on_stresses_that_cannot_count_is_refused(
    argon_config: dict[str, Any], tmp_path: Path, forces: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        train(painn(argon_config, forces, stress_weight=1.0), tmp_path / "run", progress=False)


def test_a_weight_on_stresses_says_that_fixed_angles_give_none(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    model = {"preset": "dimenet", "width": 8, "n_layers": 1, "options": {"angle_grad": False}}
    changed = {**argon_config, "model": {"cutoff_A": 5.0, **model}}
    changed["training"] = {**argon_config["training"], "stress_weight": 1.0}
    with pytest.raises(UserError, match=r"gives no stress.*leave out the option .*: angle_grad"):
        train(check_config(changed, "test"), tmp_path / "run", progress=False)


@pytest.mark.parametrize("kind", ["mae", "mse"])
def test_the_best_model_is_best_in_what_it_was_trained_for(
    argon_config: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """Steps so large that errors of forces and energies rise and fall apart."""
    config = painn(
        argon_config,
        "conservative",
        energy_loss=kind,
        energy_weight=500.0,
        learning_rate=0.1,
        max_steps=24,
        validate_every=2,
    )
    result = train(config, tmp_path / "run", progress=False)
    table = rows(tmp_path / "run")
    loss = {int(row["step"]): float(row["valid_loss_eV_per_A"]) for row in table}
    forces = {int(row["step"]): float(row["valid_force_mae_eV_per_A"]) for row in table}
    energies = {int(row["step"]): float(row["valid_energy_mae_eV_per_atom"]) for row in table}
    assert result.best_step == min(loss, key=lambda step: loss[step])
    assert result.best_step != min(forces, key=lambda step: forces[step])
    assert result.valid_force_mae_eV_per_A == forces[result.best_step]
    if kind == "mae":
        assert loss == pytest.approx({step: forces[step] + 500.0 * energies[step] for step in loss})


def test_energies_of_elements_follow_the_frames_that_a_model_is_trained_on_with(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    data = {
        "train": str(mixed_frames(tmp_path / "t.extxyz")),
        "valid": str(mixed_frames(tmp_path / "va.extxyz")),
    }
    first = train(painn({**argon_config, "data": data}, "conservative"), tmp_path / "first", progress=False)
    shifted = {
        "train": str(mixed_frames(tmp_path / "t2.extxyz", -1e5)),
        "valid": str(mixed_frames(tmp_path / "va2.extxyz", -1e5)),
    }
    config = painn(
        {**argon_config, "data": shifted}, "conservative", initial_model=str(first.model), max_steps=2
    )
    second = train(config, tmp_path / "second", progress=False)
    change = model_file.load_model(second.model).reference_energies - (
        model_file.load_model(first.model).reference_energies
    )
    assert float(change[18]) == pytest.approx(-1e5, abs=0.1)


def test_an_element_that_no_frame_with_an_energy_holds_is_named(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    frames = ase.io.read(mixed_frames(tmp_path / "a.extxyz"), ":")
    krypton = ase.Atoms("ArKr", [[0, 0, 0], [0, 0, 3.9]])
    krypton.calc = SinglePointCalculator(krypton, forces=[[0, 0, 0.01], [0, 0, -0.01]])
    ase.io.write(tmp_path / "t.extxyz", [*frames, krypton])
    data = {"train": str(tmp_path / "t.extxyz"), "valid": str(mixed_frames(tmp_path / "va.extxyz"))}
    config = painn({**argon_config, "data": data}, "conservative", max_steps=1)
    with pytest.warns(UserWarning, match=r"t\.extxyz that has an energy holds Kr: "):
        result = train(config, tmp_path / "run", progress=False)
    energies = model_file.load_model(result.model).reference_energies
    assert float(energies[36]) == 0.0
    assert float(energies[18]) != 0.0


def test_a_model_that_learned_beside_other_potentials_is_not_trained_on_without_them(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    first = train(painn(argon_config, "direct", add={"zbl": {}}), tmp_path / "first", progress=False)
    with pytest.raises(UserError, match=r"stands beside \{'zbl': \{\}\}, the configuration adds nothing"):
        train(painn(argon_config, "direct", initial_model=str(first.model)), tmp_path / "run", progress=False)


def test_validation_frames_without_a_graph_are_refused_before_training(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    frames = ase.io.read(argon_data / "valid.extxyz", ":")
    frames[1].positions[3] = frames[1].positions[2]
    ase.io.write(tmp_path / "v.extxyz", frames)
    config = {**argon_config, "data": {**argon_config["data"], "valid": str(tmp_path / "v.extxyz")}}
    with pytest.raises(UserError, match=r"atoms 2 and 3 are in one place .*v.extxyz, frame 1"):
        train(painn(config, "direct"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_radial": 0}, "n_radial is 0, not a whole number of at least 1"),
        ({"n_radial": "many"}, "n_radial is 'many'"),
        ({"norm_epsilon": -1.0}, "norm_epsilon is -1.0, not a positive number"),
        ({"forces": "both"}, "forces is no option of its own .*Set model.forces"),
        ({"cutoff": 2.0}, "cutoff is no option of its own .*Set model.cutoff_A"),
    ],
)
def test_impossible_hyperparameters_are_refused(
    argon_config: dict[str, Any], tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    model = {"preset": "painn-small", "cutoff_A": 6.0, "options": options}
    with pytest.raises(UserError, match=says):
        train(check_config({**argon_config, "model": model}, "test"), tmp_path / "run", progress=False)
