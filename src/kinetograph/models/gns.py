"""GNS as the ForceNet paper compares with it: a plain message-passing network on raw edge vectors.

W. Hu et al., "ForceNet: A Graph Neural Network for Large-Scale Quantum Calculations" (2021),
arXiv:2103.01436, appendix B, after A. Sanchez-Gonzalez et al., "Learning to Simulate Complex Physics
with Graph Networks", ICML 2020, arXiv:2002.09405.

========================================  =========================================================
paper                                     here
========================================  =========================================================
s → t, source and target of a message     ``graph.neighbor``, ``graph.center``
e_st = [n_st ; p_st/c], seven numbers     ``nn.bases.edge_inputs``, without a basis
node input, nine properties               ``nn.element_properties``, then ``GNS.node_map``
MLP(h_t ⊕ e_st ⊕ h_s): linear, layer      ``Block.message_in``, ``Block.norm``,
normalisation, ReLU, linear               ``Block.message_out``
sum over s, then linear                   ``Block.linear``
batch normalisation, residual             ``Block.node_norm``
decoder: linear, ReLU, linear             ``GNS.head``
========================================  =========================================================

Two things are done by atoms instead of edges, with the same result. The first linear map of the
message is W [h_t; e; h_s] = W_t h_t + W_e e + W_s h_s; the second commutes with the sum,
Σ_s (W x_st + b) = W Σ_s x_st + k b with k neighbours.

The paper does not say where the batch normalisation stands; here h_t ← h_t + BN(linear(Σ_s message)).
With 768 × 5 there are 12,450,819 weights, the paper's 12.5 million.

``form="original"`` is the network of the ICML paper as far as it carries over: edges have states of
their own, each with a residual update; there are two hidden layers in every MLP, and a layer
normalisation at its end instead of inside; the edge input is the displacement from target to source
over the cutoff and its length. It takes the nine properties, too, and gives forces instead of
accelerations.

There is no envelope: forces jump where an atom crosses the cutoff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.nn.bases import edge_inputs
from kinetograph.nn.batch_norm import BatchNorm
from kinetograph.nn.element_properties import N_PROPERTIES, atomic_radii, element_properties
from kinetograph.nn.elements import ElementSlots, check_elements
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import (
    Forces,
    Head,
    Model,
    Offer,
    Outputs,
    Preset,
    Published,
    check_choice,
    require_offer,
)
from kinetograph.nn.segments import sum_to

Form = Literal["baseline", "original"]

_PAPER = "ForceNet, arXiv:2103.01436"

PRESETS = {
    "gns": Preset(
        "gns",
        "the baseline of the ForceNet paper",
        {"form": "baseline", "width": 768, "n_layers": 5},
        learning_rate=5e-4,
        published=(
            Published("OC20 S2F val ID, force MAE", 0.0421, "eV/Å", f"{_PAPER}, table 1"),
            Published("OC20 S2F val OOD ads, force MAE", 0.0466, "eV/Å", f"{_PAPER}, table 1"),
            Published("OC20 S2F val OOD cat, force MAE", 0.0430, "eV/Å", f"{_PAPER}, table 1"),
            Published("OC20 S2F val OOD both, force MAE", 0.0559, "eV/Å", f"{_PAPER}, table 1"),
            Published("OC20 S2F val average, force MAE", 0.0469, "eV/Å", f"{_PAPER}, table 1"),
            Published("parameters", 12.5, "million", f"{_PAPER}, table 1"),
            Published("OC20 IS2RS average, AFbT", 1.24, "%", _PAPER),
            Published("OC20 IS2RS average, ADwT", 28.95, "%", _PAPER),
        ),
    )
}


class Block(nn.Module):
    """One message-passing block of the baseline."""

    def __init__(self, width: int, n_inputs: int) -> None:
        super().__init__()
        self.widths = [width, n_inputs, width]
        self.message_in = nn.Linear(2 * width + n_inputs, width)
        self.norm = nn.LayerNorm(width)
        self.message_out = nn.Linear(width, width)
        self.linear = nn.Linear(width, width)
        self.node_norm = BatchNorm(width)

    def forward(self, nodes: Tensor, inputs: Tensor, n_neighbors: Tensor, graph: Graph) -> Tensor:
        """(n_atoms, width) → the same; ``inputs`` (n_edges, n_inputs), ``n_neighbors`` (n_atoms, 1)."""
        of_target, of_edge, of_source = torch.split(self.message_in.weight, self.widths, dim=1)
        hidden = functional.linear(inputs, of_edge, self.message_in.bias)
        hidden = (
            hidden
            + (nodes @ of_target.T).index_select(0, graph.center)
            + (nodes @ of_source.T).index_select(0, graph.neighbor)
        )
        total = sum_to(graph.center, torch.relu(self.norm(hidden)), graph.n_atoms)
        messages = total @ self.message_out.weight.T + n_neighbors * self.message_out.bias
        updated: Tensor = self.node_norm(self.linear(messages))
        return nodes + updated


class OriginalBlock(nn.Module):
    """One block of the ICML paper: e ← e + MLP([e; h_s; h_t]), h_t ← h_t + MLP([h_t; Σ_s MLP(…)])."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge_update = _normalized_mlp(3 * width, width)
        self.node_update = _normalized_mlp(2 * width, width)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        ends = torch.cat(
            [edges, nodes.index_select(0, graph.neighbor), nodes.index_select(0, graph.center)], dim=1
        )
        messages = self.edge_update(ends)
        total = sum_to(graph.center, messages, graph.n_atoms)
        return nodes + self.node_update(torch.cat([nodes, total], dim=1)), edges + messages


