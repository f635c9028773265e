"""``relax``: many structures at once, each until its own forces vanish."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch

from kinetograph import units
from kinetograph.bonds import with_bonds
from kinetograph.dynamics.relax.active import Active
from kinetograph.dynamics.relax.coordinates import CellFreedom
from kinetograph.dynamics.relax.fire import FIRE
from kinetograph.dynamics.relax.lbfgs import LBFGS
from kinetograph.dynamics.relax.methods import Method
from kinetograph.dynamics.relax.reporters import RelaxationReporter, RelaxationStatus
from kinetograph.dynamics.relax.results import Frames, RelaxationResult, Relaxed
from kinetograph.dynamics.settings import require_positive, require_whole
from kinetograph.errors import UserError, nearest
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.pairs import shortest_pair
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, subset

METHODS: dict[str, type[LBFGS] | type[FIRE]] = {"lbfgs": LBFGS, "fire": FIRE}
FUSED_A = 0.5
"""Atoms nearer than this have fused: no bond is so short."""
VOLUME_FACTOR = 5.0
"""A cell that has grown or shrunk so many times has gone to pieces or fallen in."""


def relax(
    potential: Potential,
    system: System,
    *,
    method: str | Method = "lbfgs",
    cell: str | None = None,
    pressure_bar: float = 0.0,
    fmax_eV_per_A: float = 0.01,
    smax_eV_per_A3: float = 1e-4,
    max_steps: int = 200,
    batch_atoms: int = 2000,
    skin_A: float = 0.5,
    reporters: Sequence[RelaxationReporter] = (),
    status: bool = True,
) -> RelaxationResult:
    """Relax many structures at once.

    A structure leaves when it has converged, failed or made its last step, and the next one takes its place;
    its steps know of no other structure. Fixed atoms stay where they are, or where a free cell takes them.

    Args:
        system: any number of structures.
        method: ``"lbfgs"``, ``"fire"``, or one of the two with settings of its own.
        cell: the strains of the cell that are free: ``"full"``, ``"isotropic"``, or some of
            ``"xx,yy,zz,yz,xz,xy"``; ``None`` holds the cell.
        pressure_bar: the pressure that a free cell is relaxed to.
        fmax_eV_per_A: converged is what has no force on a free atom as large as this,
        smax_eV_per_A3: and no component of the stress less the target's, along what is free of the cell.
        max_steps: of each structure.
        batch_atoms: structures are computed together up to so many atoms, or one by one if larger.
        skin_A: how much further than the cutoff the neighbour list reaches; of no use to a free cell.
        reporters: look on, and are closed at the end.
        status: progress on stderr.

    Raises:
        UserError: an input cannot be used, or none of the structures can; nothing has been computed then. One
            that goes wrong beside others, or later, raises nothing: its result says why.
    """
    limits = Limits(fmax_eV_per_A, smax_eV_per_A3, max_steps)
    freedom = _freedom(cell, pressure_bar)
    if not 0.0 <= skin_A < math.inf:
        raise UserError(f"skin_A is {skin_A}", where="skin_A", mend="Use 0 or more.")
    _check(potential, system, freedom)
    runner = _Runner(
        potential=potential,
        system=with_bonds(
            replace(system.to(dtype=torch.float64), velocities=None), potential.request.bond_rule
        ),
        method=_method(method),
        freedom=freedom,
        limits=limits,
        batch_atoms=require_whole("batch_atoms", batch_atoms, least=1),
        skin_A=skin_A if freedom is None else 0.0,
        reporters=[*reporters, *([RelaxationStatus(system.n_systems, max_steps)] if status else [])],
    )
    was_training = potential.training
    potential.eval()
    try:
        with torch.no_grad(), ExitStack() as ending:
            for reporter in runner.reporters:
                ending.callback(reporter.close)
            return runner.run()
    finally:
        potential.train(was_training)


@dataclass(frozen=True)
class Limits:
    """When a structure is done."""

    fmax_eV_per_A: float
    smax_eV_per_A3: float
    max_steps: int

    def __post_init__(self) -> None:
        require_positive("fmax_eV_per_A", self.fmax_eV_per_A)
        require_positive("smax_eV_per_A3", self.smax_eV_per_A3)
        require_whole("max_steps", self.max_steps, least=0)


@dataclass
class _Runner:
    potential: Potential
    system: System
    method: Method
    freedom: CellFreedom | None
    limits: Limits
    batch_atoms: int
    skin_A: float
    reporters: Sequence[RelaxationReporter]
    n_begun: int = 0
    n_evaluations: int = 0
    done: dict[int, Relaxed] = field(default_factory=dict)
    held_back: list[Relaxed] = field(default_factory=list)
    """Structures that were refused before anything could be relaxed: no file is touched for their sake."""
    refusal: UserError | None = None
    """The first."""

    def __post_init__(self) -> None:
        self._n_atoms: list[int] = self.system.atoms_per_system.tolist()

    def run(self) -> RelaxationResult:
        started = time.perf_counter()
        active = self._filled(None)
        while active is not None:
            active = self._filled(self._step(active))
        if self.refusal is not None and not self.n_evaluations:
            raise self.refusal
        return RelaxationResult(
            structures=[self.done[number] for number in sorted(self.done)],
            n_evaluations=self.n_evaluations,
            wall_s=time.perf_counter() - started,
        )

    def _filled(self, active: Active | None) -> Active | None:
        """With as many of those that wait as there is room for; ``None`` when none are left."""
        n_atoms = 0 if active is None else active.system.n_atoms
        coming: list[int] = []
        while self.n_begun < len(self._n_atoms):
            n_atoms += self._n_atoms[self.n_begun]
            if n_atoms > self.batch_atoms and (active is not None or coming):
                break
            coming.append(self.n_begun)
            self.n_begun += 1
        if not coming:
            return active
        new = Active.of(coming, self.system, self.method, self.freedom, self.potential.request, self.skin_A)
        return new if active is None else active.joined(new)

    def _step(self, active: Active) -> Active | None:
        """The forces, and a move of those that go on; ``None`` where none do."""
        evaluated = self._evaluated(active)
        if evaluated is None:
            return None
        active, prediction = evaluated
        forces = active.coordinates.forces(active.x, active.system, prediction)
        stress = active.coordinates.largest_stress(forces, active.system)
        frames = Frames.of(active.numbers, active.n_steps, active.system, prediction, stress)
        for reporter in self.reporters:
            reporter.report(frames)
        keep = self._keep(frames, active)
        if not keep:
            return None
        if len(keep) < len(frames.numbers):
            owner = active.coordinates.rows(active.system).owner
            forces = forces[torch.isin(owner, torch.tensor(keep, device=owner.device))]
            active = active.kept(keep)
        return active.moved(forces, self.method)

    def _evaluated(self, active: Active) -> tuple[Active, Prediction] | None:
        """What the potential says; structures that it refuses leave. ``None`` where none are left."""
        while True:
            active = active.with_neighbors()
            try:
                prediction = self.potential(active.system, active.neighbors)
            except UserError as error:
                refused = self._refused(active, error)
                self.refusal = self.refusal or error
            else:
                self.n_evaluations += len(active.numbers)
                self._write_held_back()
                return active, prediction
            for index, sentence in refused.items():
                system = subset(active.system, [index])
                self._finish(
                    Relaxed(active.numbers[index], active.n_steps[index], system, False, failure=sentence)
                )
            keep = [index for index in range(len(active.numbers)) if index not in refused]
            if not keep:
                return None
            active = active.kept(keep)

    def _refused(self, active: Active, error: UserError) -> dict[int, str]:
        """Which structures of the batch the potential refuses, and why."""
        sentences = {}
        for index in range(len(active.numbers)):
            alone = active.kept([index])
            try:
                self.potential(alone.system, alone.neighbors)
            except UserError as own:
                sentences[index] = own.what
        if not sentences:
            raise error
        return sentences

    def _keep(self, frames: Frames, active: Active) -> list[int]:
        """The structures that go on; the others are finished."""
        finite = torch.isfinite(frames.max_force)
        converged = frames.max_force < self.limits.fmax_eV_per_A
        if frames.prediction.energy is not None:
            finite = finite & torch.isfinite(frames.prediction.energy)
        growth = torch.ones_like(frames.max_force)
        if frames.max_stress is not None:
            finite = finite & torch.isfinite(frames.max_stress)
            converged = converged & (frames.max_stress < self.limits.smax_eV_per_A3)
            growth = active.system.volume / torch.linalg.det(active.coordinates.start_cell).abs()
        torn = (growth > VOLUME_FACTOR) | (growth < 1.0 / VOLUME_FACTOR)
        keep = []
        facts = zip(*(fact.tolist() for fact in (finite, torn, converged, growth)), strict=True)
        for index, (is_finite, is_torn, is_converged, times) in enumerate(facts):
            is_last = frames.n_steps[index] >= self.limits.max_steps
            if is_finite and not (is_torn or is_converged or is_last):
                keep.append(index)
                continue
            end = frames.structure(index)
            failure = _failure(end, is_finite=is_finite, growth=times if is_torn else None)
            self._finish(replace(end, converged=is_converged and failure is None, failure=failure))
        return keep

    def _finish(self, end: Relaxed) -> None:
        if not self.n_evaluations:
            self.held_back.append(end)
            return
        if end.failure is None:
            end = replace(end, warnings=tuple(self._warnings(end.system)))
        self.done[end.number] = end
        for reporter in self.reporters:
            reporter.finished(end)

    def _write_held_back(self) -> None:
        waiting, self.held_back = self.held_back, []
        for end in waiting:
            self._finish(end)

    def _warnings(self, system: System) -> list[str]:
        """How a structure lies outside what the model was trained on."""
        if self.potential.domain is None:
            return []
        request = self.potential.request.edges_only()
        graph = build_graph(system, neighbors_for(system, request), request)
        return self.potential.domain.outside(system, graph)


def _failure(end: Relaxed, *, is_finite: bool, growth: float | None) -> str | None:
    """What is wrong with a structure that ends, or ``None``.

    Args:
        growth: how many times its volume a cell has come to, where that is too much.
    """
    pair = shortest_pair(end.system, FUSED_A)
    if pair is not None:
        return f"atoms {pair.first} and {pair.second} have fused: they are {pair.distance:.4f} Å apart"
    if not is_finite and end.max_force_eV_per_A is not None and math.isfinite(end.max_force_eV_per_A):
        return "the energy or the stress is not finite"
    if not is_finite:
        return "the forces are not finite"
    return None if growth is None else f"the cell has come to {growth:.2g} times its volume"


def _method(method: str | Method) -> Method:
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise UserError(
            f"there is no method {method!r}{nearest(method, list(METHODS))}",
            where="method",
            mend=f"Use {' or '.join(METHODS)}.",
        )
    return METHODS[method]()


def _freedom(cell: str | None, pressure_bar: float) -> CellFreedom | None:
    if cell is not None:
        return CellFreedom(cell, pressure_bar / units.EV_PER_A3_IN_BAR)
    if pressure_bar != 0.0:
        raise UserError(
            "a pressure does nothing to a cell that is held",
            where="pressure_bar",
            mend="Set the cell free, or leave the pressure out.",
        )
    return None


def _check(potential: Potential, system: System, freedom: CellFreedom | None) -> None:
    """Refuse structures that this potential cannot relax so."""
    system.check()
    if system.rigid is not None and len(system.rigid):
        raise UserError("a relaxation holds no rigid bonds", where="rigid", mend="Take them from the system.")
    if potential.domain is not None:
        known = torch.tensor(potential.domain.elements, device=system.device)
        unknown = torch.nonzero(~torch.isin(system.atomic_numbers, known))[:, 0]
        if len(unknown):
            index = int(system.system_index[unknown[0]])
            potential.domain.require_elements(subset(system, [index]), where=f"structure {index}")
    if freedom is None:
        return
    if not potential.gives_stress:
        raise UserError(
            "the model gives no stress: its forces are not the gradient of an energy",
            where="cell",
            mend="Hold the cell, or use a model with conservative forces.",
        )
    open_ones = torch.nonzero(~system.pbc.all(dim=1))[:, 0]
    if len(open_ones):
        raise UserError(
            "only a cell that is periodic in three directions can be relaxed",
            where=f"structure {int(open_ones[0])}",
            mend="Hold the cell, or make it periodic and free the strains that have a meaning.",
        )
