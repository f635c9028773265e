"""The tests of the models notice the slips that are made in this field.

Each :class:`Slip` is a line of the package put wrong, as it is easily put wrong in programs of this kind, and
the tests that are to notice it. They run on a copy of the package with this one slip, where every one of them
has to fail, and by an assertion: that a slip crashes would prove nothing. On a copy without a slip they pass.

Where a line that a slip changes has been rewritten, the test of the slip fails and says so; the same slip
then belongs in the new line.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
PACKAGE = TESTS.parent / "src" / "kinetograph"


@dataclass(frozen=True)
class Slip:
    """One slip, and who notices it."""

    what: str
    file: str
    """Where, under ``src/kinetograph``."""
    old: str
    new: str
    tests: tuple[str, ...]
    """Node ids under ``tests``."""
    which: int | None = None
    """Which occurrence of ``old`` counted from zero; ``None``: there is one only."""

    def applied_to(self, text: str) -> str:
        """The text of the file with the slip in it."""
        parts = text.split(self.old)
        occurrences = len(parts) - 1
        if self.which is None:
            assert occurrences == 1, f"{self.file}: {occurrences} times, not once: {self.old!r}"
        else:
            assert occurrences > self.which, f"{self.file}: {occurrences} times only: {self.old!r}"
        place = (self.which or 0) + 1
        return self.old.join(parts[:place]) + self.new + self.old.join(parts[place:])


# ---- who notices -------------------------------------------------------------------------------------


def painn(case: str) -> str:
    return f"models/test_painn.py::test_both_heads_equal_a_plain_transcription_of_the_equations[{case}]"


def schnet(case: str) -> str:
    return f"models/test_schnet.py::test_energy_and_forces_equal_those_of_pytorch_geometric[{case}]"


def gnnff(case: str) -> str:
    return f"models/test_gnnff.py::test_forces_equal_a_plain_transcription_of_the_equations[{case}]"


def taught(case: str) -> str:
    return f"nn/test_other_edges.py::test_a_model_learns_what_its_listed_triplets_teach[{case}]"


def gamd(case: str) -> str:
    return f"models/test_gamd.py::test_forces_equal_a_plain_transcription_of_the_equations[{case}-crystal]"


def forcenet(case: str) -> str:
    return f"models/test_forcenet.py::test_forces_equal_a_plain_transcription_of_the_equations[{case}]"


def gns(case: str) -> str:
    return f"models/test_gns.py::test_forces_equal_a_plain_transcription_of_the_equations[{case}]"


def dimenet(case: str) -> str:
    return f"models/test_dimenet.py::test_energies_and_direct_forces_equal_a_plain_transcription[{case}]"


def dimenet_pp(case: str) -> str:
    return f"models/test_dimenet_pp.py::test_energies_and_direct_forces_equal_a_plain_transcription[{case}]"


def gemnet(case: str) -> str:
    return f"models/test_gemnet.py::test_both_heads_equal_a_plain_transcription_of_the_equations[{case}]"


def dcf(case: str) -> str:
    return f"models/test_dcf.py::test_forces_equal_a_plain_transcription[{case}]"


def contract(law: str, case: str = "painn-paper-both:conservative-float64") -> str:
    return f"contract/test_contract.py::TestContract::test_{law}[{case}]"


# ---- the slips ---------------------------------------------------------------------------------------

SLIPS = (
    # PaiNN
    Slip(
        "PaiNN: unit vectors from the neighbour to the centre",
        "models/painn.py",
        "to_vectors = along.unsqueeze(1) * units.unsqueeze(2)",
        "to_vectors = -along.unsqueeze(1) * units.unsqueeze(2)",
        (painn("paper-pair"), painn("gated-crystal")),
    ),
    Slip(
        "PaiNN: an atom hears itself instead of its neighbour",
        "models/painn.py",
        "to_scalars = phi_s.index_select(0, graph.neighbor)",
        "to_scalars = phi_s.index_select(0, graph.center)",
        (painn("paper-pair"), painn("paper-crystal")),
    ),
    Slip(
        "PaiNN: U and V in the other order",
        "models/painn.py",
        "u, v = self.mix(vectors)",
        "v, u = self.mix(vectors)",
        (painn("paper-pair"),),
    ),
    Slip(
        "PaiNN: DimeNet's envelope for the cosine cutoff",
        "models/painn.py",
        "envelope = cosine_cutoff(distances, cutoff)",
        "envelope = polynomial_envelope(distances / cutoff, POLYNOMIAL_POWER)",
        (painn("paper-pair"),),
    ),
    # SchNet
    Slip(
        "SchNet: no cutoff function on the filters",
        "models/schnet.py",
        "interaction(nodes, radial, envelope, graph)",
        "interaction(nodes, radial, None, graph)",
        (schnet("10-molecule"), schnet("10-crystal")),
    ),
    Slip(
        "SchNet: an atom hears itself instead of its neighbour",
        "models/schnet.py",
        "self.to_filters(nodes).index_select(0, graph.neighbor)",
        "self.to_filters(nodes).index_select(0, graph.center)",
        (schnet("10-molecule"), schnet("10-crystal")),
    ),
    # GNNFF
    Slip(
        "GNNFF: edges see the old states of their nodes",
        "models/gnnff.py",
        "seen = nodes if self.updated_nodes else old",
        "seen = old",
        (gnnff("paper-molecule"), gnnff("paper-crystal")),
    ),
    Slip(
        "GNNFF: k = i left out where the paper has it, and taken where the program leaves it out",
        "models/gnnff.py",
        'triplets="walk" if way_back else "path"',
        'triplets="path" if way_back else "walk"',
        (gnnff("paper-molecule"), gnnff("old nodes, no way back-molecule")),
    ),
    Slip(
        "GNNFF: h_i and h_j exchanged in a triplet",
        "models/gnnff.py",
        "joint.part(0, nodes).index_select(0, graph.center)\n"
        "            + joint.part(1, nodes).index_select(0, graph.neighbor)",
        "joint.part(0, nodes).index_select(0, graph.neighbor)\n"
        "            + joint.part(1, nodes).index_select(0, graph.center)",
        (gnnff("paper-molecule"),),
    ),
    Slip(
        "GNNFF: u_ij ends at the neighbour",
        "models/gnnff.py",
        'self.outward = 1.0 if sign == "attractive" else -1.0',
        'self.outward = -1.0 if sign == "attractive" else 1.0',
        (gnnff("paper-molecule"), gnnff("pyg-molecule")),
    ),
    # GAMD
    Slip(
        "GAMD, paper: normalisation before the update instead of after it",
        "models/gamd.py",
        "self.norm(self.update(torch.cat([nodes, messages], dim=1)))",
        "self.update(torch.cat([self.norm(nodes), messages], dim=1))",
        (gamd("paper"),),
    ),
    Slip(
        "GAMD, code: normalisation after the layer instead of before it",
        "models/gamd.py",
        "        ends = self.ends(nodes)\n"
        "        pre = _at_edges(ends, graph) + self.edge_transform(edges)\n",
        "        ends = Ends(self.from_source(nodes), self.from_target(nodes), nodes)\n"
        "        pre = _at_edges(ends, graph) + self.edge_transform(edges)\n"
        "        nodes = self.norm(nodes)\n",
        (gamd("code"),),
    ),
    Slip(
        "GAMD: v_i and v_j exchanged in a message",
        "models/gamd.py",
        "ends.source.index_select(0, graph.neighbor) + ends.target.index_select(0, graph.center)",
        "ends.source.index_select(0, graph.center) + ends.target.index_select(0, graph.neighbor)",
        (gamd("paper"),),
    ),
    Slip(
        "GAMD, code: one self edge instead of two",
        "models/gamd.py",
        "for embedding in (self_edge, torch.zeros_like(self_edge)):",
        "for embedding in (self_edge,):",
        (gamd("code"),),
    ),
    Slip(
        "GAMD, covariant: edge forces point to the centre",
        "nn/heads.py",
        "return sum_to(graph.center, scalar.unsqueeze(1) * graph.unit_vectors, graph.n_atoms)",
        "return sum_to(graph.center, -scalar.unsqueeze(1) * graph.unit_vectors, graph.n_atoms)",
        (gamd("covariant"),),
    ),
    # ForceNet
    Slip(
        "ForceNet: no self message",
        "models/forcenet.py",
        "total = total + self.center_weight * transformed",
        "total = total + 0.0 * self.center_weight * transformed",
        (forcenet("spherical, paper-molecule"), forcenet("spherical, code-crystal")),
    ),
    Slip(
        "ForceNet: cos(pi d/c) for cos(pi d/2c)",
        "models/forcenet.py",
        "torch.cos(graph.distances * (0.5 * math.pi / self.request.cutoff))",
        "torch.cos(graph.distances * (math.pi / self.request.cutoff))",
        (forcenet("spherical, paper-molecule"), forcenet("spherical, code-crystal")),
    ),
    Slip(
        "ForceNet: unit vectors from target to source, and in the program's form the other way",
        "models/forcenet.py",
        'sign=1.0 if self.form == "code" else -1.0',
        'sign=-1.0 if self.form == "code" else 1.0',
        (forcenet("spherical, paper-molecule"), forcenet("spherical, code-molecule")),
    ),
    Slip(
        "ForceNet: h_s and h_t exchanged in the concatenation",
        "models/forcenet.py",
        "of_source, of_target = torch.split(",
        "of_target, of_source = torch.split(",
        (forcenet("spherical, paper-molecule"),),
    ),
    # GNS
    Slip(
        "GNS: h_t and h_s exchanged in the concatenation",
        "models/gns.py",
        "of_target, of_edge, of_source = torch.split(",
        "of_source, of_edge, of_target = torch.split(",
        (gns("baseline-turned_molecule"), gns("baseline-crystal")),
    ),
    Slip(
        "GNS: the bias of a message once instead of once for every neighbour",
        "models/gns.py",
        "n_neighbors * self.message_out.bias",
        "self.message_out.bias",
        (gns("baseline-crystal"),),
    ),
    # DimeNet and DimeNet++
    Slip(
        "DimeNet: p = 5 for 6",
        "models/dimenet.py",
        "envelope_power: int = 6",
        "envelope_power: int = 5",
        (dimenet("False-default"),),
    ),
    Slip(
        "DimeNet++: p = 5 for 6",
        "models/dimenet_pp.py",
        "envelope_power: int = 6",
        "envelope_power: int = 5",
        (dimenet_pp("False-default"),),
    ),
    Slip(
        "DimeNet: k = i among the neighbours that are heard",
        "models/dimenet.py",
        'triplets="path"',
        'triplets="walk"',
        (dimenet("False-default"), dimenet("True-default")),
    ),
    Slip(
        "DimeNet: the angle at j in the form that has it at i",
        "models/dimenet.py",
        "cosines: Tensor = (to_j * to_k).sum(dim=1) / norms",
        "cosines: Tensor = (to_j * (to_k - to_j)).sum(dim=1) / norms",
        (dimenet("False-original"),),
    ),
    Slip(
        "DimeNet: h_i and h_j exchanged in the embedding block",
        "nn/directional.py",
        "self.from_center(nodes).index_select(0, graph.center)\n"
        "        neighbor = self.from_neighbor(nodes).index_select(0, graph.neighbor)",
        "self.from_center(nodes).index_select(0, graph.neighbor)\n"
        "        neighbor = self.from_neighbor(nodes).index_select(0, graph.center)",
        (dimenet("False-default"), dimenet_pp("False-default")),
    ),
    Slip(
        "DimeNet and GemNet: spherical Bessel functions without their norm",
        "nn/spherical.py",
        "return (norm * _bessel(x.double()[:, None, None] * z, 0)).to(x.dtype)",
        "return _bessel(x.double()[:, None, None] * z, 0).to(x.dtype)",
        (dimenet("False-default"), dimenet_pp("False-paper"), gemnet("T-molecule")),
    ),
    Slip(
        "DimeNet and GemNet: Bessel functions without sqrt(2/c)",
        "nn/radial.py",
        "return math.sqrt(2.0 / self.cutoff) * torch.sin(",
        "return torch.sin(",
        (dimenet("False-paper"), dimenet_pp("False-default"), gemnet("T-molecule")),
    ),
    Slip(
        "DimeNet and DimeNet++: the supplement of the angle",
        "nn/directional.py",
        "return (units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)",
        "return -(units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)",
        (dimenet("False-default"), dimenet_pp("False-default"), dimenet_pp("False-paper")),
    ),
    Slip(
        "DimeNet++: the spherical basis at d_ji instead of d_kj",
        "nn/directional.py",
        "coefficient.index_select(0, paths.second)",
        "coefficient.index_select(0, paths.first)",
        (dimenet_pp("False-default"),),
    ),
    Slip(
        "DimeNet++: the angle for its supplement where no triplets are listed",
        "nn/directional.py",
        "self.factors = others.norms * signs.to(others.norms).unsqueeze(1)",
        "self.factors = others.norms",
        (taught("dimenet++-{}-conservative"),),
    ),
    Slip(
        "DimeNet and GemNet: an edge hears itself where no triplets are listed",
        "nn/other_edges.py",
        "filled.unsqueeze(2) * filled.unsqueeze(1) * (1.0 - itself)",
        "filled.unsqueeze(2) * filled.unsqueeze(1)",
        (taught("dimenet-{}-conservative"), taught("gemnet-{}-direct")),
    ),
    Slip(
        "DimeNet++: f_ij + f_ji without its half",
        "nn/directional.py",
        "strength = 0.5 * (strength + strength.index_select(0, graph.reverse))",
        "strength = strength + strength.index_select(0, graph.reverse)",
        (dimenet("False-default"), dimenet_pp("False-default")),
    ),
    # GemNet
    Slip(
        "GemNet: p = 6 for 5",
        "models/gemnet.py",
        "envelope_power: int = 5",
        "envelope_power: int = 6",
        (gemnet("T-molecule"), gemnet("Q-molecule")),
    ),
    Slip(
        "GemNet: the supplement of the angle cab",
        "models/gemnet.py",
        "cosine = (units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)",
        "cosine = -(units.index_select(0, first) * units.index_select(0, second)).sum(dim=1)",
        (gemnet("T-molecule"),),
    ),
    Slip(
        "GemNet-Q: the supplement of the angle abd",
        "nn/quadruplets.py",
        "cosine=-along[:, 0]",
        "cosine=along[:, 0]",
        (gemnet("Q-molecule"),),
    ),
    Slip(
        "GemNet: symmetric message passing without its 1/sqrt(2)",
        "models/gemnet.py",
        "return summed * INV_SQRT_2",
        "return summed",
        (gemnet("T-molecule"),),
    ),
    Slip(
        "GemNet-Q: three things added, divided by sqrt(2)",
        "models/gemnet.py",
        "sum(parts) / math.sqrt(len(parts))",
        "sum(parts) * INV_SQRT_2",
        (gemnet("Q-molecule"),),
    ),
    Slip(
        "GemNet: SiLU without 1/0.6",
        "nn/efficient.py",
        "return nn.functional.silu(x) * SILU_GAIN",
        "return nn.functional.silu(x)",
        (gemnet("T-molecule"),),
    ),
    Slip(
        "GemNet: m_ca where m_ac belongs",
        "models/gemnet.py",
        "self.other(x).index_select(0, reverse)",
        "self.other(x)",
        (gemnet("T-molecule"),),
    ),
    Slip(
        "GemNet: a positive F_ca pulls a to c",
        "models/gemnet.py",
        "-strengths.unsqueeze(1) * graph.unit_vectors",
        "strengths.unsqueeze(1) * graph.unit_vectors",
        (gemnet("T-molecule"),),
    ),
    Slip(
        "GemNet: the mean of F_ca and F_ac without its half",
        "models/gemnet.py",
        "strengths = 0.5 * (strengths + strengths.index_select(0, graph.reverse))",
        "strengths = strengths + strengths.index_select(0, graph.reverse)",
        ("models/test_gemnet.py::test_coupled_forces_equal_a_plain_transcription_too",),
    ),
    # DCF
    Slip(
        "DCF: axes from the neighbour to the centre",
        "models/dcf.py",
        "tied.unsqueeze(2) * graph.unit_vectors.unsqueeze(1)",
        "tied.unsqueeze(2) * -graph.unit_vectors.unsqueeze(1)",
        (dcf("network-methanol"), dcf("least-squares-crystal")),
    ),
    Slip(
        "DCF: a projection on an axis that is not there",
        "models/dcf.py",
        "return projections * there",
        "return projections",
        (dcf("network-OH"),),
    ),
    Slip(
        "DCF: every pair of neighbours counted twice",
        "nn/fingerprints.py",
        "(first < second) & ",
        "",
        (
            "nn/test_fingerprints.py::test_features_equal_a_plain_transcription[molecule]",
            "nn/test_fingerprints.py::test_features_equal_a_plain_transcription[crystal]",
        ),
    ),
    # Graphs
    Slip(
        "one image of a pair: the nearest",
        "graph.py",
        "    place = torch.nonzero(squares < cutoff**2)[:, 0]\n",
        "    place = torch.nonzero(squares < cutoff**2)[:, 0]\n"
        "    pair = center * system.n_atoms + neighbor\n"
        "    least = squares.new_full((system.n_atoms**2,), torch.inf)\n"
        '    least = least.scatter_reduce(0, pair, squares, "amin")\n'
        "    place = place[squares[place] <= least[pair[place]]]\n",
        (
            painn("paper-crystal"),
            gnnff("paper-crystal"),
            "models/test_gamd.py::test_forces_belong_to_the_atoms_not_to_the_cell_chosen[paper]",
            forcenet("spherical, paper-crystal"),
            gns("baseline-crystal"),
            dimenet_pp("True-default"),
            gemnet("T-crystal"),
            dcf("network-crystal"),
        ),
    ),
    Slip(
        "cell vectors in columns",
        "graph.py",
        "offset = shift @ system.cell[0]",
        "offset = shift @ system.cell[0].T",
        (painn("paper-crystal"), gns("baseline-crystal"), dcf("network-crystal")),
    ),
    Slip(
        "triplets: every image of i counts as i",
        "triplets.py",
        "keep = ~(home & (neighbor[second] == center[first]))",
        "keep = neighbor[second] != center[first]",
        (dimenet_pp("True-default"), gnnff("old nodes, no way back-crystal")),
    ),
    Slip(
        "triplets: every image of j counts as j",
        "triplets.py",
        "keep = first != second",
        "keep = neighbor[first] != neighbor[second]",
        (gemnet("T-crystal"), "nn/test_fingerprints.py::test_features_equal_a_plain_transcription[crystal]"),
    ),
    Slip(
        "quadruplets: every image of c counts as c",
        "triplets.py",
        "is_c = (d == neighbor[target]) & (to_d == shift[target]).all(1)",
        "is_c = d == neighbor[target]",
        (gemnet("Q-crystal"),),
    ),
    # Derivatives and units
    Slip(
        "forces along the gradient",
        "potential.py",
        "forces.index_add(0, center, slope).index_add(0, neighbor, -slope)",
        "forces.index_add(0, center, -slope).index_add(0, neighbor, slope)",
        (contract("forces_are_the_derivative_of_the_energy"),),
    ),
    Slip(
        "stress with the sign of a pressure",
        "potential.py",
        "stress = 0.5 * (virial + virial.transpose(1, 2))",
        "stress = -0.5 * (virial + virial.transpose(1, 2))",
        (contract("stress_is_the_derivative_of_the_energy_by_strain"),),
    ),
    Slip(
        "stress without the half of its symmetric part",
        "potential.py",
        "stress = 0.5 * (virial + virial.transpose(1, 2))",
        "stress = virial + virial.transpose(1, 2)",
        (contract("stress_is_the_derivative_of_the_energy_by_strain"),),
    ),
    Slip(
        "stress of a sum over space without the half of its symmetric part",
        "potential.py",
        "stress = 0.5 * (virial + virial.transpose(1, 2))",
        "stress = virial + virial.transpose(1, 2)",
        ("models/test_electrostatics.py::test_forces_and_stress_are_derivatives[arguments0]",),
    ),
    Slip(
        "GemNet-Q: no forces by way of the links",
        "potential.py",
        "if graph.links is not None:",
        "if graph.links is None and graph.quadruplets is not None:",
        ("models/test_gemnet.py::test_forces_are_the_slope_of_the_energy[Q]",),
    ),
    Slip(
        "energies without the force scale",
        "learned_potential.py",
        "energies = energies.double() * self.force_scale",
        "energies = energies.double()",
        ("models/test_gnnff.py::test_energies_equal_a_plain_transcription[molecule]",),
    ),
    Slip(
        "direct forces without the force scale",
        "learned_potential.py",
        "return outputs.forces * self.force_scale, outputs.energies",
        "return outputs.forces, outputs.energies",
        (gns("baseline-crystal"), dcf("least-squares-methanol")),
    ),
    Slip(
        "direct forces beside conservative ones without the force scale",
        "learned_potential.py",
        "None if outputs.forces is None else outputs.forces * self.force_scale",
        "outputs.forces",
        ("test_potential.py::test_a_learned_potential_answers_in_units_whichever_head_is_asked[True]",),
    ),
    Slip(
        "energies without those of the elements",
        "learned_potential.py",
        "return energies + self.reference_energies[atomic_numbers]",
        "return energies",
        ("test_potential.py::test_a_learned_potential_answers_in_units_whichever_head_is_asked[True]",),
    ),
)


# ---- the runs ----------------------------------------------------------------------------------------


def failures(package: Path, tests: Iterable[str], folder: Path) -> dict[str, str | None]:
    """For each test, run on this copy of the package: the message that it failed with, or ``None``."""
    root = TESTS.parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "PYTEST_ADDOPTS": "",
        "KINETOGRAPH_KERNELS": "plain",  # slips are in the forms that are read beside the papers
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # they take as long to import as a test to run
        "OMP_NUM_THREADS": "1",
    }
    which = "import importlib.util as u; print(u.find_spec('kinetograph').origin)"
    imported = subprocess.run(
        [sys.executable, "-c", which], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(imported.stdout.strip()) == package / "__init__.py"

    report = folder / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", "--tb=line"]
    paths = [f"--junitxml={report}", f"--basetemp={folder / 'temporary'}"]
    selected = [f"tests/{test}" for test in tests]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths, *selected],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # 0: all passed, 1: some failed. Else a test is not there, or the package cannot be imported.
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, str | None] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        assert case.find("error") is None, run.stdout
        if case.find("skipped") is not None:
            continue  # neither noticed nor passed
        failure = case.find("failure")
        name = f"{case.attrib['classname']}::{case.attrib['name']}"
        found[name] = None if failure is None else failure.attrib["message"]
    assert found, run.stdout
    return found


def copied(folder: Path) -> Path:
    """A copy of the package, compiled files included, without the large files of the report."""
    package = folder / "kinetograph"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("static"))
    return package


@pytest.fixture(scope="session")
def passing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the tests that pass on a copy without a slip, of all that this session asks for."""
    mine = [i for i in request.session.items if getattr(i, "function", None) is test_a_slip_is_noticed]
    tests = dict.fromkeys(test for item in mine for test in item.callspec.params["slip"].tests)
    folder = tmp_path_factory.mktemp("right")
    found = failures(copied(folder), tests, folder)
    return {name for name, message in found.items() if message is None}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip.what)
def test_a_slip_is_noticed(slip: Slip, passing: set[str], tmp_path: Path) -> None:
    package = copied(tmp_path)
    file = package / slip.file
    text = slip.applied_to(file.read_text())
    compile(text, slip.file, "exec")
    file.write_text(text)
    Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)

    found = failures(package, slip.tests, tmp_path)
    assert set(found) <= passing
    unnoticed = [name for name, message in found.items() if message is None]
    assert not unnoticed
    crashes = {name: m for name, m in found.items() if not (m or "").startswith(("assert", "AssertionError"))}
    assert not crashes
