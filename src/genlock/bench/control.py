"""What it costs to agree on a chunk and hand it out: genlock's way between a bare broadcast and an object list.

Two ranks on this machine, over gloo; the same bytes three ways, in turn, in one run. A round begins on rank 0 and ends
when the worker has said that it has everything, over the control connection, in each of the three. Genlock's way begins
with packed bytes, as the bare broadcast does: digest, frame, ACCEPT, payload, digest, verdict. Packing and checking
an envelope before that is told apart, and counts against the object list, which packs too. Judges only by `BAR`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from genlock.bench.machine import Machine, machine
from genlock.fabric import baseline
from genlock.fabric.address import address_of
from genlock.fabric.channel import Chunk, Follower, Leader
from genlock.fabric.collectives import Mesh
from genlock.fabric.connection import Connection, connect, listen
from genlock.fabric.groups import Group, form, leave
from genlock.fabric.liveness import Watch
from genlock.generator.window import recompute_policy
from genlock.observe.recorder import Recorder, recorder_path
from genlock.settings import Deadlines, Faults, Launch, Phase, Settings, mesh_deadlines
from genlock.wire.digest import embeds_id, tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.kinds import Action, Regime
from genlock.wire.lifecycle import State, begin, plan_infer
from genlock.wire.prepare import Announced, Prepared, prepare, prepare_notice
from genlock.wire.verdict import Verdict

T = TypeVar("T")
WARM_ROUNDS = 10
BAR = "adds at most 2 ms to a bare broadcast, and is less than half of an object list"
ADDED_MS, OBJECT_SHARE = 2.0, 0.5
CPU = torch.device("cpu")
ROWS, COLUMNS, STEPS = 60, 104, 2  # a chunk of a large model at 832 x 480 in bfloat16: 2 MB
TEXT_ROWS, TEXT_WIDTH = 48, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Milliseconds of one way's rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCost:
    """One run. prepare_ms: from an envelope to checked bytes. genlock_ms: from there on. added_ms: its median less the
    bare one's. object_share: both medians together by the object list's."""

    bare_ms: Spread
    prepare_ms: Spread
    genlock_ms: Spread
    object_list_ms: Spread
    added_ms: float
    object_share: float
    within_the_bar: bool
    bar: str
    payload_bytes: int
    rounds: int
    ranks: int
    machine: Machine


def control(place: Launch, settings: Settings, *, rounds: int) -> ControlCost | None:
    """This rank's part of the run; rank 0's is the result. What fails ends the process, by its watch."""
    torch.set_num_threads(1)
    deadlines = mesh_deadlines(settings)
    folder = Path(place.supervised.run_dir if place.supervised else settings.run_dir)
    watch = Watch(place, deadlines, folder, Faults(), Recorder(recorder_path(folder, place.rank)))
    try:
        watch.enter(Phase.GATE_1)
        address, key = address_of(place, settings)
        if place.rank == 0:
            with_workers = listen(place, address, key)
            connections = dict(with_workers.accept_all(within_s=deadlines.gate_s))
            with_workers.close()
        else:
            connections = {0: connect(place, address, key, within_s=deadlines.gate_s)}
        watch.enter(Phase.RENDEZVOUS)
        group = form(place, device=CPU, timeout_s=deadlines.rendezvous_s)
        watch.enter(Phase.IDLE)
        if place.rank:
            _follow(group, connections[0], deadlines, rounds)
            result = None
        else:
            result = _lead(group, connections, deadlines, rounds)
        watch.enter(Phase.EXIT)
        leave(group, within_s=deadlines.exit_s / 2)
        watch.close()
    except BaseException as error:  # noqa: BLE001 - a rank that fails says why, and ends the other
        watch.fail(error)
    return result


def _lead(group: Group, workers: Mapping[int, Connection], deadlines: Deadlines, rounds: int) -> ControlCost:
    worker = workers[1]
    leader = Leader(workers, Mesh(group, device=CPU, dtype=torch.bfloat16), deadlines)
    state, usual = _start(), _usual()
    payload, message = usual.payload, _as_message(usual.unpack())

    def bare() -> None:
        baseline.bare_broadcast(group, payload)
        worker.receive(within_s=deadlines.verdict_s)

    def ours(prepared: Prepared[Envelope]) -> None:
        assert tensor_digest(prepared.payload) == prepared.header.payload_digest  # rank 0's share of the digests
        leader.infer(prepared)
        leader.verdict(_verdict(prepared.header.call_id))

    def objects() -> None:
        baseline.object_list(group, message)
        worker.receive(within_s=deadlines.verdict_s)

    took: dict[str, list[float]] = {"bare": [], "prepare": [], "genlock": [], "object_list": []}

    def timed(name: str, way: Callable[[], T]) -> T:
        begun = time.perf_counter()
        done = way()
        took[name].append(1e3 * (time.perf_counter() - begun))
        return done

    for number in range(WARM_ROUNDS + rounds):
        if number == WARM_ROUNDS:
            took = {name: [] for name in took}
        envelope = _envelope(state)
        timed("bare", bare)
        prepared, state = timed("prepare", partial(prepare, envelope, state))
        timed("genlock", partial(ours, prepared))
        timed("object_list", objects)
    leader.shutdown(prepare_notice(Action.SHUTDOWN, state)[0])
    return _result(took, payload_bytes=payload.numel(), rounds=rounds, ranks=group.size)


def _follow(group: Group, leader: Connection, deadlines: Deadlines, rounds: int) -> None:
    door = Mesh(group, device=CPU, dtype=torch.bfloat16)
    follower = Follower(leader, door, _start(), deadlines, check=_any_model, alone=True)
    payload = torch.empty_like(_usual().payload)
    for _ in range(WARM_ROUNDS + rounds):
        baseline.bare_broadcast(group, payload)
        leader.send(b"done", within_s=deadlines.verdict_s)
        chunk = follower.next()
        assert isinstance(chunk, Chunk)
        follower.report(_verdict(chunk.header.call_id))
        baseline.object_list(group, None)
        leader.send(b"done", within_s=deadlines.verdict_s)
    follower.next()


def _any_model(chunk: Announced[Envelope] | Announced[Events]) -> None:
    """There is none to hold a chunk against."""


def _start() -> State:
    return begin(recompute_policy(), max_rope_positions=1024)


def _usual() -> Prepared[Envelope]:
    """A chunk like all but the first, which has no context."""
    _, state = prepare(_envelope(_start()), _start())
    return prepare(_envelope(state), state)[0]


def _envelope(state: State) -> Envelope:
    """A chunk that follows from `state`: always a context of three frames, but for the first."""
    draw = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).bfloat16()

    embeds = drawn(TEXT_ROWS, TEXT_WIDTH)
    due = plan_infer(state, num_frames=3, steps=STEPS, embeds_id=embeds_id(embeds), regime=Regime.R0)
    latents = (3, 16, ROWS, COLUMNS)
    return Envelope(
        **due.fields(),
        height=8 * ROWS,
        width=8 * COLUMNS,
        timesteps=torch.tensor([1000.0, 750.0]),
        sigmas=torch.tensor([1.0, 0.75]),
        attention_bias=1.0,
        pad_sink=False,
        noise=drawn(*latents),
        step_noise=drawn(STEPS - 1, *latents),
        embeds=embeds,
        context=drawn(due.context_frames, *latents[1:]) if due.context_frames else None,
        seed=1,
    )


def _as_message(envelope: Envelope) -> dict[str, Any]:
    """The same fields as a plain dictionary, for pickle."""
    return {name: getattr(envelope, name) for name in Envelope.__slots__}


def _verdict(call_id: int) -> Verdict:
    return Verdict(call_id=call_id, prepared=1, observed_calls=STEPS, ledger=1, end_abs=6, end=6, inputs=True)


def _result(took: Mapping[str, list[float]], *, payload_bytes: int, rounds: int, ranks: int) -> ControlCost:
    spread = {name: Spread(median=median(ms), least=min(ms), most=max(ms)) for name, ms in took.items()}
    added = spread["genlock"].median - spread["bare"].median
    share = (spread["prepare"].median + spread["genlock"].median) / spread["object_list"].median
    return ControlCost(
        bare_ms=spread["bare"],
        prepare_ms=spread["prepare"],
        genlock_ms=spread["genlock"],
        object_list_ms=spread["object_list"],
        added_ms=added,
        object_share=share,
        within_the_bar=added <= ADDED_MS and share < OBJECT_SHARE,
        bar=BAR,
        payload_bytes=payload_bytes,
        rounds=rounds,
        ranks=ranks,
        machine=machine(),
    )
