"""DimeNet: messages between pairs of atoms that hear of the angles between them.

J. Gasteiger, J. Groß, S. Günnemann, "Directional message passing for molecular graphs", ICLR 2020,
arXiv:2003.03123. States live on directed edges instead of atoms; a state is changed by those of the edges
that lead to where it comes from, seen under the angle between the two. The energy is a sum over atoms,
forces are its gradient. ``kinetograph.models.dimenet_pp`` is the faster successor.

==================================  ==================================================================
paper                               here
==================================  ==================================================================
m_ji, from j to i                   ``messages[e]``, ``graph.center[e]`` = i, ``graph.neighbor[e]`` = j
k → j → i, k ∈ N_j without i        ``graph.triplets``: ``first`` is the edge ji, ``second`` the edge kj;
                                    another image of i is not i
e_RBF(d), eq. (7), u(d), eq. (8)    ``nn.directional.RadialBasis``
a_SBF(d_kj, α), eq. (6)             ``nn.directional.SphericalBasis`` for every edge times
                                    ``zonal_harmonics`` of cos α for every triplet
embedding block, eq. (9)            ``nn.directional.MessageEmbedding``
interaction block, eq. (4)          ``Interaction``
bilinear layer, W                   ``Interaction.bilinear`` (width, n_bilinear, width)
output blocks t_i                   ``nn.directional.AtomReadout``, one after the embedding and one
                                    after every interaction, summed in ``DirectionalModel``
==================================  ==================================================================

Where the paper and the authors' program differ there is an option; the program's forms are the default, but
for the angle, because the published sizes and figures are those of the program:

``basis``
    ``"code"`` and ``"paper"``, see :class:`RadialBasis` and :class:`SphericalBasis`; in the program a
    second 1/d enters the spherical basis, which its authors list as a known issue.
``angle``
    ``"original"`` is the program's angle at i between the directions to j and to k, another of those
    issues. ``"corrected"`` (default) is the angle by which the path k → j → i turns at j, as in the
    authors' DimeNet++: cos α = û_ij · û_jk. The paper's ∠kji is its supplement; as
    Y_l0(π − α) = (−1)^l Y_l0(α), that is the same model with the sign of the weights of odd l changed.
``radial_filter``
    which distance e_RBF has in the interaction: ``"kj"`` as in the program or ``"ji"`` as in the paper.
``embedding``
    ``"code"`` has bias and activation around the radial basis, which its authors list too; ``"paper"`` a
    linear map, and ``width`` weights fewer.
``angle_grad``
    ours is the true gradient. With ``False`` the angles count as constants when forces are taken, as in
    the program behind the OC20 benchmark: pair forces that sum to zero but belong to no energy.

Ours, equal in function: no angle is formed, only its cosine, so that gradients stay finite where three
atoms lie on a line; spherical Bessel functions are evaluated once per edge with exact roots; the bilinear
layer sums over k before it multiplies with W; trainings list no triplets, see :class:`Turns`. Ours in
addition: direct forces, see :class:`MessageForces`. There is no limit on the number of neighbours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.nn.directional import (
    BASIS_FORMS,
    EMBEDDING_FORMS,
    RADIAL_FILTERS,
    READOUT_INITS,
    AtomReadout,
    BasisForm,
    DirectionalModel,
    EmbeddingForm,
    MessageEmbedding,
    MessageForces,
    MessageUpdate,
    Paths,
    RadialBasis,
    RadialFilter,
    ReadoutInit,
    SphericalBasis,
    TripletBasis,
    Turns,
    dense,
)
from kinetograph.nn.model import (
    Forces,
    GpuForm,
    InferenceForm,
    Preset,
    check_choice,
    md17,
    require_offer,
)
from kinetograph.nn.segments import sum_to
from kinetograph.running.dimenet import DimeNetInference

Angle = Literal["corrected", "original"]
ANGLES = ("corrected", "original")

PRESETS = {
    "dimenet": Preset(
        "dimenet",
        "sizes of the paper",
        {"width": 128, "n_layers": 6, "n_bilinear": 8, "element_table": 95},
        forces="conservative",
        learning_rate=1e-3,
        published=md17(
            "DimeNet, ICLR 2020, arXiv:2003.03123, made with angle: original",
            {
                "aspirin": 21.6,
                "benzene (2017)": 8.1,
                "ethanol": 10.0,
                "malonaldehyde": 16.6,
                "naphthalene": 9.3,
                "salicylic acid": 16.2,
                "toluene": 9.4,
                "uracil": 13.1,
            },
        ),
    ),
}


class Interaction(nn.Module):
    """m_ji ← update(m_ji, Σ_k W(a_SBF, (W e_RBF) ∘ σ(W m_kj))), eq. (4)."""

    def __init__(
        self,
        width: int,
        n_bilinear: int,
        n_spherical: int,
        n_radial: int,
        n_before_skip: int,
        n_after_skip: int,
        radial_filter: RadialFilter,
    ) -> None:
        super().__init__()
        self.radial_filter = radial_filter
        self.filter = dense(n_radial, width, bias=False)
        self.triplet_basis = TripletBasis(n_spherical, n_radial, n_bilinear)
        self.source = dense(width, width)
        self.bilinear = nn.Parameter(torch.empty(width, n_bilinear, width).normal_(0.0, 2.0 / width))
        self.update = MessageUpdate(width, n_before_skip, n_after_skip)

    def forward(self, messages: Tensor, radial: Tensor, spherical: Tensor, meeting: Paths | Turns) -> Tensor:
        """(n_edges, width) → (n_edges, width)."""
        filters = self.filter(radial)
        source = nn.functional.silu(self.source(messages))
        if self.radial_filter == "kj":
            source = source * filters
        # Summed over k first: the large matrix then acts once per edge, not once per triplet.
        sums = self.sums(source, spherical, meeting)
        if self.radial_filter == "ji":
            sums = sums * filters.unsqueeze(1)
        heard = sums.flatten(1) @ self.bilinear.flatten(1).T
        updated: Tensor = self.update(messages, heard)
        return updated

    def sums(self, source: Tensor, spherical: Tensor, meeting: Paths | Turns) -> Tensor:
        """Σ_k a_SBF ⊗ m_kj, (n_edges, n_bilinear, width)."""
        if isinstance(meeting, Turns):  # equal, and nothing stands on a triplet
            return meeting.combine(source, self.triplet_basis.of_edges(spherical, meeting))
        basis = self.triplet_basis(spherical, meeting)
        source, n_edges = source.index_select(0, meeting.second), len(source)
        columns = (column.unsqueeze(1) for column in basis.unbind(dim=1))
        return torch.stack([sum_to(meeting.first, c * source, n_edges) for c in columns], dim=1)


class DimeNet(DirectionalModel):
    """DimeNet.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å (5 in the paper).
        width: of the messages.
        n_layers: interaction blocks.
        n_bilinear: size of the spherical basis in the bilinear layer.
        n_spherical, n_radial: degrees l and radial functions n of the bases.
        envelope_power: p of the envelope.
        n_before_skip, n_after_skip: residual layers of an interaction around its skip connection.
        n_dense: hidden layers of an output block.
        readout_init: how the last matrix of the output blocks starts: at zero as the paper has it, or
            like the other matrices, which the authors later preferred for energies.
        basis: radial and spherical bases as the program or as the paper has them.
        angle: the angle by which a path turns, or the program's, which it takes at another atom.
        radial_filter: which distance the messages of neighbours are filtered by, d_kj or d_ji.
        embedding: with the program's bias and activation of the radial basis, or the paper's linear map.
        angle_grad: whether forces are the true gradient; false: angles count as constants.
        element_table: rows of a fixed table of elements (95 in the program); by default a row for each
            of ``elements``.
    """

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "conservative",
        width: int = 128,
        n_layers: int = 6,
        n_bilinear: int = 8,
        n_spherical: int = 7,
        n_radial: int = 6,
        envelope_power: int = 6,
        n_before_skip: int = 1,
        n_after_skip: int = 2,
        n_dense: int = 3,
        readout_init: ReadoutInit = "zeros",
        basis: BasisForm = "code",
        angle: Angle = "corrected",
        radial_filter: RadialFilter = "kj",
        embedding: EmbeddingForm = "code",
        angle_grad: bool = True,
        element_table: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(DimeNet, forces)
        check_choice("basis", basis, BASIS_FORMS)
        check_choice("angle", angle, ANGLES)
        check_choice("radial_filter", radial_filter, RADIAL_FILTERS)
        check_choice("embedding", embedding, EMBEDDING_FORMS)
        check_choice("readout_init", readout_init, READOUT_INITS)
        self.forces = forces
        self.angle = angle
        self.true_gradient = angle_grad
        # The embedding reaches one cutoff far, every interaction one more.
        self.request = GraphRequest(
            cutoff=cutoff, n_layers=n_layers + 1, triplets="path", reverse="direct" in self.heads
        )
        self.n_spherical = n_spherical

        self.radial_basis = RadialBasis(n_radial, cutoff, envelope_power, basis)
        self.spherical_basis = SphericalBasis(n_spherical, n_radial, cutoff, envelope_power, basis)
        self.embedding = MessageEmbedding(elements, width, n_radial, element_table, embedding)
        self.interactions = nn.ModuleList(
            Interaction(width, n_bilinear, n_spherical, n_radial, n_before_skip, n_after_skip, radial_filter)
            for _ in range(n_layers)
        )
        if "conservative" in self.heads:
            self.energy_head = nn.ModuleList(
                AtomReadout(width, n_radial, None, n_dense, readout_init) for _ in range(n_layers + 1)
            )
        if "direct" in self.heads:
            self.force_head = MessageForces(width, cutoff, envelope_power)

    @property
    def inference_request(self) -> GraphRequest:
        if self.angle != "corrected":
            return self.request
        return replace(self.request, triplets=None, reverse=True)

    @property
    def training_request(self) -> GraphRequest:
        return self.inference_request

    def gpu_form(self) -> GpuForm | None:
        return copy.deepcopy(self).requires_grad_(False) if self.angle == "corrected" else None

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None or not DimeNetInference.takes(self) or self.angle != "corrected":
            return None
        with torch.no_grad():
            return DimeNetInference(native, self)

    def meeting(self, graph: Graph) -> Paths | Turns:
        if graph.triplets is None and self.angle != "corrected":
            raise ValueError(f"the {self.angle} angle needs a graph with triplets")
        return super().meeting(graph)

    def cosines(self, graph: Graph) -> Tensor:
        if self.angle == "corrected":
            return super().cosines(graph)
        assert graph.triplets is not None
        first, second = graph.triplets.first, graph.triplets.second
        to_j = graph.edge_vectors.index_select(0, first)
        # k lies on the other side of j, not on i
        to_k = to_j + graph.edge_vectors.index_select(0, second)
        norms = graph.distances.index_select(0, first) * torch.linalg.norm(to_k, dim=1)
        cosines: Tensor = (to_j * to_k).sum(dim=1) / norms
        return cosines
