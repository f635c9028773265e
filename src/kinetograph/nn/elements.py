"""One learned vector per element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from kinetograph.errors import UserError

MAX_ATOMIC_NUMBER = 118


def check_elements(elements: Sequence[int], table: int | None = None) -> tuple[int, ...]:
    """The elements, ascending and once each.

    Raises:
        UserError: there are none, or one lies outside the periodic table or the model's table.
    """
    limit = MAX_ATOMIC_NUMBER if table is None else min(table, MAX_ATOMIC_NUMBER)
    for z in elements:
        if not 1 <= z <= MAX_ATOMIC_NUMBER:
            raise UserError(
                f"there is no element of atomic number {z}",
                mend="Give every atom in the frames the symbol of an element.",
            )
        if z > limit:
            name = chemical_symbols[z]
            raise UserError(
                f"the model has no element {name} (atomic number {z}); its table ends at {limit}",
                mend="Set model.options.element_table to null, for a row per element of the data, or remove "
                "the frames that hold it.",
            )
    if not elements:
        raise UserError("a model needs at least one element")
    return tuple(sorted(set(elements)))


class ElementSlots(nn.Module):
    """Atomic numbers to places 0, 1, … in a list of elements."""

    slot: Tensor

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        elements = check_elements(elements)
        slot = torch.full((MAX_ATOMIC_NUMBER + 1,), -1, dtype=torch.int64)
        slot[torch.as_tensor(elements)] = torch.arange(len(elements))
        self.n_elements = len(elements)
        self.register_buffer("slot", slot, persistent=False)

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) → (n_atoms,) int64."""
        return self.slot[atomic_numbers]


class ElementEmbedding(nn.Module):
    """A vector per element; components start from the standard normal distribution.

    Args:
        elements: atomic numbers that will be asked for.
        table: rows of the table, as a published model has them; by default one row per element.
        first: atomic number of row 0 of such a table.
    """

    def __init__(
        self, elements: Sequence[int], width: int, *, table: int | None = None, first: int = 0
    ) -> None:
        super().__init__()
        self.first = first
        if table is None:
            self.slots: ElementSlots | None = ElementSlots(elements)
            self.weight = nn.Parameter(torch.randn(self.slots.n_elements, width))
        else:
            check_elements(elements, first + table - 1)
            self.slots = None
            self.weight = nn.Parameter(torch.randn(table, width))

    def rows(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) → (n_atoms,) int64: rows of the table."""
        return atomic_numbers - self.first if self.slots is None else self.slots(atomic_numbers)

    def forward(self, atomic_numbers: Tensor) -> Tensor:
        """(n_atoms,) → (n_atoms, width)."""
        return self.weight[self.rows(atomic_numbers)]
