"""SchNet against PyTorch Geometric's, its sizes, and the derivatives that training needs."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.schnet import PRESETS, SchNet
from kinetograph.system import System

ELEMENTS = [1, 6, 8]
CUTOFF = 4.0


def model(forces: str = "conservative", **arguments: Any) -> LearnedPotential:
    """A small SchNet in double precision with every weight random."""
    torch.manual_seed(3)
    sizes = {"width": 12, "n_filters": 10, "n_layers": 3, "n_radial": 9, "element_table": 20} | arguments
    potential = LearnedPotential(SchNet(ELEMENTS, cutoff=CUTOFF, forces=forces, **sizes)).double().eval()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.normal_(0.0, 0.3)
    return potential


def crystal() -> ase.Atoms:
    """A skewed cell narrower than the cutoff, so that most pairs interact through several images."""
    atoms = molecule("CO2") + molecule("H2O")
    atoms.positions[3:] += [0.4, 2.2, 1.9]
    atoms.set_cell([[3.9, 0, 0], [0.7, 4.3, 0], [-0.5, 0.4, 5.6]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=4)
    return atoms


def ethanol() -> ase.Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


STRUCTURES = {"molecule": ethanol, "crystal": crystal}


def edges_by_images(atoms: ase.Atoms) -> list[tuple[int, int, np.ndarray]]:
    """Receiver, sender and offset of the sender's image, by looking at 7³ images of every pair."""
    images = itertools.product(range(-3, 4), repeat=3) if atoms.pbc.all() else [(0, 0, 0)]
    offsets = [np.array(image) @ np.asarray(atoms.cell) for image in images]
    edges = []
    for i, j in itertools.product(range(len(atoms)), repeat=2):
        for offset in offsets:
            d = float(np.linalg.norm(atoms.positions[j] + offset - atoms.positions[i]))
            if 0.0 < d < CUTOFF:
                edges.append((i, j, offset))
    return edges


