"""``train``: from a configuration to a run folder with a model in it."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.atomic_file import write_atomically
from kinetograph.data.dataset import ForceDataset, StepSampler, collate, less
from kinetograph.data.frames import LabelledFrames, force_std, read_frames, require_disjoint
from kinetograph.errors import UserError
from kinetograph.graph import Graph, build_graph
from kinetograph.models import build
from kinetograph.potential import LearnedPotential, SumPotential
from kinetograph.training.callbacks import ProgressBar, RunFolder
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import TrainingSettings
from kinetograph.training_domain import merge

RUN_FILES = (
    "config.yaml",
    "last.ckpt",
    "best.kg",
    "metrics.csv",
    "train.json",
    "evaluation.json",
    "evaluation.html",
    "analysis.json",
    "summary.json",
    "report.html",
)
"""What a run leaves in its folder, results that describe its model included; trajectories are left alone."""


@dataclass(frozen=True)
class TrainResult:
    """Where a training run left its model, and how good that is on the validation frames."""

    model: Path
    best_step: int
    valid_force_mae_eV_per_A: float
    steps: int
    wall_s: float


def train(
    config: TrainingSettings,
    folder: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train a model and leave ``config.yaml``, ``metrics.csv``, ``last.ckpt`` and ``best.kg`` in ``folder``.

    Args:
        resume: continue from ``last.ckpt``; on a CPU the result is the same to the bit as without the stop.
        overwrite: replace an earlier run in the folder.

    Raises:
        UserError: bad data or configuration, a folder that already holds a run, or nothing to resume.
    """
    folder, config = Path(folder), config.resolved()
    checkpoint = folder / "last.ckpt"
    _check_folder(folder, config, resume=resume, overwrite=overwrite)
    train_frames, valid_frames = read_frames(config.data.train), read_frames(config.data.valid)
    require_disjoint(train_frames, valid_frames)
    _check_elements(train_frames, valid_frames)

    architecture, hyperparameters = config.model_arguments()
    torch.manual_seed(config.training.seed)
    model = build(architecture, train_frames.elements, hyperparameters)
    additions = [
        build_addition(kind, train_frames.elements, arguments) for kind, arguments in config.model.add.items()
    ]
    _check_stress(config, model, train_frames)
    train_data = ForceDataset(train_frames, model.request)
    valid_data = ForceDataset(
        valid_frames, SumPotential(model, *additions).request if additions else model.request
    )
    domain = train_data.domain()
    for addition in additions:
        train_data = less(train_data, addition)
    if config.training.initial_model is None:
        _fit_statistics(model, train_data)
    else:
        start = _initial_model(
            config.training.initial_model, architecture, hyperparameters, train_frames, config.model.add
        )
        _start_from(model, start, train_data)
        assert start.domain is not None
        domain = merge([start.domain, domain])

    rotate = config.training.rotate
    if rotate is None:
        rotate = any("rotation" not in properties for properties in model.model.exact.values())
    module = ForceTraining(model, config.training, rotate=rotate)

    def save_model(path: Path, model: LearnedPotential, metrics: dict[str, float]) -> None:
        model_file.save(
            path,
            model,
            architecture=architecture,
            hyperparameters=hyperparameters,
            elements=train_frames.elements,
            domain=domain,
            additions=config.model.add,
            training={
                "preset": config.model.preset,
                "train_data": _fingerprint(train_frames),
                "valid_data": _fingerprint(valid_frames),
                "settings": config.training.model_dump(mode="json"),
                "metrics": metrics,
            },
        )

    run = RunFolder(
        folder,
        valid_data,
        save_model,
        data={"train": train_frames.sha256, "valid": valid_frames.sha256},
        additions=additions,
        patience=config.training.early_stop_patience,
    )
    # Nothing on disk was touched so far: whatever could be refused has been.
    _prepare_folder(folder, resume=resume)
    write_atomically(folder / "config.yaml", config.to_yaml().encode())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        run.finish_untrained(model)  # a baseline: its statistics are all it learns
        return TrainResult(folder / "best.kg", 0, run.best, 0, run.wall_s)
    callbacks: list[lightning.pytorch.Callback] = [run]
    if progress:
        callbacks.append(ProgressBar(run, config.training.max_steps))
    sampler = StepSampler(
        len(train_data),
        config.training.batch_size,
        min(config.training.validate_every, config.training.max_steps),
        config.training.seed,
    )
    sampler.first_step = _step_of(checkpoint) if resume else 0
    _quiet_lightning()
    trainer = lightning.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        max_steps=config.training.max_steps,
        gradient_clip_val=config.training.gradient_clip,
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        callbacks=callbacks,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=config.training.validate_every,
    )
    trainer.fit(
        module,
        DataLoader(train_data, batch_sampler=sampler, collate_fn=collate),
        ckpt_path=checkpoint if resume else None,
        weights_only=True,
    )
    if run.interrupted:
        raise KeyboardInterrupt
    return TrainResult(
        model=folder / "best.kg",
        best_step=run.best_step,
        valid_force_mae_eV_per_A=run.best,
        steps=trainer.global_step,
        wall_s=run.wall_s,
    )


