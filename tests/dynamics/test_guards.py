"""Guards: each stops what it is for, says what it saw, and lets healthy matter pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from kinetograph.dynamics import (
    DEFAULT_GUARDS,
    BondGuard,
    CellRescaling,
    CloseAtomsGuard,
    DisagreementGuard,
    DriftGuard,
    EnergyGuard,
    Guard,
    Langevin,
    SimulationFailed,
    State,
    TemperatureGuard,
    VelocityVerlet,
    VolumeGuard,
    simulate,
)
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest
from kinetograph.models.classical import LennardJones
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch

STILL = VelocityVerlet(1.0)


class Still(Potential):
    """No forces, and an energy as it is told."""

    gives_energy = True

    def __init__(self, *, reach: float = 3.0, energy: float = 0.0, force_std: float | None = None) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=reach)
        self.value = energy
        self.force_std = force_std

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        std = None if self.force_std is None else torch.full((system.n_atoms,), self.force_std)
        return Prediction(
            forces=torch.zeros_like(system.positions),
            conservative=True,
            energy=torch.full((system.n_systems,), self.value, dtype=torch.float64),
            force_std=std,
        )


def prepared(system: System, guard: Guard, potential: Potential) -> State:
    system = replace(system, velocities=torch.zeros_like(system.positions))
    return guard.prepare(STILL.init(system, potential, 0), STILL)


def at(state: State, positions: np.ndarray | torch.Tensor, potential: Potential) -> State:
    """The state elsewhere, with the neighbours there."""
    system = replace(state.system, positions=torch.as_tensor(positions, dtype=torch.float64))
    neighbors = state.neighbors.updated(system)
    return replace(state, system=system, neighbors=neighbors, prediction=potential(system, neighbors))


def two_waters() -> tuple[System, np.ndarray]:
    """Two water molecules, twice: a batch of two structures of six atoms."""
    water = molecule("H2O")
    pair = water + water
    pair.positions[3:] += [0.0, 0.0, 3.0]
    return batch([System.from_ase(pair)] * 2), np.concatenate([pair.positions] * 2)


@pytest.mark.parametrize(("scale", "stopped"), [(1.7, False), (2.1, True)])
def test_a_bond_that_breaks(scale: float, stopped: bool) -> None:
    """An O-H bond of the second structure: 0.97 Å is the sum of radii, 1.8 times that the limit."""
    system, positions = two_waters()
    potential, guard = Still(), BondGuard()
    state = prepared(system, guard, potential)
    assert guard.check(state, STILL) == {}
    positions[7] = positions[6] + scale * (positions[7] - positions[6])
    found = guard.check(at(state, positions, potential), STILL)
    assert list(found) == ([1] if stopped else [])
    if stopped:
        assert "the bond between atoms 0 (O) and 1 (H) broke: 2.0" in found[1]


def test_a_bond_that_forms() -> None:
    """A hydrogen of one molecule 1.05 Å from the oxygen of the other; at 1.2 Å it is a hydrogen bond."""
    system, positions = two_waters()
    potential, guard = Still(), BondGuard()
    state = prepared(system, guard, potential)
    for distance, stopped in ((1.2, False), (1.05, True)):
        moved = positions.copy()
        along = (moved[1] - moved[0]) / np.linalg.norm(moved[1] - moved[0])
        aside = np.array([1.0, 0.0, 0.0])  # at right angles to the molecule
        moved[3] = moved[1] + distance * along
        moved[4], moved[5] = moved[3] + 0.7 * (along + aside), moved[3] + 0.7 * (along - aside)
        found = guard.check(at(state, moved, potential), STILL)
        assert ("a bond formed between atoms 1 (H) and 3 (O)" in found.get(0, "")) == stopped


def test_bonds_in_slabs_and_wires_whose_vectors_lie_anywhere() -> None:
    """Periodic along two vectors that are not the first two axes, with a molecule across the boundary."""
    water = molecule("H2O")
    for pbc, cell in (
        ((True, True, False), [[0, 10, 0], [0, 0, 10], [0, 0, 0]]),
        ((True, False, False), [[0, 0, 10], [0, 0, 0], [0, 0, 0]]),
        ((True, True, False), [[10, 0, 3], [0, 10, 2], [0, 0, 0]]),
    ):
        atoms = water.copy()
        atoms.set_cell(cell)
        atoms.pbc = pbc
        atoms.positions[1] += atoms.cell[0]
        potential, guard = Still(), BondGuard()
        state = prepared(System.from_ase(atoms), guard, potential)
        assert state.topology is not None
        assert len(state.topology) == 2
        assert guard.check(state, STILL) == {}


def test_bonds_of_metals_and_argon_come_and_go() -> None:
    """Copper at 2.2 Å and back, and bonds across the boundary of a cell: nobody minds."""
    copper = System.from_ase(bulk("Cu", cubic=True) * 2)
    potential, guard = Still(), BondGuard()
    state = prepared(copper, guard, potential)
    assert state.topology is not None
    assert len(state.topology) == 0
    moved = copper.positions.clone()
    moved[1] = moved[0] + torch.tensor([1.5, 1.5, 0.5])
    assert guard.check(at(state, moved, potential), STILL) == {}
    wrapped = molecule("H2O")
    wrapped.set_cell([6.0, 6.0, 6.0])
    wrapped.pbc = True
    wrapped.wrap()
    assert np.ptp(wrapped.positions, axis=0).max() > 3.0  # it lies on both sides
    state = prepared(System.from_ase(wrapped), guard, potential)
    assert state.topology is not None
    assert len(state.topology) == 2
    assert guard.check(state, STILL) == {}


def test_atoms_that_are_too_close() -> None:
    hydrogen = System.from_ase(ase.Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]))
    potential, guard = Still(), CloseAtomsGuard()
    state = prepared(hydrogen, guard, potential)
    assert guard.check(state, STILL) == {}  # the shortest bond there is
    near = at(state, [[0, 0, 0], [0, 0, 0.36]], potential)
    assert guard.check(near, STILL)[0] == "atoms 0 (H) and 1 (H) are 0.36 Å apart, below 0.37 Å"
    nowhere = at(state, [[0, 0, 0], [0, 0, 0.7]], potential)
    nowhere = replace(nowhere, system=replace(nowhere.system, positions=nowhere.positions * torch.nan))
    assert 0 in guard.check(nowhere, STILL)


def test_energies_and_what_should_be_conserved() -> None:
    system, _ = two_waters()
    for guard, text in ((EnergyGuard(), "-2.50 eV per atom"), (DriftGuard(), "drifted")):
        state = prepared(system, guard, Still())
        assert guard.check(state, STILL) == {}
        assert guard.check(at(state, state.positions, Still(energy=0.1)), STILL) == {}
        found = guard.check(at(state, state.positions, Still(energy=-15.0)), STILL)
        assert list(found) == [0, 1]
        assert text in found[0]
        assert list(guard.check(at(state, state.positions, Still(energy=float("nan"))), STILL)) == [0, 1]


def test_an_ensemble_that_disagrees() -> None:
    system, _ = two_waters()
    guard = DisagreementGuard()
    state = prepared(system, guard, Still(force_std=0.2))
    assert guard.check(state, STILL) == {}
    found = guard.check(at(state, state.positions, Still(force_std=1.4)), STILL)
    assert "disagree on the force on atom 0 (O) by 1.40 eV/Å" in found[1]


def test_a_cell_that_collapses() -> None:
    """Watched where there is a barostat only."""
    argon = System.from_ase(bulk("Ar", "fcc", 5.5, cubic=True))
    guard, barostat = VolumeGuard(), CellRescaling(1.0, 80.0, 1.0)
    state = prepared(argon, guard, Still())
    shrunk = replace(state, system=replace(state.system, cell=0.6 * state.system.cell))
    assert guard.check(shrunk, STILL) == {}
    state = guard.prepare(state, barostat)
    assert guard.check(state, barostat) == {}
    shrunk = replace(state, system=replace(state.system, cell=0.6 * state.system.cell))
    assert "0.216 times that of the start" in guard.check(shrunk, barostat)[0]


def test_healthy_argon_passes_and_a_long_time_step_does_not() -> None:
    """A step of 100 fs makes argon hot or its energy drift; whichever guard sees it first."""
    potential = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=6.0, truncation="switch", switch_start=5.0)
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * 2
    run: dict[str, Any] = {"initial_temperature_K": 80.0, "status": False, "n_steps": 300}
    result = simulate(potential, System.from_ase(atoms), VelocityVerlet(5.0), **run)
    assert result.failures == []
    assert result.drift_K is not None
    assert abs(result.drift_K) < 1.0
    with pytest.raises(SimulationFailed, match="went wrong at step"):
        simulate(potential, System.from_ase(atoms), VelocityVerlet(300.0), **run)


def test_a_start_that_a_guard_would_stop_is_refused() -> None:
    atoms = bulk("Ar", "fcc", 5.5, cubic=True)
    atoms.positions[1] = atoms.positions[0] + [0.9, 0.3, 0.0]
    run: dict[str, Any] = {"n_steps": 3, "status": False}
    with pytest.raises(
        UserError, match=r"the start is refused: atoms 0 \(Ar\) and 1 \(Ar\) are 0.95 Å apart"
    ):
        simulate(Still(), System.from_ase(atoms), Langevin(1.0, 50.0), **run)
    simulate(Still(), System.from_ase(atoms), Langevin(1.0, 50.0), guards=[], **run)


def test_every_guard_is_on_by_default_and_refuses_nonsense() -> None:
    kinds = {
        TemperatureGuard,
        EnergyGuard,
        DriftGuard,
        CloseAtomsGuard,
        BondGuard,
        DisagreementGuard,
        VolumeGuard,
    }
    assert {type(guard) for guard in DEFAULT_GUARDS} == kinds
    for wrong in (
        lambda: TemperatureGuard(factor=0.0),
        lambda: EnergyGuard(max_change_eV_per_atom=-1.0),
        lambda: DriftGuard(max_drift_K=float("nan")),
        lambda: CloseAtomsGuard(every=0),
        lambda: BondGuard(broken=0.0),
        lambda: VolumeGuard(max_factor=0.5),
        lambda: DisagreementGuard(max_force_std_eV_per_A=0.0),
    ):
        with pytest.raises(UserError):
            wrong()
