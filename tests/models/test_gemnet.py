"""GemNet against a plain transcription of its equations, its sizes, and what its form promises."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule
from scipy.optimize import brentq
from scipy.special import lpmv, spherical_jn

from kinetograph.errors import UserError
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.models.gemnet import PRESETS, GemNet
from kinetograph.nn.efficient import ScaleFactor, joined
from kinetograph.nn.model import HEADS, Forces
from kinetograph.nn.quadruplets import COLLINEAR, PLANAR, faded, folded
from kinetograph.system import System

CUTOFF, LINK = 2.6, 3.3
SMALL: dict[str, Any] = {
    "cutoff": CUTOFF,
    "link_cutoff": LINK,
    "width": 6,
    "edge_width": 7,
    "n_layers": 2,
    "triplet_width": 5,
    "quadruplet_width": 4,
    "rbf_width": 3,
    "cbf_width": 4,
    "sbf_width": 3,
    "triplet_bilinear": 6,
    "quadruplet_bilinear": 5,
    "n_spherical": 3,
    "n_radial": 2,
    "n_atom": 1,
}


def model(*, quadruplets: bool, forces: Forces = "both", seed: int = 5, **changes: Any) -> LearnedPotential:
    """A small model in double precision with every weight and every scale factor random."""
    torch.manual_seed(seed)
    made = GemNet([1, 6, 8], forces=forces, quadruplets=quadruplets, **{**SMALL, **changes})
    potential = LearnedPotential(made).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.5)
        made.bessel.frequencies += math.pi * torch.arange(1, made.bessel.frequencies.numel() + 1)
        for module in made.modules():
            if isinstance(module, ScaleFactor):
                module.factor.uniform_(0.5, 1.5)
    potential.force_scale.fill_(1.7)
    return potential


def graph_of(potential: LearnedPotential, atoms: ase.Atoms) -> Graph:
    system = System.from_ase(atoms)
    return build_graph(system, neighbors_for(system, potential.request), potential.request)


def small_molecule(name: str = "CH3OH") -> ase.Atoms:
    atoms = molecule(name)
    atoms.rattle(0.1, seed=1)
    return atoms


def crystal() -> ase.Atoms:
    """Three atoms in a skewed cell narrower than the cutoff: many images of each pair are neighbours."""
    cell = [[2.3, 0, 0], [0.4, 2.5, 0], [-0.3, 0.5, 3.1]]
    positions = [[0, 0, 0], [0.9, 1.1, 0.8], [0.2, 0.3, 1.9]]
    return ase.Atoms("COH", positions=positions, cell=cell, pbc=True)


STRUCTURES = {"molecule": small_molecule, "crystal": crystal}


# ---- an independent transcription, one edge, triplet and quadruplet at a time -------------------------


@cache
def bessel_roots(l: int, n: int) -> list[float]:
    grid = np.arange(0.5, 60.0, 0.1)
    signs = np.sign(spherical_jn(l, grid))
    places = [k for k in range(len(grid) - 1) if signs[k] != signs[k + 1]]
    return [brentq(lambda x: spherical_jn(l, x), grid[k], grid[k + 1], xtol=1e-15) for k in places[:n]]


def envelope(x: float, p: int = 5) -> float:
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)


def radial_functions(d: float, cutoff: float, n_l: int, n: int) -> np.ndarray:
    """u(x) √(2/c³) j_l(z_ln x) / |j_(l+1)(z_ln)|, (l, n)."""
    rows = []
    for l in range(n_l):
        roots = bessel_roots(l, n)
        rows.append([spherical_jn(l, z * d / cutoff) / abs(spherical_jn(l + 1, z)) for z in roots])
    return envelope(d / cutoff) * math.sqrt(2 / cutoff**3) * np.array(rows)


def harmonic(l: int, m: int, theta: float, phi: float) -> float:
    """Real Y_lm from angles; the sign (−1)^m of the associated Legendre function is taken out."""
    k = abs(m)
    norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k))
    value = norm * (-1) ** k * float(lpmv(k, l, math.cos(theta)))
    if m == 0:
        return value
    return math.sqrt(2) * value * (math.cos(k * phi) if m > 0 else math.sin(k * phi))


def angle(p: np.ndarray, q: np.ndarray) -> float:
    return math.atan2(float(np.linalg.norm(np.cross(p, q))), float(p @ q))


def act(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x)) / 0.6


def plain_gemnet(potential: LearnedPotential, atoms: ase.Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Atomic energies and direct forces, both in units of the force scale."""
    net = potential.model
    w = {name: value.numpy() for name, value in net.state_dict().items()}
    quadruplets = net.request.link_cutoff is not None
    n_l, n_r, n_blocks = SMALL["n_spherical"], SMALL["n_radial"], SMALL["n_layers"]
    positions, cell = atoms.positions, atoms.cell.array

    def within(cutoff: float) -> dict[tuple[int, int, tuple[int, ...]], np.ndarray]:
        """Vector from a to the image of c for every (a, c, image)."""
        found = {}
        shifts = list(product(range(-3, 4), repeat=3)) if atoms.pbc.all() else [(0, 0, 0)]
        for a, c, s in product(range(len(atoms)), range(len(atoms)), shifts):
            r = positions[c] + np.array(s) @ cell - positions[a]
            if (a, s) != (c, (0, 0, 0)) and np.linalg.norm(r) < cutoff:
                found[a, c, s] = r
        return found

    def minus(s: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-x for x in s)

    def plus(s: tuple[int, ...], t: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x + y for x, y in zip(s, t, strict=True))

    def dense(name: str, x: np.ndarray, *, activated: bool = False) -> np.ndarray:
        y = w[f"{name}.weight"] @ x
        return act(y) if activated else y

    def residual(name: str, x: np.ndarray) -> np.ndarray:
        inner = dense(f"{name}.second", dense(f"{name}.first", x, activated=True), activated=True)
        return (x + inner) / math.sqrt(2)

    edges, links = within(CUTOFF), within(LINK)  # key (a, c, s): m_ca with the centre a
    length = {e: float(np.linalg.norm(r)) for e, r in edges.items()}
    lm = [(l, m) for l in range(n_l) for m in [*range(l + 1), *range(-l, 0)]]

    # Bases.
    frequencies = w["bessel.frequencies"]
    rbf = {
        e: envelope(d / CUTOFF) * math.sqrt(2 / CUTOFF) * np.sin(frequencies * d / CUTOFF) / d
        for e, d in length.items()
    }
    radial = {e: radial_functions(d, CUTOFF, n_l, n_r) for e, d in length.items()}
    triplets = []  # (ca, ba, basis)
    for ca, r_c in edges.items():
        for ba, r_b in edges.items():
            if ba[0] != ca[0] or ba == ca:
                continue
            theta = angle(r_c, r_b)
            cbf = np.array([radial[ca][l] * harmonic(l, 0, theta, 0.0) for l in range(n_l)])  # (l, n)
            triplets.append((ca, ba, np.einsum("ln,lnk->k", cbf, w["triplet_circular.weight"])))
    chains = []  # (ca, db, circular basis, spherical basis)
    for (a, b, s), r_ab in links.items() if quadruplets else ():
        far = radial_functions(float(np.linalg.norm(r_ab)), LINK, n_l, n_r)
        for ca, r_ac in edges.items():
            if ca[0] != a or ca[1:] == (b, s):
                continue
            for db, r_bd in edges.items():
                image_of_d = plus(s, db[2])
                if db[0] != b or (db[1], image_of_d) in ((a, (0, 0, 0)), ca[1:]):
                    continue
                abd = angle(-r_ab, r_bd)
                cbf = np.array([far[l] * harmonic(l, 0, abd, 0.0) for l in range(n_l)])
                axis = r_ab / np.linalg.norm(r_ab)
                rejected = r_bd - (r_bd @ axis) * axis
                dihedral = angle(r_ac - (r_ac @ axis) * axis, rejected)
                cab = angle(r_ac, r_ab)
                # Images of one atom may lie on a line with b exactly: there is no dihedral, only m = 0.
                exists = np.linalg.norm(rejected) > 1e-10
                sbf = np.array(
                    [
                        radial[ca][l] * (harmonic(l, m, cab, dihedral) if exists or m == 0 else 0.0)
                        for l, m in lm
                    ]
                )
                spherical = np.einsum("an,ank->k", sbf, w["quadruplet_spherical.weight"])
                chains.append((ca, db, w["quadruplet_circular.weight"] @ cbf.ravel(), spherical))

    def symmetric(name: str, heard: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
        out = {}
        for a, c, s in edges:
            back = dense(f"{name}.up.other", heard[c, a, minus(s)], activated=True)
            out[a, c, s] = (dense(f"{name}.up.own", heard[a, c, s], activated=True) + back) / math.sqrt(2)
        return out

    def concat(name: str, h: list[np.ndarray], x: dict[Any, np.ndarray]) -> dict[Any, np.ndarray]:
        return {e: dense(name, np.concatenate([h[e[1]], h[e[0]], x[e]]), activated=True) for e in edges}

    row = {1: 0, 6: 1, 8: 2}
    h = [w["embedding.weight"][row[z]] for z in atoms.numbers]
    m = concat("edge_embedding", h, rbf)
    energies, strengths = np.zeros(len(atoms)), dict.fromkeys(edges, 0.0)
    for block in range(n_blocks + 1):
        if block > 0:
            p = f"layers.{block - 1}"
            x = {e: dense(f"{p}.skip", m[e], activated=True) for e in edges}

            name = f"{p}.triplets"
            source = {}
            for e in edges:
                filters = dense(f"{name}.radial", dense("triplet_radial", rbf[e]))
                y = dense(f"{name}.source", m[e], activated=True) * filters * w[f"{name}.scale_radial.factor"]
                source[e] = dense(f"{name}.down", y, activated=True)
            heard = {e: np.zeros(SMALL["triplet_bilinear"]) for e in edges}
            for ca, ba, basis in triplets:
                heard[ca] += np.einsum("k,q,qko->o", basis, source[ba], w[f"{name}.bilinear.weight"])
            heard = {e: y * w[f"{name}.scale_sum.factor"] for e, y in heard.items()}
            told = symmetric(name, heard)
            x = {e: x[e] + told[e] for e in edges}

            if quadruplets:
                name = f"{p}.quadruplets"
                for e in edges:
                    filters = dense(f"{name}.radial", dense("quadruplet_radial", rbf[e]))
                    y = dense(f"{name}.source", m[e], activated=True)
                    y = y * filters * w[f"{name}.scale_radial.factor"]
                    source[e] = dense(f"{name}.down", y, activated=True)
                heard = {e: np.zeros(SMALL["quadruplet_bilinear"]) for e in edges}
                for ca, db, circular, spherical in chains:
                    y = source[db] * dense(f"{name}.circular", circular) * w[f"{name}.scale_circular.factor"]
                    heard[ca] += np.einsum("k,q,qko->o", spherical, y, w[f"{name}.bilinear.weight"])
                heard = {e: y * w[f"{name}.scale_sum.factor"] for e, y in heard.items()}
                told = symmetric(name, heard)
                x = {e: x[e] + told[e] for e in edges}

            x = {e: x[e] / math.sqrt(3 if quadruplets else 2) for e in edges}
            for e in edges:
                y = (m[e] + residual(f"{p}.before_skip.0", x[e])) / math.sqrt(2)
                m[e] = residual(f"{p}.after_skip.0", y)
            gathered = [np.zeros(SMALL["edge_width"]) for _ in h]
            name = f"{p}.atom_update"
            for e in edges:
                gathered[e[0]] += m[e] * dense(f"{name}.radial", dense("atom_radial", rbf[e]))
            for a, y in enumerate(gathered):
                y = dense(f"{name}.dense", y * w[f"{name}.scale_sum.factor"], activated=True)
                h[a] = (h[a] + residual(f"{name}.residuals.0", y)) / math.sqrt(2)
            x = concat(f"{p}.concat", h, m)
            m = {e: (m[e] + residual(f"{p}.after_concat.0", x[e])) / math.sqrt(2) for e in edges}

        gathered = [np.zeros(SMALL["edge_width"]) for _ in h]
        for e in edges:
            y = m[e] * dense(f"readout_radial.{block}", dense("shared_readout_radial", rbf[e]))
            gathered[e[0]] += y
            name = f"force_head.{block}"
            y = dense(f"{name}.dense", y * w[f"{name}.scale.factor"], activated=True)
            strengths[e] += float(dense(f"{name}.last", residual(f"{name}.residuals.0", y))[0])
        name = f"energy_head.{block}"
        for a, y in enumerate(gathered):
            y = dense(f"{name}.dense", y * w[f"{name}.scale_sum.factor"], activated=True)
            energies[a] += float(dense(f"{name}.last", residual(f"{name}.residuals.0", y))[0])

    forces = np.zeros((len(atoms), 3))
    for (a, c, s), r in edges.items():
        f = strengths[a, c, s]
        if net.forces_coupled:
            f = 0.5 * (f + strengths[c, a, minus(s)])
        forces[a] += f * -r / length[a, c, s]
    return energies, forces


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_both_heads_equal_a_plain_transcription_of_the_equations(quadruplets: bool, structure: str) -> None:
    potential, atoms = model(quadruplets=quadruplets), STRUCTURES[structure]()
    graph = graph_of(potential, atoms)
    if structure == "crystal":
        assert graph.n_edges > 2 * len(atoms) ** 2  # more than one image of a pair
    with torch.no_grad():
        fast = potential.model(graph, HEADS)
    energies, forces = plain_gemnet(potential, atoms)
    assert np.abs(energies).max() > 0.1
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(
        fast.energies.numpy(), energies, rtol=1e-10, atol=1e-11 * np.abs(energies).max()
    )
    np.testing.assert_allclose(fast.forces.numpy(), forces, rtol=1e-10, atol=1e-11 * np.abs(forces).max())


def test_coupled_forces_equal_a_plain_transcription_too() -> None:
    potential, atoms = model(quadruplets=False, forces_coupled=True), crystal()
    with torch.no_grad():
        fast = potential.model(graph_of(potential, atoms), HEADS).forces.numpy()
    forces = plain_gemnet(potential, atoms)[1]
    np.testing.assert_allclose(fast, forces, rtol=1e-10, atol=1e-11 * np.abs(forces).max())


def test_a_separate_energy_is_that_of_the_energy_readout_and_not_a_potential() -> None:
    both = model(quadruplets=False, forces="both")
    direct = model(quadruplets=False, forces="direct", separate_energy=True)
    assert direct.model.separate_energy
    assert not both.model.separate_energy
    direct.load_state_dict(both.state_dict())
    system = System.from_ase(small_molecule())
    neighbors = neighbors_for(system, direct.request)
    prediction, other = direct(system, neighbors), both(system, neighbors)
    torch.testing.assert_close(prediction.energy, other.energy, rtol=1e-14, atol=0)
    assert not prediction.conservative
    assert (prediction.forces - other.forces).abs().max() > 0.1
    assert model(quadruplets=False, forces="direct")(system, neighbors).energy is None


# ---- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "forces", "expected"),
    [
        ("gemnet-t", "conservative", 1_892_294),
        ("gemnet-q", "conservative", 2_158_470),
        ("gemnet-dt", "direct", 2_302_534),
        ("gemnet-dq", "direct", 2_568_710),
        ("gemnet-t", "both", 2_302_534),
        ("gemnet-q", "both", 2_568_710),
        ("gemnet-t", "direct", 2_302_534 - 410_240),  # forces alone
    ],
)
def test_presets_have_the_published_sizes(preset: str, forces: Forces, expected: int) -> None:
    made = GemNet([1, 6, 8], cutoff=5.0, forces=forces, **PRESETS[preset].hyperparameters)
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == expected


