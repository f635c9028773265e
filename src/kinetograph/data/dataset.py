"""Samples with their neighbour lists made once, and how they become a batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from kinetograph.bonds import with_bonds
from kinetograph.data.frames import LabelledFrames
from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.neighbors import NeighborList, join
from kinetograph.potential import Potential
from kinetograph.system import System, batch
from kinetograph.training_domain import TrainingDomain, domain_of, lone_atoms, merge


@dataclass(frozen=True)
class Sample:
    """One structure, or one batch of them, with its neighbours and labels."""

    system: System
    neighbors: NeighborList
    forces: Tensor
    """(n_atoms, 3) eV/Å."""
    energies: Tensor
    """(n_systems,) eV, NaN where not known."""
    stresses: Tensor
    """(n_systems, 3, 3) eV/Å³, NaN where not known."""

    def to(self, device: torch.device) -> Sample:
        """The sample on another device."""
        if self.forces.device == device:
            return self
        return Sample(
            self.system.to(device),
            self.neighbors.to(device),
            self.forces.to(device),
            self.energies.to(device),
            self.stresses.to(device),
        )


class ForceDataset(Dataset[Sample]):
    """Labelled frames ready for a model: neighbour lists are made once and kept.

    Raises:
        UserError: a frame whose structure cannot be used, named by file and number.
    """

    def __init__(self, frames: LabelledFrames, request: GraphRequest) -> None:
        self.request = request
        self.source = frames.source
        self.samples: list[Sample] = []
        self.domains: list[TrainingDomain] = []
        """The ranges of each frame."""
        for number, (atoms, forces) in enumerate(zip(frames.atoms, frames.forces, strict=True)):
            try:
                # Forces do not need velocities, and a file may have them for some frames only.
                system = replace(with_bonds(System.from_ase(atoms), request.bond_rule), velocities=None)
                neighbors = NeighborList.build(system, request.reach, bond_rule=request.bond_rule)
                graph = build_graph(system, neighbors, request.edges_only())  # refuses what has no graph
            except UserError as error:
                raise UserError(
                    error.what, where=f"{frames.source}, frame {number}", mend=error.mend
                ) from error
            self.domains.append(domain_of(system, graph, request.cutoff))
            self.samples.append(
                Sample(
                    system,
                    neighbors,
                    torch.as_tensor(forces),
                    torch.as_tensor(frames.energies[number : number + 1]),
                    torch.as_tensor(frames.stresses[number : number + 1]),
                )
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def domain(self) -> TrainingDomain:
        """The ranges that these frames span."""
        return merge(self.domains)

    def lone_forces(self) -> list[float]:
        """Of each frame the largest force (eV/Å) on an atom without neighbours; 0 where all have some."""
        largest = []
        for number, (sample, domain) in enumerate(zip(self.samples, self.domains, strict=True)):
            force = 0.0
            if domain.company_A is None:
                lone = lone_atoms(self.graph(number), self.request.cutoff)
                force = float(torch.linalg.norm(sample.forces[lone], dim=1).max())
            largest.append(force)
        return largest

    def graph(self, number: int) -> Graph:
        """The edges of a frame."""
        sample = self.samples[number]
        return build_graph(sample.system, sample.neighbors, self.request.edges_only())


def collate(samples: Sequence[Sample]) -> Sample:
    """Many samples as one batch."""
    if len(samples) == 1:
        return samples[0]
    return Sample(
        system=batch([s.system for s in samples]),
        neighbors=join([s.neighbors for s in samples]),
        forces=torch.cat([s.forces for s in samples]),
        energies=torch.cat([s.energies for s in samples]),
        stresses=torch.cat([s.stresses for s in samples]),
    )


def less(dataset: ForceDataset, potential: Potential) -> ForceDataset:
    """The dataset with what ``potential`` gives taken from its labels: what is left to learn.

    Raises:
        UserError: the potential cannot be worked out for a frame.
    """
    rest = copy.copy(dataset)
    rest.samples = []
    for number, sample in enumerate(dataset.samples):
        neighbors = neighbors_for(sample.system, potential.request)
        try:
            with torch.no_grad():
                known = potential(sample.system, neighbors)
        except UserError as error:
            raise UserError(error.what, where=f"{dataset.source}, frame {number}", mend=error.mend) from error
        stresses = sample.stresses if known.stress is None else sample.stresses - known.stress
        energies = sample.energies if known.energy is None else sample.energies - known.energy
        rest.samples.append(
            replace(sample, forces=sample.forces - known.forces, energies=energies, stresses=stresses)
        )
    return rest


class StepSampler(Sampler[list[int]]):
    """Batches as a function of (seed, step) alone: training resumed at a step sees what it would have.

    Every pass over the data is a permutation keyed by (seed, pass). One "epoch" of this sampler goes
    from ``first_step`` to the next multiple of ``steps_per_epoch``.
    """

    def __init__(self, n_samples: int, batch_size: int, steps_per_epoch: int, seed: int) -> None:
        self.n_samples = n_samples
        self.batch_size = min(batch_size, n_samples)
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.first_step = 0

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        end = (self.first_step // self.steps_per_epoch + 1) * self.steps_per_epoch
        for step in range(self.first_step, end):
            yield self.batch_at(step)

    def batch_at(self, step: int) -> list[int]:
        """Indices of the batch of one step; what is left of a pass too small for a batch is left out."""
        batches_per_pass = self.n_samples // self.batch_size
        number, position = divmod(step, batches_per_pass)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        order = torch.randperm(self.n_samples, generator=generator)
        return [int(i) for i in order[position * self.batch_size : (position + 1) * self.batch_size]]
