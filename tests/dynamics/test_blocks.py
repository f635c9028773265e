"""Blocks of steps against the same steps one by one.

Without a GPU a recording is a function that is called again: all but the recording itself is tested here,
and that a step asks the device nothing, by tensors without numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from kinetograph import kernels
from kinetograph import potential as potential_module
from kinetograph.dynamics import loop
from kinetograph.dynamics.blocks import Blocks, CudaGraph, blocks_for
from kinetograph.dynamics.bussi import Bussi
from kinetograph.dynamics.langevin import Langevin
from kinetograph.dynamics.nose_hoover import NoseHoover
from kinetograph.dynamics.replicas import keep_replicas
from kinetograph.dynamics.simulate import simulate
from kinetograph.dynamics.state import Integrator, State, changed
from kinetograph.dynamics.verlet import VelocityVerlet
from kinetograph.learned_potential import LearnedPotential
from kinetograph.models import build
from kinetograph.nn import segments
from kinetograph.system import System

INTEGRATORS: list[Integrator] = [
    VelocityVerlet(0.5),
    Langevin(0.5, 300.0, friction_per_ps=20.0),
    Bussi(0.5, 300.0, time_constant_fs=20.0),
]
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), "cpu"]


class Again:
    """A recording that calls what was recorded."""

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        function()  # as a GPU does before it records
        self.play = function


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LearnedPotential, "_runs_on_gpu", True)
    monkeypatch.setattr(kernels, "triton_kernels", lambda: True)


def potential(forces: str = "conservative", device: str = "cpu") -> LearnedPotential:
    torch.manual_seed(3)
    made = build("painn", [18], {"cutoff": 4.5, "width": 16, "n_layers": 2, "forces": forces})
    with torch.no_grad():
        made.force_scale.fill_(0.02)
    return made.eval().to(device)


def crystal(n_systems: int = 1) -> System:
    """Argon at rest, its atoms off their places."""
    rng = np.random.default_rng(1)
    frames = []
    for _ in range(n_systems):
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 3.7
        frames.append(ase.Atoms("Ar27", grid + rng.normal(0.0, 0.1, (27, 3)), cell=[11.1] * 3, pbc=True))
    system = System.from_ase(frames)
    velocities = torch.from_numpy(rng.normal(0.0, 3e-3, (27 * n_systems, 3)))
    return replace(system, velocities=velocities)


def started(integrator: Integrator, model: LearnedPotential, system: System, skin: float = 1.0) -> State:
    state = integrator.init(system, model, 7, skin_A=skin)
    # The oracle draws its random numbers as a GPU does, too.
    return changed(state, step=torch.tensor(0, device=system.device))


def recorder(device: str) -> Any:
    return CudaGraph if device == "cuda" else Again


def blocks(integrator: Integrator, model: LearnedPotential, state: State, limit_K: float = 1e4) -> Blocks:
    form = model.steady_form(state.system)
    assert form is not None
    limits = torch.full_like(state.temperature, limit_K)
    return Blocks(integrator, form, state, limits, recorder(state.system.device.type))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("forces", ["conservative", "direct", "both"])
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: type(i).__name__)
def test_a_block_is_the_same_steps(integrator: Integrator, forces: str, device: str) -> None:
    model, system = potential(forces, device), crystal(2 if forces == "both" else 1).to(device)
    model.also_direct = forces == "both"
    with torch.no_grad():
        theirs = start = started(integrator, model, system)
        temperature, net = torch.zeros(2, *start.temperature.shape).to(start.temperature)
        made = blocks(integrator, model, start)
        for length in (1, 7, 12):
            for _ in range(length):
                theirs = integrator.step(theirs, model)
                temperature += theirs.temperature
                net += torch.linalg.vector_norm(theirs.net_force, dim=1)
        ours = start
        for length in (1, 7, 12):
            block = made.advance(ours, length)
            assert block is not None
            ours = block.state
            temperature -= block.temperature_K
            net -= block.net_force_eV_per_A
    assert int(ours.step) == 20
    moved = float((theirs.positions - start.positions).abs().max())
    assert moved > 0.02
    assert float((ours.positions - theirs.positions).abs().max()) < 1e-6 * moved
    torch.testing.assert_close(ours.velocities, theirs.velocities, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(ours.prediction.forces, theirs.prediction.forces, rtol=1e-4, atol=1e-7)
    assert float(temperature.abs().max()) < 1e-2
    assert float(net.abs().max()) < 1e-5
    for name in ("energy", "stress", "direct_forces"):
        value, exact = (getattr(state.prediction, name) for state in (ours, theirs))
        assert (value is None) == (exact is None)
        if exact is not None:
            torch.testing.assert_close(value, exact, rtol=1e-4, atol=1e-6)
    for name, exact in theirs.of_systems.items():
        torch.testing.assert_close(ours.of_systems[name], exact, rtol=1e-4, atol=1e-7)


def test_a_state_that_was_given_out_is_not_written_to() -> None:
    model, integrator = potential(), VelocityVerlet(0.5)
    with torch.no_grad():
        start = started(integrator, model, crystal())
        made = blocks(integrator, model, start)
        first = made.advance(start, 3)
        assert first is not None
        kept = first.state.positions.clone()
        made.advance(first.state, 3)
        assert torch.equal(first.state.positions, kept)
        again = made.advance(start, 3)
    assert again is not None
    assert torch.equal(again.state.positions, kept)


def test_a_worn_list_is_made_anew_and_a_longer_one_finds_room() -> None:
    model, integrator = potential("direct"), VelocityVerlet(2.0)
    with torch.no_grad():
        start = started(integrator, model, crystal(), skin=0.3)
        made = blocks(integrator, model, start)
        state, theirs, n_lists = start, start, 0
        for _ in range(16):
            block = made.advance(state, 3)
            for _ in range(3):
                theirs = integrator.step(theirs, model)
            assert block is not None
            n_lists += block.state.neighbors is not state.neighbors
            state = block.state
        assert 2 <= n_lists < 16
        assert float((state.positions - theirs.positions).abs().max()) < 1e-6
        squeezed = replace(start.neighbors, skin=2.5)  # asks for lists that are much longer
        far = changed(start, neighbors=squeezed, system=changed(start.system))
        made.list.positions.add_(10.0)  # worn
        made.held = squeezed
        longer = made.advance(far, 2)
    assert longer is not None
    assert longer.state.neighbors.n_edges > 1.25 * start.neighbors.n_edges


def test_what_goes_wrong_is_left_to_the_loop() -> None:
    integrator = VelocityVerlet(0.5)
    model = potential("direct")
    with torch.no_grad():
        start = started(integrator, model, crystal())
        cold = blocks(integrator, model, start, limit_K=0.5 * float(start.temperature))
        assert cold.advance(start, 4) is None
        fast = changed(start, system=changed(start.system, velocities=1e3 * start.velocities))
        assert blocks(integrator, model, start, limit_K=1e12).advance(fast, 4) is None  # leaves any skin
        broken = changed(start, system=changed(start.system, velocities=torch.nan * start.velocities))
        assert blocks(integrator, model, start).advance(broken, 2) is None


def test_a_list_that_does_not_last_a_block_makes_blocks_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, played = [], 0

    def on_this_cpu(integrator: Integrator, model: Any, state: State, limits: Any) -> Blocks:
        return blocks(integrator, model, state)

    advance = Blocks.advance

    def counted(self: Blocks, state: State, n_steps: int) -> Any:
        block = advance(self, state, n_steps)
        lengths.append((n_steps, block is not None))
        return block

    monkeypatch.setattr(loop, "blocks_for", on_this_cpu)
    monkeypatch.setattr(Blocks, "advance", counted)
    result = simulate(
        potential("direct"), crystal(), VelocityVerlet(2.0), n_steps=160, guards=(), skin_A=0.25, status=False
    )
    assert result.state.step == 160
    assert lengths[0] == (50, False)
    played = sum(n for n, went_well in lengths if went_well)
    failed = sum(n for n, went_well in lengths if not went_well)
    assert played > 40
    assert failed < 160


def test_an_error_of_a_recording_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Blocks:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(loop, "blocks_for", refuse)
    with pytest.warns(UserWarning, match="none is recorded: operation not permitted when stream is captu"):
        result = simulate(potential("direct"), crystal(), VelocityVerlet(1.0), n_steps=30, status=False)
    assert result.state.step == 30


def test_a_recording_that_does_nothing_is_noticed() -> None:
    class Nothing:
        def __init__(self, function: Callable[[], None], device: torch.device) -> None: ...

        def play(self) -> None: ...

    model, integrator = potential("direct"), VelocityVerlet(0.5)
    with torch.no_grad():
        start = started(integrator, model, crystal())
        form = model.steady_form(start.system)
        assert form is not None
        made = Blocks(integrator, form, start, torch.full_like(start.temperature, 1e4), Nothing)
        with pytest.raises(RuntimeError, match="does nothing"):
            made.advance(start, 3)


def test_blocks_are_for_what_they_were_made_for() -> None:
    model, integrator = potential(), Langevin(0.5, 300.0)
    with torch.no_grad():
        start = started(integrator, model, crystal(2))
        made = blocks(integrator, model, start)
        assert made.suits(start)
        assert made.suits(integrator.step(start, model))
        assert not made.suits(keep_replicas(start, [1]))
        assert not made.suits(started(integrator, model, crystal(2)))
        next(model.model.parameters()).mul_(1.5)
        assert not made.suits(start)
        for other in (Langevin(0.5, [300.0, 310.0]), NoseHoover(0.5, 300.0)):
            assert blocks_for(other, model, start, None) is None
        assert blocks_for(integrator, model, start, None) is None  # on a CPU


@pytest.mark.parametrize("n_systems", [1, 2])
@pytest.mark.parametrize("forces", ["conservative", "direct"])
@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: type(i).__name__)
def test_a_step_asks_the_device_nothing(
    integrator: Integrator, forces: str, n_systems: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (segments, potential_module):  # sums as on a GPU
        monkeypatch.setattr(module, "EACH_ALONE_ON", ())
    model, system = potential(forces), crystal(n_systems)
    with torch.no_grad():
        made = blocks(integrator, model, started(integrator, model, system))
        made.advance(started(integrator, model, system), 1)  # what is kept from step to step is there
        with FakeTensorMode(allow_non_fake_inputs=True) as unknown:
            for holder in (made.now, vars(made), vars(made.list)):
                for name, value in list(holder.items()):
                    if isinstance(value, torch.Tensor):
                        holder[name] = unknown.from_tensor(value)
            with pytest.raises(DataDependentOutputException):
                bool(made.list.bad)  # numbers are indeed unknown
            made._step()


def test_the_loop_makes_blocks_between_those_who_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lengths: list[int] = []
    advance = Blocks.advance

    def counted(self: Blocks, state: State, n_steps: int) -> Any:
        lengths.append(n_steps)
        return advance(self, state, n_steps)

    def on_this_cpu(integrator: Integrator, model: Any, state: State, limits: Any) -> Blocks:
        return blocks(integrator, model, state)

    class Onlooker:
        every = 15

        def __init__(self) -> None:
            self.seen: list[tuple[int, torch.Tensor]] = []

        def report(self, state: State) -> None:
            self.seen.append((state.step, state.positions))

        def close(self) -> None: ...

    model = potential()
    run: dict[str, Any] = {"n_steps": 47, "every": 20, "status": False, "skin_A": 0.3}
    theirs, ours = Onlooker(), Onlooker()
    plain = simulate(model, crystal(), VelocityVerlet(1.0), reporters=[theirs], **run)
    monkeypatch.setattr(loop, "blocks_for", on_this_cpu)
    monkeypatch.setattr(Blocks, "advance", counted)
    quick = simulate(model, crystal(), VelocityVerlet(1.0), reporters=[ours], path=tmp_path / "t.h5", **run)
    assert [step for step, _ in ours.seen] == [step for step, _ in theirs.seen] == [0, 15, 30, 45]
    assert sum(lengths) == 47
    assert max(lengths) == 10  # guards look every ten steps
    for (_, mine), (_, exact) in zip(ours.seen, theirs.seen, strict=True):
        assert float((mine - exact).abs().max()) < 1e-7
    assert quick.state.step == plain.state.step == 47
    assert isinstance(quick.state.step, int)
    assert quick.mean_temperature_K == pytest.approx(plain.mean_temperature_K, rel=1e-6)
    assert quick.temperatures_K == pytest.approx(plain.temperatures_K, rel=1e-6)


def test_the_loop_stops_where_it_would_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that went wrong counts for nothing: its steps are made one by one, and a guard says which."""

    def on_this_cpu(integrator: Integrator, model: Any, state: State, limits: Any) -> Blocks:
        return blocks(integrator, model, state, limit_K=float(limits.min()))

    model, system = potential("direct"), crystal()
    with torch.no_grad():
        model.force_scale.fill_(2.0)  # heats
    messages = []
    for recorded in (False, True):
        if recorded:
            monkeypatch.setattr(loop, "blocks_for", on_this_cpu)
        with pytest.raises(loop.SimulationFailed) as caught:
            simulate(model, system, VelocityVerlet(1.0), n_steps=3000, status=False)
        messages.append(str(caught.value))
    assert "went wrong at step" in messages[0]
    assert messages[1].split(":")[0] == messages[0].split(":")[0]


