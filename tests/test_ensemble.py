"""An ensemble answers with the mean of its members and knows how far they are apart."""

from __future__ import annotations

import copy
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from kinetograph.bonds import with_bonds
from kinetograph.dynamics import Langevin, simulate
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.models.classical import ZBL
from kinetograph.potential import Prediction
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System
from kinetograph.testing import check_contract
from kinetograph.training_domain import TrainingDomain

ELEMENTS = (1, 8, 18)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "painn": ("painn", {"width": 8, "n_layers": 2, "forces": "both"}),
    "painn with bonds": ("painn", {"width": 8, "n_layers": 1, "forces": "both", "max_bond_separation": 2}),
    "schnet": ("schnet", {"width": 8, "n_layers": 2, "n_radial": 8, "forces": "both"}),
    "gamd": ("gamd", {"form": "covariant", "width": 8, "n_layers": 2, "forces": "direct"}),
    "gns": ("gns", {"width": 8, "n_layers": 1, "forces": "direct"}),
    "forcenet": ("forcenet", {"width": 10, "n_layers": 1, "forces": "direct"}),
    "gnnff": ("gnnff", {"width": 8, "edge_width": 8, "nearest_required": False, "forces": "both"}),
}


def members(name: str = "painn", n: int = 3, **changed: Any) -> list[LearnedPotential]:
    """In double precision, each with weights, a force scale and energies of the elements of its own."""
    architecture, arguments = MODELS[name]
    made = []
    for number in range(n):
        torch.manual_seed(number)
        model = build(architecture, ELEMENTS, {**arguments, "cutoff": 4.0, **changed})
        model.to(dtype=torch.float64).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
        model.force_scale.fill_(0.3 + 0.2 * number)
        if hasattr(model, "reference_energies"):
            model.reference_energies[[1, 8, 18]] = torch.tensor([-13.0, -2000.0, 5.0]).double() + number
        made.append(model)
    return made


def several(*more: Atoms) -> System:
    """A molecule, a crystal and an atom alone, in one batch."""
    crystal = bulk("Ar", "fcc", 5.3, cubic=True)
    crystal.rattle(0.2, seed=1)
    return System.from_ase([molecule("H2O"), crystal, Atoms("O", positions=[[0, 0, 0]]), *more])


def ask(ensemble: EnsemblePotential | SumPotential, system: System) -> Prediction:
    system = with_bonds(system, ensemble.request.bond_rule)
    prediction: Prediction = ensemble(system, neighbors_for(system, ensemble.request))
    return prediction


def test_an_element_that_the_members_do_not_know_is_refused_in_every_way() -> None:
    ensemble = EnsemblePotential(members())
    system = several(molecule("NH3"))
    neighbors = neighbors_for(system, ensemble.request)
    for way in (ensemble, ensemble.of_each_in_turn, ensemble.of_each_at_once):
        with pytest.raises(UserError, match="never saw the element N"):
            way(system, neighbors)


def heads() -> list[tuple[str, str]]:
    return [
        (name, head)
        for name, (_, arguments) in MODELS.items()
        for head in ("direct", "conservative")
        if arguments["forces"] in (head, "both")
    ]


@pytest.mark.parametrize(("name", "head"), heads())
def test_members_at_once_and_in_turn_agree(name: str, head: Any) -> None:
    """Both are sums of the same numbers in double precision: some ten roundings of 1e-16 are left."""
    ensemble = EnsemblePotential(members(name)).eval()
    ensemble.use_forces(head)
    system = with_bonds(several(), ensemble.request.bond_rule)
    neighbors = neighbors_for(system, ensemble.request)
    at_once, in_turn = (
        ensemble.of_each_at_once(system, neighbors),
        ensemble.of_each_in_turn(system, neighbors),
    )
    assert len(at_once) == len(in_turn) == 3
    for fast, plain in zip(at_once, in_turn, strict=True):
        for field in fields(Prediction):
            first, second = getattr(fast, field.name), getattr(plain, field.name)
            if isinstance(second, torch.Tensor):
                torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12, equal_nan=True)
            else:
                assert first == second
    assert (in_turn[0].forces - in_turn[1].forces).abs().max() > 0.01


def test_mean_and_spread_are_those_of_the_members() -> None:
    made = members()
    prediction = ask(EnsemblePotential(made).eval(), several())
    alone = [ask(SumPotential(member), several()) for member in made]
    forces = np.stack([p.forces.numpy() for p in alone])
    np.testing.assert_allclose(prediction.forces, forces.mean(axis=0), rtol=1e-12, atol=1e-14)
    spread = np.sqrt(forces.var(axis=0).sum(axis=1))
    np.testing.assert_allclose(prediction.force_std, spread, rtol=1e-10, atol=1e-14)
    assert spread[-1] == 0.0  # an atom alone: all say zero
    energies = np.stack([p.energy.numpy() for p in alone])
    np.testing.assert_allclose(prediction.energy, energies.mean(axis=0), rtol=1e-14)
    assert prediction.stress is not None
    np.testing.assert_allclose(
        prediction.stress[1], np.mean([p.stress[1].numpy() for p in alone], axis=0), rtol=1e-10, atol=1e-14
    )
    assert bool(prediction.stress[0].isnan().all())
    assert prediction.conservative


@pytest.mark.parametrize("head", ["direct", "conservative"])
def test_an_ensemble_keeps_the_laws_of_its_members(head: Any) -> None:
    """Forces are the gradient of the mean energy, among others."""
    ensemble = EnsemblePotential(members(n=2, n_layers=1)).eval()
    ensemble.use_forces(head)
    assert ensemble.answers == head
    check_contract(ensemble, exact=ensemble.exact)


