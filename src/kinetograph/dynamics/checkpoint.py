"""A state on disk: one safetensors file that continues a run bit for bit. Loading it runs no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from kinetograph.atomic_file import write_atomically
from kinetograph.dynamics.noise import Stream, Streams
from kinetograph.dynamics.rigid import rigid_bonds
from kinetograph.dynamics.state import Integrator, State
from kinetograph.dynamics.velocities import inertia_of
from kinetograph.errors import UserError
from kinetograph.graph import GraphRequest
from kinetograph.neighbors import NeighborList
from kinetograph.potential import Potential, Prediction
from kinetograph.system import System

FORMAT_VERSION = 2
HEADER_KEY = "kinetograph_state"


@dataclass(frozen=True)
class RunDescription:
    """What must be the same for a run to go on: compared when it is resumed, and kept in its files."""

    integrator: dict[str, Any]
    potential: dict[str, Any]
    seed: int | list[int]
    skin_A: float
    every: int
    initial_temperature_K: float | list[float] | None


def describe_integrator(integrator: Integrator) -> dict[str, Any]:
    """Its name and its fields."""
    assert is_dataclass(integrator)
    settings = json.dumps(asdict(integrator), default=lambda array: array.tolist())
    return {"name": type(integrator).__name__, **json.loads(settings)}


def describe_potential(potential: Potential) -> dict[str, Any]:
    """Its classes, its plain settings, what it asks for, and a fingerprint of its weights."""
    settings = {}
    for name, module in potential.named_modules():
        if type(module).__module__.startswith("torch."):
            continue  # layers: the shapes of their weights tell
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, int | float | str) and key != "training" and not key.startswith("_")
        }
        if plain:
            settings[name] = plain
    digest = hashlib.sha256()
    for name, value in potential.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        digest.update(plain.view(torch.uint8).numpy().tobytes())
    return {
        "name": type(potential).__name__,
        "request": asdict(potential.request),
        "settings": settings,
        "weights_sha256": digest.hexdigest(),
    }


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of its run."""

    run: RunDescription
    step: int
    streams: Streams
    """Of the structures that are left."""
    failures: list[tuple[int, int, str]]
    """Replica, step and reason of the structures of this batch that are gone."""
    batches: list[int]
    """How many replicas each batch of the run has."""
    conservative: bool

    @property
    def n_begun(self) -> int:
        """How many structures this batch began with."""
        return len(self.streams) + len(self.failures)


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds, in the memory of the host: the run goes on while it is written."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    @staticmethod
    def of(
        state: State,
        description: RunDescription,
        *,
        failures: Sequence[tuple[int, int, str]],
        batches: Sequence[int],
    ) -> Snapshot:
        """A state is never changed, so on the host its tensors are kept as they are; others are copied.

        Args:
            failures: replica, step and reason of the structures that left the batch.
            batches: how many replicas each batch of the run has.
        """
        parts: dict[str, System | Prediction | State] = {
            "system": state.system,
            "prediction": state.prediction,
            "state": state,
        }
        tensors = {
            f"{part}.{field.name}": getattr(value, field.name)
            for part, value in parts.items()
            for field in fields(value)
            if isinstance(getattr(value, field.name), Tensor)
        }
        for part, variables in (("of_systems", state.of_systems), ("of_atoms", state.of_atoms)):
            tensors |= {f"{part}.{name}": value for name, value in variables.items()}
        tensors["neighbors.positions"] = state.neighbors.positions
        tensors["neighbors.cell"] = state.neighbors.cell
        header = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "conservative": state.prediction.conservative,
            "failures": list(failures),
            "batches": list(batches),
            "streams": [[stream.seed, stream.replica] for stream in state.streams],
            "run": asdict(description),
        }
        return Snapshot({name: value.detach().cpu() for name, value in tensors.items()}, header)

    def write(self, path: Path) -> None:
        """Replace what is there in one atomic step.

        Raises:
            UserError: it cannot be written.
        """
        # the format holds no two tensors that share memory
        copies = {
            name: value.clone(memory_format=torch.contiguous_format) for name, value in self.tensors.items()
        }
        write_atomically(path, to_safetensors(copies, metadata={HEADER_KEY: json.dumps(self.header)}))


def read_header(path: Path) -> Header:
    """What a checkpoint says of its run, without its tensors.

    Raises:
        UserError: the file is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise UserError(
            "there is nothing to resume: no such checkpoint",
            where=str(path),
            mend="Start the run anew, without resume.",
        )
    with _refused_if_damaged(path), safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[HEADER_KEY])
        streams = tuple(Stream(seed, replica) for seed, replica in header["streams"])
        failures = [tuple(failure) for failure in header["failures"]]
        return Header(
            run=RunDescription(**header["run"]),
            step=header["step"],
            streams=streams,
            failures=failures,
            batches=header.get("batches", [len(streams) + len(failures)]),
            conservative=header["conservative"],
        )


def read_state(
    path: Path, header: Header, request: GraphRequest, device: torch.device | str = "cpu"
) -> State:
    """The state that was written.

    The neighbour list is built where it was built in the run, so that it is the same list.

    Raises:
        UserError: the file is damaged.
    """
    with _refused_if_damaged(path):
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        system = System(**_part(tensors, "system"))
        reference = replace(system, positions=tensors["neighbors.positions"], cell=tensors["neighbors.cell"])
        return State(
            system=system,
            prediction=Prediction(**_part(tensors, "prediction"), conservative=header.conservative),
            neighbors=NeighborList.build(
                reference, request.reach, skin=header.run.skin_A, bond_rule=request.bond_rule
            ),
            inertia=inertia_of(system, remove_com=header.run.integrator["remove_com"]),
            rigid=rigid_bonds(system)[1] if system.rigid is not None and len(system.rigid) else None,
            step=header.step,
            streams=header.streams,
            of_systems=_part(tensors, "of_systems"),
            of_atoms=_part(tensors, "of_atoms"),
            **_part(tensors, "state"),
        )


@contextmanager
def _refused_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the checkpoint cannot be read: it is damaged or of another kind ({error})",
            where=str(path),
            mend="Start the run anew from the last frame of its trajectory.",
        ) from error


def require_same_run(old: RunDescription, new: RunDescription, where: Path) -> None:
    """Raise ``UserError`` naming what differs from the run that wrote the checkpoint."""
    before, now = asdict(old), json.loads(json.dumps(asdict(new)))
    for key, value in _flat(now).items():
        known = _flat(before).get(key)
        if known != value:
            raise UserError(
                f"the run cannot be resumed: {key} is {value}, but was {known}",
                where=str(where),
                mend="Resume with the settings it was started with, or start a new run under another name.",
            )


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Any]:
    prefix = part + "."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
