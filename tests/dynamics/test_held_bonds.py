"""Which bonds are held, and at which lengths."""

from __future__ import annotations

import math
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from kinetograph.bonds import BondRule, with_bonds
from kinetograph.dynamics.held_bonds import hold_bonds, water_molecules
from kinetograph.dynamics.rigid import rigid_bonds
from kinetograph.errors import UserError
from kinetograph.system import System, batch


def solution() -> ase.Atoms:
    """Ethanol, two waters of different shape, one of them broken by the boundary, and hydroxide."""
    atoms = molecule("CH3CH2OH")
    atoms.positions += 5.0
    water = molecule("H2O")
    stretched = molecule("H2O")
    stretched.positions *= 1.04
    for one, shift in ((water, [0.1, 0.1, 0.1]), (stretched, [10.0, 2.0, 6.0]), (molecule("OH"), [2, 10, 2])):
        one.translate(shift)
        atoms += one
    atoms.set_cell([12.0, 12.0, 12.0])
    atoms.set_pbc(True)
    atoms.wrap()
    return atoms


def with_known_bonds(atoms: ase.Atoms) -> System:
    return with_bonds(System.from_ase(atoms), BondRule())


def held(system: System) -> dict[tuple[int, int], float]:
    assert system.rigid is not None
    assert system.rigid_lengths is not None
    pairs = [tuple(sorted(pair)) for pair in system.rigid.tolist()]
    assert len(set(pairs)) == len(pairs)
    return dict(zip(pairs, system.rigid_lengths.tolist(), strict=True))


def test_bonds_to_hydrogen_or_all_bonds_are_held_as_long_as_they_are() -> None:
    atoms = solution()
    system = with_known_bonds(atoms)
    for which, expected in (("hydrogen", 6 + 2 + 2 + 1), ("all", 8 + 2 + 2 + 1)):
        bonds = held(hold_bonds(system, which))
        assert len(bonds) == expected
        for (a, b), length in bonds.items():
            assert length == pytest.approx(atoms.get_distance(a, b, mic=True), abs=1e-12)
            assert which == "all" or 1 in atoms.numbers[[a, b]]


def test_water_is_held_as_triangles_all_of_them_alike() -> None:
    atoms = solution()
    system = hold_bonds(with_known_bonds(atoms), "water")
    bonds = held(system)
    o1, o2 = 9, 12
    waters = [(o1, o1 + 1, o1 + 2), (o2, o2 + 1, o2 + 2)]  # neither the alcohol nor hydroxide
    assert water_molecules(system).tolist() == [list(water) for water in waters]
    assert set(bonds) == {pair for o, a, b in waters for pair in ((o, a), (o, b), (a, b))}
    d = molecule("H2O").get_distance
    for o, a, b in waters:
        assert bonds[o, a] == bonds[o, b] == pytest.approx(d(0, 1) * 1.02, abs=1e-12)
        assert bonds[a, b] == pytest.approx(d(1, 2) * 1.02, abs=1e-12)


@pytest.mark.parametrize(
    ("symbols", "bonds"),
    [
        ("OHH", [[0, 1], [0, 2]]),
        ("OHHH", [[0, 1], [0, 2], [0, 3]]),  # H3O+
        ("COHH", [[0, 1], [1, 2], [1, 3]]),  # an alcohol with a proton more
        ("OHOHH", [[0, 1], [2, 3], [0, 4], [4, 2]]),  # H3O2-
        ("OOHH", [[0, 1], [0, 2], [1, 3]]),  # hydrogen peroxide
    ],
)
def test_only_water_is_water(symbols: str, bonds: list[list[int]]) -> None:
    system = System.from_ase(ase.Atoms(symbols, positions=np.eye(5, 3)[: len(symbols)]))
    found = water_molecules(replace(system, bonds=torch.tensor(bonds)))
    assert found.tolist() == ([[0, 1, 2]] if symbols == "OHH" else [])


def test_lengths_are_the_mean_of_each_structure_whatever_else_is_in_the_batch() -> None:
    small, large = molecule("H2O"), molecule("H2O")
    large.positions *= 1.05
    one, other = with_known_bonds(small), with_known_bonds(large)
    together = hold_bonds(batch([one, other]), "water")
    alone = torch.cat([hold_bonds(one, "water").rigid_lengths, hold_bonds(other, "water").rigid_lengths])
    torch.testing.assert_close(together.rigid_lengths, alone, rtol=0, atol=1e-14)


