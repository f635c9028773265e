"""``benchmark train``: what a training step costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from kinetograph import kernels
from kinetograph.benchmark.cases import Case
from kinetograph.benchmark.measure import Action, Clock, Row, in_turns
from kinetograph.benchmark.structures import water
from kinetograph.data.dataset import Sample
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import OptimizerSettings

LEARNING_RATE = 1e-5
"""Small: weights stay as random as they are."""


def train_rows(cases: Mapping[str, Case], n_atoms: int, clock: Clock, seconds: float) -> Iterator[Row]:
    """Forward, loss, backward and optimiser, on one box of water with forces and an energy by chance.

    In plain forms, and as every training does it: PaiNN on a CPU with compiled messages, DimeNet, DimeNet++
    and GemNet without lists of triplets.
    """
    for name, case in cases.items():
        system = water(min(n_atoms, case.largest))
        potential = case.potential().train()
        generator = torch.Generator().manual_seed(0)
        sample = Sample(
            system,
            neighbors_for(system, potential.request),
            torch.randn(system.n_atoms, 3, generator=generator, dtype=system.dtype),
            torch.zeros(1, dtype=system.dtype),
            torch.full((1, 3, 3), torch.nan, dtype=system.dtype),
        ).to(clock.device)
        action = _training_step(potential.to(clock.device), sample)
        times = in_turns({"plain": _plainly(action), "training step": action}, clock, seconds)
        for variant, median_s in times.items():
            yield Row(
                case=name,
                variant=variant,
                precision="float32",
                n_atoms=system.n_atoms,
                n_edges=sample.neighbors.n_edges,
                median_s=median_s,
                speedup=None if variant == "plain" else times["plain"] / median_s,
                against=None if variant == "plain" else "plain",
            )


def _plainly(action: Action) -> Action:
    def act() -> None:
        with kernels.plain_forms():
            action()

    return act


def _training_step(potential: LearnedPotential, sample: Sample) -> Action:
    settings = OptimizerSettings(learning_rate=LEARNING_RATE)
    module = ForceTraining(potential, settings, rotate=False)
    optimizer = module.configure_optimizers()["optimizer"]

    def step() -> None:
        loss = module.loss(potential(sample.system, sample.neighbors), sample)
        optimizer.zero_grad()
        module.backward(loss)
        optimizer.step()

    return step
