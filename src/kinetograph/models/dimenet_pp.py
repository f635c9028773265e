"""DimeNet++: DimeNet with a cheaper interaction.

J. Gasteiger, S. Giri, J. T. Margraf, S. Günnemann, "Fast and uncertainty-aware directional message passing
for non-equilibrium molecules", Machine Learning for Molecules workshop at NeurIPS 2020, arXiv:2011.14115.
As in DimeNet, states live on directed edges and hear of each other under an angle; here they do so in a
smaller width and by an element-wise product in place of the bilinear layer, while the energy is read out
in a larger one.

==================================  ==================================================================
paper (equations of the first)      here
==================================  ==================================================================
m_ji, from j to i                   ``messages[e]``, ``graph.center[e]`` = i, ``graph.neighbor[e]`` = j
k → j → i, k ∈ N_j without i        ``graph.triplets``: ``first`` is the edge ji, ``second`` the edge kj;
                                    another image of i is not i
e_RBF(d), eq. (7), u(d), eq. (8)    ``nn.directional.RadialBasis``
a_SBF(d_kj, α), eq. (6)             ``nn.directional.SphericalBasis`` for every edge times
                                    ``zonal_harmonics`` of cos α for every triplet
embedding block, eq. (9)            ``nn.directional.MessageEmbedding``
interaction block, fig. 1           ``Interaction``; ``down`` and ``up`` go to the width of triplets
                                    and back, every basis has a hidden size (``basis_width``)
output blocks                       ``nn.directional.AtomReadout``, one after the embedding and one
                                    after every interaction, summed in ``DirectionalModel``
==================================  ==================================================================

α is the angle by which the path k → j → i turns at j, cos α = û_ij · û_jk, as in the authors' program;
∠kji is its supplement and gives the same model with the sign of the weights of odd l changed.

Options where the program is not what the papers say or what its authors advise; the program's forms are the
default, for the published sizes and figures are those of the program:

``basis``
    ``"code"`` and ``"paper"``, see :class:`RadialBasis` and :class:`SphericalBasis`; in the program a
    second 1/d enters the spherical basis, which its authors list as a known issue.
``radial_filter``
    ``"kj"``: e_RBF(d_kj) multiplies m_kj before it is projected down, as in the program. ``"ji"``:
    e_RBF(d_ji) multiplies the sum over k after it is projected up, as the authors advise for the
    distance that the first paper has.
``embedding``
    ``"code"`` has bias and activation around the radial basis, which its authors list too; ``"paper"`` a
    linear map, and ``width`` weights fewer.
``angle_grad``
    ours is the true gradient. With ``False`` the angles count as constants when forces are taken, as in
    the program behind the OC20 benchmark: pair forces that sum to zero but belong to no energy. **The
    published OC20 figures of the presets were made so**, and with at most 50 neighbours per atom; here
    there is no such limit.

Ours, equal in function: no angle is formed, only its cosine, so that gradients stay finite where three
atoms lie on a line; spherical Bessel functions are evaluated once per edge with exact roots; the radial
part of the spherical basis meets its first matrix once per edge; the two matrices of the radial basis are
multiplied with each other first; trainings list no triplets, see :class:`Turns`. Ours in addition: direct
forces, see :class:`MessageForces`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kinetograph.graph import GraphRequest
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
    Published,
    check_choice,
    require_offer,
)
from kinetograph.nn.segments import sum_to
from kinetograph.running.dimenet_pp import DimeNetPlusPlusInference


def _oc20(*errors: float) -> tuple[Published, ...]:
    splits = ("ID", "OOD adsorbate", "OOD catalyst", "OOD both", "average")
    return tuple(
        Published(
            f"OC20 S2F val {split}, force MAE, made with angles held fixed (angle_grad=False)",
            error,
            "eV/Å",
            "ForceNet, arXiv:2103.01436, table 1",
        )
        for split, error in zip(splits, errors, strict=True)
    )


PRESETS = {
    "dimenet++": Preset(
        "dimenet++",
        "sizes of the paper",
        {"width": 128, "n_layers": 4, "readout_width": 256, "element_table": 95},
        forces="conservative",
        learning_rate=1e-3,
    ),
    "dimenet++-oc20": Preset(
        "dimenet++",
        "sizes of the OC20 benchmark; the published forces were taken with angle_grad=False",
        {"width": 192, "n_layers": 3, "readout_width": 192, "element_table": 95},
        forces="conservative",
        learning_rate=1e-4,
        published=_oc20(0.0332, 0.0366, 0.0344, 0.0436, 0.0369),
    ),
    "dimenet++-oc20-large": Preset(
        "dimenet++",
        "sizes of the OC20 benchmark's large model; the published forces were taken with angle_grad=False",
        {"width": 512, "n_layers": 3, "readout_width": 384, "element_table": 95},
        forces="conservative",
        learning_rate=1e-4,
        published=_oc20(0.0281, 0.0318, 0.0315, 0.0396, 0.0328),
    ),
    "dimenet++-direct": Preset(
        "dimenet++",
        "sizes of the paper, pair forces in place of an energy",
        {"width": 128, "n_layers": 4, "readout_width": 256, "element_table": 95},
        forces="direct",
        learning_rate=1e-3,
    ),
}


class Interaction(nn.Module):
    """m_ji ← update(m_ji, σ(up Σ_k σ(down (W e_RBF) ∘ σ(W m_kj)) ∘ W a_SBF))."""

    def __init__(
        self,
        width: int,
        triplet_width: int,
        basis_width: int,
        n_spherical: int,
        n_radial: int,
        n_before_skip: int,
        n_after_skip: int,
        radial_filter: RadialFilter,
    ) -> None:
        super().__init__()
        self.radial_filter = radial_filter
        self.filter_in = dense(n_radial, basis_width, bias=False)
        self.filter_out = dense(basis_width, width, bias=False)
        self.triplet_basis = TripletBasis(n_spherical, n_radial, basis_width)
        self.triplet_filter = dense(basis_width, triplet_width, bias=False)
        self.source = dense(width, width)
        self.down = dense(width, triplet_width, bias=False)
        self.up = dense(triplet_width, width, bias=False)
        self.update = MessageUpdate(width, n_before_skip, n_after_skip)

    def forward(self, messages: Tensor, radial: Tensor, spherical: Tensor, meeting: Paths | Turns) -> Tensor:
        """(n_edges, width) → (n_edges, width)."""
        silu = nn.functional.silu
        filters = nn.functional.linear(radial, self.filter_out.weight @ self.filter_in.weight)
        source = silu(self.source(messages))
        if self.radial_filter == "kj":
            source = source * filters
        heard = silu(self.up(self.sums(silu(self.down(source)), spherical, meeting)))
        if self.radial_filter == "ji":
            heard = heard * filters
        updated: Tensor = self.update(messages, heard)
        return updated

    def sums(self, source: Tensor, spherical: Tensor, meeting: Paths | Turns) -> Tensor:
        """Σ_k m_kj ∘ W a_SBF, (n_edges, triplet_width)."""
        if isinstance(meeting, Turns):  # equal, and nothing stands on a triplet
            filters = self.triplet_basis.of_edges(spherical, meeting, self.triplet_filter.weight)
            return meeting.gather(filters * source.unsqueeze(1))
        filters = self.triplet_filter(self.triplet_basis(spherical, meeting))
        return sum_to(meeting.first, source.index_select(0, meeting.second) * filters, len(source))


class DimeNetPlusPlus(DirectionalModel):
    """DimeNet++.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å (5 in the paper, 6 in the OC20 benchmark).
        width: of the messages.
        n_layers: interaction blocks.
        triplet_width: of the messages where they meet under an angle.
        basis_width: hidden size between a basis and what it multiplies.
        readout_width: of the output blocks.
        n_spherical, n_radial: degrees l and radial functions n of the bases.
        envelope_power: p of the envelope.
        n_before_skip, n_after_skip: residual layers of an interaction around its skip connection.
        n_dense: hidden layers of an output block.
        readout_init: how the last matrix of the output blocks starts: at zero, or like the other
            matrices, which the authors prefer for energies.
        basis: radial and spherical bases as the program or as the paper has them.
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
        n_layers: int = 4,
        triplet_width: int = 64,
        basis_width: int = 8,
        readout_width: int = 256,
        n_spherical: int = 7,
        n_radial: int = 6,
        envelope_power: int = 6,
        n_before_skip: int = 1,
        n_after_skip: int = 2,
        n_dense: int = 3,
        readout_init: ReadoutInit = "zeros",
        basis: BasisForm = "code",
        radial_filter: RadialFilter = "kj",
        embedding: EmbeddingForm = "code",
        angle_grad: bool = True,
        element_table: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(DimeNetPlusPlus, forces)
        check_choice("basis", basis, BASIS_FORMS)
        check_choice("radial_filter", radial_filter, RADIAL_FILTERS)
        check_choice("embedding", embedding, EMBEDDING_FORMS)
        check_choice("readout_init", readout_init, READOUT_INITS)
        self.forces = forces
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
            Interaction(
                width,
                triplet_width,
                basis_width,
                n_spherical,
                n_radial,
                n_before_skip,
                n_after_skip,
                radial_filter,
            )
            for _ in range(n_layers)
        )
        if "conservative" in self.heads:
            self.energy_head = nn.ModuleList(
                AtomReadout(width, n_radial, readout_width, n_dense, readout_init)
                for _ in range(n_layers + 1)
            )
        if "direct" in self.heads:
            self.force_head = MessageForces(width, cutoff, envelope_power)

    @property
    def inference_request(self) -> GraphRequest:
        return replace(self.request, triplets=None, reverse=True)

    @property
    def training_request(self) -> GraphRequest:
        return self.inference_request

    def gpu_form(self) -> GpuForm | None:
        return copy.deepcopy(self).requires_grad_(False)

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None or not DimeNetPlusPlusInference.takes(self):
            return None
        with torch.no_grad():
            return DimeNetPlusPlusInference(native, self)
