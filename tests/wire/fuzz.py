"""Streams of right frames, every wrong one that can be made of them, and what the readers say: for the test and the
benchmark.

    tally = fuzz(seed=1, count=10_000)
    tally.fell_short()      sentences; none if all was as it had to be

Who decides what a mutant is: `genlock.drills.mutations`, by how it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

import torch
from tests.wire.conftest import POLICIES, ROWS, make
from tests.wire.test_events import LADDER, SOME, right
from torch import Tensor

from genlock.drills.mutations import ANY, LEGAL, Mutant, damaged, makers_of, mutant, orders, restamped
from genlock.errors import CacheRefused, GenlockError, OutOfStep
from genlock.generator.window import Policy, Regime
from genlock.wire.codec import Schema, describe
from genlock.wire.header import HEADER_BYTES, Stamp, open_frame
from genlock.wire.kinds import Action, ContextSource, Plan
from genlock.wire.lifecycle import State, begin, deliverable, live
from genlock.wire.prepare import (
    FAULT,
    RESULT,
    check_payload,
    prepare,
    prepare_notice,
    prepare_result,
    receive,
    receive_result,
)
from genlock.wire.result import Fault, Result, no_verdicts

CHUNKS = 9
SHARE_LEFT = 0.4  # of mutants whose digests stay as they were
SHARE_ORDERS = 0.1
NAMED_LEAST = 0.99
PLAN = Plan.V1_GENERATOR_ONLY


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moment:
    """A right frame, and the state of the receiver that it follows from."""

    state: State
    frame: bytes
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of a frame. field: None where it was taken. crash: an error that is none of ours."""

    field: str | None = None
    crash: str = ""
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Tally:
    """By maker: how many were made, and what of it. misnamed, taken, refused, crashed: sentences about what must not
    be: another field was named, a wrong frame taken, a legal one refused, a reader broken. elsewhere: of those refused
    by name, that named another field than they had to."""

    made: Counter[str] = field(default_factory=Counter)
    legal: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    misnamed: list[str] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)

    def add(self, mutant: Mutant, said: Said) -> None:
        self.made[mutant.maker] += 1
        about = f"{mutant.maker}: {said.text or said.crash or 'it was taken'}, due {', '.join(sorted(mutant.names))}"
        if said.crash:
            self.crashed.append(about)
        elif mutant.names == LEGAL:
            self.legal[mutant.maker] += 1
            self.refused += [about] if said.field is not None else []
        elif said.field is None:
            self.taken.append(about)
        elif mutant.names == ANY:
            self.left[mutant.maker] += 1
        else:
            self.fields[said.field] += 1
            if said.field in mutant.names:
                self.named[mutant.maker] += 1
            else:
                self.misnamed.append(about)

    @property
    def share_named(self) -> float:
        """Of the mutants that break a rule, digests made anew."""
        right = self.named.total()
        return right / max(1, right + len(self.misnamed))

    def fell_short(self) -> list[str]:
        short = [*self.crashed, *self.taken, *self.refused]
        return short + (self.misnamed if self.share_named < NAMED_LEAST else [])


# -- right frames ------------------------------------------------------------------------------------------------------


@cache
def streams() -> tuple[tuple[Moment, ...], ...]:
    """Every policy and regime, live: chunks with changes of prompt, a cut, a frame that does nothing."""
    kinds: list[tuple[str, Regime | None, ContextSource, int]] = []
    for name, policy in POLICIES.items():
        recompute = policy.policy is Policy.RECOMPUTE
        kinds += [(name, regime, ContextSource.ENVELOPE, 3) for regime in (Regime if recompute else [None])]
    kinds += [("recompute", Regime.R0, ContextSource.MESH, 3), ("recompute", Regime.R0A, ContextSource.ENVELOPE, 1)]
    return tuple(tuple(_stream(*kind)) for kind in kinds)


