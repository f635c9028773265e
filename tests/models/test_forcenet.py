"""ForceNet against a plain transcription of its equations, its sizes, and what its options promise."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.special import expit, sph_harm_y

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.forcenet import ABLATIONS, PRESETS, ForceNet
from kinetograph.nn.bases import BASES
from kinetograph.system import System, batch

ELEMENTS = [1, 6, 8]
CUTOFF = 4.0
Array = np.ndarray


def model(*, seed: int = 5, **options: Any) -> LearnedPotential:
    """A small model in double precision with every weight and statistic random."""
    torch.manual_seed(seed)
    arguments = {"cutoff": CUTOFF, "width": 8, "n_layers": 2, **options}
    made = LearnedPotential(ForceNet(ELEMENTS, **arguments)).double().eval()
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
    atoms.rattle(0.05, seed=1)
    return atoms


STRUCTURES = {"crystal": crystal, "molecule": turned_molecule}


def forces_of(potential: LearnedPotential, atoms: ase.Atoms) -> Array:
    system = System.from_ase(atoms)
    with torch.no_grad():
        return potential(system, neighbors_for(system, potential.request)).forces.numpy()


# ---- an independent transcription, one atom and one edge at a time ----------------------------------


@cache
def pairs_within(structure: str) -> list[tuple[int, int, Array]]:
    """(target t, source s, x_s + image − x_t) of every pair within the cutoff, the images counted out."""
    atoms = STRUCTURES[structure]()
    images = itertools.product(range(-3, 4), repeat=3) if atoms.pbc.all() else [(0, 0, 0)]
    shifts = np.array(list(images)) @ atoms.cell.array
    found = []
    for t, s in itertools.product(range(len(atoms)), repeat=2):
        for r in atoms.positions[s] + shifts - atoms.positions[t]:
            if 1e-8 < np.linalg.norm(r) < CUTOFF:
                found.append((t, s, r))
    return found


def linear(w: dict[str, Array], name: str, x: Array) -> Array:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def batch_norm(w: dict[str, Array], name: str, x: Array) -> Array:
    scaled = (x - w[f"{name}.running_mean"]) / np.sqrt(w[f"{name}.running_var"] + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def sines(x: Array) -> Array:
    return np.array([math.sin(1.1**j * value) for j in range(50) for value in x])


def harmonics(n: Array) -> Array:
    polar, azimuth = math.atan2(math.hypot(n[0], n[1]), n[2]), math.atan2(n[1], n[0])
    above = [sph_harm_y(l, m, polar, azimuth) for l, m in ((1, 1), (2, 1), (2, 2))]
    zonal = [sph_harm_y(l, 0, polar, azimuth).real for l in range(3)]
    return np.array(zonal + [y.real for y in above] + [y.imag for y in above])


def plain_forcenet(potential: LearnedPotential, structure: str, **options: Any) -> Array:
    """The paper's equations with explicit loops and the explicit concatenation."""
    w = {name: value.numpy() for name, value in potential.model.state_dict().items()}
    basis, form = options.get("basis", "spherical"), options.get("form", "paper")
    ablation = options.get("ablation")

    def act(x: Array) -> Array:
        return np.maximum(x, 0.0) if options.get("activation") == "relu" else x * expit(x)

    def spread(x: Array, name: str, n_directions: int) -> Array:
        """B of numbers of which the first ``n_directions`` are a unit vector."""
        if basis in ("none", "identity"):
            return x
        if basis == "linear":
            return act(linear(w, f"{name}.linear", x))
        if basis == "gaussian":
            x = np.array([(value + 1) / 2 if f < n_directions else value for f, value in enumerate(x)])
            return np.array([math.exp(-((v - j / 49) ** 2) / (2 / 49**2)) for j in range(50) for v in x])
        if basis == "sine" or name == "node_basis":
            return sines(x)
        radial = linear(w, f"{name}.radial", sines(x[n_directions:]))
        return np.kron(harmonics(x[:3]), radial) if n_directions else radial

    numbers = STRUCTURES[structure]().numbers
    element = [ELEMENTS.index(z) for z in numbers]
    h = [linear(w, "node_map", spread(w["properties"][k], "node_basis", 0)) for k in element]
    a = [w["radii"][k] for k in element]

    edges = []
    for t, s, r in pairs_within(structure):
        d = float(np.linalg.norm(r))
        n = r / d if form == "code" else -r / d  # x_t − x_s points from source to target
        p = np.array([d] if ablation == "no radii" else [d, d - a[s], d - a[t], d - a[s] - a[t]]) / CUTOFF
        if form == "code":
            p = np.maximum(p, 1e-3)
        directed = ablation != "only distances"
        e = np.concatenate([n, p]) if directed else p
        edges.append((t, s, math.cos(math.pi * d / (2 * CUTOFF)), spread(e, "edge_basis", 3 * directed)))

    for k in range(options.get("n_layers", 2)):
        block = f"layers.{k}."
        edge_map = "edge_maps.0" if options.get("shared_basis", True) else f"edge_maps.{k}"

        def f_d(x: Array, block: str = block) -> Array:
            return linear(w, block + "transform", x)

        total = [np.zeros_like(x) for x in h]
        for t, s, alpha, b in edges:
            mapped = b if basis == "none" else linear(w, edge_map, b)
            x = mapped if ablation == "no node embedding" else np.concatenate([mapped, h[s], h[t]])
            x = linear(w, block + "filter_in", x)
            if ablation == "linear filter":
                f_e = batch_norm(w, block + "filter.0", x)
            else:
                f_e = linear(w, block + "filter.3", act(linear(w, block + "filter.1", act(x))))
            f_c = alpha * f_e
            total[t] = total[t] + (f_c if ablation == "only filter" else f_c * f_d(h[s]))
        new = []
        for x, m in zip(h, total, strict=True):
            if ablation != "no self message":
                m = m + w[block + "center_weight"][0] * f_d(x)
            y = batch_norm(w, block + "update.1", linear(w, block + "update.0", m))
            new.append(x + (y if ablation == "linear update" else linear(w, block + "update.3", act(y))))
        h = new

    forces = []
    for x in h:
        if options.get("decoder_layer"):
            x = act(linear(w, "decoder.0", x))
        forces.append(linear(w, "head.3", act(batch_norm(w, "head.1", linear(w, "head.0", x)))))
    return float(potential.force_scale) * np.array(forces)


