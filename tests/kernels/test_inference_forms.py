"""Inference forms against the plain forward pass in double precision, with every instruction set."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from forms import batch, error, form_of, learn, model, predict, water

from kinetograph import kernels
from kinetograph.bonds import with_bonds
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.kernels.filter import EdgeNetwork
from kinetograph.kernels.native import Library
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import PRESETS
from kinetograph.sum_potential import SumPotential
from kinetograph.system import System


def painn(forces: str, **options: Any) -> LearnedPotential:
    return model("painn", forces, **{"n_layers": 3, "width": 48, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 20},
        {"width": 64, "n_layers": 1},
        {"width": 128, "n_layers": 2},
        {"radial": "gaussian", "cutoff_function": "polynomial"},
        {"max_bond_separation": 2},
        {"element_table": 100},
    ],
    ids=str,
)
def test_painn_says_what_it_says_in_double_precision(
    library: Library, options: dict[str, Any], threads: int
) -> None:
    fast, exact = painn("both", **options), painn("both", double=True, **options)
    assert fast._inference_form() is not None
    assert exact._inference_form() is None
    ours, theirs = predict(fast, batch(), also_direct=True), predict(exact, batch(), also_direct=True)
    with kernels.plain_forms():
        plain = predict(fast, batch(), also_direct=True)
    # As exact as single precision is; derivatives of splines add an error of their own.
    for name, own in (("direct_forces", 1e-6), ("energy", 1e-6), ("forces", 8e-6), ("stress", 8e-6)):
        mine, exact_value = getattr(ours, name), getattr(theirs, name)
        assert error(mine, exact_value) < 2.0 * error(getattr(plain, name), exact_value) + own, name
    for potential in (fast, exact):
        potential.use_forces("direct")
    assert torch.equal(predict(fast, batch()).forces, ours.direct_forces)


def test_painn_with_one_head(library: Library, threads: int) -> None:
    for forces in ("direct", "conservative"):
        ours, theirs = predict(painn(forces), batch()), predict(painn(forces, double=True), batch())
        assert error(ours.forces, theirs.forces) < 1e-5
        assert (ours.energy is None) == (theirs.energy is None) == (forces == "direct")


def test_a_structure_does_not_feel_the_batch_it_is_in(library: Library, threads: int) -> None:
    potential = painn("both")
    whole = predict(potential, batch(), also_direct=True)
    first = 0
    for index, structure in enumerate(batch().to_ase()):
        alone = predict(potential, System.from_ase(structure), also_direct=True)
        atoms = slice(first, first + len(structure))
        first += len(structure)
        assert alone.energy is not None
        assert whole.energy is not None
        assert whole.direct_forces is not None
        assert torch.equal(alone.forces, whole.forces[atoms])
        assert torch.equal(alone.energy[0], whole.energy[index])
        assert alone.direct_forces is not None
        assert torch.equal(alone.direct_forces, whole.direct_forces[atoms])


def test_several_threads_say_the_same_to_the_bit(library: Library) -> None:
    potential, before = painn("both"), torch.get_num_threads()
    said = []
    try:
        for n in (2, 3, 7):
            torch.set_num_threads(n)
            said.append(predict(potential, batch(), also_direct=True))
    finally:
        torch.set_num_threads(before)
    for other in said[1:]:
        for name in ("forces", "energy", "stress", "direct_forces"):
            mine, exact = getattr(other, name), getattr(said[0], name)
            assert torch.equal(torch.nan_to_num(mine), torch.nan_to_num(exact)), name


def test_weights_that_change_are_noticed(library: Library) -> None:
    potential, system = painn("direct"), batch()
    before = predict(potential, system).forces
    with torch.no_grad():
        next(potential.model.parameters()).mul_(1.3)
    after = predict(potential, system).forces
    with kernels.plain_forms():
        plain = predict(potential, system).forces
    assert error(after, plain) < 1e-5
    assert error(before, plain) > 1e-3
    potential.load_state_dict(painn("direct").state_dict())
    assert torch.equal(predict(potential, system).forces, before)


def test_what_the_compiled_passes_cannot_do_takes_the_plain_form(library: Library, threads: int) -> None:
    near = batch().to_ase()
    near[1].positions[1] = near[1].positions[0] + [0.2, 0.0, 0.0]  # nearer than filters are tabulated
    system = System.from_ase(near)
    potential = painn("both")
    neighbors = neighbors_for(system, potential.request)
    # Where gradients are on, direct forces might be followed to the weights, and no fast form is asked.
    with torch.no_grad(), pytest.warns(UserWarning, match="closer than 0.3 Å, where PaiNN's fast form"):
        assert potential._fast_prediction(system, neighbors, ("direct",)) is None
    # Said once.
    assert bool(torch.isfinite(predict(potential, system).forces).all())
    assert painn("direct", force_head="gated")._inference_form() is None
    for more in (0, 1):  # edges that have none to go back: one, or all of the second half
        whole = neighbors_for(batch(), potential.request)
        kept = torch.arange(len(whole.center)) < (len(whole.center) // 2 if more else len(whole.center) - 1)
        torn = replace(
            whole, center=whole.center[kept], neighbor=whole.neighbor[kept], shift=whole.shift[kept]
        )
        with torch.no_grad():
            for heads in (("direct",), ("conservative",)):
                assert potential._fast_prediction(batch(), torn, heads) is None
    lonely = System.from_ase(ase.Atoms("O"))
    assert torch.equal(predict(painn("both"), lonely).forces, torch.zeros(1, 3, dtype=torch.float64))
    training = painn("direct").train()
    assert training._inference_form() is None


def test_forces_are_the_derivative_of_the_tabulated_energy(library: Library) -> None:
    potential = painn("conservative")
    atoms = water(8, 3, 6.4)
    system = System.from_ase(atoms)
    forces = predict(potential, system).forces
    direction = forces.numpy() / np.linalg.norm(forces.numpy())

    def energy_at(distance: float) -> float:
        moved = atoms.copy()
        moved.positions += distance * direction
        energy = predict(potential, System.from_ase(moved)).energy
        assert energy is not None
        return float(energy)

    def slope(h: float) -> float:
        return (energy_at(h) - energy_at(-h)) / (2.0 * h)

    fourth_order = (4.0 * slope(0.01) - slope(0.02)) / 3.0
    assert -fourth_order == pytest.approx(float(forces.norm()), rel=1e-3)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {"width": 128, "n_layers": 2}) for form in ("paper", "code", "covariant")),
        *(
            (form, {"width": 20, "n_layers": 3, "max_bond_separation": 1})
            for form in ("paper", "code", "covariant")
        ),
        ("code", {"width": 40, "hidden_width": 24, "n_layers": 2}),
        ("code", {"width": 20, "hidden_width": 33, "n_layers": 2}),
    ],
    ids=str,
)
def test_gamd_says_what_it_says_in_double_precision(
    library: Library, form: str, options: dict[str, Any]
) -> None:
    fast = model("gamd", "direct", form=form, **options)
    exact = predict(model("gamd", "direct", double=True, form=form, **options), batch()).forces
    assert fast._inference_form() is not None
    ours = predict(fast, batch()).forces
    with kernels.plain_forms():
        plain = predict(fast, batch()).forces
    assert error(ours, exact) < 2.0 * error(plain, exact) + 3e-7


@pytest.mark.parametrize(
    "options",
    [{"width": 64, "n_layers": 3}, {"width": 20, "n_filters": 36, "n_layers": 2, "cutoff_function": "none"}],
    ids=str,
)
def test_schnet_says_what_it_says_in_double_precision(library: Library, options: dict[str, Any]) -> None:
    fast = model("schnet", "both", **options)
    assert fast._inference_form() is not None
    exact = predict(model("schnet", "both", double=True, **options), batch(), also_direct=True)
    ours = predict(fast, batch(), also_direct=True)
    with kernels.plain_forms():
        plain = predict(fast, batch(), also_direct=True)
    for name, own in (("direct_forces", 1e-6), ("energy", 1e-6), ("forces", 4e-6), ("stress", 4e-6)):
        mine, exact_value = getattr(ours, name), getattr(exact, name)
        assert error(mine, exact_value) < 2.0 * error(getattr(plain, name), exact_value) + own, name


@pytest.mark.parametrize("preset", ["gnnff", "gnnff-smooth", "gnnff-code", "gnnff-pyg"])
@pytest.mark.parametrize(
    "options",
    [
        {"width": 64, "edge_width": 64},
        {"width": 20, "edge_width": 36, "updated_nodes": False, "way_back": False},
        {"width": 40, "edge_width": 9, "n_layers": 1, "force_network": "even", "envelope": True},
    ],
    ids=str,
)
def test_gnnff_says_what_it_says_in_double_precision(
    library: Library, preset: str, options: dict[str, Any]
) -> None:
    hyperparameters = {**PRESETS[preset].hyperparameters, "nearest_required": False, **options}
    fast = model("gnnff", "direct", **hyperparameters)
    generator = torch.Generator().manual_seed(2)
    for name, buffer in fast.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3, generator=generator)
    assert fast._inference_form() is not None
    exact = predict(copy.deepcopy(fast).double(), batch()).forces
    ours = predict(fast, batch()).forces
    with kernels.plain_forms():
        plain = predict(fast, batch()).forces
    assert error(ours, exact) < 2.0 * error(plain, exact) + 3e-7


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize(
    "options",
    [
        {"width": 64, "edge_width": 32},
        {"width": 20, "edge_width": 9, "updated_nodes": False, "way_back": False},
        {"width": 40, "edge_width": 60, "n_layers": 1},
    ],
    ids=str,
)
def test_gnnff_with_energies(library: Library, options: dict[str, Any], scale: float) -> None:
    """Also with weights so large that triplets need exponentials of their own."""
    made = []
    for double in (False, True):
        potential = model("gnnff", "both", double=double, **{"n_layers": 2, **options})
        with torch.no_grad():
            for name, parameter in potential.named_parameters():
                if "three_body" in name:
                    parameter *= scale
        made.append(potential)
    fast, exact = made
    assert fast._inference_form() is not None
    ours, theirs = predict(fast, batch(), also_direct=True), predict(exact, batch(), also_direct=True)
    with kernels.plain_forms():
        plain = predict(fast, batch(), also_direct=True)
    # Both round; with large weights what is rounded are large exponents.
    own = {1.0: 1e-6, 60.0: 2e-5}[scale]
    for name in ("direct_forces", "energy", "forces", "stress"):
        mine, exact_value = getattr(ours, name), getattr(theirs, name)
        assert error(mine, exact_value) < 3.0 * error(getattr(plain, name), exact_value) + own, name
    fast.use_forces("direct")
    assert error(predict(fast, batch()).forces, ours.direct_forces) == 0.0


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_gnnff_does_not_feel_the_batch(library: Library, forces: str) -> None:
    """Edges of all structures share tiles; sums run over each atom's own."""
    potential = model("gnnff", forces, width=20, edge_width=24, n_layers=2, **NEEDED["gnnff"])
    whole, first = predict(potential, batch()).forces, 0
    for structure in batch().to_ase():
        alone = predict(potential, System.from_ase(structure)).forces
        ours = whole[first : first + len(structure)]
        first += len(structure)
        # Node products of torch round differently in matrices of other sizes.
        assert torch.equal(alone, ours) if forces == "direct" else torch.allclose(alone, ours, atol=1e-6)


