"""SchNet for running, on a CPU and on a GPU; the oracle is the forward pass of ``models/schnet.py``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from kinetograph.graph import Graph
from kinetograph.kernels import Library
from kinetograph.kernels.continuous_filter import ContinuousFilters
from kinetograph.kernels.operators.continuous_filter import continuous_filter
from kinetograph.kernels.operators.edges import Table, first_edges
from kinetograph.kernels.spline import SHORTEST_A, SLOPE_TOLERANCE, TOLERANCE, Function, spline_table
from kinetograph.nn.model import Head, Inference, Outputs


class SchNetOnGpu:
    """The network in torch's operations, its convolutions in one pass each with tabulated filters."""

    shortest_A = SHORTEST_A

    def __init__(self, model: Any) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.interactions = list(self.model.interactions)
        exact = copy.deepcopy(self.model).double().cpu()

        def filters(distances: Tensor) -> Tensor:
            of_distances = exact.of_distances(distances)
            return torch.cat([layer.weights(*of_distances) for layer in exact.interactions], dim=1)

        spline = spline_table(filters, SHORTEST_A, model.request.cutoff, TOLERANCE, SLOPE_TOLERANCE)
        self.table = Table.of(spline, self.interactions[0].to_filters.weight)
        self.rows = [x.contiguous() for x in self.table.rows.tensor_split(len(self.interactions), dim=1)]

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        model = self.model
        where = (first_edges(graph.center, graph.n_atoms), graph.neighbor)
        nodes: Tensor = model.embedding(graph.atomic_numbers)
        for interaction, rows in zip(self.interactions, self.rows, strict=True):
            table = (rows, self.table.start, self.table.per_length)
            sums = continuous_filter(interaction.to_filters(nodes), graph.distances, *table, *where)
            nodes = nodes + interaction.after(sums)
        forces = None
        if "direct" in heads:
            radial, envelope = model.of_distances(graph.distances)
            forces = model.force_head(nodes, radial, graph, envelope)
        return Outputs(model.energy_head(nodes) if "conservative" in heads else None, forces)


class SchNetInference:
    """The network with tabulated filters and its convolutions in compiled passes."""

    def __init__(self, library: Library, model: Any) -> None:
        self.model = model
        self.interactions = list(model.interactions)

        def filter_of(interaction: Any) -> Function:
            exact = copy.deepcopy(interaction).double()
            return lambda distances: exact.weights(*model.of_distances(distances))

        functions = [filter_of(interaction) for interaction in self.interactions]
        self.filters = ContinuousFilters(library, functions, model.request.cutoff)

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference | None:
        if bool((graph.distances < SHORTEST_A).any()):
            return None
        model = self.model
        edges = self.filters.edges(graph.center, graph.neighbor, graph.edge_vectors, graph.n_atoms)
        conservative = "conservative" in heads
        with torch.set_grad_enabled(conservative):
            distances = graph.distances.detach().requires_grad_(conservative)
            nodes: Tensor = model.embedding(graph.atomic_numbers).detach()
            for index, interaction in enumerate(self.interactions):
                sent = interaction.to_filters(nodes)
                nodes = nodes + interaction.after(edges.convolve(index, sent, distances))
            forces = energies = slopes = None
            if "direct" in heads:
                radial, envelope = model.of_distances(graph.distances)
                forces = model.force_head(nodes, radial, graph, envelope).detach()
            if conservative:
                energies = model.energy_head(nodes)
                (by_distance,) = torch.autograd.grad(energies.sum(), distances)
                energies, slopes = energies.detach(), by_distance.unsqueeze(1) * graph.unit_vectors
        return Inference(forces, energies, slopes)
