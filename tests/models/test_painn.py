"""PaiNN against its equations in loops and against SchNetPack's, and derivatives that training needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.painn import PRESETS, PaiNN
from kinetograph.system import System

ELEMENTS = [1, 6, 8]
CUTOFF = 4.0
N_RADIAL = 6


def model(forces: str = "both", **arguments: Any) -> LearnedPotential:
    """A small PaiNN in double precision with every weight random."""
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"width": 8, "n_layers": 2, "n_radial": N_RADIAL} | arguments
    potential = LearnedPotential(PaiNN(ELEMENTS, cutoff=CUTOFF, forces=forces, **sizes)).double().eval()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.normal_(0.0, 0.3)
    return potential


def pair() -> ase.Atoms:
    """Carbon dioxide beside water."""
    atoms = molecule("CO2") + molecule("H2O")
    atoms.positions[3:] += [0.4, 2.2, 1.9]
    atoms.rattle(0.05, seed=4)
    atoms.info["bonds"] = np.array([[0, 1], [0, 2], [3, 4], [3, 5]])
    return atoms


def crystal() -> ase.Atoms:
    """The same in a skewed cell narrower than the cutoff: most pairs interact through several images."""
    atoms = pair()
    del atoms.info["bonds"]
    atoms.set_cell([[3.9, 0, 0], [0.7, 4.3, 0], [-0.5, 0.4, 5.6]])
    atoms.pbc = True
    return atoms


def predict(potential: LearnedPotential, atoms: ase.Atoms, head: str) -> Any:
    potential.use_forces(head)
    system = System.from_ase(atoms)
    return potential(system, neighbors_for(system, potential.request))


# ---- an independent transcription, one atom and one edge at a time -------------------------------


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


class PlainPaiNN:
    """The paper's equations in loops; neighbours by looking at 7³ images of every pair."""

    def __init__(self, potential: LearnedPotential, **options: Any) -> None:
        self.w = {name: value.numpy() for name, value in potential.model.state_dict().items()}
        self.n_layers = len(potential.model.messages)
        self.sees_bonds = potential.request.bond_rule is not None
        self.radial = options.get("radial", "bessel")
        self.cutoff_function = options.get("cutoff_function", "cosine")

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.w[f"{name}.weight"] @ x + self.w[f"{name}.bias"]

    def network(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.dense(f"{name}.2", silu(self.dense(f"{name}.0", x)))

    def neighbors(self, atoms: ase.Atoms) -> list[tuple[int, int, np.ndarray, int]]:
        """Every edge as centre, neighbour, vector from the first to the second, bond type."""
        images = itertools.product(range(-3, 4), repeat=3) if atoms.pbc.all() else [(0, 0, 0)]
        offsets = [np.array(image) @ np.asarray(atoms.cell) for image in images]
        edges = []
        for i, j in itertools.product(range(len(atoms)), repeat=2):
            for offset in offsets:
                r = atoms.positions[j] + offset - atoms.positions[i]
                if 0.0 < np.linalg.norm(r) < CUTOFF:
                    edges.append((i, j, r, self.bond_type(atoms, i, j)))
        return edges

    def bond_type(self, atoms: ase.Atoms, i: int, j: int) -> int:
        if not self.sees_bonds:
            return 0
        bonds = {frozenset(map(int, bond)) for bond in atoms.info["bonds"]}
        if {i, j} in bonds:
            return 1
        return 2 if any({i, k} in bonds and {k, j} in bonds for k in range(len(atoms))) else 0

    def filters(self, layer: int, d: float, kind: int) -> np.ndarray:
        n = np.arange(1, N_RADIAL + 1)
        spacing = CUTOFF / (N_RADIAL - 1)
        functions = {
            "bessel": np.sin(n * math.pi * d / CUTOFF) / d,
            "gaussian": np.exp(-((d - spacing * (n - 1)) ** 2) / (2 * spacing**2)),
        }[self.radial]
        x = d / CUTOFF
        cutoff = {
            "cosine": 0.5 * (math.cos(math.pi * x) + 1.0),
            "polynomial": 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8,
        }[self.cutoff_function]
        columns = self.w[f"messages.{layer}.filter.weight"]
        block = columns[:, kind * (N_RADIAL + 1) : (kind + 1) * (N_RADIAL + 1)]
        return (block[:, :-1] @ functions + block[:, -1]) * cutoff

    def features(self, atoms: ase.Atoms) -> tuple[list[np.ndarray], list[np.ndarray]]:
        rows = {1: 0, 6: 1, 8: 2}
        edges = self.neighbors(atoms)
        s = [self.w["embedding.weight"][rows[int(z)]] for z in atoms.numbers]
        width = len(s[0])
        v = [np.zeros((3, width)) for _ in s]
        for layer in range(self.n_layers):
            ds, dv = [0.0 * x for x in s], [0.0 * x for x in v]
            for i, j, r, kind in edges:
                d = float(np.linalg.norm(r))
                x = self.network(f"messages.{layer}.phi", s[j]) * self.filters(layer, d, kind)
                to_s, along, kept = np.split(x, 3)
                ds[i] = ds[i] + to_s
                dv[i] = dv[i] + np.outer(r / d, along) + v[j] * kept
            s = [x + dx for x, dx in zip(s, ds, strict=True)]
            v = [x + dx for x, dx in zip(v, dv, strict=True)]
            u_matrix, v_matrix = np.split(self.w[f"updates.{layer}.mix.weight"], 2)
            for i in range(len(s)):
                u_v, v_v = v[i] @ u_matrix.T, v[i] @ v_matrix.T
                seen = np.concatenate([s[i], np.sqrt((v_v**2).sum(axis=0) + 1e-8)])
                a_ss, a_sv, a_vv = np.split(self.network(f"updates.{layer}.gates", seen), 3)
                s[i] = s[i] + a_ss + a_sv * (u_v * v_v).sum(axis=0)
                v[i] = v[i] + a_vv * u_v
        return s, v

    def energy(self, atoms: ase.Atoms) -> float:
        s, _ = self.features(atoms)
        return float(sum(self.network("energy_head.mlp", x)[0] for x in s))

    def block(self, name: str, s: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v_matrix, w_matrix = np.split(self.w[f"{name}.mix.weight"], 2)
        lengths = np.sqrt(((v @ v_matrix.T) ** 2).sum(axis=0) + 1e-8)
        new, gate = np.split(self.network(f"{name}.gates", np.concatenate([s, lengths])), 2)
        return new, gate * (v @ w_matrix.T)

    def direct_forces(self, atoms: ase.Atoms) -> np.ndarray:
        forces = []
        for s, v in zip(*self.features(atoms), strict=True):
            if "force_head.weights.0.weight" in self.w:
                forces.append(v @ self.network("force_head.weights", s))
            else:
                s_half, v_half = self.block("force_head.first", s, v)
                forces.append(self.block("force_head.second", silu(s_half), v_half)[1][:, 0])
        return np.array(forces)


OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "gated": {"force_head": "gated"},
    "gaussian": {"radial": "gaussian", "n_layers": 1},
    "polynomial": {"cutoff_function": "polynomial", "n_layers": 1},
}


@pytest.mark.parametrize("make", [pair, crystal])
@pytest.mark.parametrize("name", OPTIONS)
def test_both_heads_equal_a_plain_transcription_of_the_equations(name: str, make: Any) -> None:
    potential, atoms = model(**OPTIONS[name]), make()
    plain = PlainPaiNN(potential, **OPTIONS[name])
    energy, direct = plain.energy(atoms), plain.direct_forces(atoms)
    assert np.abs(direct).max() > 1e-3
    assert float(predict(potential, atoms, "conservative").energy) == pytest.approx(energy, rel=1e-10)
    got = predict(potential, atoms, "direct").forces.detach().numpy()
    np.testing.assert_allclose(got, direct, rtol=1e-10, atol=1e-10 * np.abs(direct).max())


def test_bond_types_have_radial_weights_of_their_own() -> None:
    potential, atoms = model(max_bond_separation=2), pair()
    plain = PlainPaiNN(potential)
    assert {kind for *_, kind in plain.neighbors(atoms)} == {0, 1, 2}
    assert float(predict(potential, atoms, "conservative").energy) == pytest.approx(
        plain.energy(atoms), rel=1e-10
    )
    direct = plain.direct_forces(atoms)
    got = predict(potential, atoms, "direct").forces.detach().numpy()
    np.testing.assert_allclose(got, direct, rtol=1e-10, atol=1e-10 * np.abs(direct).max())


# ---- SchNetPack's, whose weights and results were written down ---------------------------------------

SCHNETPACK = Path(__file__).parents[1] / "golden" / "painn_schnetpack.npz"


def with_weights_of_schnetpack(theirs: Mapping[str, np.ndarray]) -> LearnedPotential:
    """SchNetPack keeps all filters in one layer with a bias, V before U, and a_vv before a_sv."""
    potential = model("conservative", element_table=100)
    ours = {}

    def network(to: str, name: str) -> None:
        for there, here in (("0", "0"), ("1", "2")):
            for kind in ("weight", "bias"):
                ours[f"{to}.{here}.{kind}"] = theirs[f"weights/{name}.{there}.{kind}"]

    ours["embedding.weight"] = theirs["weights/representation.embedding.weight"]
    n_layers = len(potential.model.messages)
    filters = np.hstack(
        [
            theirs["weights/representation.filter_net.weight"],
            theirs["weights/representation.filter_net.bias"][:, None],
        ]
    )
    for layer, rows in enumerate(np.split(filters, n_layers)):
        ours[f"messages.{layer}.filter.weight"] = rows
        of = "weights/representation.mixing"
        v, u = np.split(theirs[f"{of}.{layer}.mu_channel_mix.weight"], 2)
        ours[f"updates.{layer}.mix.weight"] = np.vstack([u, v])
        network(f"messages.{layer}.phi", f"representation.interactions.{layer}.interatomic_context_net")
        name = f"representation.mixing.{layer}.intraatomic_context_net"
        network(f"updates.{layer}.gates", name)
        for kind in ("weight", "bias"):
            ss, vv, sv = np.split(theirs[f"weights/{name}.1.{kind}"], 3)
            ours[f"updates.{layer}.gates.2.{kind}"] = np.concatenate([ss, sv, vv])
    network("energy_head.mlp", "output_modules.0.outnet")
    state = potential.model.state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    potential.model.load_state_dict({name: torch.as_tensor(value) for name, value in ours.items()})
    return potential


@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_energy_forces_and_stress_equal_those_of_schnetpack(name: str) -> None:
    theirs = np.load(SCHNETPACK)
    cell = theirs[f"{name}/cell"]
    atoms = ase.Atoms(theirs[f"{name}/numbers"], theirs[f"{name}/positions"], cell=cell, pbc=cell.any())
    got = predict(with_weights_of_schnetpack(theirs), atoms, "conservative")
    assert float(got.energy) == pytest.approx(float(theirs[f"{name}/energy"][0]), rel=1e-10)
    forces = theirs[f"{name}/forces"]
    np.testing.assert_allclose(got.forces.detach().numpy(), forces, rtol=0, atol=1e-10 * np.abs(forces).max())
    if name == "crystal":
        stress = theirs["crystal/stress"]
        np.testing.assert_allclose(
            got.stress[0].detach().numpy(), stress, rtol=0, atol=1e-10 * np.abs(stress).max()
        )


# ---- derivatives -----------------------------------------------------------------------------------


def test_conservative_forces_are_the_finite_differences_of_the_energy() -> None:
    potential, atoms = model(), crystal()
    forces = predict(potential, atoms, "conservative").forces
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        energies = []
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * 1e-5
            energies.append(float(predict(potential, moved, "conservative").energy))
        # Truncation is of order (1e-5)², rounding of order 1e-16 × energy / 1e-5.
        slope = (energies[1] - energies[0]) / 2e-5
        assert float(forces[atom, axis]) == pytest.approx(-slope, rel=1e-6, abs=1e-7)


def test_a_loss_on_forces_has_the_right_gradient() -> None:
    potential, atoms = model().train(), crystal()
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
    for name in ("embedding.weight", "messages.1.filter.weight", "updates.0.mix.weight"):
        weight, gradient = parameters[name].data.view(-1), parameters[name].grad.view(-1)
        k = int(gradient.abs().argmax())
        values = []
        for sign in (-1, 1):
            weight[k] += sign * 1e-5
            values.append(float(loss().detach()))
            weight[k] -= sign * 1e-5
        assert float(gradient[k]) == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-5), name


