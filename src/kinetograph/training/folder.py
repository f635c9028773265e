"""The folder of a training run: what may lie in it, when a run may start or go on in it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError

from kinetograph.errors import UserError
from kinetograph.training.ensemble import member_folder
from kinetograph.training.settings import TrainingSettings

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


def check_folder(folder: Path, config: TrainingSettings, *, resume: bool, overwrite: bool) -> None:
    """Refuse what can be refused before any work; nothing is changed."""
    checkpoint, saved = folder / "last.ckpt", folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise UserError("the run folder is a file", where=str(folder), mend="Choose another name.")
    if resume:
        if not has_begun(folder, config):
            if any(folder.glob("teacher-*")):
                return  # it was stopped while the teacher labelled
            raise UserError(
                "there is nothing to resume", where=str(checkpoint), mend="Start without --resume."
            )
        try:
            if config.training.ensemble is None:
                step_of(checkpoint)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise UserError(
                f"the checkpoint cannot be read: it is damaged or truncated ({type(error).__name__})",
                where=str(checkpoint),
                mend="Start again; training.initial_model=best.kg keeps what was learned.",
            ) from error
        difference = _difference(saved, config) if saved.is_file() else None
        if difference is not None:
            raise UserError(
                f"the configuration is not the one this run was started with: {difference}",
                where=str(saved),
                mend="Resume with the same configuration; to train for longer, start a new run from this "
                "model with training.initial_model.",
            )
        return
    foreign = None if overwrite else _foreign_file(folder, config)
    first_member = member_folder(folder, 0) / "config.yaml"
    if any(path.exists() for path in (checkpoint, folder / "best.kg", first_member)):
        if not overwrite:
            raise UserError(
                "the folder already holds a run",
                where=str(folder),
                mend="Continue it with --resume, replace it with --overwrite, or choose another folder.",
            )
        for name in ("initial_model", "teacher"):
            source: Path | None = getattr(config.training, name)
            if source is not None and source.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"training.{name} lies in the folder that would be replaced",
                    where=str(source),
                    mend="Choose another folder for the new run.",
                )
    elif foreign is not None:
        raise UserError(
            "the folder holds a file that the run would replace",
            where=str(foreign),
            mend="Choose another folder, or give --overwrite.",
        )


def _foreign_file(folder: Path, config: TrainingSettings) -> Path | None:
    """A file that a new run would replace though no run has left it: a configuration of the user's, say."""
    for name in RUN_FILES:
        path = folder / name
        if not path.exists() or name == "metrics.csv":
            continue
        # A run that was killed before its first checkpoint has left just this configuration.
        if name != "config.yaml" or path.read_text(encoding="utf-8") != config.to_yaml():
            return path
    return None


def has_begun(folder: Path, config: TrainingSettings) -> bool:
    """Whether the folder holds a run that can go on."""
    if config.training.ensemble is None:
        return (folder / "last.ckpt").is_file()
    return (member_folder(folder, 0) / "config.yaml").is_file()


def prepare_folder(folder: Path, *, resume: bool, keep: Sequence[Path] = ()) -> None:
    """Make the folder and take out what an earlier run left, results that describe its model included.

    Args:
        keep: files of this run that are there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if resume:
        return
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    for labels in set(folder.glob("teacher-*.extxyz")) - set(keep):
        labels.unlink()
    for left in (folder / "tensorboard", *folder.glob("teacher-*.parts")):
        shutil.rmtree(left, ignore_errors=True)
    for member in folder.glob("member-*"):
        if (member / "config.yaml").is_file():
            prepare_folder(member, resume=False)
            if not any(member.iterdir()):
                member.rmdir()


def _difference(saved: Path, config: TrainingSettings) -> str | None:
    """The first key that differs from the saved configuration, with both values; ``None`` where none does.

    Keys that were not yet known when it was saved count as left at their defaults.
    """
    before = yaml.safe_load(saved.read_text(encoding="utf-8"))
    with suppress(ValidationError):  # of a key that is no longer known
        before = TrainingSettings.model_validate(before).model_dump(mode="json")
    for section, values in config.model_dump(mode="json").items():
        for key, value in values.items():
            known = before.get(section, {}).get(key)
            if known != value:
                return f"{section}.{key} is {value}, but was {known}"
    return None


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
