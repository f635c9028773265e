"""``models`` and ``info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def models(
    json: Annotated[Path | None, typer.Option(help="Write the list as JSON here; `-` for stdout.")] = None,
) -> None:
    """The models and their presets, with what holds exactly for each.

    Example: `kinetograph models`
    """
    from rich.console import Console
    from rich.table import Table

    from kinetograph.cli.output import refuse_existing, write_json
    from kinetograph.models import DEFAULT_PRESET, PRESETS, build

    refuse_existing(json, overwrite=False)
    records = []
    for name, preset in PRESETS.items():
        arguments = {key: value for key, value in preset.items() if key != "architecture"}
        model = build(preset["architecture"], [1], {**arguments, "cutoff": 5.0})
        records.append(
            {
                "preset": name,
                **preset,
                "default": name == DEFAULT_PRESET,
                "n_parameters_one_element": sum(p.numel() for p in model.parameters()),
                "force": "direct",
                "exact": sorted(model.model.head.exact),
            }
        )
    if str(json) != "-":
        view = Table(box=None, pad_edge=False)
        for column in ("preset", "form", "width", "layers", "parameters", "forces", "exact"):
            view.add_column(column)
        for r in records:
            mark = " (default)" if r["default"] else ""
            view.add_row(
                f"{r['preset']}{mark}",
                r["form"],
                str(r["width"]),
                str(r["n_layers"]),
                f"{r['n_parameters_one_element']:,}",
                r["force"],
                ", ".join(r["exact"]),
            )
        Console(highlight=False).print(view)
    write_json(json, records)


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

    refuse_existing(json, overwrite=False)
    header = read_header(model)
    sizes = ", ".join(f"{k} {v}" for k, v in header.hyperparameters.items() if k != "cutoff")
    domain = header.domain
    density = domain["density_atoms_per_A3"]
    rule = header.bond_rule
    rows = [
        ("architecture", f"{header.architecture} ({sizes})"),
        ("parameters", f"{header.n_parameters:,}"),
        ("elements", ", ".join(header.elements)),
        ("cutoff", f"{header.cutoff_A:g} Å"),
        ("forces", ", ".join(header.heads)),
        ("exact", ", ".join(header.exact)),
        (
            "bond types",
            f"up to {rule['max_separation']} bonds; bonded within {rule['tolerance']:g} × covalent radii"
            if rule
            else "not used",
        ),
        ("density seen", f"{density[0]:.4g} to {density[1]:.4g} atoms/Å³" if density else "not periodic"),
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
    if "metrics" in training:
        metrics = training["metrics"]
        rows.append(("trained", f"{metrics['step']:.0f} steps, {metrics['wall_s']:.0f} s"))
        rows.append(("valid force MAE", f"{1000.0 * metrics['valid_force_mae_eV_per_A']:.4g} meV/Å"))
    rows.append(("written by", ", ".join(f"{k} {v}" for k, v in header.software.items())))
    table(str(model), rows, to_stderr=str(json) == "-")
    write_json(json, asdict(header))
