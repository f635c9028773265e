"""Stress against strain derivatives of the energy and against OpenMM, on triclinic cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from kinetograph.graph import neighbors_for
from kinetograph.system import System


def sheared(fluid) -> System:
    atoms = fluid.atoms(3, rattle=0.3)
    atoms.set_cell(
        atoms.cell.array @ np.array([[1.0, 0.1, -0.05], [0.0, 1.03, 0.08], [0.0, 0.0, 0.98]]), True
    )
    return System.from_ase(atoms)


def test_stress_is_the_derivative_of_the_energy_by_strain_over_the_volume(fluid) -> None:
    system, potential = sheared(fluid), fluid.potential(1.9)

    def energy(strain: torch.Tensor) -> float:
        deform = torch.eye(3, dtype=torch.float64) + strain
        moved = replace(system, positions=system.positions @ deform.T, cell=system.cell @ deform.T)
        return potential(moved, neighbors_for(moved, potential.request)).energy.item()

    stress = potential(system, neighbors_for(system, potential.request)).stress[0]
    step, expected = 1e-5, torch.zeros(3, 3, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            expected[i, j] = (energy(strain) - energy(-strain)) / (2.0 * step)
    expected /= system.volume
    # central differences: error of order step² plus 1e-16 E/step
    torch.testing.assert_close(stress, expected, rtol=1e-6, atol=1e-8 * stress.abs().max().item())
