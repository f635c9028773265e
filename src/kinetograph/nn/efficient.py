"""Building blocks of GemNet: layers without biases, fitted scale factors, the efficient bilinear layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kinetograph.graph import Graph, Links
from kinetograph.nn.other_edges import OtherEdges
from kinetograph.nn.segments import sum_to
from kinetograph.triplets import Quadruplets, Triplets

SILU_GAIN = 1.0 / 0.6
"""SiLU of a standard normal number has a root mean square of about 0.6; this gives it back its size."""

INV_SQRT_2 = math.sqrt(0.5)
"""The sum of two independent things of one variance, times this, has that variance again."""


# ---- layers without biases ---------------------------------------------------------------------------


def scaled_silu(x: Tensor) -> Tensor:
    """SiLU(x) / 0.6."""
    return nn.functional.silu(x) * SILU_GAIN


def he_orthogonal(weight: Tensor, inputs: tuple[int, ...] = (1,)) -> None:
    """Fill a weight with orthogonal entries, standardised over the inputs of each output, of variance 1/n_in.

    Args:
        weight: any shape of two dimensions or more.
        inputs: the dimensions that are summed over where the weight is applied.
    """
    n_in = math.prod(weight.shape[dim] for dim in inputs)
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        if n_in > 1:  # a single input has no spread to standardise
            weight -= weight.mean(dim=inputs, keepdim=True)
            weight /= torch.sqrt(weight.var(dim=inputs, keepdim=True) + 1e-6)
        weight *= n_in**-0.5


class Dense(nn.Module):
    """x → W x, or σ(W x) with σ = SiLU / 0.6. No bias: what is zero stays zero."""

    def __init__(self, n_in: int, n_out: int, *, activated: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.activated = activated
        he_orthogonal(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in) → (n, n_out)."""
        y = nn.functional.linear(x, self.weight)
        return scaled_silu(y) if self.activated else y


