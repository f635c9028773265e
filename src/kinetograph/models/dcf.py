"""DCF: direct covariant forces from fingerprints and internal axes.

J. P. Mailoa et al., Nat. Mach. Intell. 1, 471 (2019), doi:10.1038/s42256-019-0098-0, arXiv:1905.02791.
Networks that map an atom's environment to the force on it, without derivatives of fingerprints. The method is
the subject of patent US 11,455,439 B2, listed as active: look into that before any commercial use.

==================================  ==============================================================
published                           here
==================================  ==============================================================
{G}, invariant features             ``DCF.fingerprints``, standardised by ``feature_mean`` and
                                    ``feature_std`` of the element of the atom
{A_k}, internal axes                ``internal_axes``: unit vectors to the nearest neighbours
NN1: {G} → projections A_k · F      ``DCF.projections``, one network per element
NN2: (projections, {A_k}) → F       ``DCF.rotation``, one network per element
NN3                                 ``DCF.forward``: NN1 and NN2 one after the other
==================================  ==============================================================

Training has two stages (``DCF.own_loss``): NN1 learns the true projections while NN2 learns, on environments
turned at random, to put true projections together again; then NN3 learns forces as any other model does.

No program is public, and this is a reading of the published idea with details and sizes of our own choice:
the symmetry functions of Behler and Parrinello on a grid that follows from the cutoff and the shortest
distance of the training data, networks of two hidden layers with tanh, six axes, absolute errors in the loss.
Where an atom has fewer neighbours, the axes that it lacks are zero, and so are their projections. Where
neighbours tie, the axis of each is the mean of their unit vectors: no order of the atoms decides.

Two forms, chosen by ``form``:

``"network"``
    the published one. Components of the axes pass through a network, so forces turn with the structure only
    as far as NN2 has learned it from random rotations.
``"least-squares"``
    ours: in place of NN2 the force that fits the projections best, F = argmin Σ_k (A_k · F − p_k)² + ε F². It
    turns with the structure exactly. Axes that span a plane or a line leave the rest of the force
    undetermined, and the ridge ε makes it zero: in a flat molecule so does symmetry, elsewhere it is wrong.
    The ridge also shrinks the force by the factor λ/(λ + ε) along a direction in which the squared components
    of the axes add up to λ, which NN1 makes up for in the second stage.

In both forms axes jump when neighbours swap places in the order of distance, and forces with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from kinetograph.graph import TIE_TOLERANCE_A, Graph, GraphRequest
from kinetograph.kernels.operators.edges import first_edges
from kinetograph.nn.elements import ElementSlots
from kinetograph.nn.fingerprints import SymmetryFunctions
from kinetograph.nn.mlp import mlp
from kinetograph.nn.model import (
    COVARIANT,
    Forces,
    Head,
    Model,
    Offer,
    Outputs,
    Preset,
    Published,
    check_choice,
    option_key,
    require_offer,
)
from kinetograph.nn.segments import sum_to
from kinetograph.rotations import rotations_of

Form = Literal["network", "least-squares"]

_SOURCE = "DCF as compared with in GNNFF, npj Comput. Mater. 7, 73 (2021)"
_RELATIVE = "mean norm of the force error over mean norm of the force"

PRESETS = {
    "dcf": Preset(
        "dcf",
        "two networks in sequence, as published, sizes of our choice; patented in the US, see NOTICE",
        {"form": "network", "width": 64, "n_layers": 2, "n_axes": 6},
        learning_rate=1e-3,
        published=tuple(
            Published(f"{material}, {element}, {_RELATIVE}", value, "%", _SOURCE)
            for material, values in (
                ("Li4P2O7", {"Li": 37, "O": 25, "P": 40}),
                ("Al2O3-HF", {"Al": 33, "F": 22, "H": 22, "O": 35}),
            )
            for element, value in values.items()
        ),
    ),
    "dcf-covariant": Preset(
        "dcf",
        "the force that fits the projections best: turns exactly; see NOTICE on a patent",
        {"form": "least-squares", "width": 64, "n_layers": 2, "n_axes": 6},
        learning_rate=1e-3,
    ),
}

LEAST_SPREAD = 1e-4
"""A feature that varies less than this over the training data is left unscaled."""


class NetworkPerElement(nn.Module):
    """For each element a multi-layer perceptron of its own."""

    def __init__(self, n_elements: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.n_out = widths[-1]
        self.networks = nn.ModuleList(mlp(widths, nn.Tanh) for _ in range(n_elements))

    def forward(self, x: Tensor, slot: Tensor) -> Tensor:
        """(n_atoms, widths[0]), (n_atoms,) places of the elements → (n_atoms, widths[-1])."""
        out = x.new_zeros(len(x), self.n_out)
        for element, network in enumerate(self.networks):
            rows = torch.nonzero(slot == element)[:, 0]
            out = out.index_copy(0, rows, network(x[rows]))
        return out


def internal_axes(graph: Graph, n_axes: int) -> tuple[Tensor, Tensor]:
    """Unit vectors to the nearest neighbours of each atom, in the order of their distance.

    The axis of a place is the mean over all neighbours as far as the one in that place, within the tolerance.

    Returns:
        axes (n_atoms, n_axes, 3), zero where there is no neighbour; (n_atoms, n_axes) whether there is one.
    """
    center, distances = graph.center, graph.distances
    order = torch.argsort(distances, stable=True)
    order = order[torch.argsort(center[order], stable=True)]
    rank = torch.arange(graph.n_edges, device=center.device) - first_edges(center, graph.n_atoms)[center]
    among = rank < n_axes
    place = distances.new_full((graph.n_atoms, n_axes), torch.inf)
    place[center[among], rank[among]] = distances[order[among]]
    tied = ((distances.unsqueeze(1) - place[center]).abs() <= TIE_TOLERANCE_A).to(distances.dtype)
    total = sum_to(center, tied.unsqueeze(2) * graph.unit_vectors.unsqueeze(1), graph.n_atoms)
    number = sum_to(center, tied, graph.n_atoms)
    return total / number.clamp(min=1.0).unsqueeze(2), torch.isfinite(place)


class DCF(Model):
    """DCF in one of its two forms.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Å, of the fingerprints and of the neighbours that give axes.
        form: see the module's docstring.
        width: size of the hidden layers of each network.
        n_layers: hidden layers of each network.
        n_axes: internal axes of an atom.
        n_radial: radial fingerprints for each element.
        zetas: sharpness of the angular fingerprints, each at least 1.
        n_angular: ranges of the angular fingerprints.
        ridge: ε of the least squares, ``form="least-squares"`` only.
        apart: share of the training in which NN1 and NN2 learn apart.
    """

    OFFERS: ClassVar[Mapping[Head, Offer]] = {
        "direct": Offer("native"),
        "conservative": Offer(
            "not offered",
            "it predicts projections of the force on internal axes, which jump when two neighbours swap "
            "places, and an energy read off them would jump too",
        ),
    }

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        *,
        cutoff: float,
        forces: Forces = "direct",
        form: Form = "network",
        width: int = 64,
        n_layers: int = 2,
        n_axes: int = 6,
        n_radial: int = 16,
        zetas: Sequence[float] = (1.0, 2.0, 4.0, 16.0),
        n_angular: int = 2,
        ridge: float = 1e-2,
        apart: float = 0.5,
    ) -> None:
        super().__init__()
        require_offer(DCF, forces)
        check_choice("form", form, ("network", "least-squares"))
        if n_axes < 1 or n_layers < 1 or not ridge > 0.0 or not 0.0 <= apart <= 1.0:
            raise ValueError("n_axes and n_layers must be at least 1, ridge positive, apart between 0 and 1")
        self.forces = forces
        self.form = form
        self.n_axes = n_axes
        self.ridge = ridge
        self.apart = apart
        self.request = GraphRequest(cutoff=cutoff, triplets="fork")

        self.slots = ElementSlots(elements)
        n_elements = self.slots.n_elements
        self.fingerprints = SymmetryFunctions(
            elements, cutoff=cutoff, n_radial=n_radial, zetas=zetas, n_angular=n_angular
        )
        n_features = self.fingerprints.n_features
        # Over the training data, by element of the atom.
        self.register_buffer("feature_mean", torch.zeros(n_elements, n_features))
        self.register_buffer("feature_std", torch.ones(n_elements, n_features))

        hidden = [width] * n_layers
        self.projections = NetworkPerElement(n_elements, [n_features, *hidden, n_axes])  # NN1
        if form == "network":
            self.rotation = NetworkPerElement(n_elements, [n_axes + 3 * n_axes, *hidden, 3])  # NN2

    @property
    def exact(self) -> Mapping[Head, frozenset[str]]:
        learned = frozenset({"translation", "permutation"})
        return {"direct": COVARIANT if self.form == "least-squares" else learned}

    def forward(self, graph: Graph, heads: tuple[Head, ...]) -> Outputs:
        axes, there = internal_axes(graph, self.n_axes)
        return Outputs(forces=self.compose(self.project(graph, there), axes, there, graph))

    def project(self, graph: Graph, there: Tensor) -> Tensor:
        """NN1: (n_atoms, n_axes) what the force on an atom projects to on each of its axes; invariant."""
        slot = self.slots(graph.atomic_numbers)
        features = (self.fingerprints(graph) - self.feature_mean[slot]) / self.feature_std[slot]
        projections: Tensor = self.projections(features, slot)
        return projections * there

    def compose(self, projections: Tensor, axes: Tensor, there: Tensor, graph: Graph) -> Tensor:
        """NN2, or the least squares in its place: (n_atoms, 3) the forces with these projections."""
        if self.form == "least-squares":
            ridge = self.ridge * torch.eye(3, dtype=axes.dtype, device=axes.device)
            right = axes.transpose(1, 2) @ projections.unsqueeze(2)
            fitted: Tensor = torch.linalg.solve(axes.transpose(1, 2) @ axes + ridge, right)
            return fitted[:, :, 0]
        inputs = torch.cat([projections, axes.flatten(1)], dim=1)
        forces: Tensor = self.rotation(inputs, self.slots(graph.atomic_numbers))
        return forces * there.any(dim=1, keepdim=True)  # nothing acts on an isolated atom

    def own_loss(self, graph: Graph, forces: Tensor, progress: float) -> Tensor | None:
        """NN1 on true projections and NN2 on environments turned at random; ``None`` in the second stage."""
        if progress >= self.apart:
            return None
        axes, there = internal_axes(graph, self.n_axes)
        forces = forces.to(axes.dtype)
        true = (axes * forces.unsqueeze(1)).sum(dim=2)
        error = (self.project(graph, there) - true).abs()  # both are zero where there is no axis
        loss = error.sum() / there.sum().clamp(min=1)
        if self.form == "network":
            quaternions = torch.randn(graph.n_atoms, 4, dtype=axes.dtype, device=axes.device)
            turn = rotations_of(quaternions).transpose(1, 2)  # of a row vector
            turned = (forces.unsqueeze(1) @ turn)[:, 0]
            composed = self.compose(true, axes @ turn, there, graph)
            loss = loss + (composed - turned).abs().mean()
        return loss

    def fit_statistics(self, graphs: Iterable[Graph], forces: Iterable[Tensor]) -> None:
        """Start the radial fingerprints at the shortest distance, then take the features' mean and spread."""
        nearest = min((float(g.distances.min()) for g in graphs if g.n_edges), default=None)
        if nearest is not None:
            self.fingerprints.shortest.fill_(min(nearest, 0.5 * self.request.cutoff))
        shape = self.feature_mean.shape
        sums = torch.zeros(2, *shape, dtype=torch.float64, device=self.feature_mean.device)
        count = sums.new_zeros(shape[0], 1)
        most = 0
        with torch.no_grad():
            for graph in graphs:
                slot = self.slots(graph.atomic_numbers)
                features = self.fingerprints(graph).double()
                sums += torch.stack([sum_to(slot, features, shape[0]), sum_to(slot, features**2, shape[0])])
                count += sum_to(slot, features.new_ones(len(slot), 1), shape[0])
                if graph.n_edges:
                    most = max(most, int(torch.bincount(graph.center).max()))
        if 0 < most < self.n_axes:
            warnings.warn(
                f"no atom of the training frames has more neighbours within {self.request.cutoff:g} Å than "
                f"{most}: all further axes ({option_key('n_axes')} is {self.n_axes}) are zero in them",
                UserWarning,
                stacklevel=2,
            )
        mean, square = sums / count.clamp(min=1.0)
        spread = (square - mean.square()).clamp(min=0.0).sqrt()
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(spread > LEAST_SPREAD, spread, 1.0))