def test_the_trunk_has_the_same_names_for_all_kinds_of_forces() -> None:
    names = {
        forces: set(model(quadruplets=True, forces=forces).model.state_dict())
        for forces in ("direct", "conservative", "both")
    }
    assert names["both"] == names["direct"] | names["conservative"]
    shared = names["direct"] & names["conservative"]
    assert {name for name in names["both"] if "_head." not in name} == shared


# ---- derivatives -------------------------------------------------------------------------------------


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_forces_are_the_slope_of_the_energy(quadruplets: bool) -> None:
    potential, atoms = model(quadruplets=quadruplets, forces="conservative"), crystal()
    system = System.from_ase(atoms)

    def energy(positions: torch.Tensor) -> float:
        moved = replace(system, positions=positions)
        return float(potential(moved, neighbors_for(moved, potential.request)).energy)

    forces = potential(system, neighbors_for(system, potential.request)).forces
    h = 1e-5
    for atom, axis in product(range(len(atoms)), range(3)):
        step = torch.zeros_like(system.positions)
        step[atom, axis] = h
        slope = (energy(system.positions + step) - energy(system.positions - step)) / (2 * h)
        # Rounding 1e-16 E / h and the third derivative times h² / 6.
        assert -slope == pytest.approx(float(forces[atom, axis]), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_a_training_step_on_both_heads_has_the_gradient_of_its_loss(quadruplets: bool) -> None:
    potential, system = model(quadruplets=quadruplets).train(), System.from_ase(small_molecule("H2CO"))
    neighbors = neighbors_for(system, potential.request)

    def loss() -> torch.Tensor:
        prediction = potential(system, neighbors)
        assert prediction.direct_forces is not None
        return prediction.forces.square().mean() + prediction.direct_forces.square().mean()

    loss().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in potential.parameters())
    names = ["triplet_circular.weight", "layers.0.triplets.bilinear.weight", "bessel.frequencies"]
    if quadruplets:
        names += ["quadruplet_spherical.weight", "layers.1.quadruplets.circular.weight"]
    for name in names:
        parameter = potential.model.get_parameter(name)
        values, h = parameter.data.view(-1), 1e-5
        whole = float(values[0])
        at = []
        for sign in (1, -1):
            values[0] = whole + sign * h
            at.append(float(loss().detach()))
        values[0] = whole
        assert (at[0] - at[1]) / (2 * h) == pytest.approx(
            float(parameter.grad.view(-1)[0]), rel=1e-5, abs=1e-7
        )


