"""The training configuration: YAML whose keys are checked before any work starts."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kinetograph.errors import UserError
from kinetograph.models import DEFAULT_PRESET, PRESETS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    preset: str = Field(DEFAULT_PRESET, description="one of `kinetograph models`")
    cutoff_A: float = Field(gt=0.0, description="radius of the neighbourhood, Å")
    width: int | None = Field(None, gt=0, description="size of the hidden states; the preset's if left out")
    n_layers: int | None = Field(None, gt=0, description="message-passing steps; the preset's if left out")
    max_bond_separation: int = Field(
        0, ge=0, le=4, description="bonds between atoms that make an edge type of its own: 0 none, 1 bonds, 2 angles too"
    )


class DataConfig(_Section):
    train: Path = Field(description="labelled frames, extended XYZ, forces in eV/Å")
    valid: Path = Field(description="frames of other trajectories: choose the best model and stop by them")
    test: Path | None = Field(None, description="frames never used in training; `evaluate` reports on them")


class TrainingConfig(_Section):
    max_steps: int = Field(20_000, gt=0, description="optimiser steps")
    batch_size: int = Field(1, gt=0, description="structures per step")
    learning_rate: float = Field(2e-3, gt=0.0, description="at the start, after warm-up (Adam)")
    learning_rate_final: float = Field(1e-5, gt=0.0, description="at the last step")
    schedule: Literal["cosine", "exponential"] = Field(
        "cosine", description="how the learning rate falls; the GAMD paper's is exponential"
    )
    warmup_steps: int = Field(100, ge=0, description="steps in which the learning rate rises from zero")
    net_force_weight: float = Field(
        1e-3, ge=0.0, description="weight λ of the net-force penalty |Σ F| (GAMD, eq. 8), in units of the force scale"
    )
    rotate: bool | None = Field(
        None, description="turn every structure at random; by default where the model is not covariant by itself"
    )
    gradient_clip: float = Field(1.0, gt=0.0, description="largest norm of the gradient")
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the averaged weights that are saved; 0: off")
    validate_every: int = Field(500, gt=0, description="steps between validations; checkpoints are written then")
    early_stop_patience: int | None = Field(
        None, gt=0, description="stop after so many validations without a better one; never if left out"
    )
    seed: int = Field(0, ge=0, description="one seed, one result")
    initial_model: Path | None = Field(None, description="a model file whose weights to start from")


class TrainConfig(_Section):
    """Everything that `train` needs."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    def model_arguments(self) -> tuple[str, dict[str, Any]]:
        """Architecture and hyperparameters: the preset's, changed by what the configuration names."""
        if self.model.preset not in PRESETS:
            raise UserError(
                f"unknown preset {self.model.preset!r}{_nearest(self.model.preset, list(PRESETS))}",
                where="model.preset",
                mend="`kinetograph models` lists them.",
            )
        arguments = dict(PRESETS[self.model.preset])
        architecture = str(arguments.pop("architecture"))
        arguments["cutoff"] = self.model.cutoff_A
        arguments["max_bond_separation"] = self.model.max_bond_separation
        for name in ("width", "n_layers"):
            value = getattr(self.model, name)
            if value is not None:
                arguments[name] = value
        return architecture, arguments

    def to_yaml(self) -> str:
        """The complete configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(path: Path | str, overrides: list[str] | None = None) -> TrainConfig:
    """A configuration from YAML, with ``section.key=value`` changes on top.

    Relative paths are taken from the current folder.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest one is named), or a
            value is missing or out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("there is no such configuration file", where=str(path), mend="`kinetograph template` writes one.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration is not valid YAML ({error})", where=str(path)) from error
    if not isinstance(data, dict):
        raise UserError("the configuration must be a mapping of sections", where=str(path))
    for item in overrides or []:
        _override(data, item)
    return check_config(data, str(path))


def check_config(data: dict[str, Any], where: str) -> TrainConfig:
    """Validate plain data as a training configuration; see :func:`load_config`."""
    try:
        return TrainConfig.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        key = ".".join(location)
        if first["type"] == "extra_forbidden":
            known = _keys_of(location[:-1])
            raise UserError(
                f"unknown key {key!r}{_nearest(location[-1], known)}", where=where, mend=f"Known: {', '.join(known)}."
            ) from error
        if first["type"] == "missing":
            raise UserError(f"the key {key!r} is missing", where=where) from error
        raise UserError(f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}", where=where) from error


def template() -> str:
    """A commented configuration to start from."""
    lines = []
    examples = {"cutoff_A": "5.0", "train": "data/train.extxyz", "valid": "data/valid.extxyz", "test": "data/test.extxyz"}
    for section, model in (("model", ModelConfig), ("data", DataConfig), ("training", TrainingConfig)):
        lines.append(f"{section}:")
        for name, field in model.model_fields.items():
            default = examples.get(name)
            if default is None:
                value = yaml.safe_dump(field.default, default_flow_style=True).replace("\n...", "").strip()
                default = value if field.default is not None else ""
            comment = "" if field.default is not None or name in examples else "# "
            lines.append(f"  {comment}{name}: {default}".rstrip().ljust(40) + f"  # {field.description}")
    return "\n".join(lines) + "\n"


def _keys_of(location: list[str]) -> list[str]:
    fields: Any = TrainConfig.model_fields
    for part in location:
        fields = fields[part].annotation.model_fields
    return list(fields)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    if not separator:
        raise UserError(f"{item!r} is not of the form key=value", where="command line", mend="Write training.seed=1.")
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise UserError(f"{section!r} is not a section", where="command line")
    data[name] = yaml.safe_load(text)
