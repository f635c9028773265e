"""Tables of cubic B-splines in Triton: the plain form is ``looked_up`` in ``operators/edges.py``."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(distance, start, per_length, n_rows):
    """Row of a table that a distance begins with, how far it lies towards the next, and whether within."""
    at = tl.maximum(distance - start, 0.0) * per_length
    row = tl.minimum(at.to(tl.int32), n_rows - 4)
    return row, at - row, at <= n_rows - 3


@triton.jit
def values(rows, row, t, within, column, stride, mask):
    """(edges, features): the functions of these columns, zero where not within the table."""
    u = 1.0 - t
    w0 = u * u * u * (1.0 / 6.0)
    w1 = 2.0 / 3.0 - t * t + 0.5 * t * t * t
    w2 = 2.0 / 3.0 - u * u + 0.5 * u * u * u
    w3 = t * t * t * (1.0 / 6.0)
    at = rows + row[:, None] * stride + column[None, :]
    here = mask & within[:, None]
    y = w0[:, None] * tl.load(at, mask=here, other=0.0)
    y += w1[:, None] * tl.load(at + stride, mask=here, other=0.0)
    y += w2[:, None] * tl.load(at + 2 * stride, mask=here, other=0.0)
    return y + w3[:, None] * tl.load(at + 3 * stride, mask=here, other=0.0)


@triton.jit
def slopes(rows, row, t, within, per_length, column, stride, mask):
    """(edges, features): their derivatives by distance."""
    u = 1.0 - t
    at = rows + row[:, None] * stride + column[None, :]
    here = mask & within[:, None]
    y = (-0.5 * u * u)[:, None] * tl.load(at, mask=here, other=0.0)
    y += (t * (1.5 * t - 2.0))[:, None] * tl.load(at + stride, mask=here, other=0.0)
    y += (u * (2.0 - 1.5 * u))[:, None] * tl.load(at + 2 * stride, mask=here, other=0.0)
    y += (0.5 * t * t)[:, None] * tl.load(at + 3 * stride, mask=here, other=0.0)
    return y * per_length