@pytest.mark.parametrize("name", ["CO2", "C2H2", "C6H6", "H2", "P2"])
def test_lines_and_planes_have_finite_forces_and_finite_gradients_of_them(name: str) -> None:
    atoms = molecule(name)
    atoms.numbers[atoms.numbers == 15] = 8
    potential, system = model(quadruplets=True).train(), System.from_ase(atoms)
    prediction = potential(system, neighbors_for(system, potential.request))
    assert bool(prediction.forces.isfinite().all())
    prediction.forces.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in potential.parameters() if p.grad is not None)
    if name == "CO2":  # nothing pushes a line out of itself
        torch.testing.assert_close(prediction.forces[:, :2], torch.zeros(3, 2).double(), rtol=0, atol=1e-9)


def test_rounding_of_exact_lines_and_planes_of_images_does_not_reach_the_forces() -> None:
    """a, a + S and a + 2S are on a line, and rounding bends every copy of it in its own way."""
    potential, atoms = model(quadruplets=True, forces="conservative"), crystal()
    forces = []
    for frame in (atoms, atoms * (2, 1, 2)):
        system = System.from_ase(frame)
        forces.append(potential(system, neighbors_for(system, potential.request)).forces)
    expected = forces[0].repeat(4, 1)
    torch.testing.assert_close(forces[1], expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_fold_and_fade_are_smooth_where_they_begin_and_exact_beyond() -> None:
    y = torch.tensor([-0.3, 0.0, 0.2, PLANAR], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(folded(y).sum(), y)
    torch.testing.assert_close(folded(y), y.abs(), rtol=0, atol=0)
    torch.testing.assert_close(slope, torch.tensor([-1.0, 0.0, 1.0, 1.0]).double(), rtol=0, atol=0)
    inside = torch.tensor([PLANAR * (1 - 1e-9)], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(folded(inside).sum(), inside)[0], torch.ones(1).double())

    def length(size: float) -> tuple[float, float]:
        vector = torch.tensor([[0.6 * size, 0.0, -0.8 * size]], dtype=torch.float64, requires_grad=True)
        total = faded(vector) @ torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
        return float(total.detach()), float(torch.autograd.grad(total.sum(), vector)[0].norm())

    assert length(0.0) == (0.0, 0.0)
    assert length(0.5) == pytest.approx((1.0, 0.0), abs=1e-12)
    # Relative to 1 / COLLINEAR, the size of slopes within.
    assert length(COLLINEAR * (1 - 1e-9)) == pytest.approx((1.0, 0.0), abs=1e-7 / COLLINEAR)


# ---- what the form promises --------------------------------------------------------------------------


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_coupled_direct_forces_have_neither_a_net_force_nor_a_torque(quadruplets: bool) -> None:
    atoms = small_molecule()
    for coupled in (True, False):
        potential = model(quadruplets=quadruplets, forces="direct", forces_coupled=coupled)
        promised = {"net force", "torque"} <= potential.model.exact["direct"]
        assert promised == coupled
        with torch.no_grad():
            forces = potential.model(graph_of(potential, atoms), ("direct",)).forces.numpy()
        total = np.abs(forces.sum(axis=0)).max()
        torque = np.abs(np.cross(atoms.positions, forces).sum(axis=0)).max()
        scale = np.abs(forces).max()
        assert (total < 1e-13 * scale) == coupled
        assert (torque < 1e-12 * scale) == coupled


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_an_isolated_atom_has_no_energy_and_feels_nothing(quadruplets: bool) -> None:
    potential = model(quadruplets=quadruplets)
    atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 50.0]])
    outputs = potential.model(graph_of(potential, atoms), HEADS)
    assert bool((outputs.energies == 0).all())
    assert bool((outputs.forces == 0).all())
    prediction = potential.train()(
        System.from_ase(atoms), neighbors_for(System.from_ase(atoms), potential.request)
    )
    assert bool((prediction.forces == 0).all())


