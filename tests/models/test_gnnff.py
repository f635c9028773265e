"""GNNFF against PyTorch Geometric, against a plain transcription of its equations, its heads and its size."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import gnnff
from kinetograph.models.gnnff import GNNFF, PRESETS
from kinetograph.system import System, batch

SMALL = {"width": 9, "edge_width": 6, "n_layers": 2}
FORMS: dict[str, dict[str, Any]] = {
    "paper": {"n_neighbors": 4},
    "old nodes, no way back": {"n_neighbors": 5, "updated_nodes": False, "way_back": False},
    "code": dict(PRESETS["gnnff-code"].hyperparameters),
    "pyg": dict(PRESETS["gnnff-pyg"].hyperparameters),
    "smooth": dict(PRESETS["gnnff-smooth"].hyperparameters),
}


def potential_of(cutoff: float = 4.0, **arguments: Any) -> LearnedPotential:
    """A small model in double precision with every weight and statistic random.

    It makes do with the neighbours there are, so that small molecules and lone atoms can be given to it.
    """
    arguments = {"nearest_required": False, **arguments}
    made = LearnedPotential(GNNFF([1, 6, 8], cutoff=cutoff, **{**arguments, **SMALL})).double().eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.4)
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        for name, parameter in made.named_parameters():
            if name == "model.basis.widths":
                parameter.uniform_(0.3, 1.5)
            elif name == "model.basis.centers":
                parameter.uniform_(0.5, 3.5)
        made.force_scale.fill_(1.7)
    return made


def crystal() -> ase.Atoms:
    """Molecules in a skewed cell narrower than the cutoff, some across its boundary."""
    atoms = molecule("CO2") + molecule("H2O")
    atoms.positions[3:] += [0.4, 2.2, 1.9]
    atoms.set_cell([[3.9, 0, 0], [0.7, 4.3, 0], [-0.5, 0.4, 5.6]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=4)
    atoms.wrap()
    return atoms


def methanol() -> ase.Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def predict(potential: LearnedPotential, atoms: ase.Atoms) -> Any:
    system = System.from_ase(atoms)
    return potential(system, neighbors_for(system, potential.request))


def forces_of(potential: LearnedPotential, atoms: ase.Atoms) -> np.ndarray:
    with torch.no_grad():
        return predict(potential, atoms).forces.numpy()


# ---- an independent transcription, one atom, edge and triplet at a time ----------------------------

Slot = tuple[int, tuple[int, ...], np.ndarray]  # neighbour, its cell, vector to it


def slots_of(atoms: ase.Atoms, cutoff: float, n_nearest: int | None) -> list[list[Slot]]:
    """For each atom its neighbours: every image within the cutoff, or the nearest of them."""
    reach = [range(-4, 5) if periodic else range(1) for periodic in atoms.pbc]
    slots: list[list[Slot]] = []
    for a in range(len(atoms)):
        found: list[Slot] = []
        for b in range(len(atoms)):
            for cell in itertools.product(*reach):
                r = atoms.positions[b] + np.array(cell) @ atoms.cell.array - atoms.positions[a]
                if 0 < np.linalg.norm(r) < cutoff:
                    found.append((b, cell, r))
        found.sort(key=lambda slot: np.linalg.norm(slot[2]))
        slots.append(found[:n_nearest])  # there is no tie in the structures used
    return slots


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def ssp(x: np.ndarray) -> np.ndarray:
    return np.log(0.5 * np.exp(x) + 0.5)


def plain_gnnff(potential: LearnedPotential, atoms: ase.Atoms, **form: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eqs. (3), (5) and (8) with the explicit concatenations: direct forces and atomic energies."""
    w = {name: value.detach().numpy() for name, value in potential.model.state_dict().items()}
    cutoff = potential.request.cutoff
    radius = form.get("neighborhood") == "radius"
    slots = slots_of(atoms, cutoff, None if radius else form["n_neighbors"])

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        if f"{name}.running_mean" not in w:
            return x
        x = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gated(x: np.ndarray) -> np.ndarray:
        n = len(x) // 2
        return sigmoid(x[:n]) * np.tanh(x[n:])

    def envelope(r: np.ndarray) -> float:
        if not form.get("envelope"):
            return 1.0
        x = np.linalg.norm(r) / cutoff
        return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8  # DimeNet, eq. (8), p = 6

    def gaussians(r: np.ndarray) -> np.ndarray:
        n = SMALL["edge_width"]
        centers = np.linspace(0.0, form.get("gaussian_stop") or cutoff, n)
        widths = np.full(n, centers[1] - centers[0])
        if form.get("trainable_gaussians"):
            centers, widths = w["basis.centers"], w["basis.widths"]
        return np.exp(-((np.linalg.norm(r) - centers) ** 2) / (2 * widths**2))

    def embedding(z: int) -> np.ndarray:
        h = w["node_embedding.0.weight"][z if "element_table" in form else [1, 6, 8].index(z)]
        for layer in range(form.get("n_embedding_layers", 0)):
            h = linear(f"node_embedding.{2 * layer + 2}", ssp(h))
        return h

    h = [embedding(int(z)) for z in atoms.numbers]
    e = [[gaussians(r) for _, _, r in around] for around in slots]
    for l in range(SMALL["n_layers"]):
        p = f"node_blocks.{l}."
        new_h = []
        for i, around in enumerate(slots):
            total = np.zeros_like(h[i])
            for s, (_, _, r) in enumerate(around):
                c1 = np.concatenate([h[i], e[i][s]])
                total += gated(norm(p + "pair_norm", linear(p + "pair", c1))) * envelope(r)
            new_h.append(np.tanh(h[i] + norm(p + "sum_norm", total)))
        x = new_h if form.get("updated_nodes", True) else h
        p = f"edge_blocks.{l}."
        new_e = []
        for i, around in enumerate(slots):
            row = []
            for s, (j, to_j, _) in enumerate(around):
                c2 = gated(norm(p + "pair_norm", linear(p + "two_body", x[i] * x[j])))
                total = np.zeros_like(c2)
                for t, (k, to_k, r) in enumerate(slots[j]):
                    comes_back = k == i and all(a + b == 0 for a, b in zip(to_j, to_k, strict=True))
                    if comes_back and not form.get("way_back", True):
                        continue
                    c3 = np.concatenate([x[i], x[j], x[k], e[i][s], e[j][t]])
                    total += gated(norm(p + "triplet_norm", linear(p + "three_body", c3))) * envelope(r)
                row.append(np.tanh(e[i][s] + norm(p + "pair_gate_norm", c2) + norm(p + "sum_norm", total)))
            new_e.append(row)
        h, e = new_h, new_e

    forces, energies = np.zeros((len(atoms), 3)), np.zeros(len(atoms))
    for i, around in enumerate(slots):
        sum_of_edges = np.zeros(SMALL["edge_width"])
        for s, (_, _, r) in enumerate(around):
            sum_of_edges += e[i][s] * envelope(r)
            if "force_head.0.weight" in w:
                y = e[i][s]
                names = ["force_head.0", "force_head.2"]
                if form.get("force_network") == "even":
                    names.append("force_head.4")
                for n, name in enumerate(names):
                    y = linear(name, ssp(y) if n else y)
                from_neighbor = -r / np.linalg.norm(r)  # u_ij of the paper ends at the atom acted on
                sign = -1.0 if form.get("sign") == "attractive" else 1.0
                forces[i] += sign * float(y[0]) * envelope(r) * from_neighbor
        if "energy_head.mlp.0.weight" in w:
            y = linear("energy_head.mlp.0", np.concatenate([h[i], sum_of_edges]))
            energies[i] = linear("energy_head.mlp.2", y * sigmoid(y))[0]
    scale = float(potential.force_scale)
    return scale * forces, scale * energies


