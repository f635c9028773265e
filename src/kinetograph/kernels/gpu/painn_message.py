"""The kernels of ``operators/painn_message.py``."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kinetograph.kernels.gpu.spline import place, slopes, values

BLOCK_E = 8
"""Edges at a time."""
BLOCK_F = 64
"""Features of a program."""


@triton.jit
def _edges(vectors, types, e, known, start, per_length, n_rows, TYPED: tl.constexpr):
    """Unit vectors and lengths of edges, and their places in the tables."""
    x = tl.load(vectors + 3 * e, mask=known, other=1.0)
    y = tl.load(vectors + 3 * e + 1, mask=known, other=0.0)
    z = tl.load(vectors + 3 * e + 2, mask=known, other=0.0)
    d = tl.sqrt(x * x + y * y + z * z)
    row, t, within = place(d, start, per_length, n_rows)
    if TYPED:
        row += tl.load(types + e, mask=known, other=0).to(tl.int32) * n_rows
    return x / d, y / d, z / d, d, row, t, within & known


@triton.jit
def _messages(
    phi, vectors, edge_vectors, types, rows, start, per_length, n_rows, first, neighbor, to_s, to_v,
    F: tl.constexpr, TYPED: tl.constexpr, MOVED: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    s = tl.zeros((BLOCK_F,), dtype=tl.float32)
    v_x, v_y, v_z = s, s, s
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        x, y, z, _, row, t, within = _edges(edge_vectors, types, e, known, start, per_length, n_rows, TYPED)
        j = tl.load(neighbor + e, mask=known, other=0)
        mask = known[:, None] & (f < F)[None, :]
        sent = phi + j[:, None] * (3 * F) + f[None, :]
        s += tl.sum(
            tl.load(sent, mask=mask, other=0.0) * values(rows, row, t, within, f, 3 * F, mask), axis=0
        )
        along = tl.load(sent + F, mask=mask, other=0.0) * values(rows + F, row, t, within, f, 3 * F, mask)
        v_x += tl.sum(along * x[:, None], axis=0)
        v_y += tl.sum(along * y[:, None], axis=0)
        v_z += tl.sum(along * z[:, None], axis=0)
        if MOVED:
            through = tl.load(sent + 2 * F, mask=mask, other=0.0)
            through *= values(rows + 2 * F, row, t, within, f, 3 * F, mask)
            v = vectors + j[:, None] * (3 * F) + f[None, :]
            v_x += tl.sum(through * tl.load(v, mask=mask, other=0.0), axis=0)
            v_y += tl.sum(through * tl.load(v + F, mask=mask, other=0.0), axis=0)
            v_z += tl.sum(through * tl.load(v + 2 * F, mask=mask, other=0.0), axis=0)
    own = f < F
    tl.store(to_s + atom * F + f, s, mask=own)
    tl.store(to_v + atom * 3 * F + f, v_x, mask=own)
    tl.store(to_v + (atom * 3 + 1) * F + f, v_y, mask=own)
    tl.store(to_v + (atom * 3 + 2) * F + f, v_z, mask=own)


@triton.jit
def _by_atoms(
    by_s, by_v, phi, vectors, edge_vectors, types, rows, start, per_length, n_rows, first, neighbor,
    by_phi, by_vectors,
    F: tl.constexpr, TYPED: tl.constexpr, MOVED: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    of_s = tl.zeros((BLOCK_F,), dtype=tl.float32)
    of_vs, p_x, p_y, p_z = of_s, of_s, of_s, of_s
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        x, y, z, _, row, t, within = _edges(edge_vectors, types, e, known, start, per_length, n_rows, TYPED)
        i = tl.load(neighbor + e, mask=known, other=0)
        mask = known[:, None] & (f < F)[None, :]
        g_s = tl.load(by_s + i[:, None] * F + f[None, :], mask=mask, other=0.0)
        of_s += tl.sum(g_s * values(rows, row, t, within, f, 3 * F, mask), axis=0)
        g = by_v + i[:, None] * (3 * F) + f[None, :]
        g_x = tl.load(g, mask=mask, other=0.0)
        g_y = tl.load(g + F, mask=mask, other=0.0)
        g_z = tl.load(g + 2 * F, mask=mask, other=0.0)
        along = g_x * x[:, None] + g_y * y[:, None] + g_z * z[:, None]
        of_vs -= tl.sum(along * values(rows + F, row, t, within, f, 3 * F, mask), axis=0)
        if MOVED:
            w = values(rows + 2 * F, row, t, within, f, 3 * F, mask)
            p_x += tl.sum(g_x * w, axis=0)
            p_y += tl.sum(g_y * w, axis=0)
            p_z += tl.sum(g_z * w, axis=0)
    own = f < F
    of_vv = tl.zeros((BLOCK_F,), dtype=tl.float32)
    if MOVED:
        at = atom * 3 * F + f
        of_vv += p_x * tl.load(vectors + at, mask=own, other=0.0)
        of_vv += p_y * tl.load(vectors + at + F, mask=own, other=0.0)
        of_vv += p_z * tl.load(vectors + at + 2 * F, mask=own, other=0.0)
        vv = tl.load(phi + at + 2 * F, mask=own, other=0.0)
        tl.store(by_vectors + at, p_x * vv, mask=own)
        tl.store(by_vectors + at + F, p_y * vv, mask=own)
        tl.store(by_vectors + at + 2 * F, p_z * vv, mask=own)
    tl.store(by_phi + atom * 3 * F + f, of_s, mask=own)
    tl.store(by_phi + (atom * 3 + 1) * F + f, of_vs, mask=own)
    tl.store(by_phi + (atom * 3 + 2) * F + f, of_vv, mask=own)


@triton.jit
def _by_edges(
    by_s, by_v, phi, vectors, edge_vectors, types, rows, start, per_length, n_rows, first, neighbor, by_edges,
    F: tl.constexpr, TYPED: tl.constexpr, MOVED: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_F: tl.constexpr,
):  # fmt: skip
    atom = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(first + atom), tl.load(first + atom + 1)
    for block in range(begin, end, BLOCK_E):
        e = block + tl.arange(0, BLOCK_E)
        known = e < end
        x, y, z, d, row, t, within = _edges(edge_vectors, types, e, known, start, per_length, n_rows, TYPED)
        between = within & (d > start)
        j = tl.load(neighbor + e, mask=known, other=0)
        by_d = tl.zeros((BLOCK_E,), dtype=tl.float32)
        h_x, h_y, h_z = by_d, by_d, by_d
        for g in range(0, F, BLOCK_F):
            f = g + tl.arange(0, BLOCK_F)
            own = f < F
            mask = known[:, None] & own[None, :]
            sent = phi + j[:, None] * (3 * F) + f[None, :]
            g_s = tl.load(by_s + atom * F + f, mask=own, other=0.0)[None, :]
            g_x = tl.load(by_v + atom * 3 * F + f, mask=own, other=0.0)[None, :]
            g_y = tl.load(by_v + (atom * 3 + 1) * F + f, mask=own, other=0.0)[None, :]
            g_z = tl.load(by_v + (atom * 3 + 2) * F + f, mask=own, other=0.0)[None, :]
            slope = slopes(rows, row, t, between, per_length, f, 3 * F, mask)
            by_d += tl.sum(g_s * tl.load(sent, mask=mask, other=0.0) * slope, axis=1)
            vs = tl.load(sent + F, mask=mask, other=0.0)
            slope = slopes(rows + F, row, t, between, per_length, f, 3 * F, mask)
            along = g_x * x[:, None] + g_y * y[:, None] + g_z * z[:, None]
            by_d += tl.sum(along * vs * slope, axis=1)
            across = vs * values(rows + F, row, t, within, f, 3 * F, mask)
            h_x += tl.sum(g_x * across, axis=1)
            h_y += tl.sum(g_y * across, axis=1)
            h_z += tl.sum(g_z * across, axis=1)
            if MOVED:
                v = vectors + j[:, None] * (3 * F) + f[None, :]
                inner = g_x * tl.load(v, mask=mask, other=0.0)
                inner += g_y * tl.load(v + F, mask=mask, other=0.0)
                inner += g_z * tl.load(v + 2 * F, mask=mask, other=0.0)
                slope = slopes(rows + 2 * F, row, t, between, per_length, f, 3 * F, mask)
                by_d += tl.sum(inner * tl.load(sent + 2 * F, mask=mask, other=0.0) * slope, axis=1)
        inner_h = h_x * x + h_y * y + h_z * z
        tl.store(by_edges + 3 * e, by_d * x + (h_x - inner_h * x) / d, mask=known)
        tl.store(by_edges + 3 * e + 1, by_d * y + (h_y - inner_h * y) / d, mask=known)
        tl.store(by_edges + 3 * e + 2, by_d * z + (h_z - inner_h * z) / d, mask=known)


class _Call:
    """What the kernels are called with: contiguous tensors, and their sizes."""

    def __init__(
        self,
        phi: Tensor,
        vectors: Tensor | None,
        edge_vectors: Tensor,
        types: Tensor | None,
        rows: Tensor,
        start: float,
        per_length: float,
        first: Tensor,
        neighbor: Tensor,
    ) -> None:
        self.n_atoms, self.width = phi.shape[0], phi.shape[1] // 3
        phi, edge_vectors, rows = phi.contiguous(), edge_vectors.contiguous(), rows.contiguous()
        # A kernel is told what there is; in the place of what there is not stands what it does not read.
        self.tensors = (
            *(phi, phi if vectors is None else vectors.contiguous(), edge_vectors),
            *(neighbor if types is None else types, rows, start, per_length, rows.shape[1], first, neighbor),
        )
        self.sizes = {
            "F": self.width,
            "TYPED": types is not None,
            "MOVED": vectors is not None,
            "BLOCK_E": BLOCK_E,
            "BLOCK_F": min(BLOCK_F, triton.next_power_of_2(self.width)),
        }
        self.grid = (self.n_atoms, triton.cdiv(self.width, self.sizes["BLOCK_F"]))


def messages(phi: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """As the operator, in single precision."""
    call = _Call(phi, *others)
    to_s, to_v = phi.new_empty(call.n_atoms, call.width), phi.new_empty(call.n_atoms, 3, call.width)
    _messages[call.grid](*call.tensors, to_s, to_v, **call.sizes)
    return to_s, to_v


def by_atoms(by_s: Tensor, by_v: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """As the operator, in single precision."""
    call, moved = _Call(*others), others[1] is not None
    by_phi = by_s.new_empty(call.n_atoms, 3 * call.width)
    by_vectors = by_s.new_empty((call.n_atoms, 3, call.width) if moved else (0,))
    _by_atoms[call.grid](
        *(by_s.contiguous(), by_v.contiguous(), *call.tensors), by_phi, by_vectors, **call.sizes
    )
    return by_phi, by_vectors


def by_edges(by_s: Tensor, by_v: Tensor, *others: Any) -> Tensor:
    """As the operator, in single precision."""
    call = _Call(*others)
    found: Tensor = torch.empty_like(others[2], memory_format=torch.contiguous_format)
    _by_edges[(call.n_atoms,)](*(by_s.contiguous(), by_v.contiguous(), *call.tensors), found, **call.sizes)
    return found