def test_mirror_images_are_one_to_it() -> None:
    potential, atoms = model(quadruplets=True), molecule("CH3CH2OH")
    atoms.rattle(0.2, seed=3)
    mirrored = atoms.copy()
    mirrored.positions[:, 0] *= -1
    with torch.no_grad():
        here, there = (potential.model(graph_of(potential, a), HEADS) for a in (atoms, mirrored))
    torch.testing.assert_close(here.energies, there.energies, rtol=1e-12, atol=1e-12)
    flip = torch.tensor([-1.0, 1.0, 1.0]).double()
    torch.testing.assert_close(here.forces, there.forces * flip, rtol=1e-11, atol=1e-11)


def test_quadruplets_see_a_dihedral_angle_that_triplets_cannot() -> None:
    """A chain of four atoms, its ends too far for the cutoff, turned about the bond in the middle."""

    def chain(dihedral: float) -> ase.Atoms:
        end = [1.4 + 1.0, 1.1 * math.cos(dihedral), 1.1 * math.sin(dihedral)]
        return ase.Atoms("HCOH", positions=[[-1.0, 1.1, 0], [0, 0, 0], [1.4, 0, 0], end])

    for quadruplets in (False, True):
        potential = model(quadruplets=quadruplets, forces="conservative", cutoff=1.8, link_cutoff=1.8)
        with torch.no_grad():
            one, other = (
                float(potential.model(graph_of(potential, chain(phi)), ("conservative",)).energies.sum())
                for phi in (0.7, 2.0)
            )
        assert (abs(one - other) > 1e-6) == quadruplets
        assert quadruplets or abs(one - other) < 1e-12


