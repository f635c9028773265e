"""Compiled kernels beside the plain forms, interleaved in one process, on water at one density.

    OMP_NUM_THREADS=1 python benchmarks/kernels.py --molecules 258

Processor time of force calls with random weights (the list is given, the graph is built), of a neighbour
list, and of the machine's own matrix product; errors are relative to double precision. "naive" is the paper's
equations as they stand (``kinetograph/benchmark/naive.py``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import ase
import numpy as np
import torch
from vesin import NeighborList as VesinList

from kinetograph import kernels
from kinetograph.benchmark.naive import gnnff_three_body, naive_form
from kinetograph.graph import build_graph, neighbors_for
from kinetograph.kernels.gnnff import FusedGNNFF
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import PRESETS, build
from kinetograph.models.classical import LennardJones
from kinetograph.models.gnnff import GNNFF
from kinetograph.reference.openmm_systems import water_numbers
from kinetograph.reference.starts import water_start
from kinetograph.system import System

DENSITY_G_PER_CM3 = 0.997
CASES = {
    "painn-small, direct": ("painn-small", 4.2, {}),
    "painn-small, conservative": ("painn-small", 4.2, {"forces": "conservative"}),
    "painn, direct": ("painn", 4.2, {}),
    "schnet 128 x 3": ("schnet", 5.0, {"n_layers": 3}),
    "gamd": ("gamd", 4.2, {}),
    "gamd-code": ("gamd-code", 4.2, {}),
    "gamd-covariant": ("gamd-covariant", 4.2, {}),
    "gnnff": ("gnnff", 5.0, {}),
    "gnnff 64, 12 nearest": ("gnnff", 5.0, {"width": 64, "edge_width": 64}),
    "gnnff 64, 16 nearest": ("gnnff", 5.0, {"width": 64, "edge_width": 64, "n_neighbors": 16}),
    "gnnff-smooth": ("gnnff-smooth", 4.2, {}),
    "dimenet++": ("dimenet++", 5.0, {"readout_init": "glorot"}),
    "gemnet-t": ("gemnet-t", 5.0, {}),
    "gemnet-dt": ("gemnet-dt", 5.0, {}),
    "gamd, bfloat16": ("gamd", 4.2, {"precision": "bfloat16"}),
    "gamd-covariant, bfloat16": ("gamd-covariant", 4.2, {"precision": "bfloat16"}),
    "forcenet": ("forcenet", 4.2, {}),
}
MAX_WITH_TRIPLETS = 64
"""Molecules: plain forms with triplets need gigabytes for more. ``directional.py`` has larger ones."""


def water(n_molecules: int) -> System:
    """A start at the density of water."""
    edge = (n_molecules * 18.01528 / 0.602214076 / DENSITY_G_PER_CM3) ** (1.0 / 3.0)
    positions = water_start(n_molecules, edge, np.random.default_rng(0))
    atoms = ase.Atoms(numbers=water_numbers(n_molecules), positions=positions, cell=[edge] * 3, pbc=True)
    return System.from_ase([atoms])


def processor_ms(action: Callable[[], object]) -> float:
    """Of one call."""
    began = time.process_time()
    action()
    return 1e3 * (time.process_time() - began)


def interleaved(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median of each, ms, after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(rounds):
        for name, action in actions.items():
            times[name].append(processor_ms(action))
    return {name: median(values) for name, values in times.items()}


def plainly(action: Callable[[], Any]) -> Callable[[], Any]:
    """The same without compiled kernels."""

    def run() -> Any:
        with kernels.plain_forms():
            return action()

    return run


def model(preset: str, cutoff: float, options: dict[str, Any], *, double: bool = False) -> LearnedPotential:
    """With random weights; the same in double precision.

    Args:
        options: of the model, and ``precision`` of the potential.
    """
    torch.manual_seed(0)
    precision = options.get("precision", "float32")
    options = {name: value for name, value in options.items() if name != "precision"}
    sizes = PRESETS[preset]
    hyperparameters = {**sizes.hyperparameters, "forces": sizes.forces, "cutoff": cutoff, **options}
    potential = build(sizes.architecture, [1, 8], hyperparameters)
    if double:
        return potential.double().eval()
    potential.use_precision(precision)
    return potential.eval()


def force_calls(whole: System, rounds: int, cases: list[str]) -> None:
    """A line for every case."""
    for name in cases:
        preset, cutoff, options = CASES[name]
        potential, exact = (model(preset, cutoff, options, double=double) for double in (False, True))
        if potential.request.triplets is None:
            system = whole
        else:
            system = water(min(whole.n_atoms // 3, MAX_WITH_TRIPLETS))
        neighbors = neighbors_for(system, potential.request)
        call: Callable[[], Any] = partial(potential, system, neighbors)
        actions = {"compiled": call, "plain": plainly(call)}
        try:
            naive = naive_form(potential.model)
        except KeyError:
            pass
        else:
            graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
            actions["naive"] = partial(naive, graph)
        true = exact(system, neighbors).forces
        errors = [float((a().forces - true).norm() / true.norm()) for a in (call, plainly(call))]
        ms = interleaved(actions, rounds)
        slow = " ".join(
            f"{other} {ms[other]:7.1f} ({ms[other] / ms['compiled']:.1f}x)"
            for other in actions
            if other != "compiled"
        )
        print(
            f"{name:26s} {system.n_atoms:5d} atoms, {neighbors.n_edges / system.n_atoms:5.1f} edges an atom: "
            f"{ms['compiled']:7.2f} ms, {slow}; "
            f"error {errors[0]:.1e} (plain {errors[1]:.1e})"
        )


def three_body_term(system: System, rounds: int) -> None:
    """GNNFF's sum over triplets alone, of random states, against its naive form."""
    name = "gnnff 64, 16 nearest"
    potential, exact = (model(*CASES[name], double=double) for double in (False, True))
    assert isinstance(potential.model, GNNFF)
    form = potential.model.inference_form()
    if form is None:
        return
    network: FusedGNNFF = form.network
    neighbors = neighbors_for(system, potential.request)
    graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
    edges = network.edges(
        *(graph.center, graph.neighbor, graph.edge_vectors, graph.distances, None, graph.n_atoms)
    )
    nodes, states = torch.randn(graph.n_atoms, 64).tanh(), torch.randn(graph.n_edges, 64).tanh()
    block, exact_block = potential.model.edge_blocks[1], exact.model.edge_blocks[1]
    actions = {
        "compiled": lambda: network.three_body(edges, 1, nodes, states),
        "naive": lambda: gnnff_three_body(block, nodes, states, graph, None),
    }
    true = gnnff_three_body(exact_block, nodes.double(), states.double(), graph, None)
    errors = [float((action() - true).norm() / true.norm()) for action in actions.values()]
    ms = interleaved(actions, rounds)
    print(
        f"three-body term of {name}: {ms['compiled']:.2f} ms, naive {ms['naive']:.1f} "
        f"({ms['naive'] / ms['compiled']:.1f}x); error {errors[0]:.1e} (naive {errors[1]:.1e})"
    )


