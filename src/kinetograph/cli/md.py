"""``md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kinetograph.cli.md_words import Cell, Ensemble, GuardName, RigidBonds, WaterModel

TEMPERATURE_MARGIN = 0.1
"""A mean temperature further from the thermostat's than this share is worth a warning."""
THERMOSTAT = BAROSTAT = "Thermostat and barostat"
FORCES, START, WATCH = "Forces", "Start", "Guards"


def md(
    model: Annotated[Path, typer.Argument(help="A model file, *.kg.")],
    start: Annotated[Path, typer.Argument(help="A structure to start from, any format that ASE reads.")],
    out: Annotated[Path, typer.Option(help="The trajectory, H5MD.")] = Path("trajectory.h5"),
    ensemble: Annotated[
        Ensemble,
        typer.Option(
            help="NVE; NVT by Nosé-Hoover chains, Langevin (BAOAB) or Bussi's velocity rescaling; "
            "NPT by MTK chains or stochastic cell rescaling."
        ),
    ] = Ensemble.nose_hoover,
    temperature: Annotated[
        str | None,
        typer.Option(
            "--temperature-K",
            help="K; one for each replica: 300,320; or a ramp, times in ps: 0:100,50:520.",
        ),
    ] = None,
    pressure: Annotated[
        str | None, typer.Option("--pressure-bar", help="bar; or one for each replica: 1,1000.")
    ] = None,
    timestep: Annotated[
        float, typer.Option("--timestep-fs", help="Time step, fs; of the outer forces with --inner.")
    ] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Step at which the run ends.")] = 10_000,
    every: Annotated[int, typer.Option(help="Steps between frames.")] = 100,
    seed: Annotated[int, typer.Option(help="One seed, one trajectory.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the trajectory from its checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the trajectory if it exists.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON; `-` for stdout.")] = None,
    frame: Annotated[
        str, typer.Option(help="Which structure of the file, -1 the last; all.", rich_help_panel=START)
    ] = "-1",
    replicas: Annotated[
        int,
        typer.Option(
            min=1, help="Copies of each structure, as many at once as memory holds.", rich_help_panel=START
        ),
    ] = 1,
    batch_atoms: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Run structures at once up to so many atoms, then the next ones; left out: found by trial.",
            rich_help_panel=START,
        ),
    ] = None,
    initial_temperature: Annotated[
        str | None,
        typer.Option(
            "--initial-temperature-K",
            help="Draw new velocities at this temperature; 0: start from rest. Left out: the file's, "
            "or new ones at the thermostat's temperature.",
            rich_help_panel=START,
        ),
    ] = None,
    rigid: Annotated[
        RigidBonds | None,
        typer.Option(help="Hold bonds: to hydrogen, all, or water's triangles.", rich_help_panel=START),
    ] = None,
    rigid_lengths: Annotated[
        WaterModel | None,
        typer.Option(help="Rigid water of this model; left out: as in the start.", rich_help_panel=START),
    ] = None,
    hydrogen_mass: Annotated[
        float | None,
        typer.Option(
            "--hydrogen-mass-amu",
            help="Make hydrogens heavier at the cost of their neighbours, for longer time steps; 3.024.",
            rich_help_panel=START,
        ),
    ] = None,
    time_constant: Annotated[
        float | None,
        typer.Option(
            "--time-constant-fs", help="Of the thermostat; 100 if left out.", rich_help_panel=THERMOSTAT
        ),
    ] = None,
    chain_length: Annotated[
        int | None,
        typer.Option(help="Thermostats in a Nosé-Hoover chain; 3 if left out.", rich_help_panel=THERMOSTAT),
    ] = None,
    massive: Annotated[
        bool,
        typer.Option(
            "--massive",
            help="One Nosé-Hoover chain for every degree of freedom.",
            rich_help_panel=THERMOSTAT,
        ),
    ] = False,
    friction: Annotated[
        float | None,
        typer.Option(
            "--friction-per-ps",
            help="Of Langevin dynamics, 1/ps; 1 if left out.",
            rich_help_panel=THERMOSTAT,
        ),
    ] = None,
    cell: Annotated[
        Cell | None,
        typer.Option(
            help="How the cell may move under pressure; isotropic if left out.", rich_help_panel=BAROSTAT
        ),
    ] = None,
    pressure_time_constant: Annotated[
        float | None,
        typer.Option(
            "--pressure-time-constant-fs",
            help="Of the barostat; 1000 if left out.",
            rich_help_panel=BAROSTAT,
        ),
    ] = None,
    compressibility: Annotated[
        float | None,
        typer.Option(
            "--compressibility-per-bar",
            help="Rough, for stochastic cell rescaling; water's 4.5e-5 if left out.",
            rich_help_panel=BAROSTAT,
        ),
    ] = None,
    forces: Annotated[
        Literal["direct", "conservative"] | None,
        typer.Option(
            help="Of a model with both kinds of forces the one to run on; conservative if left out.",
            rich_help_panel=FORCES,
        ),
    ] = None,
    inner: Annotated[
        str | None,
        typer.Option(
            help="Multiple time steps: a cheap model file for the steps between two of MODEL; "
            "direct: MODEL's own direct forces.",
            rich_help_panel=FORCES,
        ),
    ] = None,
    ratio: Annotated[
        int | None,
        typer.Option(help="Inner steps in a time step; 8 if left out.", rich_help_panel=FORCES),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the model first (takes a C++ compiler): for long runs.",
            rich_help_panel=FORCES,
        ),
    ] = False,
    precision: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(
            help="Of the factors in a model's products; bfloat16: for GAMD on a CPU that has it, faster, "
            "with forces off by up to three parts in a thousand.",
            rich_help_panel=FORCES,
        ),
    ] = "float32",
    skin: Annotated[
        float,
        typer.Option(
            "--skin-A", help="Reach of the neighbour list beyond the cutoff, Å.", rich_help_panel=FORCES
        ),
    ] = 1.0,
    without_guard: Annotated[
        list[GuardName] | None,
        typer.Option(
            help="Leave a guard out, such as bonds where reactions are meant; may be repeated.",
            rich_help_panel=WATCH,
        ),
    ] = None,
    max_temperature: Annotated[
        float | None,
        typer.Option(
            "--max-temperature-K",
            help="Stop above it; 20 times what the run should have if left out.",
            rich_help_panel=WATCH,
        ),
    ] = None,
) -> None:
    """Molecular dynamics with a model.

    Example: `kinetograph md run/best.kg data/water/start.extxyz --temperature-K 300 --out run/water.h5`

    Sixteen at once, under a pressure:
    `kinetograph md best.kg start.extxyz --replicas 16 --ensemble mtk --temperature-K 300 --pressure-bar 1`

    Exit code 1: a guard stopped the run, or some of its replicas; the rest was finished.
    """
    from kinetograph.cli import md_words
    from kinetograph.cli.output import (
        checked_device,
        err,
        refuse_existing,
        resumable,
        structures_of,
        table,
        write_json,
    )
    from kinetograph.dynamics import simulate
    from kinetograph.dynamics.files import numbers_path

    numbers = numbers_path(out)
    if not resume:
        refuse_existing(out, numbers, json, overwrite=overwrite)
    integrator = md_words.make_integrator(
        ensemble,
        {
            "temperature_K": md_words.parse_temperature(temperature),
            "pressure_bar": md_words.parse_numbers(pressure, "--pressure-bar"),
            "timestep_fs": timestep,
            "time_constant_fs": time_constant,
            "chain_length": chain_length,
            "massive": massive or None,
            "friction_per_ps": friction,
            "mode": None if cell is None else cell.value,
            "pressure_time_constant_fs": pressure_time_constant,
            "compressibility_per_bar": compressibility,
        },
    )
    guards = md_words.make_guards(without_guard or [], max_temperature)
    potential = md_words.make_forces(
        model,
        device=checked_device(device),
        forces=forces,
        compiled=compiled,
        precision=precision,
        inner=inner,
        ratio=ratio,
    )
    with structures_of(start):
        system = md_words.read_start(
            start,
            frame,
            replicas,
            device=device,
            rigid=rigid,
            rigid_lengths=rigid_lengths,
            hydrogen_amu=hydrogen_mass,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with resumable(), structures_of(start):
        result = simulate(
            potential,
            system,
            integrator,
            n_steps=steps,
            seed=seed,
            path=out,
            every=every,
            skin_A=skin,
            initial_temperature_K=md_words.parse_numbers(initial_temperature, "--initial-temperature-K"),
            guards=guards,
            overwrite=overwrite,
            resume=resume,
            batch_atoms=batch_atoms,
            metadata={"model": str(model), "start": str(start), "frame": frame},
        )
    if result.n_steps == 0:
        err.print(f"Nothing to do: {out} is at step {result.resumed_from} already, of {steps}.")
        for failure in result.failures:
            err.print(f"[red]failed[/red] {failure.sentence(system.n_systems)}")
        if result.failures:
            raise typer.Exit(1)
        return
    warnings = [*result.warnings, *_off_target(result, integrator.target_temperature_K)]
    rows = _rows(result, timestep, steps, system.n_systems)
    if precision != "float32":
        rows.append(("precision", f"factors of products are {precision}"))
    rows += [("warning", text) for text in warnings]
    rows += [("failed", failure.sentence(system.n_systems)) for failure in result.failures]
    table("Molecular dynamics", rows, to_stderr=str(json) == "-")
    record = {**result_record(result), "precision": precision, "warnings": warnings}
    write_json(numbers, record)
    write_json(json, record)
    if result.failures:
        n_left = system.n_systems - len(result.failures)
        err.print(f"[red]failed[/red] guards stopped {len(result.failures)} replicas; {n_left} went on.")
        raise typer.Exit(1)


def result_record(result: Any) -> dict[str, Any]:
    """The numbers of a run as plain JSON."""
    from kinetograph import kernels
    from kinetograph.dynamics import trajectory_paths

    paths = trajectory_paths(result.path, len(result.temperatures_K))
    return {
        "trajectory": str(result.path),
        "trajectories": [str(path) for path in paths],
        "n_steps": result.n_steps,
        "resumed_from": result.resumed_from,
        "wall_s": result.wall_s,
        "ns_per_day": result.ns_per_day,
        "temperature_K": result.mean_temperature_K,
        "temperatures_K": [None if kelvin != kelvin else kelvin for kelvin in result.temperatures_K],
        "mean_net_force_eV_per_A": result.mean_net_force_eV_per_A,
        "drift_K": result.drift_K,
        "failures": [
            {"replica": f.replica, "step": f.step, "reason": f.reason, "last_frames": str(f.last_frames)}
            for f in result.failures
        ],
        "warnings": result.warnings,
        "warning_counts": result.warning_counts,
        "batches": result.batches,
        "kernels": kernels.choice().name,
    }


def _rows(result: Any, timestep: float, steps: int, n_systems: int) -> list[tuple[str, str]]:
    from kinetograph import kernels
    from kinetograph.dynamics import trajectory_paths

    first = (result.resumed_from or 0) + 1
    part = ""
    if result.resumed_from is not None:
        part = f", {first} to {first + result.n_steps - 1}: the numbers below are of these"
    paths = trajectory_paths(result.path, n_systems)
    many = f" to {paths[-1].name}" if n_systems > 1 else ""
    rows = [
        ("trajectory" if n_systems == 1 else f"{n_systems} trajectories", f"{paths[0]}{many}"),
        ("steps", f"{result.n_steps} of {timestep:g} fs ({1e-3 * result.n_steps * timestep:.4g} ps){part}"),
        ("temperature", f"{result.mean_temperature_K:.1f} K"),
        (
            "speed",
            f"{result.ns_per_day:.3g} ns/day, {1e3 * result.wall_s / max(1, result.n_steps):.3g} ms/step"
            + (" of all replicas together" if n_systems > 1 else ""),
        ),
        ("net force", f"{result.mean_net_force_eV_per_A:.3g} eV/Å on average, taken out"),
    ]
    if len(result.batches) > 1:
        rows.append(("batches", f"{len(result.batches)}, of at most {max(result.batches)} replicas"))
    if result.state.system.device.type == "cpu":
        choice = kernels.choice()
        rows.append(("kernels", f"{choice.name}: {choice.reason}"))
    if result.drift_K is not None:
        rows.append(("conserved", f"its drift since the start is worth {result.drift_K:+.3g} K"))
    return rows


def _off_target(result: Any, target: Any) -> list[str]:
    """A warning for every structure that is far from the temperature of its thermostat."""
    from kinetograph.dynamics import Ramp

    if target is None or isinstance(target, Ramp):
        return []
    n = len(result.temperatures_K)
    targets = [float(target)] * n if isinstance(target, int | float) else list(target)
    return [
        f"mean temperature {kelvin:.1f} K under a thermostat at {wanted:g} K"
        + (f" (replica {index})" if n > 1 else "")
        for index, (kelvin, wanted) in enumerate(zip(result.temperatures_K, targets, strict=True))
        if abs(kelvin / wanted - 1.0) > TEMPERATURE_MARGIN
    ]