@pytest.mark.parametrize("distance", [CUTOFF, LINK])
def test_forces_are_continuous_where_edges_and_links_end(distance: float) -> None:
    potential = model(quadruplets=True)
    jumps = []
    for side in (-1e-6, 1e-6):
        atoms = ase.Atoms(
            "COHHO", positions=[[0, 0, 0], [1.1, 0.3, 0.2], [0.1, 1.0, -0.4], [0, 0, 0], [0, 0, 0]]
        )
        away = np.array([0.36, 0.48, -0.8]) * (distance + side)
        atoms.positions[3:] = [away, away + np.array([0.8, 0.9, -0.5])]
        system = System.from_ase(atoms)
        neighbors = neighbors_for(system, potential.request)
        forces = []
        for head in HEADS:
            potential.use_forces(head)
            forces.append(potential(system, neighbors).forces.detach())
        jumps.append(torch.stack(forces))
    # The step of 2e-6 Å times the curvature of the energy; a term without envelope jumps by 1e-2 and more.
    assert float((jumps[0] - jumps[1]).abs().max()) < 1e-3 * float(jumps[0].abs().max())


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_an_atom_at_the_receptive_field_is_the_last_that_matters(quadruplets: bool) -> None:
    """A zigzag of atoms: the energy of the first changes with atoms up to the request's distance at most."""
    potential = model(quadruplets=quadruplets, n_layers=1, cutoff=1.5, link_cutoff=2.6, n_spherical=2)
    number = np.arange(12)
    atoms = ase.Atoms(
        "C12", positions=np.stack([1.2 * number, 0.3 * (number % 2), 0.2 * (number % 3)], axis=1)
    )
    with torch.no_grad():
        base = potential.model(graph_of(potential, atoms), HEADS)
        reached = []
        for last in range(1, 12):
            moved = atoms.copy()
            moved.positions[last] += [0.0, 0.05, 0.1]
            there = potential.model(graph_of(potential, moved), HEADS)
            if there.energies[0] != base.energies[0] or bool((there.forces[0] != base.forces[0]).any()):
                reached.append(last)
    # One edge; per block one edge and, with quadruplets, a link of two atoms; and the edge of the atom there.
    assert max(reached) == (5 if quadruplets else 3)
    assert (
        np.linalg.norm(atoms.positions[max(reached)] - atoms.positions[0])
        <= potential.request.receptive_field
    )


