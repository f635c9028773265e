"""NequIP: force calls of a model with weights drawn by chance, as it is in Python (not compiled)."""

from __future__ import annotations

from typing import Any

import turns

N_FEATURES, N_LAYERS, L_MAX = 32, 3, 1


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Energy and forces; neighbours are found once."""
    import ase
    import torch
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    torch.set_num_threads(task["threads"])
    set_global_state()
    atoms = ase.Atoms(task["numbers"], positions=task["positions"], cell=task["cell"], pbc=True)
    names = sorted(set(atoms.get_chemical_symbols()))
    data = ChemicalSpeciesToAtomTypeMapper(model_type_names=names)(from_ase(atoms))
    data = compute_neighborlist_(data, task["cutoff_A"], backend="matscipy")
    n_edges = data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]
    model = NequIPGNNModel(
        seed=0,
        model_dtype="float32",
        type_names=names,
        r_max=task["cutoff_A"],
        num_layers=N_LAYERS,
        l_max=L_MAX,
        num_features=N_FEATURES,
        avg_num_neighbors=n_edges / len(atoms),
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
    )
    model.eval().requires_grad_(False)

    def calls(n_calls: int) -> None:
        for _ in range(n_calls):
            model({name: value.detach() for name, value in data.items()})

    return turns.Ready(
        title="NequIP",
        distributions=("nequip", "e3nn", "torch"),
        computes=f"l = {L_MAX}, {N_FEATURES} × {N_LAYERS}, energy and forces",
        precision="float32",
        calls=calls,
        n_edges=n_edges,
    )


if __name__ == "__main__":
    turns.serve(prepare)
