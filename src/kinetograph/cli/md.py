"""``md``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from kinetograph.dynamics import Integrator


TEMPERATURE_MARGIN = 0.1
"""A mean temperature further from the thermostat's than this share is worth a warning."""


class Ensemble(StrEnum):
    nve = "nve"
    nose_hoover = "nose-hoover"
    langevin = "langevin"


def md(
    model: Annotated[Path, typer.Argument(help="A model file, *.kg.")],
    start: Annotated[Path, typer.Argument(help="A structure to start from, any format that ASE reads.")],
    out: Annotated[Path, typer.Option(help="The trajectory, H5MD.")] = Path("trajectory.h5"),
    frame: Annotated[int, typer.Option(help="Which structure of the file; -1 is the last.")] = -1,
    ensemble: Annotated[
        Ensemble, typer.Option(help="Velocity Verlet, Nosé-Hoover chains, or BAOAB.")
    ] = Ensemble.nose_hoover,
    temperature: Annotated[
        float | None, typer.Option("--temperature-K", help="Temperature of the thermostat, K.")
    ] = None,
    initial_temperature: Annotated[
        float | None,
        typer.Option(
            "--initial-temperature-K",
            help="Draw new velocities at this temperature; 0: start from rest. Left out: the file's, "
            "or new ones at the thermostat's temperature.",
        ),
    ] = None,
    timestep: Annotated[float, typer.Option("--timestep-fs", help="Time step, fs.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Step at which the run ends.")] = 10_000,
    every: Annotated[int, typer.Option(help="Steps between frames.")] = 100,
    time_constant: Annotated[
        float | None,
        typer.Option("--time-constant-fs", help="Of Nosé-Hoover chains, fs; 100 if left out."),
    ] = None,
    chain_length: Annotated[
        int | None, typer.Option(help="Thermostats in a Nosé-Hoover chain; 3 if left out.")
    ] = None,
    massive: Annotated[
        bool, typer.Option("--massive", help="One Nosé-Hoover chain for every degree of freedom.")
    ] = False,
    friction: Annotated[
        float | None, typer.Option("--friction-per-ps", help="Of Langevin dynamics, 1/ps; 1 if left out.")
    ] = None,
    skin: Annotated[
        float, typer.Option("--skin-A", help="Reach of the neighbour list beyond the cutoff, Å.")
    ] = 1.0,
    forces: Annotated[
        Literal["direct", "conservative"] | None,
        typer.Option(
            help="Of a model with both kinds of forces the one to run on; conservative if left out."
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model first (takes a C++ compiler): for long runs."),
    ] = False,
    seed: Annotated[int, typer.Option(help="One seed, one trajectory.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 …")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the trajectory from its checkpoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the trajectory if it exists.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON; `-` for stdout.")] = None,
) -> None:
    """Molecular dynamics with a model.

    Example: `kinetograph md run/best.kg data/water/start.extxyz --temperature-K 300 --out run/water.h5`
    """
    from kinetograph import model_file
    from kinetograph.cli.output import checked_device, err, refuse_existing, resumable, table, write_json
    from kinetograph.data.frames import read_structures
    from kinetograph.dynamics import simulate
    from kinetograph.errors import UserError
    from kinetograph.system import System

    numbers = out.with_name(out.name + ".json")
    if not resume:
        refuse_existing(out, numbers, overwrite=overwrite)
    refuse_existing(json, overwrite=overwrite)
    potential = model_file.load(model, device=checked_device(device), forces=forces)
    if compiled:
        potential.use_compiler()
    structures = read_structures(start)
    if not -len(structures) <= frame < len(structures):
        raise UserError(f"there is no frame {frame}; the file has {len(structures)}", where=str(start))
    system = System.from_ase(structures[frame], device=device)
    integrator = make_integrator(
        ensemble,
        temperature_K=temperature,
        timestep_fs=timestep,
        time_constant_fs=time_constant,
        chain_length=chain_length,
        massive=massive,
        friction_per_ps=friction,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with resumable():
        result = simulate(
            potential,
            system,
            integrator,
            n_steps=steps,
            seed=seed,
            path=out,
            every=every,
            skin_A=skin,
            initial_temperature_K=initial_temperature,
            overwrite=overwrite,
            resume=resume,
            metadata={"model": str(model), "start": str(start), "frame": frame},
        )
    if result.n_steps == 0:
        err.print(f"Nothing to do: {out} is at step {result.resumed_from} already, of {steps}.")
        return
    start_step = result.resumed_from or 0
    warnings = list(result.warnings)
    if temperature is not None and abs(result.mean_temperature_K / temperature - 1.0) > TEMPERATURE_MARGIN:
        warnings.append(
            f"mean temperature {result.mean_temperature_K:.1f} K under a thermostat at {temperature:g} K"
        )
    part = (
        f", {start_step + 1} to {start_step + result.n_steps}: the numbers below are of these"
        if resume
        else ""
    )
    rows = [
        ("trajectory", str(result.path)),
        ("steps", f"{result.n_steps} of {timestep:g} fs ({1e-3 * result.n_steps * timestep:.4g} ps){part}"),
        ("temperature", f"{result.mean_temperature_K:.1f} K"),
        (
            "speed",
            f"{result.ns_per_day:.3g} ns/day, {1e3 * result.wall_s / max(1, result.n_steps):.3g} ms/step",
        ),
        ("net force", f"{result.mean_net_force_eV_per_A:.3g} eV/Å on average, taken out"),
    ]
    rows += [("warning", text) for text in warnings]
    table("Molecular dynamics", rows, to_stderr=str(json) == "-")
    record = {**result_record(result), "warnings": warnings}
    write_json(numbers, record)
    write_json(json, record)


def result_record(result: Any) -> dict[str, Any]:
    """The numbers of a run as plain JSON."""
    return {
        "trajectory": str(result.path),
        "n_steps": result.n_steps,
        "resumed_from": result.resumed_from,
        "wall_s": result.wall_s,
        "ns_per_day": result.ns_per_day,
        "temperature_K": result.mean_temperature_K,
        "mean_net_force_eV_per_A": result.mean_net_force_eV_per_A,
        "warnings": result.warnings,
        "warning_counts": result.warning_counts,
    }


def make_integrator(
    ensemble: Ensemble,
    *,
    temperature_K: float | None,
    timestep_fs: float,
    time_constant_fs: float | None,
    chain_length: int | None,
    massive: bool,
    friction_per_ps: float | None,
) -> Integrator:
    """The integrator that the words ask for; a word that it has no use for is refused."""
    from kinetograph.dynamics import Langevin, NoseHoover, VelocityVerlet
    from kinetograph.errors import UserError

    chains = {
        "--time-constant-fs": time_constant_fs,
        "--chain-length": chain_length,
        "--massive": massive or None,
    }
    useless = {
        Ensemble.nve: {"--temperature-K": temperature_K, "--friction-per-ps": friction_per_ps, **chains},
        Ensemble.nose_hoover: {"--friction-per-ps": friction_per_ps},
        Ensemble.langevin: chains,
    }[ensemble]
    for word, value in useless.items():
        if value is not None:
            mend = (
                "Give --initial-temperature-K for velocities."
                if word == "--temperature-K"
                else "Leave it out."
            )
            raise UserError(
                f"{word} has no meaning for the ensemble {ensemble}", where="command line", mend=mend
            )
    if ensemble is Ensemble.nve:
        return VelocityVerlet(timestep_fs=timestep_fs)
    if temperature_K is None:
        raise UserError(
            f"the ensemble {ensemble} needs a temperature", where="command line", mend="Give --temperature-K."
        )
    if ensemble is Ensemble.langevin:
        return Langevin(
            timestep_fs=timestep_fs,
            temperature_K=temperature_K,
            friction_per_ps=1.0 if friction_per_ps is None else friction_per_ps,
        )
    return NoseHoover(
        timestep_fs=timestep_fs,
        temperature_K=temperature_K,
        time_constant_fs=100.0 if time_constant_fs is None else time_constant_fs,
        chain_length=3 if chain_length is None else chain_length,
        massive=massive,
    )
