"""DimeNet against PyTorch Geometric, against a plain transcription of its equations, and its size."""

from __future__ import annotations

from collections.abc import Callable

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn

from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.dimenet import PRESETS, DimeNet
from kinetograph.potential import Prediction
from kinetograph.system import System

CUTOFF = 3.0
SMALL = {"width": 10, "n_layers": 2, "n_bilinear": 3, "n_spherical": 3, "n_radial": 4}


def model(**options: object) -> LearnedPotential:
    torch.manual_seed(3)
    made = LearnedPotential(DimeNet([1, 6, 8], **{"cutoff": CUTOFF, **SMALL, **options})).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3)
        frequencies = made.model.radial_basis.bessel.frequencies
        frequencies.copy_(np.pi * torch.arange(1.0, len(frequencies) + 1.0) + 0.3 * frequencies)
    return made


def crystal() -> ase.Atoms:
    """Three atoms in a skewed cell narrower than the cutoff: an atom is its own neighbour, many times."""
    atoms = ase.Atoms("COH", positions=[[0.1, 0.2, 0.0], [1.3, 0.4, 0.9], [0.2, 1.5, 2.1]])
    atoms.set_cell([[2.7, 0, 0], [0.6, 2.9, 0], [-0.4, 0.3, 3.2]])
    atoms.pbc = True
    return atoms


def predict(potential: LearnedPotential, atoms: ase.Atoms) -> Prediction:
    system = System.from_ase(atoms)
    return potential(system, neighbors_for(system, potential.request))


