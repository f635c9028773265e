"""Every model on real data at equal training time: one cell a model and a data set, resumable.

    OMP_NUM_THREADS=1 python benchmarks/learning.py run --data DATA --out OUT --cells '3bpa/painn*'
    python benchmarks/learning.py table
    OMP_NUM_THREADS=1 python benchmarks/learning.py long --data DATA --out OUT --cells 'mlearn_Cu/*'
    python benchmarks/learning.py long-table

``run`` trains each cell for ``--minutes`` of processor time on one core and adds its result to
``benchmarks/learning.json``; cells that are there already are left out, so a run that was stopped goes
on, and two runs with different ``--cells`` can share the work. ``table`` prints what is there as Markdown.

The number of steps is chosen beforehand, from the processor time of some steps after warm-up, so that
the learning rate falls to its end within the budget. Of large test sets every n-th frame is used, at
most 400; a slow model is tested, and validated, on 20 or fewer.

``long`` trains PaiNN with either kind of force, and models of angles, for as long as they improve: in
rounds of ``--minutes``, each from the weights of the last one, with a learning rate that rises and falls
again and the settings that ``Row.again`` changes, until the errors of validation frames fall by less than
a twentieth between two rounds in which energies count alike, or ``--most-minutes`` are reached. A training
that was stopped goes on; results are in ``benchmarks/learning_long.json``.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import platform
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ase.io
import torch
import yaml

from kinetograph import model_file
from kinetograph.config import check_config
from kinetograph.data.dataset import ForceDataset, StepSampler, collate
from kinetograph.data.frames import read_frames, read_structures
from kinetograph.evaluation import evaluate
from kinetograph.models import PRESETS, build
from kinetograph.training.fit import TrainResult, train
from kinetograph.training.module import ForceTraining

RESULTS = Path(__file__).with_name("learning.json")
LONG_RESULTS = Path(__file__).with_name("learning_long.json")
MAX_TEST_FRAMES = 400
N_VALIDATIONS = 4


@dataclass(frozen=True)
class DataSet:
    """Where frames are and how they are looked at."""

    train: str
    tests: dict[str, str]
    cutoff_A: float
    batch_size: int
    valid: str | None = None
    """``None``: every tenth training frame is held out."""
    n_neighbors: int = 12
    """For models of the nearest neighbours."""
    link_cutoff_A: float = 5.0
    """For GemNet's quadruplets, of which dense structures have more than memory: 14 million in a frame of
    water with links of 5 Å pass 23 GB."""
    angular_cutoff_A: float | None = None
    """For models of angles, whose cost grows with the neighbours' square; ``None``: as for the others."""
    max_slow_frames: int = 20
    """Of the validation and of each test set, for slow models."""


DATA = {
    "ethanol": DataSet(
        "md17_ethanol/train.extxyz.xz",
        {"test": "md17_ethanol/test.extxyz"},
        5.0,
        8,
        "md17_ethanol/valid.extxyz",
        8,
    ),
    "3bpa": DataSet(
        "3bpa/train.extxyz.xz",
        {"300 K": "3bpa/test_300K.extxyz.xz", "600 K": "3bpa/test_600K.extxyz.xz"},
        5.0,
        4,
        n_neighbors=8,
    ),
    "lips": DataSet("lips/train.extxyz.xz", {"test": "lips/test.extxyz.xz"}, 5.0, 1, "lips/valid.extxyz.xz"),
    "water": DataSet(
        "water_pbe0ts/train.extxyz.xz",
        {"test": "water_pbe0ts/test.extxyz.xz"},
        4.5,
        1,
        "water_pbe0ts/valid.extxyz",
        link_cutoff_A=3.0,
    ),
    "Cu": DataSet(
        "mlearn_Cu/train.extxyz.xz",
        {"test": "mlearn_Cu/test.extxyz"},
        5.0,
        2,
        link_cutoff_A=3.0,
        max_slow_frames=6,
    ),
}


