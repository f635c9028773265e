"""Labelled frames and reference trajectories of one material, in one folder.

=====================  ================================================================================
file                   holds
=====================  ================================================================================
``train.extxyz``       frames of all trajectories but two: positions, momenta, forces, energy
``valid.extxyz``       the same from the last trajectory but one
``test.extxyz``        the same from the last trajectory
``start.extxyz``       the equilibrated start of every trajectory, ``info["split"]`` says of which split
``reference_<k>.h5``   the held-out trajectories k whole, with denser frames (H5MD)
``cold_start.h5``      the test trajectory again from its start with zero velocities (H5MD)
``provenance.json``    what made all this; it is in every file too
=====================  ================================================================================

Frames are split by trajectory, never within one, and every trajectory has its own seed and its own
equilibrated start. In extended XYZ the units are ASE's: Å, eV, eV/Å; ``info["time_fs"]`` is the time
since the start. The files are written under hidden names and take their places when all is done.
"""

from __future__ import annotations

import json
import platform as machine
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kinetograph import units
from kinetograph.reference.folder import (
    COLD_START,
    PROVENANCE,
    GeneratedData,
    LabelFile,
    finished_or_nothing,
    labelled_atoms,
    refuse_existing,
    trajectory_writer,
)
from kinetograph.reference.plan import Plan
from kinetograph.reference.sampling import (
    CHAIN_LENGTH,
    EQUILIBRATION_FRICTION_PER_PS,
    Material,
    Phase,
    Sampler,
)
from kinetograph.trajectory import Frame, TrajectoryWriter

Progress = Callable[[int, int, str], None]

VELOCITIES = (
    "at the time of the positions: OpenMM's leapfrog velocities plus half a kick; kinetic energy and "
    "temperature are theirs, with 3N-3 degrees of freedom less the constraints; the thermostat controls the "
    "velocities at half steps, and a vibration of angular frequency w is colder by (w dt)^2/4 at full steps"
)


