"""The models, by architecture and by preset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinetograph.errors import UserError
from kinetograph.models.gamd import GAMD
from kinetograph.potential import DirectModel

ARCHITECTURES: dict[str, type[GAMD]] = {"gamd": GAMD}

PRESETS: dict[str, dict[str, Any]] = {
    "gamd": {"architecture": "gamd", "form": "paper", "width": 128, "n_layers": 4},
    "gamd-code": {"architecture": "gamd", "form": "code", "width": 128, "n_layers": 4},
    "gamd-covariant": {"architecture": "gamd", "form": "covariant", "width": 64, "n_layers": 3},
}
"""Named sets of hyperparameters. Cutoff, elements and bond types belong to the data, not to a preset."""

DEFAULT_PRESET = "gamd-covariant"


def build(architecture: str, elements: Sequence[int], hyperparameters: dict[str, Any]) -> DirectModel:
    """A fresh model: the architecture with these hyperparameters for these elements.

    Raises:
        UserError: an unknown architecture, or a hyperparameter that it does not have.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"unknown architecture {architecture!r}", mend=f"Known are: {', '.join(ARCHITECTURES)}."
        )
    try:
        return DirectModel(ARCHITECTURES[architecture](elements, **hyperparameters))
    except (TypeError, ValueError) as error:
        raise UserError(f"the model {architecture!r} cannot be built: {error}") from error