def test_lengths_can_be_given_by_pair_of_elements_or_as_a_water_model() -> None:
    system = with_known_bonds(molecule("CH3CH2OH"))
    bonds = held(hold_bonds(system, "hydrogen", {"H-C": 1.09, "O-H": 0.97}))
    numbers = system.atomic_numbers.tolist()
    assert {length for (a, b), length in bonds.items() if 8 in (numbers[a], numbers[b])} == {0.97}
    assert {length for (a, b), length in bonds.items() if 6 in (numbers[a], numbers[b])} == {1.09}
    water = with_known_bonds(molecule("H2O"))
    for model, leg, degrees in (("tip3p", 0.9572, 104.52), ("spc", 1.0, 109.47)):
        bonds = held(hold_bonds(water, "water", model))
        angle = math.acos(1.0 - bonds[1, 2] ** 2 / (2.0 * leg**2))
        assert (bonds[0, 1], bonds[0, 2]) == (leg, leg)
        assert math.degrees(angle) == pytest.approx(degrees, abs=1e-9)
        started, _ = rigid_bonds(hold_bonds(water, "water", model))
        found = torch.linalg.norm(started.positions[1] - started.positions[2])
        assert found.item() == pytest.approx(bonds[1, 2], abs=1e-11)


def test_a_second_call_adds_bonds_and_leaves_those_that_are_held() -> None:
    system = with_known_bonds(solution())
    water = hold_bonds(system, "water", "tip3p")
    both = held(hold_bonds(water, "hydrogen"))
    hydrogen = held(hold_bonds(system, "hydrogen"))
    assert both == {**hydrogen, **held(water)}
    rigid_bonds(hold_bonds(water, "hydrogen"))


def polymer() -> System:
    """A chain of carbon that meets its own image."""
    atoms = ase.Atoms("C4", cell=[4 * 1.4, 10, 10], pbc=True)
    atoms.positions[:, 0] = 1.4 * np.arange(4)
    return with_known_bonds(atoms)


@pytest.mark.parametrize(
    ("system", "which", "lengths", "message"),
    [
        (System.from_ase(molecule("H2O")), "water", None, "the bonds are not known"),
        (
            with_known_bonds(molecule("H2O")),
            "waters",
            None,
            "unknown kind of bonds 'waters'; did you mean 'water'",
        ),
        (with_known_bonds(molecule("CH4")), "water", None, "there is no water molecule"),
        (with_known_bonds(molecule("CO2")), "hydrogen", None, "there is no bond to hydrogen"),
        (with_known_bonds(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 9]])), "all", None, "there is no bond to hold"),
        (with_known_bonds(molecule("H2O")), "water", {"O-H": 0.96}, "no length is given for H-H"),
        (with_known_bonds(molecule("H2O")), "water", {"OH": 0.96}, "'OH' is no pair of elements"),
        (
            with_known_bonds(molecule("H2O")),
            "water",
            "tip5p",
            "unknown lengths 'tip5p'; did you mean 'tip3p'",
        ),
        (with_known_bonds(molecule("H2O")), "hydrogen", {"O-H": -1.0}, "is -1.0"),
        (with_known_bonds(molecule("H2O")), "hydrogen", {"O-H": 1.0, "C-H": 1.0}, "C-H, but no such pair"),
        (with_known_bonds(bulk("Cu", cubic=True) * 3), "all", None, "lead to their own periodic images"),
        (polymer(), "all", None, "lead to their own periodic images"),
    ],
)
def test_what_cannot_be_held_is_refused(system: System, which: str, lengths: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hold_bonds(system, which, lengths)


def test_bonds_of_a_crystal_may_be_given_only_for_its_molecules() -> None:
    """The same cell is no obstacle where the bonds are those of a molecule in it."""
    system = replace(polymer(), bonds=torch.tensor([[0, 1], [1, 2], [0, 3]]))
    bonds = held(hold_bonds(system, "all"))
    assert all(length == pytest.approx(1.4) for length in bonds.values())
    rigid_bonds(hold_bonds(system, "all"))
