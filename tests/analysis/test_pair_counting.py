"""g(r) from trajectories against closed forms, MDAnalysis and the neighbour search."""

from __future__ import annotations

from collections.abc import Callable

import ase
import ase.build
import MDAnalysis
import numpy as np
import pytest
from MDAnalysis.analysis.rdf import InterRDF

from kinetograph.analysis import RadialDistribution, pair_counting, radial_distributions
from kinetograph.errors import UserError
from kinetograph.pairs import edges_within
from kinetograph.system import System
from kinetograph.trajectory import Trajectory

Write = Callable[..., Trajectory]
TRICLINIC = np.array([[12.0, 0.0, 0.0], [3.0, 11.0, 0.0], [-2.0, 4.0, 13.0]])


def waters(rng: np.random.Generator, n_frames: int, n_molecules: int, box: float) -> tuple[np.ndarray, ...]:
    """Random rigid waters: positions (n_frames, n_atoms, 3), numbers, bonds."""
    body = np.array([[0.0, 0.0, 0.0], [0.957, 0.0, 0.0], [-0.24, 0.927, 0.0]])
    turns = np.linalg.qr(rng.normal(size=(n_frames, n_molecules, 3, 3)))[0]
    centers = rng.uniform(0.0, box, size=(n_frames, n_molecules, 1, 3))
    positions = centers + np.einsum("ak,fmjk->fmaj", body, turns)
    first = 3 * np.arange(n_molecules)
    bonds = np.concatenate([np.stack([first, first + 1], 1), np.stack([first, first + 2], 1)])
    return positions.reshape(n_frames, -1, 3), np.tile([8, 1, 1], n_molecules), bonds


def by_name(rdfs: list[RadialDistribution]) -> dict[tuple[str, str], RadialDistribution]:
    return {(rdf.name, rdf.kind): rdf for rdf in rdfs}


def test_an_ideal_gas_has_g_of_one_within_its_error(write: Write, rng: np.random.Generator) -> None:
    runs = [
        write(rng.uniform(size=(60, 80, 3)) @ TRICLINIC, TRICLINIC, np.repeat([1, 18], [30, 50]))
        for _ in range(2)
    ]
    for rdf in radial_distributions(runs, bin_width_A=0.2):
        beyond = rdf.r > 1.0  # nearer, bins hold too few pairs for a normal error
        deviation = (rdf.g - 1.0)[beyond]
        assert np.abs(deviation).max() < 0.25
        # independent bins of independent frames: the 95 % band must hold in about 95 % of them
        assert (np.abs(deviation) < rdf.band[beyond]).mean() > 0.8
        # the mean over r has a standard error of some 10⁻³, and no bias from the finite number of atoms
        assert np.average(deviation, weights=rdf.r[beyond] ** 2) == pytest.approx(0.0, abs=0.01)


def test_g_equals_mdanalysis_on_water_with_and_without_the_own_molecule(
    write: Write, rng: np.random.Generator
) -> None:
    box, n_molecules = 12.0, 40
    positions, numbers, bonds = waters(rng, 6, n_molecules, box)
    trajectory = write(positions, np.eye(3) * box, numbers, bonds=bonds)
    ours = by_name(radial_distributions([trajectory], bin_width_A=0.1))
    universe = MDAnalysis.Universe.empty(len(numbers), trajectory=True)
    stored = trajectory.positions().astype(np.float32)
    universe.load_new(stored, dimensions=[box, box, box, 90.0, 90.0, 90.0])
    oxygen, hydrogen = universe.atoms[numbers == 8], universe.atoms[numbers == 1]
    pairs = {  # ours: groups, and the block sizes that leave out the own molecule
        "O–O": (oxygen, oxygen, (1, 1)),
        "O–H": (oxygen, hydrogen, (1, 2)),
        "H–H": (hydrogen, hydrogen, (2, 2)),
    }
    for name, (one, other, own_molecule) in pairs.items():
        theirs = InterRDF(one, other, nbins=60, range=(0.0, 6.0), exclusion_block=own_molecule).run()
        # single precision in MDAnalysis can move a pair across a bin edge: allow one or two in sparse bins
        difference = np.abs(ours[name, "intermolecular"].g - theirs.results.rdf)
        assert np.quantile(difference, 0.9) < 1e-6
        assert difference[10:].max() < 0.2
    both = InterRDF(hydrogen, oxygen, nbins=60, range=(0.0, 6.0)).run()
    assert np.quantile(np.abs(ours["O–H", "all"].g - both.results.rdf), 0.9) < 1e-6


