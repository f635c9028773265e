"""The median force: its fit, and that a model without weights works as any other."""

from __future__ import annotations

from collections.abc import Iterator

import ase
import numpy as np
import pytest
import torch
from ase.build import molecule

from kinetograph.errors import UserError
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.median import PRESETS, Median
from kinetograph.system import System, batch

FRAMES = [molecule("H2O"), molecule("CO2"), molecule("CH3OH")]


@pytest.fixture
def forces() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(len(frame), 3, generator=generator) + 0.3 for frame in FRAMES]


def graphs() -> list[Graph]:
    request = Median([1, 6, 8], cutoff=3.0).request
    systems = [System.from_ase(frame) for frame in FRAMES]
    return [build_graph(system, neighbors_for(system, request), request) for system in systems]


def predicted(model: Median, atoms: ase.Atoms) -> torch.Tensor:
    potential = LearnedPotential(model).eval()
    system = System.from_ase(atoms)
    return potential(system, neighbors_for(system, potential.request)).forces


def test_every_atom_has_the_median_of_all_forces(forces: list[torch.Tensor]) -> None:
    model = Median([1, 6, 8], cutoff=3.0)
    model.fit_statistics(graphs(), forces)
    expected = np.median(torch.cat(forces).numpy(), axis=0)
    np.testing.assert_allclose(predicted(model, molecule("C2H6")), np.tile(expected, (8, 1)), rtol=1e-6)


def test_every_element_has_the_median_of_its_forces(forces: list[torch.Tensor]) -> None:
    model = Median([1, 6, 7, 8], cutoff=3.0, per_element=True)
    model.fit_statistics(iter(graphs()), iter(forces))
    numbers = np.concatenate([frame.numbers for frame in FRAMES])
    every = torch.cat(forces).numpy()
    got = predicted(model, ase.Atoms("HCNO", positions=np.diag([0.0, 9.0, 9.0, 9.0])[:, 1:]))
    for row, z in zip(got, (1, 6, 7, 8), strict=True):
        expected = np.median(every[numbers == z], axis=0) if z != 7 else np.zeros(3)
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_of_all_constants_it_has_the_least_mean_absolute_error(forces: list[torch.Tensor]) -> None:
    model = Median([1, 6, 8], cutoff=3.0)
    model.fit_statistics(graphs(), forces)
    every = torch.cat(forces)
    least = (every - model.median).abs().mean()
    for step in 0.2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1)):
        assert (every - model.median - step).abs().mean() >= least - 1e-6  # rounding


def test_one_median_for_all_needs_no_graphs(forces: list[torch.Tensor]) -> None:
    def no_graphs() -> Iterator[Graph]:
        raise AssertionError("graphs are dear to make")
        yield

    Median([1, 6, 8], cutoff=3.0).fit_statistics(no_graphs(), forces)


def test_frames_and_forces_must_go_together(forces: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        Median([1, 6, 8], cutoff=3.0, per_element=True).fit_statistics(graphs(), forces[:2])


def test_a_model_without_weights_predicts_in_the_type_of_the_structure(forces: list[torch.Tensor]) -> None:
    model = Median([1, 6, 8], cutoff=3.0)
    model.fit_statistics(graphs(), forces)
    assert list(model.parameters()) == []
    potential = LearnedPotential(model).eval()
    assert potential.dtype is None
    assert potential.request.receptive_field == 0.0
    systems = batch([System.from_ase(frame) for frame in (*FRAMES, ase.Atoms("O"))])
    for dtype in (torch.float32, torch.float64):
        system = systems.to(dtype=dtype)
        prediction = potential(system, neighbors_for(system, potential.request))
        assert prediction.forces.dtype == dtype
        assert prediction.energy is None
        assert not prediction.conservative
        torch.testing.assert_close(
            prediction.forces, model.median.to(dtype).expand(systems.n_atoms, 3), rtol=1e-6, atol=0
        )


def test_forces_are_in_units_of_the_scale(forces: list[torch.Tensor]) -> None:
    model = Median([1, 6, 8], cutoff=3.0)
    model.fit_statistics(graphs(), forces)
    potential = LearnedPotential(model)
    potential.force_scale.fill_(2.5)
    system = System.from_ase(FRAMES[0])
    torch.testing.assert_close(
        potential(system, neighbors_for(system, potential.request)).forces[0].float(), 2.5 * model.median[0]
    )


def test_the_median_is_kept_with_the_model(forces: list[torch.Tensor]) -> None:
    model, other = (Median([1, 6, 8], cutoff=3.0, **PRESETS["median"].hyperparameters) for _ in range(2))
    model.fit_statistics(graphs(), forces)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.median, other.median)
    assert not torch.equal(model.median, torch.zeros(1, 3))


def test_conservative_forces_are_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match="Median has no conservative forces: a constant force"):
        Median([1], cutoff=3.0, forces="conservative")
