"""Symmetry functions against a plain transcription of their sums, and what they do not change with."""

from __future__ import annotations

import itertools
from dataclasses import replace

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.nn import fingerprints
from kinetograph.nn.fingerprints import SymmetryFunctions
from kinetograph.system import System

CUTOFF = 3.7
ZETAS = (1.0, 2.0, 5.5)


def functions() -> SymmetryFunctions:
    made = SymmetryFunctions([8, 1, 6], cutoff=CUTOFF, n_radial=4, zetas=ZETAS, n_angular=2).double()
    made.shortest.fill_(0.9)
    return made


def graph_of(atoms: ase.Atoms) -> Graph:
    request = GraphRequest(cutoff=CUTOFF, triplets="fork")
    system = System.from_ase(atoms)
    return build_graph(system, neighbors_for(system, request), request)


def methanol() -> ase.Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=1)
    return atoms


def crystal() -> ase.Atoms:
    """A skewed cell narrower than the cutoff."""
    atoms = molecule("H2O")
    atoms.set_cell([[3.1, 0, 0], [0.7, 3.3, 0], [-0.5, 0.4, 3.5]])
    atoms.pbc = True
    atoms.rattle(0.05, seed=4)
    return atoms


def plain_features(atoms: ase.Atoms) -> np.ndarray:
    """The sums as they are written: one neighbour at a time, one pair of neighbours at a time."""

    def f(d: float) -> float:
        return 0.5 * (np.cos(np.pi * d / CUTOFF) + 1.0) if d < CUTOFF else 0.0

    elements = [1, 6, 8]
    pairs = list(itertools.combinations_with_replacement(elements, 2))
    reach = [range(-4, 5) if periodic else range(1) for periodic in atoms.pbc]
    rows = []
    for i in range(len(atoms)):
        around = []
        for j in range(len(atoms)):
            for cell in itertools.product(*reach):
                r = atoms.positions[j] + np.array(cell) @ atoms.cell.array - atoms.positions[i]
                if 0 < np.linalg.norm(r) < CUTOFF:
                    around.append((int(atoms.numbers[j]), r, np.linalg.norm(r)))
        radial = np.zeros((3, 4))
        spacing = (CUTOFF - 0.9) / 4
        for z, _, d in around:
            for m in range(4):
                eta = 1 / (2 * spacing**2)
                radial[elements.index(z), m] += np.exp(-eta * (d - 0.9 - m * spacing) ** 2) * f(d)
        angular = np.zeros((6, 2, len(ZETAS), 2))
        for (y, r_j, d_j), (z, r_k, d_k) in itertools.combinations(around, 2):
            d_jk = np.linalg.norm(r_k - r_j)
            cosine = r_j @ r_k / (d_j * d_k)
            pair = pairs.index((min(y, z), max(y, z)))
            for s, sign in enumerate((1, -1)):
                for n, zeta in enumerate(ZETAS):
                    for m in range(2):
                        eta = 0.5 * (2**m / CUTOFF) ** 2
                        angular[pair, s, n, m] += (
                            2 ** (1 - zeta)
                            * max(1 + sign * cosine, 0.0) ** zeta
                            * np.exp(-eta * (d_j**2 + d_k**2 + d_jk**2))
                            * f(d_j)
                            * f(d_k)
                            * f(d_jk)
                        )
        rows.append(np.concatenate([radial.ravel(), angular.ravel()]))
    return np.array(rows)


@pytest.mark.parametrize("atoms", [methanol(), crystal()], ids=["molecule", "crystal"])
def test_features_equal_a_plain_transcription(atoms: ase.Atoms) -> None:
    made = functions()
    slow = plain_features(atoms)
    fast = made(graph_of(atoms)).numpy()
    assert fast.shape == (len(atoms), made.n_features)
    assert np.abs(slow).max() > 0.1
    np.testing.assert_allclose(fast, slow, rtol=1e-10, atol=1e-12)


def test_portions_of_triplets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(crystal())
    whole = functions()(graph)
    monkeypatch.setattr(fingerprints, "TRIPLETS_AT_ONCE", 50)
    torch.testing.assert_close(functions()(graph), whole, rtol=0, atol=1e-13)


def test_features_do_not_know_orientation() -> None:
    atoms = methanol()
    turned = atoms.copy()
    turned.rotate(73, [1, 2, -1])
    turned.positions *= [1, 1, -1]
    torch.testing.assert_close(
        functions()(graph_of(turned)), functions()(graph_of(atoms)), rtol=0, atol=1e-12
    )


def test_isolated_atom_has_no_features() -> None:
    assert (functions()(graph_of(ase.Atoms("O"))) == 0).all()


def test_features_and_their_slopes_vanish_at_the_cutoff() -> None:
    graph = graph_of(ase.Atoms("CO", positions=[[0, 0, 0], [0, 0, CUTOFF - 1e-5]]))
    # cos² of a right angle less δ: second order in the step
    assert functions()(graph).abs().max() < 1e-9


def test_derivatives_are_finite_where_neighbours_are_opposite() -> None:
    """At cos θ = −1 the power of zero has a slope that is asked for twice where forces are fitted."""
    graph = graph_of(ase.Atoms("OCO", positions=[[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]]))
    vectors = graph.edge_vectors.requires_grad_(True)
    graph = replace(graph, edge_vectors=vectors, distances=vectors.norm(dim=1))
    (slope,) = torch.autograd.grad(functions()(graph).sum(), vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), vectors)
    assert torch.isfinite(slope).all()
    assert torch.isfinite(curvature).all()


def test_features_are_finite_where_rounding_takes_a_cosine_below_minus_one(rng: np.random.Generator) -> None:
    for r in rng.normal(size=(40, 3)):
        atoms = ase.Atoms("OCO", positions=[r, np.zeros(3), -0.9 * r])
        atoms.positions *= 1.2 / np.linalg.norm(r)
        assert torch.isfinite(functions()(graph_of(atoms))).all()


@pytest.mark.parametrize("wrong", [{"n_radial": 0}, {"n_angular": 0}, {"zetas": ()}, {"zetas": (0.5, 1.0)}])
def test_impossible_grids_are_refused(wrong: dict[str, object]) -> None:
    arguments = {"n_radial": 4, "zetas": ZETAS, "n_angular": 1, **wrong}
    with pytest.raises(ValueError, match="symmetry functions need"):
        SymmetryFunctions([1], cutoff=CUTOFF, **arguments)
