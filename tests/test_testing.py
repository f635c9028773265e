"""The contract suite passes what is right and catches each way of being wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kinetograph.graph import Graph, GraphRequest, build_graph, neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models.classical import LennardJones
from kinetograph.models.gamd import GAMD
from kinetograph.neighbors import NeighborList
from kinetograph.nn.model import COVARIANT, GRADIENT, PROPERTIES
from kinetograph.potential import EnergyPotential, Potential, Prediction
from kinetograph.system import System
from kinetograph.testing import (
    LAWS,
    Contract,
    check_contract,
    measure_symmetries,
    randomize,
    rotation,
    smoothness,
    special_structures,
    structures,
)
from kinetograph.testing.suite import PotentialContract

SMOOTH = GRADIENT | {"smoothness"}
ELEMENTS = (1, 8)
CUTOFF = 3.5


class Embedded(EnergyPotential):
    """E_i = −√(1 + ρ_i), ρ_i = w Σ_j z_j (1 − d²/c²)³: right in every way, many-body, with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.request = GraphRequest(cutoff=CUTOFF)
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def density(self, graph: Graph) -> Tensor:
        smooth = (1.0 - (graph.distances / CUTOFF).square()).clamp(min=0.0) ** 3
        each = self.weight * graph.atomic_numbers[graph.neighbor] * smooth
        return each.new_zeros(graph.n_atoms).index_add(0, graph.center, each)

    def graph_energies(self, graph: Graph) -> Tensor:
        return -(1.0 + self.density(graph)).sqrt()


class Wrong(Potential):
    """``Embedded`` with its prediction spoilt, and direct where there is then no energy to it."""

    def __init__(self, spoil: Callable[[Prediction, System, Graph], Prediction], n_layers: int = 1) -> None:
        super().__init__()
        self.right = Embedded()
        self.spoil = spoil
        self.request = GraphRequest(cutoff=CUTOFF, n_layers=n_layers)

    gives_energy = True

    def forward(self, system: System, neighbors: NeighborList) -> Prediction:
        graph = build_graph(system, neighbors, self.request, dtype=self.dtype)
        return self.spoil(self.right(system, neighbors), system, graph)


def forces_become(change: Callable[[Tensor, System, Graph], Tensor]) -> Wrong:
    """Direct forces, whatever they are; the energy is taken away."""
    return Wrong(lambda p, s, g: Prediction(forces=change(p.forces, s, g).to(s.dtype), conservative=False))


def sum_over_edges(graph: Graph, values: Tensor) -> Tensor:
    return values.new_zeros(graph.n_atoms, *values.shape[1:]).index_add(0, graph.center, values)


def made() -> dict[str, System]:
    return structures(ELEMENTS)


def broken_laws(potential: Potential, exact: frozenset[str]) -> set[str]:
    contract = Contract(potential, exact=exact, structures=made())
    return {law for law in LAWS if contract.broken(law)}


# ---- what is right -----------------------------------------------------------------------------------


class TestEmbedded(PotentialContract):
    """As a third party would use the suite."""

    exact = SMOOTH

    @pytest.fixture
    def potential(self) -> Embedded:
        return Embedded()

    @pytest.fixture
    def tried(self) -> dict[str, System]:
        return made()


def test_a_switched_lennard_jones_keeps_every_law_and_a_cut_one_jumps() -> None:
    argon = structures([18], spacing=3.4)
    options = {"epsilon": 0.01, "sigma": 3.4, "cutoff": 7.0}
    switched = LennardJones(**options, truncation="switch", switch_start=6.0)
    check_contract(switched, exact=SMOOTH, structures=argon)
    check_contract(LennardJones(**options, truncation="shift"), structures=argon)
    with pytest.raises(AssertionError, match="'smoothness' is broken"):
        check_contract(LennardJones(**options, truncation="shift"), exact=SMOOTH, structures=argon)


def test_single_precision_is_held_to_its_own_rounding() -> None:
    check_contract(Embedded(), exact=SMOOTH, structures=made(), dtype=torch.float32)


# ---- what is wrong -----------------------------------------------------------------------------------


def one_image_per_pair(prediction: Prediction, system: System, graph: Graph) -> Prediction:
    pair = graph.center * graph.n_atoms + graph.neighbor
    kept = torch.zeros_like(pair, dtype=torch.bool)
    for key in pair.unique():
        here = torch.nonzero(pair == key)[:, 0]
        kept[here[graph.distances[here].argmin()]] = True
    weight = kept * (CUTOFF - graph.distances) ** 2
    forces = sum_over_edges(graph, weight.unsqueeze(1) * graph.unit_vectors)
    return Prediction(forces=forces.to(system.dtype), conservative=False)


