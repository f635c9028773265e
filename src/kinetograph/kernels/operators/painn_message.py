"""The messages of PaiNN, with filters from a table.

With s, vs and vv the three parts of φ and of the filters w, u the unit vector and v the vectors of an atom:

    Δs_i = Σ_j φ_s,j ∘ w_s(d_ij),   Δv_i = Σ_j φ_vs,j ∘ w_vs(d_ij) u_ij + v_j ∘ φ_vv,j ∘ w_vv(d_ij)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinetograph.kernels.operators.edges import centers, looked_up
from kinetograph.kernels.operators.register import edge_operator, refuse_trained


@edge_operator("painn_message.messages")
def painn_message(
    phi: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    types: Tensor | None,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> tuple[Tensor, Tensor]:
    """Δs (n_atoms, F) and Δv (n_atoms, 3, F). Differentiable once by the first three arguments.

    Args:
        phi: (n_atoms, 3 F): φ_s, φ_vs and φ_vv.
        vectors: (n_atoms, 3, F); ``None`` where all are zero.
        edge_vectors: (n_edges, 3) Å.
        types: (n_edges,) int64: which table belongs to an edge; ``None``: the first one.
        rows: (n_types, n_rows, 3 F): tables of w_s, w_vs and w_vv; see ``operators/edges.py``.
        start: Å, where the tables begin.
        per_length: intervals of a table in an Å.
        first: (n_atoms + 1,) int64 first edge of each atom.
        neighbor: (n_edges,) int64.
    """
    edges = _Edges(edge_vectors, types, rows, start, per_length, first, neighbor)
    w_s, w_vs, w_vv = edges.filters.chunk(3, dim=1)
    s, vs, vv = phi.chunk(3, dim=1)
    along = vs[neighbor] * w_vs
    to_vectors = along.unsqueeze(1) * edges.units.unsqueeze(2)
    if vectors is not None:
        to_vectors = to_vectors + (vv.unsqueeze(1) * vectors)[neighbor] * w_vv.unsqueeze(1)
    return edges.summed(s[neighbor] * w_s), edges.summed(to_vectors)


@edge_operator("painn_message.by_atoms")
def painn_message_by_atoms(
    by_s: Tensor,
    by_v: Tensor,
    phi: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    types: Tensor | None,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> tuple[Tensor, Tensor]:
    """From derivatives by Δs and Δv to those by φ and v (empty where there are no vectors).

    What flows back to atom j over the edge i → j is summed over the edges j → i, whose unit vector is −u.
    """
    edges = _Edges(edge_vectors, types, rows, start, per_length, first, neighbor)
    w_s, w_vs, w_vv = edges.filters.chunk(3, dim=1)
    g_s, g_v = by_s[neighbor], by_v[neighbor]
    of_s = edges.summed(g_s * w_s)
    of_vs = edges.summed(-(g_v * edges.units.unsqueeze(2)).sum(dim=1) * w_vs)
    if vectors is None:
        return torch.cat([of_s, of_vs, torch.zeros_like(of_s)], dim=1), by_v.new_empty(0)
    of_product = edges.summed(g_v * w_vv.unsqueeze(1))
    of_vv = (of_product * vectors).sum(dim=1)
    return torch.cat([of_s, of_vs, of_vv], dim=1), of_product * phi.chunk(3, dim=1)[2].unsqueeze(1)


@edge_operator("painn_message.by_edges")
def painn_message_by_edges(
    by_s: Tensor,
    by_v: Tensor,
    phi: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    types: Tensor | None,
    rows: Tensor,
    start: float,
    per_length: float,
    first: Tensor,
    neighbor: Tensor,
) -> Tensor:
    """From derivatives by Δs and Δv to those by the vectors of edges, (n_edges, 3)."""
    edges = _Edges(edge_vectors, types, rows, start, per_length, first, neighbor)
    center = centers(first, len(neighbor))
    s, vs, vv = phi.chunk(3, dim=1)
    g_s, g_v = by_s[center], by_v[center]
    slope_s, slope_vs, slope_vv = edges.slopes.chunk(3, dim=1)
    _, w_vs, _ = edges.filters.chunk(3, dim=1)
    by_distance = (g_s * s[neighbor] * slope_s).sum(dim=1)
    along = (g_v * edges.units.unsqueeze(2)).sum(dim=1)
    by_distance = by_distance + (along * vs[neighbor] * slope_vs).sum(dim=1)
    if vectors is not None:
        sent = (vv.unsqueeze(1) * vectors)[neighbor]
        by_distance = by_distance + ((g_v * sent).sum(dim=1) * slope_vv).sum(dim=1)
    by_unit = (g_v * (vs[neighbor] * w_vs).unsqueeze(1)).sum(dim=2)
    across = by_unit - (by_unit * edges.units).sum(dim=1, keepdim=True) * edges.units
    by_edges: Tensor = by_distance.unsqueeze(1) * edges.units + across / edges.distances.unsqueeze(1)
    return by_edges


class _Edges:
    """What the plain forms need of edges."""

    def __init__(
        self,
        edge_vectors: Tensor,
        types: Tensor | None,
        rows: Tensor,
        start: float,
        per_length: float,
        first: Tensor,
        neighbor: Tensor,
    ) -> None:
        self.center, self.n_atoms = centers(first, len(neighbor)), len(first) - 1
        self.distances = torch.linalg.norm(edge_vectors, dim=1)
        self.units = edge_vectors / self.distances.unsqueeze(1)
        found = [looked_up(table, self.distances, start, per_length) for table in rows]
        values, slopes = (torch.stack(parts) for parts in zip(*found, strict=True))
        kind = torch.zeros_like(neighbor) if types is None else types
        every = torch.arange(len(neighbor), device=neighbor.device)
        self.filters, self.slopes = values[kind, every], slopes[kind, every]

    def summed(self, values: Tensor) -> Tensor:
        total: Tensor = values.new_zeros(self.n_atoms, *values.shape[1:])
        total = total.index_add(0, self.center, values)
        return total


@painn_message.register_fake
def _(phi: Tensor, *_others: Any) -> tuple[Tensor, Tensor]:
    n_atoms, width = phi.shape[0], phi.shape[1] // 3
    return phi.new_empty(n_atoms, width), phi.new_empty(n_atoms, 3, width)


@painn_message_by_atoms.register_fake
def _(
    by_s: Tensor, by_v: Tensor, phi: Tensor, vectors: Tensor | None, *_others: Any
) -> tuple[Tensor, Tensor]:
    return phi.new_empty(phi.shape), by_v.new_empty(0) if vectors is None else torch.empty_like(vectors)


@painn_message_by_edges.register_fake
def _(
    by_s: Tensor, by_v: Tensor, phi: Tensor, vectors: Tensor | None, edge_vectors: Tensor, *_others: Any
) -> Tensor:
    return edge_vectors.new_empty(edge_vectors.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    phi, vectors, edge_vectors, types, rows, ctx.start, ctx.per_length, first, neighbor = inputs
    refuse_trained(rows)
    ctx.save_for_backward(phi, vectors, edge_vectors, types, rows, first, neighbor)


def _back(ctx: Any, by_s: Tensor, by_v: Tensor) -> tuple[Tensor | None, ...]:
    phi, vectors, edge_vectors, types, rows, first, neighbor = ctx.saved_tensors
    known = (phi, vectors, edge_vectors, types, rows, ctx.start, ctx.per_length, first, neighbor)
    by_phi = by_vectors = by_edges = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
        by_phi, of_vectors = painn_message_by_atoms(by_s, by_v, *known)
        by_vectors = None if vectors is None else of_vectors
    if ctx.needs_input_grad[2]:
        by_edges = painn_message_by_edges(by_s, by_v, *known)
    return by_phi, by_vectors, by_edges, None, None, None, None, None, None


painn_message.register_autograd(_back, setup_context=_keep)