# ---- scale factors -----------------------------------------------------------------------------------


def frames() -> list[ase.Atoms]:
    made = []
    for number, name in enumerate(["CH3OH", "H2O", "C2H6", "CH3CH2OH", "H2CO", "CO2"]):
        atoms = molecule(name)
        atoms.rattle(0.1, seed=number)
        made.append(atoms)
    return made


@pytest.mark.parametrize("quadruplets", [False, True], ids=["T", "Q"])
def test_fitted_scale_factors_keep_the_variance_at_every_site(quadruplets: bool) -> None:
    torch.manual_seed(3)
    made = GemNet(
        [1, 6, 8], forces="both", quadruplets=quadruplets, **{**SMALL, "edge_width": 24, "width": 24}
    )
    potential = LearnedPotential(made.double())
    graphs = [graph_of(potential, atoms) for atoms in frames()]
    seen: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            reference = inputs[1] if len(inputs) < 3 else inputs[1][inputs[2]]
            seen[name] = (float(output.var(dim=0).mean()), float(reference.var(dim=0).mean()))

        return hook

    sites = {name: module for name, module in made.named_modules() if isinstance(module, ScaleFactor)}
    handles = [site.register_forward_hook(watch(name)) for name, site in sites.items()]

    def ratios() -> np.ndarray:
        with torch.no_grad():
            made(joined(graphs), HEADS)
        return np.array([seen[name][0] / seen[name][1] for name in sites])

    assert len(sites) == len(made.readout_radial) * 2 + 2 * (6 if quadruplets else 3)
    assert np.abs(np.log(ratios())).max() > 1.0  # not so from the start
    made.fit_statistics(graphs, [])
    np.testing.assert_allclose(ratios(), 1.0, rtol=1e-12)
    for handle in handles:
        handle.remove()
    # They belong to the model file, but not to what is trained, and one pass is all that fits them.
    assert {f"{name}.factor" for name in sites} <= set(made.state_dict())
    assert not any("factor" in name for name, _ in made.named_parameters())
    fitted = {name: float(site.factor) for name, site in sites.items()}
    with torch.no_grad():
        made(graphs[0], HEADS)
    assert fitted == {name: float(site.factor) for name, site in sites.items()}


def test_scale_factors_stay_one_where_there_is_nothing_to_fit_them_to() -> None:
    made = GemNet([1], forces="both", quadruplets=True, **SMALL)
    potential = LearnedPotential(made.double())
    made.fit_statistics([graph_of(potential, ase.Atoms("H"))], [])
    made.fit_statistics([], [])
    assert all(float(m.factor) == 1.0 for m in made.modules() if isinstance(m, ScaleFactor))


# ---- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_spherical": 0}, "n_spherical is 0"),
        ({"n_spherical": 11}, "11 degrees of spherical harmonics"),
        ({"n_layers": -1}, "n_layers is -1"),
        ({"envelope_power": 0}, "envelope_power is 0"),
        ({"link_cutoff": 0.0}, "links of at most 0 Å hold no atoms"),
    ],
)
def test_bad_hyperparameters_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("gemnet", [1], {**SMALL, **arguments})


def test_an_element_outside_the_published_table_is_named() -> None:
    with pytest.raises(UserError, match=r"no element Pu .*table ends at 93"):
        GemNet([94], **{**SMALL, "element_table": 93})