def reference_of(potential: LearnedPotential, atoms: ase.Atoms) -> Any:
    """PyTorch Geometric's SchNet with the potential's weights, on edges found by ``edges_by_images``."""
    geometric = pytest.importorskip("torch_geometric.nn.models.schnet")
    ours = potential.model
    interaction = ours.interactions[0]
    edges = edges_by_images(atoms)
    index = torch.tensor([[j for _, j, _ in edges], [i for i, _, _ in edges]])
    offset = torch.as_tensor(np.array([o for _, _, o in edges]))

    def graph(positions: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return index, (positions[index[0]] + offset - positions[index[1]]).norm(dim=1)

    theirs = geometric.SchNet(
        hidden_channels=ours.embedding.weight.shape[1],
        num_filters=interaction.to_filters.out_features,
        num_interactions=len(ours.interactions),
        num_gaussians=ours.basis.n_functions,
        cutoff=CUTOFF,
        interaction_graph=graph,
    ).double()
    # Its constants are rounded to single precision when it is made.
    theirs.distance_expansion.offset = (
        CUTOFF / (ours.basis.n_functions - 1) * torch.arange(ours.basis.n_functions).double()
    )
    theirs.distance_expansion.coeff = -0.5 * ((ours.basis.n_functions - 1) / CUTOFF) ** 2
    for module in theirs.modules():
        if isinstance(module, geometric.ShiftedSoftplus):
            module.shift = math.log(2.0)

    pairs = [(theirs.lin1, ours.energy_head.mlp[0]), (theirs.lin2, ours.energy_head.mlp[2])]
    for a, b in zip(theirs.interactions, ours.interactions, strict=True):
        pairs += [(a.mlp[0], b.filter[0]), (a.mlp[2], b.filter[2]), (a.conv.lin1, b.to_filters)]
        pairs += [(a.conv.lin2, b.after[0]), (a.lin, b.after[2])]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    with torch.no_grad():
        theirs.embedding.weight[: len(ours.embedding.weight)] = ours.embedding.weight
    return theirs


# ---- against another program -----------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("n_filters", [10, None])
def test_energy_and_forces_equal_those_of_pytorch_geometric(name: str, n_filters: int | None) -> None:
    potential, atoms = model(n_filters=n_filters), STRUCTURES[name]()
    system = System.from_ase(atoms)
    ours = potential(system, neighbors_for(system, potential.request))
    positions = torch.as_tensor(atoms.positions).requires_grad_(True)
    energy = reference_of(potential, atoms)(torch.as_tensor(atoms.numbers), positions).sum()
    forces = -torch.autograd.grad(energy, positions)[0]
    energy = energy.detach()
    assert float(forces.abs().max()) > 1e-2
    assert float(ours.energy) == pytest.approx(float(energy), rel=1e-10)
    torch.testing.assert_close(ours.forces, forces, rtol=1e-10, atol=1e-10 * float(forces.abs().max()))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


@pytest.mark.parametrize("name", STRUCTURES)
def test_direct_forces_are_a_scalar_along_every_edge(name: str) -> None:
    """Features from PyTorch Geometric's blocks, then the head one edge at a time."""
    potential, atoms = model("both"), STRUCTURES[name]()
    potential.use_forces("direct")
    theirs = reference_of(potential, atoms)
    edges = edges_by_images(atoms)
    with torch.no_grad():
        index, distances = theirs.interaction_graph(torch.as_tensor(atoms.positions), None)
        radial = theirs.distance_expansion(distances)
        h = theirs.embedding(torch.as_tensor(atoms.numbers))
        for block in theirs.interactions:
            h = h + block(h, index, distances, radial)
    x = h.numpy()
    w = {name: value.numpy() for name, value in potential.model.force_head.state_dict().items()}
    expected = np.zeros((len(atoms), 3))
    for (i, j, offset), basis in zip(edges, radial.numpy(), strict=True):
        r = atoms.positions[j] + offset - atoms.positions[i]
        d = np.linalg.norm(r)
        hidden = w["from_nodes.weight"] @ (x[i] + x[j]) + 2 * w["from_nodes.bias"]
        hidden = silu(hidden + w["from_edge.weight"] @ basis + w["from_edge.bias"])
        hidden = silu(w["scalar.1.weight"] @ hidden + w["scalar.1.bias"])
        scalar = float((w["scalar.3.weight"] @ hidden + w["scalar.3.bias"])[0])
        expected[i] += scalar * 0.5 * (math.cos(math.pi * d / CUTOFF) + 1.0) * r / d
    system = System.from_ase(atoms)
    with torch.no_grad():
        forces = potential(system, neighbors_for(system, potential.request)).forces.numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(forces, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


# ---- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("schnet", 455_809), ("schnet-oc20", 9_088_513), ("schnet-mdsim", 117_953)],
)
def test_presets_have_the_size_of_the_published_models(preset: str, expected: int) -> None:
    made = SchNet(ELEMENTS, cutoff=6.0, forces=PRESETS[preset].forces, **PRESETS[preset].hyperparameters)
    assert sum(p.numel() for p in made.parameters()) == expected


def test_every_preset_can_be_built_and_lists_hyperparameters_only() -> None:
    for preset in PRESETS.values():
        assert not {"cutoff", "forces", "elements"} & set(preset.hyperparameters)
        assert SchNet([8], cutoff=5.0, forces=preset.forces, **preset.hyperparameters).heads


# ---- derivatives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cutoff_function", ["cosine", "none"])
def test_forces_are_the_finite_differences_of_the_energy(cutoff_function: str) -> None:
    potential, atoms = model(cutoff_function=cutoff_function), crystal()
    if cutoff_function == "none":
        atoms = ethanol()  # the crystal has pairs near the cutoff, where this energy jumps

    def energy(moved: ase.Atoms) -> float:
        system = System.from_ase(moved)
        return float(potential(system, neighbors_for(system, potential.request)).energy)

    system = System.from_ase(atoms)
    forces = potential(system, neighbors_for(system, potential.request)).forces
    step = 1e-5
    for atom, axis in ((0, 0), (2, 1), (len(atoms) - 1, 2)):
        energies = []
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(energy(moved))
        slope = (energies[1] - energies[0]) / (2 * step)
        # Truncation is of order step², rounding of order 1e-16 × energy / step.
        assert float(forces[atom, axis]) == pytest.approx(-slope, abs=1e-7)


def test_a_loss_on_forces_has_the_right_gradient() -> None:
    potential, atoms = model("both", n_layers=2).train(), crystal()
    system = System.from_ase(atoms)
    neighbors = neighbors_for(system, potential.request)
    target = torch.linspace(-1.0, 1.0, 3 * len(atoms), dtype=torch.float64).reshape(-1, 3)

    def loss() -> torch.Tensor:
        prediction = potential(system, neighbors)
        both = torch.stack([prediction.forces, prediction.direct_forces])
        return (both - target).square().sum()

    loss().backward()
    parameters = dict(potential.model.named_parameters())
    del parameters["energy_head.mlp.2.bias"]  # a constant energy has no force
    assert all(torch.isfinite(p.grad).all() for p in parameters.values())
    for name in ("embedding.weight", "interactions.0.filter.0.weight", "energy_head.mlp.0.bias"):
        weight, gradient = parameters[name].data.view(-1), parameters[name].grad.view(-1)
        k = int(gradient.abs().argmax())
        values = []
        for sign in (-1, 1):
            weight[k] += sign * 1e-5
            values.append(float(loss().detach()))
            weight[k] -= sign * 1e-5
        assert float(gradient[k]) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-6), name