def _stream(name: str, regime: Regime | None, source: ContextSource, steps: int) -> Iterator[Moment]:
    state = begin(POLICIES[name], max_rope_positions=ROWS, context_source=source, warm=True)
    state = live(prepare(make(state, regime=regime, steps=steps), state)[1])
    for number in range(CHUNKS):
        words, cut = 1 + (number >= 3) + (number == 5), number == 6
        size = 3 if number or POLICIES[name].window_frames < 4 else 4
        due: dict[str, Any] = {"words": words, "cut": cut, "num_frames": size, "regime": regime, "steps": steps}
        dtype = (torch.float32, torch.bfloat16, torch.float16)[number % 3]
        try:
            prepared, after = prepare(make(state, seed=number, dtype=dtype, **due), state)
        except CacheRefused:  # a window that holds no more
            return
        yield Moment(state=state, frame=prepared.frame, payload=bytes(prepared.payload.numpy()))
        state = after
        if number == 4:
            frame, after = prepare_notice(Action.NOOP, state)
            yield Moment(state=state, frame=frame, payload=b"")
            state = after


@cache
def last_frames() -> tuple[Moment, ...]:
    """What may end a stream."""
    state = streams()[0][3].state
    fault = Fault(code="GL-WIRE-02", rank=1, field="call_id", text="call_id is 4, expected 5")
    ends = [prepare_notice(Action.SHUTDOWN, state)[0], prepare_notice(Action.ERROR, state, fault=fault)[0]]
    return tuple(Moment(state=state, frame=frame, payload=b"") for frame in ends)


@cache
def results() -> tuple[Moment, ...]:
    """An answer to every chunk of a stream, the third one a refusal."""
    answers = []
    for number, moment in enumerate(streams()[0]):
        stamp = open_frame(moment.frame)[0]
        if stamp.action is Action.INFER:
            fault = Fault(code="GL-NUM-01", rank=2, field="latents", text="not finite") if number == 2 else None
            result = Result(
                ok=fault is None,
                fault=fault,
                call_id=stamp.call_id,
                chunk_index=stamp.chunk_index,
                cache_epoch=stamp.cache_epoch,
                latents=None if fault else torch.full((3, 16, 2, 2), float(number)),
                observed_generator_calls=4,
                start_frame=3,
                wait_seconds=0.25,
                payload_seconds=0.001,
                generation_seconds=0.1,
                verdicts=no_verdicts() if fault else torch.arange(96, dtype=torch.uint8).reshape(2, 48),
            )
            prepared = prepare_result(result, plan=PLAN)
            payload = bytes(prepared.payload.numpy())
            answers.append(Moment(state=moment.state, frame=prepared.frame, payload=payload))
    return tuple(answers)


@cache
def events() -> tuple[Moment, ...]:
    """What travels in place of an envelope where workers prepare their own, by plan."""
    moments = []
    for case in SOME:
        for plan in LADDER:
            asked, _, state = right(case, plan)
            prepared = prepare(asked, state)[0]
            payload = bytes(prepared.payload.numpy())
            moments.append(Moment(state=state, frame=prepared.frame, payload=payload))
    return tuple(moments)


# -- the readers -------------------------------------------------------------------------------------------------------


def heard(moment: Moment, frame: bytes, payload: bytes) -> Said:
    """What a receiver of this moment says to a frame and its payload."""
    try:
        if open_action(moment.frame) == Action.RESULT:
            answer, asked = receive_result(frame), open_frame(moment.frame)[0]
            assert deliverable(answer.header, expected=asked, cache_epoch=asked.cache_epoch)
            check_payload(answer, as_tensor(payload))
            assert_kept(RESULT, answer.shapes, frame)
        else:
            received = receive(frame, moment.state)
            if received.chunk is not None:
                check_payload(received.chunk, as_tensor(payload))
                assert_kept(received.chunk.schema, received.chunk.shapes, frame)
            if received.fault is not None:
                assert_kept(FAULT, received.fault, frame)
    except GenlockError as error:
        return Said(field=error.field, text=str(error)[:200])
    except Exception as error:  # noqa: BLE001 - whatever else a reader raises is what is looked for
        return Said(crash=f"{type(error).__name__}: {error}"[:200])
    return Said()


def open_action(frame: bytes) -> int:
    return frame[6]


