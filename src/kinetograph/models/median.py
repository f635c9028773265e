"""The median force: what a model must beat, and the first row of the ForceNet paper's table.

W. Hu et al., "ForceNet: A Graph Neural Network for Large-Scale Quantum Calculations" (2021),
arXiv:2103.01436. One vector for every atom: component by component the median of all training
forces, which of all constants has the least mean absolute error. It has nothing to train and sees no
positions; it is fitted by ``fit_statistics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kinetograph.graph import Graph, GraphRequest
from kinetograph.nn.elements import ElementSlots
from kinetograph.nn.model import Forces, Head, Model, Offer, Outputs, Preset, Published, require_offer

_TABLE_1 = "ForceNet, arXiv:2103.01436, table 1"

PRESETS = {
    "median": Preset(
        "median",
        "the median of the training forces, for every atom",
        published=(
            Published("OC20 S2F val ID, force MAE", 0.0810, "eV/Å", _TABLE_1),
            Published("OC20 S2F val OOD ads, force MAE", 0.0799, "eV/Å", _TABLE_1),
            Published("OC20 S2F val OOD cat, force MAE", 0.0799, "eV/Å", _TABLE_1),
            Published("OC20 S2F val OOD both, force MAE", 0.0943, "eV/Å", _TABLE_1),
            Published("OC20 S2F val average, force MAE", 0.0838, "eV/Å", _TABLE_1),
        ),
    )
}


class Median(Model):
    """A constant force.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å; of no consequence.
        per_element: one vector for each element; an element without training forces has zero.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native"),
        "conservative": Offer(
            "not offered", "a constant force has no energy that a periodic cell could hold"
        ),
    }

    median: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        per_element: bool = False,
    ) -> None:
        super().__init__()
        require_offer(Median, forces)
        self.forces = forces
        self.per_element = per_element
        self.request = GraphRequest(cutoff=cutoff, n_layers=0)
        self.slots = ElementSlots(elements)
        # (n_elements, 3), or (1, 3) for all; in units of the force scale.
        self.register_buffer("median", torch.zeros(self.slots.n_elements if per_element else 1, 3))

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        return {"direct": frozenset({"translation", "permutation", "smoothness"})}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        slots = self.slots(graph.atomic_numbers)
        # With one vector for all every row is row 0.
        return Outputs(forces=self.median[slots if self.per_element else torch.zeros_like(slots)])

    def fit_statistics(self, graphs: Iterable[Graph], forces: Iterable[Tensor]) -> None:
        """Set the median of each component; of an even number of forces the mean of the middle two."""
        if not self.per_element:
            rows = list(forces)  # the graphs are not made
            if rows:
                self.median[0] = _median(torch.cat(rows))
            return
        frames = [(self.slots(g.atomic_numbers), f) for g, f in zip(graphs, forces, strict=True)]
        for slot in range(self.slots.n_elements):
            rows = [f[slots == slot] for slots, f in frames]
            if any(len(row) for row in rows):
                self.median[slot] = _median(torch.cat(rows))


def _median(forces: Tensor) -> Tensor:
    """(n, 3) → (3,), of each component by itself."""
    n = len(forces)
    ordered = forces.sort(dim=0).values
    return 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