# Widths that fill no register, and such as fill several; n_spherical = 8 is beyond the unrolled degrees.
DIRECTIONAL = [
    ("dimenet++", {"n_layers": 2}),
    ("dimenet++", {"n_layers": 2, "basis": "paper", "radial_filter": "ji", "embedding": "paper"}),
    (
        "dimenet++",
        {
            "width": 20,
            "triplet_width": 36,
            "readout_width": 24,
            "n_radial": 3,
            "n_spherical": 8,
            "n_layers": 1,
        },
    ),
    ("dimenet++", {"width": 16, "triplet_width": 16, "n_layers": 3, "element_table": 95, "n_spherical": 2}),
    ("dimenet", {"n_layers": 2, "width": 32}),
    ("dimenet", {"n_layers": 1, "width": 20, "n_bilinear": 3, "n_radial": 4, "basis": "paper"}),
    ("dimenet", {"n_layers": 2, "width": 20, "n_bilinear": 5, "radial_filter": "ji", "n_spherical": 4}),
    ("gemnet", {"n_layers": 2}),
    ("gemnet", {"n_layers": 2, "forces_coupled": True, "element_table": 93}),
    (
        "gemnet",
        {
            "width": 20,
            "edge_width": 24,
            "triplet_width": 36,
            "triplet_bilinear": 12,
            "cbf_width": 5,
            "n_spherical": 8,
            "n_radial": 3,
            "n_layers": 1,
            "n_concat": 2,
            "n_atom": 1,
        },
    ),
]