def as_tensor(payload: bytes) -> Tensor:
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8)


def assert_kept(schema: Schema[Any], message: Any, frame: bytes) -> None:
    """What was read is what was written, whatever was changed in it."""
    assert describe(schema, message)[1] == frame[HEADER_BYTES:]


def ordered(moments: tuple[Moment, ...], rng: Random) -> Iterator[tuple[Mutant, Said]]:
    """Frames that come at the wrong time, as they are and with ids put right one by one; each refusal leaves the
    receiver where it was, so that the frame that is due is taken."""
    for order in orders(len(moments), rng):
        due = moments[order.frames[order.at - 1]] if order.at else None
        at = order.at if order.maker in ("skipped", "reordered") else order.frames[order.at - 1] + 1
        here = moments[at] if at < len(moments) else None
        late = moments[order.frames[order.at]]
        state = receive(due.frame, due.state).state if due is not None else moments[0].state
        wrong = [Mutant(maker=order.maker, frame=late.frame, payload=late.payload, names=frozenset(["call_id"]))]
        if due is not None and open_action(late.frame) == Action.INFER and open_action(due.frame) == Action.INFER:
            again = [restamped(late.frame, late.payload, after=due.frame, right=right) for right in (1, 2)]
            wrong += [each for each in again if each is not None]
        for each in wrong:
            said = heard(replace(late, state=state), each.frame, each.payload)
            if here is not None:
                receive(here.frame, state)
            yield each, said


def answered(rng: Random) -> tuple[Mutant, Said]:
    """A result that comes at the wrong time: an old one is dropped, one from ahead is refused."""
    expected, came = rng.sample([open_frame(moment.frame)[0] for moment in results()], 2)
    ahead = came.call_id > expected.call_id
    first = "cache_epoch" if came.cache_epoch > expected.cache_epoch else "call_id"
    names = frozenset([first if ahead else "dropped"])
    wrong = Mutant(maker="result ahead" if ahead else "result of before", frame=b"", payload=b"", names=names)
    return wrong, delivered(came, expected)


def delivered(came: Stamp, expected: Stamp) -> Said:
    try:
        taken = deliverable(came, expected=expected, cache_epoch=expected.cache_epoch)
    except OutOfStep as error:
        return Said(field=error.field, text=str(error))
    return Said() if taken else Said(field="dropped")


# -- all of it ---------------------------------------------------------------------------------------------------------


def fuzz(seed: int, count: int) -> Tally:
    """`count` mutants, the same ones for a seed."""
    rng, tally = Random(seed), Tally()
    chunks = [moment for stream in streams() for moment in stream]
    idle = [moment for moment in chunks if open_action(moment.frame) == Action.NOOP]
    others = (last_frames(), results(), events(), idle)
    while tally.made.total() < SHARE_ORDERS * count:
        for each in ordered(rng.choice([stream for stream in streams() if len(stream) > CHUNKS]), rng):
            tally.add(*each)
        tally.add(*answered(rng))
    for moment in (streams()[0][0], *last_frames(), results()[0], events()[0]):
        for maker in sorted(makers_of(moment.frame)):  # each of them at least once
            made = mutant(moment.frame, moment.payload, rng, anew=True, maker=maker)
            tally.add(made, heard(moment, made.frame, made.payload))
    number = 0
    while tally.made.total() < count:
        number += 1
        moment = rng.choice(rng.choice(others) if number % 5 == 0 else chunks)
        if number % 10 < 10 * SHARE_LEFT:
            made = (damaged if number % 2 else _left)(moment.frame, moment.payload, rng)
        else:
            made = mutant(moment.frame, moment.payload, rng, anew=True)
        tally.add(made, heard(moment, made.frame, made.payload))
    return tally


def _left(frame: bytes, payload: bytes, rng: Random) -> Mutant:
    made = mutant(frame, payload, rng, anew=False)
    return replace(made, maker=f"{made.maker}, digests left")


def every_maker() -> set[str]:
    moments = (streams()[0][0], *last_frames(), results()[0])
    return {name for moment in moments for name in makers_of(moment.frame)}