MLEARN = {
    "Ni": (4.0, 4.0),
    "Cu": (4.0, 4.0),
    "Li": (5.0, 4.5),
    "Mo": (5.0, 4.2),
    "Si": (5.0, 4.2),
    "Ge": (5.0, 4.4),
}
"""Cutoffs in Å, of PaiNN and of models of angles, for which they lie behind the first shells. After three
minutes of training PaiNN's energies of nickel were 0.9 meV/atom off with 4 Å, 1.5 with 5, and its forces the
same; of molybdenum 8.6 with 4.2 Å, 6.4 with 5."""
LONG_DATA = {
    "3bpa": DATA["3bpa"],
    **{
        f"mlearn_{name}": DataSet(
            f"mlearn_{name}/train.extxyz.xz",
            {"test": f"mlearn_{name}/test.extxyz"},
            cutoff_A,
            batch_size=2,
            angular_cutoff_A=angular_cutoff_A,
        )
        for name, (cutoff_A, angular_cutoff_A) in MLEARN.items()
    },
}
PUBLISHED = {
    "Ni": ((0.42, 0.02), (0.48, 0.01)),
    "Cu": ((0.46, 0.01), (0.41, 0.01)),
    "Li": ((0.49, 0.01), (0.49, 0.01)),
    "Mo": ((2.24, 0.09), (2.83, 0.09)),
    "Si": ((2.91, 0.07), (2.21, 0.06)),
    "Ge": ((2.06, 0.05), (1.79, 0.05)),
}
"""Test MAE of GAP and MTP, energies in meV/atom and forces in eV/Å (Zuo et al., J. Phys. Chem. A, 2020)."""
ENOUGH = 0.95
"""There is one more round where an error of the validation frames is below this part of the last one's, or
energies counted otherwise in the last one."""


@dataclass(frozen=True)
class Row:
    """One model of laptop size."""

    preset: str
    options: dict[str, Any] = field(default_factory=dict)
    forces: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    nearest: bool = False
    angular: bool = False
    """Whether ``DataSet.angular_cutoff_A`` is the cutoff."""
    after: str | None = None
    """A row whose training takes the first half of the time; this one starts from its model."""
    on: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of ``training``, what is another on a data set."""
    again: dict[str, Any] = field(default_factory=dict)
    """Of ``training``, what the second and later rounds change."""
    slow: bool = False
    """Whether a frame takes so long that few of them must do; see ``DataSet.max_slow_frames``."""


_GEMNET = {
    "width": 64,
    "edge_width": 64,
    "n_layers": 2,
    "triplet_width": 32,
    "triplet_bilinear": 32,
    "quadruplet_width": 16,
    "quadruplet_bilinear": 16,
    "link_cutoff": 5.0,
    "element_table": None,
}
_DIMENET = {"width": 64, "n_layers": 3, "element_table": None}
_DIMENET_PP = {**_DIMENET, "triplet_width": 32, "readout_width": 128}
_SCHNET = {"width": 64, "n_layers": 4, "n_radial": 32, "element_table": None}
_FAST = {"learning_rate": 3e-3}
"""Of PaiNN at this width: 1e-3 gave 23.7, 3e-3 21.7 and 5e-3 21.3 meV/Å on ethanol; GemNet-dT gains
less, 18.4 to 18.0."""
_PRESET_RATE = {"learning_rate": 1e-3}
"""Of PaiNN's cells that were trained before that was seen."""
_GNNFF = {"width": 64, "edge_width": 32, "n_layers": 3}

ROWS = {
    "median": Row("median"),
    "painn direct": Row(
        "painn", {"width": 64}, training=_FAST, on={"ethanol": _PRESET_RATE, "3bpa": _PRESET_RATE}
    ),
    "painn conservative": Row("painn-energy", {"width": 64}, training=_FAST, on={"ethanol": _PRESET_RATE}),
    "painn both": Row("painn-both", {"width": 64}, "both", training=_FAST, on={"ethanol": _PRESET_RATE}),
    "painn direct then conservative": Row(
        "painn-energy", {"width": 64}, training=_PRESET_RATE, after="painn direct"
    ),
    "gnnff": Row("gnnff", _GNNFF, nearest=True),
    "gnnff-smooth": Row("gnnff-smooth", _GNNFF),
    "gnnff-energy": Row("gnnff-energy", _GNNFF),
    "dcf": Row("dcf"),
    "dcf-covariant": Row("dcf-covariant"),
    "gamd": Row("gamd", {"width": 64}),
    "gamd-code": Row("gamd-code", {"width": 64}),
    "gamd-covariant": Row("gamd-covariant", {"width": 64}),
    "gns": Row("gns", {"width": 128, "n_layers": 3}),
    "forcenet": Row("forcenet", {"width": 128, "n_layers": 3}),
    "schnet": Row("schnet", _SCHNET),
    "schnet-direct": Row("schnet-direct", _SCHNET),
    "dimenet": Row("dimenet", _DIMENET),
    "dimenet++": Row("dimenet++", _DIMENET_PP),
    "dimenet++-direct": Row("dimenet++-direct", _DIMENET_PP),
    "gemnet-t": Row("gemnet-t", _GEMNET),
    "gemnet-q": Row("gemnet-q", _GEMNET, slow=True),
    "gemnet-dt": Row("gemnet-dt", _GEMNET),
    "gemnet-dq": Row("gemnet-dq", _GEMNET),
}
"""Laptop sizes: some 64 features and three layers; options that are not named are the preset's."""


