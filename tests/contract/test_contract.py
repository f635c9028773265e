"""Every architecture, in every form and with every head, in both types, keeps the laws."""

from __future__ import annotations

from dataclasses import replace

import ase.build
import pytest
import torch
from variants import ALL, Case, Variant, cases, registered

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import ARCHITECTURES
from kinetograph.system import System
from kinetograph.testing import Contract, compiling, saving, unused_parameters
from kinetograph.testing.suite import PotentialContract

GRID = [pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else []) for case in cases()]


@pytest.fixture(scope="module", params=GRID)
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param
    return made


@pytest.fixture(scope="module")
def built(case: Case) -> Contract:
    """Built once for all the laws that follow."""
    return Contract(case.build())


class TestContract(PotentialContract):
    @pytest.fixture
    def contract(self, built: Contract) -> Contract:
        return built

    def test_a_model_from_a_file_is_the_one_that_was_saved(self, case: Case, contract: Contract) -> None:
        assert isinstance(contract.potential, LearnedPotential)
        difference = saving(
            contract.potential,
            contract.structures["mixed"],
            architecture=case.variant.architecture,
            hyperparameters=case.hyperparameters,
        )
        # Bit by bit; without parameters there is no type that a file could be read in again.
        assert difference <= (0.0 if contract.potential.dtype else torch.finfo(torch.float32).eps)

    def test_every_parameter_is_of_use(self, case: Case, contract: Contract) -> None:
        idle = unused_parameters(contract.potential, contract.structures["mixed"])
        assert [name for name in idle if not name.startswith(case.variant.idle or "-")] == []


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_an_element_that_a_model_does_not_know_is_refused(architecture: str) -> None:
    variant = next(v for v in registered() if v.architecture == architecture)
    potential = Case(variant, variant.forces[0], "direct", "float32").make().eval()
    known = System.from_ase(ase.build.molecule("CH3OH"))
    foreign = replace(known, atomic_numbers=torch.where(known.atomic_numbers == 8, 7, known.atomic_numbers))
    neighbors = neighbors_for(known, potential.request)
    potential(known, neighbors)
    for _ in range(2):
        with pytest.raises(UserError, match=r"never saw the element N .*trained on H, C, O only"):
            potential(foreign, neighbors)
    potential(known, neighbors)


@pytest.mark.parametrize("variant", [v for v in registered() if "both" in v.forces], ids=lambda v: v.name)
def test_heads_share_one_trunk_by_name(variant: Variant) -> None:
    """So that the weights of a model with one head can start one with the other."""
    shapes = {
        forces: {
            name: value.shape
            for name, value in Case(variant, forces, "direct", "float64").make().state_dict().items()
        }
        for forces in ALL
    }
    assert {**shapes["direct"], **shapes["conservative"]} == shapes["both"]
    shared = set(shapes["direct"]) & set(shapes["conservative"]) - {"force_scale"}
    assert len(shared) > 0.3 * len(shapes["both"])


@pytest.mark.slow  # half a minute of compilation each
@pytest.mark.parametrize("architecture", ["gamd", "painn"])
def test_a_compiled_model_is_the_plain_one(architecture: str) -> None:
    variant = next((v for v in reversed(registered()) if v.architecture == architecture), None)
    if variant is None:
        pytest.skip(f"{architecture} is not registered")
    contract = Contract(Case(variant, "direct", "direct", "float64").build())
    assert isinstance(contract.potential, LearnedPotential)
    difference = compiling(contract.potential, contract.structures["mixed"])
    assert difference <= contract.tolerance("rotation")  # sums in another order