@pytest.mark.parametrize("atoms", [methanol(), crystal()], ids=["molecule", "crystal"])
@pytest.mark.parametrize("form", FORMS)
def test_forces_equal_a_plain_transcription_of_the_equations(form: str, atoms: ase.Atoms) -> None:
    potential = potential_of(**FORMS[form])
    fast = forces_of(potential, atoms)
    slow, _ = plain_gnnff(potential, atoms, **FORMS[form])
    assert np.abs(slow).max() > 0.1
    np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10 * np.abs(slow).max())


@pytest.mark.parametrize("atoms", [methanol(), crystal()], ids=["molecule", "crystal"])
def test_energies_equal_a_plain_transcription(atoms: ase.Atoms) -> None:
    potential = potential_of(**FORMS["smooth"], forces="both")
    fast = predict(potential, atoms).atomic_energies.detach().numpy()
    _, slow = plain_gnnff(potential, atoms, **FORMS["smooth"])
    assert np.ptp(slow) > 0.01
    np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_portions_of_triplets_change_nothing(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = potential_of(**FORMS["pyg"]).train(training)
    whole = forces_of(potential, methanol())
    monkeypatch.setattr(gnnff, "TRIPLETS_AT_ONCE", 30)
    np.testing.assert_allclose(forces_of(potential, methanol()), whole, rtol=0, atol=1e-12)


# ---- PyTorch Geometric -------------------------------------------------------------------------------

FROM_PYG = {
    "node_emb": "node_embedding",
    "force_predictor": "force_head",
    "lin_c1": "pair",
    "bn_c1": "pair_norm",
    "bn": "sum_norm",
    "lin_c2": "two_body",
    "bn_c2": "pair_norm",
    "bn_c2_2": "pair_gate_norm",
    "lin_c3": "three_body",
    "bn_c3": "triplet_norm",
    "bn_c3_2": "sum_norm",
}


def pyg_radius_graph(pos: torch.Tensor, r: float, batch: torch.Tensor, **_: Any) -> torch.Tensor:
    """Edges j → i, all of them: stands in for an operator of a package that needs a compiler."""
    near = (torch.cdist(pos, pos) < r) & (batch[:, None] == batch) & ~torch.eye(len(pos), dtype=torch.bool)
    target, source = near.nonzero(as_tuple=True)
    return torch.stack([source, target])


def pyg_triplets(edge_index: torch.Tensor, num_nodes: int) -> tuple[torch.Tensor, ...]:
    """Pairs of edges k → j → i with k ≠ i in the order that PyTorch Geometric's own function gives them."""
    edges = edge_index.T.tolist()
    found = [
        (i, j, k, kj, ji)
        for ji, (j, i) in enumerate(edges)
        for kj, (k, middle) in enumerate(edges)
        if middle == j and k != i
    ]
    assert 0 <= num_nodes - 1 == max(i for _, i in edges)
    return (edge_index[1], edge_index[0], *torch.tensor(found).T)


@pytest.mark.parametrize("training", [False, True])
def test_pyg_preset_equals_pytorch_geometric(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle_module = pytest.importorskip("torch_geometric.nn.models.gnnff")
    monkeypatch.setattr(oracle_module, "radius_graph", pyg_radius_graph)
    monkeypatch.setattr(oracle_module, "triplets", pyg_triplets)
    oracle = oracle_module.GNNFF(16, 10, 3, cutoff=4.0).double()
    # It rounds ln 2 and the centres to single precision.
    for module in oracle.modules():
        if hasattr(module, "shift"):
            module.shift = math.log(2.0)
    oracle.edge_emb.offset = torch.linspace(0.0, 5.0, 10, dtype=torch.float64)
    oracle.edge_emb.coeff = -0.5 / (5.0 / 9.0) ** 2
    with torch.no_grad():
        for parameter in oracle.parameters():
            parameter.normal_(0.0, 0.3)
        for name, buffer in oracle.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)

    sizes = {"width": 16, "edge_width": 10, "n_layers": 3}
    model = GNNFF([1, 6, 8], cutoff=4.0, **{**PRESETS["gnnff-pyg"].hyperparameters, **sizes}).double()
    state = {
        ".".join(FROM_PYG.get(part, part) for part in name.split(".")): value.clone()
        for name, value in oracle.state_dict().items()
        if name != "edge_emb.offset"
    }
    model.load_state_dict(state)
    oracle.train(training)
    model.train(training)

    system = System.from_ase([methanol(), molecule("CH3CHO")])
    graph = build_graph(system, neighbors_for(system, model.request), model.request)
    expected = oracle(system.atomic_numbers, system.positions, system.system_index).detach()
    forces = model(graph, ("direct",)).forces.detach()
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(forces, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    torch.testing.assert_close(
        model.edge_blocks[1].triplet_norm.running_var, oracle.edge_blocks[1].bn_c3.running_var
    )


# ---- sizes -----------------------------------------------------------------------------------------


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(("edge_width", "expected"), [(20, 180_912), (50, 321_672)])
def test_message_layers_have_the_size_of_the_papers_matrices(edge_width: int, expected: int) -> None:
    model = GNNFF([1], cutoff=5.0, width=128, edge_width=edge_width, n_layers=3)
    assert count(model.node_blocks, model.edge_blocks) == expected


def test_pyg_preset_has_the_size_of_pytorch_geometrics_model() -> None:
    assert count(GNNFF([1, 6, 8], cutoff=5.0, **PRESETS["gnnff-pyg"].hyperparameters)) == 376_111


# ---- what holds and what does not ----------------------------------------------------------------


def test_two_unlike_atoms_push_along_their_bond_with_unequal_forces() -> None:
    r = np.array([0.3, -0.5, 0.9])
    forces = forces_of(potential_of(n_neighbors=4), ase.Atoms("CO", positions=[np.zeros(3), r]))
    np.testing.assert_allclose(np.cross(forces, r), 0.0, atol=1e-14)
    assert np.abs(forces.sum(axis=0)).max() > 0.01


@pytest.mark.parametrize("atoms", [ase.Atoms("O"), ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 50]])])
@pytest.mark.parametrize("form", FORMS)
def test_atoms_without_neighbours_feel_nothing(form: str, atoms: ase.Atoms) -> None:
    potential = potential_of(**FORMS[form])
    assert (forces_of(potential, atoms) == 0).all()
    assert (predict(potential.train(), atoms).forces == 0).all()  # no rows to take statistics of


