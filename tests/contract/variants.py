"""Every form of every architecture, in sizes for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import ARCHITECTURES, PRESETS, build
from kinetograph.models.forcenet import ABLATIONS
from kinetograph.nn.model import Forces, Head
from kinetograph.testing import randomize

ELEMENTS = (1, 6, 8)


@dataclass(frozen=True)
class Variant:
    """An architecture with options that change what it computes."""

    architecture: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    forces: tuple[Forces, ...] = ("direct",)
    """What to build it for; the first is the one that the fast tests take."""
    cutoff: float = 3.6
    slow: bool = False
    """Whether all of it is left to the slow tests."""
    idle: tuple[str, ...] = ()
    """Beginnings of the names of parameters that nothing depends on, known and accepted."""


CONSERVATIVE: tuple[Forces, ...] = ("conservative",)
ALL: tuple[Forces, ...] = ("both", "direct", "conservative")

ENDS_HAVE_4_A = 4.6
"""Å: a cutoff within which every atom of the structures has four neighbours."""

SMALL_DIMENET = {"width": 8, "n_layers": 1, "n_spherical": 4, "n_radial": 3, "n_dense": 1}
PAPER_DIMENET = {"basis": "paper", "radial_filter": "ji", "embedding": "paper"}
SMALL_DIMENET_PP = {**SMALL_DIMENET, "triplet_width": 6, "basis_width": 4, "readout_width": 10}
SMALL_GEMNET = {
    "width": 8,
    "edge_width": 8,
    "n_layers": 1,
    "triplet_width": 5,
    "quadruplet_width": 4,
    "rbf_width": 4,
    "cbf_width": 4,
    "sbf_width": 5,
    "triplet_bilinear": 6,
    "quadruplet_bilinear": 3,
    "n_spherical": 3,
    "n_radial": 3,
    "n_atom": 1,
}
SMALL_DCF = {"width": 8, "n_axes": 4, "n_radial": 4, "zetas": [1.0, 4.0]}
SMALL_GEMNET_Q = {**SMALL_GEMNET, "quadruplets": True, "link_cutoff": 3.4}
SMALL_FORCENET = {"width": 10, "n_layers": 2}
SMALL_GNNFF = {"width": 10, "edge_width": 8, "n_layers": 2, "nearest_required": False}

VARIANTS = (
    Variant("gamd", "paper", {"form": "paper", "width": 10, "n_layers": 2}),
    Variant(
        "gamd",
        "paper-bonds",
        {"form": "paper", "width": 10, "n_layers": 2, "max_bond_separation": 2},
        slow=True,
    ),
    Variant("gamd", "code", {"form": "code", "width": 10, "n_layers": 2, "max_bond_separation": 1}),
    Variant(
        "gamd", "code-hidden", {"form": "code", "width": 12, "hidden_width": 7, "n_layers": 2}, slow=True
    ),
    Variant("gamd", "covariant", {"form": "covariant", "width": 10, "n_layers": 2}),
    Variant(
        "gamd",
        "covariant-bonds",
        {"form": "covariant", "width": 10, "n_layers": 2, "max_bond_separation": 2},
        slow=True,
    ),
    Variant("painn", "paper", {"width": 8, "n_layers": 2, "n_radial": 6}, ALL),
    Variant(
        "painn",
        "gated-gaussian",
        {
            "width": 8,
            "n_layers": 2,
            "n_radial": 8,
            "radial": "gaussian",
            "cutoff_function": "polynomial",
            "force_head": "gated",
            "max_bond_separation": 1,
        },
        ALL,
        slow=True,
    ),
    Variant("gnnff", "paper", {**SMALL_GNNFF, "n_neighbors": 4}, cutoff=ENDS_HAVE_4_A),
    Variant("gnnff", "radius", {**SMALL_GNNFF, "neighborhood": "radius"}, slow=True),
    Variant("gnnff", "smooth", SMALL_GNNFF, ("both", "conservative")),
    Variant(
        "gnnff",
        "nearest-normalised",
        {**SMALL_GNNFF, "n_neighbors": 4, "normalization": "all", "way_back": False, "force_network": "even"},
        cutoff=ENDS_HAVE_4_A,
        slow=True,
    ),
    Variant(
        "gnnff",
        "old-nodes",
        {**SMALL_GNNFF, "n_neighbors": 4, "updated_nodes": False, "normalization": "sums"},
        cutoff=ENDS_HAVE_4_A,
        slow=True,
        idle=("model.node_blocks.1",),  # the last edges are made of the nodes before the last
    ),
    *(
        Variant(
            "gnnff",
            name.removeprefix("gnnff-"),
            {**PRESETS[name].hyperparameters, "width": 10, "edge_width": 8, "n_layers": 2},
            slow=True,
        )
        for name in ("gnnff-code", "gnnff-pyg")
    ),
    Variant("dimenet", "code", {**SMALL_DIMENET, "n_bilinear": 3}, ("both", "conservative")),
    Variant(
        "dimenet",
        "original-angle",
        {**SMALL_DIMENET, "n_bilinear": 3, "angle": "original", **PAPER_DIMENET},
        CONSERVATIVE,
        slow=True,
    ),
    Variant(
        "dimenet",
        "fixed-angles",
        {**SMALL_DIMENET, "n_bilinear": 3, "angle_grad": False},
        CONSERVATIVE,
        slow=True,
    ),
    Variant("dimenet++", "code", SMALL_DIMENET_PP, ("both", "conservative")),
    Variant(
        "dimenet++", "paper", {**SMALL_DIMENET_PP, "basis": "paper"}, ("both", "conservative"), slow=True
    ),
    Variant("schnet", "paper", {"width": 8, "n_layers": 2, "n_radial": 8}, ALL),
    Variant(
        "schnet",
        "hard",
        {"width": 8, "n_layers": 2, "n_radial": 8, "cutoff_function": "none"},
        ALL,
        slow=True,
    ),
    Variant("dcf", "network", SMALL_DCF),
    Variant("dcf", "least-squares", {**SMALL_DCF, "form": "least-squares"}, slow=True),
    Variant("gemnet", "t", SMALL_GEMNET, ("both", "direct", "conservative")),
    Variant("gemnet", "t-separate-energy", {**SMALL_GEMNET, "separate_energy": True}, ("direct",), slow=True),
    Variant("gemnet", "t-coupled", {**SMALL_GEMNET, "forces_coupled": True}, ("direct",), slow=True),
    Variant("gemnet", "q", SMALL_GEMNET_Q, ("both", "direct", "conservative"), cutoff=2.8, slow=True),
    Variant(
        "gemnet", "q-coupled", {**SMALL_GEMNET_Q, "forces_coupled": True}, ("direct",), cutoff=2.8, slow=True
    ),
    Variant("forcenet", "paper", SMALL_FORCENET),
    Variant(
        "forcenet",
        "code",
        {**SMALL_FORCENET, "form": "code", "shared_basis": False, "decoder_layer": True, "max_neighbors": 6},
        slow=True,
    ),
    *(
        Variant("forcenet", basis, {**SMALL_FORCENET, "basis": basis, "activation": "relu"}, slow=True)
        for basis in ("none", "identity", "linear", "gaussian", "sine")
    ),
    *(
        Variant("forcenet", ablation.replace(" ", "-"), {**SMALL_FORCENET, "ablation": ablation}, slow=True)
        for ablation in ABLATIONS
    ),
    Variant("gns", "baseline", {"width": 10, "n_layers": 2}),
    Variant("gns", "original", {"width": 10, "n_layers": 2, "form": "original"}, slow=True),
    Variant("gns", "capped", {"width": 10, "n_layers": 2, "max_neighbors": 6}, slow=True),
    Variant("median", "one", {}),
    Variant("median", "per-element", {"per_element": True}, slow=True),
)


def registered() -> list[Variant]:
    """Those whose architecture is there."""
    return [variant for variant in VARIANTS if variant.architecture in ARCHITECTURES]


@dataclass(frozen=True)
class Case:
    """A variant built for one kind of forces, answering with one head, in one type."""

    variant: Variant
    forces: Forces
    head: Head
    dtype: Literal["float64", "float32"]

    @property
    def name(self) -> str:
        head = f"both:{self.head}" if self.forces == "both" else self.head
        return f"{self.variant.architecture}-{self.variant.name}-{head}-{self.dtype}"

    @property
    def slow(self) -> bool:
        """Daily tests take the main forms of an architecture, for one kind of forces, in double precision."""
        first = self.forces == self.variant.forces[0]
        return self.variant.slow or not first or self.dtype == "float32"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {**self.variant.options, "cutoff": self.variant.cutoff, "forces": self.forces}

    def make(self) -> LearnedPotential:
        """Fresh, in single precision."""
        torch.manual_seed(3)
        return build(self.variant.architecture, ELEMENTS, self.hyperparameters)

    def build(self) -> LearnedPotential:
        """With every weight and statistic random, the same in both types."""
        potential = self.make()
        randomize(potential)
        potential.use_forces(self.head)
        return potential.to(dtype=getattr(torch, self.dtype)).eval()


def cases() -> list[Case]:
    made = []
    for variant in registered():
        for forces in variant.forces:
            heads: tuple[Head, ...] = ("conservative", "direct") if forces == "both" else (forces,)
            for head in heads:
                made += [Case(variant, forces, head, "float64"), Case(variant, forces, head, "float32")]
    return made
