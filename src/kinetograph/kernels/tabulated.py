"""Functions of distances from a table, differentiable once: ``csrc/tabulated.cpp``."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.native import Library, floats, require
from kinetograph.kernels.spline import Function, spline_table

TOLERANCE, SLOPE_TOLERANCE = 1e-7, 2e-7
"""Largest error of values and slopes, relative to the largest: tables in double precision can hold these."""


class Tabulated:
    """Splines of functions between two distances.

    Args:
        function: (n,) Å → (n, n_functions), in the precision of what it is given.
        start, end: Å.
        tolerance, slope_tolerance: what the splines are made to, as far as there are intervals enough.
    """

    def __init__(
        self,
        library: Library,
        function: Function,
        start: float,
        end: float,
        tolerance: float,
        slope_tolerance: float,
    ) -> None:
        self.library = library
        self.table = spline_table(function, start, end, tolerance, slope_tolerance)
        self._rows = self.table.rows.contiguous()

    def __call__(self, distances: Tensor) -> Tensor:
        """(n,) float32 Å, all within the table → (n, n_functions)."""
        require(torch.float32, distances)
        values: Tensor = _Lookup.apply(distances, self)  # type: ignore[no-untyped-call]
        return values


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distances: Tensor, tabulated: Tabulated) -> Tensor:
        table, rows = tabulated.table, tabulated._rows
        values, slopes = (floats(len(distances), rows.shape[1]) for _ in range(2))
        tabulated.library(
            "kg_tabulated",
            *(len(distances), rows.shape[1], distances.contiguous()),
            ctypes.byref(ctypes.c_double(table.start)),
            ctypes.byref(ctypes.c_double(table.n_intervals / (table.end - table.start))),
            *(len(rows), rows, values, slopes),
        )
        ctx.save_for_backward(slopes)
        ctx.library = tabulated.library
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_values: Tensor) -> tuple[Tensor, None]:
        (slopes,) = ctx.saved_tensors
        by_distances = floats(len(slopes))
        ctx.library("kg_tabulated_back", *slopes.shape, by_values.contiguous(), slopes, by_distances)
        return by_distances, None