def test_atoms_tied_with_the_last_of_the_nearest_are_kept() -> None:
    """The carbon of methane has four neighbours at one distance: one alone would pull or push it."""
    forces = forces_of(potential_of(n_neighbors=1), molecule("CH4"))
    np.testing.assert_allclose(forces[0], 0.0, atol=1e-12)


def crossing(form: str) -> float:
    """How much forces change, over their size, while a second neighbour passes the first or the cutoff."""

    def forces(step: float) -> np.ndarray:
        swap = 1.5 if form == "paper" else 4.0
        positions = [[0, 0, 0], [1.5, 0, 0], [0, -swap - step, 0]]
        return forces_of(
            potential_of(**{**FORMS[form], "n_neighbors": 1}), ase.Atoms("CHO", positions=positions)
        )

    # beyond the tolerance within which neighbours count as tied
    before, after = forces(-2e-4), forces(2e-4)
    return float(np.abs(after - before).max() / np.abs(before).max())


def test_forces_jump_where_nearest_neighbours_swap_or_cross_a_bare_cutoff() -> None:
    assert crossing("paper") > 0.1
    assert crossing("pyg") > 1e-2


def test_forces_are_continuous_under_the_envelope() -> None:
    # 4e-4 Å further along a smooth path
    assert crossing("smooth") < 1e-2


