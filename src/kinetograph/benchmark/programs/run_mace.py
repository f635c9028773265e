"""MACE: force calls of a model with weights drawn by chance, as it is in Python (not compiled)."""

from __future__ import annotations

from typing import Any

import turns


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Energy and forces; neighbours are found once. What is not said here is as its training has it."""
    import ase
    import mace  # noqa: F401  (first: it tells torch how to read what e3nn ships)
    import numpy as np
    import torch
    from e3nn import o3
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    atoms = ase.Atoms(task["numbers"], positions=task["positions"], cell=task["cell"], pbc=True)
    table = tools.AtomicNumberTable(sorted(set(task["numbers"])))
    structure = data.AtomicData.from_config(
        data.config_from_atoms(atoms), z_table=table, cutoff=task["cutoff_A"]
    )
    n_edges = structure.edge_index.shape[1]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=task["cutoff_A"],
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(table),
        hidden_irreps=o3.Irreps(task["model"]),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(table)),
        avg_num_neighbors=n_edges / len(atoms),
        atomic_numbers=table.zs,
        correlation=3,
        gate=torch.nn.functional.silu,
        radial_MLP=[64, 64, 64],
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    model.eval().requires_grad_(False)
    loader = torch_geometric.dataloader.DataLoader([structure], batch_size=1)
    inputs = next(iter(loader)).to_dict()

    def calls(n_calls: int) -> None:
        for _ in range(n_calls):
            fresh = {k: v.detach() if torch.is_tensor(v) else v for k, v in inputs.items()}
            model(fresh, compute_force=True)

    return turns.Ready(
        title="MACE",
        distributions=("mace-torch", "e3nn", "torch"),
        computes=f"{task['model']}, 2 layers, l ≤ 3, correlation 3, energy and forces",
        precision="float32",
        calls=calls,
        n_edges=n_edges,
    )


if __name__ == "__main__":
    turns.serve(prepare)
