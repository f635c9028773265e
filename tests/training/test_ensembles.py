"""Ensembles are trained member by member: each as if alone, all in one file, killed runs going on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kinetograph import model_file
from kinetograph.config import check_config
from kinetograph.data.frames import read_frames
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.evaluation import disagreement, evaluate
from kinetograph.training.callbacks import RunFolder
from kinetograph.training.fit import train
from kinetograph.training.settings import TrainingSettings


def configured(config: dict[str, Any], **training: Any) -> TrainingSettings:
    add = training.pop("add", {})
    model = {**config["model"], "add": add}
    return check_config({**config, "model": model, "training": {**config["training"], **training}}, "test")


def same(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(argon_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an ensemble of three."""
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    train(configured(argon_config, ensemble=3, seed=5), folder, progress=False)
    return folder


def test_members_are_the_models_of_the_seeds_that_follow(
    argon_config: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    train(configured(argon_config, seed=6), tmp_path / "alone", progress=False)
    assert same(trained / "member-1" / "best.kg", tmp_path / "alone" / "best.kg")
    whole, one = load_file(trained / "best.kg"), load_file(tmp_path / "alone" / "best.kg")
    assert all(torch.equal(whole[f"members.1.{name}"], value) for name, value in one.items())
    assert not same(trained / "member-0" / "best.kg", trained / "member-1" / "best.kg")
    with (trained / "member-2" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8", "12"]


def test_the_file_holds_all_members_and_the_errors_of_their_mean(
    argon_config: dict[str, Any], argon_data: Path, trained: Path
) -> None:
    ensemble = model_file.load(trained / "best.kg")
    assert isinstance(ensemble, EnsemblePotential)
    header = model_file.read_header(trained / "best.kg")
    assert header.training["settings"]["ensemble"] == 3
    valid = evaluate(ensemble, read_frames(argon_data / "valid.extxyz"))
    assert header.training["metrics"]["valid_force_mae_eV_per_A"] == pytest.approx(valid.forces.mae, rel=1e-6)
    of_members = [of["valid_force_mae_eV_per_A"] for of in header.training["members"]]
    assert valid.members_force_mae == pytest.approx(of_members, rel=1e-5)
    assert not any(part.training for part in ensemble.modules())
    numbers = valid.to_json()
    assert numbers["members_force_mae_eV_per_A"] == list(valid.members_force_mae)
    assert -1.0 <= numbers["force_std_spearman"] <= 1.0
    assert len(numbers["force_std_bins"]["force_std_eV_per_A"]) == 10


def test_disagreement_is_held_against_the_error() -> None:
    """Half as far apart as off, in the same order: ranks agree wholly, and the factor is two."""
    spread = np.random.default_rng(0).uniform(0.1, 1.0, size=95)
    known = disagreement(spread, 2.0 * spread)
    assert known.spearman == pytest.approx(1.0)
    assert known.calibration == pytest.approx(2.0)
    np.testing.assert_allclose(known.bins[:, 1], 2.0 * known.bins[:, 0])
    assert bool((np.diff(known.bins[:, 0]) > 0).all())
    assert disagreement(spread, -spread + 2.0).spearman == pytest.approx(-1.0)
    nowhere = disagreement(np.zeros(4), np.ones(4))
    assert np.isnan(nowhere.spearman)
    assert np.isnan(nowhere.calibration)


class Stop(Exception):
    pass


def test_a_killed_ensemble_goes_on_where_it_was(
    argon_config: dict[str, Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = configured(argon_config, ensemble=3, seed=5), tmp_path / "run"
    write = RunFolder._write_checkpoint

    def stop_in_the_second(self: RunFolder, trainer: Any) -> None:
        write(self, trainer)
        if self.folder.name == "member-1" and trainer.global_step == 8:
            raise Stop

    monkeypatch.setattr(RunFolder, "_write_checkpoint", stop_in_the_second)
    with pytest.raises(Stop):
        train(config, folder, progress=False)
    monkeypatch.undo()
    assert not (folder / "best.kg").exists()
    with pytest.raises(UserError, match="already holds a run"):
        train(config, folder, progress=False)
    with pytest.raises(UserError, match="already holds a run"):
        train(configured(argon_config), folder, progress=False)
    with pytest.raises(UserError, match="ensemble is 2, but was 3"):
        train(configured(argon_config, ensemble=2, seed=5), folder, resume=True, progress=False)
    before = (folder / "member-0" / "last.ckpt").stat().st_mtime_ns
    result = train(config, folder, resume=True, progress=False)
    assert (folder / "member-0" / "last.ckpt").stat().st_mtime_ns == before
    assert same(folder / "best.kg", trained / "best.kg")
    known = [json.loads((folder / f"member-{k}" / "train.json").read_text()) for k in range(3)]
    assert result.members_force_mae_eV_per_A == tuple(one["valid_force_mae_eV_per_A"] for one in known)
    assert result.steps == 36

    assert train(config, folder, resume=True, progress=False) == result  # nothing is left to do
    train(configured(argon_config), folder, overwrite=True, progress=False)
    assert not list(folder.glob("member-*"))


def test_members_trained_on_other_frames_are_not_put_together(
    argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "train.extxyz"
    mine.write_bytes((argon_data / "train.extxyz").read_bytes())
    config = configured({**argon_config, "data": {**argon_config["data"], "train": str(mine)}}, ensemble=2)
    train(config, tmp_path / "run", progress=False)
    mine.write_bytes((argon_data / "test.extxyz").read_bytes())
    for left in (tmp_path / "run" / "member-1").iterdir():
        if left.is_file():
            left.unlink()
    with pytest.raises(UserError, match="frames are not those"):
        train(config, tmp_path / "run", resume=True, progress=False)


def test_an_ensemble_can_be_trained_on(argon_config: dict[str, Any], trained: Path, tmp_path: Path) -> None:
    start = {"initial_model": str(trained / "best.kg"), "learning_rate": 1e-9, "learning_rate_final": 1e-10}
    result = train(configured(argon_config, ensemble=2, **start), tmp_path / "more", progress=False)
    before, after = load_file(trained / "best.kg"), load_file(result.model)
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="is an ensemble of 3"):
        train(configured(argon_config, **start), tmp_path / "one", progress=False)
    with pytest.raises(UserError, match="ensemble of 3, and this one is to have more"):
        train(configured(argon_config, ensemble=4, **start), tmp_path / "four", progress=False)
    with pytest.raises(UserError, match="would be replaced"):
        train(configured(argon_config, ensemble=3, **start), trained, overwrite=True, progress=False)


def test_an_ensemble_beside_an_addition(argon_config: dict[str, Any], tmp_path: Path) -> None:
    config = configured(argon_config, ensemble=2, max_steps=1, add={"zbl": {}})
    ensemble = model_file.load(train(config, tmp_path / "run", progress=False).model)
    assert isinstance(ensemble, EnsemblePotential)
    assert len(ensemble.added) == 1


def test_an_ensemble_of_one_is_refused(argon_config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"training.ensemble: .*greater than or equal to 2, got 1"):
        configured(argon_config, ensemble=1)
