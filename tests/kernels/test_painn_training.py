"""PaiNN's compiled messages for training against its equations in double precision."""

from __future__ import annotations

import pytest
import torch
from forms import batch, error, model
from torch import Tensor

from kinetograph.bonds import with_bonds
from kinetograph.data.dataset import Sample
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.kernels import painn_training, plain_forms
from kinetograph.kernels.native import Library
from kinetograph.learned_potential import LearnedPotential
from kinetograph.training.module import ForceTraining
from kinetograph.training.settings import OptimizerSettings

Inputs = tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]
N_ATOMS = 7


def edges() -> tuple[Tensor, Tensor]:
    """Of seven atoms: 90 edges over the tiles' bounds, one atom without any, no edge needing one back."""
    generator = torch.Generator().manual_seed(3)
    center = torch.randint(0, N_ATOMS, (90,), generator=generator)
    center = center[center != 4].sort().values
    return center, torch.randint(0, N_ATOMS, (len(center),), generator=generator)


def inputs(width: int, n_inputs: int, *, vectors: bool) -> Inputs:
    """Random, in double precision."""
    generator = torch.Generator().manual_seed(width + n_inputs)
    n_edges = len(edges()[0])

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    return (
        random(N_ATOMS, 2 * width),
        random(N_ATOMS, 3, width) if vectors else None,
        random(n_edges, n_inputs),
        random(n_edges, 3),
        random(3 * width, n_inputs),
    )


