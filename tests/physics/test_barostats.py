"""Either barostat on the fluid: structures by themselves, and what both refuse.

What each of them conserves is in ``test_mtk`` and ``test_cell_rescaling``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kinetograph.dynamics.settings import Ramp
from kinetograph.errors import UserError
from kinetograph.system import System


def test_a_structure_moves_as_it_would_alone(fluid, barostat) -> None:
    """At a pressure and with noise of its own."""
    potential, pressures = fluid.potential(1.6), [300.0, 600.0, 900.0]
    together = barostat(pressure_bar=pressures, mode="full")
    state = together.init(fluid.system(2, n_copies=3), potential, 0)
    alone = [barostat(pressure_bar=pressure, mode="full") for pressure in pressures]
    singles = [
        replace(integrator.init(System.from_ase(atoms), potential, 0), streams=(stream,))
        for integrator, atoms, stream in zip(alone, state.system.to_ase(), state.streams, strict=True)
    ]
    for _ in range(20):
        state = together.step(state, potential)
        singles = [
            integrator.step(single, potential) for integrator, single in zip(alone, singles, strict=True)
        ]
    assert len(set(state.system.volume.tolist())) == 3
    for index, single in enumerate(singles):
        mask = state.system.system_index == index
        torch.testing.assert_close(single.positions, state.positions[mask], rtol=0, atol=1e-10)
        torch.testing.assert_close(single.system.cell[0], state.system.cell[index], rtol=0, atol=1e-10)


def test_a_ramp_has_no_conserved_quantity(fluid, barostat) -> None:
    integrator = replace(barostat(), temperature_K=Ramp((0.0, 1.0), (100.0, 200.0)))
    state = integrator.init(fluid.system(2), fluid.potential(1.6), 0)
    assert integrator.conserved_quantity(integrator.step(state, fluid.potential(1.6))) is None


def test_what_neither_can_do_is_refused(fluid, barostat) -> None:
    potential, system = fluid.potential(1.6), fluid.system(2)
    with pytest.raises(UserError, match="periodic in three directions"):
        barostat().init(replace(system, pbc=torch.zeros(1, 3, dtype=torch.bool)), potential, 0)
    with pytest.raises(UserError, match="2 values of pressure_bar for 1 structures"):
        barostat(pressure_bar=[1.0, 2.0]).init(system, potential, 0)
    for wrong in ({"mode": "cubic"}, {"pressure_bar": float("nan")}, {"pressure_bar": float("inf")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            barostat(**wrong)