def record(
    folder: Path,
    material: Material,
    model: dict[str, Any],
    plan: Plan,
    progress: Progress | None,
    overwrite: bool,
) -> GeneratedData:
    """Simulate as planned, and write the files above.

    Args:
        model: what the provenance is to say of the force field.
        progress: called with (steps done, steps in all, what is being done).

    Raises:
        UserError: the folder holds such files already, or the plan cannot be done.
    """
    plan.check()
    refuse_existing(folder, overwrite)
    began = time.monotonic()
    sampler = Sampler(
        material,
        temperature_K=plan.temperature_K,
        timestep_fs=plan.timestep_fs,
        platform=plan.platform,
        threads=plan.threads,
    )
    provenance = _provenance(material, model, plan, sampler)
    with finished_or_nothing(folder) as scratch:
        temperatures = _run_all(
            scratch, sampler, plan, provenance, _Ticker(_total_steps(material, plan), progress)
        )
        (scratch / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
    held_out = [k for k in range(plan.n_trajectories) if plan.split_of(k) != "train"]
    return GeneratedData(
        folder=folder,
        train=folder / "train.extxyz",
        valid=folder / "valid.extxyz",
        test=folder / "test.extxyz",
        start=folder / "start.extxyz",
        references=tuple(folder / f"reference_{k}.h5" for k in held_out),
        cold_start=folder / COLD_START,
        n_frames={
            split: plan.n_frames * sum(plan.split_of(k) == split for k in range(plan.n_trajectories))
            for split in ("train", "valid", "test")
        },
        mean_temperature_K=float(np.mean(temperatures)),
        seconds=time.monotonic() - began,
        provenance=provenance,
    )


def _run_all(
    scratch: Path, sampler: Sampler, plan: Plan, provenance: dict[str, Any], ticker: _Ticker
) -> list[float]:
    """Write every file but ``provenance.json``; gives the temperatures of the labelled frames."""
    temperatures: list[float] = []
    seeds = np.random.SeedSequence(plan.seed).spawn(plan.n_trajectories)
    with ExitStack() as stack:
        files = {
            name: LabelFile(stack.enter_context((scratch / f"{name}.extxyz").open("w")), provenance)
            for name in ("train", "valid", "test", "start")
        }
        for trajectory in range(plan.n_trajectories):
            split = plan.split_of(trajectory)
            ticker.text = f"trajectory {trajectory + 1} of {plan.n_trajectories}"
            ticker(0)
            rng = np.random.default_rng(seeds[trajectory])
            start = sampler.equilibrate(rng, plan.equilibration_ps, tick=ticker)
            reference = None
            if split != "train":
                path = scratch / f"reference_{trajectory}.h5"
                metadata = {**provenance, "trajectory": trajectory, "split": split}
                reference = stack.enter_context(trajectory_writer(path, sampler.material, metadata))
            for frame in _labelled_frames(sampler, start, plan, reference, ticker):
                about = {"trajectory": trajectory, "time_fs": frame.time_fs}
                if frame.step == 0:
                    files["start"].write(labelled_atoms(frame, sampler.material, {**about, "split": split}))
                    continue
                files[split].write(labelled_atoms(frame, sampler.material, about))
                assert frame.temperature is not None
                temperatures.append(frame.temperature)
        ticker.text = "cold start"
        ticker(0)
        cold = Phase(start.positions, np.zeros_like(start.velocities))
        metadata = {**provenance, "trajectory": trajectory, "start_velocities": "zero"}
        with trajectory_writer(scratch / COLD_START, sampler.material, metadata) as writer:
            for frame in sampler.run(cold, plan.n_cold_frames, plan.steps_per_reference_frame):
                writer.append(frame)
                ticker(plan.steps_per_reference_frame if frame.step else 0)
    return temperatures


def _labelled_frames(
    sampler: Sampler, start: Phase, plan: Plan, reference: TrajectoryWriter | None, ticker: _Ticker
) -> Iterator[Frame]:
    """The start and the labelled frames of one trajectory; every frame goes to ``reference`` too."""
    if reference is None:
        for frame in sampler.run(start, plan.n_frames, plan.steps_per_label):
            ticker(plan.steps_per_label if frame.step else 0)
            yield frame
        return
    last_label = plan.n_frames * plan.steps_per_label
    for frame in sampler.run(start, plan.n_reference_frames, plan.steps_per_reference_frame):
        reference.append(frame)
        ticker(plan.steps_per_reference_frame if frame.step else 0)
        if frame.step % plan.steps_per_label == 0 and frame.step <= last_label:
            yield frame


class _Ticker:
    """Adds up steps and passes them on to the progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done = 0
        self.total = total
        self.text = ""
        self._progress = progress

    def __call__(self, steps: int) -> None:
        self.done += steps
        if self._progress is not None:
            self._progress(self.done, self.total, self.text)


def _total_steps(material: Material, plan: Plan) -> int:
    equilibration = round(plan.equilibration_ps * units.PS_IN_FS / material.equilibration_timestep_fs)
    return (
        plan.n_trajectories * equilibration
        + (plan.n_trajectories - 2) * plan.n_frames * plan.steps_per_label
        + (2 * plan.n_reference_frames + plan.n_cold_frames) * plan.steps_per_reference_frame
    )


def _provenance(material: Material, model: dict[str, Any], plan: Plan, sampler: Sampler) -> dict[str, Any]:
    return {
        "program": "kinetograph",
        "version": _version("kinetograph"),
        "openmm_version": sampler.openmm.version.version,
        "python_version": machine.python_version(),
        "platform": plan.platform,
        "platform_properties": sampler.properties,
        "material": material.name,
        "model": model,
        "n_atoms": len(material.atomic_numbers),
        "box_A": material.box_A,
        "temperature_K": plan.temperature_K,
        "timestep_fs": plan.timestep_fs,
        "thermostat": {
            "name": "Nose-Hoover chains (openmm.NoseHooverIntegrator)",
            "chain_length": CHAIN_LENGTH,
            "collision_frequency_per_ps": material.collisions_per_ps,
        },
        "equilibration": {
            "method": "minimisation, then openmm.LangevinMiddleIntegrator",
            "duration_ps": plan.equilibration_ps,
            "timestep_fs": material.equilibration_timestep_fs,
            "friction_per_ps": EQUILIBRATION_FRICTION_PER_PS,
        },
        "velocities": VELOCITIES,
        "degrees_of_freedom": material.degrees_of_freedom,
        "n_trajectories": plan.n_trajectories,
        "n_frames": plan.n_frames,
        "spacing_fs": plan.spacing_fs,
        "split_of_trajectory": {str(k): plan.split_of(k) for k in range(plan.n_trajectories)},
        "reference_ps": plan.n_reference_frames * plan.reference_spacing_fs / units.PS_IN_FS,
        "reference_spacing_fs": plan.reference_spacing_fs,
        "cold_start_ps": plan.n_cold_frames * plan.reference_spacing_fs / units.PS_IN_FS,
        "seed": plan.seed,
        "seeds": "numpy.random.SeedSequence(seed).spawn(n_trajectories), one for each trajectory",
        "units": {
            "length": "angstrom",
            "energy": "eV",
            "force": "eV/angstrom",
            "mass": "amu",
            "momenta": "ASE's, sqrt(amu eV)",
        },
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
