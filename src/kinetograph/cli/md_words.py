"""What the words of ``md`` mean: an ensemble, a temperature, a start, two force models, guards."""

from __future__ import annotations

from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kinetograph.dynamics import Guard, Integrator
    from kinetograph.dynamics.settings import Temperature
    from kinetograph.potential import Potential
    from kinetograph.system import System


class Ensemble(StrEnum):
    nve = "nve"
    nose_hoover = "nose-hoover"
    langevin = "langevin"
    bussi = "bussi"
    mtk = "mtk"
    cell_rescaling = "cell-rescaling"


class Cell(StrEnum):
    isotropic = "isotropic"
    semi_isotropic = "semi-isotropic"
    full = "full"


class RigidBonds(StrEnum):
    hydrogen = "hydrogen"
    all = "all"
    water = "water"


class WaterModel(StrEnum):
    tip3p = "tip3p"
    spc = "spc"


class GuardName(StrEnum):
    temperature = "temperature"
    energy = "energy"
    drift = "drift"
    close_atoms = "close-atoms"
    bonds = "bonds"
    volume = "volume"
    disagreement = "disagreement"


def make_integrator(ensemble: Ensemble, settings: dict[str, Any]) -> Integrator:
    """The integrator that the words ask for.

    Args:
        settings: fields of integrators by name; ``None`` where a word was left out.

    Raises:
        UserError: a word that the ensemble has no use for, or one that it needs is missing.
    """
    from kinetograph import dynamics
    from kinetograph.errors import UserError

    kind: Any = {
        Ensemble.nve: dynamics.VelocityVerlet,
        Ensemble.nose_hoover: dynamics.NoseHoover,
        Ensemble.langevin: dynamics.Langevin,
        Ensemble.bussi: dynamics.Bussi,
        Ensemble.mtk: dynamics.MTK,
        Ensemble.cell_rescaling: dynamics.CellRescaling,
    }[ensemble]
    known = {field.name for field in fields(kind)}
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in known:
            mend = "Leave it out."
            if name == "temperature_K":
                mend = "Give --initial-temperature-K for velocities."
            raise UserError(
                f"{_word(name)} has no meaning for the ensemble {ensemble}", where="command line", mend=mend
            )
    for name, what in (("temperature_K", "a temperature"), ("pressure_bar", "a pressure")):
        if name in known and name not in given:
            raise UserError(
                f"the ensemble {ensemble} needs {what}", where="command line", mend=f"Give {_word(name)}."
            )
    integrator: Integrator = kind(**given)
    return integrator


def parse_temperature(text: str | None) -> Temperature | None:
    """``300``, one for each replica ``300,320``, or a ramp of times in ps and K ``0:100,50:520``.

    Raises:
        UserError: it is none of these.
    """
    from kinetograph.dynamics import Ramp

    if text is None:
        return None
    if ":" in text:
        points = [_numbers(point, ":", "--temperature-K") for point in text.split(",")]
        if all(len(point) == 2 for point in points):
            times, kelvin = zip(*points, strict=True)
            return Ramp(tuple(times), tuple(kelvin))
    return parse_numbers(text, "--temperature-K")


def parse_numbers(text: str | None, word: str) -> float | list[float] | None:
    """A number, or one for each replica with commas between them."""
    if text is None:
        return None
    values = _numbers(text, ",", word)
    return values[0] if len(values) == 1 else values


def _numbers(text: str, separator: str, word: str) -> list[float]:
    from kinetograph.errors import UserError

    try:
        return [float(part) for part in text.split(separator)]
    except ValueError:
        raise UserError(
            f"{word} is {text!r}",
            where="command line",
            mend="Give a number, or one for each replica: 300,320. "
            "A temperature may also be a ramp, times in ps: 0:100,50:520.",
        ) from None


