"""What DimeNet and DimeNet++ share for running on a CPU.

Everything that is done edge by edge between two sums over triplets is one chain; the sums over triplets
need no triplets; what depends on a distance alone comes from tables.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kinetograph.graph import Graph
from kinetograph.kernels.angular import MAX_DEGREES, Directions, FilteredSum, padded_width
from kinetograph.kernels.chain import Chain
from kinetograph.kernels.native import Library
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.kernels.tabulated import SLOPE_TOLERANCE, TOLERANCE, Tabulated
from kinetograph.nn.directional import DirectionalModel
from kinetograph.nn.model import Head, Inference

Filters = Callable[[Any], Tensor]
"""From a layer to (n_filters, n_spherical, n_radial), whose products with the spherical basis are filters."""


class DirectionalInference(ABC):
    """The network with its weights as they are now.

    Args:
        model: a DimeNet or DimeNet++, of ``models/dimenet.py`` or ``models/dimenet_pp.py``.
    """

    def __init__(self, library: Library, model: DirectionalModel) -> None:
        self.library, self.model = library, model
        self.layers: list[Any] = list(model.interactions)
        self.readouts: list[Any] = list(model.energy_head) if "conservative" in model.heads else []
        self.embedding = model.embedding
        self.width = len(self.embedding.from_edge.weight)
        self.padded = padded_width(library, self.width)
        self.tables = _tables(library, model)
        self.triplet_sums = [FilteredSum(library, self._triplet_weight(layer)) for layer in self.layers]
        self.start = self._chain(0, self._embedded)
        self.steps = [
            self._chain(k + 1, lambda chain, radial, k=k: self._updated(chain, radial, k))
            for k in range(len(self.layers))
        ]
        self.end = self._readout()

    @staticmethod
    def takes(model: DirectionalModel) -> bool:
        """Whether the tables and the sums have room for this model."""
        return model.request.cutoff > SHORTEST_A and model.n_spherical <= MAX_DEGREES

    # ---- what is different in the two ------------------------------------------------------------------

    filters: Filters

    @property
    def features_per_filter(self) -> int:
        """To how many features of what is sent one filter goes: its own, or all of them."""
        return 1

    @abstractmethod
    def sent(self, chain: Chain, messages: int, radial: int, layer: Any) -> int:
        """What an edge sends to those that hear it."""

    @abstractmethod
    def heard(self, chain: Chain, sums: int, radial: int, layer: Any) -> int:
        """What an edge makes of the sum of what it was sent, (n_edges, width)."""

    # ---- running --------------------------------------------------------------------------------------

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference | None:
        rows = self.embedding.elements.rows(graph.atomic_numbers).long()
        known = bool(((rows >= 0) & (rows < len(self.embedding.elements.weight))).all())
        if not known or graph.reverse is None or bool((graph.distances < SHORTEST_A).any()):
            return None
        conservative = "conservative" in heads
        with torch.set_grad_enabled(conservative):
            vectors = graph.edge_vectors.detach().requires_grad_(conservative)
            distances = torch.linalg.vector_norm(vectors, dim=1)
            units = vectors / distances.unsqueeze(1)
            if not self.model.true_gradient:
                units = units.detach()
            messages, sums = self._messages(graph, rows, distances, units)
            forces = energies = slopes = None
            if conservative:
                energies = self.end(sums, n_rows=graph.n_atoms)[0][:, 0]
                (slopes,) = torch.autograd.grad(energies.sum(), vectors)
                energies = energies.detach()
        if "direct" in heads:
            with torch.no_grad():
                forces = self.model.force_head(messages[:, : self.width], graph)
        return Inference(forces, energies, slopes)

    def _messages(
        self, graph: Graph, rows: Tensor, distances: Tensor, units: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The last messages, and of every block the sums over edges that its readout begins with."""
        assert graph.reverse is not None
        radial, spherical = (table(distances) for table in self.tables)
        directions = Directions(self.library, units, graph.center, graph.n_atoms, self.model.n_spherical)
        with torch.no_grad():
            nodes = self.embedding.elements.weight
            from_center, from_neighbor = (
                pad(layer(nodes), (0, self.padded - self.width))
                for layer in (self.embedding.from_center, self.embedding.from_neighbor)
            )
        sizes = {"n_rows": graph.n_edges, "n_sums": graph.n_atoms}
        ends = [rows[graph.center], rows[graph.neighbor]]
        messages, *rest = self.start(
            [radial, from_center, from_neighbor], self._indices(graph, ends), **sizes
        )
        sums = []
        for step, angular in zip(self.steps, self.triplet_sums, strict=True):
            if self.readouts:
                sums.append(rest.pop())
            sent = rest.pop()
            copies = angular.width // sent.shape[1]  # one for each filter, where each takes all features
            heard = angular(sent if copies == 1 else sent.repeat(1, copies), spherical, directions)
            messages, *rest = step([radial, messages, heard], self._indices(graph, [graph.reverse]), **sizes)
        return messages, [*sums, *rest]

    # ---- making ---------------------------------------------------------------------------------------

    def _triplet_weight(self, layer: Any) -> Tensor:
        """(n_spherical, n_radial, n_filters × features_per_filter)."""
        weight = type(self).filters(layer) * _degree_factors(self.model.n_spherical)
        return weight.repeat_interleave(self.features_per_filter, dim=0).permute(1, 2, 0)

    def _indices(self, graph: Graph, read: Sequence[Tensor]) -> list[Tensor]:
        return [*read, graph.center] if self.readouts else list(read)

    def _chain(self, number: int, new_messages: Any) -> Chain:
        """New messages, what the next layer makes of them before its triplets, and the sums to read out."""
        chain = Chain(self.library)
        radial = chain.read(self.tables[0].table.rows.shape[1])
        messages = new_messages(chain, radial)
        chain.write(messages)
        if number < len(self.layers):
            layer = self.layers[number]
            chain.write(self.sent(chain, messages, radial, layer))
        if self.readouts:
            filters = chain.dense(radial, self.readouts[number].filter.weight)
            chain.write(chain.multiply(messages, filters), summed=True)
        return chain

    def _embedded(self, chain: Chain, radial: int) -> int:
        center, neighbor = (chain.read(self.width, indexed=True, followed=False) for _ in range(2))
        basis, edge = self.embedding.from_basis, self.embedding.from_edge
        inner = chain.dense(radial, basis.weight, basis.bias, silu=1.0 if self.embedding.activates else None)
        return chain.dense(inner, edge.weight, edge.bias, plus=chain.add(center, neighbor), silu=1.0)

    def _updated(self, chain: Chain, radial: int, number: int) -> int:
        layer = self.layers[number]
        messages = chain.read(self.width)
        heard = self.heard(chain, chain.read(self.triplet_sums[number].width, indexed=True), radial, layer)
        update = layer.update
        h = chain.add(chain.dense(messages, update.own.weight, update.own.bias, silu=1.0), heard)
        h = _residuals(chain, h, update.before_skip)
        h = chain.dense(h, update.to_skip.weight, update.to_skip.bias, silu=1.0)
        return _residuals(chain, chain.add(h, messages), update.after_skip)

    def _readout(self) -> Chain:
        """From the sums over edges to atomic energies."""
        chain, total = Chain(self.library), None
        for readout in self.readouts:
            nodes, up = chain.read(self.width), None
            if not isinstance(readout.up, nn.Identity):
                up = readout.up.weight.double()
            for layer in readout.dense:  # nothing comes between the first one and the way up
                weight = layer.weight if up is None else layer.weight.double() @ up
                nodes, up = chain.dense(nodes, weight, layer.bias, silu=1.0), None
            if up is not None:
                nodes = chain.dense(nodes, up)
            energy = chain.dense(nodes, readout.last.weight)
            total = energy if total is None else chain.add(total, energy)
        if total is not None:
            chain.write(total)
        return chain


