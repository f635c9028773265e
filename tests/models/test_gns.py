"""The GNS baseline against a plain transcription of its equations, its size, and what it promises."""

from __future__ import annotations

import itertools
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.gns import GNS, PRESETS
from kinetograph.system import System, batch

ELEMENTS = [1, 6, 8]
CUTOFF = 4.0
FORMS = ("baseline", "original")
Array = np.ndarray


def model(form: str = "baseline", **options: Any) -> LearnedPotential:
    """A small model in double precision with every weight and statistic random."""
    torch.manual_seed(5)
    arguments = {"cutoff": CUTOFF, "width": 16, "n_layers": 2, "form": form, **options}
    made = LearnedPotential(GNS(ELEMENTS, **arguments)).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.6)
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0.0, 0.4)
            if name.endswith("running_var"):
                buffer.uniform_(0.3, 2.0)
        made.force_scale.fill_(1.7)
    return made


def crystal() -> ase.Atoms:
    """Two molecules in a skewed cell narrower than the cutoff, some atoms across its boundary."""
    atoms = molecule("CO2") + molecule("H2O")
    atoms.positions[3:] += [0.4, 2.2, 1.9]
    atoms.set_cell([[3.6, 0, 0], [0.7, 4.3, 0], [-0.5, 0.4, 5.6]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=4)
    atoms.wrap()
    return atoms


def turned_molecule() -> ase.Atoms:
    atoms = molecule("CH3OH")
    atoms.rotate(35.0, (1.0, 2.0, -0.5))
    return atoms


def forces_of(potential: LearnedPotential, atoms: ase.Atoms) -> Array:
    system = System.from_ase(atoms)
    with torch.no_grad():
        return potential(system, neighbors_for(system, potential.request)).forces.numpy()


# ---- an independent transcription, one atom and one edge at a time ----------------------------------


def linear(w: dict[str, Array], name: str, x: Array) -> Array:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def layer_norm(w: dict[str, Array], name: str, x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def batch_norm(w: dict[str, Array], name: str, x: Array) -> Array:
    scaled = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def plain_gns(potential: LearnedPotential, atoms: ase.Atoms) -> Array:
    w = {name: value.numpy() for name, value in potential.model.state_dict().items()}
    baseline = potential.model.form == "baseline"

    def normalized_mlp(name: str, x: Array) -> Array:
        x = relu(linear(w, f"{name}.2", relu(linear(w, f"{name}.0", x))))
        return layer_norm(w, f"{name}.5", linear(w, f"{name}.4", x))

    element = [ELEMENTS.index(z) for z in atoms.numbers]
    properties = [w["properties"][k] for k in element]
    images = itertools.product(range(-3, 4), repeat=3) if atoms.pbc.all() else [(0, 0, 0)]
    shifts = np.array(list(images)) @ atoms.cell.array
    edges: list[tuple[int, int, Array]] = []
    for t, s in itertools.product(range(len(atoms)), repeat=2):
        for r in atoms.positions[s] + shifts - atoms.positions[t]:
            d = float(np.linalg.norm(r))
            if not 1e-8 < d < CUTOFF:
                continue
            if baseline:
                a_s, a_t = w["radii"][element[s]], w["radii"][element[t]]
                e = np.concatenate([-r / d, np.array([d, d - a_s, d - a_t, d - a_s - a_t]) / CUTOFF])
            else:
                e = normalized_mlp("edge_map", np.array([*r, d]) / CUTOFF)
            edges.append((t, s, e))

    h = [linear(w, "node_map", x) if baseline else normalized_mlp("node_map", x) for x in properties]
    for k in range(len(potential.model.layers)):
        block = f"layers.{k}."
        total = [np.zeros_like(x) for x in h]
        updated = []
        for t, s, e in edges:
            if baseline:
                x = linear(w, block + "message_in", np.concatenate([h[t], e, h[s]]))
                message = linear(w, block + "message_out", relu(layer_norm(w, block + "norm", x)))
            else:
                message = normalized_mlp(block + "edge_update", np.concatenate([e, h[s], h[t]]))
                updated.append((t, s, e + message))
            total[t] = total[t] + message
        if baseline:
            h = [
                x + batch_norm(w, block + "node_norm", linear(w, block + "linear", m))
                for x, m in zip(h, total, strict=True)
            ]
        else:
            edges = updated
            h = [
                x + normalized_mlp(block + "node_update", np.concatenate([x, m]))
                for x, m in zip(h, total, strict=True)
            ]
    depth = 1 if baseline else 2
    forces = []
    for x in h:
        for i in range(depth):
            x = relu(linear(w, f"head.{2 * i}", x))
        forces.append(linear(w, f"head.{2 * depth}", x))
    return float(potential.force_scale) * np.array(forces)


@pytest.mark.parametrize("structure", [crystal, turned_molecule])
@pytest.mark.parametrize("form", FORMS)
def test_forces_equal_a_plain_transcription_of_the_equations(form: str, structure: Any) -> None:
    potential, atoms = model(form), structure()
    slow = plain_gns(potential, atoms)
    hydrogens = slow[atoms.numbers == 1]
    assert np.abs(hydrogens - hydrogens[0]).max() > 1e-2 * np.abs(slow).max()  # the geometry is seen
    np.testing.assert_allclose(forces_of(potential, atoms), slow, rtol=1e-10, atol=1e-10 * np.abs(slow).max())


# ---- size, batches, promises -----------------------------------------------------------------------


def test_preset_has_the_published_size() -> None:
    with torch.device("meta"):  # shapes without memory
        made = GNS(ELEMENTS, cutoff=6.0, **PRESETS["gns"].hyperparameters)
    assert sum(p.numel() for p in made.parameters()) == 12_450_819  # the paper prints 12.5 million


@pytest.mark.parametrize("form", FORMS)
def test_a_loss_reaches_every_weight(form: str) -> None:
    potential = model(form).train()
    system = System.from_ase(crystal())
    potential(system, neighbors_for(system, potential.request)).forces.square().sum().backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("form", FORMS)
def test_in_evaluation_forces_do_not_depend_on_the_rest_of_the_batch(form: str) -> None:
    potential = model(form)
    frames = [crystal(), turned_molecule(), ase.Atoms("O")]
    together = batch([System.from_ase(frame) for frame in frames])
    with torch.no_grad():
        got = potential(together, neighbors_for(together, potential.request)).forces.numpy()
    np.testing.assert_allclose(got, np.concatenate([forces_of(potential, f) for f in frames]), atol=1e-12)


def test_one_atom_is_normalised_in_training_as_in_evaluation() -> None:
    """A single row has no variance: running statistics serve, and stay as they are."""
    potential, atom = model(), ase.Atoms("O")
    statistics = {name: buffer.clone() for name, buffer in potential.named_buffers()}
    np.testing.assert_array_equal(forces_of(potential.train(), atom), forces_of(potential.eval(), atom))
    for name, buffer in potential.named_buffers():
        assert torch.equal(buffer, statistics[name]), name


@pytest.mark.parametrize("form", FORMS)
def test_forces_jump_at_the_cutoff(form: str) -> None:
    potential = model(form)
    assert potential.exact == {"translation", "permutation"}
    forces = [
        forces_of(potential, ase.Atoms("C2O", positions=[[0, 0, 0], [1.5, 0, 0], [0, CUTOFF + step, 0]]))
        for step in (-1e-7, 1e-7)
    ]
    assert np.abs(forces[1] - forces[0]).max() > 1e-2


def test_a_cap_keeps_the_nearest() -> None:
    atoms = crystal()
    np.testing.assert_array_equal(forces_of(model(), atoms), forces_of(model(max_neighbors=500), atoms))
    assert np.abs(forces_of(model(), atoms) - forces_of(model(max_neighbors=8), atoms)).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forces": "conservative"}, "GNS has no conservative forces: its messages see"),
        ({"form": "deepmind"}, "unknown form 'deepmind'"),
        ({"max_neighbors": 0}, "max_neighbors is 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GNS(ELEMENTS, cutoff=5.0, **options)
