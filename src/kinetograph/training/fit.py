"""``train``: from a configuration to a run folder with a model in it."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from kinetograph import model_file
from kinetograph.atomic_file import write_atomically
from kinetograph.data.dataset import ForceDataset, Sample, StepSampler, collate
from kinetograph.data.frames import LabelledFrames, force_std, read_frames
from kinetograph.errors import UserError
from kinetograph.graph import build_graph
from kinetograph.models import build
from kinetograph.potential import DirectModel
from kinetograph.training.callbacks import ProgressBar, RunFolder
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import TrainingSettings


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
    folder = Path(folder)
    checkpoint = folder / "last.ckpt"
    _check_folder(folder, config, resume=resume, overwrite=overwrite)
    train_frames, valid_frames = read_frames(config.data.train), read_frames(config.data.valid)
    if train_frames.sha256 == valid_frames.sha256:
        raise UserError(
            "training and validation frames are the same file",
            where=str(config.data.valid),
            mend="Validate on trajectories that are not trained on.",
        )
    _check_elements(train_frames, valid_frames)

    architecture, hyperparameters = config.model_arguments()
    torch.manual_seed(config.training.seed)
    model = build(architecture, train_frames.elements, hyperparameters)
    train_data = ForceDataset(train_frames, model.request)
    valid_data = ForceDataset(valid_frames, model.request)
    domain = train_data.domain()
    if config.training.initial_model is None:
        _fit_statistics(model, train_frames, train_data)
    else:
        _start_from(config.training.initial_model, model, architecture, hyperparameters, train_frames)

    rotate = config.training.rotate
    if rotate is None:
        rotate = "rotation" not in model.model.head.exact
    module = ForceTraining(model, config.training, rotate=rotate)

    def save_model(path: Path, module: ForceTraining, metrics: dict[str, float]) -> None:
        model_file.save(
            path,
            module.best_weights,
            architecture=architecture,
            hyperparameters=hyperparameters,
            elements=train_frames.elements,
            domain=domain,
            training={
                "preset": config.model.preset,
                "train_data": _fingerprint(train_frames),
                "valid_data": _fingerprint(valid_frames),
                "settings": config.training.model_dump(mode="json"),
                "metrics": metrics,
            },
        )

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.yaml", config.to_yaml().encode())
    run = RunFolder(folder, save_model, patience=config.training.early_stop_patience)
    callbacks: list[lightning.pytorch.Callback] = [run]
    if progress:
        callbacks.append(ProgressBar(config.training.max_steps))
    steps = min(config.training.validate_every, config.training.max_steps)
    sampler = StepSampler(len(train_data), config.training.batch_size, steps, config.training.seed)
    _quiet_lightning()
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=config.training.max_steps,
        gradient_clip_val=config.training.gradient_clip,
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=config.training.validate_every,
    )
    trainer.fit(
        module,
        DataLoader(train_data, batch_sampler=sampler, collate_fn=collate),
        _validation_loader(valid_data),
        ckpt_path=checkpoint if resume else None,
        weights_only=True,
    )
    return TrainResult(
        model=folder / "best.kg",
        best_step=run.best_step,
        valid_force_mae_eV_per_A=run.best,
        steps=trainer.global_step,
        wall_s=run.wall_s,
    )


def _validation_loader(data: ForceDataset) -> DataLoader[Sample]:
    # About two thousand atoms at once keep the graph in cache and the call overhead small.
    atoms = sum(s.system.n_atoms for s in data.samples) / len(data)
    return DataLoader(data, batch_size=max(1, int(2000 / atoms)), collate_fn=collate)


def _check_folder(folder: Path, config: TrainingSettings, *, resume: bool, overwrite: bool) -> None:
    checkpoint, saved = folder / "last.ckpt", folder / "config.yaml"
    if resume:
        if not checkpoint.is_file():
            raise UserError(
                "there is nothing to resume", where=str(checkpoint), mend="Start without --resume."
            )
        if saved.is_file() and saved.read_text(encoding="utf-8") != config.to_yaml():
            raise UserError(
                "the configuration is not the one this run was started with",
                where=str(saved),
                mend="Resume with the same configuration, or start a new run with training.initial_model.",
            )
    elif saved.exists() or checkpoint.exists():
        if not overwrite:
            raise UserError(
                "the folder already holds a run",
                where=str(folder),
                mend="Continue it with --resume, replace it with --overwrite, or choose another folder.",
            )
        for old in (checkpoint, folder / "best.kg", folder / "metrics.csv", saved):
            old.unlink(missing_ok=True)


def _check_elements(train_frames: LabelledFrames, valid_frames: LabelledFrames) -> None:
    from ase.data import chemical_symbols

    unknown = set(valid_frames.elements) - set(train_frames.elements)
    if unknown:
        names = ", ".join(chemical_symbols[z] for z in sorted(unknown))
        raise UserError(
            f"the validation frames hold elements that no training frame has: {names}",
            where=valid_frames.source,
        )


def _fit_statistics(model: DirectModel, frames: LabelledFrames, data: ForceDataset) -> None:
    """Force scale and whatever the model keeps of its data, from training frames only."""
    scale = force_std(frames.forces)
    if scale == 0.0:
        raise UserError("all training forces are zero", where=frames.source)
    model.force_scale.fill_(scale)
    model.model.fit_statistics(build_graph(s.system, s.neighbors, data.request) for s in data.samples)


def _start_from(
    path: Path, model: DirectModel, architecture: str, hyperparameters: dict[str, Any], frames: LabelledFrames
) -> None:
    header = model_file.read_header(path)
    if header.architecture != architecture or header.hyperparameters != hyperparameters:
        raise UserError(
            f"the initial model is {header.architecture} {header.hyperparameters}, "
            f"the configuration asks for {architecture} {hyperparameters}",
            where=str(path),
            mend="Give the same preset and sizes.",
        )
    start = model_file.load(path)
    assert start.domain is not None
    if start.domain.elements != frames.elements:
        raise UserError(
            "the initial model was trained on other elements than these frames hold", where=str(path)
        )
    model.load_state_dict(start.state_dict())


def _fingerprint(frames: LabelledFrames) -> dict[str, Any]:
    return {"file": Path(frames.source).name, "sha256": frames.sha256, "frames": len(frames)}


def _quiet_lightning() -> None:
    """Keep Lightning's start-up notes off the terminal; its warnings that matter here are handled above."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
