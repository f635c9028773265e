"""PaiNN's compiled messages for training against its equations in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from forms import batch, error, model
from torch import Tensor

from kinetograph.bonds import with_bonds
from kinetograph.graph import neighbors_for
from kinetograph.kernels import painn_training, plain_forms
from kinetograph.kernels.native import Library
from kinetograph.learned_potential import LearnedPotential

Inputs = tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]
N_ATOMS = 7


@pytest.fixture(params=[1, 3], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


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


def test_a_second_derivative_along_weights_is_refused_and_not_made_up(library: Library) -> None:
    values = in_single(inputs(16, 3, vectors=True))
    results = painn_training.painn_messages(library, *values, *edges())
    first = torch.autograd.grad(results[0].square().sum(), values[-1], create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="KINETOGRAPH_KERNELS=plain"):
        first.sum().backward()
