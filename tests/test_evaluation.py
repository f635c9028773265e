"""A potential held against frames that were labelled by a known one."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from kinetograph.data.frames import LabelledFrames, read_frames
from kinetograph.evaluation import evaluate
from kinetograph.models.classical import LennardJones
from kinetograph.training_domain import TrainingDomain

OFFSET_EV = 0.25
STRESS_OFFSET = 1e-3


def argon(path: Path, *, energies: bool, stresses: bool) -> LabelledFrames:
    """Three crystals labelled by ASE; each atom 0.25 eV, and each stress component 1 meV/Å³ too high."""
    frames = []
    for seed in range(3):
        atoms = bulk("Ar", "fcc", 5.3, cubic=True) * (2, 2, 2)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = AseLennardJones(epsilon=0.0103, sigma=3.4, rc=8.0, smooth=False)
        results = {"forces": atoms.get_forces()}
        if energies:
            results["energy"] = atoms.get_potential_energy() + OFFSET_EV * len(atoms)
        if stresses:
            results["stress"] = atoms.get_stress() + STRESS_OFFSET
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    ase.io.write(path, frames)
    return read_frames(path)


@pytest.mark.parametrize("energies", [True, False])
@pytest.mark.parametrize("stresses", [True, False])
def test_energies_and_stresses_are_compared_where_the_frames_have_them(
    tmp_path: Path, energies: bool, stresses: bool
) -> None:
    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=8.0, truncation="shift")
    errors = evaluate(potential, argon(tmp_path / "a.extxyz", energies=energies, stresses=stresses))
    numbers = errors.to_json()
    assert errors.forces.mae < 1e-7  # eight decimals in the file
    assert (errors.energies is not None) == energies == ("energy_mae_eV_per_atom" in numbers)
    assert (errors.stresses is not None) == stresses == ("stress_mae_eV_per_A3" in numbers)
    if errors.energies is not None:
        assert errors.energies.n_frames == 3
        assert errors.energies.mae_per_atom == pytest.approx(OFFSET_EV, abs=1e-7)
        reference, predicted, _ = errors.energies.parity_sample.T
        np.testing.assert_allclose(predicted - reference, -OFFSET_EV, atol=1e-7)
    if errors.stresses is not None:
        assert errors.stresses.n_frames == 3
        assert errors.stresses.mae == pytest.approx(STRESS_OFFSET, abs=1e-7)


def test_frames_with_lone_atoms_are_named_where_training_had_none(tmp_path: Path) -> None:
    frames = argon(tmp_path / "a.extxyz", energies=False, stresses=False)
    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=3.0, truncation="shift")
    potential.domain = TrainingDomain(elements=(18,), density=None, shortest_A={}, company_A=3.0)
    with pytest.warns(UserWarning, match=r"3 of 3 frames of .*a\.extxyz \(first: 0\) have atoms with"):
        evaluate(potential, frames)
