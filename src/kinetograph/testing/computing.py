"""Whether the numbers come out: types, chance, files, compiler, and what is finite."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinetograph.graph import build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.potential import Potential
from kinetograph.system import System
from kinetograph.testing.cutoffs import signature
from kinetograph.testing.predictions import (
    deviation,
    disagreement,
    in_type,
    is_single,
    predict,
    rms,
    seeded,
    total_loss,
)
from kinetograph.testing.structures import elements_of


def finiteness(potential: Potential, system: System) -> float | None:
    """The share of what is predicted that is not a finite number (a stress that does not exist apart)."""
    prediction = predict(potential, system)
    values = [prediction.forces.flatten()]
    for other in (prediction.energy, prediction.atomic_energies):
        if other is not None:
            values.append(other.flatten())
    if prediction.stress is not None:
        values.append(prediction.stress[system.pbc.all(dim=1)].flatten())
    return float((~torch.isfinite(torch.cat([v.double() for v in values]))).double().mean())


def determinism(potential: Potential, system: System) -> float | None:
    """The same call twice, with the global random numbers elsewhere: 0 where every bit is the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = predict(potential, system)
        torch.manual_seed(2)
        return deviation(predict(potential, system), first)


def single_precision(potential: Potential, system: System) -> float | None:
    """Single precision against double, in units of the rounding error of single precision (1.2e-7).

    This is by how much a potential amplifies rounding on that structure. The system is once kept in
    double precision, as in a run, and once rounded as well.
    """
    double = predict(in_type(potential, torch.float64), system)
    single = in_type(potential, torch.float32)
    worst = 0.0
    for given in (system, system.to(dtype=torch.float32)):
        got = predict(single, given)
        if got.forces.dtype != given.dtype:
            return float("inf")
        worst = max(worst, deviation(got, double))
    return worst / torch.finfo(torch.float32).eps


def precision(potential: Potential, system: System, seed: int = 0) -> float | None:
    """The second difference of forces over 1e-8 Å: what a step of single precision hidden inside shows in.

    Forces that are computed in double precision change in proportion to so small a step. Rounding to
    single precision anywhere inside makes steps of 1e-7 of the force.
    """
    if not is_single(system):
        return None
    direction = 1e-8 * torch.randn(system.n_atoms, 3, generator=seeded(seed), dtype=torch.float64)
    if signature(potential.request, system) != signature(
        potential.request, replace(system, positions=system.positions + 2.0 * direction)
    ):
        return None
    forces = [
        predict(potential, replace(system, positions=system.positions + k * direction)).forces
        for k in (0, 1, 2)
    ]
    return rms(forces[2] - 2.0 * forces[1] + forces[0]) / max(rms(forces[0]), 1e-300)


def broken_gradients(potential: Potential, system: System) -> list[str]:
    """What is not finite in training mode: names of parameters for their gradients, and ``"forces"``."""
    copied = copy.deepcopy(potential).train().requires_grad_(True)
    prediction = copied(system, neighbors_for(system, copied.request))
    broken = [] if bool(torch.isfinite(prediction.forces).all()) else ["forces"]
    _backward(total_loss(copied, system))
    for name, parameter in copied.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            broken.append(name)
    return broken


def unused_parameters(potential: Potential, system: System) -> list[str]:
    """Parameters that neither forces nor energies depend on: weights that are never trained."""
    copied = copy.deepcopy(potential).train().requires_grad_(True)
    _backward(total_loss(copied, system))
    return [n for n, p in copied.named_parameters() if p.grad is None or not bool(p.grad.any())]


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:  # not that of a potential without parameters
        loss.backward()  # type: ignore[no-untyped-call]


def saving(
    potential: LearnedPotential,
    system: System,
    *,
    architecture: str,
    hyperparameters: Mapping[str, Any],
) -> float:
    """A model against its copy from a file; its architecture is a registered one."""
    from kinetograph import model_file
    from kinetograph.training_domain import domain_of

    graph = build_graph(system, neighbors_for(system, potential.request), potential.request.edges_only())
    elements = elements_of(potential)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.kg"
        model_file.save(
            path,
            potential,
            architecture=architecture,
            hyperparameters=dict(hyperparameters),
            elements=elements,
            domain=domain_of(system, graph),
        )
        loaded = model_file.load(path, dtype=potential.dtype)
    if isinstance(loaded, LearnedPotential):
        loaded.use_forces(potential.answers)
    return disagreement(potential, loaded, system)


def compiling(potential: LearnedPotential, system: System) -> float:
    """A model against itself through ``torch.compile``; takes about half a minute."""
    compiled = copy.deepcopy(potential)
    compiled.use_compiler()
    return disagreement(potential, compiled, system)
