"""``benchmark``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kinetograph.benchmark.measure import Clock, Row

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Cases = Annotated[str | None, typer.Option(help="Which models, with commas between; all if left out.")]
Atoms = Annotated[int, typer.Option(min=3, help="Atoms of the box of water.")]
Sizes = Annotated[str, typer.Option(help="Atoms of the boxes, with commas between.")]
Seconds = Annotated[float, typer.Option(min=0.0, help="Time for each case, at least three rounds though.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads on the CPU.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu or cuda.")]
Out = Annotated[Path, typer.Option(help="Folder for the rows (JSON) and the page.")]
Json = Annotated[Path | None, typer.Option(help="Also write the rows here; `-` for stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier figures in the folder.")]

FOLDER = Path("benchmark")
NAMES = {"ns_per_day": "ns/day", "kB_per_atom": "kB an atom", "energy_eV": "eV"}
ALONE = {"force_call_s": "force call", "new_list_s": "new list"}
"""Times that a whole step's row names beside it."""
SHARES = {"force_share": "forces", "neighbor_share": "list", "integrator_share": "rest"}
WHOLE_STEP = "whole step"
SHORT = {*SHARES, "ns_per_day", "kB_per_atom", "exponent"}


@app.callback()
def benchmark() -> None:
    """Speed, side by side, measured here: what was computed, how, how long it took and how exact it was.

    All variants take turns in one process. Times on one thread are processor time. Rows are kept in a
    folder, one file for each kind, and a page there draws all of them.

    Example: `kinetograph benchmark step`
    """


