"""What a training run needs to know, every value checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from kinetograph.errors import UserError, nearest
from kinetograph.models import DEFAULT_PRESET, PRESETS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    preset: str = Field(DEFAULT_PRESET, description="one of `kinetograph models`")
    cutoff_A: float = Field(gt=0.0, le=100.0, description="radius of the neighbourhood, Å")
    width: int | None = Field(None, gt=0, description="size of the hidden states; the preset's if left out")
    n_layers: int | None = Field(None, gt=0, description="message-passing steps; the preset's if left out")
    max_bond_separation: int = Field(
        0,
        ge=0,
        le=4,
        description="bonds between atoms that make an edge type of its own: 0 none, 1 bonds, 2 angles too",
    )


class DataSettings(_Section):
    train: Path = Field(description="labelled frames, extended XYZ, forces in eV/Å")
    valid: Path = Field(description="frames of other trajectories: choose the best model and stop by them")


class OptimizerSettings(_Section):
    max_steps: int = Field(20_000, gt=0, description="optimiser steps")
    batch_size: int = Field(1, gt=0, description="structures per step")
    learning_rate: float = Field(5e-3, gt=0.0, description="at the start, after warm-up (Adam)")
    learning_rate_final: float = Field(1e-5, gt=0.0, description="at the last step")
    schedule: Literal["cosine", "exponential"] = Field(
        "cosine", description="how the learning rate falls; the GAMD paper's is exponential"
    )
    warmup_steps: int = Field(100, ge=0, description="steps in which the learning rate rises from zero")
    net_force_weight: float = Field(
        1e-3,
        ge=0.0,
        description="weight λ of GAMD's net-force penalty |Σ F|/N, in units of the force scale",
    )
    rotate: bool | None = Field(
        None,
        description="turn every structure at random; by default where the model is not covariant by itself",
    )
    gradient_clip: float = Field(1.0, gt=0.0, description="largest norm of the gradient")
    ema_decay: float = Field(
        0.999, ge=0.0, lt=1.0, description="decay of the averaged weights that are saved; 0: off"
    )
    validate_every: int = Field(
        500, gt=0, description="steps between validations; checkpoints are written then"
    )
    early_stop_patience: int | None = Field(
        None, gt=0, description="stop after so many validations without a better one; never if left out"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="one seed, one result")
    initial_model: Path | None = Field(None, description="a model file whose weights to start from")


class TrainingSettings(_Section):
    """Everything that `train` needs."""

    model: ModelSettings
    data: DataSettings
    training: OptimizerSettings = OptimizerSettings()

    def model_arguments(self) -> tuple[str, dict[str, Any]]:
        """Architecture and hyperparameters: the preset's, changed by what the configuration names."""
        if self.model.preset not in PRESETS:
            raise UserError(
                f"unknown preset {self.model.preset!r}{nearest(self.model.preset, list(PRESETS))}",
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