def _normalized_mlp(n_inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(*mlp([n_inputs, width, width, width], nn.ReLU), nn.LayerNorm(width))


class GNS(Model):
    """GNS, the ForceNet paper's baseline.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å (6 in the ForceNet paper).
        form: see the module's docstring.
        width: size of the node states (768).
        n_layers: message-passing blocks (5).
        max_neighbors: of each atom the edges to so many nearest neighbours at most, and those tied
            with the last of them; all within the cutoff by default (50 in OC20).
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native"),
        "conservative": Offer(
            "not offered",
            "its messages see the components of unit vectors, so an energy would change when the "
            "structure turns",
        ),
    }

    properties: Tensor
    radii: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        form: Form = "baseline",
        width: int = 768,
        n_layers: int = 5,
        max_neighbors: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(GNS, forces)
        check_choice("form", form, ("baseline", "original"))
        if max_neighbors is not None and max_neighbors < 1:
            raise UserError(f"max_neighbors is {max_neighbors}, but an atom needs at least one")
        self.forces = forces
        self.form = form
        self.request = GraphRequest(
            cutoff=cutoff, n_layers=n_layers, n_nearest=max_neighbors, nearest_required=False
        )

        # Kept with the weights: what a model was trained on is not to change with a table.
        self.slots = ElementSlots(elements)
        known = check_elements(elements)  # in the order of the slots
        self.register_buffer("properties", element_properties(known))
        if form == "baseline":
            self.register_buffer("radii", atomic_radii(known))
            self.node_map: nn.Module = nn.Linear(N_PROPERTIES, width)
            self.layers = nn.ModuleList(Block(width, 7) for _ in range(n_layers))
            self.head = mlp([width, width, 3], nn.ReLU)
        else:
            self.node_map = _normalized_mlp(N_PROPERTIES, width)
            self.edge_map = _normalized_mlp(4, width)
            self.layers = nn.ModuleList(OriginalBlock(width) for _ in range(n_layers))
            self.head = mlp([width, width, width, 3], nn.ReLU)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        return {"direct": frozenset({"translation", "permutation"})}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        slots = self.slots(graph.atomic_numbers)
        nodes = self.node_map(self.properties)[slots]
        cutoff = self.request.cutoff
        if self.form == "original":
            edges = self.edge_map(
                torch.cat([graph.edge_vectors, graph.distances.unsqueeze(1)], dim=1) / cutoff
            )
            for layer in self.layers:
                nodes, edges = layer(nodes, edges, graph)
            return Outputs(forces=self.head(nodes))
        inputs = edge_inputs(graph, self.radii[slots], cutoff=cutoff)
        n_neighbors = sum_to(graph.center, torch.ones_like(graph.distances), graph.n_atoms).unsqueeze(1)
        for layer in self.layers:
            nodes = layer(nodes, inputs, n_neighbors, graph)
        return Outputs(forces=self.head(nodes))
