"""Forms for a GPU against the plain forward pass in double precision.

Without a GPU they run on a CPU, with the plain forms of the operators.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from forms import batch, error, model, predict

from kinetograph import kernels
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.potential import Prediction

DIMENET = {"width": 16, "n_layers": 2, "triplet_width": 8, "readout_width": 16, "readout_init": "glorot"}
GEMNET = {
    "width": 16,
    "edge_width": 16,
    "n_layers": 2,
    "triplet_width": 8,
    "triplet_bilinear": 8,
    "quadruplets": False,
}
CASES = [
    ("painn", "both", {"width": 20}),
    ("painn", "conservative", {"width": 16, "radial": "gaussian", "cutoff_function": "polynomial"}),
    ("painn", "direct", {"width": 16, "max_bond_separation": 2, "force_head": "gated"}),
    ("schnet", "both", {"width": 20, "n_layers": 2}),
    ("gamd", "direct", {"width": 24, "n_layers": 2}),
    ("gamd", "direct", {"width": 24, "n_layers": 2, "form": "code", "max_bond_separation": 1}),
    ("gamd", "direct", {"width": 24, "hidden_width": 16, "n_layers": 2, "form": "code"}),
    ("gamd", "direct", {"width": 24, "n_layers": 2, "form": "covariant"}),
    ("gnnff", "direct", {"width": 16, "edge_width": 8, "n_neighbors": 4, "nearest_required": False}),
    ("gnnff", "direct", {"width": 16, "edge_width": 8, "n_neighbors": 2, "normalization": "all"}),
    ("gnnff", "both", {"width": 16, "edge_width": 8}),
    ("forcenet", "direct", {"width": 16, "n_layers": 2}),
    ("dimenet", "both", {"width": 16, "n_layers": 2, "n_bilinear": 3}),
    ("dimenet", "conservative", {"width": 16, "n_layers": 1, "radial_filter": "ji"}),
    ("dimenet++", "conservative", {**DIMENET, "radial_filter": "ji"}),
    ("dimenet++", "conservative", {**DIMENET, "angle_grad": False}),
    ("dimenet++", "both", DIMENET),
    ("gemnet", "conservative", GEMNET),
    ("gemnet", "direct", GEMNET),
]


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision is asked of the form for a GPU, whether this is one or not."""
    monkeypatch.setattr(LearnedPotential, "_runs_on_gpu", True)
    monkeypatch.setattr(kernels, "triton_kernels", lambda: True)


DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]


def on_cpu(prediction: Prediction) -> Prediction:
    values = {field.name: getattr(prediction, field.name) for field in fields(prediction)}
    return Prediction(**{k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in values.items()})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("architecture", "forces", "options"), CASES, ids=str)
def test_a_form_for_a_gpu_says_what_the_model_says(
    architecture: str, forces: str, options: dict[str, Any], device: str
) -> None:
    fast = model(architecture, forces, **options)
    exact = model(architecture, forces, double=True, **options)
    with torch.no_grad():
        assert fast._gpu_form(batch(), fast.model.heads) is not None
        assert exact._gpu_form(batch(), fast.model.heads) is None
    system = batch()
    if options.get("n_neighbors") == 2:
        system = type(system).from_ase([system.to_ase()[k] for k in (0, 1, 3)])
    ours = on_cpu(predict(fast.to(device), system.to(device), also_direct=True))
    theirs = predict(exact, system, also_direct=True)
    assert error(ours.forces, theirs.forces) < 2e-5
    for name in ("energy", "stress", "direct_forces"):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
        if getattr(ours, name) is not None:
            assert error(getattr(ours, name), getattr(theirs, name)) < 2e-5, name


def test_a_form_is_made_anew_when_weights_change() -> None:
    potential, system = model("painn", "direct", width=16), batch()
    before = predict(potential, system).forces
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.mul_(1.1)
    assert error(predict(potential, system).forces, before) > 1e-2


def test_who_needs_more_than_a_running_form_gets_the_model() -> None:
    potential, system = model("painn", "direct", width=16), batch()
    neighbors = neighbors_for(system, potential.request)
    forces = potential(system, neighbors).forces
    assert forces.requires_grad  # by the weights
    potential.train()
    assert potential._gpu_form(system, ("direct",)) is None
    path = model("gnnff", "direct", n_neighbors=2, way_back=False)
    with torch.no_grad():
        assert path._gpu_form(system, ("direct",)) is None


def test_nuclei_nearer_than_tables_begin_are_left_to_the_model() -> None:
    potential, exact = model("painn", "both", width=16), model("painn", "both", width=16, double=True)
    atoms = batch().to_ase()[1]
    atoms.positions[1] = atoms.positions[0] + [0.2, 0.0, 0.0]
    system = type(batch()).from_ase(atoms)
    with pytest.warns(UserWarning, match="closer than 0.3 Å"):
        ours = predict(potential, system).forces
    assert error(ours, predict(exact, system).forces) < 1e-5
