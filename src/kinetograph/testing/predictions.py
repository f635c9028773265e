"""What a potential says, and how far apart two answers are.

A difference is a root mean square over atoms, relative to the root mean square force on them, so 1 means
"as wrong as the forces are large". Energies are compared per atom, in the unit that forces have times 1 Å,
or relative to themselves where they are larger; stress relative to itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from kinetograph.graph import neighbors_for
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System


@contextmanager
def evaluating(potential: Potential) -> Iterator[None]:
    """Evaluation mode inside the block, without gradients of parameters."""
    modes = [(module, module.training) for module in potential.modules()]
    potential.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(potential: Potential, system: System) -> Prediction:
    """What a potential in evaluation mode says of a system."""
    with evaluating(potential):
        prediction: Prediction = potential(system, neighbors_for(system, potential.request))
    return prediction


def rms(values: Tensor) -> float:
    """Root mean square over rows of the length of each row."""
    return float(values.double().square().sum(dim=-1).mean().sqrt()) if len(values) else 0.0


def deviation(got: Prediction, expected: Prediction) -> float:
    """How far apart two predictions of the same atoms are; the largest over all that they hold."""
    scale = max(rms(expected.forces), rms(got.forces), 1e-300)
    residual = rms(got.forces - expected.forces) / scale
    n_atoms = len(expected.forces)
    for name in ("atomic_energies", "energy", "stress", "direct_forces"):
        one, other = getattr(got, name), getattr(expected, name)
        if (one is None) != (other is None):
            return float("inf")
        if one is None:
            continue
        if not torch.equal(torch.isnan(one), torch.isnan(other)):
            return float("inf")
        one, other = one.double().nan_to_num(), other.double().nan_to_num()
        share = n_atoms if name == "energy" else 1
        unit = max(scale, float(other.abs().max()) / share) if name != "stress" else float(other.abs().max())
        residual = max(residual, float((one - other).abs().max()) / max(share * unit, 1e-300))
    return residual


def disagreement(potential: Potential, other: Potential, system: System) -> float:
    """How far apart two potentials are that should be one, such as a model and its copy from disk."""
    return deviation(predict(other, system), predict(potential, system))


def in_type(potential: Potential, dtype: torch.dtype) -> Potential:
    """A copy that computes in another floating-point type."""
    return copy.deepcopy(potential).to(dtype=dtype)


def seeded(seed: int) -> torch.Generator:
    """Random numbers of their own, that leave the global ones alone."""
    return torch.Generator().manual_seed(seed)


def is_single(system: System) -> bool:
    """Whether there is one structure, not a batch of them."""
    return system.n_systems == 1


def losses(potential: Potential, system: System) -> list[Tensor]:
    """Mean squares of everything that can be fitted, in the mode in which the potential is."""
    prediction = potential(system, neighbors_for(system, potential.request))
    fitted = (prediction.forces, prediction.direct_forces, prediction.energy)
    return [values.square().mean() for values in fitted if values is not None]


def scales_of(parts: Sequence[Tensor]) -> list[float]:
    """What makes each part of a loss one."""
    return [max(float(part.detach()), 1e-30) for part in parts]


def total_loss(potential: Potential, system: System, scales: Sequence[float] | None = None) -> Tensor:
    """The sum of these, each in units of its scale; by default all count alike."""
    parts = losses(potential, system)
    units = scales_of(parts) if scales is None else scales
    return torch.stack([part / unit for part, unit in zip(parts, units, strict=True)]).sum()
