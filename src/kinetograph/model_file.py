"""A model or an ensemble on disk: a safetensors file, weights and a JSON header. Loading it runs no code."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import nn

from kinetograph.additions import build_addition
from kinetograph.atomic_file import write_atomically
from kinetograph.bonds import BondRule
from kinetograph.ensemble import EnsemblePotential
from kinetograph.errors import UserError
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build, resolved
from kinetograph.nn.model import Head
from kinetograph.sum_potential import SumPotential
from kinetograph.training_domain import TrainingDomain, domain_from_json, domain_to_json

FORMAT_VERSION = 4
HEADER_KEY = "kinetograph"
CHECKED = ("architecture", "hyperparameters", "elements", "bond_rule", "domain", "additions")
"""Fields of the header that must be those of the training."""
UNITS = {"length": "Å", "force": "eV/Å", "energy": "eV"}


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says of itself."""

    architecture: str
    hyperparameters: dict[str, Any]
    """All of them, also those that were left at their defaults; those named alone up to version 3."""
    elements: list[str]
    cutoff_A: float
    heads: list[str]
    """Which forces it gives: ``"direct"``, ``"conservative"``, or the two of them."""
    exact: dict[str, list[str]]
    """For each head what holds by construction."""
    n_parameters: int
    """Of all members together."""
    bond_rule: dict[str, Any] | None
    """The rule behind the edge types; see ``BondRule``."""
    domain: dict[str, Any]
    """Ranges of the training data; see ``TrainingDomain``."""
    additions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Potentials that are added to the model, by kind, with their arguments; see ``additions``."""
    training: dict[str, Any] = field(default_factory=dict)
    """Data fingerprints, settings, steps and errors of the training."""
    n_members: int = 1
    """Of an ensemble; 1 for a model by itself."""
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    software: dict[str, str] = field(default_factory=dict)
    checksum: str | None = None
    """SHA-256 of what the weights were trained as; see ``CHECKED``. From version 4 on."""
    format_version: int = FORMAT_VERSION


def save(
    path: Path | str,
    model: LearnedPotential | EnsemblePotential,
    *,
    architecture: str,
    hyperparameters: dict[str, Any],
    elements: Sequence[int],
    domain: TrainingDomain,
    additions: dict[str, dict[str, Any]] | None = None,
    training: dict[str, Any] | None = None,
) -> ModelHeader:
    """Write a model or all of an ensemble to ``path``, replacing what is there in one atomic step."""
    members = model.models if isinstance(model, EnsemblePotential) else [model]
    first = members[0]
    rule = first.request.bond_rule
    # A later version may have other defaults.
    hyperparameters = resolved(architecture, hyperparameters)
    header = ModelHeader(
        architecture=architecture,
        hyperparameters=hyperparameters,
        elements=[chemical_symbols[z] for z in elements],
        cutoff_A=first.request.cutoff,
        heads=list(first.model.heads),
        exact={head: sorted(properties) for head, properties in first.model.exact.items()},
        n_parameters=_n_parameters(members),
        bond_rule=asdict(rule) if rule else None,
        domain=domain_to_json(domain),
        additions=additions or {},
        training=training or {},
        n_members=len(members),
        software={
            "kinetograph": version("kinetograph"),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    )
    header = replace(header, checksum=_checksum(header))
    weights = _together(members).state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    text = json.dumps(asdict(header), ensure_ascii=False, allow_nan=False)
    write_atomically(Path(path), to_safetensors(tensors, metadata={HEADER_KEY: text}))
    return header


def _together(members: Sequence[LearnedPotential]) -> nn.Module:
    """What names the weights in the file: a model by itself, or ``members.0``, ``members.1`` …"""
    return members[0] if len(members) == 1 else nn.ModuleDict({"members": nn.ModuleList(members)})


def _checksum(header: ModelHeader) -> str:
    text = json.dumps([getattr(header, name) for name in CHECKED], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _n_parameters(members: Sequence[LearnedPotential]) -> int:
    return sum(p.numel() for member in members for p in member.parameters())


def read_header(path: Path | str) -> ModelHeader:
    """The header alone.

    Raises:
        UserError: the file is missing, unreadable, truncated, or not one of ours.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(
            "this is a folder, not a model file", where=str(path), mend=f"Try {path / 'best.kg'}."
        )
    if not path.is_file():
        raise UserError("there is no such model file", where=str(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, struct.error) as error:
        raise UserError(
            "the file cannot be read as a model: it is damaged, truncated or of another kind",
            where=str(path),
            mend="A model is a *.kg file; copy it again from where it was trained.",
        ) from error
    if HEADER_KEY not in metadata:
        raise UserError("the file is not a Kinetograph model", where=str(path))
    try:
        data = json.loads(metadata[HEADER_KEY])
        if data["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"the model file has format version {data['format_version']}, "
                f"this program knows up to {FORMAT_VERSION}",
                where=str(path),
                mend="Update kinetograph.",
            )
        if data["format_version"] == 1:  # direct forces only, one list of what holds
            data["exact"] = {"direct": data["exact"]}
        header = ModelHeader(**data)
        _check_types(header)
        domain_from_json(header.domain)
        return header
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise UserError(f"the model file's header is damaged ({error})", where=str(path)) from error


def _check_types(header: ModelHeader) -> None:
    """Raise ``TypeError`` where a field is not of the kind that it should be."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "architecture": str,
        "hyperparameters": dict,
        "elements": list,
        "cutoff_A": (int, float),
        "heads": list,
        "exact": dict,
        "n_parameters": int,
        "bond_rule": (dict, type(None)),
        "domain": dict,
        "additions": dict,
        "training": dict,
        "n_members": int,
        "software": dict,
        "checksum": (str, type(None)),
    }
    for name, kind in kinds.items():
        value = getattr(header, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}")
    for element in header.elements:
        if element not in chemical_symbols:
            raise TypeError(f"there is no element {element!r}")
    if header.n_members < 1:
        raise TypeError(f"n_members is {header.n_members}")


def load(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    forces: Head | None = None,
) -> LearnedPotential | SumPotential | EnsemblePotential:
    """A potential from a model file, in evaluation mode, with its training domain and what was added to it.

    The file of an ensemble gives an :class:`~kinetograph.ensemble.EnsemblePotential`.

    Args:
        dtype: compute in this type; by default the type of the stored weights.
        forces: of a model with both kinds of forces the one to answer with; conservative by default.

    Raises:
        UserError: as :func:`read_header`, the weights do not fit the header, or the model has no such forces.
    """
    header = read_header(path)
    members = _load_members(path, header)
    for member in members:
        if forces is not None:
            member.use_forces(forces)
        member.to(device=device, dtype=dtype)
    elements = [number_of[e] for e in header.elements]
    try:
        additions = [build_addition(kind, elements, given) for kind, given in header.additions.items()]
    except UserError as error:
        raise UserError(error.what, where=str(path), mend=error.mend) from error
    if len(members) > 1:
        return EnsemblePotential(members, additions).to(device=device).eval()
    if not additions:
        return members[0]
    return SumPotential(members[0], *additions).to(device=device).eval()


def load_model(path: Path | str, *, member: int = 0) -> LearnedPotential:
    """The learned part of a model file alone, of an ensemble that of one member; see :func:`load`."""
    return _load_members(path, read_header(path))[member]


def _load_members(path: Path | str, header: ModelHeader) -> list[LearnedPotential]:
    """The learned parts, one unless it is an ensemble."""
    elements = [number_of[e] for e in header.elements]

    def built() -> LearnedPotential:
        return build(header.architecture, elements, header.hyperparameters)

    try:
        members = [built()]
    except UserError as error:
        raise UserError(error.what, where=str(path), mend="The header was changed or is damaged.") from error
    _check_agreement(header, members[0], path)
    members += [built() for _ in range(header.n_members - 1)]
    # The stored rule is the one the model was trained with, whatever today's default is.
    try:
        rule = BondRule(**header.bond_rule) if header.bond_rule else None
        domain = domain_from_json(header.domain)
    except (TypeError, KeyError, AssertionError) as error:
        raise UserError(f"the model file's header is damaged ({error})", where=str(path)) from error
    made = members[0].request.bond_rule
    if (rule.max_separation if rule else 0) != (made.max_separation if made else 0):
        raise UserError(
            f"the file's bond rule {header.bond_rule} is not that of its hyperparameters", where=str(path)
        )
    try:
        with safe_open(Path(path), framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _together(members).load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        writer = header.software.get("kinetograph", "unknown")
        raise UserError(
            f"the weights do not fit the model file's header; it was written by version {writer}",
            where=str(path),
            mend=f"The first difference: {str(error).splitlines()[-1].strip()}",
        ) from error
    for member in members:
        member.request = member.model.request = replace(member.request, bond_rule=rule)
        member.domain = domain
        member.eval().requires_grad_(False)
    return members


def _check_agreement(header: ModelHeader, model: LearnedPotential, path: Path | str) -> None:
    """Refuse a file whose header says one thing and whose hyperparameters make another."""
    made = {
        "cutoff_A": model.request.cutoff,
        "heads": list(model.model.heads),
        "n_parameters": header.n_members * _n_parameters([model]),
    }
    for name, value in made.items():
        said = getattr(header, name)
        if said != value:
            raise UserError(
                f"the model file's header says {name} {said}, but its hyperparameters make {value}",
                where=str(path),
                mend="The header was changed; take the file as it was written.",
            )
    elements = {number_of[element] for element in header.elements}
    if not set(domain_from_json(header.domain).elements) >= elements:
        raise UserError(
            "the model file's header names elements that it was not trained on",
            where=str(path),
            mend="The header was changed; take the file as it was written.",
        )
    if header.format_version >= 4 and header.checksum != _checksum(header):
        raise UserError(
            f"the model was trained with another {', '.join(CHECKED[:-1])} or {CHECKED[-1]} than the file's "
            "header says now",
            where=str(path),
            mend="The header was changed; take the file as it was written.",
        )
