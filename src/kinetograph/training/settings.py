"""What a training run needs to know, every value checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from kinetograph.errors import UserError, nearest
from kinetograph.models import DEFAULT_PRESET, PRESETS, options_of
from kinetograph.nn.model import Forces, Preset
from kinetograph.training.losses import EnergyLoss, ForceLoss


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    preset: str = Field(DEFAULT_PRESET, description="one of `kinetograph models`")
    cutoff_A: float = Field(gt=0.0, le=100.0, description="radius of the neighbourhood, Å")
    forces: Forces | None = Field(
        None, description="direct, conservative (an energy's gradient) or both; the preset's if left out"
    )
    width: int | None = Field(None, gt=0, description="size of the hidden states; the preset's if left out")
    n_layers: int | None = Field(None, gt=0, description="message-passing steps; the preset's if left out")
    max_bond_separation: int = Field(
        0,
        ge=0,
        le=4,
        description="bonds between atoms that make an edge type of its own: 0 none, 1 bonds, 2 angles too",
    )
    options: dict[str, Any] = Field(
        {}, description="other hyperparameters of the preset's architecture; `kinetograph models NAME`"
    )
    add: dict[str, dict[str, Any]] = Field(
        {},
        description="potentials to add, the model learns the rest: {zbl: {}}, {d3: {functional: pbe}} …",
    )


class DataSettings(_Section):
    train: Path = Field(description="labelled frames, extended XYZ, forces in eV/Å")
    valid: Path = Field(description="frames of other trajectories: choose the best model and stop by them")


class OptimizerSettings(_Section):
    max_steps: int = Field(20_000, gt=0, description="optimiser steps")
    batch_size: int = Field(1, gt=0, description="structures per step")
    learning_rate: float | None = Field(
        None, gt=0.0, description="at the start, after warm-up (Adam); the preset's if left out"
    )
    learning_rate_final: float = Field(1e-5, gt=0.0, description="at the last step")
    schedule: Literal["cosine", "exponential"] = Field(
        "cosine", description="how the learning rate falls; the GAMD paper's is exponential"
    )
    warmup_steps: int = Field(100, ge=0, description="steps in which the learning rate rises from zero")
    force_loss: ForceLoss = Field(
        "mae", description="mae of components, norm of the error vectors (GemNet), or mse"
    )
    energy_weight: float = Field(
        0.1,
        ge=0.0,
        description="weight of |ΔE| per atom in units of force scale × 1 Å, or of its square (energy_loss)",
    )
    energy_loss: EnergyLoss = Field(
        "mae", description="mae of energies per atom, or mse, by which rare structures far off count more"
    )
    stress_weight: float = Field(
        0.0,
        ge=0.0,
        description="weight of |Δσ| times volume per atom, in the same units, where both are known",
    )
    direct_weight: float = Field(
        1.0, ge=0.0, description="weight of the direct forces of a model that has both kinds"
    )
    fixed_atom_weight: float = Field(
        1.0, gt=0.0, description="weight of the forces on fixed atoms; ForceNet's is 0.05"
    )
    net_force_weight: float = Field(
        1e-3,
        ge=0.0,
        description="weight λ of GAMD's net-force penalty |Σ F|/N, in units of the force scale",
    )
    rotate: bool | None = Field(
        None,
        description="turn every structure at random; by default where the model is not covariant by itself",
    )
    rotation_axis: Literal["any", "z"] = Field(
        "any", description="turn about any axis, or about z only, the normal of a slab (ForceNet)"
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
    ensemble: int | None = Field(
        None, ge=2, description="train so many models, of the seeds that follow: mean and disagreement"
    )
    teacher: Path | None = Field(
        None, description="a model file to learn from instead of the labels of the data, which needs none"
    )
    teacher_frames: int = Field(
        4, ge=0, description="structures that the teacher makes and labels beside each training frame"
    )
    teacher_temperature_K: float = Field(
        300.0, gt=0.0, description="of the teacher's short runs from the training frames"
    )


class TrainingSettings(_Section):
    """Everything that `train` needs."""

    model: ModelSettings
    data: DataSettings
    training: OptimizerSettings = OptimizerSettings()

    def model_arguments(self) -> tuple[str, dict[str, Any]]:
        """Architecture and hyperparameters: the preset's, changed by what the configuration names."""
        preset = self._preset()
        architecture, arguments = preset.architecture, dict(preset.hyperparameters)
        known = options_of(architecture)
        arguments["cutoff"] = self.model.cutoff_A
        arguments["forces"] = self.model.forces or preset.forces
        if self.model.max_bond_separation and "max_bond_separation" not in known:
            raise UserError(
                f"{self.model.preset} has no use for bonds",
                where="model.max_bond_separation",
                mend="Set it to 0.",
            )
        for name in ("width", "n_layers", "max_bond_separation"):
            value = getattr(self.model, name)
            if value is None or (name == "max_bond_separation" and name not in known):
                continue
            if name not in known:
                raise UserError(f"{self.model.preset} has no {name}", where=f"model.{name}")
            arguments[name] = value
        for name in self.model.options:
            if name in ("cutoff", "forces", "width", "n_layers", "max_bond_separation"):
                raise UserError(
                    f"{name} is no option of its own",
                    where=f"model.options.{name}",
                    mend=f"Set model.{'cutoff_A' if name == 'cutoff' else name}.",
                )
        arguments.update(self.model.options)
        return architecture, arguments

    def resolved(self) -> TrainingSettings:
        """The same with what the preset decides written out.

        Raises:
            UserError: the preset is not known.
        """
        preset = self._preset()
        rate = self.training.learning_rate or preset.learning_rate
        return self.model_copy(
            update={
                "model": self.model.model_copy(update={"forces": self.model.forces or preset.forces}),
                "training": self.training.model_copy(update={"learning_rate": rate}),
            }
        )

    def _preset(self) -> Preset:
        if self.model.preset not in PRESETS:
            raise UserError(
                f"unknown preset {self.model.preset!r}{nearest(self.model.preset, list(PRESETS))}",
                where="model.preset",
                mend="`kinetograph models` lists them.",
            )
        return PRESETS[self.model.preset]

    def to_yaml(self) -> str:
        """The complete configuration, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