def read_start(
    path: Path,
    frame: str,
    replicas: int,
    *,
    device: str,
    rigid: RigidBonds | None,
    rigid_lengths: WaterModel | None,
    hydrogen_amu: float | None,
) -> System:
    """The structures to start from, each so many times.

    Raises:
        UserError: the file cannot be used, has no such frame, or its bonds cannot be held.
    """
    from kinetograph.bonds import BondRule, with_bonds
    from kinetograph.data.frames import read_structures
    from kinetograph.dynamics import hold_bonds, repartition_hydrogen_mass
    from kinetograph.errors import UserError
    from kinetograph.system import System

    structures = read_structures(path)
    if frame != "all":
        try:
            index = int(frame)
        except ValueError:
            raise UserError(
                f"--frame is {frame!r}", where="command line", mend="Give a number, or all."
            ) from None
        if not -len(structures) <= index < len(structures):
            raise UserError(f"there is no frame {index}; the file has {len(structures)}", where=str(path))
        structures = [structures[index]]
    chosen = [structure for structure in structures for _ in range(replicas)]
    system = System.from_ase(chosen if len(chosen) > 1 else chosen[0], device=device)
    if replicas > 1:  # copies with the same velocities would be the same run
        system = replace(system, velocities=None)
    if rigid is None and rigid_lengths is not None:
        raise UserError("--rigid-lengths needs --rigid", where="command line", mend="Give --rigid water.")
    if rigid is not None or hydrogen_amu is not None:
        system = with_bonds(system, BondRule())
    if rigid is not None:
        lengths = None if rigid_lengths is None else rigid_lengths.value
        system = hold_bonds(system, rigid.value, lengths)  # type: ignore[arg-type]
    if hydrogen_amu is not None:
        system = repartition_hydrogen_mass(system, hydrogen_amu, keep_water=rigid is RigidBonds.water)
    return system


def make_forces(
    model: Path,
    *,
    device: str,
    forces: Literal["direct", "conservative"] | None,
    compiled: bool,
    precision: Literal["float32", "bfloat16"],
    inner: str | None,
    ratio: int | None,
) -> Potential:
    """A model, or an accurate one with a cheap one inside: another file, or its own direct forces.

    Raises:
        UserError: a file cannot be used, or the words contradict each other.
    """
    from kinetograph import model_file
    from kinetograph.dynamics import TwoForces
    from kinetograph.errors import UserError
    from kinetograph.learned_potential import LearnedPotential

    if inner is None:
        if ratio is not None:
            raise UserError(
                "--ratio has no meaning without --inner", where="command line", mend="Leave it out."
            )
        potential = model_file.load(model, device=device, forces=forces)
        if compiled:
            potential.use_compiler()
        potential.use_precision(precision)
        return potential
    if precision != "float32":
        raise UserError(
            "--precision has no meaning with --inner so far", where="command line", mend="Leave it out."
        )
    if forces is not None:
        raise UserError(
            "--forces has no meaning with --inner: the outer forces are the accurate ones",
            where="command line",
            mend="Leave it out.",
        )
    ratio = 8 if ratio is None else ratio
    if inner != "direct":
        cheap = model_file.load(Path(inner), device=device)
        if compiled:
            cheap.use_compiler()
        return TwoForces(cheap, model_file.load(model, device=device), ratio)
    both = model_file.load(model, device=device)
    if not isinstance(both, LearnedPotential):  # a sum or an ensemble: what is added stands inside too
        cheap = model_file.load(model, device=device, forces="direct")
        if compiled:
            cheap.use_compiler()
        return TwoForces(cheap, both, ratio)
    pair = TwoForces.of_heads(both, ratio)
    if compiled and isinstance(pair.inner, LearnedPotential):
        pair.inner.use_compiler()
    return pair


def make_guards(without: list[GuardName], max_temperature_K: float | None) -> tuple[Guard, ...]:
    """The guards that are left, the temperature's with its own limit."""
    from kinetograph import dynamics
    from kinetograph.errors import UserError

    kinds = {
        GuardName.temperature: dynamics.TemperatureGuard,
        GuardName.energy: dynamics.EnergyGuard,
        GuardName.drift: dynamics.DriftGuard,
        GuardName.close_atoms: dynamics.CloseAtomsGuard,
        GuardName.bonds: dynamics.BondGuard,
        GuardName.volume: dynamics.VolumeGuard,
        GuardName.disagreement: dynamics.DisagreementGuard,
    }
    if max_temperature_K is not None and GuardName.temperature in without:
        raise UserError(
            "--max-temperature-K needs the guard of the temperature", where="command line", mend="Keep it."
        )
    guards = []
    for guard in dynamics.DEFAULT_GUARDS:
        if any(isinstance(guard, kinds[name]) for name in without):
            continue
        if isinstance(guard, dynamics.TemperatureGuard):
            guard = replace(guard, max_temperature_K=max_temperature_K)
        guards.append(guard)
    return tuple(guards)


def _word(name: str) -> str:
    return {"mode": "--cell"}.get(name, "--" + name.replace("_", "-"))
