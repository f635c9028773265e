"""Batch normalisation of the rows of a batch, and its statistics estimated for weights at rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kinetograph.kernels import plain_forms


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation; one row or none has no spread, and is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def has_batch_norm(module: nn.Module) -> bool:
    """Whether its answers depend on running statistics."""
    return any(isinstance(part, BatchNorm) for part in module.modules())


def estimate_statistics(module: nn.Module, batches: Iterable[tuple[object, ...]]) -> None:
    """The statistics of the batch norms of a module in evaluation, from calls of it with these arguments.

    The running statistics of training belong to weights that have moved on since: while these still
    move fast they are wrong by orders of magnitude (Y. Wu, J. Johnson, arXiv:2105.07576 (2021),
    section 3).
    """
    norms = [part for part in module.modules() if isinstance(part, BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    with torch.no_grad(), plain_forms():  # an inference form would pass the norms by
        for arguments in batches:
            module(*arguments)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
