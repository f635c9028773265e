"""Random numbers that depend on where they are used, not on what was drawn before.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11, 2011) is a function of a
key and a counter. With key = (seed, replica) and counter = (step, purpose), a restarted run draws
what the uninterrupted one would have drawn, and each structure of a batch has a stream of its own.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from kinetograph.system import System


class Purpose(IntEnum):
    """What a number is drawn for: streams of different purposes never overlap."""

    INITIAL_VELOCITIES = 0
    LANGEVIN = 1


def standard_normal(system: System, seed: int, step: int, purpose: Purpose) -> Tensor:
    """(n_atoms, 3) independent standard normal numbers in the type of the positions.

    The replica of a structure is its place in the batch.
    """
    counts = [system.n_atoms] if system.n_systems == 1 else system.atoms_per_system.tolist()
    draws = [
        Generator(
            Philox(key=np.array([seed, replica], dtype=np.uint64), counter=[0, 0, int(purpose), step])
        ).standard_normal((count, 3))
        for replica, count in enumerate(counts)
    ]
    noise = draws[0] if len(draws) == 1 else np.concatenate(draws)
    return torch.from_numpy(noise).to(device=system.device, dtype=system.dtype)
