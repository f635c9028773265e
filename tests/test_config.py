"""The configuration: defaults, changes, and messages that name the nearest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kinetograph.config import check_config, load_config, template
from kinetograph.errors import UserError

MINIMAL: dict[str, Any] = {"model": {"cutoff_A": 5.0}, "data": {"train": "a.extxyz", "valid": "b.extxyz"}}


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_template_is_a_complete_configuration(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(template())
    config = load_config(path)
    written = yaml.safe_load(template())
    shortest = {
        "model": {k: written["model"][k] for k in ("cutoff_A", "max_bond_separation")},
        "data": written["data"],
    }
    assert config == check_config(shortest, "x")  # whatever else it shows is the default
    for section in ("model", "data", "training"):
        keys = type(getattr(config, section)).model_fields
        assert all(f"{key}:" in template() for key in keys)


def test_the_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["training.seed=3", "model.preset=gamd-code"])
    assert config.training.seed == 3
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("training.learning_rat=1", r"unknown key 'training.learning_rat'; did you mean 'learning_rate'"),
        ("modle.width=3", r"unknown key 'modle'; did you mean 'model'"),
        ("training.max_steps=0", "training.max_steps: .*greater than 0"),
        ("training.max_steps=many", "training.max_steps: .*integer"),
        ("training.seed", "not of the form key=value"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_config(write(tmp_path, MINIMAL), [change])


def test_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), ["model.preset=gamd-covarient"])
    with pytest.raises(UserError, match="did you mean 'gamd-covariant'"):
        config.model_arguments()


def test_missing_key_file_and_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"key 'model.cutoff_A' is missing"):
        load_config(write(tmp_path, {**MINIMAL, "model": {}}))
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1, 2")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="mapping"):
        load_config(tmp_path / "list.yaml")