@pytest.mark.parametrize("force_head", ["linear", "gated"])
@pytest.mark.parametrize("atoms", [ase.Atoms("O"), molecule("CO2")], ids=["atom", "linear molecule"])
def test_training_meets_no_nan_where_vectors_vanish(atoms: ase.Atoms, force_head: str) -> None:
    """The vectors of an isolated atom and of the middle atom of a straight molecule are zero by symmetry."""
    potential = model(force_head=force_head).float().train()
    system = System.from_ase(atoms)
    prediction = potential(system, neighbors_for(system, potential.request))
    loss = (prediction.forces - 1.0).square().sum() + (prediction.direct_forces - 1.0).square().sum()
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in potential.parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
    # The carbon's vectors cancel up to rounding of the sum.
    assert float(prediction.direct_forces[0].detach().abs().max()) < (1e-5 if len(atoms) > 1 else 1e-30)


# ---- sizes and heads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "table", "expected"),
    [("painn-small", None, 91_056), ("painn", None, 601_216), ("painn-energy", 100, 589_057)],
)
def test_presets_have_the_size_that_the_equations_give(preset: str, table: int | None, expected: int) -> None:
    chosen = PRESETS[preset]
    made = PaiNN([1, 8], cutoff=5.0, forces=chosen.forces, element_table=table, **chosen.hyperparameters)
    width, layers, radial = (made.embedding.weight.shape[1], len(made.messages), made.basis.n_functions)
    per_layer = (width + 1) * width + (width + 1) * 3 * width + (radial + 1) * 3 * width  # message
    per_layer += 2 * width**2 + (2 * width + 1) * width + (width + 1) * 3 * width  # update
    energy = (width + 1) * (width // 2) + width // 2 + 1
    head = energy if chosen.forces == "conservative" else 2 * (width + 1) * width
    size = (table or 2) * width + layers * per_layer + head
    assert sum(p.numel() for p in made.parameters()) == size == expected


def test_every_preset_can_be_built_and_lists_hyperparameters_only() -> None:
    for preset in PRESETS.values():
        assert not {"cutoff", "forces", "elements"} & set(preset.hyperparameters)
        assert PaiNN([8], cutoff=5.0, forces=preset.forces, **preset.hyperparameters).heads


def test_the_heads_of_both_are_those_of_each_alone() -> None:
    both, atoms = model(), crystal()
    for head in ("conservative", "direct"):
        alone = model(head)
        kept = alone.model.load_state_dict(both.model.state_dict(), strict=False)
        assert not kept.missing_keys
        torch.testing.assert_close(
            predict(both, atoms, head).forces, predict(alone, atoms, head).forces, rtol=0, atol=1e-12
        )


def test_a_fresh_model_begins_with_forces_no_larger_than_those_it_is_shown() -> None:
    """Forces are in units of the training forces' standard deviation, so one is as good as zero."""
    torch.manual_seed(0)
    for preset in ("painn-small", "painn-large"):
        made = PaiNN(ELEMENTS, cutoff=CUTOFF, forces="both", **PRESETS[preset].hyperparameters)
        potential = LearnedPotential(made).eval()
        for head in ("direct", "conservative"):
            forces = predict(potential, crystal(), head).forces
            assert 1e-3 < float(forces.detach().square().mean().sqrt()) < 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_radial": 1}, "n_radial of at least 2, not 1"),
        ({"n_layers": 0}, "n_layers of at least 1, not 0"),
        ({"norm_epsilon": 0.0}, "must be positive"),
        ({"radial": "sine"}, "unknown radial 'sine'"),
        ({"cutoff_function": "cosin"}, "unknown cutoff_function 'cosin'"),
        ({"force_head": "mlp"}, "unknown force_head 'mlp'"),
        ({"element_table": 8}, "no element O"),
        ({"forces": "indirect"}, "unknown kind of forces"),
    ],
)
def test_impossible_options_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PaiNN(ELEMENTS, **({"cutoff": 5.0} | arguments))
