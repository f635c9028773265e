"""Networks on edges, and the conditional filter of GAMD and ForceNet: ``csrc/filter.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.native import Library, Workspace, floats, require

Activation = Literal["none", "silu", "gelu"]
Layer = tuple[Tensor, Tensor | None, Activation]
"""Weight (n_out, n_in), bias (n_out,), and what is applied to the result."""

_ACTIVATIONS: dict[Activation, int] = {"none": 0, "silu": 1, "gelu": 2}


class _Layer(ctypes.Structure):
    _fields_ = [
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n_in", "n_out", "activation")),
    ]


class _Network:
    """Packed layers, padded to whole registers."""

    def __init__(self, library: Library, layers: Sequence[Layer], n_in: int | None = None) -> None:
        self.library = library
        self.workspace = Workspace()
        self._kept: list[Tensor] = []
        self.layers = (_Layer * len(layers))()
        n_in = layers[0][0].shape[1] if n_in is None else n_in
        for native, (weight, bias, activation) in zip(self.layers, layers, strict=True):
            extra = -len(weight) % library.width
            weight = pad(weight.detach().float(), (0, n_in - weight.shape[1], 0, extra)).contiguous()
            packed = floats(weight.numel())
            library("kg_pack", weight, *weight.shape, packed)
            self._kept.append(packed)
            native.weights = packed.data_ptr()
            if bias is not None:
                bias = pad(bias.detach().float(), (0, extra)).contiguous()
                self._kept.append(bias)
                native.bias = bias.data_ptr()
            native.n_out, native.n_in = weight.shape
            native.activation = _ACTIVATIONS[activation]
            n_in = len(weight)
        self.n_in, self.width = self.layers[0].n_in, self.layers[-1].n_out
        self._plain_width = len(layers[-1][0])
        self.largest = max(layer.n_out for layer in self.layers)

    def memory(self) -> Tensor:
        """For the tiles."""
        return self.workspace.bytes("tiles", 4 * self.library("kg_filter_floats", self.largest))


class EdgeNetwork(_Network):
    """An MLP of the rows of a matrix."""

    def plain(self, rows: Tensor) -> Tensor:
        """Without the columns of zeros behind the last layer's own."""
        return rows[:, : self._plain_width]

    def padded(self, rows: Tensor) -> Tensor:
        """With them."""
        return pad(rows, (0, self.width - self._plain_width))

    def __call__(self, rows: Tensor) -> Tensor:
        """(n_rows, n_in) float32 → (n_rows, width): the columns behind the last layer's own are zero."""
        require(torch.float32, rows)
        rows = rows.contiguous()
        out = self.workspace.bytes("out", 4 * len(rows) * self.width)[: 4 * len(rows) * self.width]
        out = out.view(torch.float32).view(len(rows), self.width)
        self.library(
            "kg_mlp", self.layers, len(self.layers), len(rows), rows, out, self.memory(), self.largest
        )
        return out


class ConditionalFilter(_Network):
    """M_i = Σ_j w_ij ∘ x_j, where w_ij is a network of an edge's state and of what its ends add to it.

    Args:
        layers: of the network; all give the width of the values.
        meet: number of the layer to whose product, before its activation, the ends are added.
        n_in: columns of the edges' states, those of zeros at the end included.
    """

    def __init__(self, library: Library, layers: Sequence[Layer], *, meet: int, n_in: int) -> None:
        super().__init__(library, layers, n_in)
        self.meet = meet

    def __call__(
        self,
        edges: Tensor,
        sources: Tensor,
        targets: Tensor,
        values: Tensor,
        center: Tensor,
        neighbor: Tensor,
        envelope: Tensor | None = None,
    ) -> Tensor:
        """(n_atoms, plain width).

        Args:
            edges: (n_edges, n_in) states.
            sources, targets: (n_atoms, plain width): what a neighbour and a centre add.
            values: (n_atoms, plain width): what a neighbour sends.
            center, neighbor: (n_edges,) int64, sorted by centre.
            envelope: (n_edges,) further factor of each message.
        """
        require(torch.float32, edges, sources, targets, values, envelope)
        require(torch.int64, center, neighbor)
        n_atoms, extra = len(values), self.width - self._plain_width
        if extra:
            sources, targets, values = (pad(x, (0, extra)) for x in (sources, targets, values))
        messages = floats(n_atoms, self.width)
        self.library(
            "kg_conditional_filter",
            *(self.layers, len(self.layers), self.meet, n_atoms, len(center), self.width, center, neighbor),
            *(edges, sources.contiguous(), targets.contiguous(), values.contiguous()),
            *(envelope, messages, self.memory()),
        )
        return messages[:, : self._plain_width]
