"""``TrainingDomain``: what a model was trained on, and whether a structure lies outside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from torch import Tensor

from kinetograph.errors import UserError
from kinetograph.graph import Graph
from kinetograph.system import System

DENSITY_MARGIN = 0.05
"""Relative margin around the densities of the training data."""
DISTANCE_MARGIN = 0.03
"""Relative margin below the shortest distances of the training data: the tail of the same distribution."""


def require_elements(known: Iterable[int], numbers: Iterable[int], where: str) -> None:
    """Raise ``UserError`` if there is an atomic number that a model does not know."""
    unknown = sorted(set(numbers) - set(known))
    if unknown:
        if not 1 <= unknown[0] <= unknown[-1] < len(chemical_symbols):
            raise UserError(
                "an atom is no element", where=where, mend="Give it the symbol of one, or remove it."
            )
        of_model = ", ".join(chemical_symbols[z] for z in sorted(known))
        names = ", ".join(chemical_symbols[z] for z in unknown)
        raise UserError(
            f"the model never saw the element{'s' if len(unknown) > 1 else ''} {names}",
            where=where,
            mend=f"It was trained on {of_model} only; train a model on data that holds {names}.",
        )


@dataclass(frozen=True)
class TrainingDomain:
    """Ranges of the training data. Made from the training frames only, kept in the model file."""

    elements: tuple[int, ...]
    """Atomic numbers, ascending."""
    density: tuple[float, float] | None
    """Least and greatest number density, atoms/Å³; ``None`` where no frame was periodic throughout."""
    shortest_A: dict[str, float]
    """Shortest distance seen for each pair of elements, such as ``{"H-O": 0.91}``, in Å."""
    has_open: bool = False
    """Whether a frame was not periodic throughout; of no meaning where none was."""
    company_A: float | None = None
    """Every atom of a structure of several had a neighbour within so many Å, the model's cutoff; ``None``
    where one had none, or that is not known."""

    def require_elements(self, elements: System | Iterable[int], where: str = "structure") -> None:
        """Raise ``UserError`` if a system, or atomic numbers, hold an element that was not trained on."""
        numbers = elements.atomic_numbers.tolist() if isinstance(elements, System) else elements
        require_elements(self.elements, numbers, where)

    def outside(self, system: System, graph: Graph) -> list[str]:
        """Sentences on where the system leaves the training data; empty where it does not."""
        warnings = []
        density = number_density(system)
        if self.density is not None and density is not None:
            low, high = self.density
            # tolerance in both directions: fixed-volume data has one density only
            if density[0] < low * (1.0 - DENSITY_MARGIN) or density[1] > high * (1.0 + DENSITY_MARGIN):
                warnings.append(
                    f"density {density[0]:.4g}–{density[1]:.4g} atoms/Å³ lies outside the "
                    f"{low:.4g}–{high:.4g} that the model was trained on"
                )
        if self.density is not None and density is None and not self.has_open:
            warnings.append(
                "the structure is not periodic in all directions; the model was trained on structures that "
                f"are, of {self.density[0]:.4g} atoms/Å³ and more"
            )
        if self.density is None and density is not None:
            warnings.append(
                "the structure is periodic in all directions; the model was trained on none that is, and "
                "there is no density to compare with"
            )
        if self.company_A is not None:
            n_lone = int(lone_atoms(graph, self.company_A).sum())
            if n_lone:
                warnings.append(
                    f"atoms with no neighbour within {self.company_A:g} Å: {n_lone}; in training all had one"
                )
        for pair, distance in shortest_distances(graph).items():
            known = self.shortest_A.get(pair)
            if known is not None and distance < known * (1.0 - DISTANCE_MARGIN):
                warnings.append(
                    f"{pair} distance of {distance:.3f} Å; the shortest in training was {known:.3f} Å"
                )
        return warnings


def number_density(system: System) -> tuple[float, float] | None:
    """Least and greatest number density (atoms/Å³) of the structures periodic in all directions."""
    periodic = system.pbc.all(dim=1)
    if not bool(periodic.any()):
        return None
    density = (system.atoms_per_system / system.volume)[periodic]
    return float(density.min()), float(density.max())


def shortest_distances(graph: Graph) -> dict[str, float]:
    """Shortest edge (Å) for each pair of elements in the graph."""
    z = graph.atomic_numbers
    low = torch.minimum(z[graph.center], z[graph.neighbor])
    high = torch.maximum(z[graph.center], z[graph.neighbor])
    key = low * len(chemical_symbols) + high
    kinds, slot = torch.unique(key, return_inverse=True)
    shortest = torch.full((len(kinds),), torch.inf, dtype=graph.distances.dtype, device=key.device)
    shortest = shortest.scatter_reduce(0, slot, graph.distances.detach(), "amin")
    return {
        pair_name(int(kind) // len(chemical_symbols), int(kind) % len(chemical_symbols)): float(distance)
        for kind, distance in zip(kinds, shortest, strict=True)
    }


def lone_atoms(graph: Graph, cutoff: float) -> Tensor:
    """(n_atoms,) which atoms have no neighbour within a cutoff (Å), though they are not by themselves."""
    near = graph.center[graph.distances < cutoff]
    n_neighbors = torch.bincount(near, minlength=graph.n_atoms)
    n_atoms = torch.bincount(graph.system_index)
    return (n_neighbors == 0) & (n_atoms[graph.system_index] > 1)


def pair_name(first: int, second: int) -> str:
    """``"Ar-Ar"``, ``"H-O"``: symbols in alphabetical order."""
    return "-".join(sorted((chemical_symbols[first], chemical_symbols[second])))


def merge(domains: list[TrainingDomain]) -> TrainingDomain:
    """The smallest domain that holds all of these."""
    if not domains:
        raise ValueError("no domains to merge")
    shortest: dict[str, float] = {}
    for domain in domains:
        for pair, distance in domain.shortest_A.items():
            shortest[pair] = min(distance, shortest.get(pair, distance))
    densities = [d.density for d in domains if d.density is not None]
    company = [d.company_A for d in domains]
    return TrainingDomain(
        elements=tuple(sorted({z for d in domains for z in d.elements})),
        density=(min(d[0] for d in densities), max(d[1] for d in densities)) if densities else None,
        shortest_A=dict(sorted(shortest.items())),
        has_open=any(d.has_open for d in domains),
        company_A=None if None in company else max(c for c in company if c is not None),
    )


def domain_of(system: System, graph: Graph, cutoff: float | None = None) -> TrainingDomain:
    """The domain that one batch spans.

    Args:
        cutoff: Å, of the model; without it nothing is said of atoms that have no neighbour.
    """
    has_company = cutoff is not None and not bool(lone_atoms(graph, cutoff).any())
    return TrainingDomain(
        elements=tuple(sorted(set(system.atomic_numbers.tolist()))),
        density=number_density(system),
        shortest_A=shortest_distances(graph),
        has_open=not bool(system.pbc.all()),
        company_A=cutoff if has_company else None,
    )


def domain_to_json(domain: TrainingDomain) -> dict[str, object]:
    """Plain JSON with element symbols."""
    return {
        "elements": [chemical_symbols[z] for z in domain.elements],
        "density_atoms_per_A3": list(domain.density) if domain.density else None,
        "shortest_A": domain.shortest_A,
        "has_open": domain.has_open,
        "company_A": domain.company_A,
    }


def domain_from_json(data: dict[str, object]) -> TrainingDomain:
    """The inverse of :func:`domain_to_json`."""
    density = data["density_atoms_per_A3"]
    elements, shortest, company = data["elements"], data["shortest_A"], data.get("company_A")
    assert isinstance(elements, list)
    assert isinstance(shortest, dict)
    return TrainingDomain(
        elements=tuple(number_of[symbol] for symbol in elements),
        density=(float(density[0]), float(density[1])) if isinstance(density, list) else None,
        shortest_A={str(pair): float(value) for pair, value in shortest.items()},
        # Files of earlier versions do not say either.
        has_open=bool(data.get("has_open", density is None)),
        company_A=float(company) if isinstance(company, int | float) else None,
    )
