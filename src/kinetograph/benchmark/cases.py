"""The models that are measured, by name: sizes as their papers have them, weights by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kinetograph.errors import UserError, nearest
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import PRESETS, build

ELEMENTS = (1, 8)


@dataclass(frozen=True)
class Case:
    """A model to measure."""

    about: str
    preset: str
    cutoff_A: float
    options: Mapping[str, Any] = field(default_factory=dict)
    largest: int = 1_000_000
    """Atoms: a larger box is replaced by one of this size, for models that cost a great deal."""
    bfloat16: bool = False
    """Whether it also runs with products of bfloat16, where the processor has them."""
    three_body: bool = False
    """Whether it has a sum over triplets to measure alone."""

    def potential(self, dtype: torch.dtype = torch.float32) -> LearnedPotential:
        """The model with the same weights, drawn by chance, in any precision."""
        torch.manual_seed(0)
        preset = PRESETS[self.preset]
        sizes = {**preset.hyperparameters, "forces": preset.forces, "cutoff": self.cutoff_A, **self.options}
        return build(preset.architecture, ELEMENTS, sizes).to(dtype).eval()


CASES: dict[str, Case] = {
    "painn": Case("48 × 3, direct forces", "painn-small", 4.2),
    "painn conservative": Case("48 × 3", "painn-small", 4.2, {"forces": "conservative"}),
    "painn 128": Case("128 × 3, direct forces", "painn", 4.2),
    "gamd": Case("the paper's form, 128 × 4", "gamd", 4.2, bfloat16=True),
    "gamd-code": Case("the published code's form, 128 × 4", "gamd-code", 4.2),
    "gamd-covariant": Case("128 × 4", "gamd-covariant", 4.2, bfloat16=True),
    "gnnff": Case(
        "64 × 3, 16 nearest neighbours",
        "gnnff",
        5.0,
        {"width": 64, "edge_width": 64, "n_neighbors": 16},
        three_body=True,
    ),
    "forcenet": Case("512 × 5", "forcenet", 4.2, largest=384),
    "schnet": Case("128 × 3, conservative", "schnet", 5.0, {"n_layers": 3}),
    "dimenet": Case(
        "3 layers, conservative", "dimenet", 5.0, {"n_layers": 3, "readout_init": "glorot"}, largest=24
    ),
    "dimenet++": Case("conservative", "dimenet++", 5.0, {"readout_init": "glorot"}, largest=96),
    "gemnet-t": Case("conservative", "gemnet-t", 5.0, largest=96),
}
"""At 4.2 Å water has 34 edges an atom, at 5 Å 54."""


def chosen(names: str | None) -> dict[str, Case]:
    """The cases of a list of names with commas between; all of them for ``None``.

    Raises:
        UserError: a name is unknown.
    """
    if names is None:
        return dict(CASES)
    found = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in CASES:
            raise UserError(
                f"unknown case {name!r}{nearest(name, list(CASES))}",
                where="--cases",
                mend=f"Known: {', '.join(CASES)}.",
            )
        found[name] = CASES[name]
    return found
