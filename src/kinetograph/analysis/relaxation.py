"""How near relaxed structures come to those of a reference: OC20's scores of the task IS2RS.

Chanussot et al., ACS Catal. 11, 6059 (2021), with its supporting information:

* ADwT, average distance within threshold: the share of structures whose mean distance, over free atoms and
  to the nearest image, from the reference's relaxed structure is below a threshold, averaged over thresholds
  from 0.01 Å in steps of 0.001 Å to below 0.5 Å (490 of them, as in the authors' code).
* AFbT, average force below threshold: the reference is asked for the forces at the end of each relaxation;
  the share of structures whose largest force on a free atom is below a threshold, averaged over thresholds
  from 0.01 eV/Å in steps of 0.001 eV/Å to below 0.4 eV/Å (390). FbT is that share for 0.05 eV/Å.

The paper and its leader board give per cent; here all are shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator, CalculationFailed
from ase.geometry import find_mic
from numpy.typing import ArrayLike, NDArray

from kinetograph.errors import UserError
from kinetograph.system import System

DISTANCE_THRESHOLDS_A = np.arange(10, 500) / 1000.0
FORCE_THRESHOLDS_EV_PER_A = np.arange(10, 400) / 1000.0
FBT_EV_PER_A = 0.05
SAME_CELL_A = 1e-4


@dataclass(frozen=True)
class RelaxationScores:
    """Of structures relaxed by a model, against those relaxed by a reference."""

    n_structures: int
    adwt: float | None
    """Share: average distance within threshold; ``None`` where the targets are not known."""
    mean_distance_A: float | None
    """Mean of the structures' mean distances, those that failed left out."""
    afbt: float | None
    """Share: average force below threshold; ``None`` where the reference was not asked."""
    fbt: float | None
    """Share of structures whose largest force is below 0.05 eV/Å."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def relaxation_scores(
    relaxed: System,
    targets: System | None = None,
    forces: ArrayLike | None = None,
    *,
    failed: Collection[int] = (),
) -> RelaxationScores:
    """The scores of many structures.

    Args:
        relaxed: where the model's relaxations ended; its ``fixed`` atoms are not counted.
        targets: where the reference's ended: the same structures in the same order.
        forces: (n_atoms, 3) eV/Å, the reference's at the positions of ``relaxed``; see
            :func:`reference_forces`.
        failed: structures that went wrong. They count as below no threshold.

    Raises:
        UserError: the two do not hold the same atoms in the same cells, a structure has no free atom, or the
            forces are not as many as the atoms.
    """
    distances = None if targets is None else mean_distances(relaxed, targets)
    largest = None if forces is None else largest_forces(forces, relaxed)
    for values in (distances, largest):
        if values is not None:
            values[list(failed)] = np.nan
    return RelaxationScores(
        n_structures=relaxed.n_systems,
        adwt=None if distances is None else share_below(distances, DISTANCE_THRESHOLDS_A),
        mean_distance_A=None if distances is None else _mean_of_known(distances),
        afbt=None if largest is None else share_below(largest, FORCE_THRESHOLDS_EV_PER_A),
        fbt=None if largest is None else share_below(largest, FBT_EV_PER_A),
    )


def _mean_of_known(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def share_below(values: ArrayLike, thresholds: ArrayLike) -> float:
    """The share of values below a threshold, averaged over thresholds; NaN is below none."""
    below = np.asarray(values)[:, None] < np.atleast_1d(np.asarray(thresholds))
    return float(below.mean())


def require_same_structures(relaxed: System, reference: System) -> None:
    """Refuse what :func:`mean_distances` would.

    Raises:
        UserError: see :func:`relaxation_scores`.
    """
    same_atoms = torch.equal(relaxed.system_index, reference.system_index) and torch.equal(
        relaxed.atomic_numbers, reference.atomic_numbers
    )
    if not same_atoms:
        raise UserError(
            "the relaxed structures and those of the reference do not hold the same atoms",
            mend="Give both in the same order.",
        )
    changed = (relaxed.cell - reference.cell).abs().flatten(1).amax(dim=1) > SAME_CELL_A
    if bool(changed.any()):
        raise UserError(
            "the cell is not that of the reference: distances would mean nothing",
            where=f"structure {int(torch.nonzero(changed)[0])}",
            mend="Compare relaxations that held the cell.",
        )
    _free_atoms(relaxed)


def mean_distances(relaxed: System, reference: System) -> NDArray[np.float64]:
    """(n_systems,) Å: how far the free atoms of each structure lie from the reference's, on average.

    Raises:
        UserError: see :func:`relaxation_scores`.
    """
    require_same_structures(relaxed, reference)
    moved = (relaxed.positions - reference.positions).cpu().numpy()
    return np.array(
        [
            find_mic(moved[free], relaxed.cell[index].cpu().numpy(), relaxed.pbc[index].cpu().numpy())[
                1
            ].mean()
            for index, free in enumerate(_free_atoms(relaxed))
        ]
    )


def largest_forces(forces: ArrayLike, system: System) -> NDArray[np.float64]:
    """(n_systems,) eV/Å: the largest force on a free atom of each structure; NaN where one is not known.

    Raises:
        UserError: see :func:`relaxation_scores`.
    """
    values = np.asarray(forces, dtype=float)
    if values.shape != (system.n_atoms, 3):
        raise UserError(f"the forces have shape {values.shape}, not ({system.n_atoms}, 3)", where="forces")
    sizes = np.linalg.norm(values, axis=1)
    return np.array([sizes[free].max() for free in _free_atoms(system)])


def reference_forces(
    system: System,
    calculator: BaseCalculator,
    *,
    skip: Collection[int] = (),
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """(n_atoms, 3) eV/Å: what a reference says of relaxed structures, NaN where its calculation fails.

    Args:
        calculator: any calculator of ASE.
        skip: structures that it is not asked for: NaN.
        progress: told how many structures are done.

    Raises:
        UserError: the calculator cannot be used for such a structure.
    """
    forces = []
    for number, atoms in enumerate(system.to_ase()):
        atoms.calc = calculator
        of_atoms = np.full((len(atoms), 3), np.nan)
        if number not in skip:
            try:
                of_atoms = np.asarray(atoms.get_forces(apply_constraint=False))
            except CalculationFailed:
                pass
            except Exception as error:  # calculators raise anything for what they do not know
                raise UserError(
                    f"the reference cannot compute it ({type(error).__name__}: {error})",
                    where=f"structure {number}",
                ) from error
        forces.append(of_atoms)
        if progress is not None:
            progress(number + 1)
    return np.concatenate(forces)


def _free_atoms(system: System) -> list[NDArray[np.int64]]:
    """The free atoms of each structure."""
    owner = system.system_index.cpu().numpy()
    free = np.ones(len(owner), dtype=bool) if system.fixed is None else ~system.fixed.cpu().numpy()
    atoms = [np.nonzero(free & (owner == index))[0] for index in range(system.n_systems)]
    for index, of in enumerate(atoms):
        if len(of) == 0:
            raise UserError("no atom of the structure is free", where=f"structure {index}")
    return atoms