# ---- heads -----------------------------------------------------------------------------------------


def test_the_heads_of_both_are_those_of_each_alone() -> None:
    both = model("both")
    system = System.from_ase(crystal())
    for head in ("conservative", "direct"):
        alone = model(head)
        missing = alone.model.load_state_dict(both.model.state_dict(), strict=False)
        assert not missing.missing_keys
        both.use_forces(head)
        expected = alone(system, neighbors_for(system, alone.request)).forces
        got = both(system, neighbors_for(system, both.request)).forces
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_direct_forces_see_one_cutoff_farther_than_energies() -> None:
    """A chain of atoms: the last one in reach changes the force on the first, the next one does not."""
    for forces, links in (("conservative", 2), ("direct", 3)):
        potential = model(forces, n_layers=2)
        assert potential.request.receptive_field == links * CUTOFF

        def first(n_moved: int, potential: LearnedPotential = potential) -> torch.Tensor:
            atoms = ase.Atoms("O8", positions=[[3.0 * k, 0.2 * (k % 2), 0] for k in range(8)])
            atoms.positions[n_moved, 1] += 0.3
            system = System.from_ase(atoms)
            graph = build_graph(system, neighbors_for(system, potential.request), potential.request)
            with torch.no_grad():
                outputs = potential.model(graph, potential.model.heads)
            return outputs.energies[0] if outputs.forces is None else outputs.forces[0]

        assert (first(links) - first(links + 1)).abs().max() > 1e-12
        torch.testing.assert_close(first(links + 1), first(links + 2), rtol=0, atol=1e-15)


def test_without_a_cutoff_function_forces_jump_and_the_model_says_so() -> None:
    for function, smooth in (("cosine", True), ("none", False)):
        potential = model("both", cutoff_function=function)
        for head in ("conservative", "direct"):
            potential.use_forces(head)
            forces = []
            for shift in (-1e-7, 1e-7):
                atoms = ase.Atoms("C2O", positions=[[0, 0, 0], [1.5, 0, 0], [0, CUTOFF + shift, 0]])
                system = System.from_ase(atoms)
                forces.append(potential(system, neighbors_for(system, potential.request)).forces.detach())
            assert (float((forces[0] - forces[1]).abs().max()) < 1e-5) == smooth
            assert ("smoothness" in potential.exact) == smooth


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_radial": 1}, "at least two Gaussians"),
        ({"width": 1}, "at least two features"),
        ({"cutoff_function": "cosin"}, "unknown cutoff_function 'cosin'"),
        ({"element_table": 8}, "no element O"),
        ({"forces": "indirect"}, "unknown kind of forces"),
    ],
)
def test_impossible_sizes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SchNet(ELEMENTS, **({"cutoff": 5.0} | arguments))
