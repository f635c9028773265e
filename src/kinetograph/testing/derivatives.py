"""Forces, stress and their symmetry against finite differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kinetograph.potential import Potential
from kinetograph.system import System
from kinetograph.testing.cutoffs import signature
from kinetograph.testing.predictions import (
    in_type,
    is_single,
    losses,
    predict,
    rms,
    scales_of,
    seeded,
    total_loss,
)
from kinetograph.testing.structures import copies

STEP_A = 3e-4
"""Å: step of finite differences. They are of fourth order, so that the error, (step / length over which
forces change)⁴, stays below 1e-6 down to lengths of a hundredth of an ångström."""
STENCIL = ((-2, 1.0 / 12.0), (-1, -2.0 / 3.0), (1, 2.0 / 3.0), (2, -1.0 / 12.0))
"""Steps and weights of the derivative: [f(−2h) − 8 f(−h) + 8 f(h) − f(2h)] / 12h."""
CURL_STEP_A = 1e-5
CURL_STENCIL = ((-2, 0.25), (-1, -1.0), (1, 1.0), (2, -0.25))
"""The same for forces that are only once differentiable, as at the fold of a dihedral angle: two differences,
over h and over 2h, whose error goes with h, and their limit for h → 0."""


def force_differences(potential: Potential, system: System, seed: int = 0) -> float | None:
    """Forces against finite differences of the energy along three random displacements of all atoms."""
    prediction = predict(potential, system)
    if prediction.energy is None or not prediction.conservative or not is_single(system):
        return None
    directions = torch.randn(3, system.n_atoms, 3, generator=seeded(seed), dtype=torch.float64)
    step = _step(potential, system, directions)
    slopes = _energy_slopes(potential, system, step, system.positions + step * directions, None)
    error = slopes + (directions * prediction.forces).sum(dim=(1, 2))
    scale: float = rms(prediction.forces) * system.n_atoms**0.5
    return rms(error[:, None]) / max(scale, 1e-300)


def stress_differences(potential: Potential, system: System) -> float | None:
    """Stress against finite differences of the energy along the six strains, over the volume."""
    prediction = predict(potential, system)
    if prediction.stress is None or not is_single(system):
        return None
    strains = torch.zeros(6, 3, 3, dtype=torch.float64)
    for index, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        strains[index, i, j] += 0.5
        strains[index, j, i] += 0.5
    step = _step(potential, system, system.positions @ strains, system.cell @ strains)
    bent = torch.eye(3, dtype=torch.float64) + step * strains
    slopes = _energy_slopes(potential, system, step, system.positions @ bent, system.cell[0] @ bent)
    stress = torch.einsum("kij,ij->k", strains, prediction.stress[0]) * system.volume[0]
    # Its antisymmetric part does no work along any strain.
    skew = rms(prediction.stress[0] - prediction.stress[0].T) / max(rms(prediction.stress[0]), 1e-300)
    return max(skew, rms((slopes - stress)[:, None]) / max(rms(stress[:, None]), 1e-300))


def curl(potential: Potential, system: System, n_atoms: int = 3) -> float | None:
    """The antisymmetric part of the derivative of forces by positions, over the whole of it.

    By finite differences, for ``n_atoms`` atoms that are neighbours of the first; 0 for a gradient, about 0.7
    for forces without any relation between dF_a/dx_b and dF_b/dx_a.
    """
    if not is_single(system):
        return None
    near = torch.argsort((system.positions - system.positions[0]).norm(dim=1))[:n_atoms].tolist()
    directions = torch.zeros(3 * len(near), system.n_atoms, 3, dtype=torch.float64)
    for row, atom in enumerate(near):
        directions[3 * row : 3 * row + 3, atom] = torch.eye(3, dtype=torch.float64)
    step = min(CURL_STEP_A, _step(potential, system, directions))
    places = torch.cat([system.positions + k * step * directions for k, _ in CURL_STENCIL])
    forces = predict(potential, copies(system, places)).forces
    forces = forces.reshape(len(CURL_STENCIL), len(directions), system.n_atoms, 3)[:, :, near]
    weights = torch.tensor([weight for _, weight in CURL_STENCIL], dtype=torch.float64)
    slopes = torch.einsum("s,sdni->dni", weights, forces.double()).flatten(1) / step
    return float((0.5 * (slopes - slopes.T)).norm()) / max(float(slopes.norm()), 1e-300)


def _energy_slopes(
    potential: Potential, system: System, step: float, places: Tensor, cells: Tensor | None
) -> Tensor:
    """Derivative of the energy along straight paths that lead to ``places`` (and ``cells``) in one step."""
    slopes = torch.zeros(len(places), dtype=torch.float64)
    for k, weight in STENCIL:
        there = system.positions + k * (places - system.positions)
        boxes = None if cells is None else system.cell[0] + k * (cells - system.cell[0])
        energy = predict(potential, copies(system, there, boxes)).energy
        assert energy is not None
        slopes = slopes + weight * energy.double() / step
    return slopes


def _step(potential: Potential, system: System, directions: Tensor, cells: Tensor | None = None) -> float:
    """The step of finite differences, less where a pair would cross a cutoff on the way."""
    step = STEP_A
    here = signature(potential.request, system)
    for _ in range(4):
        ends = [
            replace(
                system,
                positions=system.positions + side * step * direction,
                cell=system.cell if cells is None else system.cell + side * step * cells[index],
            )
            for index, direction in enumerate(directions)
            for side in (-2.0, 2.0)
        ]
        if all(signature(potential.request, end) == here for end in ends):
            break
        step *= 0.3
    return step


def training(potential: Potential, system: System, seed: int = 0) -> float | None:
    """Gradients of a loss on forces and energies by the weights, against finite differences.

    Along one random direction in the space of weights, with dropout and batch statistics off.
    """
    copied = in_type(potential, torch.float64)
    copied.eval().requires_grad_(True)
    for module in copied.modules():
        # Potentials build what a second derivative needs; their layers stay as in a run.
        module.training = isinstance(module, Potential)
    weights = [p for p in copied.parameters() if p.is_floating_point()]
    if not weights:
        return None
    generator = seeded(seed)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.detach().abs() for p in weights
    ]
    scales = scales_of(losses(copied, system))
    loss = total_loss(copied, system, scales)
    slopes: Sequence[Tensor | None] = [None] * len(weights)
    if loss.requires_grad:
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    expected = sum(float((d * s).sum()) for d, s in zip(directions, slopes, strict=True) if s is not None)
    step, difference = 1e-6, 0.0  # of each weight; so small that hardly a kink of ReLU lies on the way
    starts = [p.detach().clone() for p in weights]
    for k, factor in STENCIL:
        with torch.no_grad():
            for p, start, direction in zip(weights, starts, directions, strict=True):
                p.copy_(start + k * step * direction)
        difference += factor * float(total_loss(copied, system, scales).detach()) / step
    return abs(difference - expected) / max(abs(expected), 1.0)
