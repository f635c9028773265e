"""Internal pressure of a state: what its atoms push with against the walls of the cell.

With c = AMU_A2_PER_FS2_IN_EV, the stress σ of the potential (tension positive) and the volume V::

    P_αβ V = c Σ_i m_i v_iα v_iβ + W_αβ,   W = −V σ,   P = (P_xx + P_yy + P_zz)/3

A positive P pushes outward; an external pressure P₀ holds it where P = P₀ on average. The velocities are
those of the state: where the centre of mass is held, its share kT/V is not in P.

Rigid bonds pull with forces that no potential knows. Therefore a cluster of atoms held together counts as
one particle: a strain moves its centre R_c and leaves its inside alone, and with V_c the centre's velocity::

    P V = c Σ_c M_c V_c V_c + W − Σ_i (r_i − R_c) F_i        (the symmetric part)

======  =======================  ======
symbol  in code                  unit
======  =======================  ======
P V     pressure_times_volume    eV
P       pressure_tensor          eV/Å³
σ       prediction.stress        eV/Å³
R_c     of_centres(positions)    Å
======  =======================  ======
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kinetograph import units
from kinetograph.dynamics.settle import Triangles
from kinetograph.dynamics.state import State
from kinetograph.dynamics.velocities import per_system
from kinetograph.errors import UserError
from kinetograph.potential import Potential
from kinetograph.system import System


def pressure_bar(state: State) -> Tensor:
    """(n_systems,) the internal pressure in bar; NaN for structures not periodic throughout.

    Raises:
        UserError: the potential gives no stress.
    """
    return units.EV_PER_A3_IN_BAR / 3.0 * pressure_tensor(state).diagonal(dim1=1, dim2=2).sum(dim=1)


def pressure_tensor(state: State) -> Tensor:
    """(n_systems, 3, 3) eV/Å³; NaN for structures not periodic throughout.

    Raises:
        UserError: the potential gives no stress.
    """
    return pressure_times_volume(state) / state.system.volume[:, None, None]


def pressure_times_volume(state: State) -> Tensor:
    """(n_systems, 3, 3) eV, symmetric.

    Raises:
        UserError: the potential gives no stress.
    """
    system, stress = state.system, state.prediction.stress
    if stress is None:
        raise UserError("the potential gives no stress, so there is no pressure", where="pressure")
    momenta = units.AMU_A2_PER_FS2_IN_EV * state.inertia.mass * of_centres(state.velocities, state)
    flow = momenta.unsqueeze(2) * of_centres(state.velocities, state).unsqueeze(1)
    if state.rigid is not None:
        inside = state.positions - of_centres(state.positions, state)
        turned = inside.unsqueeze(2) * state.prediction.forces.unsqueeze(1)
        flow = flow - 0.5 * (turned + turned.transpose(1, 2))
    return per_system(flow, system) - stress * system.volume[:, None, None]


def of_centres(vectors: Tensor, state: State) -> Tensor:
    """(n_atoms, 3): for each atom the mean over its cluster of rigid bonds, weighted by mass.

    An atom without rigid bonds is its own centre. Clusters must be in one piece, as a state has them.
    """
    if state.rigid is None:
        return vectors
    cluster = torch.arange(len(vectors), device=vectors.device)  # named after its first atom
    for group in state.rigid.clusters:
        atoms = group.atoms if isinstance(group, Triangles) else group.pairs.flatten(start_dim=1)
        cluster[atoms] = atoms.amin(dim=1, keepdim=True).expand_as(atoms)
    mass = state.inertia.mass
    total = torch.zeros_like(mass).index_add(0, cluster, mass)
    mean = torch.zeros_like(vectors).index_add(0, cluster, mass * vectors)
    return (mean / total.clamp(min=1e-300))[cluster]


def require_pressure(system: System, potential: Potential) -> None:
    """Refuse what a barostat cannot work on.

    Raises:
        UserError: the potential gives no stress, a structure is not periodic in three directions, or it
            has fixed atoms.
    """
    if not potential.gives_stress:
        raise UserError(
            "this potential gives no stress, which constant pressure needs",
            where="pressure_bar",
            mend="Use one with conservative forces, or run at constant volume.",
        )
    if not bool(system.pbc.all()):
        raise UserError(
            "constant pressure needs structures that are periodic in three directions",
            where="pressure_bar",
            mend="Give the structure a cell, or run at constant volume.",
        )
    if system.fixed is not None and bool(system.fixed.any()):
        raise UserError(
            "atoms are fixed, but constant pressure moves all of them with the cell",
            where="pressure_bar",
            mend="Free them, or run at constant volume.",
        )


def check_pressure(pressure_bar: float | Sequence[float]) -> None:
    """Raise ``UserError`` unless every pressure is a finite number."""
    each = [pressure_bar] if isinstance(pressure_bar, int | float) else pressure_bar
    if not all(math.isfinite(value) for value in each):
        raise UserError(f"pressure_bar is {pressure_bar}", where="pressure_bar", mend="Give a finite number.")