@pytest.mark.parametrize(("form", "promised"), [("paper", False), ("pyg", False), ("smooth", True)])
def test_smoothness_is_promised_only_under_the_envelope(form: str, promised: bool) -> None:
    assert ("smoothness" in potential_of(**FORMS[form]).exact) == promised


def test_an_envelope_over_nearest_neighbours_promises_nothing() -> None:
    assert "smoothness" not in GNNFF([1], cutoff=4.0, envelope=True).exact["direct"]


# ---- energy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atoms", [methanol(), crystal()], ids=["molecule", "crystal"])
def test_conservative_forces_are_the_slope_of_the_energy(atoms: ase.Atoms) -> None:
    potential = potential_of(forces="conservative")
    forces = forces_of(potential, atoms)
    step = 1e-4
    for atom, axis in ((0, 0), (3, 1), (4, 2)):
        energy = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energy.append(float(predict(potential, moved).energy[0]))
        slope = (energy[0] - energy[1]) / (2 * step)
        # central differences: their error is the third derivative times step² / 6
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-6 * np.abs(forces).max())


def test_training_on_both_heads_has_the_gradient_of_its_loss() -> None:
    potential = potential_of(forces="both").train()

    def loss() -> torch.Tensor:
        got = predict(potential, crystal())
        return got.forces.square().mean() + got.direct_forces.square().mean() + got.energy.sum()

    loss().backward()
    for parameter in potential.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()
    weight = potential.model.edge_blocks[0].three_body.weight
    step = 1e-5
    with torch.no_grad():
        weight[3, 5] += step
        above = float(loss().detach())
        weight[3, 5] -= 2 * step
        below = float(loss().detach())
    assert float(weight.grad[3, 5]) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_heads_share_one_trunk() -> None:
    both = potential_of(forces="both")
    trained = both.model.state_dict()
    for forces in ("direct", "conservative"):
        alone = potential_of(**FORMS["smooth"], forces=forces)
        alone.model.load_state_dict({name: trained[name] for name in alone.model.state_dict()})
        both.use_forces(forces)
        np.testing.assert_array_equal(forces_of(both, crystal()), forces_of(alone, crystal()))


