"""What tests of forms for running share: a batch of structures, models, what they say, how far off it is."""

from __future__ import annotations

from typing import Any

import ase
import numpy as np
import torch

from kinetograph.bonds import with_bonds
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.potential import Prediction
from kinetograph.system import System


def water(n: int, seed: int, edge: float) -> ase.Atoms:
    """Molecules on a jittered lattice in a periodic box."""
    rng = np.random.default_rng(seed)
    shape = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    per_side = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(per_side)] * 3), axis=-1).reshape(-1, 3)[:n]
    positions = []
    for place in grid * (edge / per_side):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        positions.append(place + shape @ rotation + rng.uniform(-0.1, 0.1, (3, 3)))
    return ase.Atoms([8, 1, 1] * n, np.concatenate(positions), cell=[edge] * 3, pbc=True)


def batch() -> System:
    """A liquid, a molecule, a lone atom and a cell much smaller than the cutoff."""
    small = ase.Atoms([8, 1, 1], [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[2.9, 3.1, 3.3], pbc=True)
    return System.from_ase([water(20, 1, 8.5), water(1, 2, 5.0), ase.Atoms("O"), small])


def model(architecture: str, forces: str, *, double: bool = False, **options: Any) -> LearnedPotential:
    """With weights of which none is zero; in double precision it is the oracle."""
    torch.manual_seed(5)
    hyperparameters = {"cutoff": 4.0, "forces": forces, **options}
    potential = build(architecture, [1, 8], hyperparameters)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        potential.force_scale.fill_(0.7)
    return (potential.double() if double else potential).eval()


def predict(potential: LearnedPotential, system: System, *, also_direct: bool = False) -> Prediction:
    """What it says of a batch."""
    system = with_bonds(system, potential.request.bond_rule)
    potential.also_direct = also_direct
    with torch.no_grad():
        prediction: Prediction = potential(system, neighbors_for(system, potential.request, skin=0.4))
    return prediction


def error(ours: torch.Tensor | None, exact: torch.Tensor | None) -> float:
    """Relative, over all components; what is not known must not be known to either."""
    assert ours is not None
    assert exact is not None
    known = torch.isfinite(exact)
    assert torch.equal(known, torch.isfinite(ours))
    return float((ours[known] - exact[known]).norm() / exact[known].norm())


def learn(potential: LearnedPotential, system: System, n_steps: int = 60) -> None:
    """Some steps towards the forces of springs, by which weights grow as they do in training."""
    neighbors = neighbors_for(system, potential.request)
    vectors = system.positions[neighbors.neighbor] - system.positions[neighbors.center]
    pulls = torch.where(neighbors.shift.any(dim=1, keepdim=True), 0.0, torch.sin(2.0 * vectors))
    forces = torch.zeros_like(system.positions).index_add(0, neighbors.center, pulls)
    potential.train()
    optimizer = torch.optim.Adam(potential.parameters(), lr=2e-3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (potential(system, neighbors).forces - forces).square().mean().backward()
        optimizer.step()
    potential.eval()


def form_of(potential: LearnedPotential) -> Any:
    """For running on a CPU."""
    with torch.no_grad():
        return potential._inference_form()