CASES: list[dict[str, Any]] = [
    *({"basis": basis, "form": form} for basis in BASES for form in ("paper", "code")),
    *({"ablation": ablation} for ablation in ABLATIONS),
    {"ablation": "only distances", "basis": "gaussian"},
    {"basis": "linear", "activation": "relu"},
    {"shared_basis": False, "n_layers": 3, "decoder_layer": True, "idle_energy_head": True, "form": "code"},
]


@pytest.mark.parametrize("structure", list(STRUCTURES))
@pytest.mark.parametrize("options", CASES, ids=lambda options: ", ".join(map(str, options.values())))
def test_forces_equal_a_plain_transcription_of_the_equations(options: dict[str, Any], structure: str) -> None:
    potential = model(**options)
    fast = forces_of(potential, STRUCTURES[structure]())
    slow = plain_forcenet(potential, structure, **options)
    assert np.abs(slow).max() > 0.1
    hydrogens = slow[STRUCTURES[structure]().numbers == 1]
    assert np.abs(hydrogens - hydrogens[0]).max() > 1e-3 * np.abs(slow).max()  # the geometry is seen
    np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-10 * np.abs(slow).max())


def test_the_crystal_holds_several_images_of_one_pair() -> None:
    """Or the comparison above would not notice that all but one were lost."""
    pairs = [(t, s) for t, s, _ in pairs_within("crystal")]
    assert max(pairs.count(pair) for pair in set(pairs)) >= 3
    assert any(t == s for t, s in pairs)


