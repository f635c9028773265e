"""PaiNN for running, on a CPU and on a GPU; the oracle is the forward pass of ``models/painn.py``."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph
from kinetograph.kernels import Library
from kinetograph.kernels.edges import ListedEdges
from kinetograph.kernels.operators.edges import Table, first_edges
from kinetograph.kernels.operators.painn_message import painn_message
from kinetograph.kernels.painn import FusedPaiNN, LayerWeights, Linear, Weights
from kinetograph.kernels.spline import SHORTEST_A, SLOPE_TOLERANCE, TOLERANCE, spline_table
from kinetograph.nn.model import Head, Inference, Outputs


class PaiNNInference:
    """The network with its weights as they are now, in compiled passes.

    Args:
        model: a PaiNN with the linear force head, if any, of ``models/painn.py``.
    """

    def __init__(self, library: Library, model: Any) -> None:
        self.embedding = model.embedding
        self.n_edge_types = model.n_edge_types
        direct, conservative = ("direct" in model.heads, "conservative" in model.heads)
        weights = Weights(
            embedding=model.embedding.weight,
            layers=[
                LayerWeights(
                    message.filter.weight, _linears(message.phi), update.mix.weight, _linears(update.gates)
                )
                for message, update in zip(model.messages, model.updates, strict=True)
            ],
            filter_inputs=model.radial_functions,
            n_edge_types=model.n_edge_types,
            cutoff=model.request.cutoff,
            norm_epsilon=model.updates[0].norm_epsilon,
            force_head=_linears(model.force_head.weights) if direct else None,
            energy_head=_linears(model.energy_head.mlp) if conservative else None,
        )
        self.fused = FusedPaiNN(library, weights)

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference | None:
        rows = self._rows(graph.atomic_numbers)
        types = graph.edge_types if self.n_edge_types > 1 else None
        if rows is None or not self._are_known(types):
            return None
        edges = (rows, graph.center, graph.neighbor, types, graph.edge_vectors)
        if "conservative" not in heads:
            forces = self.fused.direct(*edges)
            return None if forces is None else Inference(forces=forces)
        said = self.fused.conservative(*edges, also_direct="direct" in heads)
        if said is None:
            return None
        energies, slopes, also_forces = said
        return Inference(also_forces, energies, slopes)

    def of_list(self, atomic_numbers: Tensor, edges: ListedEdges) -> Tensor | None:
        rows = self._rows(atomic_numbers)
        types = edges.types if self.n_edge_types > 1 else None
        if rows is None or not self._are_known(types):
            return None
        return self.fused.direct_of_list(rows, replace(edges, types=types))

    def _rows(self, atomic_numbers: Tensor) -> Tensor | None:
        """Rows of the embedding; ``None`` where an element has none."""
        rows = self.embedding.rows(atomic_numbers).long()
        known = len(rows) == 0 or (int(rows.min()) >= 0 and int(rows.max()) < len(self.embedding.weight))
        return rows if known else None

    def _are_known(self, types: Tensor | None) -> bool:
        if self.n_edge_types == 1:
            return True
        return types is not None and bool((types < self.n_edge_types).all())


class PaiNNOnGpu:
    """The network in torch's operations, each layer's messages in one pass with tabulated filters."""

    shortest_A = SHORTEST_A

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        spline = spline_table(
            model.radial_functions, SHORTEST_A, model.request.cutoff, TOLERANCE, SLOPE_TOLERANCE
        )
        self.tables = []
        for message in self.model.messages:
            weight = message.filter.weight.double().cpu()
            columns = weight.view(len(weight), model.n_edge_types, -1)  # (3 F, type, function)
            rows = torch.einsum("rk,otk->tro", spline.rows, columns)
            self.tables.append(rows.to(message.filter.weight).contiguous())
        self.table = Table.of(spline, self.tables[0])

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        model = self.model
        first = first_edges(graph.center, graph.n_atoms)
        types = graph.edge_types if model.n_edge_types > 1 else None
        where = (self.table.start, self.table.per_length, first, graph.neighbor)
        scalars: Tensor = model.embedding(graph.atomic_numbers)
        vectors: Tensor | None = None
        for message, update, rows in zip(model.messages, model.updates, self.tables, strict=True):
            to_scalars, to_vectors = painn_message(
                message.phi(scalars), vectors, graph.edge_vectors, types, rows, *where
            )
            scalars = scalars + to_scalars
            vectors = to_vectors if vectors is None else vectors + to_vectors
            to_scalars, to_vectors = update(scalars, vectors)
            scalars, vectors = scalars + to_scalars, vectors + to_vectors
        return Outputs(
            energies=model.energy_head(scalars) if "conservative" in heads else None,
            forces=model.force_head(scalars, vectors) if "direct" in heads else None,
        )


def _linears(network: nn.Sequential) -> tuple[Linear, Linear]:
    """The two linear maps of a network with one hidden layer."""
    first, second = (layer for layer in network if isinstance(layer, nn.Linear))
    return (first.weight, first.bias), (second.weight, second.bias)
