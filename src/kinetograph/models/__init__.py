"""The models, by architecture and by preset."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, get_type_hints

from kinetograph.errors import UserError, nearest
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import (
    dcf,
    dimenet,
    dimenet_pp,
    forcenet,
    gamd,
    gemnet,
    gnnff,
    gns,
    median,
    painn,
    schnet,
)
from kinetograph.nn.model import Model, Preset, require_offer

ARCHITECTURES: dict[str, type[Model]] = {
    "painn": painn.PaiNN,
    "gnnff": gnnff.GNNFF,
    "dcf": dcf.DCF,
    "gamd": gamd.GAMD,
    "gns": gns.GNS,
    "forcenet": forcenet.ForceNet,
    "schnet": schnet.SchNet,
    "dimenet": dimenet.DimeNet,
    "dimenet++": dimenet_pp.DimeNetPlusPlus,
    "gemnet": gemnet.GemNet,
    "median": median.Median,
}

PRESETS: dict[str, Preset] = {
    **painn.PRESETS,
    **gnnff.PRESETS,
    **dcf.PRESETS,
    **gamd.PRESETS,
    **gns.PRESETS,
    **forcenet.PRESETS,
    **schnet.PRESETS,
    **dimenet.PRESETS,
    **dimenet_pp.PRESETS,
    **gemnet.PRESETS,
    **median.PRESETS,
}

DEFAULT_PRESET = "painn"


def options_of(architecture: str) -> list[str]:
    """Names of the hyperparameters of an architecture, cutoff and forces left out."""
    names = inspect.signature(ARCHITECTURES[architecture].__init__).parameters
    return [name for name in names if name not in ("self", "elements", "cutoff", "forces")]


def build(architecture: str, elements: Sequence[int], hyperparameters: dict[str, Any]) -> LearnedPotential:
    """A fresh model: the architecture with these hyperparameters for these elements.

    Raises:
        UserError: an unknown architecture, a hyperparameter that it does not have or that has an
            impossible value, or forces that it does not offer.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"unknown architecture {architecture!r}{nearest(architecture, list(ARCHITECTURES))}",
            mend=f"Known are: {', '.join(ARCHITECTURES)}.",
        )
    known = options_of(architecture)
    for name in hyperparameters:
        if name not in (*known, "cutoff", "forces"):
            raise UserError(
                f"the model {architecture!r} has no option {name!r}{nearest(name, known)}",
                mend=f"It has: {', '.join(known)}.",
            )
    if "forces" in hyperparameters:
        require_offer(ARCHITECTURES[architecture], hyperparameters["forces"])
    _check_numbers(architecture, hyperparameters)
    try:
        return LearnedPotential(ARCHITECTURES[architecture](elements, **hyperparameters))
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"the model {architecture!r} cannot be built: {error}") from error


MAY_BE_ZERO = (
    "max_bond_separation",
    "n_before_skip",
    "n_after_skip",
    "n_dense",
    "n_concat",
    "n_atom",
    "n_embedding_layers",
)
"""Numbers of optional layers, and of bonds that need not be looked at."""


def _check_numbers(architecture: str, hyperparameters: dict[str, Any]) -> None:
    """Refuse numbers that no constructor can mean: counts and sizes are whole and at least one."""
    kinds = get_type_hints(ARCHITECTURES[architecture].__init__)
    for name, value in hyperparameters.items():
        kind = kinds[name]
        if kind not in (int, int | None, float) or (value is None and kind == int | None):
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is float:
            if not number or not math.isfinite(value) or value < 0.0 or (name == "cutoff" and value == 0.0):
                raise UserError(
                    f"{name} is {value!r}, not a positive number", where=f"model {architecture!r}"
                )
            continue
        least = 0 if name in MAY_BE_ZERO else 1
        if not isinstance(value, int) or not number or value < least:
            raise UserError(
                f"{name} is {value!r}, not a whole number of at least {least}",
                where=f"model {architecture!r}",
            )
