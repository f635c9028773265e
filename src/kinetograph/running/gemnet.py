"""GemNet-T and -dT for running on a CPU; their oracle is the forward pass of ``models/gemnet.py``.

Everything that is done edge by edge between two sums is one chain; the sums over triplets need no triplets;
what depends on a distance alone comes from tables. Scale factors and matrices after each other are
multiplied beforehand.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kinetograph.graph import Graph
from kinetograph.kernels.angular import ROUND, BilinearSum, Directions
from kinetograph.kernels.chain import Chain
from kinetograph.kernels.native import Library
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.kernels.tabulated import SLOPE_TOLERANCE, TOLERANCE, Tabulated
from kinetograph.nn.efficient import INV_SQRT_2, SILU_GAIN, Dense
from kinetograph.nn.model import Head, Inference
from kinetograph.nn.radial import polynomial_envelope


class GemNetInference:
    """The network with its weights as they are now.

    Args:
        model: a GemNet without quadruplets, of ``models/gemnet.py``.
    """

    def __init__(self, library: Library, model: Any) -> None:
        self.library, self.model = library, model
        self.layers: list[Any] = list(model.layers)
        self.with_energy = "conservative" in model.heads or model.separate_energy
        self.with_forces = "direct" in model.heads
        self.tables = _tables(library, model)
        self.sums = []
        for layer in self.layers:
            triplets = layer.triplets
            weight = triplets.bilinear.weight * triplets.scale_sum.factor
            self.sums.append(BilinearSum(library, weight))
        self.node_width = model.embedding.weight.shape[1]
        self.edge_width = len(model.edge_embedding.weight)
        self.start = self._start()
        self.triplet_steps = [self._triplet_step(layer) for layer in self.layers]
        self.node_steps = [self._node_step(layer) for layer in self.layers]
        self.edge_steps = [self._edge_step(k, layer) for k, layer in enumerate(self.layers)]
        self.energies = self._energies() if self.with_energy else None

    def __call__(self, graph: Graph, heads: tuple[Head, ...]) -> Inference | None:
        rows = self.model.embedding.rows(graph.atomic_numbers).long()
        known = bool(((rows >= 0) & (rows < len(self.model.embedding.weight))).all())
        if not known or graph.reverse is None or bool((graph.distances < SHORTEST_A).any()):
            return None
        conservative = "conservative" in heads
        with torch.set_grad_enabled(conservative):
            vectors = graph.edge_vectors.detach().requires_grad_(conservative)
            distances = torch.linalg.vector_norm(vectors, dim=1)
            sums, strengths = self._outputs(graph, rows, distances, vectors / distances.unsqueeze(1))
            forces = energies = slopes = None
            if self.energies is not None and (conservative or self.model.separate_energy):
                energies = self.energies(sums, n_rows=graph.n_atoms)[0][:, 0]
            if conservative and energies is not None:
                (slopes,) = torch.autograd.grad(energies.sum(), vectors)
                energies = energies.detach()
        if "direct" in heads:
            total = torch.stack([strength[:, 0].detach() for strength in strengths]).sum(dim=0)
            forces = self.model.along_edges(total, graph)
        return Inference(forces, energies, slopes)

    def _outputs(
        self, graph: Graph, rows: Tensor, distances: Tensor, units: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of every output block the sums over edges that energies begin with, and the strengths of edges."""
        assert graph.reverse is not None
        center, neighbor, reverse = graph.center, graph.neighbor, graph.reverse
        radial, circular = (table(distances) for table in self.tables)
        directions = Directions(self.library, units, center, graph.n_atoms, self.model.n_spherical)
        edges_size = {"n_rows": graph.n_edges, "n_sums": graph.n_atoms}
        summed = [center] if self.with_energy else []
        sums: list[Tensor] = []
        strengths: list[Tensor] = []

        def split(outputs: tuple[Tensor, ...]) -> list[Tensor]:
            rest = list(outputs)
            if self.with_forces:
                strengths.append(rest.pop())
            if self.with_energy:
                sums.append(rest.pop())
            return rest

        with torch.no_grad():
            table = self.model.embedding.weight
            ends = [self._padded(table @ part.T) for part in self._ends(self.model.edge_embedding)]
            nodes = self._padded(table)[rows]
        edges, source = split(
            self.start([radial, *ends], [rows[neighbor], rows[center], *summed], **edges_size)
        )
        steps = zip(self.triplet_steps, self.node_steps, self.edge_steps, self.sums, strict=True)
        for number, (triplet_step, node_step, edge_step, bilinear) in enumerate(steps):
            heard = bilinear(source, circular, directions)
            edges, gathered = triplet_step([radial, edges, heard, heard], [reverse, center], **edges_size)
            nodes, *ends = node_step([nodes, gathered], n_rows=graph.n_atoms)
            rest = split(edge_step([radial, edges, *ends], [neighbor, center, *summed], **edges_size))
            if number + 1 < len(self.layers):
                edges, source = rest
        return sums, strengths

    # ---- making ---------------------------------------------------------------------------------------

    def _start(self) -> Chain:
        """The first edges from the elements at their ends and their length."""
        chain = Chain(self.library)
        radial = self._radial(chain)
        embedding = self.model.edge_embedding
        ends = chain.add(*(chain.read(self.edge_width, indexed=True, followed=False) for _ in range(2)))
        edges = chain.dense(radial, embedding.weight[:, 2 * self.node_width :], plus=ends, silu=SILU_GAIN)
        self._finish(chain, radial, edges, 0)
        return chain

    def _triplet_step(self, layer: Any) -> Chain:
        """From what edges have heard of each other to new edges, and what atoms hear of them."""
        chain = Chain(self.library)
        radial, edges = self._radial(chain), chain.read(self.edge_width)
        heard, heard_back = (
            chain.read(layer.triplets.bilinear.weight.shape[2], indexed=indexed) for indexed in (False, True)
        )
        up = layer.triplets.up
        from_triplets = chain.add(
            _dense(chain, heard, up.own), _dense(chain, heard_back, up.other), INV_SQRT_2
        )
        x = chain.add(_dense(chain, edges, layer.skip), from_triplets, INV_SQRT_2)
        edges = chain.add(edges, _residuals(chain, x, layer.before_skip), INV_SQRT_2)
        edges = _residuals(chain, edges, layer.after_skip)
        chain.write(edges)
        update = layer.atom_update
        filters = self._filters(chain, radial, update.radial, self.model.atom_radial, update.scale_sum.factor)
        chain.write(chain.multiply(edges, filters), summed=True)
        return chain

    def _node_step(self, layer: Any) -> Chain:
        """New atoms, and what edges hear of the atoms at their ends."""
        chain = Chain(self.library)
        nodes, gathered = chain.read(self.node_width), chain.read(self.edge_width)
        update = layer.atom_update
        x = _residuals(chain, _dense(chain, gathered, update.dense), update.residuals)
        nodes = chain.add(nodes, x, INV_SQRT_2)
        chain.write(nodes)
        for part in self._ends(layer.concat):
            chain.write(chain.dense(nodes, part))
        return chain

    def _edge_step(self, number: int, layer: Any) -> Chain:
        """New edges from their ends."""
        chain = Chain(self.library)
        radial, edges = self._radial(chain), chain.read(self.edge_width)
        ends = chain.add(*(chain.read(self.edge_width, indexed=True) for _ in range(2)))
        own = layer.concat.weight[:, 2 * self.node_width :]
        x = _residuals(chain, chain.dense(edges, own, plus=ends, silu=SILU_GAIN), layer.after_concat)
        self._finish(chain, radial, chain.add(edges, x, INV_SQRT_2), number + 1)
        return chain

    def _finish(self, chain: Chain, radial: int, edges: int, number: int) -> None:
        """The edges, what the next layer makes of them before its triplets, and the output block."""
        if number < len(self.layers):
            chain.write(edges)
            triplets = self.layers[number].triplets
            source = _dense(chain, edges, triplets.source)
            scale = triplets.scale_radial.factor
            filters = self._filters(chain, radial, triplets.radial, self.model.triplet_radial, scale)
            chain.write(_dense(chain, chain.multiply(source, filters), triplets.down))
        shared = self.model.shared_readout_radial
        filters = self._filters(chain, radial, self.model.readout_radial[number], shared)
        filtered = chain.multiply(edges, filters)
        if self.with_energy:
            chain.write(filtered, summed=True)
        if self.with_forces:
            head = self.model.force_head[number]
            x = chain.dense(filtered, head.dense.weight * head.scale.factor, silu=SILU_GAIN)
            chain.write(chain.dense(_residuals(chain, x, head.residuals), head.last.weight))

    def _energies(self) -> Chain:
        """From the sums over edges to atomic energies."""
        chain, total = Chain(self.library), None
        heads: list[Any] = list(self.model.energy_head)
        for head in heads:
            nodes = chain.read(self.edge_width)
            nodes = chain.dense(nodes, head.dense.weight * head.scale_sum.factor, silu=SILU_GAIN)
            energy = chain.dense(_residuals(chain, nodes, head.residuals), head.last.weight)
            total = energy if total is None else chain.add(total, energy)
        assert total is not None
        chain.write(total)
        return chain

    def _radial(self, chain: Chain) -> int:
        return chain.read(self.tables[0].table.rows.shape[1])

    def _filters(
        self, chain: Chain, radial: int, own: Dense, shared: Dense, scale: Tensor | float = 1.0
    ) -> int:
        return chain.dense(radial, own.weight @ shared.weight * scale)

    def _ends(self, embedding: Any) -> tuple[Tensor, Tensor]:
        """The parts of a concatenation's weight that belong to neighbour and centre."""
        width = self.node_width
        return embedding.weight[:, :width], embedding.weight[:, width : 2 * width]

    def _padded(self, rows: Tensor) -> Tensor:
        return pad(rows, (0, -rows.shape[1] % self.library.width))