def _degree_factors(n_spherical: int) -> Tensor:
    """(n_spherical, 1) (−1)^l √(4π/(2l+1)).

    What an edge hears is the sum over the other edges of its neighbour, seen from the edge that goes back:
    P_l(−cos α) = (−1)^l P_l(cos α).
    """
    factors = [(-1) ** l * math.sqrt(4.0 * math.pi / (2 * l + 1)) for l in range(n_spherical)]
    return torch.tensor(factors).unsqueeze(1)


def _residuals(chain: Chain, x: int, layers: nn.Sequential) -> int:
    """x + σ(W₂ σ(W₁ x + b₁) + b₂), one after the other."""
    residuals: list[Any] = list(layers)
    for layer in residuals:
        inner = chain.dense(x, layer.first.weight, layer.first.bias, silu=1.0)
        x = chain.add(x, chain.dense(inner, layer.second.weight, layer.second.bias, silu=1.0))
    return x


def _tables(library: Library, model: DirectionalModel) -> tuple[Tabulated, Tabulated]:
    """Of the radial basis, and of the radial parts of the spherical one; padded to whole registers."""
    radial = copy.deepcopy(model.radial_basis).double()
    spherical = copy.deepcopy(model.spherical_basis).double()

    def padded(values: Tensor) -> Tensor:
        return pad(values, (0, -values.shape[-1] % library.width))

    bounds = (SHORTEST_A, model.request.cutoff, TOLERANCE, SLOPE_TOLERANCE)
    return (
        Tabulated(library, lambda d: padded(radial(d)), *bounds),
        Tabulated(library, lambda d: padded(spherical(d)).flatten(1), *bounds),
    )
