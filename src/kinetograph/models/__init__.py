"""The models, by architecture and by preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    options,
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
    return options.names_of(ARCHITECTURES[architecture])


def resolved(architecture: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters with all that are not named, as the architecture has them by default."""
    return {**options.defaults_of(ARCHITECTURES[architecture]), **hyperparameters}


def check_hyperparameters(architecture: str, hyperparameters: Mapping[str, Any]) -> None:
    """Refuse what no model of the architecture can be made of.

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
    options.check_values(ARCHITECTURES[architecture], hyperparameters)


def build(architecture: str, elements: Sequence[int], hyperparameters: dict[str, Any]) -> LearnedPotential:
    """A fresh model: the architecture with these hyperparameters for these elements.

    Raises:
        UserError: as :func:`check_hyperparameters`, or values that do not go together.
    """
    check_hyperparameters(architecture, hyperparameters)
    try:
        return LearnedPotential(ARCHITECTURES[architecture](elements, **hyperparameters), elements)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"the model {architecture!r} cannot be built: {error}") from error
