"""``benchmark neighbors``: the neighbour list beside other programs', and its share of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kinetograph.benchmark.cases import CASES
from kinetograph.benchmark.measure import Action, Clock, Row, in_turns
from kinetograph.benchmark.step import whole_step
from kinetograph.benchmark.structures import water
from kinetograph.neighbors import NeighborList
from kinetograph.system import System

REACH_A = 4.7
"""GAMD's cutoff for water and a skin."""
SHARE_OF = "gamd"
ASE_AT_MOST = 10_000


def neighbor_rows(sizes: Sequence[int], clock: Clock, seconds: float) -> Iterator[Row]:
    """Pairs, images and vectors of every edge within 4.7 Å, for boxes of water of so many atoms."""
    for n_atoms in sizes:
        system = water(n_atoms)
        actions = _searches(system.to(clock.device), system)
        n_edges = NeighborList.build(system, REACH_A).n_edges
        median_s = in_turns(actions, clock, seconds)
        for variant, value in median_s.items():
            yield Row(
                case="neighbors",
                variant=variant,
                precision="float64",
                n_atoms=system.n_atoms,
                n_edges=n_edges,
                median_s=value,
                speedup=median_s["vesin"] / value,
                against="vesin",
            )
        yield whole_step(SHARE_OF, CASES[SHARE_OF], system.to(clock.device), clock, seconds)


def _searches(system: System, on_cpu: System) -> dict[str, Action]:
    from ase.neighborlist import primitive_neighbor_list
    from vesin import NeighborList as Vesin

    points, box = on_cpu.positions.numpy(), on_cpu.cell[0].numpy()
    vesin = Vesin(cutoff=REACH_A, full_list=True)
    actions: dict[str, Action] = {
        "vesin": lambda: vesin.compute(points=points, box=box, periodic=True, quantities="ijSDd"),
        "fast": lambda: _with_vectors(system),
    }
    if on_cpu.n_atoms <= ASE_AT_MOST:
        actions["ASE"] = lambda: primitive_neighbor_list("ijSDd", [True] * 3, box, points, REACH_A)
    return actions


def _with_vectors(system: System) -> object:
    from kinetograph.graph import GraphRequest, build_graph

    neighbors = NeighborList.build(system, REACH_A)
    return build_graph(system, neighbors, GraphRequest(cutoff=REACH_A), dtype=system.dtype)
