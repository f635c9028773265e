"""Networks on edges, and the conditional filter of GAMD and ForceNet: ``csrc/filter.cpp``.

Where ``products`` is ``torch.bfloat16`` the factors of products behind a network's first layer are rounded
to eight bits; sums, biases and what stands on atoms stay in single precision. Such a library must have them
(``Library.has_bfloat16``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
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
        *((name, ctypes.c_int64) for name in ("n_in", "n_out", "activation", "bfloat16")),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [
        ("gain", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int64),
        ("epsilon", ctypes.c_double),
    ]


class _Network:
    """Packed layers, padded to whole registers.

    Args:
        products: type of the factors behind the first layer.
        takes: type of the rows, and of the first layer's weights.
        n_in: columns of the rows, those of zeros at the end included.
        widest: layers that are narrower give zeros behind their own columns.
    """

    def __init__(
        self,
        library: Library,
        layers: Sequence[Layer],
        *,
        products: torch.dtype = torch.float32,
        takes: torch.dtype = torch.float32,
        n_in: int | None = None,
        widest: int = 0,
        workspace: Workspace | None = None,
    ) -> None:
        if torch.bfloat16 in (products, takes) and not library.has_bfloat16:
            raise ValueError("this library has no products of bfloat16")
        self.library, self.takes = library, takes
        self.workspace = Workspace() if workspace is None else workspace
        self._kept: list[Tensor] = []
        self.layers = (_Layer * len(layers))()
        n_in = layers[0][0].shape[1] if n_in is None else n_in
        for index, (weight, bias, activation) in enumerate(layers):
            native, dtype = self.layers[index], products if index else takes
            extra = max(widest - len(weight), 0)
            extra += -(len(weight) + extra) % library.width
            weight = pad(weight.detach().float(), (0, n_in - weight.shape[1], 0, extra)).contiguous()
            packed = torch.empty(weight.numel(), dtype=dtype, device="cpu")
            pack = "kg_pack_bfloat16" if dtype == torch.bfloat16 else "kg_pack"
            library(pack, weight.to(dtype), *weight.shape, packed)
            self._kept.append(packed)
            native.weights = packed.data_ptr()
            native.bfloat16 = int(dtype == torch.bfloat16)
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
    """An MLP of the rows of a matrix.

    Args:
        norm: applied to what the last layer gives.
        gives: type of the result.
        workspace: shared with other networks that are not needed at the same time.
    """

    def __init__(
        self,
        library: Library,
        layers: Sequence[Layer],
        *,
        norm: nn.LayerNorm | None = None,
        products: torch.dtype = torch.float32,
        gives: torch.dtype = torch.float32,
        workspace: Workspace | None = None,
    ) -> None:
        super().__init__(library, layers, products=products, workspace=workspace)
        if gives == torch.bfloat16 and not library.has_bfloat16:
            raise ValueError("this library knows no bfloat16")
        self.gives = gives
        self.norm: _Norm | None = None
        if norm is not None:
            gain, bias = (self.padded(x.detach().float()).contiguous() for x in (norm.weight, norm.bias))
            self._kept += [gain, bias]
            self.norm = _Norm(gain.data_ptr(), bias.data_ptr(), self._plain_width, norm.eps)

    def plain(self, rows: Tensor) -> Tensor:
        """Without the columns of zeros behind the last layer's own."""
        return rows[..., : self._plain_width]

    def padded(self, rows: Tensor) -> Tensor:
        """With them."""
        return pad(rows, (0, self.width - self._plain_width))

    def __call__(self, rows: Tensor) -> Tensor:
        """(n_rows, n_in) float32 → (n_rows, width): the columns behind the last layer's own are zero.

        The result is overwritten by the next call of a network with this workspace.
        """
        require(torch.float32, rows)
        rows = rows.contiguous()
        n_bytes = self.gives.itemsize * len(rows) * self.width
        out = self.workspace.bytes("out", n_bytes)[:n_bytes].view(self.gives).view(len(rows), self.width)
        self.library(
            "kg_mlp",
            *(self.layers, len(self.layers), len(rows), rows, out),
            None if self.norm is None else ctypes.byref(self.norm),
            *(int(self.gives == torch.bfloat16), self.memory(), self.largest),
        )
        return out


class ConditionalFilter(_Network):
    """M_i = Σ_j w_ij ∘ x_j, where w_ij is a network of an edge's state and of what its ends add to it.

    Args:
        layers: of the network; the last gives the width of the values. To the kernel all are as wide as the
            widest, zeros behind their own columns.
        meet: number of the layer to whose product, before its activation, the ends are added.
        n_in: columns of the edges' states, those of zeros at the end included.
        takes: type of these states.
    """

    def __init__(
        self,
        library: Library,
        layers: Sequence[Layer],
        *,
        meet: int,
        n_in: int,
        products: torch.dtype = torch.float32,
        takes: torch.dtype = torch.float32,
    ) -> None:
        widest = max(len(weight) for weight, _, _ in layers)
        super().__init__(library, layers, products=products, takes=takes, n_in=n_in, widest=widest)
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
            sources, targets: (n_atoms, width of layer ``meet``): what a neighbour and a centre add.
            values: (n_atoms, plain width): what a neighbour sends.
            center, neighbor: (n_edges,) int64, sorted by centre.
            envelope: (n_edges,) further factor of each message.
        """
        require(self.takes, edges)
        require(torch.float32, sources, targets, values, envelope)
        require(torch.int64, center, neighbor)
        n_atoms = len(values)
        sources, targets, values = (
            x if x.shape[1] == self.width else pad(x, (0, self.width - x.shape[1]))
            for x in (sources, targets, values)
        )
        messages = floats(n_atoms, self.width)
        self.library(
            "kg_conditional_filter",
            *(self.layers, len(self.layers), self.meet, n_atoms, len(center), self.width, center, neighbor),
            *(edges, sources.contiguous(), targets.contiguous(), values.contiguous()),
            *(envelope, messages, self.memory()),
        )
        return messages[:, : self._plain_width]


def write_gaussians(
    library: Library,
    x: Tensor,
    start: float,
    spacing: float,
    n_functions: int,
    gamma: float,
    rows: Tensor,
    first: int,
) -> None:
    """Write exp(−γ (x − start − k · spacing)²), k = 0 … n_functions − 1, into rows from a column on.

    Args:
        x: (n,) float32.
        rows: (n, at least first + n_functions) float32.
        first: number of that column.
    """
    require(torch.float32, x, rows)
    if len(x) != len(rows) or first + n_functions > rows.shape[1]:
        raise ValueError(
            f"no room for {len(x)} x {n_functions} numbers from column {first} of {tuple(rows.shape)}"
        )
    numbers = [ctypes.byref(ctypes.c_double(value)) for value in (start, spacing, gamma)]
    library("kg_gaussians", len(x), x.contiguous(), n_functions, *numbers, rows, rows.shape[1], first)