# ---- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("forcenet", 11_363_624),
        ("forcenet-large", 34_810_408),
        ("forcenet-shared", 11_287_848),
        ("forcenet-shared-large", 34_639_912),
    ],
)
def test_presets_have_the_published_sizes(preset: str, expected: int) -> None:
    with torch.device("meta"):  # shapes without memory
        made = ForceNet(ELEMENTS, cutoff=6.0, **PRESETS[preset].hyperparameters)
    assert sum(p.numel() for p in made.parameters()) == expected
    # The paper prints 11.3, which is the shared size, and 34.8, which is the other one.
    (printed,) = (figure.value for figure in PRESETS[preset].published if figure.what == "parameters")
    assert abs(expected / 1e6 - printed) < 0.2


def test_the_idle_head_changes_the_size_only() -> None:
    plain, idle = model(), model(idle_energy_head=True)
    idle.load_state_dict(plain.state_dict(), strict=False)
    size = [sum(p.numel() for p in m.parameters()) for m in (plain, idle)]
    assert size[1] - size[0] == 8 + 1
    np.testing.assert_array_equal(forces_of(plain, crystal()), forces_of(idle, crystal()))


@pytest.mark.parametrize("options", CASES[::2], ids=lambda options: ", ".join(map(str, options.values())))
def test_a_loss_reaches_every_weight_that_is_read(options: dict[str, Any]) -> None:
    potential = model(**options).train()
    system = System.from_ase(crystal())
    potential(system, neighbors_for(system, potential.request)).forces.square().sum().backward()
    for name, parameter in potential.named_parameters():
        if "idle" in name:
            assert parameter.grad is None
            continue
        assert torch.isfinite(parameter.grad).all(), name
        if ".0.bias" not in name and "filter_in.bias" not in name:  # a batch normalisation may follow
            assert parameter.grad.abs().max() > 0.0, name


# ---- batch normalisation ---------------------------------------------------------------------------


def test_in_evaluation_forces_do_not_depend_on_the_rest_of_the_batch() -> None:
    potential = model()
    frames = [crystal(), turned_molecule(), ase.Atoms("O")]
    together = batch([System.from_ase(frame) for frame in frames])
    with torch.no_grad():
        got = potential(together, neighbors_for(together, potential.request)).forces.numpy()
    np.testing.assert_allclose(got, np.concatenate([forces_of(potential, f) for f in frames]), atol=1e-12)


def test_training_takes_the_statistics_of_the_batch_and_keeps_running_ones() -> None:
    potential = model()
    norms = [m for m in potential.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert len(norms) == 2 + 1  # one per layer and one in the head
    still, before = forces_of(potential, crystal()), norms[0].running_mean.clone()
    forces_of(potential, crystal())
    assert torch.equal(norms[0].running_mean, before)
    in_training = forces_of(potential.train(), crystal())
    assert np.abs(in_training - still).max() > 1e-3
    assert not torch.equal(norms[0].running_mean, before)


@pytest.mark.parametrize("ablation", [None, "linear filter"])
def test_one_atom_is_normalised_in_training_as_in_evaluation(ablation: str | None) -> None:
    """A single row has no variance: running statistics serve, and stay as they are."""
    potential, atom = model(ablation=ablation), ase.Atoms("O")
    statistics = {name: buffer.clone() for name, buffer in potential.named_buffers()}
    np.testing.assert_array_equal(forces_of(potential.train(), atom), forces_of(potential.eval(), atom))
    for name, buffer in potential.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
    # Several atoms without a single edge: nothing to normalise on the edges, enough on the atoms.
    far = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 50.0]])
    assert np.isfinite(forces_of(potential.train(), far)).all()