def _dense(chain: Chain, x: int, layer: Dense) -> int:
    return chain.dense(x, layer.weight, silu=SILU_GAIN if layer.activated else None)


def _residuals(chain: Chain, x: int, layers: nn.Sequential) -> int:
    """(x + σ(W₂ σ(W₁ x))) / √2, one after the other."""
    residuals: list[Any] = list(layers)
    for layer in residuals:
        x = chain.add(x, _dense(chain, _dense(chain, x, layer.first), layer.second), INV_SQRT_2)
    return x


def _tables(library: Library, model: Any) -> tuple[Tabulated, Tabulated]:
    """Of e_RBF, and of the radial part of e_CBF behind its first matrix, in the normalisation of the sums."""
    bessel, down = copy.deepcopy(model.bessel).double(), copy.deepcopy(model.triplet_circular).double()
    norms = [math.sqrt(4 * math.pi / (2 * l + 1)) for l in range(model.n_spherical)]

    def radial(distances: Tensor) -> Tensor:
        envelope = polynomial_envelope(distances / model.cutoff, model.envelope_power)
        values: Tensor = bessel(distances) * envelope.unsqueeze(1)
        return pad(values, (0, -values.shape[1] % library.width))

    def circular(distances: Tensor) -> Tensor:
        values = down(model.of_lengths(distances, model.cutoff)) * values_norms
        return pad(values, (0, -values.shape[2] % ROUND)).flatten(1)

    values_norms = torch.tensor(norms, dtype=torch.float64)[:, None]
    bounds = (SHORTEST_A, model.cutoff, TOLERANCE, SLOPE_TOLERANCE)
    return Tabulated(library, radial, *bounds), Tabulated(library, circular, *bounds)
