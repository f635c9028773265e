"""The Lightning module: one model, its averaged twin, loss, optimiser and schedule."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning
import torch
from torch import Tensor

from kinetograph.data.dataset import Sample
from kinetograph.potential import DirectModel
from kinetograph.training.augmentation import rotated
from kinetograph.training.losses import force_l1, net_force_penalty
from kinetograph.training.settings import OptimizerSettings


class ForceTraining(lightning.LightningModule):
    """Fits a direct-force model to labelled structures.

    Errors in the loss are in units of the model's ``force_scale``. What is random in a step
    (rotation, dropout) is keyed by (seed, step), so that a resumed run takes the same steps.
    """

    def __init__(self, model: DirectModel, config: OptimizerSettings, *, rotate: bool) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.rotate = rotate
        self.average = copy.deepcopy(model).requires_grad_(False) if config.ema_decay > 0.0 else None

    @property
    def best_weights(self) -> DirectModel:
        """The model to keep: the averaged one where there is one."""
        return self.model if self.average is None else self.average

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def on_train_epoch_start(self) -> None:
        # One "epoch" is the stretch between two validations; count its batches on from here.
        loader = self.trainer.train_dataloader
        assert loader is not None
        loader.batch_sampler.first_step = self.global_step

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        key = self.config.seed * 1_000_003 + self.global_step
        torch.manual_seed(key)
        if self.rotate:
            batch = rotated(batch, torch.Generator().manual_seed(key))
        predicted = self.model(batch.system, batch.neighbors).forces / self.model.force_scale
        loss = force_l1(predicted, batch.forces / self.model.force_scale)
        if self.config.net_force_weight > 0.0:
            system = batch.system
            penalty = net_force_penalty(predicted, system.system_index, system.n_systems)
            loss = loss + self.config.net_force_weight * penalty
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is None:
            return
        # A fresh average would remember the random start for 1/(1−decay) steps: warm it up.
        decay = min(self.config.ema_decay, (1.0 + self.global_step) / (10.0 + self.global_step))
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(now, 1.0 - decay)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """Learning rate over its start value after ``step`` steps."""
        config = self.config
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        floor = config.learning_rate_final / config.learning_rate
        done = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps))
        if config.schedule == "cosine":
            return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done))
        return float(floor**done)
