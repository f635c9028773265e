"""``PotentialContract``: the laws as tests that pytest finds, one for each.

.. code-block:: python

    class TestMyPotential(PotentialContract):
        exact = {"translation", "permutation", "rotation", "reflection"}

        @pytest.fixture
        def potential(self):
            mine = MyPotential(cutoff=4.0)
            randomize(mine)
            return mine.double()

        @pytest.fixture
        def tried(self):
            return structures([13, 29], spacing=2.6)

The fixture ``tried`` may be left out, and so may ``exact`` and ``accuracy``, which
``kinetograph.testing.Contract`` explains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import pytest

from kinetograph.potential import Potential
from kinetograph.system import System
from kinetograph.testing.contract import Contract


class PotentialContract:
    """Inherit, name the class ``Test…`` and give a fixture ``potential``."""

    exact: ClassVar[Collection[str] | None] = None
    """Which of ``PROPERTIES`` the potential must keep; ``None``: what it says itself."""

    accuracy: ClassVar[float] = 0.0
    """See ``kinetograph.testing.Contract``."""

    @pytest.fixture
    def potential(self) -> Potential:
        raise NotImplementedError("give a fixture `potential` that returns what is to be tested")

    @pytest.fixture
    def tried(self) -> Mapping[str, System] | None:
        """The structures; ``None``: those of ``kinetograph.testing.structures``."""
        return None

    @pytest.fixture
    def contract(self, potential: Potential, tried: Mapping[str, System] | None) -> Contract:
        return Contract(potential, exact=self.exact, structures=tried, accuracy=self.accuracy)

    def test_everything_predicted_is_finite(self, contract: Contract) -> None:
        _check(contract, "finiteness")

    def test_the_same_call_gives_the_same_bits(self, contract: Contract) -> None:
        _check(contract, "determinism")

    def test_a_moved_structure_has_the_same_forces(self, contract: Contract) -> None:
        _check(contract, "translation")

    def test_forces_turn_with_the_structure(self, contract: Contract) -> None:
        _check(contract, "rotation")

    def test_a_mirrored_structure_has_mirrored_forces(self, contract: Contract) -> None:
        _check(contract, "reflection")

    def test_the_order_of_atoms_changes_nothing(self, contract: Contract) -> None:
        _check(contract, "permutation")

    def test_twice_as_much_has_the_same_forces_and_twice_the_energy(self, contract: Contract) -> None:
        _check(contract, "extensivity")

    def test_other_cell_vectors_of_the_same_lattice_change_nothing(self, contract: Contract) -> None:
        _check(contract, "periodic images")

    def test_a_structure_in_a_batch_is_as_it_is_alone(self, contract: Contract) -> None:
        _check(contract, "batching")

    def test_forces_add_up_to_zero(self, contract: Contract) -> None:
        _check(contract, "net force")

    def test_torques_on_a_molecule_add_up_to_zero(self, contract: Contract) -> None:
        _check(contract, "torque")

    def test_an_atom_alone_feels_nothing(self, contract: Contract) -> None:
        _check(contract, "isolated atom")

    def test_what_lies_beyond_the_receptive_field_changes_nothing(self, contract: Contract) -> None:
        _check(contract, "receptive field")

    def test_single_precision_agrees_with_double(self, contract: Contract) -> None:
        _check(contract, "single precision")

    def test_double_precision_is_double_throughout(self, contract: Contract) -> None:
        _check(contract, "precision")

    def test_forces_are_the_derivative_of_the_energy(self, contract: Contract) -> None:
        _check(contract, "forces")

    def test_stress_is_the_derivative_of_the_energy_by_strain(self, contract: Contract) -> None:
        _check(contract, "stress")

    def test_forces_are_a_gradient(self, contract: Contract) -> None:
        _check(contract, "curl")

    def test_forces_do_not_jump_at_a_cutoff(self, contract: Contract) -> None:
        _check(contract, "smoothness")

    def test_gradients_by_the_weights_are_those_of_finite_differences(self, contract: Contract) -> None:
        _check(contract, "training")

    def test_forces_and_gradients_are_finite_on_lines_and_lattices(self, contract: Contract) -> None:
        contract.check_special()


def _check(contract: Contract, law: str) -> None:
    excuse = contract.excused(law)
    if excuse is not None:
        pytest.skip(excuse)
    contract.check(law)
