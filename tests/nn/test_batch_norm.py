"""Statistics of batch normalisation are those of the batches that they are estimated from."""

from __future__ import annotations

from typing import Any

import ase.build
import pytest
import torch
from torch import Tensor

from kinetograph.graph import neighbors_for
from kinetograph.models import build
from kinetograph.nn.batch_norm import BatchNorm, estimate_statistics
from kinetograph.system import System


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("forcenet", {"width": 16, "n_layers": 2}), ("gnnff", {"normalization": "sums", "n_neighbors": 3})],
)
def test_statistics_are_estimated_although_there_is_a_form_for_running(
    architecture: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    potential = build(architecture, [1, 6, 8], {"cutoff": 4.0, "forces": "direct", **options}).eval()
    atoms = ase.build.molecule("CH3CH2OH", vacuum=3.0)
    atoms.rattle(0.1, seed=1)
    system = System.from_ase([atoms])
    neighbors = neighbors_for(system, potential.request)
    seen: dict[BatchNorm, Tensor] = {}
    norms = [part for part in potential.modules() if isinstance(part, BatchNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, _: seen.update({module: inputs[0]}))
    estimate_statistics(potential, [(system, neighbors)])
    assert len(seen) == len(norms) > 0
    for norm, rows in seen.items():
        assert not norm.training
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, rows.mean(dim=0))
        torch.testing.assert_close(norm.running_var, rows.var(dim=0))