def test_asking_for_an_energy_switches_the_envelope_on() -> None:
    model = GNNFF([1], cutoff=4.0, **PRESETS["gnnff"].hyperparameters, forces="conservative")
    assert model.request.n_nearest is None
    assert "smoothness" in model.exact["conservative"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighborhood": "nearest"}, "would jump"),
        ({"envelope": False}, "would jump"),
        ({"normalization": "sums"}, "others of its batch"),
    ],
)
def test_an_energy_that_could_not_be_differentiated_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        GNNFF([1], cutoff=4.0, forces="both", **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"neighborhood": "far"}, {"normalization": "layer"}, {"sign": "+"}, {"n_layers": 0}, {"edge_width": 1}],
)
def test_impossible_options_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((UserError, ValueError), match=r"unknown|at least"):
        GNNFF([1], cutoff=4.0, **arguments)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_finite_forces_in_single_precision(name: str) -> None:
    preset = PRESETS[name]
    arguments = {**preset.hyperparameters, "nearest_required": False}
    model = GNNFF([1, 6, 8], cutoff=5.0, forces=preset.forces, **arguments)
    potential = LearnedPotential(model).eval()
    together = batch([System.from_ase(atoms) for atoms in (methanol(), ase.Atoms("O"))])
    forces = potential(together, neighbors_for(together, potential.request)).forces
    moved = replace(together, positions=together.positions + 100.0)
    assert forces.abs().max() > 1e-5
    # vectors are formed in double precision before they are rounded
    torch.testing.assert_close(
        potential(moved, neighbors_for(moved, potential.request)).forces, forces, rtol=1e-4, atol=1e-5
    )


def test_more_neighbours_than_there_are_is_refused() -> None:
    potential = LearnedPotential(GNNFF([1, 6, 8], cutoff=5.0)).eval()
    system = System.from_ase(methanol())
    with pytest.raises(UserError, match="has 5 neighbours within 5 Å, but the model reads the 12 nearest"):
        potential(system, neighbors_for(system, potential.request))
