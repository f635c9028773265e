"""Model files: what is saved is what is loaded; damaged files are refused; loading runs no code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kinetograph import model_file
from kinetograph.additions import build_addition
from kinetograph.atomic_file import write_atomically
from kinetograph.bonds import BondRule, with_bonds
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.graph import neighbors_for
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import ARCHITECTURES, build
from kinetograph.models.options import names_of
from kinetograph.system import System
from kinetograph.training_domain import TrainingDomain

DOMAIN = TrainingDomain(
    elements=(1, 8), density=(0.09, 0.11), shortest_A={"H-O": 0.9, "H-H": 1.4, "O-O": 2.4}
)
ARGUMENTS = {"form": "covariant", "width": 8, "n_layers": 2, "cutoff": 4.0, "max_bond_separation": 2}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build("gamd", [1, 8], ARGUMENTS)
    model.force_scale.fill_(0.37)
    path = tmp_path / "m.kg"
    model_file.save(
        path,
        model,
        architecture="gamd",
        hyperparameters=ARGUMENTS,
        elements=[1, 8],
        domain=DOMAIN,
        training={"note": "é"},
    )
    return path


N_PARAMETERS_AT_16 = sum(p.numel() for p in build("gamd", [1, 8], {**ARGUMENTS, "width": 16}).parameters())


def test_loaded_model_gives_the_same_forces_to_the_bit(tmp_path: Path) -> None:
    from ase.build import molecule

    model = build("gamd", [1, 8], ARGUMENTS).eval()
    model.force_scale.fill_(0.37)
    path = tmp_path / "m.kg"
    model_file.save(
        path, model, architecture="gamd", hyperparameters=ARGUMENTS, elements=[1, 8], domain=DOMAIN
    )
    loaded = model_file.load(path)
    system = System.from_ase(molecule("H2O"))
    neighbors = neighbors_for(system, model.request)
    assert torch.equal(loaded(system, neighbors).forces, model(system, neighbors).forces)
    assert loaded.request == model.request
    assert loaded.request.bond_rule == BondRule(max_separation=2)
    assert loaded.domain == DOMAIN
    assert not loaded.training


def test_header_says_what_the_model_is(saved: Path) -> None:
    header = model_file.read_header(saved)
    assert header.elements == ["H", "O"]
    assert header.cutoff_A == 4.0
    assert header.exact == {
        "direct": [
            "net force",
            "permutation",
            "reflection",
            "rotation",
            "smoothness",
            "torque",
            "translation",
        ]
    }
    assert header.training == {"note": "é"}
    assert header.n_parameters == sum(p.numel() for p in build("gamd", [1, 8], ARGUMENTS).parameters())
    assert header.units["force"] == "eV/Å"
    with safe_open(saved, framework="pt") as file:  # the header is plain JSON in the safetensors metadata
        assert json.loads(file.metadata()["kinetograph"])["format_version"] == 4


def test_truncated_and_foreign_files_are_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        broken = tmp_path / "broken.kg"
        broken.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read"):
            model_file.load(broken)
    (tmp_path / "text.kg").write_text("hello, I am not a model")
    with pytest.raises(UserError, match="cannot be read"):
        model_file.load(tmp_path / "text.kg")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.kg")
    with pytest.raises(UserError, match="not a Kinetograph model"):
        model_file.load(tmp_path / "other.kg")
    with pytest.raises(UserError, match="no such model file"):
        model_file.load(tmp_path / "none.kg")
    torch.save({"a": 1}, tmp_path / "pickle.kg")
    with pytest.raises(UserError):
        model_file.load(tmp_path / "pickle.kg")


def _rewrite(path: Path, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["kinetograph"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"kinetograph": json.dumps({**header, **changes})})


def test_weights_that_do_not_fit_the_header_are_refused(saved: Path) -> None:
    _rewrite(saved, hyperparameters={**ARGUMENTS, "width": 16})
    with pytest.raises(UserError, match=r"header says n_parameters .* make"):
        model_file.load(saved)
    # an embedding of one element more and one layer's width less could have as many: shapes are looked at too
    _rewrite(
        saved, hyperparameters={**ARGUMENTS, "width": 16}, n_parameters=N_PARAMETERS_AT_16, format_version=3
    )
    with pytest.raises(UserError, match="do not fit"):
        model_file.load(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hyperparameters": {**ARGUMENTS, "cutoff": 6.0}}, "cutoff_A 4.0, but its hyperparameters make 6.0"),
        ({"heads": ["conservative"]}, "heads"),
        ({"elements": ["H", "N"]}, "not trained on"),
        ({"hyperparameters": [1]}, "damaged"),
        ({"elements": None}, "damaged"),
        ({"additions": ["zbl"]}, "damaged"),
        ({"additions": {"zbl": None}, "format_version": 3}, "not pairs of name and value"),
        ({"exact": ["a"]}, "damaged"),
        ({"architecture": ["painn"]}, "damaged"),
        ({"architecture": "pain"}, "unknown architecture 'pain'; did you mean 'painn'"),
    ],
)
def test_a_header_that_was_changed_is_refused(saved: Path, change: dict[str, object], says: str) -> None:
    _rewrite(saved, **change)
    with pytest.raises(UserError, match=says) as caught:
        model_file.load(saved)
    assert str(saved) in str(caught.value)


def test_newer_format_and_other_bond_rule_are_refused(saved: Path) -> None:
    _rewrite(saved, format_version=99)
    with pytest.raises(UserError, match="format version 99"):
        model_file.load(saved)
    _rewrite(saved, format_version=1, bond_rule={"max_separation": 1, "tolerance": 1.3})
    with pytest.raises(UserError, match="bond rule"):
        model_file.load(saved)
    _rewrite(saved, bond_rule={"max_separation": 2, "tolerance": 1.5}, format_version=3)
    assert model_file.load(saved).request.bond_rule == BondRule(max_separation=2, tolerance=1.5)


@pytest.mark.parametrize("damage", [{"domain": {}}, {"elements": ["Xx", "H"]}, {"bond_rule": {"reach": 3}}])
def test_a_damaged_header_is_refused(saved: Path, damage: dict[str, object]) -> None:
    _rewrite(saved, **damage)
    with pytest.raises(UserError, match="header"):
        model_file.load(saved)


PAINN = {"width": 8, "n_layers": 1, "cutoff": 4.0, "forces": "both"}


@pytest.fixture
def ensemble(tmp_path: Path) -> tuple[EnsemblePotential, Path]:
    """Three models in one file, a repulsive core beside them."""
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(build("painn", [1, 8], PAINN))
        members[-1].force_scale.fill_(0.2 + seed)
        members[-1].reference_energies[8] = -2000.0 + seed
    whole = EnsemblePotential(members, [build_addition("zbl", [1, 8], {})]).eval()
    path = tmp_path / "ensemble.kg"
    header = model_file.save(
        path,
        whole,
        architecture="painn",
        hyperparameters=PAINN,
        elements=[1, 8],
        domain=DOMAIN,
        additions={"zbl": {}},
    )
    assert header.n_members == 3
    return whole, path


def test_a_loaded_ensemble_answers_the_same_to_the_bit(ensemble: tuple[EnsemblePotential, Path]) -> None:
    whole, path = ensemble
    system = System.from_ase(ase.Atoms("OHH", positions=[[0, 0, 0], [0.9, 0, 0], [0.2, 0.3, 0.4]]))
    for head in ("conservative", "direct"):
        loaded = model_file.load(path, forces=head)  # type: ignore[arg-type]
        assert isinstance(loaded, EnsemblePotential)
        assert loaded.answers == head
        whole.use_forces(head)  # type: ignore[arg-type]
        neighbors = neighbors_for(system, whole.request)
        with torch.no_grad():
            expected, got = whole(system, neighbors), loaded(system, neighbors)
        assert torch.equal(got.forces, expected.forces)
        assert torch.equal(got.force_std, expected.force_std)
        assert (got.energy is None) == (head == "direct")
        assert got.energy is None or torch.equal(got.energy, expected.energy)
    assert loaded.domain == DOMAIN
    header = model_file.read_header(path)
    assert header.n_parameters == sum(p.numel() for p in whole.parameters())
    one = model_file.load_model(path, member=2)
    assert torch.equal(one.force_scale, whole.models[2].force_scale)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_members": 2}, "header says n_parameters"),
        ({"n_members": 1}, "header says n_parameters"),
        ({"n_members": 0}, "damaged"),
        ({"n_members": "3"}, "damaged"),
        ({"n_members": 2, "n_parameters": -2}, "do not fit"),
        ({"n_members": 4, "n_parameters": -4}, "do not fit"),
        ({"n_members": 1, "n_parameters": -1}, "do not fit"),
    ],
)
def test_a_damaged_ensemble_is_refused(
    ensemble: tuple[EnsemblePotential, Path], change: dict[str, int], says: str
) -> None:
    whole, path = ensemble
    if "n_parameters" in change:  # of so many members
        each = sum(p.numel() for p in whole.models[0].parameters())
        change = {**change, "n_parameters": -change["n_parameters"] * each}
    _rewrite(path, **change)
    with pytest.raises(UserError, match=says) as caught:
        model_file.load(path)
    assert str(path) in str(caught.value)


def test_an_ensemble_without_one_of_its_weights_is_refused(ensemble: tuple[EnsemblePotential, Path]) -> None:
    _, path = ensemble
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.startswith("members.1."))
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata=metadata)
    with pytest.raises(UserError, match="do not fit"):
        model_file.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="cannot be read"):
        model_file.load(path)


def test_the_decision_on_file_formats_says_what_each_version_brought() -> None:
    page = Path(__file__).parents[1] / "docs" / "decisions" / "0006-file-formats.md"
    versions = re.findall(r"^\| (\d+) \| ", page.read_text(encoding="utf-8"), re.M)
    assert versions == [str(version) for version in range(1, model_file.FORMAT_VERSION + 1)]


def test_a_file_of_format_2_holds_one_model(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["kinetograph"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = {**{name: value for name, value in header.items() if name != "n_members"}, "format_version": 2}
    save_file(tensors, saved, metadata={"kinetograph": json.dumps(header)})
    assert model_file.read_header(saved).n_members == 1
    assert isinstance(model_file.load(saved), LearnedPotential)


def test_a_file_of_format_1_still_gives_the_forces_it_gave() -> None:
    """Written when the format was made; every later version has to load it."""
    folder = Path(__file__).parent / "golden"
    expected = json.loads((folder / "gamd-covariant-1.json").read_text())
    model = model_file.load(folder / "gamd-covariant-1.kg")
    water = ase.Atoms("OHH", positions=expected["positions_A"])
    system = System.from_ase(water)
    forces = model(system, neighbors_for(with_bonds(system, model.request.bond_rule), model.request)).forces
    np.testing.assert_allclose(forces, expected["forces_eV_per_A"], rtol=1e-4, atol=1e-6)


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(saved, b"new")
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_header_names_all_hyperparameters_and_others_are_refused(tmp_path: Path) -> None:
    """Also those by which no weight changes its shape: other defaults of a later version, or a hand's."""
    path = tmp_path / "painn.kg"
    model = build("painn", [1, 8], PAINN)
    model_file.save(path, model, architecture="painn", hyperparameters=PAINN, elements=[1, 8], domain=DOMAIN)
    written = model_file.read_header(path).hyperparameters
    assert written["radial"] == "bessel"
    assert written["width"] == 8
    _rewrite(path, hyperparameters={**written, "radial": "gaussian"})
    with pytest.raises(UserError, match="trained with another architecture, hyperparameters"):
        model_file.load(path)
    _rewrite(path, hyperparameters=written, additions={"zbl": {}})
    with pytest.raises(UserError, match=r"trained with another .* or additions"):
        model_file.load(path)
    _rewrite(path, hyperparameters=written, additions={})
    model_file.load(path)
    domain = model_file.read_header(path).domain
    _rewrite(path, elements=["H", "S"], domain={**domain, "elements": ["H", "S"]})
    with pytest.raises(UserError, match=r"trained with another .* elements"):
        model_file.load(path)
    _rewrite(path, elements=["H", "O"], domain=domain, checksum=None)
    with pytest.raises(UserError, match="trained with another"):
        model_file.load(path)


def test_every_architecture_writes_its_hyperparameters_as_it_reads_them(tmp_path: Path) -> None:
    for name, architecture in ARCHITECTURES.items():
        hyperparameters = {"cutoff": 3.0}
        model = build(name, [1, 8], hyperparameters)
        path = tmp_path / f"{name}.kg"
        model_file.save(
            path, model, architecture=name, hyperparameters=hyperparameters, elements=[1, 8], domain=DOMAIN
        )
        header = model_file.read_header(path)
        assert set(header.hyperparameters) == {*names_of(architecture), "cutoff", "forces"}
        assert isinstance(model_file.load(path), LearnedPotential)
