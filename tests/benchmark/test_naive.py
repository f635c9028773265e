"""Naive forms, which speed-ups are measured against, compute what their models do."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.benchmark.naive import naive_form
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.models import PRESETS, build
from kinetograph.nn.model import Model
from kinetograph.system import System


def model(preset: str, **options: Any) -> Model:
    """In double precision and evaluation mode, with weights and statistics of which none is zero."""
    sizes = PRESETS[preset]
    hyperparameters = {**sizes.hyperparameters, "forces": sizes.forces, "cutoff": 3.6, **options}
    made: Model = build(sizes.architecture, [1, 8], hyperparameters).double().eval().model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in made.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0, generator=generator)
            elif name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3, generator=generator)
    return made


def graph(made: Model) -> Graph:
    """A liquid's worth of molecules across a boundary, a molecule and a lone atom."""
    rng = np.random.default_rng(0)
    liquid = ase.Atoms(cell=[5.6, 5.9, 6.2], pbc=True)
    for corner in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0.0, 360.0)), rng.normal(size=3))
        water.positions += 2.9 * np.array(corner) + rng.uniform(-0.1, 0.1, 3)
        liquid += water
    system = System.from_ase([liquid, molecule("H2O2"), ase.Atoms("O")])
    return build_graph(system, neighbors_for(system, made.request), made.request)


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("gamd", {"width": 16, "n_layers": 2}),
        *(
            (preset, {"width": 12, "edge_width": 8, "n_layers": 2, "nearest_required": False, **options})
            for preset in ("gnnff", "gnnff-smooth", "gnnff-code", "gnnff-pyg")
            for options in ({}, {"updated_nodes": False})
        ),
    ],
    ids=str,
)
def test_a_naive_form_is_its_model(preset: str, options: dict[str, Any]) -> None:
    made = model(preset, **options)
    structures = graph(made)
    with torch.no_grad():
        expected = made(structures, ("direct",)).forces
        naive = naive_form(made)(structures)
    assert expected is not None
    assert float(expected.norm()) > 0.01
    # Sums of the same numbers in another order.
    assert float((naive - expected).norm() / expected.norm()) < 1e-10


def test_a_model_without_a_naive_form_is_refused() -> None:
    with pytest.raises(KeyError, match="GNNFF"):
        naive_form(model("gnnff-energy"))