# ---- what holds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", CASES, ids=lambda options: ", ".join(map(str, options.values())))
def test_forces_are_continuous_at_the_cutoff(options: dict[str, Any]) -> None:
    """Over a hundredth of the step the change is a hundredth; a jump would stay as it is."""
    potential = model(**options)
    assert "smoothness" in potential.exact

    def change(step: float) -> float:
        across = [[[0, 0, 0], [1.5, 0, 0], [0, CUTOFF + s, 0]] for s in (-step, step)]
        inside, outside = (forces_of(potential, ase.Atoms("C2O", positions=p)) for p in across)
        return float(np.abs(outside - inside).max())

    assert change(1e-6) > 1e-10
    assert change(1e-8) < 0.03 * change(1e-6)


def test_slope_of_forces_jumps_at_the_cutoff() -> None:
    potential, step = model(), 1e-4

    def force(distance: float) -> Array:
        return forces_of(potential, ase.Atoms("CO", positions=[[0, 0, 0], [0, distance, 0]]))

    inside, outside = force(CUTOFF - step) - force(CUTOFF), force(CUTOFF + step) - force(CUTOFF)
    assert np.abs(inside).max() / step > 1e-2
    assert np.abs(outside).max() == 0.0


def test_with_a_cap_forces_jump_where_the_nearest_change() -> None:
    potential = model(max_neighbors=1)
    assert "smoothness" not in potential.exact
    assert {"translation", "permutation"} <= potential.exact
    forces = [
        # Out of reach of the tolerance for ties, 10⁻⁴ Å.
        forces_of(potential, ase.Atoms("COH", positions=[[0, 0, 0], [2.0, 0, 0], [0, 2.0 + step, 0]]))
        for step in (-2e-4, 2e-4)
    ]
    assert np.abs(forces[1] - forces[0]).max() > 1e-2


def test_a_cap_that_nothing_exceeds_changes_nothing() -> None:
    atoms = crystal()
    np.testing.assert_array_equal(forces_of(model(), atoms), forces_of(model(max_neighbors=500), atoms))
    assert np.abs(forces_of(model(), atoms) - forces_of(model(max_neighbors=8), atoms)).max() > 1e-3


def test_forces_do_not_turn_with_the_structure_and_have_a_sum() -> None:
    """What is not claimed does not hold: a turned structure gets other forces than turned ones."""
    potential, atoms = model(), turned_molecule()
    assert potential.exact == {"translation", "permutation", "smoothness"}
    forces = forces_of(potential, atoms)
    atoms.rotate(90.0, "z", center=(0, 0, 0))
    turned = forces @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert np.abs(forces_of(potential, atoms) - turned).max() > 1e-2
    assert np.abs(forces.sum(axis=0)).max() > 1e-2


def test_from_distances_alone_forces_do_not_change_when_the_structure_turns() -> None:
    potential, atoms = model(ablation="only distances"), turned_molecule()
    forces = forces_of(potential, atoms)
    atoms.rotate(77.0, (1, 1, 3))
    np.testing.assert_allclose(forces_of(potential, atoms), forces, atol=1e-11)


def test_noble_gases_have_forces() -> None:
    potential = LearnedPotential(ForceNet([18, 36, 54], cutoff=6.0, width=16, n_layers=2)).eval()
    forces = forces_of(potential, ase.Atoms("ArKrXe", positions=[[0, 0, 0], [4.0, 0, 0], [0, 4.0, 0]]))
    assert np.isfinite(forces).all()
    assert np.abs(forces).max() > 0.0


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("forces", ["conservative", "both"])
def test_conservative_forces_are_refused_with_the_reason(forces: str) -> None:
    with pytest.raises(UserError, match="ForceNet has no conservative forces: its messages see"):
        ForceNet(ELEMENTS, cutoff=5.0, forces=forces)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "codes"}, "unknown form 'codes'"),
        ({"basis": "bessel"}, "unknown basis 'bessel'"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"ablation": "no forces"}, "unknown ablation 'no forces'"),
        ({"max_neighbors": 0}, "max_neighbors is 0"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ForceNet(ELEMENTS, cutoff=5.0, **options)