_SQUARES = {"energy_loss": "mse", "energy_weight": 100.0, "gradient_clip": 10.0}
"""Of later rounds. By its absolute value an energy that is almost right pulls at the weights as much as one
that is far off, and more than all forces of its frame; what is left of the gradient when its norm is cut
off at 1 says little of either. Its square leaves the forces be where energies are right, and does not give
up on the few surfaces among many crystals."""
LONG_ROWS = {
    "painn direct": Row("painn", {"width": 96}, training=_FAST, again={"learning_rate": 1e-3}),
    "painn conservative": Row(
        "painn-energy",
        {"width": 96},
        training={**_FAST, "energy_weight": 1.0},
        again={"learning_rate": 1e-3, **_SQUARES},
    ),
    "dimenet++": Row(
        "dimenet++",
        _DIMENET_PP,
        training={"energy_weight": 1.0},
        again=_SQUARES,
        angular=True,
    ),
    "gemnet-t": Row("gemnet-t", _GEMNET, training={"energy_weight": 1.0}, angular=True),
}


def cutoff_of(row: Row, data: DataSet) -> float:
    """In Å."""
    return data.angular_cutoff_A if row.angular and data.angular_cutoff_A else data.cutoff_A


def options_of(row: Row, data: DataSet) -> dict[str, Any]:
    """The row's, with what depends on the data."""
    options = dict(row.options)
    if row.nearest:
        options["n_neighbors"] = data.n_neighbors
    if "link_cutoff" in options:
        options["link_cutoff"] = data.link_cutoff_A
    return options


