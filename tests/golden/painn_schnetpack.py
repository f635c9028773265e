"""SchNetPack's PaiNN with random weights, and what it says of a molecule and of a crystal.

    PEERS/schnetpack/bin/python tests/golden/painn_schnetpack.py

in the environment that ``kinetograph benchmark peers --install`` makes (SchNetPack 2.1.1). It writes
``painn_schnetpack.npz`` beside this file: the weights under SchNetPack's names, and for each structure what
it is, with its energy (eV), forces (eV/Å) and, with a cell, stress (eV/Å³), all in double precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch
from ase.build import molecule

WIDTH, N_LAYERS, N_RADIAL, CUTOFF = 8, 2, 6, 4.0


def structures() -> dict[str, ase.Atoms]:
    """Carbon dioxide beside water; the same in a skewed cell narrower than the cutoff."""
    atoms = molecule("CO2") + molecule("H2O")
    atoms.positions[3:] += [0.4, 2.2, 1.9]
    atoms.rattle(0.05, seed=4)
    crystal = atoms.copy()
    crystal.set_cell([[3.9, 0, 0], [0.7, 4.3, 0], [-0.5, 0.4, 5.6]])
    crystal.pbc = True
    return {"molecule": atoms, "crystal": crystal}


def main() -> None:
    from torch.utils.data import dataloader

    # A type variable that SchNetPack 2.1.1 imports under the name it had before torch 2.13.
    dataloader.T_co = getattr(dataloader, "T_co", Any)
    import schnetpack as spk
    from schnetpack import properties
    from schnetpack.interfaces import AtomsConverter
    from schnetpack.transform import ASENeighborList

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(7)
    representation = spk.representation.PaiNN(
        n_atom_basis=WIDTH,
        n_interactions=N_LAYERS,
        radial_basis=spk.nn.BesselRBF(n_rbf=N_RADIAL, cutoff=CUTOFF),
        cutoff_fn=spk.nn.CosineCutoff(CUTOFF),
    )
    found: dict[str, np.ndarray] = {}
    for name, atoms in structures().items():
        periodic = bool(atoms.pbc.all())
        model = spk.model.NeuralNetworkPotential(
            representation=representation,
            input_modules=[
                *([spk.atomistic.Strain()] if periodic else []),
                spk.atomistic.PairwiseDistances(),
            ],
            output_modules=[
                spk.atomistic.Atomwise(n_in=WIDTH, output_key=properties.energy),
                spk.atomistic.Forces(calc_stress=periodic),
            ],
        ).eval()
        torch.manual_seed(11)  # the same weights for both structures
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3)
        model.double()
        # Its frequencies are made in single precision.
        exact = torch.arange(1, N_RADIAL + 1, dtype=torch.float64) * torch.pi / CUTOFF
        representation.radial_basis.freqs.copy_(exact)
        inputs = AtomsConverter(ASENeighborList(cutoff=CUTOFF), dtype=torch.float64)(atoms)
        results = model(inputs)
        found |= {f"weights/{key}": value.numpy() for key, value in model.state_dict().items()}
        found |= {
            f"{name}/numbers": atoms.numbers,
            f"{name}/positions": atoms.positions,
            f"{name}/cell": np.asarray(atoms.cell),
            f"{name}/energy": results[properties.energy].detach().numpy(),
            f"{name}/forces": results[properties.forces].detach().numpy(),
        }
        if periodic:
            found[f"{name}/stress"] = results[properties.stress].detach().numpy()[0]
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main()
