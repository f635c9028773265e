"""PaiNN's messages for training, without a tensor of edges: ``csrc/painn_training.cpp``.

The sums of the equations in ``models/painn.py``, and their derivatives of first and second order by all
that they are made of: what the gradient of a loss on the gradient of an energy needs. A model in evaluation
takes them too where derivatives are followed and no form for running answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.native import Library, floats, library, require
from kinetograph.kernels.operators.edges import first_edges

NAME = "kg_painn_messages"
REFUSED = (
    "PaiNN's compiled messages have no {}: KINETOGRAPH_KERNELS=plain in the environment takes the equations"
)


def library_to_train_with(width: int, *given: Tensor | None) -> Library | None:
    """The library that has the messages of so many features; ``None``: the equations must do.

    They must on a GPU, in other than single precision, where no derivative is asked for, where the width is
    no multiple of a register's, and where torch compiles or transforms the model.
    """
    if torch.compiler.is_compiling() or _is_transformed():
        return None
    native = library()
    if native is None or width % native.width or not torch.is_grad_enabled():
        return None
    fits = all(t is None or (t.dtype == torch.float32 and t.device.type == "cpu") for t in given)
    return native if fits and not torch.is_autocast_enabled("cpu") else None


def painn_messages(
    native: Library,
    sent: Tensor,
    vectors: Tensor | None,
    inputs: Tensor,
    units: Tensor,
    weights: Tensor,
    center: Tensor,
    neighbor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Δs (n_atoms, F) and Δv (n_atoms, 3, F).

    Differentiable twice, the second time not along weights; what is beyond is refused. An atom's sums do not
    depend on what else there is, to the bit.

    Args:
        sent: (n_atoms, 2 F): φ_s and φ_vs.
        vectors: (n_atoms, 3, F): v ∘ φ_vv; ``None`` where all are zero.
        inputs: (n_edges, K) what filters are linear in.
        units: (n_edges, 3) from centre to neighbour.
        weights: (3 F, K) of the filters, for s, vs and vv.
        center: (n_edges,) int64, ascending.
        neighbor: (n_edges,) int64.
    """
    require(torch.int64, center, neighbor)
    first = first_edges(center, len(sent))
    # What is kept for derivatives must be what was given, or those of second order do not reach it.
    given = _contiguous((sent, vectors, inputs, units, weights))
    edges = _Edges(native, first, neighbor.contiguous(), given)
    messages: tuple[Tensor, Tensor] = _Messages.apply(edges, *given)  # type: ignore[no-untyped-call]
    return messages


class _Edges:
    """Who sends to whom, and the call of a function for them."""

    def __init__(
        self, native: Library, first: Tensor, neighbor: Tensor, given: Sequence[Tensor | None]
    ) -> None:
        self.native, self.first, self.neighbor = native, first, neighbor
        *_, inputs, units, weights = given
        self._by_edges, self._by_weights = _nodes(inputs, units), _nodes(weights)

    def call(self, name: str, given: Sequence[Tensor | None], *others: Tensor | None) -> None:
        sent, vectors, inputs, units, weights = given
        assert sent is not None
        assert inputs is not None
        try:
            self.native(
                name,
                *(torch.get_num_threads(), len(sent), sent.shape[1] // 2, inputs.shape[1]),
                *(self.first, self.neighbor, inputs, units, weights, sent, vectors),
                *others,
            )
        except RuntimeError as error:  # tensors without memory of their own
            raise NotImplementedError(REFUSED.format("batch of derivatives at once")) from error

    def places(self, given: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """For the gradient by each; ``None`` where that pass of torch's does not take it to anything."""
        sent, vectors, inputs, units, weights = given
        assert weights is not None
        by_edges = any(_is_wanted(node) for node in self._by_edges)
        return (
            *(None if t is None else torch.empty_like(t) for t in (sent, vectors)),
            *(torch.empty_like(t) if by_edges and t is not None else None for t in (inputs, units)),
            # Without vectors a third of it is not written.
            torch.zeros_like(weights) if any(_is_wanted(node) for node in self._by_weights) else None,
        )


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: _Edges, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.edges = edges
        ctx.save_for_backward(*given)
        n_atoms, width = len(edges.first) - 1, given[4].shape[0] // 3  # type: ignore[union-attr]
        to_scalars, to_vectors = floats(n_atoms, width), floats(n_atoms, 3, width)
        edges.call(NAME, given, to_scalars, to_vectors)
        return to_scalars, to_vectors

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> tuple[Tensor | None, ...]:
        gradient: tuple[Tensor | None, ...] = _Gradient.apply(ctx.edges, *by, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return None, *gradient


class _Gradient(torch.autograd.Function):
    """From derivatives by Δs and Δv to those by what they are made of."""

    @staticmethod
    def forward(
        ctx: Any, edges: _Edges, by_s: Tensor, by_v: Tensor, *given: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        by = _contiguous((by_s, by_v))
        ctx.edges = edges
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*by, *given)
        gradient = edges.places(given)
        edges.call(f"{NAME}_back", given, *by, *gradient)
        return gradient

    @staticmethod
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        if along[4] is not None:
            raise NotImplementedError(REFUSED.format("second derivative along weights"))
        gradient: tuple[Tensor | None, ...] = _Second.apply(ctx.edges, *ctx.saved_tensors, *along[:4])  # type: ignore[no-untyped-call]
        return None, *gradient


class _Second(torch.autograd.Function):
    """The change of that gradient, along changes of all but the weights, differentiated by everything."""

    @staticmethod
    def forward(
        ctx: Any, edges: _Edges, by_s: Tensor, by_v: Tensor, *others: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        given, along = others[:5], others[5:]
        sent, vectors, inputs, units = _contiguous(
            [
                torch.zeros_like(t) if t is not None and change is None else change
                for t, change in zip(given[:4], along, strict=True)
            ]
        )
        gradient = (torch.empty_like(by_s), torch.empty_like(by_v), *edges.places(given))
        edges.call(f"{NAME}_second", given, by_s, by_v, inputs, units, sent, vectors, *gradient)
        return gradient

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(REFUSED.format("third derivative"))


def _contiguous(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else t.contiguous() for t in tensors)


def _nodes(*tensors: Tensor | None) -> list[Any]:
    """Where torch's derivatives by those that require any arrive."""
    followed = (t for t in tensors if t is not None and t.requires_grad)
    return [torch.autograd.graph.get_gradient_edge(t).node for t in followed]


def _is_wanted(node: Any) -> bool:
    """Whether the pass of torch's that runs now comes to this node.

    A function is told which of its inputs require gradients, not which are asked for: forces need no gradient
    by weights, a step of the optimiser none by edges.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except (AttributeError, RuntimeError):  # not there, or not told of a leaf that is asked for by itself
        return True


def _is_transformed() -> bool:
    """Whether torch.func or torch.vmap hold what is computed."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is not None and bool(active())