def test_random_numbers_of_a_device() -> None:
    """Normal numbers, and sums of their squares, have the moments they should."""
    from kinetograph.dynamics.noise import Purpose, normal_and_squares, standard_normal, streams_of

    system, streams = crystal(3), streams_of(2**40 + 3, 3)
    steps = [torch.tensor(step) for step in range(400)]
    noise = torch.stack([standard_normal(system, streams, step, Purpose.LANGEVIN) for step in steps])
    assert abs(float(noise.mean())) < 4.0 / noise.numel() ** 0.5
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=4.0 * (2.0 / noise.numel()) ** 0.5)
    first, second = noise[:, :27], noise[:, 27:54]  # structures have numbers of their own
    assert abs(float((first * second).mean())) < 4.0 / first.numel() ** 0.5
    assert torch.equal(noise[5], standard_normal(system, streams, torch.tensor(5), Purpose.LANGEVIN))
    degrees = torch.tensor([81.0, 78.0, 10.0], dtype=torch.float64)
    draws = [normal_and_squares(system, streams, step, Purpose.VELOCITY_RESCALING, degrees) for step in steps]
    normal, squares = (torch.stack(parts) for parts in zip(*draws, strict=True))
    assert abs(float(normal.mean())) < 4.0 / normal.numel() ** 0.5
    expected = degrees - 1.0
    assert bool(((squares.mean(dim=0) - expected).abs() < 4.0 * (2.0 * expected / 400).sqrt()).all())
    assert bool(((squares.var(dim=0) / (2.0 * expected) - 1.0).abs() < 0.4).all())