def settings(row: Row, data: DataSet, files: dict[str, Path], max_steps: int) -> Any:
    """The training configuration of a cell."""
    options = options_of(row, data)
    sizes = {name: options.pop(name) for name in ("width", "n_layers") if name in options}
    model = {"preset": row.preset, "cutoff_A": cutoff_of(row, data), "options": options, **sizes}
    if row.forces:
        model["forces"] = row.forces
    training = {
        "max_steps": max_steps,
        "validate_every": max(1, -(-max_steps // N_VALIDATIONS)),
        "batch_size": data.batch_size,
        "warmup_steps": min(100, max(1, max_steps // 10)),
        **row.training,
    }
    return check_config(
        {
            "model": model,
            "data": {"train": str(files["train"]), "valid": str(files["valid"])},
            "training": training,
        },
        "learning table",
    )


def prepare(
    name: str, data: DataSet, folder: Path, root: Path, max_frames: int | None = None
) -> dict[str, Path]:
    """Training, validation and test files of a data set, thinned and split where need be."""
    out = folder / "data" / (name if max_frames is None else f"{name}-{max_frames}")
    out.mkdir(parents=True, exist_ok=True)
    files = {"train": root / data.train, "valid": root / (data.valid or "")}
    if data.valid is None:
        files = {"train": out / "train.extxyz", "valid": out / "valid.extxyz"}
        if not files["valid"].exists():
            frames = read_structures(root / data.train)
            ase.io.write(files["train"], [f for i, f in enumerate(frames) if i % 10 != 5])
            ase.io.write(files["valid"], frames[5::10])
    for test, source in data.tests.items():
        files[f"test {test}"] = path = out / f"{test.replace(' ', '_')}.extxyz"
        if not path.exists():
            frames = read_structures(root / source)
            ase.io.write(path, frames[:: -(-len(frames) // (max_frames or MAX_TEST_FRAMES))])
    if max_frames is not None:
        frames = read_structures(files["valid"])
        files["valid"] = out / "some_valid.extxyz"
        if not files["valid"].exists():
            ase.io.write(files["valid"], frames[:: -(-len(frames) // max_frames)])
    return files


def seconds_per_step(config: Any) -> float:
    """Median processor time of a training step, after some to warm up."""
    frames = read_frames(config.data.train)
    architecture, hyperparameters = config.model_arguments()
    model = build(architecture, frames.elements, hyperparameters)
    data = ForceDataset(frames, model.request)
    module = ForceTraining(model, config.resolved().training, rotate=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    sampler = iter(StepSampler(len(data), config.training.batch_size, 10_000, 0))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 40 and (len(times) < 5 or time.perf_counter() - began < 12.0):
        start = time.process_time()
        batch = collate([data[i] for i in next(sampler)])
        loss = module.loss(model(batch.system, batch.neighbors), batch)
        optimizer.zero_grad()
        module.backward(loss)
        optimizer.step()
        times.append(time.process_time() - start)
    return sorted(times[2:])[len(times[2:]) // 2]


def train_for(
    minutes: float, row: Row, data: DataSet, files: dict[str, Path], run: Path, start: Path | None
) -> tuple[TrainResult, float]:
    """Train a row for so much processor time; gives the result and the time of a step in seconds."""
    config = settings(row, data, files, 1000)
    architecture, hyperparameters = config.model_arguments()
    learns = any(p.requires_grad for p in build(architecture, [1], hyperparameters).parameters())
    step_s = seconds_per_step(config) if learns else 0.0
    # Lightning, the averaged weights and validation take some of the time too: 10 % are left for them.
    max_steps = max(20, int(0.9 * 60.0 * minutes / step_s)) if learns else 1
    config = settings(row, data, files, max_steps)
    if start is not None:
        training = config.training.model_copy(update={"initial_model": start})
        config = config.model_copy(update={"training": training})
    return train(config, run, overwrite=True, progress=False), step_s


def run_long(name: str, row_name: str, minutes: float, most: float, folder: Path, root: Path) -> None:
    """Train a cell in rounds, each from where the last one ended, and keep the result of every round."""
    row, data = LONG_ROWS[row_name], LONG_DATA[name]
    files = prepare(name, data, folder, root)
    last, start, n_steps, cpu_s = None, None, 0, 0.0
    for number in range(1, round(most / minutes) + 1):
        run = folder / f"long-{name}-{row_name}-{minutes:g}-{number}"
        records = [r for r in load(LONG_RESULTS) if (r["data"], r["row"]) == (name, row_name)]
        known = [r for r in records if (r["round"], r["round_minutes"]) == (number, minutes)]
        if not known:
            began = time.process_time()
            again = row if start is None else replace(row, training={**row.training, **row.again})
            result, step_s = trained_or_resumed(minutes, again, data, files, run, start)
            n_steps, cpu_s = n_steps + result.steps, cpu_s + time.process_time() - began
            record = {
                **described(name, row_name, row, data, number * minutes, result, step_s, cpu_s),
                "round": number,
                "round_minutes": minutes,
                "training": again.training,
                "steps": n_steps,
                "tests": tested(result, row, data, files),
                "valid": tested(
                    result, row, replace(data, tests={"valid": ""}), {"test valid": files["valid"]}
                ),
                "model": str(result.model.relative_to(folder)),
            }
            known = [record]
            store(record, LONG_RESULTS, ("data", "row", "round", "round_minutes"))
            print(f"{name}/{row_name}, {number * minutes:g} min", json.dumps(record["tests"]), flush=True)
        (now,) = known
        start, n_steps, cpu_s = folder / now["model"], now["steps"], now["cpu_s"]
        if last is not None and is_over(last, now):
            return
        last = now


def is_over(last: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two rounds that counted energies alike have nearly the same errors of validation frames."""
    counted = [[r["training"].get(key) for key in ("energy_weight", "energy_loss")] for r in (last, now)]
    if counted[0] != counted[1]:
        return False
    return all(new > ENOUGH * old for old, new in zip(valid_errors(last), valid_errors(now), strict=True))


def valid_errors(record: dict[str, Any]) -> list[float]:
    """Of forces and, where there are any, of energies."""
    errors = record["valid"]["valid"]
    return [e for e in (errors["force_mae_meV_per_A"], errors["energy_mae_meV_per_atom"]) if e is not None]


def trained_or_resumed(
    minutes: float, row: Row, data: DataSet, files: dict[str, Path], run: Path, start: Path | None
) -> tuple[TrainResult, float]:
    """As :func:`train_for`, but a training that was stopped goes on."""
    planned = run / "config.yaml"
    if not planned.exists():
        return train_for(minutes, row, data, files, run, start)
    config = check_config(yaml.safe_load(planned.read_text()), str(planned))
    return train(config, run, resume=True, progress=False), seconds_per_step(config)


def run_cell(name: str, row_name: str, minutes: float, folder: Path, root: Path) -> dict[str, Any]:
    """Train and test one cell."""
    row, data = on_data(ROWS[row_name], name), DATA[name]
    files = prepare(name, data, folder, root, data.max_slow_frames if row.slow else None)
    run = folder / f"{name}-{row_name}"
    began = time.process_time()
    first = None
    if row.after is not None:
        before = on_data(ROWS[row.after], name)
        first, _ = train_for(0.5 * minutes, before, data, files, run / "first", None)
    share = 1.0 if first is None else 0.5
    result, step_s = train_for(share * minutes, row, data, files, run, first and first.model)
    cpu_s = time.process_time() - began
    return {
        **described(name, row_name, row, data, minutes, result, step_s, cpu_s),
        "training": row.training,
        "tests": tested(result, row, data, files),
    }


def on_data(row: Row, name: str) -> Row:
    """The row with what it changes on a data set."""
    return replace(row, training={**row.training, **row.on.get(name, {})})


def tested(result: TrainResult, row: Row, data: DataSet, files: dict[str, Path]) -> dict[str, Any]:
    """Errors on every test set."""
    potential = model_file.load(result.model)
    held_out = {test: read_frames(files[f"test {test}"]) for test in data.tests}
    tests: dict[str, dict[str, float | None]] = {}
    for test, frames in held_out.items():
        errors = evaluate(potential, frames)
        energies = errors.energies
        tests[test] = {
            "force_mae_meV_per_A": 1000.0 * errors.forces.mae,
            "force_rmse_meV_per_A": 1000.0 * errors.forces.rmse,
            "relative_error": errors.forces.relative_error,
            "energy_mae_meV_per_atom": None if energies is None else 1000.0 * energies.mae_per_atom,
        }
    if row.forces == "both":
        potential.use_forces("direct")
        for test, frames in held_out.items():
            tests[test]["direct_force_mae_meV_per_A"] = 1000.0 * evaluate(potential, frames).forces.mae
    return tests


def described(
    name: str,
    row_name: str,
    row: Row,
    data: DataSet,
    minutes: float,
    result: TrainResult,
    step_s: float,
    cpu_s: float,
) -> dict[str, Any]:
    """What a result was made of."""
    return {
        "data": name,
        "row": row_name,
        "preset": row.preset,
        "options": options_of(row, data),
        "max_frames": data.max_slow_frames if row.slow else MAX_TEST_FRAMES,
        "forces": row.forces or PRESETS[row.preset].forces,
        "cutoff_A": cutoff_of(row, data),
        "batch_size": data.batch_size,
        "n_parameters": sum(p.numel() for p in model_file.load_model(result.model).parameters()),
        "minutes": minutes,
        "steps": result.steps,
        "ms_per_step": 1000.0 * step_s,
        "cpu_s": cpu_s,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def store(record: dict[str, Any], path: Path = RESULTS, keys: tuple[str, ...] = ("data", "row")) -> None:
    """Add a result to a file, in the place of the one with these keys; two runs may do so at once."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = [r for r in load(path) if any(r[key] != record[key] for key in keys)]
        path.write_text(json.dumps([*records, record], indent=1) + "\n")


def load(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The results so far."""
    return json.loads(path.read_text()) if path.exists() else []


def table() -> str:
    """What there is, as Markdown: force MAE (meV/Å), energy MAE (meV/atom), step time; * of few frames."""
    records = {(r["data"], r["row"]): r for r in load()}
    columns = [(name, test) for name, data in DATA.items() for test in data.tests]
    lines = [
        "| model | forces | parameters | "
        + " | ".join(name if test == "test" else f"{name}, {test}" for name, test in columns)
        + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for row in ROWS:
        cells, known = [], None
        for name, test in columns:
            r = records.get((name, row))
            if r is None:
                cells.append("")
                continue
            known = r
            t = r["tests"][test]
            text = f"{t['force_mae_meV_per_A']:.1f}"
            if t["energy_mae_meV_per_atom"] is not None:
                text += f" / {t['energy_mae_meV_per_atom']:.2g}"
            some = "\\*" if r.get("max_frames", MAX_TEST_FRAMES) < MAX_TEST_FRAMES else ""
            cells.append(f"{text}{some} ({r['ms_per_step']:.0f} ms)")
        if known is not None:
            lines.append(f"| {row} | {known['forces']} | {known['n_parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def long_table() -> str:
    """Every round of each cell, with GAP's and MTP's published errors, as Markdown."""
    lines = [
        "| data | model | minutes | energies by | test | forces, meV/Å | energy, meV/atom | GAP, MTP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    records = sorted(load(LONG_RESULTS), key=lambda record: record["minutes"])
    for name in LONG_DATA:
        published = PUBLISHED.get(name.removeprefix("mlearn_"))
        others = "" if published is None else ", ".join(f"{1000 * f:.0f} / {e}" for e, f in published)
        for row in LONG_ROWS:
            for r in records:
                if (r["data"], r["row"]) != (name, row):
                    continue
                for test, t in r["tests"].items():
                    energy = t["energy_mae_meV_per_atom"]
                    energy = "" if energy is None else f"{energy:.2f}"
                    lines.append(
                        f"| {name} | {row} | {r['minutes']:g} | {_energies_by(r['training'])} | {test} "
                        f"| {t['force_mae_meV_per_A']:.1f} | {energy} | {others} |"
                    )
    return "\n".join(lines)


def _energies_by(training: dict[str, Any]) -> str:
    """How much they counted in a round, and in which form."""
    if "energy_weight" not in training:
        return ""
    form = "ΔE²" if training.get("energy_loss") == "mse" else "\\|ΔE\\|"
    return f"{training['energy_weight']:g} × {form}"


def cells(rows: dict[str, Row], data: dict[str, DataSet], chosen: str) -> list[tuple[str, str]]:
    """Data set and row of the cells that one of the patterns fits."""
    return [
        (name, row)
        for name in data
        for row in rows
        if any(fnmatch.fnmatch(f"{name}/{row}", pattern) for pattern in chosen.split(","))
    ]


def main() -> None:
    """Run cells, or print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="train and test cells")
    run.add_argument("--minutes", type=float, default=5.0)
    run.add_argument("--again", action="store_true", help="also cells that have a result")
    long = verbs.add_parser("long", help="train for as long as it improves")
    long.add_argument("--minutes", type=float, default=10.0, help="of a round")
    long.add_argument("--most-minutes", type=float, default=60.0, help="of all rounds")
    for verb in (run, long):
        verb.add_argument("--data", type=Path, required=True, help="folder of the data sets")
        verb.add_argument("--out", type=Path, required=True, help="where runs go")
        verb.add_argument(
            "--cells", default="*", help="which, as DATA/ROW with wildcards, such as 'ethanol/painn*'"
        )
    verbs.add_parser("table", help="print the results of run")
    verbs.add_parser("long-table", help="print the results of long")
    arguments = parser.parse_args()
    if arguments.verb == "table":
        print(table())
    elif arguments.verb == "long-table":
        print(long_table())
    elif arguments.verb == "long":
        for name, row in cells(LONG_ROWS, LONG_DATA, arguments.cells):
            run_long(name, row, arguments.minutes, arguments.most_minutes, arguments.out, arguments.data)
    else:
        for name, row in cells(ROWS, DATA, arguments.cells):
            done = {(r["data"], r["row"]) for r in load()}
            if (name, row) in done and not arguments.again:
                continue
            record = run_cell(name, row, arguments.minutes, arguments.out, arguments.data)
            store(record)
            print(f"{name}/{row}", json.dumps(record["tests"]), f"{record['steps']} steps", flush=True)


if __name__ == "__main__":
    main()
