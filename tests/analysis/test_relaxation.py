"""OC20's scores of relaxed structures, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from kinetograph.analysis import reference_forces, relaxation_scores
from kinetograph.analysis.relaxation import largest_forces, mean_distances, share_below
from kinetograph.errors import UserError
from kinetograph.system import System


def pair(x: float, *, fixed: bool = False) -> ase.Atoms:
    atoms = ase.Atoms("Ar2", [[0.5, 0, 0], [x, 0, 0]], cell=[10.0, 10.0, 10.0], pbc=[True, True, False])
    if fixed:
        atoms.set_constraint(FixAtoms(indices=[0]))
    return atoms


def test_distances_are_means_over_free_atoms_to_the_nearest_image() -> None:
    relaxed = System.from_ase([pair(4.2), pair(4.2, fixed=True), pair(9.95, fixed=True)])
    reference = System.from_ase([pair(4.0), pair(4.0), pair(0.05)])
    np.testing.assert_allclose(mean_distances(relaxed, reference), [0.1, 0.2, 0.1], atol=1e-12)
    apart = [pair(4.0), pair(4.0)]
    apart[1].positions[1, 2] = 9.9  # not periodic along z: no image there
    assert mean_distances(System.from_ase(apart[1:]), System.from_ase(apart[:1])) == pytest.approx([4.95])


def test_distances_are_to_the_nearest_image_of_a_skewed_cell() -> None:
    """Rounding fractional differences finds another image: (0.45, 0.45) of a rhombus is far along it."""
    cell = [[4.0, 0.0, 0.0], [2.0, 2.0 * 3**0.5, 0.0], [0.0, 0.0, 10.0]]
    first = ase.Atoms("Ar", [[0.0, 0.0, 0.0]], cell=cell, pbc=True)
    second = ase.Atoms("Ar", scaled_positions=[[0.45, 0.45, 0.0]], cell=cell, pbc=True)
    x, y = second.positions[0, :2]
    by_hand = min(np.hypot(x - i * 4.0 - j * 2.0, y - j * 2.0 * 3**0.5) for i in (0, 1) for j in (0, 1))
    assert by_hand < np.hypot(x, y) - 1.0
    assert mean_distances(System.from_ase(first), System.from_ase(second)) == pytest.approx([by_hand])


def test_adwt_counts_the_thresholds_above_each_distance() -> None:
    """Of 0.010, 0.011 … 0.499 Å, 400 are above 0.0995 Å, 490 above 0.0 Å, none above 0.4995 Å."""
    moves = [0.0995, 0.0, 0.4995, 3.0]
    relaxed = System.from_ase([pair(4.0 + move, fixed=True) for move in moves])
    reference = System.from_ase([pair(4.0) for _ in moves])
    scores = relaxation_scores(relaxed, reference)
    assert scores.adwt == pytest.approx((400 + 490 + 0 + 0) / (4 * 490), abs=1e-12)
    assert scores.mean_distance_A == pytest.approx(np.mean(moves))
    assert scores.afbt is None
    assert scores.to_json()["n_structures"] == 4


def test_afbt_looks_at_the_largest_force_on_a_free_atom() -> None:
    """Of 0.010 … 0.399 eV/Å, 370 are above 0.0299 and 350 above 0.0499; an unknown force is below none."""
    relaxed = System.from_ase([pair(4.0), pair(4.0, fixed=True), pair(4.0), pair(4.0)])
    forces = np.zeros((8, 3))
    forces[1] = [0.0, 0.0299, 0.0]
    forces[2] = [9.0, 0.0, 0.0]  # on a fixed atom
    forces[3] = [0.0, 0.0499 * 0.6, 0.0499 * 0.8]
    forces[4] = [0.39, 0.39, 0.0]
    forces[7] = np.nan
    np.testing.assert_allclose(largest_forces(forces, relaxed)[:3], [0.0299, 0.0499, 0.39 * 2**0.5])
    scores = relaxation_scores(relaxed, System.from_ase([pair(4.0)] * 4), forces)
    assert scores.afbt == pytest.approx((370 + 350 + 0 + 0) / (4 * 390), abs=1e-12)
    assert scores.fbt == 0.5


def test_a_structure_that_failed_is_below_no_threshold() -> None:
    """Of 0.010, 0.011 … 0.499 Å, 400 are above 0.0995 Å; its distance is in no mean."""
    relaxed = System.from_ase([pair(4.0995, fixed=True), pair(4.0)])
    targets = System.from_ase([pair(4.0), pair(4.0)])
    scores = relaxation_scores(relaxed, targets, np.zeros((4, 3)), failed=[1])
    assert scores.adwt == pytest.approx(400 / (2 * 490), abs=1e-12)
    assert scores.mean_distance_A == pytest.approx(0.0995)
    assert (scores.afbt, scores.fbt) == (0.5, 0.5)
    none = relaxation_scores(relaxed, targets, failed=[0, 1])
    assert (none.adwt, none.mean_distance_A, none.afbt) == (0.0, None, None)
    alone = relaxation_scores(relaxed, forces=np.zeros((4, 3)))
    assert (alone.adwt, alone.mean_distance_A, alone.afbt) == (None, None, 1.0)


def test_a_value_at_a_threshold_is_not_below_it() -> None:
    assert share_below([0.05, 0.04], 0.05) == 0.5
    assert share_below([0.25], [0.2, 0.25, 0.3, 0.35]) == 0.5


class Failing(Calculator):
    """Lennard-Jones, whose calculation fails for one of the structures."""

    implemented_properties = ("forces",)

    def calculate(self, atoms: ase.Atoms, properties: Any, system_changes: Any) -> None:
        if atoms.positions[1, 0] > 5.0:
            raise CalculationFailed("no convergence")
        inner = atoms.copy()
        inner.set_constraint()
        inner.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=9.0)
        self.results = {"forces": inner.get_forces()}


def test_the_reference_is_asked_for_the_forces_on_all_atoms_and_may_fail() -> None:
    structures = [pair(4.0, fixed=True), pair(5.5), pair(4.2)]
    told: list[int] = []
    forces = reference_forces(System.from_ase(structures), Failing(), progress=told.append)
    assert np.isnan(forces[2:4]).all()
    for atoms, found in ((structures[0], forces[:2]), (structures[2], forces[4:])):
        atoms.set_constraint()
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=9.0)
        np.testing.assert_allclose(found, atoms.get_forces(), atol=1e-14)
        assert np.abs(found[0]).max() > 1e-3
    assert told == [1, 2, 3]
    skipped = reference_forces(System.from_ase(structures), Failing(), skip=[0, 1])
    assert np.isnan(skipped[:4]).all()
    np.testing.assert_array_equal(skipped[4:], forces[4:])
    with pytest.raises(UserError, match=r"cannot compute it \(NotImplementedError.* Ar\) \(structure 1\)"):
        reference_forces(System.from_ase(structures), EMT(), skip=[0])


def test_structures_that_cannot_be_compared_are_refused() -> None:
    relaxed = System.from_ase([pair(4.0), pair(4.0)])
    with pytest.raises(UserError, match="same atoms"):
        mean_distances(relaxed, System.from_ase([pair(4.0)]))
    with pytest.raises(UserError, match="same atoms"):
        mean_distances(relaxed, replace(relaxed, atomic_numbers=relaxed.atomic_numbers + 1))
    cell = relaxed.cell.clone()
    cell[1, 0, 0] += 0.01
    with pytest.raises(UserError, match=r"cell is not that of the reference.*structure 1"):
        mean_distances(relaxed, replace(relaxed, cell=cell))
    with pytest.raises(UserError, match=r"no atom of the structure is free \(structure 0\)"):
        mean_distances(replace(relaxed, fixed=torch.ones(4, dtype=torch.bool)), relaxed)
    with pytest.raises(UserError, match=r"shape \(3, 3\), not \(4, 3\)"):
        relaxation_scores(relaxed, relaxed, np.zeros((3, 3)))
