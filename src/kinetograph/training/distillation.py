"""Distillation: a student learns what an accurate teacher says, on structures that nobody else labelled.

The teacher labels the structures of the data, whatever labels these have, and as many more as wanted that
are made from them: copies whose atoms are displaced at random, and frames of short runs in which the teacher
itself moves the atoms. Labels are all that the student sees of it (F. Ekström Kelvinius et al., NeurIPS 2023,
arXiv:2306.14818, hand on hidden states as well).

A run is velocity Verlet with velocities drawn anew from the Maxwell–Boltzmann distribution after every frame
that is kept (H. C. Andersen, J. Chem. Phys. 72, 2384 (1980)). A run that goes wrong ends with the frames
before.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses
from ase.stress import full_3x3_to_voigt_6_stress
from rich.console import Console
from rich.progress import track
from torch import Tensor

from kinetograph import model_file, units
from kinetograph.atomic_file import write_atomically
from kinetograph.bonds import with_bonds
from kinetograph.data.frames import LabelledFrames, read_frames, read_structures
from kinetograph.errors import UserError
from kinetograph.evaluation import batches
from kinetograph.graph import neighbors_for
from kinetograph.neighbors import NeighborList
from kinetograph.nn.segments import sum_of_blocks
from kinetograph.pairs import shortest_pair
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System, batch

RATTLES = (0.01, 0.02, 0.04)
"""Standard deviations of random displacements, over the shortest distance in the structure."""
STEPS_PER_FRAME = 50
HYDROGEN_TIMESTEP_FS = 0.5
"""For the mass of hydrogen; for the lightest atom of heavier data it grows with the root of the mass."""
LARGEST_HEATING = 10.0
"""A run whose temperature is more than so many times what it should be went wrong."""
SKIN_A = 1.0


def structures_of(path: Path) -> LabelledFrames:
    """The structures of a file for a teacher to label; their own labels are not looked at.

    Raises:
        UserError: the file cannot be read.
    """
    atoms = read_structures(path)
    return LabelledFrames(
        atoms=atoms,
        forces=[np.full((len(frame), 3), np.nan) for frame in atoms],
        energies=np.full(len(atoms), np.nan),
        stresses=np.full((len(atoms), 3, 3), np.nan),
        source=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@dataclass(frozen=True)
class Teacher:
    """A trained model that labels structures, and makes more of them."""

    potential: Potential
    path: Path
    sha256: str
    architecture: str

    @staticmethod
    def load(path: Path) -> Teacher:
        """From a model file.

        Raises:
            UserError: see :func:`kinetograph.model_file.load`.
        """
        potential = model_file.load(path, device="cuda" if torch.cuda.is_available() else "cpu")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Teacher(potential, path, digest, model_file.read_header(path).architecture)

    def labelled(
        self,
        structures: LabelledFrames,
        folder: Path,
        *,
        n_made: int,
        temperature_K: float,
        seed: int,
        progress: bool = True,
    ) -> LabelledFrames:
        """The structures and ``n_made`` more from each, labelled; read from ``folder`` where they lie there.

        Labels are computed once, for a teacher, a file and these arguments. A part of the structures at a
        time is written, so that a labelling that was stopped goes on.

        Raises:
            UserError: an element that the teacher never saw, or a structure that it cannot be asked about.
        """
        assert self.potential.domain is not None
        self.potential.domain.require_elements(structures.elements, where=structures.source)
        key = f"{self.sha256} {structures.sha256} {n_made} {temperature_K} {seed}"
        name = f"teacher-{Path(structures.source).stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        path, parts = folder / f"{name}.extxyz", folder / f"{name}.parts"
        if not path.is_file():
            parts.mkdir(parents=True, exist_ok=True)
            chosen = list(batches(self.potential, [len(atoms) for atoms in structures.atoms]))
            console = Console(stderr=True)
            for numbers in track(chosen, "teacher", console=console, transient=True, disable=not progress):
                part = parts / f"{numbers.start:08d}.extxyz"
                if not part.is_file():
                    frames = self._frames(structures, numbers, n_made, temperature_K, seed)
                    text = io.StringIO()
                    ase.io.write(text, frames, format="extxyz")
                    write_atomically(part, text.getvalue().encode())
            write_atomically(path, b"".join(part.read_bytes() for part in sorted(parts.glob("*.extxyz"))))
            shutil.rmtree(parts)
        labelled = read_frames(path)
        lost = len(structures) * (1 + n_made) - len(labelled)
        if lost:
            warnings.warn(
                f"{lost} of {len(structures) * n_made} structures that the teacher was to make are missing: "
                "its runs from some frames went wrong",
                UserWarning,
                stacklevel=2,
            )
        return labelled

    def _frames(
        self, structures: LabelledFrames, numbers: range, n_made: int, temperature_K: float, seed: int
    ) -> list[ase.Atoms]:
        """Labelled structures of these numbers and those made from them; whose and how, in ``info``."""
        n_run = (n_made + 1) // 2
        systems = [self._system(structures, number) for number in numbers]
        keys = [(seed, number) for number in numbers]
        run = _Run(n_run, temperature_K, _timestep_fs(structures.elements))
        found: list[tuple[int, str, System]] = []
        for number, system, frames in zip(numbers, systems, self._runs(systems, keys, run), strict=True):
            rattled = self._rattled(system, seed, number, n_made - n_run)
            for made, some in (("data", [system]), ("rattled", rattled), ("run", frames)):
                found += [(number, made, one) for one in some]
        labelled = []
        for chosen in batches(self.potential, [system.n_atoms for _, _, system in found]):
            many = batch([found[index][2] for index in chosen]).to(self._device)
            given = self._asked(many, neighbors_for(many, self.potential.request))
            starts = np.cumsum([0, *many.atoms_per_system.tolist()])
            for place, index in enumerate(chosen):
                number, made, system = found[index]
                results: dict[str, Any] = {
                    "forces": given.forces[starts[place] : starts[place + 1]].cpu().numpy()
                }
                if not np.isfinite(results["forces"]).all():
                    if made == "data":
                        where = f"{structures.source}, frame {number}"
                        raise UserError("the teacher's forces are not finite", where=where)
                    continue
                if given.energy is not None:
                    results["energy"] = float(given.energy[place])
                if given.stress is not None and bool(system.pbc.all()):
                    results["stress"] = full_3x3_to_voigt_6_stress(given.stress[place].cpu().numpy())
                atoms = system.to_ase()[0]
                atoms.info |= {"source_frame": number, "made": made}
                atoms.calc = SinglePointCalculator(atoms, **results)
                labelled.append(atoms)
        return labelled

    @property
    def _device(self) -> torch.device:
        return next((t.device for t in self.potential.state_dict().values()), torch.device("cpu"))

    def _system(self, structures: LabelledFrames, number: int) -> System:
        try:
            system = System.from_ase(structures.atoms[number])
        except UserError as error:
            where = f"{structures.source}, frame {number}"
            raise UserError(error.what, where=where, mend=error.mend) from error
        # Bonds stay those of the structure that others are made from.
        return replace(with_bonds(system, self.potential.request.bond_rule), velocities=None)

    def _rattled(self, system: System, seed: int, number: int, n: int) -> list[System]:
        """Copies whose free atoms are displaced at random, by one amplitude after the other."""
        random = np.random.default_rng((seed, number, 1))
        nearest = shortest_pair(system, self.potential.request.reach)
        unit = self.potential.request.reach if nearest is None else nearest.distance
        free = 1.0 if system.fixed is None else (~system.fixed).double().unsqueeze(1)
        copies = []
        for k in range(n):
            drawn = torch.from_numpy(random.standard_normal((system.n_atoms, 3)))
            amplitude = RATTLES[(number + k) % len(RATTLES)] * unit
            copies.append(replace(system, positions=system.positions + amplitude * free * drawn))
        return copies

    def _runs(
        self, systems: Sequence[System], keys: Sequence[tuple[int, int]], run: _Run
    ) -> list[list[System]]:
        """Frames of a run from each structure, of all at once; one by one where that goes wrong."""
        frames: list[list[System]] = [[] for _ in systems]
        counts = [system.n_atoms for system in systems]
        try:
            for positions in self._moved(batch(systems).to(self._device), keys, run):
                for own, system, part in zip(frames, systems, torch.split(positions, counts), strict=True):
                    own.append(replace(system, positions=part))
        except UserError:
            if len(systems) > 1:
                pairs = zip(systems, keys, strict=True)
                return [self._runs([system], [key], run)[0] for system, key in pairs]
        return frames

    def _moved(self, system: System, keys: Sequence[tuple[int, int]], run: _Run) -> Iterator[Tensor]:
        """(n_atoms, 3) Å of each frame of a run.

        Raises:
            UserError: the run went wrong.
        """
        generators = [np.random.default_rng((*key, 0)) for key in keys]
        counts = system.atoms_per_system
        free = torch.ones_like(system.masses) if system.fixed is None else (~system.fixed).double()
        inverse_mass = (free / (system.masses * units.AMU_A2_PER_FS2_IN_EV)).unsqueeze(1)
        thermal = units.BOLTZMANN_EV_PER_K * run.temperature_K
        neighbors = neighbors_for(system, self.potential.request, skin=SKIN_A)
        acceleration = self._asked(system, neighbors).forces * inverse_mass
        for _ in range(run.n_frames):
            drawn = [g.standard_normal((n, 3)) for g, n in zip(generators, counts.tolist(), strict=True)]
            velocities = (thermal * inverse_mass).sqrt() * torch.from_numpy(np.concatenate(drawn)).to(free)
            for _ in range(STEPS_PER_FRAME):
                velocities = velocities + 0.5 * run.timestep_fs * acceleration
                system = replace(system, positions=system.positions + run.timestep_fs * velocities)
                neighbors = neighbors.updated(system)
                acceleration = self._asked(system, neighbors).forces * inverse_mass
                velocities = velocities + 0.5 * run.timestep_fs * acceleration
            kinetic = 0.5 * units.AMU_A2_PER_FS2_IN_EV * system.masses * velocities.square().sum(dim=1)
            if not bool((sum_of_blocks(kinetic, counts) <= LARGEST_HEATING * 1.5 * counts * thermal).all()):
                raise UserError("the run went wrong")
            yield system.positions.cpu()

    def _asked(self, system: System, neighbors: NeighborList) -> Prediction:
        with torch.no_grad():
            prediction: Prediction = self.potential(system, neighbors)
        return prediction


@dataclass(frozen=True)
class _Run:
    n_frames: int
    temperature_K: float
    timestep_fs: float


def _timestep_fs(elements: Sequence[int]) -> float:
    lightest = min(atomic_masses[z] for z in elements)
    return float(HYDROGEN_TIMESTEP_FS * (lightest / atomic_masses[1]) ** 0.5)