def axial(forces: Tensor, system: System, graph: Graph) -> Tensor:
    """Adds a cross product, which turns like a vector and is mirrored like none."""
    near = ((CUTOFF - graph.distances) ** 2).unsqueeze(1) * graph.unit_vectors
    far = ((CUTOFF - graph.distances) ** 3).unsqueeze(1) * graph.unit_vectors
    return forces + 0.1 * torch.linalg.cross(sum_over_edges(graph, near), sum_over_edges(graph, far))


def two_steps(forces: Tensor, system: System, graph: Graph) -> Tensor:
    """Reads the forces on neighbours too, without saying so."""
    weight = ((CUTOFF - graph.distances) ** 2).unsqueeze(1)
    return forces + sum_over_edges(graph, weight * forces[graph.neighbor])


def swirl(prediction: Prediction, system: System, graph: Graph) -> Prediction:
    """Forces that are said to be conservative and have a part that is not the energy's."""
    weight = (CUTOFF - graph.distances) ** 2 * graph.atomic_numbers[graph.neighbor]
    extra = sum_over_edges(graph, weight.unsqueeze(1) * graph.unit_vectors)
    return replace(prediction, forces=prediction.forces + 1e-4 * extra)


def opposed(prediction: Prediction, system: System, graph: Graph) -> Prediction:
    return replace(prediction, forces=-prediction.forces)


def stress_becomes(change: Callable[[Tensor, System], Tensor]) -> Wrong:
    return Wrong(lambda p, s, g: p if p.stress is None else replace(p, stress=change(p.stress, s)))


def skewed(stress: Tensor, system: System) -> Tensor:
    return stress @ torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).to(stress)


def mean_energy(prediction: Prediction, system: System, graph: Graph) -> Prediction:
    assert prediction.energy is not None
    return Prediction(
        forces=prediction.forces / system.atoms_per_system[system.system_index].unsqueeze(1),
        energy=prediction.energy / system.atoms_per_system,
        conservative=True,
    )


def in_single_precision(forces: Tensor, system: System, graph: Graph) -> Tensor:
    vectors = graph.edge_vectors.float()
    weight = (CUTOFF - vectors.norm(dim=1, keepdim=True)) ** 2
    return sum_over_edges(graph, weight * vectors).double()


def cancelling(forces: Tensor, system: System, graph: Graph) -> Tensor:
    big = torch.tensor(1e4, dtype=graph.distances.dtype)
    return (forces.to(big) + big) - big


def by_place_in_list(forces: Tensor, system: System, graph: Graph) -> Tensor:
    first = torch.cat([torch.zeros(1, dtype=torch.int64), system.atoms_per_system.cumsum(0)[:-1]])
    place = torch.arange(system.n_atoms) - first[system.system_index]
    return forces * (1.0 + 0.01 * place.unsqueeze(1))


def torn(forces: Tensor, system: System, graph: Graph) -> Tensor:
    """Pairs of opposite forces at right angles to the line between them: no net force, but a torque."""
    weight = ((CUTOFF - graph.distances) ** 2).unsqueeze(1)
    push = forces[graph.center] - forces[graph.neighbor]
    return forces + 0.1 * sum_over_edges(graph, weight * push)


