"""The Lightning module: one model, its averaged twin, loss, optimiser and schedule."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning
import torch
from torch import Tensor

from kinetograph.data.dataset import Sample, collate
from kinetograph.graph import build_graph
from kinetograph.learned_potential import LearnedPotential
from kinetograph.neighbors import NeighborList
from kinetograph.nn.batch_norm import estimate_statistics, has_batch_norm
from kinetograph.nn.model import Model
from kinetograph.potential import Prediction
from kinetograph.system import System
from kinetograph.training.augmentation import rotated
from kinetograph.training.losses import energy_loss, force_loss, net_force_penalty, stress_loss
from kinetograph.training.settings import OptimizerSettings

N_STATISTICS_BATCHES = 40
"""Of which 20 were enough on copper and 10 were not."""


class ForceTraining(lightning.LightningModule):
    """Fits a model to labelled structures: its direct forces, its energy's gradient, or both at once.

    Errors in the loss are in units of the model's ``force_scale`` (energies: per atom, of that times
    1 Å). What is random in a step
    (rotation, dropout) is keyed by (seed, step), so that a resumed run takes the same steps.
    """

    def __init__(self, model: LearnedPotential, config: OptimizerSettings, *, rotate: bool) -> None:
        super().__init__()
        assert config.learning_rate is not None, "resolve the configuration first"
        self.learning_rate = config.learning_rate
        self.model = model
        self.config = config
        self.rotate = rotate
        self.has_own_loss = type(model.model).own_loss is not Model.own_loss
        self.average = copy.deepcopy(model).requires_grad_(False) if config.ema_decay > 0.0 else None
        # Parameters and buffers of the average and of the model, side by side: found once, for speed.
        self._pairs: tuple[list[list[Tensor]], list[list[Tensor]]] | None = None

    @property
    def best_weights(self) -> LearnedPotential:
        """The model to keep: the averaged one where there is one."""
        return self.model if self.average is None else self.average

    def refresh_statistics(self) -> None:
        """Batch-norm statistics of the weights to keep, from the last batches that were trained on."""
        kept = self.best_weights
        if not has_batch_norm(kept):
            return
        loader = self.trainer.train_dataloader
        assert loader is not None
        steps = range(max(0, self.global_step - N_STATISTICS_BATCHES), self.global_step)
        was_training = kept.training
        kept.eval()
        estimate_statistics(kept, (self._arguments_at(step, loader) for step in steps))
        kept.train(was_training)

    def _arguments_at(self, step: int, loader: Any) -> tuple[System, NeighborList]:
        batch = collate([loader.dataset[index] for index in loader.batch_sampler.batch_at(step)])
        batch = self._turned(batch.to(self.device), step)
        return batch.system, batch.neighbors

    def _turned(self, batch: Sample, step: int) -> Sample:
        """As it is, or turned at random where the model needs to learn that from examples."""
        if not self.rotate:
            return batch
        generator = torch.Generator().manual_seed(self._key(step))
        return rotated(batch, generator, self.config.rotation_axis)

    def _key(self, step: int) -> int:
        return self.config.seed * 1_000_003 + step

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        # One "epoch" is the stretch between two validations; count its batches on from here.
        loader = self.trainer.train_dataloader
        assert loader is not None
        loader.batch_sampler.first_step = self.global_step

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        _seed(self._key(self.global_step), self.device)
        batch = self._turned(batch, self.global_step)
        model, system = self.model, batch.system
        scale = model.force_scale
        if self.has_own_loss:
            graph = build_graph(system, batch.neighbors, model.request, dtype=model.dtype)
            progress = self.global_step / self.config.max_steps
            own = model.model.own_loss(graph, (batch.forces / scale).to(model.dtype), progress)
            if own is not None:
                return own
        return self.loss(model(system, batch.neighbors), batch)

    def loss(self, prediction: Prediction, batch: Sample) -> Tensor:
        """The weighted sum of the errors of all that the model gives."""
        config, system, scale = self.config, batch.system, self.model.force_scale
        weights = None
        if system.fixed is not None and config.fixed_atom_weight != 1.0:
            weights = torch.where(system.fixed, config.fixed_atom_weight, 1.0)
        reference = batch.forces / scale
        loss = force_loss(prediction.forces / scale, reference, config.force_loss, weights)
        direct = prediction.direct_forces
        if direct is not None:
            loss = loss + config.direct_weight * force_loss(
                direct / scale, reference, config.force_loss, weights
            )
        elif not prediction.conservative:
            direct = prediction.forces
        if direct is not None and config.net_force_weight > 0.0:
            penalty = net_force_penalty(direct / scale, system.system_index, system.n_systems)
            loss = loss + config.net_force_weight * penalty
        if prediction.energy is not None and config.energy_weight > 0.0:
            n_atoms = system.atoms_per_system
            error = energy_loss(
                prediction.energy / scale, batch.energies / scale, n_atoms, config.energy_loss
            )
            loss = loss + config.energy_weight * error
        if prediction.stress is not None and config.stress_weight > 0.0:
            error = stress_loss(prediction.stress, batch.stresses, system.volume / system.atoms_per_system)
            loss = loss + config.stress_weight * error / scale
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        # By the weights alone: the vectors of edges, by which conservative forces are taken, are leaves too.
        weights = [p for p in self.model.parameters() if p.requires_grad]
        torch.autograd.backward(loss, *args, **{**kwargs, "inputs": weights})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is None:
            return
        # A fresh average would remember the random start for 1/(1−decay) steps: warm it up.
        decay = min(self.config.ema_decay, (1.0 + self.global_step) / (10.0 + self.global_step))
        if self._pairs is None:
            self._pairs = (
                [list(model.parameters()) for model in (self.average, self.model)],
                [list(model.buffers()) for model in (self.average, self.model)],
            )
        (kept, now), (means, latest) = self._pairs
        with torch.no_grad():
            torch._foreach_lerp_(kept, now, 1.0 - decay)
            torch._foreach_copy_(means, latest)  # running statistics are averages already

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """Learning rate over its start value after ``step`` steps."""
        config = self.config
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        floor = min(1.0, config.learning_rate_final / self.learning_rate)
        done = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
        if config.schedule == "cosine":
            return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
        return float(floor**done)


def _seed(key: int, device: torch.device) -> None:
    """Start the random numbers of a step; ``torch.manual_seed`` takes milliseconds without a GPU."""
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)
