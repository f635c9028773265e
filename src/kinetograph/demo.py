"""The whole story on argon: reference data, training, errors, dynamics, analysis, and a page.

The state point is that of the GAMD paper (258 atoms, 100 K, 27.27 Å). It lies between gas and liquid,
so the model's runs start from the very frames that the reference runs started from and are compared
with those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetograph import model_file
from kinetograph.analysis import analyze
from kinetograph.atomic_file import write_json
from kinetograph.config import check_config
from kinetograph.data.frames import read_frames, read_structures
from kinetograph.dynamics import NoseHoover, SimulationResult, simulate
from kinetograph.errors import UserError
from kinetograph.evaluation import Errors, evaluate
from kinetograph.potential import Potential
from kinetograph.reference import GeneratedData, generate_argon
from kinetograph.report.page import write_report
from kinetograph.report.record import read_run
from kinetograph.system import System
from kinetograph.trajectory import Trajectory

TEMPERATURE_K = 100.0
TIMESTEP_FS = 4.0
RUN_PS = 10.0
COLD_START_PS = 5.0
FRAME_SPACING_FS = 20.0
CHAIN_LENGTH = 10
TIME_CONSTANT_FS = 40.0
"""As the reference: chains of ten, 25 collisions per ps."""

TRAINING = {
    "model": {"preset": "gamd-covariant", "cutoff_A": 9.0, "width": 32, "n_layers": 1},
    "training": {"max_steps": 2000, "validate_every": 250, "learning_rate": 5e-3},
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """Where the demo left its page, and the numbers of ``summary.json``."""

    page: Path
    summary: dict[str, Any]


def demo(
    folder: Path | str, *, overwrite: bool = False, say: Say = lambda text: None, progress: bool = True
) -> DemoResult:
    """Run everything once and leave it in ``folder``.

    Args:
        say: called with a line when a stage begins.
        progress: progress bars on stderr.

    Raises:
        UserError: the folder holds an earlier demo and may not be replaced.
    """
    folder = Path(folder)
    if (folder / "config.yaml").exists() and not overwrite:
        raise UserError(
            "the folder already holds a demo", where=str(folder), mend="Give --overwrite, or --out."
        )
    from kinetograph.training.fit import train

    began = time.monotonic()
    with _stage("1/5 reference data: argon by OpenMM", say):
        data = generate_argon(folder / "data", overwrite=overwrite)
    with _stage("2/5 training GAMD on its forces", say):
        config = check_config(
            {
                **TRAINING,
                "data": {"train": str(data.train), "valid": str(data.valid)},
            },
            "demo",
        )
        trained = train(config, folder, overwrite=overwrite, progress=progress)
    with _stage("3/5 errors on a held-out trajectory", say):
        potential = model_file.load(trained.model)
        frames = read_frames(data.test)
        errors = evaluate(potential, frames)
        write_json(
            folder / "evaluation.json", {"model": "best.kg", "data": "data/test.extxyz", **errors.to_json()}
        )
    with _stage("4/5 molecular dynamics from the reference's own starting frames", say):
        runs = _dynamics(folder, potential, data, overwrite=overwrite, status=progress)
    with _stage("5/5 analysis against the reference, and the page", say):
        summary = _compare(folder, data, runs, errors)
        summary["seconds"] = round(time.monotonic() - began, 1)
        write_json(folder / "summary.json", summary)
        page = write_report(folder / "report.html", [read_run(folder)], overwrite=True)
    return DemoResult(page=Path(page), summary=summary)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """The demo's result in five lines."""
    s = summary
    return [
        f"forces       MAE {1000.0 * s['force_mae_eV_per_A']:.3g} meV/Å, "
        f"relative error {100.0 * s['relative_error']:.2f} %",
        f"directions   mean cosine {s['cosine_mean']:.5f}, "
        f"{100.0 * s['cosine_share_above_0.96']:.2f} % of atoms above 0.96",
        f"structure    mean |Δg(r)| {s['rdf_mae']:.4f} against the reference"
        + (", within its error band" if s["rdf_within_error_band"] else ""),
        f"temperature  {s['temperature_K']:.2f} ± {s['temperature_error_K']:.2f} K for {TEMPERATURE_K:g} K, "
        f"spread {s['temperature_std_K']:.2f} K for {s['temperature_std_expected_K']:.2f} K",
        f"speed        {s['ns_per_day']:.3g} ns/day for {s['n_atoms']} atoms; "
        f"everything took {s['seconds']:.0f} s",
    ]


def _dynamics(
    folder: Path, potential: Potential, data: GeneratedData, *, overwrite: bool, status: bool
) -> list[SimulationResult]:
    """One run for each held-out reference trajectory, and one from rest beside the last of them."""
    integrator = NoseHoover(
        timestep_fs=TIMESTEP_FS,
        temperature_K=TEMPERATURE_K,
        chain_length=CHAIN_LENGTH,
        time_constant_fs=TIME_CONSTANT_FS,
    )
    starts = [atoms for atoms in read_structures(data.start) if atoms.info["split"] != "train"]
    plan: list[tuple[str, Any, float, float | None]] = [
        (f"argon_{atoms.info['trajectory']}.h5", atoms, RUN_PS, None) for atoms in starts
    ]
    plan.append(("cold_start.h5", starts[-1], COLD_START_PS, 0.0))
    return [
        simulate(
            potential,
            System.from_ase(atoms),
            integrator,
            n_steps=round(1000.0 * length_ps / TIMESTEP_FS),
            path=folder / name,
            every=round(FRAME_SPACING_FS / TIMESTEP_FS),
            initial_temperature_K=initial,
            overwrite=overwrite,
            status=status,
            metadata={
                "model": "best.kg",
                "start": f"data/start.extxyz, trajectory {atoms.info['trajectory']}",
            },
        )
        for name, atoms, length_ps, initial in plan
    ]


def _compare(
    folder: Path, data: GeneratedData, runs: list[SimulationResult], errors: Errors
) -> dict[str, Any]:
    """Write ``analysis.json``; gives the numbers of ``summary.json``."""
    with ExitStack() as stack:
        ours = [stack.enter_context(Trajectory.open(run.path)) for run in runs if run.path is not None]
        reference = [
            stack.enter_context(Trajectory.open(path)) for path in (*data.references, data.cold_start)
        ]
        analysis = analyze(ours, reference)
        n_atoms = len(ours[0].atomic_numbers)
    write_json(folder / "analysis.json", analysis.to_json())
    table = errors.to_json()
    names = (
        "force_mae_eV_per_A",
        "relative_error",
        "cosine_mean",
        "cosine_share_above_0.96",
        "cosine_share_above_0.995",
    )
    steps = sum(run.n_steps for run in runs)
    return {
        **{name: table[name] for name in names},
        **analysis.summary(),
        "ns_per_day": 86400.0 * 1e-6 * TIMESTEP_FS * steps / sum(run.wall_s for run in runs),
        "n_atoms": n_atoms,
        "warnings": [text for run in runs for text in run.warnings],
    }


@contextmanager
def _stage(title: str, say: Say) -> Iterator[None]:
    began = time.monotonic()
    say(f"{title} …")
    yield
    say(f"  {time.monotonic() - began:.0f} s")
