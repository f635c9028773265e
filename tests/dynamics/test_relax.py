"""Relaxation: the same minima as ASE's optimisers, in fewer steps, many at once and each on its own."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase
import ase.io
import ase.units
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.morse import MorsePotential as AseMorse
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS as AseLBFGS
from ase.optimize.fire2 import FIRE2 as AseFIRE2
from rich.console import Console

from kinetograph.dynamics.relax import (
    FIRE,
    LBFGS,
    RelaxationTrajectory,
    Relaxed,
    RelaxedWriter,
    relax,
)
from kinetograph.dynamics.relax.active import Active
from kinetograph.dynamics.relax.coordinates import CellFreedom, Coordinates, Rows
from kinetograph.dynamics.relax.reporters import RelaxationStatus
from kinetograph.dynamics.relax.results import Frames
from kinetograph.engines.ase import KinetographCalculator
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.models.classical import Harmonic, LennardJones, Morse
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch
from kinetograph.training_domain import TrainingDomain

CU = {"depth": 0.3429, "steepness": 1.3588, "length": 2.866}


def copper() -> Morse:
    """Morse's potential of copper (Girifalco and Weizer 1959), switched off smoothly."""
    return Morse(**CU, cutoff=7.0, truncation="switch", switch_start=5.5)


def ase_copper() -> Calculator:
    length = CU["length"]
    return AseMorse(
        epsilon=CU["depth"], r0=length, rho0=CU["steepness"] * length, rcut1=5.5 / length, rcut2=7.0 / length
    )


def argon() -> LennardJones:
    return LennardJones(epsilon=0.0103, sigma=3.4, cutoff=12.0, truncation="shift")


def ase_argon() -> Calculator:
    return AseLennardJones(epsilon=0.0103, sigma=3.4, rc=12.0)


def cluster(seed: int = 1) -> ase.Atoms:
    atoms = Icosahedron("Ar", 2, latticeconstant=5.4)
    atoms.rattle(0.3, seed=seed)
    return atoms


def vacancy(seed: int = 1) -> ase.Atoms:
    atoms = bulk("Cu", "fcc", 3.65, cubic=True) * (2, 2, 2)
    del atoms[5]
    atoms.rattle(0.1, seed=seed)
    return atoms


def slab(seed: int = 1) -> ase.Atoms:
    atoms = fcc111("Cu", (2, 2, 4), a=3.65, vacuum=8.0)
    atoms.rattle(0.1, seed=seed)
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 2))
    return atoms


def strained(atoms: ase.Atoms, *, by: float = 0.04, seed: int = 2) -> ase.Atoms:
    strain = np.random.default_rng(seed).normal(size=(3, 3)) * by
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
    return atoms


def run(potential: Potential, atoms: ase.Atoms | list[ase.Atoms], **options: Any) -> list[Relaxed]:
    return relax(potential, System.from_ase(atoms), status=False, **options).structures


