"""Training: one seed one result, resumption to the bit, and that it learns."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch
import yaml
from safetensors.torch import load_file

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.config import check_config
from kinetograph.data.dataset import ForceDataset, StepSampler, collate
from kinetograph.data.frames import read_frames
from kinetograph.errors import RunFailed, UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.nn.batch_norm import BatchNorm
from kinetograph.system import System
from kinetograph.training import module
from kinetograph.training.augmentation import random_rotations
from kinetograph.training.callbacks import RunFolder
from kinetograph.training.fit import train
from kinetograph.training.losses import energy_loss, force_loss, net_force_penalty, stress_loss
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import TrainingSettings
from kinetograph.training.start import fit_statistics


def changed(config: dict[str, Any], **training: Any) -> TrainingSettings:
    model = training.pop("model", {})
    return check_config(
        {**config, "model": {**config["model"], **model}, "training": {**config["training"], **training}},
        "test",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "best.kg")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return state


def wait_for_rows(table: Path, n_rows: int, child: subprocess.Popen[Any]) -> None:
    """Wait until a training has validated so many times."""
    deadline = time.monotonic() + 90.0
    while not (table.is_file() and table.read_text().count("\n") > n_rows):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.005)


class Stop(Exception):
    pass


# The code form has dropout and rotations, GNS has batch norms.
@pytest.mark.parametrize("preset", ["gamd-covariant", "gamd-code", "gns"])
def test_resumed_training_equals_uninterrupted_training_to_the_bit(
    argon_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    sizes = {"width": 16, "n_layers": 1} if preset == "gns" else {}
    config = changed(argon_config, model={"preset": preset, **sizes})
    train(config, tmp_path / "whole", progress=False)

    write = RunFolder._write_checkpoint

    def stop_after_second(self: RunFolder, trainer: Any) -> None:
        write(self, trainer)
        if trainer.global_step == 8:
            raise Stop

    monkeypatch.setattr(RunFolder, "_write_checkpoint", stop_after_second)
    with pytest.raises(Stop):
        train(config, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    train(config, tmp_path / "parts", resume=True, progress=False)

    assert same(last_state(tmp_path / "whole"), last_state(tmp_path / "parts"))
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    tables = []
    for name in ("whole", "parts"):
        with (tmp_path / name / "metrics.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]
    assert [row["step"] for row in tables[0]] == ["4", "8", "12"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_resumes_where_it_stopped(
    argon_config: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    """A signal between two validations: exit code 128 + number, a checkpoint at that step, the same end."""
    config = {
        **argon_config,
        "training": {**argon_config["training"], "max_steps": 300, "validate_every": 100},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "kinetograph", "train", "c.yaml", "--out", "run"]
    child = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for_rows(tmp_path / "run" / "metrics.csv", 1, child)
    time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert ("Interrupted" in said) == (number == signal.SIGINT)
    assert "Traceback" not in said
    stopped_at = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert 100 <= stopped_at < 300
    settings = check_config(config, "test")
    train(settings, tmp_path / "run", resume=True, progress=False)
    train(settings, tmp_path / "whole", progress=False)
    assert same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_sigterm_before_the_first_step_is_no_success(
    argon_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning notes it then, and would end the program with exit code 0."""
    length = StepSampler.__len__

    def kill(self: StepSampler) -> int:
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)
        return length(self)

    monkeypatch.setattr(StepSampler, "__len__", kill)
    with pytest.raises(SystemExit) as end:
        train(changed(argon_config), tmp_path / "run", progress=False)
    assert end.value.code == 143


def test_the_last_steps_are_validated_whatever_their_number(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    result = train(changed(argon_config, max_steps=10, validate_every=4), tmp_path / "run", progress=False)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "10"]
    assert len({row["valid_force_mae_eV_per_A"] for row in rows}) == 3
    assert result.steps == 10


def test_a_run_of_an_earlier_version_goes_on(argon_config: dict[str, Any], tmp_path: Path) -> None:
    """Keys that its configuration does not know yet count as left at their defaults."""
    config = changed(argon_config)
    result = train(config, tmp_path / "run", progress=False)
    saved = tmp_path / "run" / "config.yaml"
    known = yaml.safe_load(saved.read_text())
    del known["training"]["teacher_frames"], known["training"]["ensemble"]
    saved.write_text(yaml.safe_dump(known))
    assert train(config, tmp_path / "run", resume=True, progress=False).best_step == result.best_step
    saved.write_text(yaml.safe_dump({**known, "training": {**known["training"], "gone": 1, "seed": 9}}))
    with pytest.raises(UserError, match="seed is 0, but was 9"):
        train(config, tmp_path / "run", resume=True, progress=False)