def cluster(atoms: ase.Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, species and origin of the atoms and, after them, of all images within ``reach`` of one."""
    if not atoms.pbc.any():
        return atoms.positions, atoms.numbers, np.arange(len(atoms))
    n = 1 + np.ceil(reach * np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)).astype(int)
    shifts = np.stack(np.meshgrid(*(np.arange(-k, k + 1) for k in n), indexing="ij"), -1).reshape(-1, 3)
    shifts = shifts[np.argsort(np.abs(shifts).sum(axis=1), kind="stable")]  # no shift comes first
    positions = (atoms.positions[None] + (shifts @ atoms.cell.array)[:, None]).reshape(-1, 3)
    far = np.linalg.norm(positions[:, None] - atoms.positions[None], axis=2).min(axis=1)
    keep = far < reach
    return (
        positions[keep],
        np.tile(atoms.numbers, len(shifts))[keep],
        np.tile(np.arange(len(atoms)), len(shifts))[keep],
    )


# ---- against PyTorch Geometric ----------------------------------------------------------------------


def exact_roots(n_l: int, n_roots: int) -> np.ndarray:
    roots = [np.pi * np.arange(1, n_roots + n_l)]
    for l in range(1, n_l):
        ends = zip(roots[-1][:-1], roots[-1][1:], strict=True)
        roots.append(np.array([brentq(lambda x, l=l: spherical_jn(l, x), a, b, xtol=1e-15) for a, b in ends]))
    return np.stack([row[:n_roots] for row in roots])


def pyg_triplets(edge_index: torch.Tensor, num_nodes: int) -> tuple[torch.Tensor, ...]:
    source, target = edge_index.tolist()
    arriving: list[list[int]] = [[] for _ in range(num_nodes)]
    for e, i in enumerate(target):
        arriving[i].append(e)
    found = [
        (target[ji], source[ji], source[kj], kj, ji)
        for ji in range(len(source))
        for kj in arriving[source[ji]]
        if source[kj] != target[ji]
    ]
    return (edge_index[1], edge_index[0], *torch.tensor(found).T)


def pyg_model(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """With its roots in double precision, and the graph that it takes from packages not installed."""
    pytest.importorskip("torch_geometric")
    from torch_geometric.nn.models import dimenet, dimenet_utils

    monkeypatch.setattr(dimenet_utils, "Jn_zeros", exact_roots)
    monkeypatch.setattr(dimenet, "triplets", pyg_triplets)

    def radius_graph(
        positions: torch.Tensor, r: float, batch: object, max_num_neighbors: int
    ) -> torch.Tensor:
        close = torch.cdist(positions.detach(), positions.detach()) < r
        return torch.nonzero(close.fill_diagonal_(False)).T

    monkeypatch.setattr(dimenet, "radius_graph", radius_graph)
    return dimenet.DimeNet(
        hidden_channels=SMALL["width"],
        out_channels=1,
        num_blocks=SMALL["n_layers"],
        num_bilinear=SMALL["n_bilinear"],
        num_spherical=SMALL["n_spherical"],
        num_radial=SMALL["n_radial"],
        cutoff=CUTOFF,
    ).double()


def pyg_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of PyTorch Geometric."""
    center, neighbor = weights["embedding.from_center.weight"], weights["embedding.from_neighbor.weight"]
    found = {
        "rbf.freq": weights["radial_basis.bessel.frequencies"],
        "emb.emb.weight": weights["embedding.elements.weight"],
        "emb.lin.weight": torch.cat([center, neighbor, weights["embedding.from_edge.weight"]], dim=1),
        "emb.lin.bias": weights["embedding.from_edge.bias"],
    }
    for name, value in weights.items():
        for ours, theirs in (
            ("embedding.from_basis", "emb.lin_rbf"),
            ("energy_head", "output_blocks"),
            ("interactions", "interaction_blocks"),
            ("filter.", "lin_rbf."),
            ("triplet_basis.linear", "lin_sbf"),
            (".source", ".lin_kj"),
            ("update.own", "lin_ji"),
            ("update.before_skip", "layers_before_skip"),
            ("update.after_skip", "layers_after_skip"),
            ("update.to_skip", "lin"),
            (".first", ".lin1"),
            (".second", ".lin2"),
            ("bilinear", "W"),
            (".dense", ".lins"),
            (".last", ".lin"),
        ):
            name = name.replace(ours, theirs)
        if not name.startswith(("embedding", "radial_basis")):
            found[name] = value
    return found


@pytest.fixture(scope="module")
def pyg() -> torch.nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        yield pyg_model(patch)


@pytest.mark.parametrize("periodic", [False, True])
def test_energies_and_forces_equal_those_of_pytorch_geometric(pyg: torch.nn.Module, periodic: bool) -> None:
    """A crystal is given to it as a cluster in which the first atoms see all that their energy depends on."""
    potential = model(angle="original", element_table=95)
    pyg.load_state_dict(pyg_weights(potential.model.state_dict()))
    atoms = crystal() if periodic else molecule("CH3CHO")
    positions, numbers, origin = cluster(atoms, potential.request.receptive_field + 1e-6)
    place = torch.tensor(positions, requires_grad=True)
    # every atom is a structure of its own in the sum, though not in the graph
    energies = pyg(torch.tensor(numbers), place, torch.arange(len(numbers)))[: len(atoms), 0]
    (slope,) = torch.autograd.grad(energies.sum(), place)
    forces = -torch.zeros(len(atoms), 3, dtype=torch.float64).index_add(0, torch.tensor(origin), slope)
    prediction = predict(potential, atoms)
    assert forces.abs().max() > 0.1
    torch.testing.assert_close(prediction.atomic_energies, energies.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prediction.forces, forces, rtol=0, atol=1e-10 * float(forces.abs().max()))


# ---- against an independent transcription, one atom, edge and triplet at a time -----------------------


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def plain_dimenet(
    potential: LearnedPotential,
    atoms: ase.Atoms,
    *,
    power: int = 6,
    basis: str = "code",
    angle: str = "corrected",
    radial_filter: str = "kj",
    embedding: str = "code",
    angles_at: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Atomic energies and, where the model has them, direct forces.

    Args:
        angles_at: positions of a molecule that angles are taken from, in place of its own.
    """
    w = {name: value.numpy() for name, value in potential.model.state_dict().items()}
    n_l, n_r = potential.model.spherical_basis.bessel.roots.shape
    n_layers = len(potential.model.interactions)
    roots = exact_roots(n_l, n_r)
    r, numbers, _ = cluster(atoms, potential.request.receptive_field + 1e-6)
    seen = r if angles_at is None else angles_at
    row = {1: 0, 6: 1, 8: 2}

    def lin(name: str, x: np.ndarray) -> np.ndarray:
        y = w[f"{name}.weight"] @ x
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def envelope(x: float) -> float:
        p = power
        return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)

    def rbf(d: float) -> np.ndarray:
        x = d / CUTOFF
        sine = np.sin(w["radial_basis.bessel.frequencies"] * x)
        return envelope(x) * (sine / x if basis == "code" else np.sqrt(2 / CUTOFF) * sine / d)

    def sbf(d: float, alpha: float) -> np.ndarray:
        x = d / CUTOFF
        values = []
        for l, z in enumerate(roots):
            y = np.sqrt((2 * l + 1) / (4 * np.pi)) * eval_legendre(l, np.cos(alpha))
            if basis == "code":
                factor = envelope(x) / x / np.sqrt(0.5 * spherical_jn(l + 1, z) ** 2)
            else:
                factor = envelope(x) * np.sqrt(2 / (CUTOFF**3 * spherical_jn(l + 1, z) ** 2))
            values.append(factor * spherical_jn(l, z * x) * y)
        return np.concatenate(values)

    def angle_between(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))

    distance = np.linalg.norm(r[:, None] - r[None], axis=2)
    near = [np.flatnonzero((row_ < CUTOFF) & (row_ > 0)) for row_ in distance]

    # Which messages (from, to) are needed after each interaction, found from the last back to the first.
    needed = [{pair for i in range(len(atoms)) for j in near[i] for pair in ((j, i), (i, j))}]
    for _ in range(n_layers):
        needed.insert(0, needed[0] | {(k, j) for j, i in needed[0] for k in near[j] if k != i})

    message = {}
    for j, i in needed[0]:
        h_i, h_j = (w["embedding.elements.weight"][row[numbers[a]]] for a in (i, j))
        e = lin("embedding.from_basis", rbf(distance[i, j]))
        e = silu(e) if embedding == "code" else e
        parts = [w[f"embedding.from_{part}.weight"] for part in ("center", "neighbor", "edge")]
        together = np.concatenate(parts, axis=1) @ np.concatenate([h_i, h_j, e])
        message[j, i] = silu(together + w["embedding.from_edge.bias"])

    def readout(block: int) -> np.ndarray:
        p = f"energy_head.{block}."
        found = np.zeros(len(atoms))
        for i in range(len(atoms)):
            t = sum(lin(p + "filter", rbf(distance[i, j])) * message[j, i] for j in near[i])
            for layer in range(3):
                t = silu(lin(f"{p}dense.{layer}", t))
            found[i] = lin(p + "last", t)[0]
        return found

    def residual(name: str, x: np.ndarray) -> np.ndarray:
        return x + silu(lin(name + ".second", silu(lin(name + ".first", x))))

    energies = readout(0)
    for l in range(n_layers):
        p = f"interactions.{l}."
        new = {}
        for j, i in needed[l + 1]:
            heard = np.zeros(len(message[j, i]))
            for k in near[j]:
                if k == i:
                    continue
                e = rbf(distance[k, j] if radial_filter == "kj" else distance[j, i])
                source = silu(lin(p + "source", message[k, j])) * lin(p + "filter", e)
                origin = seen[i] if angle == "original" else seen[j]
                alpha = angle_between(seen[j] - seen[i], seen[k] - origin)
                a = lin(p + "triplet_basis.linear", sbf(distance[k, j], alpha))
                heard += np.einsum("ibl,b,l->i", w[p + "bilinear"], a, source)
            h = residual(p + "update.before_skip.0", silu(lin(p + "update.own", message[j, i])) + heard)
            h = silu(lin(p + "update.to_skip", h)) + message[j, i]
            new[j, i] = residual(p + "update.after_skip.1", residual(p + "update.after_skip.0", h))
        message = new
        energies = energies + readout(l + 1)
    if "direct" not in potential.model.heads:
        return energies, None
    forces = np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for j in near[i]:
            here, back = (
                lin("force_head.mlp.2", silu(lin("force_head.mlp.0", message[pair])))[0]
                for pair in ((j, i), (i, j))
            )
            d = distance[i, j]
            forces[i] += 0.5 * (here + back) * envelope(d / CUTOFF) * (r[j] - r[i]) / d
    return energies, forces


def assert_equal(got: torch.Tensor, expected: np.ndarray) -> None:
    size = np.abs(expected).max()
    assert size > 0.01
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"basis": "paper", "radial_filter": "ji", "embedding": "paper"},
        {"angle": "original", "radial_filter": "ji", "power": 5},
    ],
    ids=["default", "paper", "original"],
)
@pytest.mark.parametrize("periodic", [False, True])
def test_energies_and_direct_forces_equal_a_plain_transcription(
    options: dict[str, object], periodic: bool
) -> None:
    sizes = {"n_spherical": 7, "n_radial": 6, "width": 6, "n_layers": 1 if periodic else 2}
    choices = {"envelope_power" if name == "power" else name: value for name, value in options.items()}
    potential = model(forces="both", **sizes, **choices)
    atoms = crystal() if periodic else molecule("HCOOH")
    energies, forces = plain_dimenet(potential, atoms, **options)
    prediction = predict(potential, atoms)
    assert_equal(prediction.atomic_energies, energies)
    assert prediction.conservative
    potential.use_forces("direct")
    assert forces is not None
    assert_equal(predict(potential, atoms).forces, forces)


# ---- forces ------------------------------------------------------------------------------------------


def slope_along(direction: np.ndarray, atoms: ase.Atoms, energy: Callable[[ase.Atoms], float]) -> float:
    """Slope of the energy as the atoms move along a direction, by central differences of fourth order."""
    step, slope = 1e-4, 0.0
    for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = atoms.copy()
        moved.positions += steps * step * direction
        slope += weight * energy(moved) / (12 * step)
    return slope


@pytest.mark.parametrize("angle", ["corrected", "original"])
def test_forces_are_minus_the_slope_of_the_energy(angle: str, rng: np.random.Generator) -> None:
    potential, atoms = model(angle=angle), crystal()
    forces = predict(potential, atoms).forces.numpy()
    for direction in rng.normal(size=(3, *forces.shape)):
        slope = slope_along(direction, atoms, lambda moved: float(predict(potential, moved).energy))
        # energies of order 1 to sixteen digits, over 1e-4 Å
        assert slope == pytest.approx(-(forces * direction).sum(), abs=1e-9 * np.abs(forces).max())


def test_with_angle_grad_off_forces_are_the_slope_at_fixed_angles(rng: np.random.Generator) -> None:
    potential, atoms = model(angle_grad=False, n_layers=1), molecule("H2O")
    prediction = predict(potential, atoms)
    forces = prediction.forces.numpy()
    for direction in rng.normal(size=(3, 3, 3)):
        slope = slope_along(
            direction,
            atoms,
            lambda moved: float(plain_dimenet(potential, moved, angles_at=atoms.positions)[0].sum()),
        )
        assert slope == pytest.approx(-(forces * direction).sum(), abs=1e-9 * np.abs(forces).max())
    assert not prediction.conservative
    whole = predict(model(n_layers=1), atoms)
    torch.testing.assert_close(whole.energy, prediction.energy, rtol=1e-14, atol=0)
    assert (whole.forces - prediction.forces).abs().max() > 1e-3
    # what is still said to hold: they act along the lines between pairs
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-13)
    np.testing.assert_allclose(np.cross(atoms.positions, forces).sum(axis=0), 0.0, atol=1e-13)
    assert {"net force", "torque"} <= potential.exact
    assert "curl" not in potential.exact
    assert "curl" in model().exact
    assert predict(potential, crystal()).stress is None


def test_three_atoms_on_a_line_have_finite_forces_and_curvature() -> None:
    """Exactly straight: an angle from an arc cosine or arc tangent would have no derivative there."""
    potential = model().train()
    prediction = predict(potential, ase.Atoms("OCO", positions=[[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]]))
    prediction.forces.square().sum().backward()
    assert torch.isfinite(prediction.forces).all()
    assert all(torch.isfinite(p.grad).all() for p in potential.parameters())


def test_gradient_of_a_force_loss_is_its_slope() -> None:
    potential, atoms = model(forces="both").train(), crystal()
    parameters = dict(potential.named_parameters())

    def loss() -> torch.Tensor:
        prediction = predict(potential, atoms)
        assert prediction.direct_forces is not None
        return prediction.forces.square().sum() + prediction.direct_forces.square().sum()

    loss().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in parameters.values())
    for name in ("model.interactions.0.triplet_basis.linear.weight", "model.radial_basis.bessel.frequencies"):
        weight = parameters[name].data.view(-1)
        kept, values = weight[1].item(), []
        for step in (1e-4, -1e-4):
            weight[1] = kept + step
            values.append(loss().item())
        weight[1] = kept
        slope = parameters[name].grad.view(-1)[1].item()
        assert (values[0] - values[1]) / 2e-4 == pytest.approx(slope, rel=1e-5)  # error of order step²


# ---- the model as the package sees it ---------------------------------------------------------------


def test_preset_has_the_published_size() -> None:
    with torch.device("meta"):  # without filling two million weights
        made = DimeNet([1, 6, 8], cutoff=5.0, **PRESETS["dimenet"].hyperparameters)
    assert sum(p.numel() for p in made.parameters()) == 2_100_070


def test_trunk_has_the_same_weights_for_every_kind_of_forces() -> None:
    direct, both, energy = (
        DimeNet([1, 8], cutoff=3.0, forces=forces, **SMALL).state_dict()
        for forces in ("direct", "both", "conservative")
    )
    trunk = {name for name in both if not name.startswith(("energy_head", "force_head"))}
    assert trunk == direct.keys() & energy.keys()
    assert both.keys() == direct.keys() | energy.keys()


def test_fresh_model_starts_at_zero_energy_unless_told_otherwise() -> None:
    for init, zero in (("zeros", True), ("glorot", False)):
        potential = LearnedPotential(DimeNet([1, 8], cutoff=3.0, readout_init=init, **SMALL))
        forces = predict(potential.eval(), molecule("H2O")).forces
        assert bool((forces == 0).all()) == zero


@pytest.mark.parametrize("option", ["basis", "angle", "radial_filter", "embedding", "readout_init"])
def test_unknown_choice_is_refused_with_those_known(option: str) -> None:
    with pytest.raises(UserError, match=f"unknown {option} 'papr'.*Known: "):
        model(**{option: "papr"})


def test_more_degrees_than_are_exact_are_refused() -> None:
    with pytest.raises(UserError, match=r"11 degrees of spherical harmonics .*n_spherical.*1 to 10"):
        model(n_spherical=11)


def test_element_beyond_the_table_is_refused() -> None:
    with pytest.raises(UserError, match="no element of atomic number 0"):
        DimeNet([0, 1], cutoff=3.0)
    with pytest.raises(UserError, match="its table ends at 94"):
        DimeNet([1, 95], cutoff=3.0, element_table=95)
