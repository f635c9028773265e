"""ForceNet: forces read off the atoms of a message-passing network that sees whole edge vectors.

W. Hu, M. Shuaibi, A. Das, S. Goyal, A. Sriram, J. Leskovec, D. Parikh, C. L. Zitnick, "ForceNet: A
Graph Neural Network for Large-Scale Quantum Calculations" (2021), arXiv:2103.01436. Symmetry under
rotations is left to training on turned structures.

=======================================  ==========================================================
paper                                    here
=======================================  ==========================================================
s → t, source and target of a message    ``graph.neighbor``, ``graph.center``
e_st = [n_st ; p_st/c]                   ``nn.bases.edge_inputs``; n_st = −``graph.unit_vectors``
B, basis of the edge input               ``ForceNet.edge_basis``, worked out once for all layers
F_b, linear map of the basis             ``ForceNet.edge_maps``: one, or one per layer
node input, nine properties              ``nn.element_properties``
h_t^0, basis and linear map of these     ``ForceNet.node_basis``, ``ForceNet.node_map``, once per
                                         element
α(d) = cos(π d/2c)                       ``envelope``
F_e, of F_b(B(e_st)), h_s and h_t        ``Interaction.filter_in``, ``Interaction.filter``
F_c = α F_e, conditional filter          inside ``Interaction``
F_d                                      ``Interaction.transform``
m_st = F_c ∘ F_d(h_s)                    ``messages``
m_t = v ∘ F_d(h_t)                       ``Interaction.center_weight`` is v
h_t ← h_t + F_n(m_t + Σ_s m_st)          ``Interaction.update``
f_t = F_f(h_t^K)                         ``ForceNet.head``
=======================================  ==========================================================

The first matrix of F_e is applied in three parts, W [F_b; h_s; h_t] = W_b F_b + W_s h_s + W_t h_t:
the last two per atom, and W_b times the matrix of F_b as one matrix of (width × basis).

**Where paper and published program differ.** ``form="paper"`` is as the paper writes it. In
``form="code"``, n_st points from target to source, and p_st/c is cut off from below at 10⁻³, so that
the lengths less radii are constant and say nothing for atoms in contact. Three more differences change
the size and have options of their own:

* ``shared_basis``: the paper's text has one F_b for all layers, the program one per layer;
* ``decoder_layer``: a linear map and an activation before F_f, in the program only;
* ``idle_energy_head``: a linear map of the final states that the program keeps for its energies.
  Nothing reads it in a model of forces; it is there so that the size is the program's.

The published sizes (11.3 and 34.8 million) need the decoder layer: with the last two options and one
F_b per layer there are 11,363,624 weights at 512 × 5 and 34,810,408 at 768 × 7, with a shared F_b
11,287,848 and 34,639,912. The presets have these sizes and the paper's form.

**Ablations**, one at a time, with the paper's mean force error over its four validation sets in eV/Å
(0.0360 for the full model):

=======================  ==================================================================  ======
``ablation``             what changes                                                        error
=======================  ==================================================================  ======
``"only distances"``     e = p/c: no direction                                               0.0699
``"no radii"``           p = (d)                                                             0.0368
``"no node embedding"``  F_e sees the edge alone, not h_s and h_t                            0.0410
``"only filter"``        m_st = F_c, without F_d(h_s)                                        0.0378
``"linear filter"``      F_e is a linear map, then batch normalisation (edge-linear-BN)      0.0427
``"linear update"``      F_n is a linear map, then batch normalisation (node-linear-BN)      0.0364
``"no self message"``    no m_t                                                              0.0364
=======================  ==================================================================  ======

Our reading, where the paper is brief: without directions the radial half of the spherical basis is
left, and without F_d(h_s) there is still F_d(h_t). Ours, too, are the values of the nine properties and
the filling of holes in them and in Slater's radii; with the program's tables the forces on krypton and
xenon are not numbers. Initial weights are the program's: Xavier's uniform ones, zero biases.

With at most fifty neighbours per atom, as in OC20 (``max_neighbors=50``), atoms tied with the fiftieth
are kept, so that nothing depends on their order, but forces jump where the fiftieth changes. Otherwise
they are continuous: every message carries α, which vanishes at the cutoff. Its slope does not.

In training, batch normalisation takes mean and variance over all atoms of a batch. In evaluation it
takes the running ones, so that forces do not depend on what else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.nn.bases import BASES, BasisKind, edge_inputs, make_basis
from kinetograph.nn.batch_norm import BatchNorm
from kinetograph.nn.element_properties import N_PROPERTIES, atomic_radii, element_properties
from kinetograph.nn.elements import ElementSlots, check_elements
from kinetograph.nn.model import (
    Forces,
    GpuForm,
    Head,
    InferenceForm,
    Model,
    Offer,
    Outputs,
    Preset,
    Published,
    check_choice,
    require_offer,
)
from kinetograph.nn.segments import sum_to
from kinetograph.running.forcenet import ForceNetInference, ForceNetOnGpu

Form = Literal["paper", "code"]
ActivationKind = Literal["swish", "relu"]
Ablation = Literal[
    "only distances",
    "no radii",
    "no node embedding",
    "only filter",
    "linear filter",
    "linear update",
    "no self message",
]

FORMS = ("paper", "code")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"swish": nn.SiLU, "relu": nn.ReLU}
ABLATIONS = (
    "only distances",
    "no radii",
    "no node embedding",
    "only filter",
    "linear filter",
    "linear update",
    "no self message",
)

FAST_ABLATIONS = (None, "only distances", "no radii", "no self message", "linear update")
"""What the compiled form can leave out, too."""

CODE_FLOOR = 1e-3
"""The least p/c in the program."""

_SETS = ("val ID", "val OOD ads", "val OOD cat", "val OOD both", "val average")


def _published(
    errors: tuple[float, ...], parameters: float, within: float, distance: float
) -> tuple[Published, ...]:
    paper = "ForceNet, arXiv:2103.01436"
    return (
        *(
            Published(f"OC20 S2F {name}, force MAE", error, "eV/Å", f"{paper}, table 1")
            for name, error in zip(_SETS, errors, strict=True)
        ),
        Published("parameters", parameters, "million", f"{paper}, table 1"),
        Published("OC20 IS2RS average, AFbT", within, "%", paper),
        Published("OC20 IS2RS average, ADwT", distance, "%", paper),
    )


_BASE = _published((0.0313, 0.0355, 0.0334, 0.0439, 0.0360), 11.3, 8.45, 46.04)
_LARGE = _published((0.0281, 0.0320, 0.0327, 0.0412, 0.0335), 34.8, 12.66, 49.62)
_AS_PUBLISHED = {
    "form": "paper",
    "basis": "spherical",
    "activation": "swish",
    "decoder_layer": True,
    "idle_energy_head": True,
}


def _preset(about: str, published: tuple[Published, ...], **hyperparameters: Any) -> Preset:
    return Preset(
        "forcenet", about, {**_AS_PUBLISHED, **hyperparameters}, learning_rate=5e-4, published=published
    )


# The paper's text shares F_b and its sizes do not; its figures stand with both.
PRESETS = {
    "forcenet": _preset(
        "the paper's base size, a basis map per layer", _BASE, width=512, n_layers=5, shared_basis=False
    ),
    "forcenet-large": _preset(
        "the paper's large size, a basis map per layer", _LARGE, width=768, n_layers=7, shared_basis=False
    ),
    "forcenet-shared": _preset(
        "the paper's base size, one basis map", _BASE, width=512, n_layers=5, shared_basis=True
    ),
    "forcenet-shared-large": _preset(
        "the paper's large size, one basis map", _LARGE, width=768, n_layers=7, shared_basis=True
    ),
}


class Interaction(nn.Module):
    """One message-passing block: h_t ← h_t + F_n(m_t + Σ_s m_st).

    Args:
        width: size of the node states.
        edge_width: size of the edge states, F_b(B(e)).
    """

    def __init__(
        self, width: int, edge_width: int, activation: Callable[[], nn.Module], ablation: Ablation | None
    ) -> None:
        super().__init__()
        self.edge_width, self.width = edge_width, width
        self.conditional = ablation != "no node embedding"
        self.gates_source = ablation != "only filter"
        self.filter_in = nn.Linear(edge_width + 2 * width * self.conditional, width)
        if ablation == "linear filter":
            self.filter = nn.Sequential(BatchNorm(width))
        else:
            self.filter = nn.Sequential(
                activation(), nn.Linear(width, width), activation(), nn.Linear(width, width)
            )
        self.transform = nn.Linear(width, width)
        self.center_weight = None
        if ablation != "no self message":
            self.center_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, width)))
        if ablation == "linear update":
            self.update = nn.Sequential(nn.Linear(width, width), BatchNorm(width))
        else:
            self.update = nn.Sequential(
                nn.Linear(width, width), BatchNorm(width), activation(), nn.Linear(width, width)
            )

    def forward(
        self, nodes: Tensor, edges: Tensor, envelope: Tensor, graph: Graph, edge_map: nn.Module
    ) -> Tensor:
        """(n_atoms, width) → the same.

        Args:
            edges: (n_edges, n_basis), B(e).
            envelope: (n_edges, 1).
            edge_map: F_b; an identity where there is none.
        """
        pre = self._filter_input(nodes, edges, graph, edge_map)
        messages = envelope * self.filter(pre)  # F_c
        transformed: Tensor = self.transform(nodes)  # F_d
        if self.gates_source:
            messages = messages * transformed.index_select(0, graph.neighbor)
        return nodes + self.updated(sum_to(graph.center, messages, graph.n_atoms), transformed)

    def updated(self, total: Tensor, transformed: Tensor) -> Tensor:
        """What is added to the states, from the sums of messages and from what atoms send themselves."""
        if self.center_weight is not None:
            total = total + self.center_weight * transformed
        change: Tensor = self.update(total)  # F_n
        return change

    def of_edge(self, edge_map: nn.Module) -> tuple[Tensor, Tensor]:
        """W_b times the matrix of F_b, (width, n_basis), and all that is constant, (width,)."""
        weight: Tensor = self.filter_in.weight[:, : self.edge_width]
        bias: Tensor = self.filter_in.bias
        if isinstance(edge_map, nn.Linear):
            bias = bias + weight @ edge_map.bias
            weight = weight @ edge_map.weight
        return weight, bias

    def of_ends(self) -> tuple[Tensor, Tensor]:
        """W_s and W_t, (width, width) each."""
        of_source, of_target = torch.split(self.filter_in.weight[:, self.edge_width :], self.width, dim=1)
        return of_source, of_target

    def _filter_input(self, nodes: Tensor, edges: Tensor, graph: Graph, edge_map: nn.Module) -> Tensor:
        """The first linear map of F_e, on [F_b(B(e)); h_s; h_t]."""
        pre = functional.linear(edges, *self.of_edge(edge_map))
        if self.conditional:
            of_source, of_target = self.of_ends()
            pre = (
                pre
                + (nodes @ of_source.T).index_select(0, graph.neighbor)
                + (nodes @ of_target.T).index_select(0, graph.center)
            )
        return pre


class ForceNet(Model):
    """ForceNet with its bases, activations and ablations.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å (6 in the paper).
        form: see the module's docstring.
        width: size of the node states (512; large: 768).
        n_layers: message-passing blocks (5; large: 7).
        basis: of the edge input: ``"none"``, ``"identity"``, ``"linear"`` (with an activation),
            ``"gaussian"``, ``"sine"`` or ``"spherical"`` (the paper's choice).
        activation: ``"swish"`` (the paper's choice) or ``"relu"``, wherever there is one.
        ablation: a part that is left out; see the module's docstring.
        shared_basis: whether all layers have one F_b.
        decoder_layer: whether a linear map and an activation come before F_f.
        idle_energy_head: whether there is a linear map that nothing reads, as in the program.
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
        form: Form = "paper",
        width: int = 512,
        n_layers: int = 5,
        basis: BasisKind = "spherical",
        activation: ActivationKind = "swish",
        ablation: Ablation | None = None,
        shared_basis: bool = True,
        decoder_layer: bool = False,
        idle_energy_head: bool = False,
        max_neighbors: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(ForceNet, forces)
        check_choice("form", form, FORMS)
        check_choice("basis", basis, BASES)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("ablation", ablation, (None, *ABLATIONS))
        if max_neighbors is not None and max_neighbors < 1:
            raise UserError(f"max_neighbors is {max_neighbors}, but an atom needs at least one")
        self.forces = forces
        self.form = form
        self.ablation = ablation
        self.request = GraphRequest(
            cutoff=cutoff, n_layers=n_layers, n_nearest=max_neighbors, nearest_required=False
        )

        # Kept with the weights: what a model was trained on is not to change with a table.
        self.slots = ElementSlots(elements)
        known = check_elements(elements)  # in the order of the slots
        self.register_buffer("properties", element_properties(known))
        self.register_buffer("radii", atomic_radii(known))

        act = ACTIVATIONS[activation]
        self.node_basis = make_basis(basis, N_PROPERTIES, act, directed=False, edge=False)
        self.node_map = nn.Linear(self.node_basis.n_outputs, width)

        self.directions = ablation != "only distances"
        n_lengths = 1 if ablation == "no radii" else 4
        self.edge_basis = make_basis(basis, 3 * self.directions + n_lengths, act, directed=self.directions)
        n_basis = self.edge_basis.n_outputs
        n_maps = 1 if shared_basis else n_layers
        self.edge_maps = nn.ModuleList(
            nn.Identity() if basis == "none" else nn.Linear(n_basis, width) for _ in range(n_maps)
        )
        edge_width = n_basis if basis == "none" else width
        self.layers = nn.ModuleList(Interaction(width, edge_width, act, ablation) for _ in range(n_layers))

        self.decoder = nn.Sequential(*([nn.Linear(width, width), act()] if decoder_layer else []))
        self.head = nn.Sequential(nn.Linear(width, width), BatchNorm(width), act(), nn.Linear(width, 3))
        if idle_energy_head:
            self.idle_energy_head = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        # Every message carries α, so that an atom comes and goes at the cutoff without a jump; where
        # only the nearest count, one is exchanged for another before that.
        smooth = {"smoothness"} if self.request.n_nearest is None else set()
        return {"direct": frozenset({"translation", "permutation"} | smooth)}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        slots = self.slots(graph.atomic_numbers)
        nodes = self.node_map(self.node_basis(self.properties))[slots]
        edges, envelope = self.of_edges(graph, slots)
        for k, layer in enumerate(self.layers):
            nodes = layer(nodes, edges, envelope.unsqueeze(1), graph, self.edge_maps[k % len(self.edge_maps)])
        return Outputs(forces=self.head(self.decoder(nodes)))

    def of_edges(self, graph: Graph, slots: Tensor) -> tuple[Tensor, Tensor]:
        """B(e), (n_edges, n_basis), and α, (n_edges,)."""
        basis: Tensor = self.edge_basis(
            edge_inputs(
                graph,
                None if self.ablation == "no radii" else self.radii[slots],
                cutoff=self.request.cutoff,
                sign=1.0 if self.form == "code" else -1.0,
                directions=self.directions,
                floor=CODE_FLOOR if self.form == "code" else None,
            )
        )
        return basis, torch.cos(graph.distances * (0.5 * math.pi / self.request.cutoff))

    def inference_form(self) -> InferenceForm | None:
        native = library()
        relu = any(isinstance(module, nn.ReLU) for module in self.modules())
        if native is None or relu or self.ablation not in FAST_ABLATIONS:
            return None
        with torch.no_grad():
            return ForceNetInference(native, self)

    def gpu_form(self) -> GpuForm | None:
        relu = any(isinstance(module, nn.ReLU) for module in self.modules())
        return None if relu or self.ablation not in FAST_ABLATIONS else ForceNetOnGpu(self)