def test_bonded_pairs_are_in_all_and_not_in_intermolecular(write: Write, rng: np.random.Generator) -> None:
    # molecules on a coarse grid: every distance below 1.7 Å is inside one
    positions, numbers, bonds = waters(rng, 3, 27, 15.0)
    grid = 5.0 * np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    bodies = positions.reshape(3, 27, 3, 3)
    positions = (bodies - bodies[:, :, :1] + grid[:, None]).reshape(3, 81, 3)
    rdfs = by_name(radial_distributions([write(positions, np.eye(3) * 15.0, numbers, bonds=bonds)]))
    near = rdfs["O–H", "all"].r < 1.7
    assert rdfs["O–H", "all"].g[near].max() > 10.0
    assert rdfs["O–H", "intermolecular"].g[near].max() == 0.0
    # two hydrogens for each of 27 oxygens, counted back from g
    volume, width = 15.0**3, 0.05
    edges = np.arange(len(near) + 1) * width
    shells = 4.0 * np.pi / 3.0 * np.diff(edges**3)
    count = (rdfs["O–H", "all"].g * shells)[near].sum() * (54 * 27) / volume
    assert count == pytest.approx(54.0)


def test_fcc_shells_lie_where_the_lattice_has_them(write: Write) -> None:
    crystal = ase.build.bulk("Ar", "fcc", a=5.26, cubic=True) * (4, 4, 4)
    (rdf,) = radial_distributions([write(crystal.positions[None], np.asarray(crystal.cell), crystal.numbers)])
    occupied = rdf.r[rdf.g > 0]
    shells = 5.26 * np.sqrt(np.arange(1, 9) / 2.0)  # a·sqrt(n/2), without n = 7 in none of the first eight
    for radius in shells[[0, 1, 2, 3, 4, 5]]:
        assert np.abs(occupied - radius).min() < 0.5 * 0.05 + 1e-6
    assert np.all([np.abs(shells - r).min() < 0.03 for r in occupied if r < shells[-1]])
    first = np.argmax(rdf.g > 0)
    edges = np.array([rdf.r[first] - 0.025, rdf.r[first] + 0.025])
    neighbors = (
        rdf.g[first] * 4.0 * np.pi / 3.0 * np.diff(edges**3)[0] * (len(crystal) - 1) / crystal.cell.volume
    )
    assert neighbors == pytest.approx(12.0)


def test_a_triclinic_cell_gives_what_its_orthorhombic_supercell_gives(
    write: Write, rng: np.random.Generator
) -> None:
    sheared = np.array([[14.0, 0.0, 0.0], [7.0, 12.0, 0.0], [0.0, 0.0, 13.0]])
    atoms = ase.Atoms(
        numbers=[18] * 40, positions=rng.uniform(size=(40, 3)) @ sheared, cell=sheared, pbc=True
    )
    # 2 b − a is along y
    straight = ase.build.make_supercell(atoms, [[1, 0, 0], [-1, 2, 0], [0, 0, 1]])
    assert np.allclose(straight.cell, np.diag([14.0, 24.0, 13.0]))
    one, two = (
        radial_distributions([write(a.positions[None], np.asarray(a.cell), a.numbers)], r_max_A=5.9)[0]
        for a in (atoms, straight)
    )
    # the same pairs, normalised by N − 1 of each cell; single precision on disk may move one across an edge
    counts = [rdf.g * (n - 1) / n for rdf, n in ((one, 40), (two, 80))]
    assert np.quantile(np.abs(counts[0] - counts[1]), 0.95) < 1e-9
    assert np.abs(counts[0] - counts[1]).max() < 10.0


