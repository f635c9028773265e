"""SchNetPack: force calls of its SchNet and its PaiNN with weights drawn by chance."""

from __future__ import annotations

from typing import Any

import turns

WIDTH, N_LAYERS = 128, 3


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Energy and forces; neighbours are found once."""
    import ase
    import torch
    from torch.utils.data import dataloader

    # A type variable that SchNetPack 2.1.1 imports under the name it had before torch 2.13.
    dataloader.T_co = getattr(dataloader, "T_co", Any)
    import schnetpack
    from schnetpack import properties
    from schnetpack.interfaces import AtomsConverter
    from schnetpack.transform import MatScipyNeighborList

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    atoms = ase.Atoms(task["numbers"], positions=task["positions"], cell=task["cell"], pbc=True)
    kinds = {"schnet": schnetpack.representation.SchNet, "painn": schnetpack.representation.PaiNN}
    cutoff = task["cutoff_A"]
    representation = kinds[task["model"]](
        n_atom_basis=WIDTH,
        n_interactions=N_LAYERS,
        radial_basis=schnetpack.nn.GaussianRBF(n_rbf=task["n_radial"], cutoff=cutoff),
        cutoff_fn=schnetpack.nn.CosineCutoff(cutoff),
    )
    model = schnetpack.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[
            schnetpack.atomistic.Atomwise(n_in=WIDTH, output_key=properties.energy),
            schnetpack.atomistic.Forces(),
        ],
    )
    model.eval().requires_grad_(False)
    inputs = AtomsConverter(MatScipyNeighborList(cutoff=cutoff), dtype=torch.float32)(atoms)

    def calls(n_calls: int) -> None:
        for _ in range(n_calls):
            model({name: value.detach() for name, value in inputs.items()})

    return turns.Ready(
        title="SchNetPack",
        distributions=("schnetpack", "torch"),
        computes=f"{type(representation).__name__} {WIDTH} × {N_LAYERS}, energy and forces",
        precision="float32",
        calls=calls,
        n_edges=len(inputs[properties.idx_i]),
    )


if __name__ == "__main__":
    turns.serve(prepare)
