"""``train``: from a configuration to a run folder with a model in it."""

from __future__ import annotations

import json
import logging
import signal
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.atomic_file import write_atomically, write_json
from kinetograph.data.dataset import ForceDataset, StepSampler, collate, less
from kinetograph.data.frames import LabelledFrames, read_frames, require_disjoint
from kinetograph.errors import UserError
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.sum_potential import SumPotential
from kinetograph.training.callbacks import ProgressBar, RunFolder
from kinetograph.training.distillation import Teacher, structures_of
from kinetograph.training.ensemble import gather, member_folder, member_settings
from kinetograph.training.folder import check_folder, has_begun, prepare_folder, step_of
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import TrainingSettings
from kinetograph.training.start import (
    check_surroundings,
    fit_statistics,
    initial_model,
    start_from,
    warn_of_lone_atoms,
)
from kinetograph.training_domain import merge


@dataclass(frozen=True)
class TrainResult:
    """Where a training run left its model, and how good that is on the validation frames."""

    model: Path
    best_step: int
    """Of an ensemble the latest of its members'."""
    valid_force_mae_eV_per_A: float
    """Of an ensemble the error of the mean; beside a teacher the difference from the teacher."""
    steps: int
    """Of an ensemble those of all members."""
    wall_s: float
    members_force_mae_eV_per_A: tuple[float, ...] = ()
    """Of each member of an ensemble."""