def test_pairs_are_those_of_the_neighbour_search_in_any_cell(write: Write, rng: np.random.Generator) -> None:
    for _ in range(5):
        cell = np.diag(rng.uniform(8.0, 12.0, size=3)) + np.tril(rng.uniform(-5.0, 5.0, size=(3, 3)), -1)
        trajectory = write(rng.uniform(-1.0, 2.0, size=(1, 50, 3)) @ cell, cell, np.full(50, 18))
        (rdf,) = radial_distributions([trajectory], bin_width_A=0.5)
        edges = np.arange(len(rdf.r) + 1) * 0.5
        shells = 4.0 * np.pi / 3.0 * np.diff(edges**3)
        ours = rdf.g * shells * 50 * 49 / abs(np.linalg.det(cell))
        system = System.from_ase(trajectory.frame(0))
        center, neighbor, shift = edges_within(system, float(edges[-1]))
        vectors = system.positions[neighbor] - system.positions[center] + shift @ system.cell[0]
        expected, _ = np.histogram(np.linalg.norm(vectors.numpy(), axis=1), edges)
        assert np.allclose(ours, expected)


def test_a_random_subset_of_centres_gives_the_same_function(
    write: Write, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions, numbers, bonds = waters(rng, 20, 100, 16.0)
    trajectory = write(positions, np.eye(3) * 16.0, numbers, bonds=bonds)
    full = by_name(radial_distributions([trajectory], bin_width_A=0.4))
    monkeypatch.setattr(pair_counting, "PAIRS_PER_FRAME", 1)  # down to the least number, 100 of 300 centres
    part = by_name(radial_distributions([trajectory], bin_width_A=0.4))
    assert full.keys() == part.keys()
    for key, rdf in full.items():
        far = rdf.r > 2.5
        assert np.abs(part[key].g - rdf.g)[far].max() < 0.2
        assert part[key].g[far].mean() == pytest.approx(rdf.g[far].mean(), abs=0.02)
    # inside the molecule nothing is random: two bonds for each oxygen, to the noise of the draw
    assert part["O–H", "all"].g[2] == pytest.approx(full["O–H", "all"].g[2], rel=0.05)


def test_volume_changes_are_followed_frame_by_frame(write: Write, rng: np.random.Generator) -> None:
    scale = np.linspace(0.9, 1.2, 40)
    cells = np.eye(3) * 12.0 * scale[:, None, None]
    positions = rng.uniform(size=(40, 100, 3)) * 12.0 * scale[:, None, None]
    (rdf,) = radial_distributions([write(positions, cells, np.full(100, 18))], bin_width_A=0.2)
    assert rdf.r[-1] < 0.5 * 12.0 * 0.9
    assert np.average(rdf.g, weights=rdf.r**2) == pytest.approx(1.0, abs=0.01)


def test_boxes_that_cannot_serve_are_refused(write: Write, rng: np.random.Generator) -> None:
    positions = rng.uniform(0.0, 10.0, size=(3, 5, 3))
    box = write(positions, np.eye(3) * 10.0, np.full(5, 18))
    with pytest.raises(UserError, match="half the smallest height"):
        radial_distributions([box], r_max_A=6.0)
    with pytest.raises(UserError, match="no frame is left"):
        radial_distributions([box], skip_fs=1e6)
    with pytest.raises(UserError, match="different atoms"):
        radial_distributions([box, write(positions, np.eye(3) * 10.0, np.full(5, 10))])
    with pytest.raises(UserError, match="periodic in three directions"):
        radial_distributions([write(positions, np.zeros((3, 3)), np.full(5, 18), pbc=False)])
