"""DimeNet++ and GemNet at their published sizes: compiled, plain and PyTorch Geometric, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/directional.py --molecules 16 64 258 --plain-molecules 64

Processor time of energies and forces with random weights, on 16 ethanol molecules and on water, 5 Å, one
thread; errors of forces are relative to double precision. PyTorch Geometric's DimeNet++ has the same weights
and is given edges and triplets; its own bases and blocks run on our edge vectors, because it knows no
periodic cells. The plain forms need gigabytes for more molecules of water than ``--plain-molecules``: beyond
it the compiled form runs alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from ase.build import molecule
from torch import Tensor

from kernels import interleaved, model, plainly, water
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.nn.segments import sum_to
from kinetograph.system import System

CUTOFF_A = 5.0
NAMES = {
    ("embedding", "elements.weight"): "emb.emb.weight",
    ("embedding", "from_basis"): "emb.lin_rbf",
    ("radial_basis", "bessel.frequencies"): "rbf.freq",
}
INSIDE = (
    ("energy_head", "output_blocks"),
    ("interactions", "interaction_blocks"),
    ("triplet_basis.linear", "lin_sbf1"),
    ("triplet_filter", "lin_sbf2"),
    ("filter_in", "lin_rbf1"),
    ("filter_out", "lin_rbf2"),
    ("filter.", "lin_rbf."),
    (".source", ".lin_kj"),
    ("update.own", "lin_ji"),
    ("update.before_skip", "layers_before_skip"),
    ("update.after_skip", "layers_after_skip"),
    ("update.to_skip", "lin"),
    (".first", ".lin1"),
    (".second", ".lin2"),
    (".down", ".lin_down"),
    (".up.", ".lin_up."),
    (".dense", ".lins"),
    (".last", ".lin"),
)


def ethanol(n: int) -> System:
    """So many molecules, each shaken its own way."""
    frames = []
    for seed in range(n):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    return System.from_ase(frames)


def with_random_weights(potential: LearnedPotential) -> LearnedPotential:
    """Readouts start at zero, which would leave nothing to compare."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in potential.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.02 * noise.to(parameter.dtype))
    return potential


def in_pytorch_geometric(potential: LearnedPotential) -> Callable[[Graph], Tensor]:
    """Forces (n_atoms, 3) of a DimeNet++ by its modules there."""
    from torch_geometric.nn.models import DimeNetPlusPlus

    ours = potential.model
    width, triplet_width = (len(ours.interactions[0].up.weight), len(ours.interactions[0].down.weight))
    theirs = DimeNetPlusPlus(
        hidden_channels=width,
        out_channels=1,
        num_blocks=len(ours.interactions),
        int_emb_size=triplet_width,
        basis_emb_size=len(ours.interactions[0].filter_in.weight),
        out_emb_channels=len(ours.energy_head[0].up.weight),
        num_spherical=ours.n_spherical,
        num_radial=6,
        cutoff=CUTOFF_A,
        envelope_exponent=5,
    ).requires_grad_(False)
    weights = ours.state_dict()
    parts = [weights[f"embedding.from_{part}.weight"] for part in ("center", "neighbor", "edge")]
    found = {"emb.lin.weight": torch.cat(parts, dim=1), "emb.lin.bias": weights["embedding.from_edge.bias"]}
    for name, value in weights.items():
        first, rest = name.split(".", 1)
        for (module, inside), other in NAMES.items():
            if module == first and rest.startswith(inside):
                found[other + rest[len(inside) :]] = value
        if first not in ("embedding", "radial_basis"):
            for mine, other in INSIDE:
                name = name.replace(mine, other)
            found[name] = value
    theirs.load_state_dict(found)

    def forces(graph: Graph) -> Tensor:
        assert graph.triplets is not None
        with torch.enable_grad():
            vectors = graph.edge_vectors.detach().requires_grad_(True)
            first, second = graph.triplets.first, graph.triplets.second
            a, b = vectors[first], -vectors[second]  # from i to j, from k to j
            angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=1), -(a * b).sum(dim=1))
            distances = vectors.norm(dim=1)
            i, j = graph.center, graph.neighbor
            rbf = theirs.rbf(distances)
            sbf = theirs.sbf(distances, angle, second)
            x = theirs.emb(graph.atomic_numbers, rbf, i, j)
            energies = theirs.output_blocks[0](x, rbf, i, num_nodes=graph.n_atoms)
            for block, output in zip(theirs.interaction_blocks, theirs.output_blocks[1:], strict=True):
                x = block(x, rbf, sbf, second, first)
                energies = energies + output(x, rbf, i, num_nodes=graph.n_atoms)
            (slopes,) = torch.autograd.grad(energies.sum(), vectors)
        n = graph.n_atoms
        return sum_to(i, slopes, n) - torch.zeros(n, 3, dtype=slopes.dtype).index_add(0, j, slopes)

    return forces


def relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def compare(name: str, what: str, system: System, rounds: int, *, alone: bool) -> None:
    """A line of times and errors."""
    potential = with_random_weights(model(name, CUTOFF_A, {}))
    neighbors = neighbors_for(system, potential.request)
    call: Callable[[], Any] = partial(potential, system, neighbors)
    actions = {"compiled": call}
    text = ""
    if not alone:
        actions["plain"] = plainly(call)
        exact = potential.double()(system, neighbors).forces
        potential.float()
        potential.forget_inference_form()
        errors = [relative(action().forces, exact) for action in actions.values()]
        text = f"; error {errors[0]:.1e}, plain {errors[1]:.1e}"
        if name == "dimenet++":
            graph = build_graph(system, neighbors, potential.request, dtype=torch.float32)
            pyg = in_pytorch_geometric(potential)
            actions["PyG"] = partial(pyg, graph)
            text += f", PyG {relative(pyg(graph), exact):.1e}"
    ms = interleaved(actions, rounds)
    others = ", ".join(
        f"{other} {ms[other]:.0f} ({ms[other] / ms['compiled']:.1f}x)" for other in ms if other != "compiled"
    )
    print(
        f"{name:11s} {what:24s} {neighbors.n_edges:6d} edges: {ms['compiled']:7.1f} ms"
        f"{', ' if others else ''}{others}{text}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["dimenet++", "gemnet-t", "gemnet-dt"])
    parser.add_argument("--molecules", nargs="*", type=int, default=[64, 258], help="of water")
    parser.add_argument("--plain-molecules", type=int, default=64, help="most of water for the plain forms")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in arguments.models:
            compare(name, "16 ethanol", ethanol(16), 3 * arguments.rounds, alone=False)
            for n in arguments.molecules:
                alone = n > arguments.plain_molecules
                compare(name, f"{3 * n} atoms of water", water(n), arguments.rounds, alone=alone)


if __name__ == "__main__":
    main()
