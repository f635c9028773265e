"""Ensembles, teachers and students as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Run = Callable[..., tuple[int, str, str]]


def test_an_ensemble_and_its_student(
    run: Run, refused: Callable[..., None], argon_config: dict[str, Any], argon_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(argon_config))
    code, out, err = run("train", "c.yaml", "--ensemble", "2", "--out", "two")
    assert code == 0, err
    assert "2 members" in out
    assert "of the mean" in out
    assert "member 2 of 2: step 12/12" in err
    result = json.loads((tmp_path / "two" / "train.json").read_text())
    assert len(result["members_force_mae_eV_per_A"]) == 2
    assert yaml.safe_load((tmp_path / "two" / "config.yaml").read_text())["training"]["ensemble"] == 2

    code, out, _ = run("info", "two/best.kg")
    assert code == 0
    assert "in an ensemble of 2 members" in out
    assert "of its members" in out

    code, out, err = run("evaluate", "two/best.kg", argon_data / "test.extxyz")
    assert code == 0, err
    for row in ("members' force MAE", "Spearman", "calibration"):
        assert row in out
    numbers = json.loads((tmp_path / "two" / "evaluation.json").read_text())
    assert len(numbers["members_force_mae_eV_per_A"]) == 2
    # The error of a mean is no larger than the mean error (the triangle inequality).
    assert numbers["force_mae_eV_per_A"] <= np.mean(numbers["members_force_mae_eV_per_A"]) * (1 + 1e-6)

    words = ("train", "c.yaml", "--teacher", "two/best.kg", "training.teacher_frames=1", "--out", "one")
    code, out, err = run(*words)
    assert code == 0, err
    assert "to the teacher" in out
    code, out, _ = run("info", "one/best.kg")
    assert code == 0
    assert "best.kg (gamd)" in out
    assert "on 16 frames" in out

    refused(run("train", "c.yaml", "--ensemble", "1", "--out", "x"), "training.ensemble", "2")
    refused(run("train", "c.yaml", "--teacher", "none: #1.kg", "--out", "x"), "none: #1.kg")
    refused(run("train", "c.yaml", "--ensemble", "3", "--out", "two", "--resume"), "but was 2")
    assert not (tmp_path / "x").exists()
