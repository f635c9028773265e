"""DCF against a plain transcription, its axes, its two stages, and what turns with the structure."""

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
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import dcf
from kinetograph.models.dcf import DCF, PRESETS, internal_axes
from kinetograph.rotations import random_rotations
from kinetograph.system import System, batch

FORMS = ("network", "least-squares")
SMALL: dict[str, Any] = {
    "width": 7,
    "n_layers": 2,
    "n_axes": 4,
    "n_radial": 3,
    "zetas": [1.0, 4.0],
    "n_angular": 1,
}
RIDGE = 0.01


def potential_of(form: str, *, cutoff: float = 3.7, **arguments: Any) -> LearnedPotential:
    """A small model in double precision with every weight and statistic random."""
    made = LearnedPotential(DCF([1, 6, 8], cutoff=cutoff, form=form, **{**SMALL, **arguments}))
    made = made.double().eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.4)
        made.model.feature_mean.normal_(0.0, 0.3)
        made.model.feature_std.uniform_(0.3, 2.0)
        made.model.fingerprints.shortest.fill_(0.9)
        made.force_scale.fill_(1.7)
    return made


def methanol() -> ase.Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def crystal() -> ase.Atoms:
    """A skewed cell narrower than the cutoff: images of one atom are among the nearest of another."""
    atoms = molecule("H2O")
    atoms.set_cell([[3.1, 0, 0], [0.7, 3.3, 0], [-0.5, 0.4, 3.5]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=4)
    atoms.wrap()
    return atoms


def graph_of(potential: LearnedPotential, atoms: ase.Atoms) -> Graph:
    system = System.from_ase(atoms)
    return build_graph(
        system, neighbors_for(system, potential.request), potential.request, dtype=potential.dtype
    )


def forces_of(potential: LearnedPotential, atoms: ase.Atoms) -> np.ndarray:
    system = System.from_ase(atoms)
    with torch.no_grad():
        return potential(system, neighbors_for(system, potential.request)).forces.numpy()


def turned(atoms: ase.Atoms, rotation: np.ndarray) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.positions = atoms.positions @ rotation.T
    atoms.set_cell(atoms.cell.array @ rotation.T)
    return atoms


ROTATION = random_rotations(1, torch.Generator().manual_seed(3))[0].numpy()


# ---- an independent transcription, one atom at a time ----------------------------------------------


def network(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    for layer in range(SMALL["n_layers"] + 1):
        x = np.tanh(x) if layer else x
        x = weights[f"{name}.{2 * layer}.weight"] @ x + weights[f"{name}.{2 * layer}.bias"]
    return x


def plain_dcf(potential: LearnedPotential, atoms: ase.Atoms) -> np.ndarray:
    w = {name: value.numpy() for name, value in potential.model.state_dict().items()}
    cutoff, n_axes = potential.request.cutoff, SMALL["n_axes"]
    # The fingerprints have a transcription of their own in the tests of ``nn.fingerprints``.
    features = potential.model.fingerprints(graph_of(potential, atoms)).numpy()
    reach = [range(-4, 5) if periodic else range(1) for periodic in atoms.pbc]
    forces = []
    for i, z in enumerate(atoms.numbers):
        vectors = [
            atoms.positions[j] + np.array(cell) @ atoms.cell.array - atoms.positions[i]
            for j in range(len(atoms))
            for cell in itertools.product(*reach)
            if j != i or any(cell)
        ]
        near = sorted((r for r in vectors if np.linalg.norm(r) < cutoff), key=np.linalg.norm)[:n_axes]
        axes = np.zeros((n_axes, 3))
        for k, r in enumerate(near):
            axes[k] = r / np.linalg.norm(r)
        element = [1, 6, 8].index(z)
        g = (features[i] - w["feature_mean"][element]) / w["feature_std"][element]
        p = network(w, f"projections.networks.{element}", g)
        p[len(near) :] = 0.0
        if potential.model.form == "network":
            forces.append(network(w, f"rotation.networks.{element}", np.concatenate([p, axes.ravel()])))
        else:
            # the ridge as three more equations √ε F = 0
            a = np.concatenate([axes, math.sqrt(RIDGE) * np.eye(3)])
            forces.append(np.linalg.lstsq(a, np.concatenate([p, np.zeros(3)]), rcond=None)[0])
    return float(potential.force_scale) * np.array(forces)


@pytest.mark.parametrize("atoms", [methanol(), molecule("OH"), crystal()], ids=["methanol", "OH", "crystal"])
@pytest.mark.parametrize("form", FORMS)
def test_forces_equal_a_plain_transcription(form: str, atoms: ase.Atoms) -> None:
    potential = potential_of(form, ridge=RIDGE)
    slow = plain_dcf(potential, atoms)
    assert np.abs(slow).max() > 0.1
    np.testing.assert_allclose(forces_of(potential, atoms), slow, rtol=1e-10, atol=1e-10 * np.abs(slow).max())


# ---- axes ------------------------------------------------------------------------------------------


def test_axes_swap_where_neighbours_swap_and_forces_jump() -> None:
    def water(stretch: float) -> ase.Atoms:
        # apart by more than the tolerance within which neighbours count as tied
        return ase.Atoms("OCO", positions=[[0, 0, 0], [1.2 + stretch, 0, 0], [0, 1.2 - stretch, 0]])

    for form in FORMS:
        potential = potential_of(form)
        before, after = water(-1e-4), water(1e-4)
        axes, _ = internal_axes(graph_of(potential, before), 2)
        swapped, _ = internal_axes(graph_of(potential, after), 2)
        torch.testing.assert_close(axes[0], swapped[0].flip(0), rtol=0, atol=1e-12)
        old, new = forces_of(potential, before)[0], forces_of(potential, after)[0]
        assert np.abs(new - old).max() > 0.05 * np.abs(old).max()
        assert "smoothness" not in potential.exact


def test_tied_neighbours_share_the_mean_of_their_unit_vectors() -> None:
    potential = potential_of("least-squares")
    axes, there = internal_axes(graph_of(potential, molecule("H2O")), 3)
    h1, h2 = molecule("H2O").positions[1:] - molecule("H2O").positions[0]
    bisector = (h1 / np.linalg.norm(h1) + h2 / np.linalg.norm(h2)) / 2
    np.testing.assert_allclose(axes[0], [bisector, bisector, np.zeros(3)], atol=1e-12)
    assert there[0].tolist() == [True, True, False]
    methane = molecule("CH4")
    methane.positions[1] *= 1.0 + 1e-8  # tied but for rounding
    np.testing.assert_allclose(forces_of(potential, methane)[0], 0.0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_no_order_of_the_atoms_decides_between_tied_neighbours(form: str) -> None:
    potential, order = potential_of(form), [3, 0, 4, 2, 1]
    atoms = molecule("CH4")
    atoms.positions[4] *= 1.01
    np.testing.assert_allclose(
        forces_of(potential, atoms[order]), forces_of(potential, atoms)[order], atol=1e-12
    )


# ---- what turns with the structure -----------------------------------------------------------------


def test_projections_are_invariant() -> None:
    potential = potential_of("network")
    found = []
    for atoms in (crystal(), turned(crystal(), ROTATION), turned(crystal(), -ROTATION)):
        graph = graph_of(potential, atoms)
        _, there = internal_axes(graph, SMALL["n_axes"])
        found.append(potential.model.project(graph, there))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-12)


def test_least_squares_turn_with_the_structure_and_the_network_does_not() -> None:
    for form in FORMS:
        for rotation in (ROTATION, -ROTATION):
            potential = potential_of(form)
            forces = forces_of(potential, crystal()) @ rotation.T
            error = np.abs(forces_of(potential, turned(crystal(), rotation)) - forces).max()
            if form == "least-squares":
                assert error < 1e-12
                assert {"rotation", "reflection"} <= potential.exact
            else:
                assert error > 0.05 * np.abs(forces).max()
                assert not {"rotation", "reflection"} & potential.exact


def test_flat_molecule_stays_flat() -> None:
    atoms = molecule("C2H4")
    forces = forces_of(potential_of("least-squares"), atoms)
    flat = int(np.ptp(atoms.positions, axis=0).argmin())
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(forces[:, flat], 0.0, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_isolated_atom_feels_nothing(form: str) -> None:
    assert (forces_of(potential_of(form), ase.Atoms("O")) == 0).all()


# ---- training --------------------------------------------------------------------------------------


def test_first_stage_of_the_networks_is_the_error_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the turn held still the loss is that of the definitions."""
    potential = potential_of("network")
    graph = graph_of(potential, molecule("H2O"))  # its atoms have two axes of four
    forces = torch.randn(graph.n_atoms, 3, dtype=torch.float64)
    half_turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    monkeypatch.setattr(dcf, "rotations_of", lambda q: half_turn.expand(len(q), 3, 3))
    model = potential.model
    axes, there = internal_axes(graph, SMALL["n_axes"])
    true = torch.einsum("nka,na->nk", axes, forces)
    alone = (model.project(graph, there) - true)[there].abs().mean()
    again = (model.compose(true, axes @ half_turn, there, graph) - forces @ half_turn).abs().mean()
    torch.testing.assert_close(model.own_loss(graph, forces, 0.0), alone + again)


def test_first_stage_turns_axes_and_forces_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composition that is exactly covariant has no error on environments turned at random."""
    potential = potential_of("network")
    graph = graph_of(potential, methanol())
    forces = torch.randn(graph.n_atoms, 3, dtype=torch.float64)

    def exact(projections: torch.Tensor, axes: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.linalg.lstsq(axes, projections.unsqueeze(2)).solution[:, :, 0]

    axes, there = internal_axes(graph, SMALL["n_axes"])
    true = torch.einsum("nka,na->nk", axes, forces)
    alone = (potential.model.project(graph, there) - true).abs().mean()
    monkeypatch.setattr(potential.model, "compose", exact)
    torch.testing.assert_close(potential.model.own_loss(graph, forces, 0.0), alone, rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_second_stage_is_the_usual_loss(form: str) -> None:
    model = potential_of(form, apart=0.3).model
    graph = graph_of(potential_of(form), methanol())
    forces = torch.zeros(graph.n_atoms, 3)
    assert model.own_loss(graph, forces, 0.29) is not None
    assert model.own_loss(graph, forces, 0.3) is None


def test_features_are_standardised_by_element() -> None:
    potential = potential_of("network")
    graphs = [graph_of(potential, atoms) for atoms in (methanol(), crystal(), molecule("CH3CH2OH"))]
    model = potential.model
    model.fit_statistics(graphs, [])
    shortest = min(float(graph.distances.min()) for graph in graphs)
    assert float(model.fingerprints.shortest) == pytest.approx(shortest)
    features = torch.cat([model.fingerprints(graph) for graph in graphs])
    numbers = torch.cat([graph.atomic_numbers for graph in graphs])
    for slot, z in enumerate((1, 6, 8)):
        scaled = (features[numbers == z] - model.feature_mean[slot]) / model.feature_std[slot]
        torch.testing.assert_close(scaled.mean(0), torch.zeros_like(scaled[0]), rtol=0, atol=1e-9)
        spread = scaled.std(0, correction=0)
        constant = features[numbers == z].std(0, correction=0) < 1e-4
        torch.testing.assert_close(spread[~constant], torch.ones_like(spread[~constant]))
        assert (model.feature_std[slot][constant] == 1).all()


def test_statistics_of_nothing_leave_the_model_usable() -> None:
    potential = potential_of("network")
    potential.model.fit_statistics([graph_of(potential, ase.Atoms("O"))], [])
    assert np.isfinite(forces_of(potential, methanol())).all()


@pytest.mark.parametrize("form", FORMS)
def test_both_stages_learn_the_force_between_two_atoms(form: str, rng: np.random.Generator) -> None:
    """Pairs at random distance and direction, first the networks apart, then one after the other."""
    torch.manual_seed(0)
    potential = LearnedPotential(DCF([18], cutoff=6.0, form=form, width=32, n_axes=2))
    model = potential.model

    def pairs() -> tuple[Graph, torch.Tensor]:
        direction = rng.normal(size=(64, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        distance = rng.uniform(3.0, 5.0, size=(64, 1))
        frames = [ase.Atoms("Ar2", positions=[np.zeros(3), r]) for r in distance * direction]
        force = 2.0 * (distance - 4.0) * direction  # a spring of length 4 Å
        system = System.from_ase(frames)
        graph = build_graph(system, neighbors_for(system, model.request), model.request, dtype=torch.float32)
        return graph, torch.as_tensor(np.stack([force, -force], axis=1).reshape(-1, 3)).float()

    data = [pairs() for _ in range(12)]
    with pytest.warns(UserWarning, match=r"more neighbours within 6 Å than 1: .*n_axes is 2\) are zero"):
        model.fit_statistics([graph for graph, _ in data], [])
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    n_steps = 200
    for step in range(n_steps):
        graph, force = data[step % len(data)]
        loss = model.own_loss(graph, force, step / n_steps)
        if loss is None:
            assert step >= n_steps // 2
            loss = (model(graph, ("direct",)).forces - force).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    graph, force = pairs()
    with torch.no_grad():
        predicted = model(graph, ("direct",)).forces
    assert float((predicted * force).sum() / (predicted.norm() * force.norm())) > 0.95


# ---- the rest --------------------------------------------------------------------------------------


def test_conservative_forces_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"DCF has no conservative forces: .*jump when two neighbours swap"):
        DCF([1], cutoff=4.0, forces="both")


@pytest.mark.parametrize(
    "wrong", [{"form": "linear"}, {"n_axes": 0}, {"ridge": 0.0}, {"apart": 1.5}, {"n_layers": 0}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((UserError, ValueError), match=r"unknown form|must be"):
        DCF([1], cutoff=4.0, **wrong)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_finite_forces_in_single_precision(name: str) -> None:
    torch.manual_seed(0)
    potential = LearnedPotential(DCF([1, 6, 8], cutoff=5.0, **PRESETS[name].hyperparameters)).eval()
    together = batch([System.from_ase(atoms) for atoms in (methanol(), ase.Atoms("O"), crystal())])
    forces = potential(together, neighbors_for(together, potential.request)).forces
    assert torch.isfinite(forces).all()
    assert forces.abs().max() > 1e-3
