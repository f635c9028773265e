"""How far a potential is from each property: the numbers of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from kinetograph.nn.model import PROPERTIES
from kinetograph.potential import Potential
from kinetograph.testing.cutoffs import smoothness
from kinetograph.testing.derivatives import curl
from kinetograph.testing.predictions import in_type
from kinetograph.testing.structures import elements_of, structures
from kinetograph.testing.symmetries import net_force, permutation, reflection, rotation, torque, translation


def measure_symmetries(
    potential: Potential, elements: Sequence[int] | None = None, *, n_rotations: int = 8
) -> dict[str, float]:
    """How far a potential is from each of ``PROPERTIES``, in double precision.

    Averages over structures of :func:`structures` and over random rotations, mirrors, moves and orders;
    smoothness is the largest jump. What holds by construction shows its rounding, and what does not shows the
    number that random weights have (see :func:`randomize`), which training may lower.

    Args:
        elements: atomic numbers; by default those that the potential says it knows.
    """
    potential = in_type(potential, torch.float64)
    made = structures(elements_of(potential) if elements is None else elements)
    chosen = [made["molecule"], made["crystal"]]

    def mean(measure: Callable[..., float | None], seeds: int) -> float:
        values = [measure(potential, system, seed=seed) for system in chosen for seed in range(seeds)]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else float("nan")

    def plain(measure: Callable[..., float | None]) -> float:
        known = [value for system in chosen if (value := measure(potential, system)) is not None]
        return sum(known) / len(known) if known else float("nan")

    jumps = [jump for system in chosen if (jump := smoothness(potential, system, n_blind=3)) is not None]
    measured = {
        "translation": mean(translation, n_rotations),
        "permutation": mean(permutation, n_rotations),
        "rotation": mean(rotation, n_rotations),
        "reflection": mean(reflection, n_rotations),
        "net force": plain(net_force),
        "torque": plain(torque),
        "curl": plain(curl),
        "smoothness": max(jumps, default=float("nan")),
    }
    return {name: measured[name] for name in PROPERTIES}