class ScaledResidual(nn.Module):
    """(x + σ(W₂ σ(W₁ x))) / √2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Dense(width, width, activated=True)
        self.second = Dense(width, width, activated=True)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.second(self.first(x))
        return (x + inner) * INV_SQRT_2


def residuals(width: int, n: int) -> nn.Sequential:
    """``n`` scaled residual layers, one after the other."""
    return nn.Sequential(*(ScaledResidual(width) for _ in range(n)))


# ---- scale factors -----------------------------------------------------------------------------------


class ScaleFactor(nn.Module):
    """x → s x, where s is fitted once to data so that s x has the variance of a reference, then kept.

    Variance: that of each feature over all rows, averaged over the features.
    """

    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))
        self.fitting = False

    def forward(self, x: Tensor, reference: Tensor, rows: Tensor | None = None) -> Tensor:
        """(n, width) → (n, width).

        Args:
            reference: (n', width') whose variance is aimed at.
            rows: what rows of it, with repetitions; ``None``: all, once.
        """
        if self.fitting:
            self._fit(x, reference if rows is None else reference[rows])
        return x * self.factor

    def _fit(self, x: Tensor, reference: Tensor) -> None:
        if len(x) < 2 or len(reference) < 2:
            return
        variance, aim = x.var(dim=0).mean(), reference.var(dim=0).mean()
        if bool(variance > 0) and bool(aim > 0):
            self.factor.copy_(torch.sqrt(aim / variance))


@contextmanager
def fitting_scales(model: nn.Module) -> Iterator[None]:
    """Within, the scale factors of a model fit themselves to what passes through.

    A site that data pass is fitted before the data go on, so one pass fits all sites in their order.
    """
    sites = [module for module in model.modules() if isinstance(module, ScaleFactor)]
    for site in sites:
        site.fitting = True
    try:
        with torch.no_grad():
            yield
    finally:
        for site in sites:
            site.fitting = False


def joined(graphs: Sequence[Graph]) -> Graph:
    """One graph of several: edges, their reverses, triplets, links and quadruplets."""

    def offsets(counts: Iterable[int]) -> list[int]:
        total = [0]
        for count in counts:
            total.append(total[-1] + count)
        return total

    atom, edge = offsets(g.n_atoms for g in graphs), offsets(g.n_edges for g in graphs)
    system = offsets(g.n_systems for g in graphs)
    link = offsets(0 if g.links is None else len(g.links.center) for g in graphs)

    def together(parts: Iterable[Tensor], shifts: Sequence[int] | None = None) -> Tensor:
        if shifts is None:
            return torch.cat(list(parts))
        return torch.cat([part + shift for part, shift in zip(parts, shifts, strict=False)])

    if any(g.triplets is None for g in graphs):
        raise ValueError("a graph without a list of triplets")
    reverses = [g.reverse for g in graphs if g.reverse is not None]
    triplets = [g.triplets for g in graphs if g.triplets is not None]
    links = [g.links for g in graphs if g.links is not None]
    chains = [g.quadruplets for g in graphs if g.quadruplets is not None]
    return Graph(
        atomic_numbers=together(g.atomic_numbers for g in graphs),
        system_index=together((g.system_index for g in graphs), system),
        n_systems=system[-1],
        center=together((g.center for g in graphs), atom),
        neighbor=together((g.neighbor for g in graphs), atom),
        edge_vectors=together(g.edge_vectors for g in graphs),
        distances=together(g.distances for g in graphs),
        reverse=together(reverses, edge),
        triplets=Triplets(
            first=together((t.first for t in triplets), edge),
            second=together((t.second for t in triplets), edge),
        ),
        links=Links(
            center=together((k.center for k in links), atom),
            neighbor=together((k.neighbor for k in links), atom),
            vectors=together(k.vectors for k in links),
            distances=together(k.distances for k in links),
        )
        if links
        else None,
        quadruplets=Quadruplets(
            target=together((q.target for q in chains), edge),
            link=together((q.link for q in chains), link),
            source=together((q.source for q in chains), edge),
        )
        if chains
        else None,
    )


# ---- angles ------------------------------------------------------------------------------------------


def degree_of(n_l: int) -> list[int]:
    """The degree l of each of the n_l² harmonics of :func:`real_harmonics`."""
    return [l for l in range(n_l) for _ in range(2 * l + 1)]


def real_harmonics(x: Tensor, y: Tensor, z: Tensor, n_l: int) -> Tensor:
    """(n, n_l²): real Y_lm of the unit vector (x, y, z); of each degree m = 0, 1 … l, −l … −1.

    With z = cos θ, x = sin θ cos φ and y = sin θ sin φ; Y_lm is √2 K_lm P_lm(cos θ) cos mφ for m > 0 and the
    same with sin |m|φ for m < 0, without the sign (−1)^m of Condon and Shortley. sin^mθ cos mφ and
    sin^mθ sin mφ are the parts of (x + i y)^m, so neither an angle nor a root is formed.
    """
    real, imaginary = [torch.ones_like(x)], [torch.zeros_like(x)]
    for m in range(1, n_l):
        real.append(x * real[m - 1] - y * imaginary[m - 1])
        imaginary.append(x * imaginary[m - 1] + y * real[m - 1])
    columns: dict[tuple[int, int], Tensor] = {}
    for m in range(n_l):
        # Q_lm = P_lm / sin^mθ: (l−m) Q_lm = (2l−1) z Q_(l−1)m − (l+m−1) Q_(l−2)m from Q_mm = (2m−1)!!
        below, here = torch.zeros_like(z), torch.full_like(z, math.prod(range(1, 2 * m, 2)))
        for l in range(m, n_l):
            if l > m:
                below, here = here, ((2 * l - 1) * z * here - (l + m - 1) * below) / (l - m)
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m))
            scaled = here * (norm * (math.sqrt(2.0) if m else 1.0))
            columns[l, m] = scaled * real[m]
            if m:
                columns[l, -m] = scaled * imaginary[m]
    orders = [(l, m) for l in range(n_l) for m in (*range(l + 1), *range(-l, 0))]
    return torch.stack([columns[key] for key in orders], dim=1)


# ---- the bilinear layer ------------------------------------------------------------------------------


class NeighborSum:
    """Σ_t Y_t ⊗ x_source(t) over the entries t of each target, for angular functions Y and any messages x.

    The entries of a target are laid in rows of ``length`` places, the last one filled up with zeros, and
    each row is one product of two matrices: no outer product of an entry is ever stored, and unlike in a
    table as wide as the largest neighbourhood at most ``length − 1`` places of a target are empty.

    Args:
        angular: (n_entries, n_angular) Y.
        target: (n_entries,) ascending.
        source: (n_entries,) rows of the messages.
        n_targets: number of targets, those without entries included.
    """

    def __init__(
        self, angular: Tensor, target: Tensor, source: Tensor, n_targets: int, *, length: int = 16
    ) -> None:
        count = torch.bincount(target, minlength=n_targets)
        n_rows = (count + length - 1) // length
        first_entry, first_row = torch.cumsum(count, 0) - count, torch.cumsum(n_rows, 0) - n_rows
        rank = torch.arange(len(target), device=target.device) - first_entry[target]
        place = first_row[target] * length + rank
        self.owner = torch.repeat_interleave(torch.arange(n_targets, device=target.device), n_rows)
        n_places = len(self.owner) * length
        # Empty places point to message 0, which their zeros in Y keep out.
        self.source = source.new_zeros(n_places).index_copy(0, place, source).view(-1, length)
        self.angular = sum_to(place, angular, n_places).view(-1, length, angular.shape[1])
        self.n_targets = n_targets
        self.entry_source = source

    def __call__(self, messages: Tensor) -> Tensor:
        """(n, width) → (n_targets, width, n_angular)."""
        rows = torch.bmm(messages[self.source].transpose(1, 2), self.angular)
        return sum_to(self.owner, rows, self.n_targets)


class AngularSum:
    """The same of zonal harmonics, over all other edges of an edge's centre: nothing is listed."""

    entry_source = None

    def __init__(self, others: OtherEdges) -> None:
        self.others = others

    def __call__(self, messages: Tensor) -> Tensor:
        """(n_edges, width) → (n_edges, width, n_l)."""
        return (self.others.spread(messages) * self.others.norms).transpose(1, 2)