DIRECT = COVARIANT
WRONG: dict[str, tuple[Callable[[], Potential], frozenset[str], str]] = {
    "forces of the wrong sign": (lambda: Wrong(opposed), GRADIENT, "forces"),
    "a small force that is no gradient": (lambda: Wrong(swirl), GRADIENT, "forces"),
    "a small force with a curl": (lambda: Wrong(swirl), GRADIENT, "curl"),
    "stress of the wrong sign": (lambda: stress_becomes(lambda x, s: -x), GRADIENT, "stress"),
    "a virial for a stress": (
        lambda: stress_becomes(lambda x, s: x * s.volume[:, None, None]),
        GRADIENT,
        "stress",
    ),
    "stress that is not symmetric": (lambda: stress_becomes(skewed), GRADIENT, "stress"),
    "an energy per atom for one of all": (lambda: Wrong(mean_energy), GRADIENT, "extensivity"),
    "one image of each pair": (lambda: Wrong(one_image_per_pair), DIRECT, "extensivity"),
    "forces that know where the origin is": (
        lambda: forces_become(lambda f, s, g: f + 1e-6 * s.positions),
        DIRECT,
        "translation",
    ),
    "forces that know which atom is in the cell": (
        lambda: forces_become(lambda f, s, g: f * (1.0 + 0.1 * (s.positions[:, :1] > 0.0))),
        DIRECT,
        "translation",
    ),
    "a preferred direction": (
        lambda: forces_become(lambda f, s, g: f * torch.tensor([1.0, 1.0, 1.0 + 1e-6])),
        DIRECT,
        "rotation",
    ),
    "an axial vector": (lambda: forces_become(axial), DIRECT, "reflection"),
    "a place in the list": (lambda: forces_become(by_place_in_list), DIRECT, "permutation"),
    "a mean over the batch": (
        lambda: forces_become(lambda f, s, g: f - 1e-6 * f.square().mean().sqrt() * f),
        DIRECT,
        "batching",
    ),
    "a dependence on the first cell vector": (
        lambda: forces_become(lambda f, s, g: f * s.cell[s.system_index, 0].norm(dim=1, keepdim=True)),
        DIRECT,
        "periodic images",
    ),
    "a net force": (
        lambda: forces_become(lambda f, s, g: f * s.atomic_numbers.unsqueeze(1)),
        DIRECT | {"net force"},
        "net force",
    ),
    "a torque": (lambda: forces_become(torn), DIRECT | {"torque"}, "torque"),
    "a force on an atom alone": (
        lambda: forces_become(lambda f, s, g: f + 1e-6),
        DIRECT,
        "isolated atom",
    ),
    "one more step of messages than said": (lambda: forces_become(two_steps), DIRECT, "receptive field"),
    "single precision inside": (lambda: forces_become(in_single_precision), DIRECT, "precision"),
    "a large number added and taken away": (lambda: forces_become(cancelling), DIRECT, "single precision"),
    "chance in evaluation": (
        lambda: forces_become(lambda f, s, g: f * (1.0 + 1e-6 * torch.rand_like(f))),
        DIRECT,
        "determinism",
    ),
    "a missing number": (
        lambda: forces_become(lambda f, s, g: torch.where(f == f.max(), torch.nan, f)),
        DIRECT,
        "finiteness",
    ),
    "a hard cutoff": (
        lambda: forces_become(lambda f, s, g: f + 1e-4 * sum_over_edges(g, g.unit_vectors)),
        DIRECT | {"smoothness"},
        "smoothness",
    ),
    "forces that training does not see": (
        lambda: Wrong(lambda p, s, g: replace(p, forces=p.forces.detach())),
        GRADIENT,
        "training",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_law_that_is_broken_is_found(name: str) -> None:
    build, exact, law = WRONG[name]
    contract = Contract(build(), exact=exact, structures=made())
    with pytest.raises(AssertionError, match=f"{law!r} is broken"):
        contract.check(law)


def test_a_mirror_is_told_from_a_rotation_and_a_torque_from_a_net_force() -> None:
    """Each law sees its own violation only, so that a message names the right one."""
    assert "rotation" not in broken_laws(forces_become(axial), DIRECT)
    assert "net force" not in broken_laws(forces_become(torn), DIRECT | {"net force", "torque"})


def test_nearest_neighbours_jump_where_two_of_them_swap() -> None:
    class Nearest(Embedded):
        def __init__(self) -> None:
            super().__init__()
            self.request = replace(self.request, n_nearest=4, nearest_required=False)

    assert "smoothness" in broken_laws(Nearest(), SMOOTH)


def test_a_jump_inside_the_cutoff_is_found_in_the_forces_alone() -> None:
    def stepped(forces: Tensor, system: System, graph: Graph) -> Tensor:
        return forces + 0.3 * sum_over_edges(graph, graph.unit_vectors * (graph.distances < 1.9).unsqueeze(1))

    crystal, potential = made()["crystal"], forces_become(stepped)
    at_the_cutoff, anywhere = smoothness(potential, crystal), smoothness(potential, crystal, n_blind=3)
    assert at_the_cutoff is not None
    assert anywhere is not None
    assert at_the_cutoff < 1e-6 < 1e-2 < anywhere


def test_gradients_that_are_nowhere_defined_on_a_line_are_found() -> None:
    class Angles(Embedded):
        """Reads angles by their arccosine, whose slope is infinite at 180°."""

        def __init__(self) -> None:
            super().__init__()
            self.request = replace(self.request, triplets="fork")

        def graph_energies(self, graph: Graph) -> Tensor:
            assert graph.triplets is not None
            first, second = graph.triplets.first, graph.triplets.second
            cosine = (graph.unit_vectors[first] * graph.unit_vectors[second]).sum(dim=1).clamp(-1.0, 1.0)
            taper = (CUTOFF - graph.distances) ** 3
            each = torch.acos(cosine) * taper[first] * taper[second]
            return self.weight * each.new_zeros(graph.n_atoms).index_add(0, graph.center[first], each)

    contract = Contract(Angles(), exact=SMOOTH, structures={"molecule": made()["molecule"]})
    for law in LAWS:
        contract.check(law)
    with pytest.raises(AssertionError, match="not finite"):
        contract.check_special()


def test_a_message_says_law_structure_residual_and_what_is_allowed() -> None:
    with pytest.raises(AssertionError) as caught:
        check_contract(Wrong(opposed), exact=GRADIENT, structures=made())
    first = str(caught.value).splitlines()[0]
    assert first.startswith(
        "'forces' is broken on the structure 'molecule': forces are the negative derivative"
    )
    assert "residual is" in first
    assert "1.00e-06 is allowed" in first


def test_an_unknown_promise_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown properties"):
        Contract(Embedded(), exact={"smooth"}, structures=made())


# ---- structures and weights --------------------------------------------------------------------------


def test_structures_are_what_their_names_say_and_the_same_each_time() -> None:
    first, again = structures((1, 6, 8)), structures((1, 6, 8))
    assert list(first) == ["molecule", "plane", "crystal", "slab", "small cell", "mixed"]
    for name, system in first.items():
        system.check()
        assert system.dtype == torch.float64
        assert torch.equal(system.positions, again[name].positions)
        assert set(system.atomic_numbers.tolist()) <= {1, 6, 8}
    assert first["slab"].pbc.tolist() == [[True, True, False]]
    assert first["mixed"].n_systems == 6
    assert int(first["mixed"].atoms_per_system.min()) == 1
    assert structures([18], isolated=False)["mixed"].n_systems == 5
    small = first["small cell"]
    request = GraphRequest(cutoff=CUTOFF)
    graph = build_graph(small, neighbors_for(small, request), request)
    pairs = torch.bincount(graph.center * 2 + graph.neighbor, minlength=4)
    assert int(pairs.min()) > 1  # every pair, and every atom with itself, in several images
    flat = first["plane"].positions - first["plane"].positions.mean(dim=0)
    assert float(torch.linalg.svdvals(flat)[-1]) < 1e-14
    for system in special_structures([18]).values():
        system.check()


def learned(form: str = "covariant", seed: int = 0) -> LearnedPotential:
    torch.manual_seed(seed)
    return LearnedPotential(GAMD(ELEMENTS, cutoff=CUTOFF, form=form, width=6, n_layers=2, n_radial=5))


def test_random_weights_depend_on_the_seed_alone() -> None:
    def drawn(start: int, seed: int) -> dict[str, Tensor]:
        potential = learned("code", start)
        randomize(potential, seed)
        return potential.state_dict()

    one, same, other = drawn(0, 5), drawn(1, 5), drawn(0, 6)
    for name, value in one.items():
        if value.is_floating_point():
            assert torch.equal(value, same[name]), name
            assert not torch.equal(value, other[name]), name
            assert bool(torch.isfinite(value).all())
            assert bool((value != 0).any())
            if "std" in name or "scale" in name:
                assert bool((value > 0).all())


def test_measured_symmetries_tell_what_is_exact_from_what_is_not() -> None:
    exact, free = learned("covariant").double(), learned("paper").double()
    randomize(exact)
    randomize(free)
    of_exact, of_free = (measure_symmetries(p, n_rotations=2) for p in (exact, free))
    assert tuple(of_exact) == tuple(of_free) == PROPERTIES
    for name in PROPERTIES:
        assert (of_exact[name] < 1e-8) == (name in exact.exact), name
        assert (of_free[name] < 1e-8) == (name in free.exact), name


def test_a_potential_is_left_in_the_mode_that_it_was_in() -> None:
    potential = learned().train()
    potential.model.head.eval()
    rotation(potential, made()["molecule"])
    assert potential.training
    assert not potential.model.head.training


def test_a_potential_is_held_to_the_accuracy_that_it_promises() -> None:
    nearly = forces_become(lambda f, s, g: f * (1.0 + 1e-6 * torch.tanh(s.positions[:, :1])))
    crystal = {"crystal": made()["crystal"]}
    Contract(nearly, exact=DIRECT, structures=crystal, accuracy=3e-6).check("translation")
    with pytest.raises(AssertionError, match="'translation' is broken"):
        Contract(nearly, exact=DIRECT, structures=crystal, accuracy=1e-8).check("translation")
