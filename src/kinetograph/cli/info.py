"""``info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ALWAYS_SHOWN = ("forces", "width", "n_layers")
"""Hyperparameters; others where they are not the architecture's defaults. All are in the JSON."""


def info(
    model: Annotated[Path, typer.Argument(help="A model file, *.kg.")],
    json: Annotated[Path | None, typer.Option(help="Write the header as JSON here; `-` for stdout.")] = None,
) -> None:
    """What a model file holds.

    Example: `kinetograph info run/best.kg`
    """
    from dataclasses import asdict

    from kinetograph.cli.output import refuse_existing, table, write_json
    from kinetograph.model_file import read_header
    from kinetograph.models import ARCHITECTURES, resolved

    refuse_existing(json, overwrite=None)
    header = read_header(model)
    defaults = resolved(header.architecture, {}) if header.architecture in ARCHITECTURES else {}
    sizes = ", ".join(
        f"{name} {value}"
        for name, value in header.hyperparameters.items()
        if name != "cutoff" and (name in ALWAYS_SHOWN or name not in defaults or defaults[name] != value)
    )
    domain = header.domain
    rule = header.bond_rule
    rows = [
        ("architecture", f"{header.architecture} ({sizes})"),
        (
            "parameters",
            f"{header.n_parameters:,}"
            + (f", in an ensemble of {header.n_members} members" if header.n_members > 1 else ""),
        ),
        ("elements", ", ".join(header.elements)),
        ("cutoff", f"{header.cutoff_A:g} Å"),
        ("forces", ", ".join(header.heads)),
        *((f"exact, {head}", ", ".join(properties)) for head, properties in header.exact.items()),
        *(("added", f"{kind} {arguments or ''}") for kind, arguments in header.additions.items()),
        (
            "bond types",
            f"up to {rule['max_separation']} bonds; bonded within {rule['tolerance']:g} × covalent radii"
            if rule
            else "not used",
        ),
        ("density seen", _density(domain)),
        ("shortest seen", ", ".join(f"{pair} {d:.2f} Å" for pair, d in domain["shortest_A"].items())),
    ]
    training = header.training
    for name in ("train_data", "valid_data"):
        if name in training:
            data = training[name]
            rows.append(
                (
                    name.replace("_", " "),
                    f"{data['file']}, {data['frames']} frames, sha256 {data['sha256'][:12]}…",
                )
            )
    if "teacher" in training:
        known = training["teacher"]
        rows.append(
            (
                "teacher",
                f"{known['file']} ({known['architecture']}), sha256 {known['sha256'][:12]}…, on "
                f"{known['frames']} frames; the errors here are differences from it",
            )
        )
    if "preset" in training:
        settings = training.get("settings", {})
        asked = ("batch_size", "learning_rate", "energy_weight", "energy_loss", "seed")
        said = [
            f"{name.replace('_', ' ')} {settings[name]}" for name in asked if settings.get(name) is not None
        ]
        rows.append(("settings", ", ".join([f"preset {training['preset']}", *said])))
    if "metrics" in training:
        metrics = training["metrics"]
        rows.append(("trained", f"{metrics['step']:.0f} steps, {metrics['wall_s']:.0f} s"))
        rows.append(("valid force MAE", f"{1000.0 * metrics['valid_force_mae_eV_per_A']:.4g} meV/Å"))
        if "members" in training:
            each = [f"{1000.0 * of['valid_force_mae_eV_per_A']:.4g}" for of in training["members"]]
            rows.append(("of its members", f"{', '.join(each)} meV/Å"))
        if "valid_energy_mae_eV_per_atom" in metrics:
            energy = 1000.0 * metrics["valid_energy_mae_eV_per_atom"]
            rows.append(("valid energy MAE", f"{energy:.4g} meV/atom"))
    rows.append(("written by", ", ".join(f"{k} {v}" for k, v in header.software.items())))
    table(str(model), rows, to_stderr=str(json) == "-")
    write_json(json, asdict(header))


def _density(domain: dict[str, Any]) -> str:
    """Of the training frames."""
    density = domain["density_atoms_per_A3"]
    if not density:
        return "none, not periodic"
    seen = f"{density[0]:.4g} to {density[1]:.4g} atoms/Å³"
    return f"{seen}, and frames that are not periodic" if domain.get("has_open") else seen
