"""The options of the models: their words, and values that no constructor can mean."""

from __future__ import annotations

from typing import Any

import pytest

from kinetograph.errors import UserError
from kinetograph.models import ARCHITECTURES, build, options_of
from kinetograph.models.options import words_of


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_option_has_words(architecture: str) -> None:
    words = words_of(ARCHITECTURES[architecture])
    assert list(words) == options_of(architecture)
    assert all(words.values())
    assert not any("``" in text or ":class:" in text or "docstring" in text for text in words.values())


def test_words_go_on_over_lines_and_name_the_choices() -> None:
    gamd = words_of(ARCHITECTURES["gamd"])
    assert gamd["max_bond_separation"].endswith("2: the ends of an angle too")
    assert gamd["form"].endswith("One of: paper, code, covariant")
    gemnet = words_of(ARCHITECTURES["gemnet"])
    assert gemnet["width"] == gemnet["edge_width"] == "sizes of atom states and of edge states"


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("gnnff", {"gaussian_stop": -5.0}, "gaussian_stop is -5.0, not a positive number"),
        ("gnnff", {"gaussian_stop": "abc"}, "gaussian_stop is 'abc', not a positive number"),
        ("gnnff", {"gaussian_inset": 9.0}, "the last Gaussian would sit at -5 Å"),
        ("gnnff", {"trainable_gaussians": "maybe"}, "trainable_gaussians is 'maybe', not true or false"),
        ("gnnff", {"envelope": 1}, "envelope is 1, not true or false"),
        ("gemnet", {"quadruplets": 3}, "quadruplets is 3, not true or false"),
        ("gemnet", {"link_cutoff": 0}, "links of at most 0 Å hold no atoms"),
        ("gemnet", {"n_radial": True}, "n_radial is True, not a whole number of at least 1"),
        ("dcf", {"zetas": "abc"}, "zetas is 'abc', not a list of positive numbers"),
        ("dcf", {"zetas": []}, r"zetas is \[\], not a list of positive numbers"),
        ("dcf", {"zetas": [1.0, "x"]}, r"zetas is \[1.0, 'x'\], not a list of positive numbers"),
    ],
)
def test_impossible_values_are_refused_with_their_key(
    architecture: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(architecture, [6], {"cutoff": 4.0, "forces": "direct", **options})
    (name,) = options
    assert caught.value.where == f"model.options.{name}"


def test_keys_are_those_of_the_configuration() -> None:
    with pytest.raises(UserError) as caught:
        build("painn", [6], {"cutoff": 4.0, "width": 0})
    assert caught.value.where == "model.width"
    with pytest.raises(UserError) as caught:
        build("painn", [6], {"cutoff": 0.0})
    assert caught.value.where == "model.cutoff_A"


def test_what_means_the_default_is_taken() -> None:
    build(
        "gnnff", [6], {"cutoff": 4.0, "forces": "direct", "envelope": None, "gaussian_stop": None, "width": 8}
    )
    build("dcf", [6], {"cutoff": 4.0, "forces": "direct", "zetas": (1.0, 2)})