def test_diverged_training_says_so(argon_config: dict[str, Any], tmp_path: Path) -> None:
    config = changed(argon_config, learning_rate=1e30, gradient_clip=1e30, max_steps=100)
    with pytest.raises(RunFailed, match="loss is not finite"):
        train(config, tmp_path / "run", progress=False)


def test_nothing_is_lost_when_an_overwriting_run_is_refused(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    train(changed(argon_config), tmp_path / "run", progress=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    missing = {**argon_config, "data": {**argon_config["data"], "train": str(tmp_path / "none.extxyz")}}
    with pytest.raises(UserError, match="no such file"):
        train(check_config(missing, "test"), tmp_path / "run", overwrite=True, progress=False)
    own = changed(argon_config, initial_model=str(tmp_path / "run" / "best.kg"))
    with pytest.raises(UserError, match="would be replaced"):
        train(own, tmp_path / "run", overwrite=True, progress=False)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after == before


def test_resumption_refuses_other_frames_and_a_damaged_checkpoint(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "train.extxyz"
    mine.write_bytes((argon_data / "train.extxyz").read_bytes())
    config = {**argon_config, "data": {**argon_config["data"], "train": str(mine)}}
    train(check_config(config, "test"), tmp_path / "run", progress=False)
    mine.write_bytes((argon_data / "test.extxyz").read_bytes())
    with pytest.raises(UserError, match="frames are not those"):
        train(check_config(config, "test"), tmp_path / "run", resume=True, progress=False)
    checkpoint = tmp_path / "run" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        train(check_config(config, "test"), tmp_path / "run", resume=True, progress=False)


def test_a_frame_on_both_sides_is_refused(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    both = ase.io.read(argon_data / "valid.extxyz", ":") + ase.io.read(argon_data / "train.extxyz", "3:4")
    ase.io.write(tmp_path / "leaky.extxyz", both, format="extxyz")
    config = {**argon_config, "data": {**argon_config["data"], "valid": str(tmp_path / "leaky.extxyz")}}
    with pytest.raises(UserError, match=r"also in .*train.extxyz, frame 3.*leaky.extxyz, frame 3"):
        train(check_config(config, "test"), tmp_path / "run", progress=False)


def test_one_seed_one_result(argon_config: dict[str, Any], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(changed(argon_config, seed=seed), tmp_path / name, progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_killed_training_leaves_files_that_open_and_resume(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    config = {**argon_config, "training": {**argon_config["training"], "max_steps": 400}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "kinetograph", "train", "c.yaml", "--out", "run"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    wait_for_rows(tmp_path / "run" / "metrics.csv", 3, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert model_file.load(tmp_path / "run" / "best.kg").domain is not None
    killed_at = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < killed_at < 400
    train(
        check_config({**config, "data": argon_config["data"]}, "test"),
        tmp_path / "run",
        resume=True,
        progress=False,
    )
    train(check_config(config, "test"), tmp_path / "whole", progress=False)
    assert same(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))


def test_training_lowers_the_error_and_stores_what_it_measured(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    config = changed(argon_config, max_steps=300, validate_every=100, learning_rate=0.01, model={"width": 16})
    result = train(config, tmp_path / "run", progress=False)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["valid_relative_error"]) < 0.3  # starts at 1; an exact pair force is easy
    header = model_file.read_header(result.model)
    assert header.training["metrics"]["valid_force_mae_eV_per_A"] == result.valid_force_mae_eV_per_A
    assert header.training["train_data"]["frames"] == 8
    assert (tmp_path / "run" / "tensorboard").is_dir()


def test_force_scale_comes_from_training_frames_alone(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    from kinetograph.data.frames import force_std, read_frames

    train(changed(argon_config), tmp_path / "run", progress=False)
    model = model_file.load(tmp_path / "run" / "best.kg")
    assert float(model.force_scale) == pytest.approx(
        force_std(read_frames(argon_data / "train.extxyz").forces), rel=1e-6
    )


def test_a_model_can_be_trained_on(argon_config: dict[str, Any], argon_model: Path, tmp_path: Path) -> None:
    config = changed(
        argon_config, initial_model=str(argon_model), learning_rate=1e-9, learning_rate_final=1e-10
    )
    result = train(config, tmp_path / "more", progress=False)
    before, after = load_file(argon_model), load_file(result.model)
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    named = {"options": {"length_basis": "standardised"}}  # what it is by default
    train(
        changed(argon_config, initial_model=str(argon_model), model=named), tmp_path / "named", progress=False
    )
    other = changed(argon_config, initial_model=str(argon_model), model={"width": 16})
    with pytest.raises(UserError, match=r"has width \d+ where the configuration has 16 .*same preset"):
        train(other, tmp_path / "other", progress=False)
    krypton = {}
    for name, path in argon_config["data"].items():
        krypton[name] = tmp_path / f"krypton_{name}.extxyz"
        krypton[name].write_text(Path(path).read_text().replace("Ar ", "Kr "))
    data = {name: str(path) for name, path in krypton.items()}
    foreign = changed({**argon_config, "data": data}, initial_model=str(argon_model))
    with pytest.raises(UserError, match="was trained on Ar, these frames also hold Kr"):
        train(foreign, tmp_path / "foreign", progress=False)


def test_a_model_can_be_trained_on_with_frames_of_fewer_elements(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    data = {}
    for name, path in argon_config["data"].items():
        lines = Path(path).read_text().splitlines(keepends=True)
        data[name] = tmp_path / f"mixed_{name}.extxyz"
        data[name].write_text(
            "".join(line.replace("Ar ", "Kr ") if i % 3 == 0 else line for i, line in enumerate(lines))
        )
    mixed = {**argon_config, "data": {name: str(path) for name, path in data.items()}}
    start = train(changed(mixed), tmp_path / "mixed", progress=False).model
    result = train(changed(argon_config, initial_model=str(start)), tmp_path / "argon", progress=False)
    domain = model_file.load_model(result.model).domain
    assert domain is not None
    assert domain.elements == (18, 36)
    assert "Kr-Kr" in domain.shortest_A
    before, after = load_file(start), load_file(result.model)
    assert {name: weight.shape for name, weight in before.items()} == {
        name: weight.shape for name, weight in after.items()
    }
    assert any(not torch.equal(before[name], after[name]) for name in before)


def with_cells(
    argon_config: dict[str, Any], folder: Path, scale: float, only: int | None = None, of: str = "train"
) -> dict[str, Any]:
    """The configuration with every frame of one file, or one, blown up or shrunk, and the same labels."""
    frames = ase.io.read(argon_config["data"][of], ":")
    for number, atoms in enumerate(frames):
        if only in (None, number):
            calc = atoms.calc
            atoms.set_cell(atoms.cell * scale, scale_atoms=True)
            atoms.calc = calc
    ase.io.write(folder / "moved.extxyz", frames)
    return {**argon_config, "data": {**argon_config["data"], of: str(folder / "moved.extxyz")}}


def test_frames_in_which_no_atom_has_a_neighbour_are_refused(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    moved = with_cells(argon_config, tmp_path, 3.0)
    with pytest.raises(
        UserError, match=r"no atom of any training frame has a neighbour within 6 Å .*moved\.extxyz"
    ):
        train(changed(moved), tmp_path / "run", progress=False)


def test_lone_atoms_and_atoms_too_near_are_warned_of(argon_config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"1 of 8 frames of .* \(first: 2\) have forces on atoms with no"):
        train(changed(with_cells(argon_config, tmp_path, 3.0, only=2)), tmp_path / "far", progress=False)
    held_out = with_cells(argon_config, tmp_path, 3.0, only=1, of="valid")
    with pytest.warns(UserWarning, match=r"1 of \d+ frames of .*moved.* \(first: 1\) have forces on atoms"):
        train(changed(held_out), tmp_path / "far-valid", progress=False)
    with pytest.warns(UserWarning, match=r"Ar-Ar are 0\.\d+ Å apart in frame 5 of .*moved"):
        train(changed(with_cells(argon_config, tmp_path, 0.12, only=5)), tmp_path / "near", progress=False)


def test_lone_atoms_are_no_matter_where_an_addition_says_all_of_their_forces(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    arguments = {"charges": {"Ar": 0.3, "Kr": -0.3}, "cutoff": 6.0}
    pair = ase.Atoms("ArKr", positions=[[0.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    charges = build_addition("charges", [18, 36], arguments)
    system = System.from_ase(pair)
    forces = charges(system, neighbors_for(system, charges.request)).forces.numpy()
    assert abs(forces).max() > 0.01
    pair.arrays["forces"] = forces
    ase.io.write(tmp_path / "pair.extxyz", pair)
    frames = ase.io.read(argon_config["data"]["train"], ":")
    for atoms in frames:
        atoms.numbers[::2] = 36
    ase.io.write(tmp_path / "mixed.extxyz", frames)
    model = {"preset": "painn-energy", "cutoff_A": 6.0, "width": 8, "n_layers": 1}
    data = {"train": str(tmp_path / "mixed.extxyz"), "valid": str(tmp_path / "pair.extxyz")}
    config = {**argon_config, "data": data, "model": {**model, "add": {"charges": arguments}}}
    train(changed(config), tmp_path / "together", progress=False)
    with pytest.warns(UserWarning, match=r"1 of 1 frames of .*pair.extxyz \(first: 0\) have forces on atoms"):
        train(changed({**config, "model": model}), tmp_path / "alone", progress=False)


def test_early_stop(argon_config: dict[str, Any], tmp_path: Path) -> None:
    config = changed(
        argon_config, early_stop_patience=2, learning_rate=1e-12, learning_rate_final=1e-13, max_steps=100
    )
    assert train(config, tmp_path / "run", progress=False).steps < 100


def test_an_existing_run_is_not_replaced_unasked(argon_config: dict[str, Any], tmp_path: Path) -> None:
    config = changed(argon_config)
    with pytest.raises(UserError, match="nothing to resume"):
        train(config, tmp_path / "run", resume=True, progress=False)
    train(config, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="already holds a run"):
        train(config, tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="not the one this run was started with"):
        train(changed(argon_config, seed=5), tmp_path / "run", resume=True, progress=False)


def test_losses_by_hand() -> None:
    predicted = torch.tensor([[1.0, 0.0, 0.0], [0.0, -2.0, 0.0], [3.0, 0.0, 4.0]])
    nothing = torch.zeros(3, 3)
    assert float(force_loss(predicted, nothing)) == pytest.approx(10.0 / 9)
    assert float(force_loss(predicted, nothing, "norm")) == pytest.approx((1 + 2 + 5) / 3 / 3**0.5)
    assert float(force_loss(predicted, nothing, "mse")) == pytest.approx((1 + 4 + 25) / 9)
    weights = torch.tensor([1.0, 0.05, 0.0])  # as of a free and a fixed atom
    assert float(force_loss(predicted, nothing, "mae", weights)) == pytest.approx((1 + 0.05 * 2) / 3 / 1.05)
    index = torch.tensor([0, 0, 1])
    assert float(net_force_penalty(predicted, index, 2)) == pytest.approx(((1.0 + 2.0) / 2 + 7.0) / 2)


def test_the_setting_decides_how_energies_count(argon_config: dict[str, Any]) -> None:
    model = {"preset": "painn-energy", "width": 8, "n_layers": 1}
    config = changed({**argon_config, "model": {"cutoff_A": 6.0, **model}})
    frames = read_frames(config.data.train)
    architecture, hyperparameters = config.model_arguments()
    potential = build(architecture, frames.elements, hyperparameters)
    data = ForceDataset(frames, potential.request)
    fit_statistics(potential, data)
    batch = collate([data[0], data[1]])
    prediction = potential(batch.system, batch.neighbors)
    losses = []
    for kind, weight in (("mae", 0.0), ("mae", 2.0), ("mse", 2.0)):
        training = config.resolved().training.model_copy(
            update={"energy_loss": kind, "energy_weight": weight}
        )
        losses.append(ForceTraining(potential, training, rotate=False).loss(prediction, batch).item())
    assert prediction.energy is not None
    error = (prediction.energy - batch.energies).detach() / batch.system.atoms_per_system
    error = error / potential.force_scale
    assert losses[1] - losses[0] == pytest.approx(2.0 * float(error.abs().mean()), rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(2.0 * float(error.square().mean()), rel=1e-4)


def test_labels_that_are_not_known_do_not_count() -> None:
    predicted = torch.tensor([5.0, 7.0, 1.0], requires_grad=True)
    n_atoms = torch.tensor([2, 4, 8])
    loss = energy_loss(predicted, torch.tensor([4.0, torch.nan, 5.0]), n_atoms)
    assert loss.item() == pytest.approx((1 / 2 + 4 / 8) / 2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == pytest.approx([0.25, 0.0, -0.0625])
    assert energy_loss(predicted, torch.full((3,), torch.nan), n_atoms).item() == 0.0
    squares = energy_loss(predicted, torch.tensor([4.0, torch.nan, 5.0]), n_atoms, "mse")
    assert squares.item() == pytest.approx(((1 / 2) ** 2 + (4 / 8) ** 2) / 2)

    stress = torch.full((2, 3, 3), 0.02)
    reference = torch.stack([torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
    assert float(stress_loss(stress, reference, torch.tensor([10.0, 10.0]))) == pytest.approx(0.2)
    molecule = torch.tensor([torch.nan, 10.0])  # no cell, no stress
    assert float(stress_loss(stress, reference, molecule)) == 0.0


def test_random_rotations_are_proper_and_uniform() -> None:
    rotation = random_rotations(20_000, torch.Generator().manual_seed(0))
    eye = torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20_000, dtype=torch.float64))
    # Uniform on SO(3): each element has mean 0 and variance 1/3; standard errors 0.004 and 0.002.
    assert rotation.mean(dim=0).abs().max() < 0.02
    assert (rotation.var(dim=0) - 1 / 3).abs().max() < 0.01


def test_seeding_a_step_leaves_nothing_behind(argon_config: dict[str, Any], tmp_path: Path) -> None:
    """``torch.manual_seed`` without a GPU keeps a call stack for each time it is called."""
    before = len(torch.cuda._queued_calls)  # private, and the only sign of it
    train(changed(argon_config), tmp_path / "run", progress=False)
    assert len(torch.cuda._queued_calls) - before < 10


def test_batch_norm_statistics_are_those_of_the_weights_that_are_kept(
    argon_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from nothing by the last batches, not carried along from weights that are gone."""
    seen: list[torch.Tensor] = []
    estimate = module.estimate_statistics

    def listen(kept: LearnedPotential, batches: Any) -> None:
        seen.clear()
        norm = next(part for part in kept.modules() if isinstance(part, BatchNorm))
        hook = norm.register_forward_pre_hook(lambda part, inputs: seen.append(inputs[0].clone()))
        estimate(kept, batches)
        hook.remove()

    monkeypatch.setattr(module, "estimate_statistics", listen)
    config = changed(argon_config, model={"preset": "gns", "width": 16, "n_layers": 1})
    train(config, tmp_path / "run", progress=False)
    saved = model_file.load_model(tmp_path / "run" / "best.kg")
    norm = next(part for part in saved.modules() if isinstance(part, BatchNorm))
    assert len(seen) == config.training.max_steps  # fewer than the forty that would be taken
    mean = torch.stack([rows.mean(dim=0) for rows in seen]).mean(dim=0)
    variance = torch.stack([rows.var(dim=0) for rows in seen]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == torch.nn.BatchNorm1d(1).momentum
    assert not norm.training


def test_a_file_that_no_run_has_left_is_not_replaced(argon_config: dict[str, Any], tmp_path: Path) -> None:
    """The user's own configuration, where the run would write its resolved one."""
    config = changed(argon_config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("# mine")
    with pytest.raises(UserError, match="a file that the run would replace"):
        train(config, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "config.yaml").read_text() == "# mine"
    (tmp_path / "run" / "config.yaml").write_text(config.resolved().to_yaml())  # of a run killed early
    train(config, tmp_path / "run", progress=False)


def test_a_run_that_stopped_early_stays_stopped_when_resumed(
    argon_config: dict[str, Any], tmp_path: Path
) -> None:
    config = changed(argon_config, early_stop_patience=1, learning_rate=3.0, max_steps=40)
    first = train(config, tmp_path / "run", progress=False)
    assert first.steps < 40
    kept = (tmp_path / "run" / "best.kg").read_bytes()
    again = train(config, tmp_path / "run", resume=True, progress=False)
    assert again.steps == first.steps
    assert (tmp_path / "run" / "best.kg").read_bytes() == kept
