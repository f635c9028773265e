"""Where a training starts: statistics of its data, or an earlier model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from kinetograph import model_file
from kinetograph.data.dataset import ForceDataset
from kinetograph.data.frames import LabelledFrames, force_std
from kinetograph.errors import UserError
from kinetograph.graph import Graph, build_graph
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import check_hyperparameters, resolved
from kinetograph.training.settings import TrainingSettings

SHORTEST_BOND_A = 0.5
"""No bond is so short, not even that of H2 (0.74 Å)."""
NO_FORCE_EV_PER_A = 0.01
"""What an atom without neighbours may feel and still be one that is alone."""


def check_surroundings(data: ForceDataset) -> None:
    """Warn of frames from which a model cannot learn, for want of neighbours or by a slip in the positions.

    Args:
        data: the labels that are to be learned, without what is added to the model.

    Raises:
        UserError: no atom of any frame has a neighbour.
    """
    domain, cutoff = data.domain(), f"{data.request.cutoff:g} Å"
    if not domain.shortest_A:
        raise UserError(
            f"no atom of any training frame has a neighbour within {cutoff}",
            where=data.source,
            mend="Give a larger model.cutoff_A, or frames of several atoms; positions must be in Å.",
        )
    warn_of_lone_atoms(data)
    pair, distance = min(domain.shortest_A.items(), key=lambda item: item[1])
    if distance < SHORTEST_BOND_A:
        first = next(n for n, of in enumerate(data.domains) if of.shortest_A.get(pair) == distance)
        warnings.warn(
            f"atoms {pair} are {distance:.2g} Å apart in frame {first} of {data.source}; no bond is so short",
            UserWarning,
            stacklevel=2,
        )


def warn_of_lone_atoms(data: ForceDataset) -> None:
    """Warn of frames with forces on atoms of which a model sees no neighbour."""
    lone = [number for number, force in enumerate(data.lone_forces()) if force > NO_FORCE_EV_PER_A]
    if lone:
        warnings.warn(
            f"{len(lone)} of {len(data)} frames of {data.source} (first: {lone[0]}) have forces on atoms "
            f"with no neighbour within {data.request.cutoff:g} Å: no model with this model.cutoff_A can know "
            "them",
            UserWarning,
            stacklevel=2,
        )


def fit_statistics(model: LearnedPotential, data: ForceDataset) -> None:
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


def initial_model(
    path: Path,
    architecture: str,
    hyperparameters: dict[str, Any],
    frames: LabelledFrames,
    config: TrainingSettings,
    member: int | None,
) -> LearnedPotential:
    """The model to start from, which must be of the same make and know the elements of the frames.

    Its kind of forces may be another one: what the two have in common is carried over. Of an ensemble every
    member starts from its own. Elements that no frame holds stay in the model as they are.

    Raises:
        UserError: it is of another make, or never saw one of the elements.
    """
    header, additions = model_file.read_header(path), config.model.add

    def make(arguments: dict[str, Any]) -> dict[str, Any]:
        heads = ("forces", "separate_energy")
        return {name: v for name, v in resolved(architecture, arguments).items() if name not in heads}

    if header.architecture != architecture:
        raise UserError(
            f"the initial model is of the architecture {header.architecture}, the configuration asks for "
            f"{architecture}",
            where=str(path),
            mend="Give a preset of the same architecture.",
        )
    check_hyperparameters(architecture, hyperparameters)
    old, new = make(header.hyperparameters), make(hyperparameters)
    others = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if others:
        said = ", ".join(
            f"{name} {old.get(name)} where the configuration has {new.get(name)}" for name in others
        )
        raise UserError(
            f"the initial model has {said}", where=str(path), mend="Give the same preset and sizes."
        )
    if header.additions != additions:
        raise UserError(
            f"the initial model stands beside {header.additions or 'nothing'}, "
            f"the configuration adds {additions or 'nothing'}: it learned another difference",
            where=str(path),
            mend="Give the same under model.add.",
        )
    if header.n_members > 1 and (member is None or member >= header.n_members):
        raise UserError(
            f"the initial model is an ensemble of {header.n_members}"
            + ("" if member is None else ", and this one is to have more members"),
            where=str(path),
            mend="Train as many with training.ensemble, or start from one of the files it was made of.",
        )
    model = model_file.load_model(path, member=(member or 0) if header.n_members > 1 else 0)
    assert model.domain is not None
    unknown = set(frames.elements) - set(model.domain.elements)
    if unknown:
        theirs, ours = (
            ", ".join(chemical_symbols[z] for z in sorted(elements))
            for elements in (model.domain.elements, unknown)
        )
        raise UserError(
            f"the initial model was trained on {theirs}, these frames also hold {ours}",
            where=str(path),
            mend=f"Start from a model that knows {ours}, or train anew without training.initial_model.",
        )
    return model


def start_from(model: LearnedPotential, start: LearnedPotential, data: ForceDataset) -> None:
    """Carry the weights over; a head that ``start`` has not begins anew."""
    missing, _ = model.load_state_dict(start.state_dict(), strict=False)
    # These frames may come from another method, or the earlier ones had no energies: E0 is theirs anew.
    keeps_energies = "reference_energies" not in missing and "conservative" in start.model.heads
    _fit_reference_energies(model, data, beside=start.eval() if keeps_energies else None)