class RadialDown(nn.Module):
    """Σ_n W_(a, n, k) R_ln(d) for every angular function a = lm, R being the same for all m of a degree l."""

    def __init__(self, degrees: list[int], n_radial: int, width: int) -> None:
        super().__init__()
        self.degrees = degrees
        self.weight = nn.Parameter(torch.empty(len(degrees), n_radial, width))
        he_orthogonal(self.weight, (0, 1))

    def forward(self, radial: Tensor) -> Tensor:
        """(n, n_l, n_radial) → (n, n_angular, width)."""
        if self.degrees != list(range(radial.shape[1])):
            radial = radial[:, self.degrees]
        return torch.einsum("ean,ank->eak", radial, self.weight)


class EfficientBilinear(nn.Module):
    """Σ_(k, q) W_(q, k, o) Σ_t b_tk x_tq with the basis b_tk = Σ_a B_ak Y_ta in two parts.

    The part B, of the target's own length, does not depend on the entry t: the sum over entries comes
    first, of Y and x alone, and all weights are applied once per target.
    """

    def __init__(self, width: int, basis_width: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, basis_width, n_out))
        he_orthogonal(self.weight, (0, 1))

    def forward(self, radial: Tensor, sums: Tensor) -> Tensor:
        """B (n, n_angular, basis_width), sums (n, width, n_angular) of ``NeighborSum`` → (n, n_out)."""
        return torch.bmm(sums, radial).flatten(1) @ self.weight.flatten(0, 1)
