"""Ensembles: one configuration, several seeds; the members' files become one."""

from __future__ import annotations

from pathlib import Path

import torch

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.data.dataset import ForceDataset
from kinetograph.data.frames import LabelledFrames
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.evaluation import errors_on
from kinetograph.training.callbacks import ENERGY, FORCES
from kinetograph.training.settings import TrainingSettings
from kinetograph.training_domain import merge


def member_folder(folder: Path, number: int) -> Path:
    """Where a member is trained: a run folder inside that of the ensemble."""
    return folder / f"member-{number}"


def member_settings(config: TrainingSettings, number: int) -> TrainingSettings:
    """What a member is trained with: everything but the seed, of weights and batches, is the ensemble's."""
    own = config.training.model_copy(update={"seed": config.training.seed + number, "ensemble": None})
    return config.model_copy(update={"training": own})


def gather(folder: Path, config: TrainingSettings, valid: LabelledFrames) -> float:
    """Write ``best.kg`` with all members; the force MAE (eV/Å) of their mean on the validation frames.

    Raises:
        UserError: the members were not trained on the same frames.
    """
    assert config.training.ensemble is not None
    paths = [member_folder(folder, number) / "best.kg" for number in range(config.training.ensemble)]
    headers = [model_file.read_header(path) for path in paths]
    sources = ("train_data", "valid_data", "teacher")
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        if any(header.training.get(source) != first.training.get(source) for source in sources):
            raise UserError(
                f"the frames are not those that {paths[0]} was trained on",
                where=str(path),
                mend="Start the ensemble again with --overwrite.",
            )
    members = [model_file.load_model(path) for path in paths]
    domain = merge([member.domain for member in members if member.domain is not None])
    additions = [build_addition(kind, domain.elements, given) for kind, given in config.model.add.items()]
    ensemble = EnsemblePotential(members, additions).eval()
    ensemble.to("cuda" if torch.cuda.is_available() else "cpu")
    errors = errors_on(ensemble, ForceDataset(valid, ensemble.request))
    of_members = [header.training["metrics"] for header in headers]
    metrics = {
        "step": max(metrics["step"] for metrics in of_members),
        "wall_s": sum(metrics["wall_s"] for metrics in of_members),
        FORCES: errors.forces.mae,
        "valid_relative_error": errors.forces.relative_error,
    }
    if errors.energies is not None:
        metrics[ENERGY] = errors.energies.mae_per_atom
    model_file.save(
        folder / "best.kg",
        ensemble,
        architecture=first.architecture,
        hyperparameters=first.hyperparameters,
        elements=domain.elements,
        domain=domain,
        additions=config.model.add,
        training={
            **first.training,
            "settings": config.training.model_dump(mode="json"),
            "metrics": metrics,
            "members": of_members,
        },
    )
    return errors.forces.mae
