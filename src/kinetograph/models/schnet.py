"""SchNet: continuous-filter convolutions on interatomic distances.

K. T. Schütt, P.-J. Kindermans, H. E. Sauceda, S. Chmiela, A. Tkatchenko, K.-R. Müller, NIPS 2017,
arXiv:1706.08566; K. T. Schütt, H. E. Sauceda, P.-J. Kindermans, A. Tkatchenko, K.-R. Müller,
J. Chem. Phys. 148, 241722 (2018), doi:10.1063/1.5019779. An energy from distances alone; forces are
its gradient.

==================================  ==============================================================
paper                               here
==================================  ==============================================================
x_i, atom features, eq. (3)         ``nodes`` (n_atoms, width), first ``SchNet.embedding``
e_k(d) = exp(−γ (d − μ_k)²)         ``SchNet.basis``, γ = 1/(2 Δμ²), centres from 0 to the cutoff
ssp(x) = ln(½ eˣ + ½)               ``ShiftedSoftplus``
W(d), filter-generating network     ``Interaction.filter``: linear, ssp, linear
atom-wise layer before the sum      ``Interaction.to_filters``, without bias
cfconv, Σ_j x_j ∘ W(d_ij), eq. (2)  ``Interaction``: an index sum over centres
atom-wise, ssp, atom-wise           ``Interaction.after``
atom-wise, ssp, atom-wise, sum      ``SchNet.energy_head``, whose hidden layer is half as wide
==================================  ==============================================================

``cutoff_function="cosine"`` multiplies the filters by ½ [cos(π d/c) + 1], as both widely used programs
(SchNetPack, PyTorch Geometric) do: forces are then continuous where atoms cross the cutoff, their
derivatives are not. ``"none"`` is the form without a cutoff function, meant for cutoffs beyond the
diameter of a molecule. Weights start from Xavier's uniform distribution and biases from zero. With 128
features, six interactions, 50 Gaussians and a table of 100 elements it has the 455,809 parameters of
PyTorch Geometric's default. That program keeps at most 32 neighbours of an atom unless told
otherwise, and the recipes of OC20 keep 50; here every neighbour within the cutoff counts.

Ours: direct forces, a learned scalar on every edge along its direction, from the final features of
both ends and the Gaussians of the distance. This is the form that the gradient of a pair energy has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from kinetograph.errors import UserError
from kinetograph.graph import Graph, GraphRequest
from kinetograph.kernels import library
from kinetograph.kernels.spline import SHORTEST_A
from kinetograph.nn.activations import ShiftedSoftplus
from kinetograph.nn.elements import ElementEmbedding
from kinetograph.nn.heads import EdgeForceHead, EnergyHead
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import (
    GRADIENT,
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
    md17,
    option_key,
    require_offer,
)
from kinetograph.nn.radial import GaussianBasis, cosine_cutoff
from kinetograph.nn.segments import sum_to
from kinetograph.running.schnet import SchNetInference, SchNetOnGpu

CutoffFunction = Literal["cosine", "none"]

_DEFAULT_SIZE = {"width": 128, "n_layers": 6, "n_radial": 50, "element_table": 100}
_OC20_SOURCE = "ForceNet, arXiv:2103.01436, table 1"

PRESETS = {
    "schnet": Preset(
        "schnet",
        "128 features, 6 interactions: the default of PyTorch Geometric",
        _DEFAULT_SIZE,
        forces="conservative",
        learning_rate=5e-4,
        published=md17(
            "PaiNN, ICML 2021, as quoted in the open review of NeurIPS 2023, submission 11322",
            {
                "aspirin": 58.5,
                "ethanol": 16.9,
                "malonaldehyde": 28.6,
                "naphthalene": 25.2,
                "salicylic acid": 36.9,
                "toluene": 24.7,
                "uracil": 24.3,
            },
            "of the paper's network",
        ),
    ),
    "schnet-oc20": Preset(
        "schnet",
        "1024 features, 256 filters, 5 interactions: the Open Catalyst baseline (cutoff 6 Å)",
        {"width": 1024, "n_filters": 256, "n_layers": 5, "n_radial": 200, "element_table": 100},
        forces="conservative",
        learning_rate=1e-4,
        published=(
            Published("parameters", 9.1, "million", _OC20_SOURCE),
            Published("OC20 S2F val ID, force MAE", 0.0443, "eV/Å", _OC20_SOURCE),
            Published("OC20 S2F val OOD adsorbate, force MAE", 0.0514, "eV/Å", _OC20_SOURCE),
            Published("OC20 S2F val OOD catalyst, force MAE", 0.0465, "eV/Å", _OC20_SOURCE),
            Published("OC20 S2F val OOD both, force MAE", 0.0618, "eV/Å", _OC20_SOURCE),
            Published("OC20 S2F val average, force MAE", 0.0510, "eV/Å", _OC20_SOURCE),
        ),
    ),
    "schnet-mdsim": Preset(
        "schnet",
        "64 features, 6 interactions: the baseline of 'Forces are not enough' (cutoff 5 Å, water 6 Å)",
        {"width": 64, "n_layers": 6, "n_radial": 25, "element_table": 100},
        forces="conservative",
        learning_rate=1e-3,
    ),
    "schnet-direct": Preset(
        "schnet",
        "the default size with direct forces",
        _DEFAULT_SIZE,
        forces="direct",
        learning_rate=5e-4,
    ),
}


class Interaction(nn.Module):
    """A continuous-filter convolution between atom-wise layers; returns what is added to the features."""

    def __init__(self, width: int, n_filters: int, n_radial: int) -> None:
        super().__init__()
        self.to_filters = nn.Linear(width, n_filters, bias=False)
        self.filter = mlp([n_radial, n_filters, n_filters], ShiftedSoftplus)
        self.after = mlp([n_filters, width, width], ShiftedSoftplus)

    def forward(self, nodes: Tensor, radial: Tensor, envelope: Tensor | None, graph: Graph) -> Tensor:
        weight = self.weights(radial, envelope)
        sent = self.to_filters(nodes).index_select(0, graph.neighbor)
        change: Tensor = self.after(sum_to(graph.center, sent * weight, graph.n_atoms))
        return change

    def weights(self, radial: Tensor, envelope: Tensor | None) -> Tensor:
        """W(d), (n_edges, n_filters)."""
        weight: Tensor = self.filter(radial)
        return weight if envelope is None else weight * envelope.unsqueeze(1)


class SchNet(Model):
    """SchNet with atom-wise energies, direct edge forces, or both.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å.
        width: size of the atom features; at least two.
        n_filters: size of the convolution; as wide as the features unless given.
        n_layers: interaction blocks.
        n_radial: Gaussians of the distance, from zero to the cutoff; at least two.
        cutoff_function: see the module's docstring.
        element_table: rows of the table of elements, of which row 0 belongs to none; by default one
            row for each of ``elements``.

    Raises:
        UserError: fewer than two features or Gaussians, or an unknown cutoff function.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "conservative": Offer("native"),
        "direct": Offer("extended", "a scalar on every edge along its direction, from the final features"),
    }

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "conservative",
        width: int = 128,
        n_filters: int | None = None,
        n_layers: int = 6,
        n_radial: int = 50,
        cutoff_function: CutoffFunction = "cosine",
        element_table: int | None = None,
    ) -> None:
        super().__init__()
        require_offer(SchNet, forces)
        if width < 2:
            raise UserError(f"SchNet needs at least two features, not {width}", where=option_key("width"))
        if n_radial < 2:
            raise UserError(
                f"SchNet needs at least two Gaussians, not {n_radial}", where=option_key("n_radial")
            )
        check_choice("cutoff_function", cutoff_function, ("cosine", "none"))
        self.forces = forces
        self.cutoff_function = cutoff_function
        # The edge head reads features of both ends, so a direct force sees one cutoff farther.
        n_steps = n_layers + 1 if "direct" in self.heads else n_layers
        self.request = GraphRequest(cutoff=cutoff, n_layers=n_steps)

        self.basis = GaussianBasis(0.0, cutoff, n_radial)
        self.embedding = ElementEmbedding(elements, width, table=element_table)
        self.interactions = nn.ModuleList(
            Interaction(width, n_filters or width, n_radial) for _ in range(n_layers)
        )
        if "conservative" in self.heads:
            self.energy_head = EnergyHead(width, width // 2, ShiftedSoftplus)
        if "direct" in self.heads:
            self.force_head = EdgeForceHead(width, n_radial, width)
        self.apply(_start)

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        smooth = {"smoothness"} if self.cutoff_function == "cosine" else set()
        exact: dict[Head, frozenset[str]] = {
            "direct": EdgeForceHead.exact | smooth,
            "conservative": GRADIENT | smooth,
        }
        return {head: exact[head] for head in self.heads}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        nodes = self.embedding(graph.atomic_numbers)
        radial, envelope = self.of_distances(graph.distances)
        for interaction in self.interactions:
            nodes = nodes + interaction(nodes, radial, envelope, graph)
        return Outputs(
            energies=self.energy_head(nodes) if "conservative" in heads else None,
            forces=self.force_head(nodes, radial, graph, envelope) if "direct" in heads else None,
        )

    def of_distances(self, distances: Tensor) -> tuple[Tensor, Tensor | None]:
        """Radial functions (n, n_radial) and the cutoff function (n,), if there is one."""
        if self.cutoff_function == "none":
            return self.basis(distances), None
        return self.basis(distances), cosine_cutoff(distances, self.request.cutoff)

    def inference_form(self) -> InferenceForm | None:
        native = library()
        if native is None or self.request.cutoff <= SHORTEST_A:
            return None
        return SchNetInference(native, self)

    def gpu_form(self) -> GpuForm | None:
        return None if self.request.cutoff <= SHORTEST_A else SchNetOnGpu(self)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
