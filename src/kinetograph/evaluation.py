"""A potential held against labelled frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from kinetograph.analysis.energies import EnergyErrors, energy_errors
from kinetograph.analysis.forces import ForceErrors, force_errors
from kinetograph.analysis.stresses import StressErrors, stress_errors
from kinetograph.data.dataset import ForceDataset, collate
from kinetograph.data.frames import LabelledFrames
from kinetograph.ensemble import EnsemblePotential
from kinetograph.potential import Potential
from kinetograph.sum_potential import SumPotential
from kinetograph.training_domain import lone_atoms

ATOMS_PER_BATCH = 2000
"""Keeps the edges of a batch in cache while the overhead of a call is spread over many atoms."""
ATOMS_PER_BATCH_WITH_TRIPLETS = 400
"""Triplets, and more so quadruplets, fill the memory sooner than edges."""


N_BINS = 10


@dataclass(frozen=True)
class Disagreement:
    """How far the members of an ensemble are apart on each atom, against how far their mean is off."""

    spearman: float
    """Rank correlation of ``force_std`` and |ΔF| over the atoms; NaN where one of them is constant."""
    calibration: float
    """Root mean square of |ΔF| over that of ``force_std``: times this, it is as large as the error."""
    bins: NDArray[np.float64]
    """(n_bins, 2) root mean squares of ``force_std`` and |ΔF| in eV/Å, as many atoms in every bin."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "force_std_spearman": self.spearman,
            "force_std_calibration": self.calibration,
            "force_std_bins": {
                "force_std_eV_per_A": self.bins[:, 0].tolist(),
                "force_error_eV_per_A": self.bins[:, 1].tolist(),
            },
        }


def disagreement(spread: NDArray[np.float64], error: NDArray[np.float64]) -> Disagreement:
    """From (n_atoms,) ``force_std`` and |ΔF|, eV/Å."""
    constant = np.ptp(spread) == 0.0 or np.ptp(error) == 0.0
    order = np.argsort(spread, kind="stable")

    def rms(values: NDArray[np.float64]) -> float:
        return float(np.sqrt(np.mean(values**2)))

    parts = np.array_split(order, min(N_BINS, len(order)))
    return Disagreement(
        spearman=float("nan") if constant else float(spearmanr(spread, error).statistic),
        calibration=rms(error) / rms(spread) if spread.any() else float("nan"),
        bins=np.array([[rms(spread[part]), rms(error[part])] for part in parts]),
    )


@dataclass(frozen=True)
class Errors:
    """Errors of a potential on labelled frames."""

    forces: ForceErrors
    energies: EnergyErrors | None = None
    """``None`` where the potential gives none or the frames have none."""
    stresses: StressErrors | None = None
    """``None`` likewise."""
    disagreement: Disagreement | None = None
    """Of an ensemble."""
    members_force_mae: tuple[float, ...] = ()
    """eV/Å, of each member of an ensemble by itself."""

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        numbers = self.forces.to_json()
        for errors in (self.energies, self.stresses, self.disagreement):
            if errors is not None:
                numbers |= errors.to_json()
        if self.members_force_mae:
            numbers["members_force_mae_eV_per_A"] = list(self.members_force_mae)
        return numbers


def evaluate(
    potential: Potential, frames: LabelledFrames, *, progress: Callable[[int, int], None] | None = None
) -> Errors:
    """Errors of a potential's forces, and energies and stresses where both sides have them.

    Of an ensemble they are those of the mean, with the force errors of its members beside them.

    Args:
        progress: called with the frames done and their total; an ensemble goes through them once more for
            each of its members.

    Raises:
        UserError: the frames hold an element that the potential was not trained on.
    """
    if potential.domain is not None:
        potential.domain.require_elements(frames.elements, where=frames.source)
    dataset = ForceDataset(frames, potential.request)
    if potential.domain is not None and potential.domain.company_A is not None:
        company = potential.domain.company_A
        # The cutoff here may be that of what is added to the model, and larger.
        lone = [
            number
            for number, of in enumerate(dataset.domains)
            if of.company_A != company and bool(lone_atoms(dataset.graph(number), company).any())
        ]
        if lone:
            warnings.warn(
                f"{len(lone)} of {len(dataset)} frames of {frames.source} (first: {lone[0]}) have atoms with "
                f"no neighbour within {company:g} Å; in training all had one",
                UserWarning,
                stacklevel=2,
            )
    if not isinstance(potential, EnsemblePotential):
        return errors_on(potential, dataset, progress=progress)
    errors = errors_on(potential, dataset, progress=progress)
    members = [
        errors_on(SumPotential(member, *potential.added).eval(), dataset, progress=progress)
        for member in potential.models
    ]
    return replace(errors, members_force_mae=tuple(of.forces.mae for of in members))


def batches(potential: Potential, n_atoms: Sequence[int]) -> Iterator[range]:
    """Consecutive structures, of so many atoms each, that a potential takes at once."""
    requests = [part.request for part in potential.modules() if isinstance(part, Potential)]
    limit = ATOMS_PER_BATCH
    if any(request.triplets is not None for request in requests):
        limit = ATOMS_PER_BATCH_WITH_TRIPLETS
    if any(request.link_cutoff is not None for request in requests):
        limit = 1  # one structure at a time
    begin, total = 0, 0
    for index, count in enumerate(n_atoms):
        if index > begin and total + count > limit:
            yield range(begin, index)
            begin, total = index, 0
        total += count
    if begin < len(n_atoms):
        yield range(begin, len(n_atoms))


def errors_on(
    potential: Potential, dataset: ForceDataset, *, progress: Callable[[int, int], None] | None = None
) -> Errors:
    """The same over frames whose neighbour lists are made."""
    device = next((t.device for t in potential.state_dict().values()), torch.device("cpu"))
    forces, energies, stresses, spreads = [], [], [], []
    was_training = potential.training
    potential.eval()
    for chosen in batches(potential, [sample.system.n_atoms for sample in dataset.samples]):
        batch = collate([dataset[index] for index in chosen]).to(device)
        with torch.no_grad():
            prediction = potential(batch.system, batch.neighbors)
        forces.append(prediction.forces.cpu().numpy())
        if prediction.force_std is not None:
            spreads.append(prediction.force_std.cpu().numpy())
        if prediction.energy is not None:
            energies.append(prediction.energy.cpu().numpy())
        stress = prediction.stress
        if stress is None:
            stress = torch.full_like(batch.stresses, torch.nan)
        stresses.append(stress.cpu().numpy())
        if progress is not None:
            progress(chosen.stop, len(dataset))
    potential.train(was_training)
    samples = dataset.samples
    numbers = [sample.system.atomic_numbers.numpy() for sample in samples]
    reference, predicted = np.concatenate([s.forces.numpy() for s in samples]), np.concatenate(forces)
    return Errors(
        forces=force_errors(reference, predicted, np.concatenate(numbers)),
        energies=energy_errors(
            np.concatenate([sample.energies.numpy() for sample in samples]), np.concatenate(energies), numbers
        )
        if energies
        else None,
        stresses=stress_errors(
            np.concatenate([sample.stresses.numpy() for sample in samples]), np.concatenate(stresses)
        ),
        disagreement=disagreement(np.concatenate(spreads), np.linalg.norm(predicted - reference, axis=1))
        if spreads
        else None,
    )
