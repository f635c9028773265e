"""``benchmark memory``: the most that a step needs at once, for each atom.

Each case runs in a process of its own, which makes a step of a small box first, so that code and weights are
there, and then one of the box that is asked for: what the peak has grown by belongs to the atoms. On a
GPU it is the peak of what torch has allocated.

On Linux malloc is told to give large pieces back at once. Left alone it keeps them, and how many depends on
chance: GAMD's figure would be 23 kB an atom or 30, of which a step needs 23.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from kinetograph.benchmark.cases import CASES, Case
from kinetograph.benchmark.measure import Row
from kinetograph.benchmark.step import SKIN_A
from kinetograph.benchmark.structures import water
from kinetograph.dynamics.verlet import VelocityVerlet
from kinetograph.errors import UserError
from kinetograph.system import System

SMALL = 192
N_STEPS = 2
KILO = 1000.0


def memory_rows(
    cases: Mapping[str, Case], n_atoms: int, device: torch.device, n_threads: int
) -> Iterator[Row]:
    """Peak memory of MD steps, list, graph, forces and integrator together.

    Raises:
        UserError: the process of a case did not answer; most often it was killed for want of memory.
    """
    for name in cases:
        command = [sys.executable, "-m", "kinetograph.benchmark.memory"]
        done = subprocess.run(
            [*command, name, str(n_atoms), str(device), str(n_threads)],
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
            raise UserError(
                f"the step of {name!r} did not end: {last}",
                where="benchmark memory",
                mend="Ask for fewer --atoms, or leave this case out with --cases.",
            )
        yield Row(**json.loads(done.stdout))


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # of this program alone: what getrusage gives remembers the one that started it
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def _fresh_peak_bytes(device: torch.device) -> int:
    """What is in use now, from where the peak is counted anew as far as the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes(device)


def _steps(case: Case, system: System) -> int:
    """Make steps; the number of edges."""
    potential = case.potential().to(system.device)
    potential.force_scale.fill_(1e-6)
    integrator = VelocityVerlet(0.5)
    with torch.no_grad():
        state = integrator.init(system, potential, 0, skin_A=SKIN_A)
        for _ in range(N_STEPS):
            state = integrator.step(state, potential)
    return state.neighbors.n_edges


def main() -> None:
    """Measure one case: NAME N_ATOMS DEVICE N_THREADS."""
    name, n_atoms, device_name, n_threads = sys.argv[1:]
    torch.set_num_threads(int(n_threads))
    case, device = CASES[name], torch.device(device_name)
    small, large = (water(min(n, case.largest)).to(device) for n in (SMALL, int(n_atoms)))
    _steps(case, small)
    before = _fresh_peak_bytes(device)
    n_edges = _steps(case, large)
    per_atom = (_peak_bytes(device) - before) / large.n_atoms
    row = Row(
        case=name,
        variant="memory",
        precision="float32",
        n_atoms=large.n_atoms,
        n_edges=n_edges,
        median_s=None,
        more={"kB_per_atom": per_atom / KILO},
    )
    sys.stdout.write(json.dumps({**row.__dict__, "more": dict(row.more)}))


if __name__ == "__main__":
    main()