def equations(
    sent: Tensor, vectors: Tensor | None, inputs: Tensor, units: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums of the paper, on edges one by one."""
    center, neighbor = edges()
    a, b = sent.chunk(2, dim=1)
    p, q, r = (inputs @ weights.T).chunk(3, dim=1)
    to_vectors = (b[neighbor] * q).unsqueeze(1) * units.unsqueeze(2)
    if vectors is not None:
        to_vectors = to_vectors + vectors[neighbor] * r.unsqueeze(1)
    zeros = a.new_zeros(N_ATOMS, a.shape[1])
    return (
        zeros.index_add(0, center, a[neighbor] * p),
        zeros.unsqueeze(1).expand(-1, 3, -1).index_add(0, center, to_vectors),
    )


def in_single(values: Inputs) -> Inputs:
    single = [None if v is None else v.detach().float().requires_grad_() for v in values]
    return single[0], single[1], single[2], single[3], single[4]  # type: ignore[return-value]


def asked(values: Inputs) -> list[Tensor]:
    return [v for v in values if v is not None]


def twice(results: tuple[Tensor, Tensor], values: Inputs) -> list[Tensor]:
    """Derivatives of a scalar made of the results by all but the weights, and of a scalar of those by all."""
    value = sum((r + r.square()).sum() for r in results)
    assert isinstance(value, Tensor)
    made_of = asked(values)[:-1]
    first = torch.autograd.grad(value, made_of, create_graph=True)
    second = sum((g + g.square()).sum() for g in first)
    assert isinstance(second, Tensor)
    return [*first, *torch.autograd.grad(second, asked(values), retain_graph=True)]


@pytest.mark.parametrize("vectors", [False, True], ids=["zero vectors", "vectors"])
@pytest.mark.parametrize(("width", "n_inputs"), [(16, 21), (48, 21), (64, 5), (80, 42)])
def test_messages_and_their_derivatives_of_first_and_second_order(
    library: Library, threads: int, width: int, n_inputs: int, vectors: bool
) -> None:
    exact = inputs(width, n_inputs, vectors=vectors)
    single = in_single(exact)
    center, neighbor = edges()
    ours = painn_training.painn_messages(library, *single, center, neighbor)
    theirs = equations(*exact)
    for mine, right in zip(ours, theirs, strict=True):
        assert error(mine.detach(), right.detach()) < 2e-6
    weights = single[-1]
    by_weights = torch.autograd.grad((ours[0] + ours[1].sum(dim=1)).sum(), weights, retain_graph=True)[0]
    right = torch.autograd.grad((theirs[0] + theirs[1].sum(dim=1)).sum(), exact[-1], retain_graph=True)[0]
    assert error(by_weights, right) < 2e-6
    for mine, right in zip(twice(ours, single), twice(theirs, exact), strict=True):
        assert error(mine.detach(), right.detach()) < 2e-5


def learning(potential: LearnedPotential, *, plain: bool) -> dict[str, Tensor]:
    """The gradient of a loss by every weight, over molecules, a lone atom and a small cell."""
    system = with_bonds(batch(), potential.request.bond_rule)
    potential.train()
    potential.zero_grad()
    neighbors = neighbors_for(system, potential.request)
    if plain:
        with plain_forms():
            prediction = potential(system, neighbors)
    else:
        prediction = potential(system, neighbors)
    loss = (prediction.forces - 0.3).square().mean()
    if prediction.direct_forces is not None:
        loss = loss + (prediction.direct_forces + 0.2).square().mean()
    if prediction.energy is not None:
        loss = loss + (prediction.energy + 1.0).square().mean()
    if prediction.stress is not None:
        loss = loss + prediction.stress.square().mean()
    loss.backward()
    return {name: p.grad for name, p in potential.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("forces", ["direct", "conservative", "both"])
@pytest.mark.parametrize("options", [{}, {"max_bond_separation": 2, "n_layers": 2}], ids=str)
def test_a_model_learns_what_its_equations_teach(
    library: Library,
    threads: int,
    forces: str,
    options: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    messages = painn_training.painn_messages
    monkeypatch.setattr(
        "kinetograph.models.painn.painn_messages", lambda *given: calls.append(1) or messages(*given)
    )
    sizes = {"width": 48, "n_layers": 3, **options}
    ours = learning(model("painn", forces, **sizes), plain=False)
    assert len(calls) == sizes["n_layers"], "the compiled messages were not used"
    exact = learning(model("painn", forces, double=True, **sizes), plain=True)
    assert set(ours) == set(exact)
    for name in exact:
        assert error(ours[name], exact[name]) < 5e-5, name


def test_the_equations_do_where_the_messages_cannot(library: Library) -> None:
    single = torch.ones(2)
    assert painn_training.library_to_train_with(48, single) is library
    assert painn_training.library_to_train_with(50, single) is None
    assert painn_training.library_to_train_with(48, single.double()) is None
    with torch.no_grad():
        assert painn_training.library_to_train_with(48, single) is None
    with plain_forms():
        assert painn_training.library_to_train_with(48, single) is None
    with torch.autocast("cpu"):
        assert painn_training.library_to_train_with(48, single) is None


def test_derivatives_that_there_are_not_are_refused_and_not_made_up(library: Library) -> None:
    sent, *others = values = in_single(inputs(16, 3, vectors=True))
    value = painn_training.painn_messages(library, *values, *edges())[0].pow(3).sum()
    along_weights = torch.autograd.grad(value, others[-1], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="along weights: KINETOGRAPH_KERNELS=plain"):
        torch.autograd.grad(along_weights.sum(), sent)
    first = torch.autograd.grad(value, sent, create_graph=True)[0]
    second = torch.autograd.grad(first.pow(2).sum(), sent, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="third derivative"):
        torch.autograd.grad(second.sum(), sent)
    with pytest.raises(NotImplementedError, match="batch of derivatives"):
        torch.autograd.grad(value, sent, torch.ones(2), retain_graph=True, is_grads_batched=True)


def test_functions_of_functions_take_the_equations(library: Library) -> None:
    potential, system = model("painn", "conservative", width=48), batch()
    neighbors = neighbors_for(system, potential.request)
    graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
    weights = {name: p.detach() for name, p in potential.model.named_parameters()}

    def energy(weights: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(potential.model, weights, (graph, ("conservative",)))
        total: Tensor = outputs.energies.sum()
        return total

    gradient = torch.func.grad(energy)(weights)
    assert float(gradient["messages.0.filter.weight"].norm()) > 0.0


@pytest.mark.parametrize("n_edges", [0, 1, 31, 32, 33])
def test_any_number_of_edges(library: Library, n_edges: int) -> None:
    sent, vectors, *rest = in_single(inputs(16, 21, vectors=True))
    center, neighbor = (index[:n_edges] for index in edges())
    given = [t.detach()[:n_edges].requires_grad_() for t in rest[:2]]
    results = painn_training.painn_messages(library, sent, vectors, *given, rest[2], center, neighbor)
    (results[0].sum() + results[1].square().sum()).backward()
    others = torch.ones(N_ATOMS, dtype=torch.bool)
    others[center] = False
    assert not bool(results[0][others].any())
    assert all(bool(torch.isfinite(t.grad).all()) for t in (sent, vectors, *given, rest[2]))
    assert (float(rest[2].grad.abs().sum()) > 0.0) == (n_edges > 0)


def test_sums_of_an_atom_do_not_depend_on_what_is_before_it(library: Library) -> None:
    sent, vectors, functions, units, weights = in_single(inputs(48, 21, vectors=True))
    center, neighbor = edges()
    alone = painn_training.painn_messages(
        library, *(sent, vectors, functions, units, weights), center, neighbor
    )
    more = 37
    company = painn_training.painn_messages(
        *(library, sent.repeat(2, 1), vectors.repeat(2, 1, 1)),
        *(torch.cat([t[:more], t]) for t in (functions, units)),
        *(
            weights,
            torch.cat([center[:more], center + N_ATOMS]),
            torch.cat([neighbor[:more], neighbor + N_ATOMS]),
        ),
    )
    for one, other in zip(alone, company, strict=True):
        assert torch.equal(one, other[N_ATOMS:])


@pytest.mark.parametrize("forces", ["direct", "conservative", "both"])
def test_a_training_takes_the_gradients_that_all_leaves_would_give(library: Library, forces: str) -> None:
    potential, system = model("painn", forces, width=48).train(), batch()
    potential.model.messages[1].filter.requires_grad_(False)
    module = ForceTraining(potential, OptimizerSettings(learning_rate=1e-3, energy_weight=1.0), rotate=False)
    unknown = torch.full((system.n_systems, 3, 3), torch.nan, dtype=torch.float64)
    forces_, energies = torch.ones_like(system.positions), torch.ones(system.n_systems, dtype=torch.float64)
    sample = Sample(system, neighbors_for(system, potential.request), forces_, energies, unknown)
    gradients = []
    for backward in (torch.autograd.backward, module.backward):
        potential.zero_grad()
        backward(module.loss(potential(system, sample.neighbors), sample))
        gradients.append([p.grad for p in potential.parameters() if p.requires_grad])
    assert len(gradients[0]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