def train(
    config: TrainingSettings,
    folder: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train a model and leave ``config.yaml``, ``metrics.csv``, ``last.ckpt`` and ``best.kg`` in ``folder``.

    The members of an ensemble leave theirs in ``member-0``, ``member-1`` … and one ``best.kg`` holds all of
    them. What a teacher labelled lies in ``teacher-*.extxyz``.

    Args:
        resume: continue from ``last.ckpt``; on a CPU the result is the same to the bit as without the stop.
        overwrite: replace an earlier run in the folder.

    Raises:
        UserError: bad data or configuration, a folder that already holds a run, or nothing to resume.
    """
    folder, config = Path(folder), config.resolved()
    check_folder(folder, config, resume=resume, overwrite=overwrite)
    resume = resume and has_begun(folder, config)
    config.model_arguments()  # refuses before a teacher is asked for long
    frames = _read(config, folder, progress=progress)
    if config.training.ensemble is None:
        return _Training(config, folder, frames).run(resume=resume, progress=progress)
    return _train_ensemble(config, folder, frames, config.training.ensemble, resume=resume, progress=progress)


def _train_ensemble(
    config: TrainingSettings, folder: Path, frames: _Frames, n_members: int, *, resume: bool, progress: bool
) -> TrainResult:
    """Train one member after the other; what is finished is not done again."""
    settings = [member_settings(config, number) for number in range(n_members)]
    training = _Training(settings[0], member_folder(folder, 0), frames, 0)  # refuses for all of them
    prepare_folder(folder, resume=resume, keep=frames.files)
    write_atomically(folder / "config.yaml", config.to_yaml().encode())
    results = []
    for number, own in enumerate(settings):
        where = member_folder(folder, number)
        finished = where / "train.json"
        if finished.is_file():
            known = json.loads(finished.read_text(encoding="utf-8"))
            results.append(TrainResult(**{**known, "model": Path(known["model"])}))
            continue
        has_started = has_begun(where, own)
        if has_started:
            check_folder(where, own, resume=True, overwrite=False)
        if number > 0:
            training = _Training(own, where, frames, number)
        name = f"member {number + 1} of {n_members}"
        results.append(training.run(resume=has_started, progress=progress, name=name))
        write_json(finished, {**asdict(results[-1]), "model": str(results[-1].model)})
    return TrainResult(
        model=folder / "best.kg",
        valid_force_mae_eV_per_A=gather(folder, config, frames.valid),
        best_step=max(result.best_step for result in results),
        steps=sum(result.steps for result in results),
        wall_s=sum(result.wall_s for result in results),
        members_force_mae_eV_per_A=tuple(result.valid_force_mae_eV_per_A for result in results),
    )


@dataclass(frozen=True)
class _Frames:
    """What is trained and validated on, and where it comes from."""

    train: LabelledFrames
    valid: LabelledFrames
    provenance: dict[str, Any]
    """For the model file."""
    files: tuple[Path, ...] = ()
    """Those of them that lie in the run folder."""


def _read(config: TrainingSettings, folder: Path, *, progress: bool) -> _Frames:
    """The frames of the data with their labels, or with a teacher's and more that the teacher made."""
    options = config.training
    read = read_frames if options.teacher is None else structures_of
    train_frames, valid_frames = read(config.data.train), read(config.data.valid)
    require_disjoint(train_frames, valid_frames)
    _check_elements(train_frames, valid_frames)
    provenance = {"train_data": _fingerprint(train_frames), "valid_data": _fingerprint(valid_frames)}
    if options.teacher is None:
        return _Frames(train_frames, valid_frames, provenance)
    teacher = Teacher.load(options.teacher)
    labelled = [
        teacher.labelled(
            frames,
            folder,
            n_made=n_made,
            temperature_K=options.teacher_temperature_K,
            seed=options.seed,
            progress=progress,
        )
        for frames, n_made in ((train_frames, options.teacher_frames), (valid_frames, 0))
    ]
    provenance["teacher"] = {
        "file": teacher.path.name,
        "sha256": teacher.sha256,
        "architecture": teacher.architecture,
        "frames": len(labelled[0]),
    }
    return _Frames(labelled[0], labelled[1], provenance, tuple(Path(frames.source) for frames in labelled))


class _Training:
    """One model and everything that its training needs; nothing on disk is touched before ``run``.

    Args:
        member: which member of an ensemble it is to become, if of one.

    Raises:
        UserError: the configuration and the frames do not fit each other, or a file that it names.
    """

    def __init__(
        self, config: TrainingSettings, folder: Path, frames: _Frames, member: int | None = None
    ) -> None:
        self.config, self.folder, self.frames = config, folder, frames
        architecture, hyperparameters = config.model_arguments()
        start, elements = None, frames.train.elements
        if config.training.initial_model is not None:
            start = initial_model(
                config.training.initial_model, architecture, hyperparameters, frames.train, config, member
            )
            assert start.domain is not None
            elements = start.domain.elements
        torch.manual_seed(config.training.seed)
        model = build(architecture, elements, hyperparameters)
        additions = [
            build_addition(kind, elements, arguments) for kind, arguments in config.model.add.items()
        ]
        _check_stress(config, model, frames.train)
        data = ForceDataset(frames.train, model.request)
        valid_data = ForceDataset(
            frames.valid, SumPotential(model, *additions).request if additions else model.request
        )
        domain = data.domain()
        valid_learned = ForceDataset(frames.valid, model.request) if additions else valid_data
        for addition in additions:
            data, valid_learned = less(data, addition), less(valid_learned, addition)
        if any(parameter.requires_grad for parameter in model.parameters()):
            check_surroundings(data)
            warn_of_lone_atoms(valid_learned)
        if start is None:
            fit_statistics(model, data)
        else:
            start_from(model, start, data)
            assert start.domain is not None
            domain = merge([start.domain, domain])
        self.model, self.data = model, data

        def save_model(path: Path, model: LearnedPotential, metrics: dict[str, float]) -> None:
            model_file.save(
                path,
                model,
                architecture=architecture,
                hyperparameters=hyperparameters,
                elements=elements,
                domain=domain,
                additions=config.model.add,
                training={
                    "preset": config.model.preset,
                    **frames.provenance,
                    "settings": config.training.model_dump(mode="json"),
                    "metrics": metrics,
                },
            )

        self.outputs = RunFolder(
            folder,
            valid_data,
            save_model,
            data={"train": frames.train.sha256, "valid": frames.valid.sha256},
            additions=additions,
            config=config.training,
        )

    def run(self, *, resume: bool, progress: bool, name: str = "training") -> TrainResult:
        """Train to the end, and leave the files of a run.

        Raises:
            KeyboardInterrupt, SystemExit: a signal stopped it after a whole step, and it can be resumed.
        """
        options, outputs, checkpoint = self.config.training, self.outputs, self.folder / "last.ckpt"
        prepare_folder(self.folder, resume=resume, keep=self.frames.files)
        write_atomically(self.folder / "config.yaml", self.config.to_yaml().encode())
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            outputs.finish_untrained(self.model)  # a baseline: its statistics are all it learns
            return TrainResult(self.folder / "best.kg", 0, outputs.best_force_mae, 0, outputs.wall_s)
        rotate = options.rotate
        if rotate is None:
            rotate = any("rotation" not in properties for properties in self.model.model.exact.values())
        callbacks: list[lightning.pytorch.Callback] = [outputs]
        if progress:
            callbacks.append(ProgressBar(outputs, options.max_steps, name))
        sampler = StepSampler(
            len(self.data),
            options.batch_size,
            min(options.validate_every, options.max_steps),
            options.seed,
        )
        sampler.first_step = step_of(checkpoint) if resume else 0
        _quiet_lightning()
        trainer = lightning.Trainer(
            accelerator="gpu" if torch.cuda.is_available() else "cpu",
            devices=1,
            max_steps=options.max_steps,
            gradient_clip_val=options.gradient_clip,
            logger=TensorBoardLogger(self.folder, name="tensorboard", version=""),
            callbacks=callbacks,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=options.validate_every,
        )
        trainer.fit(
            ForceTraining(self.model, options, rotate=rotate),
            DataLoader(self.data, batch_sampler=sampler, collate_fn=collate),
            ckpt_path=checkpoint if resume else None,
            weights_only=True,
        )
        if outputs.stop_signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if outputs.stop_signal is not None:
            raise KeyboardInterrupt
        return TrainResult(
            model=self.folder / "best.kg",
            best_step=outputs.best_step,
            valid_force_mae_eV_per_A=outputs.best_force_mae,
            steps=trainer.global_step,
            wall_s=outputs.wall_s,
        )


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
            mend=_mend_of_stress(model),
        )
    if not np.isfinite(frames.stresses).any():
        raise UserError(
            "no training frame has a stress, so training.stress_weight cannot count",
            where=frames.source,
            mend="Set it to 0, or give the frames stresses.",
        )


def _mend_of_stress(model: LearnedPotential) -> str:
    if "conservative" in model.model.heads:
        return "Set it to 0, or leave out the option that takes a part of the energy's gradient: angle_grad."
    if model.model.OFFERS["conservative"].offering == "not offered":
        return "Set it to 0, or take another model; `kinetograph models` shows which has conservative forces."
    return "Set it to 0, or model.forces to conservative."


def _fingerprint(frames: LabelledFrames) -> dict[str, Any]:
    return {"file": Path(frames.source).name, "sha256": frames.sha256, "frames": len(frames)}


def _quiet_lightning() -> None:
    """Keep Lightning's start-up notes off the terminal; its warnings that matter here are handled above."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