@pytest.mark.parametrize(("architecture", "options"), DIRECTIONAL, ids=str)
def test_directional_models_say_what_they_say_in_double_precision(
    library: Library, architecture: str, options: dict[str, Any]
) -> None:
    fast, exact = model(architecture, "both", **options), model(architecture, "both", double=True, **options)
    assert fast._inference_form() is not None
    ours, theirs = predict(fast, batch(), also_direct=True), predict(exact, batch(), also_direct=True)
    with kernels.plain_forms():
        plain = predict(fast, batch(), also_direct=True)
    # As exact as single precision is; tables have errors of a millionth, those of slopes a little more.
    for name, own in (("direct_forces", 3e-6), ("energy", 2e-6), ("forces", 5e-6), ("stress", 5e-6)):
        mine, exact_value = getattr(ours, name), getattr(theirs, name)
        assert error(mine, exact_value) < 2.0 * error(getattr(plain, name), exact_value) + own, name
    lonely = predict(fast, System.from_ase(ase.Atoms("O")))
    assert torch.equal(lonely.forces, torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("architecture", ["dimenet", "dimenet++", "gemnet"])
def test_one_head_of_a_directional_model(library: Library, architecture: str) -> None:
    for forces in ("direct", "conservative"):
        ours = predict(model(architecture, forces, n_layers=1, width=32), batch())
        theirs = predict(model(architecture, forces, n_layers=1, width=32, double=True), batch())
        assert error(ours.forces, theirs.forces) < 1e-5
        assert (ours.energy is None) == (theirs.energy is None) == (forces == "direct")


@pytest.mark.parametrize("architecture", ["dimenet", "dimenet++", "gemnet"])
def test_a_structure_does_not_feel_the_batch_of_a_directional_model(
    library: Library, architecture: str
) -> None:
    potential = model(architecture, "conservative", n_layers=1, width=32)
    whole, first = predict(potential, batch()), 0
    for index, structure in enumerate(batch().to_ase()):
        alone = predict(potential, System.from_ase(structure))
        assert alone.energy is not None
        assert whole.energy is not None
        assert torch.equal(alone.forces, whole.forces[first : first + len(structure)])
        assert torch.equal(alone.energy[0], whole.energy[index])
        first += len(structure)


def test_angles_held_fixed_and_energies_apart_from_forces(library: Library) -> None:
    for architecture, forces, options in (
        ("dimenet", "conservative", {"angle_grad": False, "width": 16}),
        ("dimenet++", "conservative", {"angle_grad": False}),
        ("gemnet", "direct", {"separate_energy": True}),
    ):
        ours = predict(model(architecture, forces, n_layers=1, **options), batch())
        theirs = predict(model(architecture, forces, n_layers=1, double=True, **options), batch())
        assert not ours.conservative
        assert ours.stress is None
        assert error(ours.forces, theirs.forces) < 1e-5
        assert error(ours.energy, theirs.energy) < 1e-5


def test_what_directional_kernels_cannot_do_takes_the_plain_form(library: Library) -> None:
    near = ase.Atoms("OHH", [[0, 0, 0], [0.2, 0, 0], [-0.24, 0.93, 0]])
    unknown = ase.Atoms("OU", [[0, 0, 0], [0, 0, 2.0]])
    for architecture in ("dimenet", "dimenet++", "gemnet"):
        potential = model(architecture, "direct", n_layers=1, width=32, element_table=20)
        system = System.from_ase(unknown)
        neighbors = neighbors_for(system, potential.request)
        with torch.no_grad():
            assert potential._fast_prediction(system, neighbors, ("direct",)) is None
        with pytest.warns(UserWarning, match="the plain form, which is slower"):
            predict(potential, System.from_ase(near))
        assert bool(torch.isfinite(predict(potential, System.from_ase(near)).forces).all())
    assert model("gemnet", "direct", quadruplets=True, n_layers=1)._inference_form() is None
    assert model("dimenet", "direct", angle="original", n_layers=1)._inference_form() is None


@pytest.mark.parametrize(
    "options",
    [
        {"width": 48, "n_layers": 2, "shared_basis": False, "decoder_layer": True, "idle_energy_head": True},
        {"width": 20, "n_layers": 3},
        {"width": 20, "form": "code", "basis": "none", "ablation": "no self message"},
        {"width": 16, "basis": "gaussian", "ablation": "no radii", "max_neighbors": 8},
        {"width": 16, "basis": "sine", "ablation": "linear update"},
        {"width": 16, "basis": "linear", "ablation": "only distances"},
    ],
    ids=str,
)
def test_forcenet_says_what_it_says_in_double_precision(library: Library, options: dict[str, Any]) -> None:
    fast, exact = (forcenet(double=double, **options) for double in (False, True))
    assert fast._inference_form() is not None
    truth = predict(exact, batch()).forces
    ours = predict(fast, batch()).forces
    with kernels.plain_forms():
        plain = predict(fast, batch()).forces
    assert error(ours, truth) < 2.0 * error(plain, truth) + 3e-7


@pytest.mark.parametrize("ablation", ["no node embedding", "only filter", "linear filter"])
def test_other_ablations_of_forcenet_take_the_plain_form(library: Library, ablation: str) -> None:
    assert forcenet(ablation=ablation)._inference_form() is None
    assert forcenet(activation="relu")._inference_form() is None


@pytest.mark.parametrize("form", ["paper", "covariant"])
@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_products_of_bfloat16_cost_three_parts_in_a_thousand(
    library: Library, form: str, trained: bool
) -> None:
    """The bound that is promised, at the size of the paper's models; measured are 0.3e-3 to 2.5e-3."""
    options: dict[str, Any] = {"form": form, "width": 128, "n_layers": 4}
    potential = model("gamd", "direct", **options)
    if not library.has_bfloat16:
        with pytest.raises(UserError, match="no products of bfloat16"):
            potential.use_precision("bfloat16")
        return
    system = batch()
    if trained:
        learn(potential, system)
    exact = predict(copy.deepcopy(potential).double(), system).forces
    plainly = predict(potential, system).forces
    potential.use_precision("bfloat16")
    rounded = predict(potential, system).forces
    assert error(plainly, exact) < 1e-5
    assert 1e-5 < error(rounded, exact) < 3e-3
    potential.use_precision("float32")
    assert torch.equal(predict(potential, system).forces, plainly)


def test_a_precision_that_there_is_not_is_refused(library: Library) -> None:
    refused = [small(name) for name in ("painn", "schnet", "forcenet")]
    refused += [small("gamd").double(), model("gamd", "direct", form="code", width=16, n_layers=1)]
    with kernels.plain_forms(), pytest.raises(UserError, match="no products of bfloat16"):
        small("gamd").use_precision("bfloat16")
    for potential in refused:
        with pytest.raises(UserError, match="bfloat16"):
            potential.use_precision("bfloat16")
        potential.use_precision("float32")


def forcenet(*, double: bool = False, **options: Any) -> LearnedPotential:
    """With running statistics as after some training."""
    potential = model("forcenet", "direct", double=double, **{"width": 16, "n_layers": 1, **options})
    generator = torch.Generator().manual_seed(2)
    for name, tensor in potential.named_buffers():
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return potential


ALL = ["painn", "gamd", "schnet", "gnnff", "dimenet", "dimenet++", "gemnet", "forcenet"]
NEEDED: dict[str, dict[str, Any]] = {"gnnff": {"nearest_required": False}}


def small(architecture: str, forces: str = "direct") -> LearnedPotential:
    return model(architecture, forces, width=16, n_layers=1, **NEEDED.get(architecture, {}))


@pytest.mark.parametrize("architecture", ALL)
def test_what_optimisers_do_is_noticed(library: Library, architecture: str) -> None:
    """Fused optimisers change weights without counting it."""
    potential, system = small(architecture), batch()
    before = predict(potential, system).forces
    potential.train()
    optimizer = torch.optim.Adam(potential.parameters(), lr=0.1, fused=True)
    neighbors = neighbors_for(system, potential.request)
    potential(system, neighbors).forces.square().sum().backward()
    optimizer.step()
    potential.eval()
    after = predict(potential, system).forces
    with kernels.plain_forms():
        plain = predict(potential, system).forces
    assert error(after, plain) < 1e-4
    assert error(before, plain) > 1e-2


@pytest.mark.parametrize("architecture", ALL)
def test_a_potential_that_has_run_can_be_copied_and_saved(
    library: Library, architecture: str, tmp_path: Path
) -> None:
    potential, system = small(architecture), batch()
    forces = predict(potential, system).forces
    assert form_of(potential) is not None
    torch.save(potential, tmp_path / "whole.pt")
    for other in (copy.deepcopy(potential), torch.load(tmp_path / "whole.pt", weights_only=False)):
        assert torch.equal(predict(other, system).forces, forces)


@pytest.mark.parametrize("architecture", ALL)
def test_defaults_of_torch_change_nothing(library: Library, architecture: str) -> None:
    potential, system = small(architecture), batch()
    forces = predict(potential, system).forces
    potential.forget_inference_form()
    torch.set_default_dtype(torch.float64)
    try:
        again = predict(potential, system).forces
    finally:
        torch.set_default_dtype(torch.float32)
    assert error(again, forces) < 1e-6
    with torch.autocast("cpu"):
        assert form_of(potential) is None
    with torch.inference_mode():
        assert form_of(potential) is None
        assert error(predict(potential, system).forces, forces) < 1e-4


@pytest.mark.parametrize("architecture", ALL)
def test_gradients_by_weights_are_those_of_the_plain_form(library: Library, architecture: str) -> None:
    potential, system = small(architecture), batch()
    predict(potential, system)
    neighbors = neighbors_for(system, potential.request)
    gradients = []
    for surroundings in (nullcontext(), kernels.plain_forms()):
        with surroundings:
            loss = potential(system, neighbors).forces.square().sum()
        gradients.append(torch.autograd.grad(loss, list(potential.model.parameters()), allow_unused=True))
    for ours, plain in zip(*gradients, strict=True):
        assert (ours is None) == (plain is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))


