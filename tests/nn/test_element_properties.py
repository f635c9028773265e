"""The table of element properties: no holes, known values, and the rule that fills what is missing."""

from __future__ import annotations

import pytest
import torch
from ase.data import atomic_numbers, chemical_symbols

from kinetograph.nn.element_properties import (
    N_PROPERTIES,
    PROPERTIES,
    atomic_radii,
    block,
    element_properties,
    group,
    period,
    valence_electrons,
)

SYMBOLS = chemical_symbols[1:119]


def test_every_element_has_every_property_and_a_radius() -> None:
    table, radii = element_properties(range(1, 119)), atomic_radii(range(1, 119))
    assert table.shape == (118, N_PROPERTIES)
    assert torch.isfinite(table).all()
    assert torch.isfinite(radii).all()
    # The smallest atom is hydrogen, the largest caesium, in Slater's table and in Cordero's alike.
    assert (SYMBOLS[int(radii.argmin())], float(radii.min())) == ("H", pytest.approx(0.25))
    assert float(radii.max()) == pytest.approx(2.60)


def test_every_property_spans_zero_to_one_over_the_first_hundred_elements() -> None:
    table = element_properties(range(1, 101))
    assert (table.amin(dim=0) == 0.0).all()
    assert (table.amax(dim=0) == 1.0).all()
    heavier = element_properties(range(101, 119))
    assert ((heavier >= 0.0) & (heavier <= 1.0)).all()


def test_scaling_does_not_depend_on_the_elements_asked_for() -> None:
    assert torch.equal(element_properties([8, 1]), element_properties(range(1, 101))[[7, 0]])


@pytest.mark.parametrize(
    ("symbol", "place"),
    [
        # period, group, block, valence electrons
        ("H", (1, 1, "s", 1)),
        ("He", (1, 18, "s", 2)),
        ("Li", (2, 1, "s", 1)),
        ("Be", (2, 2, "s", 2)),
        ("B", (2, 13, "p", 3)),
        ("C", (2, 14, "p", 4)),
        ("Ne", (2, 18, "p", 8)),
        ("Al", (3, 13, "p", 3)),
        ("K", (4, 1, "s", 1)),
        ("Sc", (4, 3, "d", 3)),
        ("Fe", (4, 8, "d", 8)),
        ("Cu", (4, 11, "d", 11)),
        ("Zn", (4, 12, "d", 12)),
        ("Ga", (4, 13, "p", 3)),
        ("Xe", (5, 18, "p", 8)),
        ("Ba", (6, 2, "s", 2)),
        ("La", (6, 3, "f", 3)),
        ("Ce", (6, 3, "f", 4)),
        ("Yb", (6, 3, "f", 16)),
        ("Lu", (6, 3, "d", 3)),
        ("Hf", (6, 4, "d", 4)),
        ("Hg", (6, 12, "d", 12)),
        ("Tl", (6, 13, "p", 3)),
        ("U", (7, 3, "f", 6)),
        ("Lr", (7, 3, "d", 3)),
        ("Og", (7, 18, "p", 8)),
    ],
)
def test_places_in_the_periodic_table(symbol: str, place: tuple[int, int, str, int]) -> None:
    z = atomic_numbers[symbol]
    assert (period(z), group(z), "spdf"[block(z)], valence_electrons(z)) == place


def test_periods_and_blocks_have_their_lengths() -> None:
    numbers = range(1, 119)
    assert [sum(period(z) == p for z in numbers) for p in range(1, 8)] == [2, 8, 8, 18, 18, 32, 32]
    assert [sum(block(z) == b for z in numbers) for b in range(4)] == [14, 36, 40, 28]


@pytest.mark.parametrize(
    ("symbol", "radius"),
    # Slater's, then Cordero's where Slater has none.
    [("C", 0.70), ("O", 0.60), ("Al", 1.25), ("Cu", 1.35), ("Pt", 1.35), ("Kr", 1.16), ("Xe", 1.40)],
)
def test_radii(symbol: str, radius: float) -> None:
    assert float(atomic_radii([atomic_numbers[symbol]])[0]) == pytest.approx(radius, abs=1e-6)


def test_order_of_known_values() -> None:
    """Fluorine is the most electronegative, helium the hardest to ionise, chlorine binds an electron best."""
    table = element_properties(range(1, 119))
    for name, most in (
        ("electronegativity", "F"),
        ("ionization energy", "He"),
        ("electron affinity", "Cl"),
        ("molar volume", "Cs"),
    ):
        assert SYMBOLS[int(table[:100, PROPERTIES.index(name)].argmax())] == most
    ionization = table[:, PROPERTIES.index("ionization energy")]
    assert SYMBOLS[int(ionization[:100].argmin())] == "Cs"


@pytest.mark.parametrize(
    ("name", "filled", "source"),
    [
        ("electronegativity", "Ne", "Kr"),
        ("electronegativity", "Og", "Rn"),
        ("molar volume", "At", "I"),
        ("molar volume", "Fr", "Cs"),
        ("molar volume", "Fm", "Er"),
        ("ionization energy", "Rf", "Hf"),
        ("covalent radius", "Bk", "Tb"),
    ],
)
def test_missing_values_come_from_the_column(name: str, filled: str, source: str) -> None:
    table = element_properties([atomic_numbers[filled], atomic_numbers[source]])
    column = PROPERTIES.index(name)
    assert table[0, column] == table[1, column]
