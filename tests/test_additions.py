"""Additions are built from plain words, and what is wrong with the words is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ase.build import molecule

from kinetograph.additions import ADDITIONS, build_addition
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import LennardJones
from kinetograph.models.electrostatics import FixedCharges
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System

ARGUMENTS: dict[str, dict[str, Any]] = {
    "zbl": {},
    "d3": {"functional": "pbe"},
    "d4": {"parameters": {"s8": 0.9, "a1": 0.4, "a2": 5.0}, "three_body": False},
    "charges": {"charges": {"O": -0.834, "H": 0.417}, "exclude_bonds": 2},
}


@pytest.mark.parametrize("kind", ADDITIONS)
def test_every_addition_is_built_from_json_and_gives_an_energy(kind: str) -> None:
    addition = build_addition(kind, [1, 8], json.loads(json.dumps(ARGUMENTS[kind])))
    assert isinstance(addition, ADDITIONS[kind])
    assert addition.gives_energy
    assert addition.gives_stress
    assert addition.domain is None
    assert list(addition.parameters()) == []  # nothing in it is trained
    total = SumPotential(LennardJones(epsilon=0.01, sigma=2.0, cutoff=5.0), addition)
    system = System.from_ase(molecule("H2O"))
    prediction = total(system, neighbors_for(system, total.request))
    assert prediction.conservative
    assert prediction.energy is not None


def test_all_additions_stand_beside_each_other() -> None:
    parts = [build_addition(kind, [1, 8], arguments) for kind, arguments in ARGUMENTS.items()]
    total = SumPotential(LennardJones(epsilon=0.01, sigma=2.0, cutoff=7.0), *parts)
    assert total.request.cutoff == 7.0  # none of them enlarges the list of a model
    system = System.from_ase(molecule("H2O"))
    neighbors = neighbors_for(system, total.request)
    energies = [part(system, neighbors).energy for part in total.parts]
    assert float(total(system, neighbors).energy) == pytest.approx(float(sum(energies)), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("d5", {}, r"unknown addition 'd5'; did you mean 'd[34]'\? Known are: zbl, d3, d4, charges."),
        ("zbl", {"outter": 1.0}, r"'zbl' has no option 'outter'; did you mean 'outer'\?"),
        ("zbl", {"inner": 2.0, "outer": 1.0}, "'zbl' cannot be built: 0 < inner < outer is needed"),
        ("zbl", {"outer": "far"}, "'zbl' cannot be built"),
        ("d3", {}, "d3 needs either a functional or damping parameters"),
        ("d3", {"functional": "pbe", "damping": "bj2"}, "'d3' cannot be built: unknown damping 'bj2'"),
        ("d3", {"functional": "pbe", "elements": [1]}, "'d3' has no option 'elements'"),
        ("charges", {}, r"'charges' needs 'charges'. Give it under model.add: .*elementary charges by"),
        ("charges", {"charges": {"H": 0.4}}, "no charge is given for O"),
    ],
)
def test_what_is_wrong_is_said(kind: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_addition(kind, [1, 8], arguments)


def test_elements_without_data_are_refused() -> None:
    for kind in ("zbl", "d3", "d4"):
        with pytest.raises(UserError, match="Rf"):
            build_addition(kind, [1, 104], ARGUMENTS[kind])


def test_a_charge_may_be_zero_and_more_may_be_given_than_needed() -> None:
    charges = {"O": -0.8, "H": 0.4, "Ar": 0, "Na": 1}
    assert isinstance(build_addition("charges", [18], {"charges": charges}), FixedCharges)
