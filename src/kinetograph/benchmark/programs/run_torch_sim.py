"""torch-sim: steps of Lennard-Jones argon."""

from __future__ import annotations

from typing import Any

import turns

DENSE_UP_TO = 300
"""Atoms up to which all pairs are looked at, without a list: faster there."""


def prepare(task: dict[str, Any]) -> turns.Ready:
    """Its own integrator, without the recording around it."""
    import ase
    import torch
    import torch_sim as ts
    from torch_sim.integrators import nve
    from torch_sim.models.lennard_jones import LennardJonesModel

    torch.set_num_threads(task["threads"])
    device, dtype = torch.device("cpu"), torch.float64
    atoms = ase.Atoms(
        task["numbers"], positions=task["positions"], cell=task["cell"], pbc=True, masses=task["masses"]
    )
    model = LennardJonesModel(
        sigma=task["lennard_jones"]["sigma_A"],
        epsilon=task["lennard_jones"]["epsilon_eV"],
        cutoff=task["cutoff_A"],
        device=device,
        dtype=dtype,
        compute_forces=True,
        compute_stress=False,
        use_neighbor_list=len(atoms) > DENSE_UP_TO,
    )
    units = ts.units.MetalUnits
    init, step = nve(
        model,
        dt=torch.tensor(1e-3 * task["timestep_fs"] * units.time, dtype=dtype),
        kT=torch.tensor(task["kelvin"] * units.temperature, dtype=dtype),
        seed=1,
    )
    state = init(ts.io.atoms_to_state(atoms, device, dtype))
    energy = float(state.energy.sum())

    def steps(n_steps: int) -> None:
        nonlocal state
        for _ in range(n_steps):
            state = step(state)

    return turns.Ready(
        title="torch-sim",
        distributions=("torch-sim-atomistic", "torch"),
        computes=f"Lennard-Jones, {task['timestep_fs']:g} fs",
        precision="float64",
        calls=steps,
        energy_eV=energy,
    )


if __name__ == "__main__":
    turns.serve(prepare)
