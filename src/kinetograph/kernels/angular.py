"""Sums over the edges that meet at an atom, of functions of the angles between them: ``csrc/angular.cpp``.

No list of triplets is needed: by the addition theorem of spherical harmonics the sums are made once per atom.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetograph.kernels.native import Library, Workspace, floats, require
from kinetograph.kernels.operators.edges import first_edges

MAX_DEGREES = 10
ROUND = 4
"""Harmonics, and what meets them, are padded with zeros to a multiple of this."""


class _Harmonics(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_l", "n_lm", "stride", "n_edges")),
        *((name, ctypes.c_void_p) for name in ("rows", "columns")),
    ]


class _Filters(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "n_radial", "radial_width")),
        *((name, ctypes.c_void_p) for name in ("weights", "back")),
    ]


class _Bilinear(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("width", "basis_width", "n_out")),
        *((name, ctypes.c_void_p) for name in ("weights", "back")),
    ]


class Directions:
    """Spherical harmonics of the edges of a graph, of use to every layer.

    Args:
        units: (n_edges, 3) float32, of length one.
        center: (n_edges,) int64, ascending.
        n_l: number of degrees.
    """

    def __init__(self, library: Library, units: Tensor, center: Tensor, n_atoms: int, n_l: int) -> None:
        require(torch.float32, units)
        require(torch.int64, center)
        self.library, self.n_l, self.n_edges, self.n_atoms = library, n_l, len(units), n_atoms
        self.stride = -(-n_l * n_l // ROUND) * ROUND
        self.first = first_edges(center, n_atoms)
        self.most = int(self.first.diff().max()) if n_atoms else 0
        self.columns = floats(n_l * n_l, self.n_edges)
        self.rows: Tensor = _Values.apply(units, self)  # type: ignore[no-untyped-call]

    def native(self, rows: Tensor) -> Any:
        """For the kernels."""
        return ctypes.byref(
            _Harmonics(
                *(self.n_l, self.n_l**2, self.stride, self.n_edges, rows.data_ptr(), self.columns.data_ptr())
            )
        )

    def memory(self, workspace: Workspace, basis_width: int) -> Tensor:
        """For the block of an atom."""
        n = self.library("kg_angular_floats", self.n_l, self.stride, self.most, basis_width)
        return workspace.bytes("block", 4 * n)


class FilteredSum:
    """y_e = Σ_{e' ≠ e} Σ_l (2l+1)/4π P_l(u_e·u_e') (Σ_n W_lnf R_ln,e') x_e'f over the edges of one centre.

    Args:
        weight: (n_l, n_radial, width).
    """

    def __init__(self, library: Library, weight: Tensor) -> None:
        self.library, self.workspace = library, Workspace()
        self.n_l, self.n_radial, self.width = weight.shape
        self.radial_width = padded_width(library, self.n_radial)
        weight = pad(weight.detach().float(), (0, -self.width % library.width))
        self.width = weight.shape[2]
        # Block by block of features, then l by l.
        whole = library("kg_angular_block") * library.width
        n_whole = self.width // whole
        sizes = [whole] * n_whole + [library.width] * ((self.width - n_whole * whole) // library.width)
        blocks = torch.split(weight, sizes, dim=2)
        self._weights = torch.cat([block.flatten() for block in blocks])
        packed = []
        for block in blocks:
            for matrix in pad(block, (0, 0, 0, self.radial_width - self.n_radial)):
                packed.append(floats(matrix.numel()))
                library("kg_pack", matrix.contiguous(), *matrix.shape, packed[-1])
        self._back = torch.cat(packed)
        self._native = _Filters(
            *(self.width, self.n_radial, self.radial_width),
            *(self._weights.data_ptr(), self._back.data_ptr()),
        )

    def __call__(self, x: Tensor, radial: Tensor, directions: Directions) -> Tensor:
        """(n_edges, width), (n_edges, n_l × radial_width) with zeros behind n_radial → (n_edges, width)."""
        require(torch.float32, x, radial)
        y: Tensor = _FilteredSum.apply(x, radial, directions.rows, directions, self)  # type: ignore[no-untyped-call]
        return y


class BilinearSum:
    """y_e = Σ_qk W_qko Σ_l B_lk,e Σ_{e' ≠ e} (2l+1)/4π P_l(u_e·u_e') x_e'q over the edges of one centre.

    Args:
        weight: (width, basis_width, n_out).
    """

    def __init__(self, library: Library, weight: Tensor) -> None:
        self.library, self.workspace = library, Workspace()
        width, basis_width, n_out = weight.shape
        extra = (-n_out % library.width, -basis_width % ROUND, -width % library.width)
        weight = pad(weight.detach().float(), (0, extra[0], 0, extra[1], 0, extra[2]))
        self.width, self.basis_width, self.n_out = weight.shape
        matrix = weight.permute(2, 1, 0).flatten(1).contiguous()  # (n_out, basis × width)
        self._weights, self._back = floats(matrix.numel()), floats(matrix.numel())
        library("kg_pack", matrix, *matrix.shape, self._weights)
        library("kg_pack", matrix.T.contiguous(), *matrix.T.shape, self._back)
        self._native = _Bilinear(
            *(self.width, self.basis_width, self.n_out),
            *(self._weights.data_ptr(), self._back.data_ptr()),
        )

    def __call__(self, x: Tensor, basis: Tensor, directions: Directions) -> Tensor:
        """(n_edges, width), (n_edges, n_l × basis_width) → (n_edges, n_out)."""
        require(torch.float32, x, basis)
        y: Tensor = _BilinearSum.apply(x, basis, directions.rows, directions, self)  # type: ignore[no-untyped-call]
        return y

    def memory(self, directions: Directions) -> tuple[Tensor, Tensor]:
        """For the block of an atom, and for a tile of edges."""
        n = self.library("kg_bilinear_floats", directions.most, self.basis_width, directions.n_l, self.width)
        block = directions.memory(self.workspace, self.basis_width)
        return block, self.workspace.bytes("tile", 4 * n)


def padded_width(library: Library, n: int) -> int:
    """The width of ``n`` columns in whole registers."""
    return -(-n // library.width) * library.width


@cache
def _norms(n_l: int) -> Tensor:
    """(n_l, n_l) of l and m: what Q_lm (x + i y)^m is multiplied with."""
    norms = torch.zeros(n_l, n_l, dtype=torch.float64, device="cpu")
    for l in range(n_l):
        for m in range(l + 1):
            square = (2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m)
            norms[l, m] = math.sqrt(square * (2.0 if m else 1.0))
    return norms


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: Tensor, to: Directions) -> Tensor:
        units = units.contiguous()
        rows = floats(to.n_edges, to.stride)
        to.library("kg_harmonics", to.n_edges, to.n_l, to.stride, units, _norms(to.n_l), rows, to.columns)
        ctx.save_for_backward(units)
        ctx.library, ctx.n_l = to.library, to.n_l
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_rows: Tensor) -> tuple[Tensor, None]:
        (units,) = ctx.saved_tensors
        by_units = torch.empty_like(units)
        ctx.library(
            "kg_harmonics_back",
            *(len(units), ctx.n_l, by_rows.shape[1], units, _norms(ctx.n_l), by_rows.contiguous(), by_units),
        )
        return by_units, None


class _FilteredSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, radial: Tensor, rows: Tensor, directions: Directions, layer: FilteredSum
    ) -> Tensor:
        x, radial = x.contiguous(), radial.contiguous()
        y = torch.empty_like(x)
        layer.library(
            "kg_filtered_sum",
            *(ctypes.byref(layer._native), directions.native(rows), directions.n_atoms, directions.first),
            *(x, radial, y, directions.memory(layer.workspace, 0)),
        )
        ctx.save_for_backward(x, radial, rows)
        ctx.directions, ctx.layer = directions, layer
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        x, radial, rows = ctx.saved_tensors
        directions, layer = ctx.directions, ctx.layer
        by_x, by_radial, by_rows = (torch.zeros_like(t) for t in (x, radial, rows))
        layer.library(
            "kg_filtered_sum_back",
            *(ctypes.byref(layer._native), directions.native(rows), directions.n_atoms, directions.first),
            *(x, radial, by_y.contiguous(), by_x, by_radial, by_rows, directions.memory(layer.workspace, 0)),
        )
        return by_x, by_radial, by_rows, None, None


class _BilinearSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, basis: Tensor, rows: Tensor, directions: Directions, layer: BilinearSum
    ) -> Tensor:
        x, basis = x.contiguous(), basis.contiguous()
        y = floats(len(x), layer.n_out)
        layer.library(
            "kg_bilinear_sum",
            *(ctypes.byref(layer._native), directions.native(rows), directions.n_atoms, directions.first),
            *(x, basis, y, *layer.memory(directions)),
        )
        ctx.save_for_backward(x, basis, rows)
        ctx.directions, ctx.layer = directions, layer
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        x, basis, rows = ctx.saved_tensors
        directions, layer = ctx.directions, ctx.layer
        by_x, by_basis, by_rows = torch.empty_like(x), torch.zeros_like(basis), torch.zeros_like(rows)
        layer.library(
            "kg_bilinear_sum_back",
            *(ctypes.byref(layer._native), directions.native(rows), directions.n_atoms, directions.first),
            *(x, basis, by_y.contiguous(), by_x, by_basis, by_rows, *layer.memory(directions)),
        )
        return by_x, by_basis, by_rows, None, None