@app.command()
def step(
    cases: Cases = None,
    atoms: Atoms = 774,
    seconds: Seconds = 4.0,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Force calls of each model, fast against naive, and what a whole MD step is made of.

    Example: `kinetograph benchmark step --cases painn,gamd --atoms 6282`
    """
    from kinetograph.benchmark.cases import chosen
    from kinetograph.benchmark.step import step_rows

    models = chosen(cases)
    _run(
        "step",
        lambda clock, peaks: step_rows(models, atoms, clock, peaks, seconds),
        *(threads, device, out, json, overwrite),
        needs_peak=True,
    )


@app.command()
def neighbors(
    sizes: Sizes = "774,6282",
    seconds: Seconds = 5.0,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """The neighbour list with vectors, beside vesin's and ASE's, and its share of a GAMD step.

    Example: `kinetograph benchmark neighbors --sizes 774,72279`
    """
    from kinetograph.benchmark.lists import neighbor_rows

    boxes = _sizes(sizes)
    _run(
        "neighbors",
        lambda clock, _: neighbor_rows(boxes, clock, seconds),
        *(threads, device, out, json, overwrite),
    )


@app.command()
def scaling(
    cases: Cases = "painn,gamd",
    sizes: Sizes = "774,6282,12255",
    seconds: Seconds = 10.0,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """How the time of a whole step grows with the atoms, and what a force call and a list take alone.

    Example: `kinetograph benchmark scaling --cases painn --sizes 774,6282,72279`
    """
    from kinetograph.benchmark.cases import chosen
    from kinetograph.benchmark.scaling import scaling_rows

    models, boxes = chosen(cases), _sizes(sizes)
    _run(
        "scaling",
        lambda clock, _: scaling_rows(models, boxes, clock, seconds),
        *(threads, device, out, json, overwrite),
    )


@app.command()
def memory(
    cases: Cases = None,
    atoms: Atoms = 6282,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """The most memory that a whole step needs at once, for each atom.

    Example: `kinetograph benchmark memory --cases gamd`
    """
    import torch

    from kinetograph.benchmark.cases import chosen
    from kinetograph.benchmark.memory import memory_rows

    models = chosen(cases)
    _run(
        "memory",
        lambda *_: memory_rows(models, atoms, torch.device(device), threads),
        *(threads, device, out, json, overwrite),
    )


@app.command()
def train(
    cases: Cases = None,
    atoms: Atoms = 192,
    seconds: Seconds = 5.0,
    threads: Threads = 1,
    device: Device = "cpu",
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """A training step: forward, loss, backward, optimiser.

    Example: `kinetograph benchmark train --cases painn,schnet`
    """
    from kinetograph.benchmark.cases import chosen
    from kinetograph.benchmark.train import train_rows

    models = chosen(cases)
    _run(
        "train",
        lambda clock, _: train_rows(models, atoms, clock, seconds),
        *(threads, device, out, json, overwrite),
    )


@app.command()
def peers(
    environments: Annotated[
        Path, typer.Option(help="Folder with a virtual environment for each peer, named as the peer is.")
    ] = Path("peers"),
    install: Annotated[
        bool, typer.Option("--install", help="First make the environments that are missing (minutes, GB).")
    ] = False,
    peers: Annotated[
        str | None,
        typer.Option(
            help="Which, with commas between: openmm, lammps, schnetpack, torch-sim, mace, nequip; all if "
            "left out."
        ),
    ] = None,
    atoms: Annotated[int, typer.Option(min=3, help="Atoms of the force calls and of argon.")] = 774,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Atoms of the boxes for MD steps of water, with commas between; --atoms if left out."
        ),
    ] = None,
    seconds: Seconds = 20.0,
    threads: Threads = 1,
    out: Out = FOLDER,
    json: Json = None,
    overwrite: Overwrite = False,
) -> None:
    """Other programs, each in an environment of its own, on the same structures, in turns with ours.

    Force calls of SchNetPack, NequIP and MACE, MD steps of rigid water by OpenMM and LAMMPS and of argon by
    torch-sim as well. A peer without an environment is left out. The figure of each is its time over ours.

    Example: `kinetograph benchmark peers --environments peers --install --peers openmm,lammps`
    """
    from kinetograph.benchmark import environments as places
    from kinetograph.benchmark.peers import peer_rows
    from kinetograph.cli.output import err, refuse_existing

    names = places.chosen(peers)
    boxes = [atoms] if sizes is None else _sizes(sizes)

    def say(line: str) -> None:
        err.print(line, soft_wrap=True, markup=False)

    if install:
        refuse_existing(out / "peers.json", json, overwrite=overwrite)
        places.install(environments, names, say)
    _run(
        "peers",
        lambda clock, _: peer_rows(environments, names, atoms, boxes, clock, seconds, say),
        *(threads, "cpu", out, json, overwrite),
    )


def _run(
    kind: str,
    rows_of: Callable[[Clock, dict[str, float]], Iterable[Row]],
    threads: int,
    device: str,
    out: Path,
    json: Path | None,
    overwrite: bool,
    *,
    needs_peak: bool = False,
) -> None:
    """Measure, showing rows as they come; then write the rows and the page."""
    import torch

    from kinetograph.benchmark import machine
    from kinetograph.benchmark.measure import Clock
    from kinetograph.cli.output import checked_device, err, refuse_existing, write_json
    from kinetograph.report.benchmark_page import is_benchmark_page, write_benchmark_page

    path = out / f"{kind}.json"
    page = out / "benchmark.html"
    refuse_existing(path, json, overwrite=overwrite)
    if page.exists() and not is_benchmark_page(page):  # our own is drawn anew from the rows
        refuse_existing(page, overwrite=overwrite)
    for folder in (out, *([] if json is None or str(json) == "-" else [json.parent])):
        folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    clock = Clock(torch.device(checked_device(device)), threads)
    facts = machine.facts(clock)
    peaks = machine.peaks(clock) if needs_peak else {}
    facts |= {f"peak_{name}_GFLOP_per_s": round(peak / 1e9, 1) for name, peak in peaks.items()}
    err.print(" · ".join(f"{name} {value}" for name, value in facts.items()), style="dim", soft_wrap=True)
    rows: list[Row] = []
    with err.status("measuring …"):
        for row in rows_of(clock, peaks):
            rows.append(row)
            err.print(_line(row), soft_wrap=True)
    if not facts["load"] or facts["load"] > threads:
        err.print(f"The machine was busy (load {facts['load']}): ratios hold better than times.", style="dim")
    data = {"benchmark": kind, "machine": facts, "rows": [row.to_json() for row in rows]}
    write_json(path, data)
    write_json(json, data)
    write_benchmark_page(page, sorted(out.glob("*.json")), overwrite=True)
    if str(json) != "-":
        _table(kind, rows)
    err.print(f"Rows: {path}; page: {page}")


def _sizes(text: str) -> list[int]:
    from kinetograph.errors import UserError

    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 3:
        raise UserError(
            f"{text!r} is no list of numbers of atoms",
            where="--sizes",
            mend="Give whole numbers of at least 3 with commas between, such as 774,6282.",
        )
    return sorted(set(sizes))


def _cells(row: Row, *, brief: bool) -> list[str]:
    """Of the table, in its order; a brief one has only numbers that are known by a short name."""

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        row.case,
        row.variant + (", bfloat16" if row.precision == "bfloat16" else ""),
        f"{row.n_atoms:,}",
        f"{row.n_edges / row.n_atoms:.0f}",
        "" if row.median_s is None else _in_ms(row.median_s),
        "" if row.speedup is None else f"{row.speedup:{'.2g' if row.speedup < 99.0 else '.0f'}}×",
        shown(None if row.fraction_of_peak is None else 100.0 * row.fraction_of_peak, ".0f")
        + (" %" if row.fraction_of_peak is not None else ""),
        shown(row.relative_error, ".1e"),
        ", ".join(_worded(name, value) for name, value in row.more.items() if not brief or name in SHORT),
    ]


def _worded(name: str, value: float | str) -> str:
    """What else a row says, shortly."""
    if isinstance(value, str):
        return value
    if name in ALONE:
        return f"{ALONE[name]} {_in_ms(value)} ms"
    if name in SHARES:
        return f"{SHARES[name]} {100.0 * value:.1f} %"
    return f"{value:.3g} {NAMES[name]}" if name in NAMES else f"{name} {value:.3g}"


def _line(row: Row) -> str:
    return "  ".join(cell for cell in _cells(row, brief=False) if cell)


def _table(kind: str, rows: Sequence[Row]) -> None:
    """Calls in one table, whole steps and what they are made of in another."""
    steps = [row for row in rows if row.variant == WHOLE_STEP]
    gain = "over ours" if kind == "peers" else "speed-up"
    _print_table(
        f"benchmark {kind}",
        ["case", "variant", "atoms", "edges/atom", "ms", gain, "of peak", "error", ""],
        [_cells(row, brief=True) for row in rows if row.variant != WHOLE_STEP],
    )
    if kind == "scaling":
        _print_table(
            "whole steps, and a force call and a new list by themselves, ms",
            ["case", "atoms", "edges/atom", "step", "force call", "new list", "ns/day", "exponent"],
            [[*_start_of(row), *_alone(row), *_end_of(row)] for row in steps],
        )
    else:
        _print_table(
            "whole steps: forces, neighbour list, and all else (integrator, guards, loop)",
            ["case", "atoms", "edges/atom", "ms", "forces", "list", "rest", "ns/day", "exponent"],
            [[*_start_of(row), *_shares(row), *_end_of(row)] for row in steps],
        )


def _start_of(row: Row) -> list[str]:
    case, _, atoms, edges, ms, *_ = _cells(row, brief=True)
    return [case, atoms, edges, ms]


def _shares(row: Row) -> list[str]:
    # On a GPU nobody looks at a clock within a step.
    return [f"{100.0 * float(row.more[name]):.1f} %" if name in row.more else "" for name in SHARES]


def _alone(row: Row) -> list[str]:
    return [_in_ms(float(row.more[name])) for name in ALONE]


def _in_ms(seconds: float) -> str:
    from kinetograph.report.benchmark_page import in_ms

    return in_ms(seconds)


def _end_of(row: Row) -> list[str]:
    exponent = f"{row.more['exponent']:.3f}" if "exponent" in row.more else ""
    return [f"{row.more['ns_per_day']:.3g}", exponent]


def _print_table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """With the columns that hold something; a case is named once."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    used = [k for k in range(len(heads)) if any(row[k] for row in rows)]
    view = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for k in used:
        words = heads[k] in ("case", "variant", "")
        view.add_column(heads[k], justify="left" if words else "right", no_wrap=not words)
    before = None
    for row in rows:
        view.add_row(*(("" if k == 0 and row[0] == before else row[k]) for k in used))
        before = row[0]
    Console(highlight=False).print(view)