def test_conservative_forces_say_that_inference_mode_has_no_derivatives() -> None:
    with torch.inference_mode(), pytest.raises(UserError, match=r"torch\.inference_mode"):
        predict(small("schnet", "conservative"), batch())


def test_bonds_that_another_potential_asked_for_do_not_reach_a_model_without_them(library: Library) -> None:
    with_types = model("painn", "direct", width=16, n_layers=1, max_bond_separation=3)
    without = small("painn")
    together = SumPotential(without, with_types).eval()
    system = with_bonds(batch(), together.request.bond_rule)
    with torch.no_grad():
        total = together(system, neighbors_for(system, together.request)).forces
    alone = predict(without, batch()).forces + predict(with_types, batch()).forces
    assert error(total, alone) < 1e-6


def test_an_element_outside_the_table_takes_the_plain_form(library: Library) -> None:
    potential = model("painn", "direct", width=16, n_layers=1, element_table=20)
    system = System.from_ase(ase.Atoms("OU", [[0, 0, 0], [0, 0, 2.0]]))
    with torch.no_grad():
        neighbors = neighbors_for(system, potential.request)
        assert potential._fast_prediction(system, neighbors, ("direct",)) is None
    whole_numbers = replace(batch(), atomic_numbers=batch().atomic_numbers.int())
    assert error(predict(potential, whole_numbers).forces, predict(potential, batch()).forces) == 0.0