def test_what_is_added_stands_beside_every_member() -> None:
    made, core = members(), ZBL()
    close = Atoms("ArO", positions=[[0, 0, 0], [0.9, 0, 0]])
    ensemble, with_core = EnsemblePotential(made).eval(), EnsemblePotential(made, [core]).eval()
    plain, both, alone = (
        ask(potential, several(close)) for potential in (ensemble, with_core, SumPotential(core))
    )
    torch.testing.assert_close(both.forces, plain.forces + alone.forces, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.energy, plain.energy + alone.energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.stress, plain.stress + alone.stress, equal_nan=True)
    assert both.force_std is not None
    assert plain.force_std is not None
    assert torch.equal(both.force_std, plain.force_std)
    assert alone.forces.abs().max() > 1.0
    assert with_core.gives_energy
    ensemble.use_forces("direct")
    assert not with_core.gives_energy  # the members are the same
    assert ask(with_core, several()).energy is None


def test_stacked_weights_follow_the_members() -> None:
    ensemble = EnsemblePotential(members()).eval()
    system = several()
    neighbors = neighbors_for(system, ensemble.request)
    before = ensemble.of_each_at_once(system, neighbors)[1].forces
    ensemble.models[1].force_scale.mul_(2.0)
    torch.testing.assert_close(ensemble.of_each_at_once(system, neighbors)[1].forces, 2.0 * before)
    single = ensemble.to(dtype=torch.float32).of_each_at_once(system, neighbors)[1].forces
    assert single.dtype == torch.float64  # that of the positions
    difference = (single - 2.0 * before).abs().max()
    assert 1e-9 < difference < 1e-4


def test_a_model_that_vmap_cannot_run_is_asked_in_turn_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As on a GPU, where members are asked at once.
    monkeypatch.setattr(EnsemblePotential, "_is_faster_at_once", lambda self, _: not self._vmap_fails)
    MODELS["dimenet"] = (
        "dimenet",
        {
            "width": 8,
            "n_layers": 1,
            "n_spherical": 3,
            "n_radial": 3,
            "n_bilinear": 3,
            "forces": "conservative",
        },
    )
    ensemble = EnsemblePotential(members("dimenet", 2)).eval()
    water = System.from_ase(molecule("H2O"))
    with pytest.warns(UserWarning, match="one by one, torch.vmap cannot run them"):
        prediction = ask(ensemble, water)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ask(ensemble, water).forces, prediction.forces)
    alone = [member(water, neighbors_for(water, member.request)).forces for member in ensemble.models]
    torch.testing.assert_close(prediction.forces, torch.stack(alone).mean(dim=0))


def test_a_structure_does_not_feel_how_many_others_there_are() -> None:
    ensemble = EnsemblePotential(members()).float().eval()
    large = bulk("Ar", "fcc", 5.3, cubic=True) * (3, 3, 3)
    alone, among = ask(ensemble, several()), ask(ensemble, several(large))
    n = len(alone.forces)
    assert torch.equal(alone.forces, among.forces[:n])
    assert alone.force_std is not None
    assert among.force_std is not None
    assert torch.equal(alone.force_std, among.force_std[:n])


def test_a_run_on_an_ensemble_goes_on_to_the_bit_and_knows_the_disagreement(tmp_path: Path) -> None:
    ensemble = EnsemblePotential(members(n=2, forces="conservative")).eval()
    crystal = bulk("Ar", "fcc", 5.3, cubic=True)
    crystal.rattle(0.1, seed=1)
    system, bath = System.from_ase([crystal, crystal]), Langevin(1.0, 50.0)
    options: dict[str, Any] = {"status": False, "every": 2}
    whole = simulate(ensemble, system, bath, n_steps=6, path=tmp_path / "a.h5", **options).state
    simulate(ensemble, system, bath, n_steps=4, path=tmp_path / "b.h5", **options)
    parts = simulate(ensemble, system, bath, n_steps=6, path=tmp_path / "b.h5", resume=True, **options).state
    assert torch.equal(parts.system.positions, whole.system.positions)
    spread = whole.prediction.force_std
    assert spread is not None
    assert spread.shape == (8,)
    assert float(spread.min()) > 0.0
    assert torch.equal(parts.prediction.force_std, spread)  # type: ignore[arg-type]


def test_members_of_different_make_are_refused() -> None:
    with pytest.raises(UserError, match="at least two members, not 1"):
        EnsemblePotential(members(n=1))
    first = members(n=1)
    for changed, says in (
        ({"width": 10}, "not of one make"),
        ({"cutoff": 5.0}, "cutoff is 4.0 in one and 5.0 in the other"),
        ({"cutoff_function": "polynomial"}, "cutoff_function is cosine in one and polynomial in the other"),
        ({"forces": "conservative"}, "not of one make"),
    ):
        with pytest.raises(UserError, match=says):
            EnsemblePotential([*first, *members(n=1, **changed)])
    for elements, member in zip(((18,), (1, 8)), (first[0], other := copy.deepcopy(first[0])), strict=True):
        member.domain = TrainingDomain(elements, None, {})
    with pytest.raises(UserError, match=r"elements is \(18,\) in one and \(1, 8\) in the other"):
        EnsemblePotential([first[0], other])
    with pytest.raises(UserError, match="not compiled"):
        EnsemblePotential(members(n=2)).use_compiler()
