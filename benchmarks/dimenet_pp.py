"""DimeNet++ at its published size beside PyTorch Geometric's, interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/dimenet_pp.py --molecules 16

Processor time of energies and forces with random weights, on ethanol molecules and on water, 5 Å, one
thread; errors of forces are relative to double precision. PyTorch Geometric's DimeNet++ has the same weights;
its own bases and blocks run on our edge vectors, because it knows no periodic cells. All are given a
neighbour list and make of it what they need, triplets here and there. The other two need gigabytes for
more than 64 molecules of water.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from ase.build import molecule
from torch import Tensor

from kinetograph.benchmark.measure import Clock, in_turns, plainly, relative_error
from kinetograph.benchmark.structures import water
from kinetograph.graph import Graph, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import PRESETS, build
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


def compare(what: str, system: System, seconds: float) -> None:
    """A line of times and errors."""
    torch.manual_seed(0)
    preset = PRESETS["dimenet++"]
    hyperparameters = {**preset.hyperparameters, "forces": "conservative", "cutoff": CUTOFF_A}
    potential = with_random_weights(build(preset.architecture, [1, 6, 8], hyperparameters).eval())
    neighbors = neighbors_for(system, potential.request)
    exact = potential.double()(system, neighbors).forces
    potential.float()
    theirs = in_pytorch_geometric(potential)
    graph = partial(build_graph, system, neighbors, potential.request, dtype=torch.float32)
    call = partial(potential, system, neighbors)
    forces = {
        "fast": lambda: call().forces,
        "plain": lambda: plainly(call)().forces,
        "PyTorch Geometric": lambda: theirs(graph()),
    }
    errors = {name: relative_error(action(), exact) for name, action in forces.items()}
    times = in_turns(forces, Clock(torch.device("cpu"), 1), seconds)
    for name, time in times.items():
        print(
            f"{what:22s} {neighbors.n_edges:6d} edges  {name:17s} {1e3 * time:8.1f} ms "
            f"{time / times['fast']:5.2f}x  error {errors[name]:.1e}",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--molecules", nargs="*", type=int, default=[64], help="of water")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each structure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare("16 molecules, ethanol", ethanol(16), arguments.seconds)
    for n in arguments.molecules:
        compare(f"{3 * n} atoms of water", water(3 * n), arguments.seconds)


if __name__ == "__main__":
    main()