@pytest.mark.parametrize("architecture", ALL)
def test_threads_do_not_share_memory(library: Library, architecture: str) -> None:
    potential, system = small(architecture), batch()
    neighbors = neighbors_for(system, potential.request, skin=0.4)
    forces = predict(potential, system).forces

    def ask(_: int) -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = potential(
                system, neighbors_for(system, potential.request, skin=0.4)
            ).forces
        return answer

    with torch.no_grad():
        potential(system, neighbors)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(answer, forces) for answer in pool.map(ask, range(40)))


def test_kernels_refuse_what_they_would_misread(library: Library) -> None:
    with pytest.raises(TypeError, match="float64"):
        EdgeNetwork(library, [(torch.ones(1, 1), None, "none")])(torch.ones(3, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="contiguous"):
        library("kg_pack", torch.ones(32, 16).T, 16, 32, torch.empty(512))


@pytest.mark.parametrize("cell", [np.full(3, np.nan), [np.inf, 5.0, 5.0], np.zeros((3, 3))], ids=str)
def test_cells_without_volume_are_refused(library: Library, cell: Any) -> None:
    system = System.from_ase(ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.2]]))
    matrix = np.diag(cell) if np.ndim(cell) == 1 else cell
    broken = replace(
        system,
        cell=torch.as_tensor(matrix, dtype=torch.float64)[None],
        pbc=torch.ones(1, 3, dtype=torch.bool),
    )
    with pytest.raises(UserError, match="not finite or has no volume"):
        neighbors_for(broken, small("painn").request)
