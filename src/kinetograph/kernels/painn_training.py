"""PaiNN's messages for training, without a tensor of edges: ``csrc/painn_training.cpp``.

The sums of the equations in ``models/painn.py``, and their derivatives of first and second order by all
that they are made of: what the gradient of a loss on the gradient of an energy needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.native import Library, floats, library

NAME = "kg_painn_messages"


def library_to_train_with(width: int, *given: Tensor | None) -> Library | None:
    """The library that has the messages of so many features; ``None``: the equations must do.

    They must on a GPU, in other than single precision, where no derivative is asked for, where the width is
    no multiple of a register's, and where torch compiles the model.
    """
    if torch.compiler.is_compiling():
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
    """Δs (n_atoms, F) and Δv (n_atoms, 3, F). Differentiable twice, the second time not along weights.

    Args:
        sent: (n_atoms, 2 F): φ_s and φ_vs.
        vectors: (n_atoms, 3, F): v ∘ φ_vv; ``None`` where all are zero.
        inputs: (n_edges, K) what filters are linear in.
        units: (n_edges, 3) from centre to neighbour.
        weights: (3 F, K) of the filters, for s, vs and vv.
        center: (n_edges,) int64, ascending.
        neighbor: (n_edges,) int64.
    """
    first = torch.zeros(len(sent) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(center, minlength=len(sent)), 0, out=first[1:])
    # What is kept for derivatives must be what was given, or those of second order do not reach it.
    given = _contiguous((sent, vectors, inputs, units, weights))
    edges = _Edges(native, first, neighbor.contiguous())
    messages: tuple[Tensor, Tensor] = _Messages.apply(edges, *given)  # type: ignore[no-untyped-call]
    return messages


class _Edges:
    """Who sends to whom, and the call of a function for them."""

    def __init__(self, native: Library, first: Tensor, neighbor: Tensor) -> None:
        self.native, self.first, self.neighbor = native, first, neighbor

    def call(self, name: str, given: Sequence[Tensor | None], *others: Tensor | None) -> None:
        sent, vectors, inputs, units, weights = given
        assert sent is not None
        assert inputs is not None
        self.native(
            name,
            *(torch.get_num_threads(), len(sent), sent.shape[1] // 2, inputs.shape[1]),
            *(self.first, self.neighbor, inputs, units, weights, sent, vectors),
            *others,
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
        gradient = _places(given)
        edges.call(f"{NAME}_back", given, *by, *gradient)
        return gradient

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        if along[4] is not None:
            raise NotImplementedError(
                "the gradient by PaiNN's weights cannot be differentiated once more in its compiled form: "
                "KINETOGRAPH_KERNELS=plain in the environment takes the equations"
            )
        by_s, by_v, *given = ctx.saved_tensors
        changes = [
            torch.zeros_like(t) if t is not None and change is None else change
            for t, change in zip(given, along, strict=True)
        ]
        sent, vectors, inputs, units, _ = _contiguous(changes)
        gradient = (torch.empty_like(by_s), torch.empty_like(by_v), *_places(given))
        ctx.edges.call(f"{NAME}_second", given, by_s, by_v, inputs, units, sent, vectors, *gradient)
        return None, *gradient


def _places(given: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """For the gradient by each; without vectors that by their weights is not written."""
    *others, weights = given
    assert weights is not None
    return *(None if t is None else torch.empty_like(t) for t in others), torch.zeros_like(weights)


def _contiguous(tensors: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    return tuple(None if t is None else t.contiguous() for t in tensors)
