"""The torch-sim side of ``argon.py``, in an environment of its own: a JSON line in and one out, a turn."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import ase
import torch
import torch_sim as ts
from torch_sim.models.lennard_jones import LennardJonesModel

DENSE_UP_TO = 300
"""Atoms up to which all pairs are looked at, without a list: faster there."""


def main() -> None:
    """Set up from the first line, then make steps."""
    torch.set_num_threads(1)
    given = json.loads(sys.stdin.readline())
    atoms = ase.Atoms(given["numbers"], positions=given["positions"], cell=given["cell"], pbc=True)
    device, dtype = torch.device("cpu"), torch.float64
    model = LennardJonesModel(
        sigma=given["sigma"],
        epsilon=given["epsilon"],
        cutoff=given["cutoff"],
        device=device,
        dtype=dtype,
        compute_forces=True,
        compute_stress=False,
        use_neighbor_list=len(atoms) > DENSE_UP_TO,
    )
    state = ts.io.atoms_to_state(atoms, device, dtype)
    answer = {"torch_sim": version("torch-sim-atomistic"), "torch": torch.__version__}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        n_steps = json.loads(line)["n_steps"]
        state = ts.integrate(
            system=state,
            model=model,
            integrator=getattr(ts, "Integrator", ts.integrators).nve,
            n_steps=n_steps,
            temperature=90.0,
            timestep=given["timestep_fs"] * 1e-3,
        )
        print(json.dumps({"energy": float(state.energy.sum())}), flush=True)


if __name__ == "__main__":
    main()