class ForcesOnly(Potential):
    """The forces of another potential without its energy, and what a wrong model adds to them."""

    def __init__(self, inner: Potential, add: Callable[[System], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.inner, self.add, self.request = inner, add, inner.request

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        forces = self.inner(system, neighbors).forces
        return Prediction(
            forces=forces if self.add is None else forces + self.add(system), conservative=False
        )


# ---- the same minima as ASE's ------------------------------------------------------------------------

CASES = {
    "cluster": (cluster, argon, ase_argon, 1e-4),
    "crystal with a vacancy": (vacancy, copper, ase_copper, 1e-3),
    "slab with fixed atoms": (slab, copper, ase_copper, 1e-3),
}


class Counting:
    """How many times a calculator computes."""

    def __init__(self, calculator: Calculator) -> None:
        self.n, calculate = 0, calculator.calculate

        def counted(*args: Any, **words: Any) -> Any:
            self.n += 1
            return calculate(*args, **words)

        calculator.calculate = counted


@pytest.mark.parametrize("case", CASES)
def test_energies_and_structures_are_those_of_ases_lbfgs(case: str) -> None:
    make, ours, theirs, fmax = CASES[case]
    expected = make()
    expected.calc = theirs()
    counting = Counting(expected.calc)
    assert AseLBFGS(expected, logfile=None).run(fmax=fmax, steps=1000)
    for method in ("lbfgs", "fire"):
        (found,) = run(ours(), make(), method=method, fmax_eV_per_A=fmax, max_steps=500)
        assert found.converged
        assert found.max_force_eV_per_A < fmax
        assert found.energy_eV == pytest.approx(expected.get_potential_energy(), abs=1e-4)
        (atoms,) = found.system.to_ase()
        distances = atoms.get_all_distances(mic=True) - expected.get_all_distances(mic=True)
        assert np.abs(distances).max() < 0.02
        if method == "lbfgs":
            assert found.n_steps + 1 < 0.7 * counting.n
    fixed = found.system.fixed
    if fixed is not None:
        before = torch.as_tensor(make().positions)
        assert torch.equal(found.system.positions[fixed], before[fixed])
        assert found.forces is not None
        assert float(found.forces[fixed].abs().max()) > 0.1  # of them no convergence is asked


@pytest.mark.parametrize(
    ("cell", "filter_words", "kbar"),
    [
        ("full", {}, 0.0),
        ("full", {}, 40.0),
        ("isotropic", {"hydrostatic_strain": True}, 40.0),
        ("xx,yy,xy", {"mask": [True, True, False, False, False, True]}, 0.0),
        ("zz", {"mask": [False, False, True, False, False, False]}, -10.0),
    ],
)
def test_cells_come_to_rest_where_ases_frechet_filter_leaves_them(
    cell: str, filter_words: dict[str, Any], kbar: float
) -> None:
    start = strained(bulk("Cu", "fcc", 3.65) * (2, 1, 1))
    start.rattle(0.05, seed=4)
    pressure = 1e3 * kbar * ase.units.bar
    expected = start.copy()
    expected.calc = ase_copper()
    freedom = FrechetCellFilter(expected, scalar_pressure=pressure, **filter_words)
    assert AseLBFGS(freedom, logfile=None).run(fmax=1e-4, steps=1000)
    (found,) = run(
        copper(),
        start,
        cell=cell,
        pressure_bar=1e3 * kbar,
        fmax_eV_per_A=1e-4,
        smax_eV_per_A3=1e-6,
    )
    assert found.converged
    assert found.max_stress_eV_per_A3 is not None
    assert found.max_stress_eV_per_A3 < 1e-6
    assert found.energy_eV is not None
    volume = float(found.system.volume)
    enthalpy = expected.get_potential_energy() + pressure * expected.get_volume()
    assert found.energy_eV + pressure * volume == pytest.approx(enthalpy, abs=1e-4)
    assert volume == pytest.approx(expected.get_volume(), rel=2e-4)
    change = np.linalg.solve(start.cell.array, found.system.cell[0].numpy())
    np.testing.assert_allclose(change, change.T, atol=1e-12)  # no rotation
    if cell == "isotropic":
        np.testing.assert_allclose(change, change[0, 0] * np.eye(3), atol=1e-12)
    if cell == "xx,yy,xy":
        np.testing.assert_allclose(change[2], [0.0, 0.0, 1.0], atol=1e-12)


def test_a_slab_in_a_periodic_cell_relaxes_in_its_plane_with_its_fixed_atoms() -> None:
    start = slab()
    start.pbc = True
    (found,) = run(copper(), start, cell="xx,yy,xy", fmax_eV_per_A=1e-3, smax_eV_per_A3=1e-5)
    assert found.converged
    assert found.system.fixed is not None
    fixed = found.system.fixed.numpy()
    (atoms,) = found.system.to_ase()
    assert atoms.cell[2] == pytest.approx(start.cell[2], abs=1e-12)
    assert abs(atoms.cell[0, 0] / start.cell[0, 0] - 1.0) > 1e-3
    # they go where the cell takes them
    np.testing.assert_allclose(
        atoms.get_scaled_positions()[fixed], start.get_scaled_positions()[fixed], atol=1e-12
    )


@pytest.mark.parametrize("cell", ["full", "isotropic", "xx,xy", "xy"])
def test_forces_along_the_rows_are_slopes_of_the_enthalpy(cell: str, rng: np.random.Generator) -> None:
    """Central differences, error h² E''' ~ 1e-8 eV/Å; at a cell that is strained already."""
    structures = [strained(bulk("Cu", "fcc", 3.65) * (2, 1, 1)), strained(bulk("Cu", "fcc", 3.5))]
    structures[0].rattle(0.1, seed=3)
    structures[0].set_constraint(FixAtoms(indices=[1]))
    system, potential = System.from_ase(structures), copper()
    coordinates = Coordinates.of(system, CellFreedom(cell, pressure=0.05))
    rows = coordinates.rows(system)
    x = coordinates.start(system)
    # a strain that is free, as every step is
    free = coordinates.freedom.of(torch.as_tensor(rng.normal(size=(2, 3, 3))))
    x[rows.cells] = 0.1 * free * coordinates.lengths[:, None, None]

    def evaluated(x: torch.Tensor) -> tuple[System, Prediction]:
        at = coordinates.at(x, system)
        return at, potential(at, neighbors_for(at, potential.request))

    def enthalpy(x: torch.Tensor) -> float:
        at, prediction = evaluated(x)
        return float((prediction.energy + 0.05 * at.volume).sum())

    forces = coordinates.forces(x, *evaluated(x))
    for _ in range(5):
        direction = torch.as_tensor(rng.normal(size=x.shape))
        direction[1] = 0.0  # fixed
        strains = coordinates.freedom.of(direction[rows.cells])
        direction[rows.cells] = strains
        slope = (enthalpy(x + 1e-4 * direction) - enthalpy(x - 1e-4 * direction)) / 2e-4
        assert -float((forces * direction).sum()) == pytest.approx(slope, abs=2e-6)
    assert torch.equal(forces[1], torch.zeros(3, dtype=torch.float64))


# ---- the methods -------------------------------------------------------------------------------------


def two_loops(pairs: list[tuple[np.ndarray, np.ndarray]], gamma: float, forces: np.ndarray) -> np.ndarray:
    """H f by the two-loop recursion: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4."""
    q, kept = forces.copy(), []
    for s, y in reversed(pairs):
        kept.append((s @ q) / (s @ y))
        q -= kept[-1] * y
    r = gamma * q
    for (s, y), a in zip(pairs, reversed(kept), strict=True):
        r += s * (a - (y @ r) / (s @ y))
    return r


def test_lbfgs_steps_are_those_of_the_two_loop_recursion(rng: np.random.Generator) -> None:
    """Over more steps than it remembers, on two structures at once, some of negative curvature."""
    method = LBFGS(memory=4, max_step_A=1e9)
    owner = torch.tensor([0, 0, 0, 1, 1])
    rows = Rows(owner, torch.arange(5), torch.zeros(0, 3, dtype=torch.int64), 2)
    bends = [rng.normal(size=(9, 9)), rng.normal(size=(6, 6))]
    hessians = [2.0 * np.eye(len(bend)) + (bend + bend.T) for bend in bends]
    x = torch.as_tensor(rng.normal(size=(5, 3)))
    memory = method.start(x, rows)
    last: list[tuple[np.ndarray, np.ndarray]] = []
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    gammas, n_negative = [1.0 / 70.0, 1.0 / 70.0], 0
    for _ in range(14):
        places = [x[owner == index].numpy().ravel() for index in (0, 1)]
        forces = [-hessian @ place for hessian, place in zip(hessians, places, strict=True)]
        flat = torch.as_tensor(np.concatenate(forces).reshape(5, 3))
        new, memory = method.step(x, flat, rows, memory)
        for index in (0, 1):
            if last:
                s, y = places[index] - last[index][0], last[index][1] - forces[index]
                pairs[index].append((s, y))
                if s @ y > 0:
                    gammas[index] = (s @ y) / (y @ y)
                n_negative += int(s @ y < 0)
            good = [(s, y) for s, y in pairs[index][-4:] if s @ y > 0]
            moved = (new - x)[owner == index].numpy().ravel()
            expected = two_loops(good, gammas[index], forces[index])
            np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-9)
            assert moved @ forces[index] > 0  # downhill always
        last = list(zip(places, forces, strict=True))
        x = x + torch.as_tensor(rng.normal(size=(5, 3)))  # anywhere: pairs of any curvature
    assert n_negative > 2


def test_fire_makes_the_steps_of_ases_fire_2_until_it_leads_uphill() -> None:
    """There ASE asks for the forces once more; until then both are the same arithmetic."""
    start = vacancy()
    expected = start.copy()
    expected.calc = KinetographCalculator(copper())
    optimiser = AseFIRE2(expected, logfile=None, maxstep=10.0, dt=0.02)
    path = [start.positions]
    for _ in optimiser.irun(fmax=1e-9, steps=24):
        path.append(expected.positions.copy())
    seen: list[torch.Tensor] = []

    class Watch:
        def report(self, frames: Frames) -> None:
            seen.append(frames.system.positions)

        def finished(self, relaxed: Relaxed) -> None: ...
        def close(self) -> None: ...

    run(copper(), start, method=FIRE(timestep=0.02, max_step_A=10.0), max_steps=24, reporters=[Watch()])
    assert optimiser.Nsteps == 23  # it was downhill all the way, and the time step has grown
    assert optimiser.dt > 0.02
    for ours, theirs in zip(seen, path[1:], strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-10)


def test_fire_turns_back_by_half_a_step_where_it_leads_uphill() -> None:
    method = FIRE(timestep=0.4, max_step_A=10.0)
    rows = Rows(torch.tensor([0]), torch.arange(1), torch.zeros(0, 3, dtype=torch.int64), 1)
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    memory = method.start(x, rows)
    first, memory = method.step(x, torch.tensor([[2.0, 0.0, 0.0]], dtype=torch.float64), rows, memory)
    assert first[0, 0] == pytest.approx(1.0 + 0.4 * (0.4 * 2.0))
    second, memory = method.step(first, torch.tensor([[-1.0, 0.0, 0.0]], dtype=torch.float64), rows, memory)
    back = 0.5 * 0.2 * 0.8  # half of the old velocity with the new time step
    assert second[0, 0] == pytest.approx(float(first[0, 0]) - back - 0.2 * 0.2 * 1.0)
    assert float(memory.of_systems["timestep"]) == pytest.approx(0.2)


@pytest.mark.parametrize("method", [LBFGS(max_step_A=0.05), FIRE(max_step_A=0.05)])
def test_no_atom_moves_further_than_the_longest_step(method: LBFGS | FIRE) -> None:
    places: list[torch.Tensor] = []

    class Watch:
        def report(self, frames: Frames) -> None:
            places.append(frames.system.positions)

        def finished(self, relaxed: Relaxed) -> None: ...
        def close(self) -> None: ...

    crowded = ase.Atoms("Ar3", [[0.0, 0, 0], [1.5, 0, 0], [0, 3.0, 0]])
    run(argon(), crowded, method=method, max_steps=20, reporters=[Watch()])
    moves = [float((b - a).norm(dim=1).max()) for a, b in pairwise(places)]
    assert max(moves) == pytest.approx(0.05)


def test_atoms_that_overlap_at_the_start_do_not_fly_apart() -> None:
    """FIRE would keep the velocity of the collision where only its steps were shortened."""
    rng = np.random.default_rng(0)
    crowded = [ase.Atoms("Ar12", rng.uniform(0.0, 8.0, (12, 3))) for _ in range(3)]
    for method in ("lbfgs", "fire"):
        for found in run(argon(), crowded, method=method, fmax_eV_per_A=1e-3, max_steps=500):
            assert found.converged
            assert found.energy_eV is not None
            assert found.energy_eV < -20 * 0.0103  # of 30 and more bonds in a compact cluster


# ---- many at once ------------------------------------------------------------------------------------


def test_each_structure_makes_the_same_steps_in_any_company() -> None:
    """To the bit, on a CPU."""
    structures = [vacancy(1), slab(2), vacancy(3), bulk("Cu", "fcc", 3.4)]
    for atoms in structures:
        atoms.pbc = True
    for options in (
        {"method": "lbfgs"},
        {"method": "fire"},
        {"method": "lbfgs", "cell": "full", "smax_eV_per_A3": 1e-5},
    ):
        alone = [run(copper(), atoms, **options)[0] for atoms in structures]
        steps = [found.n_steps for found in alone]
        assert len(set(steps)) > 2  # they leave at different times
        # all together; few at a time, so that each sees others come and go
        for order, batch_atoms in (([0, 1, 2, 3], 1000), ([3, 2, 0, 1], 50)):
            many = run(copper(), [structures[i] for i in order], batch_atoms=batch_atoms, **options)
            assert [found.number for found in many] == list(range(4))
            for found, number in zip(many, order, strict=True):
                assert found.n_steps == steps[number]
                assert found.converged
                positions, expected = found.system.positions, alone[number].system.positions
                if "cell" not in options:
                    assert torch.equal(positions, expected)
                else:  # a potential sums the stress of one structure in another order
                    torch.testing.assert_close(positions, expected, rtol=0, atol=1e-6)


def test_no_more_atoms_are_computed_at_once_than_asked_for() -> None:
    sizes: list[tuple[int, int]] = []

    class Watch:
        def report(self, frames: Frames) -> None:
            sizes.append((frames.system.n_systems, frames.system.n_atoms))

        def finished(self, relaxed: Relaxed) -> None: ...
        def close(self) -> None: ...

    structures = [bulk("Cu", "fcc", a) for a in (3.5, 3.6, 3.7)] * 5
    structures.insert(3, vacancy())  # larger than a batch: alone
    run(copper(), structures, batch_atoms=6, cell="isotropic", reporters=[Watch()])
    assert max(n for n, _ in sizes) == 6
    assert {n_atoms for n, n_atoms in sizes if n > 1} <= {2, 3, 4, 5, 6}
    assert (1, 31) in sizes


def test_neighbour_lists_are_found_anew_for_those_that_moved_and_no_others() -> None:
    potential, method = copper(), LBFGS()
    system = System.from_ase([vacancy(1), slab(2), vacancy(3)])
    active = Active.of([0, 1, 2], system, method, None, potential.request, 0.6)
    assert active.with_neighbors() is active
    moved = system.positions.clone()
    moved[40, 2] += 0.31  # of the slab
    moved[60, 0] += 0.29  # of the last: within half the skin
    active = replace(active, system=replace(system, positions=moved)).with_neighbors()
    fresh = NeighborList.build(replace(system, positions=moved), potential.request.reach, skin=0.6)
    changed = active.neighbors
    own = system.system_index == 1
    for name in ("center", "neighbor", "shift"):
        ours, theirs = getattr(changed, name), getattr(fresh, name)
        assert torch.equal(ours[own[changed.center]], theirs[own[fresh.center]])
    assert bool((changed.center.diff() >= 0).all())
    assert torch.equal(changed.positions[own], moved[own])
    assert torch.equal(changed.positions[~own], system.positions[~own])
    expected, found = (potential(active.system, neighbors) for neighbors in (fresh, changed))
    assert torch.equal(found.forces, expected.forces)
    cells = system.cell.clone()
    cells[2] *= 1.001
    stretched = replace(active, system=replace(active.system, cell=cells)).with_neighbors().neighbors
    assert torch.equal(stretched.cell, cells)
    assert torch.equal(stretched.positions[60], moved[60])


def test_bonds_are_those_of_the_start_for_every_structure() -> None:
    """Springs that begin too long for a bond by the radii would be lost if bonds were found anew."""
    spring = Harmonic(stiffness=10.0, length=1.6, cutoff=4.0)
    structures = [ase.Atoms("H2", [[0, 0, 0], [0, 0, length]]) for length in (0.5, 0.75, 0.7, 0.79)]
    for found in run(spring, structures, batch_atoms=4, skin_A=0.2, fmax_eV_per_A=1e-4):
        assert found.converged
        length = float((found.system.positions[1] - found.system.positions[0]).norm())
        assert length == pytest.approx(1.6, abs=1e-4)


# ---- ends --------------------------------------------------------------------------------------------


def test_a_structure_with_fused_atoms_fails_alone() -> None:
    fused = vacancy()
    fused.positions[7] = fused.positions[3] + [1e-5, 0.0, 0.0]
    others = [vacancy(2), slab(3)]
    first, bad, last = run(copper(), [others[0], fused, others[1]])
    assert bad.failure == "atoms 3 and 7 are in one place (1.0e-05 Å apart)"
    assert not bad.converged
    assert (bad.n_steps, bad.energy_eV, bad.forces, bad.max_force_eV_per_A) == (0, None, None, None)
    torch.testing.assert_close(bad.system.positions, torch.as_tensor(fused.positions))
    for found, atoms in ((first, others[0]), (last, others[1])):
        (alone,) = run(copper(), atoms)
        assert found.converged
        assert found.n_steps == alone.n_steps
        assert found.energy_eV == pytest.approx(alone.energy_eV, abs=1e-9)


@pytest.mark.parametrize("batch_atoms", [1, 2000])
def test_where_nothing_can_be_relaxed_it_is_an_error(batch_atoms: int) -> None:
    fused = vacancy()
    fused.positions[7] = fused.positions[3] + [1e-5, 0.0, 0.0]
    with pytest.raises(UserError, match=r"atoms 3 and 7 are in one place"):
        run(copper(), [fused, fused], batch_atoms=batch_atoms)
    *bad, good = run(copper(), [fused, fused, vacancy(2)], batch_atoms=batch_atoms)
    assert [of.failure is None for of in bad] == [False, False]
    assert good.converged


class Hole(Potential):
    """Copper, and no number where an atom comes within a distance of another; or an attraction there."""

    gives_energy = True

    def __init__(self, below_A: float, *, value: float) -> None:
        super().__init__()
        self.inner, self.below_A, self.value = copper(), below_A, value
        self.request = self.inner.request

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = self.inner(system, neighbors)
        apart = torch.cdist(system.positions, system.positions) + 9.0 * torch.eye(system.n_atoms)
        near = apart.min(dim=1).values < self.below_A
        return replace(prediction, forces=torch.where(near.unsqueeze(1), self.value, prediction.forces))


def test_forces_that_are_no_numbers_end_a_structure_and_not_its_batch() -> None:
    dimers = [ase.Atoms("Cu2", [[20.0 * i, 0, 0], [20.0 * i + d, 0, 0]]) for i, d in enumerate((3.1, 3.3))]
    squeezed = ase.Atoms("Cu2", [[50.0, 0, 0], [52.0, 0, 0]])
    potential = Hole(2.1, value=math.nan)
    good, bad, also_good = run(potential, [dimers[0], squeezed, dimers[1]])
    assert good.converged
    assert also_good.converged
    assert bad.failure == "the forces are not finite"
    assert bad.energy_eV is not None
    assert math.isnan(bad.max_force_eV_per_A or 0.0)
    assert not bad.converged


class NoEnergy(Hole):
    """Copper, whose energy is no number there."""

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        prediction = super().forward(system, neighbors)
        lost = torch.zeros(system.n_systems, dtype=torch.bool)
        lost[system.system_index[prediction.forces[:, 0] == self.value]] = True
        assert prediction.energy is not None
        return replace(prediction, energy=torch.where(lost, torch.nan, prediction.energy))


def test_an_energy_that_is_no_number_ends_a_structure_too() -> None:
    squeezed, dimer = (ase.Atoms("Cu2", [[x, 0, 0], [x + d, 0, 0]]) for x, d in ((0.0, 2.0), (20.0, 3.1)))
    bad, good = run(NoEnergy(2.1, value=1e-5), [squeezed, dimer])
    assert bad.failure == "the energy or the stress is not finite"
    assert good.converged


def test_atoms_that_have_fused_at_the_end_are_a_failure_whatever_the_forces_say() -> None:
    fused = ase.Atoms("Cu2", [[0, 0, 0], [0.3, 0, 0]])
    (found,) = run(Hole(0.5, value=0.0), fused)
    assert found.failure == "atoms 0 and 1 have fused: they are 0.3000 Å apart"
    assert not found.converged


def test_a_cell_that_falls_apart_ends_its_structure() -> None:
    """Far beyond its cutoff nothing holds a crystal under tension."""
    (found,) = run(copper(), bulk("Cu", "fcc", 3.65), cell="isotropic", pressure_bar=-1e6)
    assert found.failure is not None
    assert "times its volume" in found.failure
    assert 5.0 < float(found.system.volume) / bulk("Cu", "fcc", 3.65).get_volume() < 8.0


def test_the_last_step_ends_what_has_not_converged() -> None:
    system = System.from_ase([vacancy(), bulk("Cu", "fcc", 3.65)])
    result = relax(copper(), system, max_steps=3, fmax_eV_per_A=1e-3, status=False)
    slow, at_rest = result.structures
    assert (slow.n_steps, slow.converged, slow.failure) == (3, False, None)
    assert (at_rest.n_steps, at_rest.converged) == (0, True)
    assert (result.n_converged, result.n_failed, result.n_evaluations) == (1, 0, 4 + 1)
    torch.testing.assert_close(result.system.positions, batch([slow.system, at_rest.system]).positions)
    assert result.system.velocities is None
    (nothing,) = run(copper(), vacancy(), max_steps=0)
    assert nothing.n_steps == 0
    torch.testing.assert_close(nothing.system.positions, torch.as_tensor(vacancy().positions))


def test_a_structure_outside_the_training_data_says_so() -> None:
    potential = copper()
    potential.domain = TrainingDomain(elements=(29,), density=(0.05, 0.2), shortest_A={"Cu-Cu": 3.0})
    (found,) = run(potential, vacancy())
    (warning,) = found.warnings
    assert "shortest in training was 3.000 Å" in warning


# ---- forces without an energy ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lbfgs", "fire"])
def test_forces_alone_are_enough(method: str) -> None:
    for atoms, potential in ((cluster(), argon()), (slab(), copper())):
        options = {"method": method, "fmax_eV_per_A": 1e-3, "max_steps": 400}
        (whole,) = run(potential, atoms, **options)
        (found,) = run(ForcesOnly(potential), atoms, **options)
        assert found.converged
        assert found.energy_eV is None
        assert found.stress is None
        assert found.n_steps == whole.n_steps
        torch.testing.assert_close(found.system.positions, whole.system.positions, rtol=0, atol=1e-6)


def drift_and_turn(system: System) -> torch.Tensor:
    """A net force, and a torque about z, on every structure."""
    center = torch.stack(
        [system.positions[system.system_index == i].mean(0) for i in range(system.n_systems)]
    )
    r = system.positions - center[system.system_index]
    return torch.stack([0.1 - 0.02 * r[:, 1], 0.02 * r[:, 0], torch.zeros(len(r))], dim=1)


def test_direct_forces_that_would_carry_a_molecule_away_and_turn_it_let_it_relax() -> None:
    linear = ase.Atoms("Ar3", [[0, 0, 0], [0, 0, 3.7], [0, 0, 7.6]])
    potential = argon()
    wrong = ForcesOnly(potential, drift_and_turn)
    for atoms in (cluster(), linear, ase.Atoms("Ar", [[1.0, 2.0, 3.0]])):
        (right,) = run(potential, atoms, fmax_eV_per_A=1e-4)
        (found,) = run(wrong, atoms, fmax_eV_per_A=1e-4)
        assert found.converged
        ours, theirs = (f.system.to_ase()[0].get_all_distances() for f in (found, right))
        np.testing.assert_allclose(ours, theirs, atol=0.05)
        assert found.forces is not None
        assert float(found.forces.sum()) > 0.05  # what the model said is kept
    crystal = bulk("Ar", "fcc", 5.3, cubic=True)
    crystal.rattle(0.1, seed=2)
    (found,) = run(ForcesOnly(potential, lambda s: torch.full_like(s.positions, 0.1)), crystal)
    assert found.converged


def test_the_net_force_on_a_slab_with_fixed_atoms_is_a_force() -> None:
    pushed = ForcesOnly(copper(), lambda s: torch.full_like(s.positions, 0.05))
    (found,) = run(pushed, slab(), fmax_eV_per_A=1e-3)
    (right,) = run(copper(), slab(), fmax_eV_per_A=1e-3)
    assert found.converged
    top = int(right.system.positions[:, 2].argmax())
    assert float((found.system.positions - right.system.positions)[top, 0]) > 0.005


# ---- files and progress ------------------------------------------------------------------------------


def test_files_hold_the_ends_in_order_and_the_way_of_each(tmp_path: Path) -> None:
    structures = [vacancy(1), slab(2), bulk("Cu", "fcc", 3.65)]  # the last is done before the second
    structures[0].positions[7] = structures[0].positions[3] + [1e-5, 0.0, 0.0]
    for number, atoms in enumerate(structures):
        atoms.info["name"] = f"n{number}"
        atoms.set_tags(range(len(atoms)))
        atoms.set_momenta(np.ones((len(atoms), 3)))
    writers = [
        RelaxedWriter(tmp_path / "out.extxyz", templates=structures),
        RelaxationTrajectory(tmp_path / "way", every=5, templates=structures),
    ]
    found = run(copper(), structures, reporters=writers, batch_atoms=20)
    ends = ase.io.read(tmp_path / "out.extxyz", ":")
    assert [atoms.info["name"] for atoms in ends] == ["n0", "n1", "n2"]
    assert [bool(atoms.info["converged"]) for atoms in ends] == [False, True, True]
    assert "in one place" in ends[0].info["failure"]
    for atoms, relaxed, start in zip(ends, found, structures, strict=True):
        np.testing.assert_allclose(atoms.positions, relaxed.system.positions.numpy(), atol=1e-7)
        assert (atoms.get_tags() == start.get_tags()).all()
        assert "momenta" not in atoms.arrays
        assert atoms.info["n_steps"] == relaxed.n_steps
        if relaxed.energy_eV is not None:
            assert atoms.get_potential_energy() == pytest.approx(relaxed.energy_eV)
            assert relaxed.forces is not None
            np.testing.assert_allclose(
                atoms.get_forces(apply_constraint=False), relaxed.forces.numpy(), atol=1e-7
            )
    assert ends[1].constraints[0].index.tolist() == structures[1].constraints[0].index.tolist()
    stress = found[2].stress
    assert stress is not None
    np.testing.assert_allclose(ends[2].get_stress(voigt=False), stress.numpy(), atol=1e-7)
    assert "stress" not in ends[1].calc.results  # a slab has none

    assert sorted(path.name for path in (tmp_path / "way").iterdir()) == [
        "00000.extxyz",
        "00001.extxyz",
        "00002.extxyz",
    ]
    way = ase.io.read(tmp_path / "way" / "00001.extxyz", ":")
    last = found[1].n_steps
    assert last % 5 != 0
    assert [atoms.info["n_steps"] for atoms in way] == [*range(0, last, 5), last]
    np.testing.assert_allclose(way[0].positions, structures[1].positions, atol=1e-7)
    np.testing.assert_allclose(way[-1].positions, ends[1].positions, atol=1e-7)
    assert way[0].get_potential_energy() > way[-1].get_potential_energy()
    assert len(ase.io.read(tmp_path / "way" / "00000.extxyz", ":")) == 1
    assert len(ase.io.read(tmp_path / "way" / "00002.extxyz", ":")) == 1


def test_files_that_are_there_stay_until_there_is_something_better(tmp_path: Path) -> None:
    out, way = tmp_path / "out.extxyz", tmp_path / "way"
    run(copper(), [slab(), slab(2)], reporters=[RelaxedWriter(out), RelaxationTrajectory(way)], max_steps=1)
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        RelaxedWriter(out)
    with pytest.raises(UserError, match="holds trajectories already"):
        RelaxationTrajectory(way)
    (way / "notes.extxyz").write_text("mine")
    again = [RelaxedWriter(out, overwrite=True), RelaxationTrajectory(way, overwrite=True)]
    with pytest.raises(UserError, match="three directions"):
        run(copper(), slab(), reporters=again, cell="full")
    assert out.read_bytes() == before
    assert (way / "00001.extxyz").exists()
    run(copper(), slab(3), reporters=again, max_steps=1)
    assert len(ase.io.read(out, ":")) == 1
    assert sorted(path.name for path in way.iterdir()) == ["00000.extxyz", "notes.extxyz"]


def test_an_interrupted_run_keeps_what_was_finished(tmp_path: Path) -> None:
    out = tmp_path / "out.extxyz"

    class Interrupt:
        def report(self, frames: Frames) -> None:
            if 2 in frames.numbers:
                raise KeyboardInterrupt

        def finished(self, relaxed: Relaxed) -> None: ...
        def close(self) -> None: ...

    # the first is slow, the second done at once and waits for it
    structures = [slab(), bulk("Cu", "fcc", 3.65), bulk("Cu", "fcc", 3.65)]
    with pytest.raises(KeyboardInterrupt):
        run(copper(), structures, reporters=[RelaxedWriter(out), Interrupt()], batch_atoms=17)
    assert [atoms.info["structure"] for atoms in ase.io.read(out, ":")] == [1]


def test_progress_says_how_fast_and_how_long() -> None:
    text = io.StringIO()
    console = Console(file=text, width=200)
    many = RelaxationStatus(3, 200, console=console, seconds_between_lines=0.0)
    run(copper(), [slab(1), slab(2), bulk("Cu", "fcc", 3.65)], batch_atoms=20, reporters=[many])
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("0/3 structures  1 in work  largest force ")
    assert any("structures/s" in line and line.endswith(" left") for line in lines)
    text.truncate(0)
    one = RelaxationStatus(1, 200, console=console, seconds_between_lines=0.0)
    run(copper(), slab(1), reporters=[one])
    assert "step 3/200  largest force" in text.getvalue()
    assert "steps/s" in text.getvalue()


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "lbgfs"}, "no method 'lbgfs'; did you mean 'lbfgs'"),
        ({"cell": "xx,zy"}, "cell is 'xx,zy'"),
        ({"cell": "xx,xx"}, "cell is 'xx,xx'"),
        ({"cell": ""}, "cell is ''"),
        ({"cell": "full"}, r"three directions can be relaxed \(structure 1\)"),
        ({"pressure_bar": 1.0}, "cell that is held"),
        ({"cell": "full", "pressure_bar": math.nan}, "not a finite number"),
        ({"fmax_eV_per_A": 0.0}, "fmax_eV_per_A is 0"),
        ({"smax_eV_per_A3": -1.0}, "smax_eV_per_A3 is -1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"batch_atoms": 0}, "batch_atoms is 0"),
        ({"skin_A": -0.1}, "skin_A is -0.1"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        run(copper(), [vacancy(), slab()], **options)


def test_impossible_methods_are_refused() -> None:
    for method, words in (
        (LBFGS, {"memory": 0}),
        (LBFGS, {"max_step_A": 0.0}),
        (LBFGS, {"curvature_eV_per_A2": -1.0}),
        (FIRE, {"max_step_A": math.inf}),
    ):
        with pytest.raises(UserError, match=next(iter(words))):
            method(**words)
    with pytest.raises(UserError, match="every is 0"):
        RelaxationTrajectory("nowhere", every=0)


def test_what_the_potential_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="gives no stress"):
        run(ForcesOnly(copper()), vacancy(), cell="full")
    potential = copper()
    potential.domain = TrainingDomain(elements=(29,), density=None, shortest_A={})
    with pytest.raises(UserError, match=r"never saw the element Ar \(structure 1\)"):
        run(potential, [vacancy(), cluster(), vacancy()])
    water = System.from_ase(molecule("H2O"))
    rigid = replace(water, rigid=torch.tensor([[0, 1]]), rigid_lengths=torch.tensor([0.96]))
    with pytest.raises(UserError, match="holds no rigid bonds"):
        relax(argon(), rigid, status=False)


def test_the_potential_is_left_as_it_was() -> None:
    potential = copper()
    potential.train()
    run(potential, vacancy(), max_steps=1)
    assert potential.training