def lists(system: System, rounds: int) -> None:
    """The pair search, against vesin's with vectors."""
    request = replace(model("painn-small", 4.2, {}).request, cutoff=4.7)
    points, box = system.positions.numpy(), system.cell[0].numpy()
    search = VesinList(cutoff=4.7, full_list=True)
    ms = interleaved(
        {
            "ours": lambda: neighbors_for(system, request),
            "vesin": lambda: search.compute(points=points, box=box, periodic=True, quantities="ijDd"),
        },
        rounds,
    )
    print(
        f"neighbour list, 4.7 A: {ms['ours']:.2f} ms, "
        f"vesin {ms['vesin']:.2f} ({ms['vesin'] / ms['ours']:.1f}x)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--molecules", type=int, default=258)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    system = water(arguments.molecules)
    left, right = torch.randn(2, 2048, 2048)
    peak = max(
        2 * 2048**3 / processor_ms(lambda: torch.nn.functional.linear(left, right)) / 1e6 for _ in range(5)
    )
    choice = kernels.choice()
    print(
        f"{system.n_atoms} atoms; kernels: {choice.name}, {choice.reason}; "
        f"torch's matrix product {peak:.0f} GFLOP/s"
    )
    with torch.no_grad():
        force_calls(system, arguments.rounds, arguments.cases)
        three_body_term(system, arguments.rounds)
    lists(system, arguments.rounds)
    argon = LennardJones(epsilon=0.0103, sigma=3.4, cutoff=6.8)
    neighbors = neighbors_for(system, argon.request)
    call: Callable[[], Any] = partial(argon, system, neighbors)
    ms = interleaved({"compiled": call, "plain": plainly(call)}, arguments.rounds)
    print(
        f"Lennard-Jones, 6.8 A: {ms['compiled']:.2f} ms, "
        f"plain {ms['plain']:.2f} ({ms['plain'] / ms['compiled']:.1f}x)"
    )


if __name__ == "__main__":
    main()