def _check_folder(folder: Path, config: TrainingSettings, *, resume: bool, overwrite: bool) -> None:
    """Refuse what can be refused before any work; nothing is changed."""
    checkpoint, saved = folder / "last.ckpt", folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise UserError("the run folder is a file", where=str(folder), mend="Choose another name.")
    if resume:
        if not checkpoint.is_file():
            raise UserError(
                "there is nothing to resume", where=str(checkpoint), mend="Start without --resume."
            )
        try:
            _step_of(checkpoint)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(
                f"the checkpoint cannot be read: it is damaged or truncated ({type(error).__name__})",
                where=str(checkpoint),
                mend="Start again; training.initial_model=best.kg keeps what was learned.",
            ) from error
        if saved.is_file() and saved.read_text(encoding="utf-8") != config.to_yaml():
            raise UserError(
                "the configuration is not the one this run was started with: "
                + _difference(
                    yaml.safe_load(saved.read_text(encoding="utf-8")), yaml.safe_load(config.to_yaml())
                ),
                where=str(saved),
                mend="Resume with the same configuration; to train for longer, start a new run from this "
                "model with training.initial_model.",
            )
        return
    if checkpoint.exists() or (folder / "best.kg").exists():
        if not overwrite:
            raise UserError(
                "the folder already holds a run",
                where=str(folder),
                mend="Continue it with --resume, replace it with --overwrite, or choose another folder.",
            )
        start = config.training.initial_model
        if start is not None and start.resolve().parent == folder.resolve():
            raise UserError(
                "the initial model lies in the folder that would be replaced",
                where=str(start),
                mend="Choose another folder for the new run.",
            )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first key that differs, with both values."""
    for section, values in now.items():
        for key, value in values.items():
            known = before.get(section, {}).get(key)
            if known != value:
                return f"{section}.{key} is {value}, but was {known}"
    return "a key is gone"


def _step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])


def _prepare_folder(folder: Path, *, resume: bool) -> None:
    """Make the folder and take out what an earlier run left, results that describe its model included."""
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        return
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _check_elements(train_frames: LabelledFrames, valid_frames: LabelledFrames) -> None:
    from ase.data import chemical_symbols

    unknown = set(valid_frames.elements) - set(train_frames.elements)
    if unknown:
        names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
        raise UserError(
            f"the validation frames hold elements that no training frame has: {names}",
            where=valid_frames.source,
        )


def _check_stress(config: TrainingSettings, model: LearnedPotential, frames: LabelledFrames) -> None:
    """Refuse a weight on stresses that cannot count."""
    if config.training.stress_weight == 0.0:
        return
    if not model.gives_stress:
        raise UserError(
            "the model gives no stress, so training.stress_weight cannot count",
            where="training.stress_weight",
            mend="Set it to 0, or model.forces to conservative.",
        )
    if not np.isfinite(frames.stresses).any():
        raise UserError(
            "no training frame has a stress, so training.stress_weight cannot count",
            where=frames.source,
            mend="Set it to 0, or give the frames stresses.",
        )


def _fit_statistics(model: LearnedPotential, data: ForceDataset) -> None:
    """Force scale, reference energies and whatever the model keeps of its data, from training frames only."""
    scale = force_std([sample.forces.numpy() for sample in data.samples])
    if scale == 0.0:
        raise UserError("all training forces are zero", where=data.source)
    model.force_scale.fill_(scale)
    _fit_reference_energies(model, data)

    class Graphs:
        """The graphs of the training frames, made anew each time: angles would fill the memory."""

        def __iter__(self) -> Iterator[Graph]:
            return (
                build_graph(s.system, s.neighbors, data.request, dtype=torch.get_default_dtype())
                for s in data.samples
            )

    model.model.fit_statistics(
        Graphs(), [(s.forces / scale).to(torch.get_default_dtype()) for s in data.samples]
    )


def _fit_reference_energies(
    model: LearnedPotential, data: ForceDataset, *, beside: LearnedPotential | None = None
) -> None:
    """E0 of each element: least squares of the training energies on the composition.

    Of all that fit as well (one composition only, for example) the smallest is taken. An element in no frame
    with an energy keeps what it has, zero at first; where others are fitted, a warning says so.

    Args:
        beside: a trained model, whose E0 are shifted by what fits its errors best.
    """
    from ase.data import chemical_symbols

    if not hasattr(model, "reference_energies"):
        return
    known = [sample for sample in data.samples if bool(torch.isfinite(sample.energies).all())]
    if not known:
        return
    numbers = torch.unique(torch.cat([sample.system.atomic_numbers for sample in known]))
    everywhere = torch.unique(torch.cat([sample.system.atomic_numbers for sample in data.samples]))
    unknown = sorted(set(everywhere.tolist()) - set(numbers.tolist()))
    if unknown:
        names = ", ".join(chemical_symbols[z] for z in unknown)
        warnings.warn(
            f"no frame of {data.source} that has an energy holds {names}: the reference energy stays as it "
            "was (0 eV in a new model), and predicted energies may be off by a constant for each such atom",
            UserWarning,
            stacklevel=2,
        )
    counts = torch.stack([(sample.system.atomic_numbers == numbers[:, None]).sum(dim=1) for sample in known])
    energies = torch.cat([sample.energies for sample in known])
    if beside is not None:
        with torch.no_grad():
            predicted = [beside(sample.system, sample.neighbors).energy for sample in known]
        energies = energies - torch.cat([energy for energy in predicted if energy is not None])
    fitted = np.linalg.lstsq(counts.double().numpy(), energies.numpy(), rcond=1e-10)[0]
    start = model.reference_energies[numbers] if beside is not None else 0.0
    model.reference_energies[numbers] = start + torch.as_tensor(fitted)


def _initial_model(
    path: Path,
    architecture: str,
    hyperparameters: dict[str, Any],
    frames: LabelledFrames,
    additions: dict[str, dict[str, Any]],
) -> LearnedPotential:
    """The model to start from, which must be of the same make and for the same elements.

    Its kind of forces may be another one: what the two have in common is carried over.
    """
    header = model_file.read_header(path)

    def make(arguments: dict[str, Any]) -> dict[str, Any]:
        heads = ("forces", "separate_energy")
        return {name: value for name, value in arguments.items() if name not in heads}

    if header.architecture != architecture or make(header.hyperparameters) != make(hyperparameters):
        raise UserError(
            f"the initial model is {header.architecture} {header.hyperparameters}, "
            f"the configuration asks for {architecture} {hyperparameters}",
            where=str(path),
            mend="Give the same preset and sizes.",
        )
    if header.additions != additions:
        raise UserError(
            f"the initial model stands beside {header.additions or 'nothing'}, "
            f"the configuration adds {additions or 'nothing'}: it learned another difference",
            where=str(path),
            mend="Give the same under model.add.",
        )
    model = model_file.load_model(path)
    assert model.domain is not None
    if model.domain.elements != frames.elements:
        raise UserError(
            "the initial model was trained on other elements than these frames hold", where=str(path)
        )
    return model


def _start_from(model: LearnedPotential, start: LearnedPotential, data: ForceDataset) -> None:
    """Carry the weights over; a head that ``start`` has not begins anew."""
    missing, _ = model.load_state_dict(start.state_dict(), strict=False)
    # These frames may come from another method, or the earlier ones had no energies: E0 is theirs anew.
    keeps_energies = "reference_energies" not in missing and "conservative" in start.model.heads
    _fit_reference_energies(model, data, beside=start.eval() if keeps_energies else None)


def _fingerprint(frames: LabelledFrames) -> dict[str, Any]:
    return {"file": Path(frames.source).name, "sha256": frames.sha256, "frames": len(frames)}


def _quiet_lightning() -> None:
    """Keep Lightning's start-up notes off the terminal; its warnings that matter here are handled above."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
