"""The naive forms of ForceNet and of GAMD's program are these models."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch

from kinetograph.benchmark.naive import naive_form
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.models import build
from kinetograph.system import System


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("forcenet", {"shared_basis": False, "decoder_layer": True, "idle_energy_head": True}),
        ("forcenet", {"basis": "none"}),
        ("gamd", {"form": "code"}),
        ("gamd", {"form": "code", "length_basis": "distance"}),
    ],
    ids=str,
)
def test_naive_forms_are_the_model(architecture: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = (
        build(architecture, [1, 8], {"cutoff": 3.5, "width": 24, "n_layers": 2, **options}).double().eval()
    )
    with torch.no_grad():
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.add_(0.05 * torch.rand_like(tensor))
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 2.2
    liquid = ase.Atoms([8, 1, 1] * 9, grid + rng.uniform(-0.3, 0.3, grid.shape), cell=[6.6] * 3, pbc=True)
    system = System.from_ase([liquid, ase.Atoms("O")])
    graph = build_graph(system, neighbors_for(system, model.request), model.request, dtype=torch.float64)
    with torch.no_grad():
        exact = model.model(graph, ("direct",)).forces
        naive = naive_form(model.model)(graph)
    # Only the order of sums differs.
    assert float((naive - exact).norm() / exact.norm()) < 1e-10
