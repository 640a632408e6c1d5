"""Any sequence of events makes frames that a receiver's own copy accepts, and nothing else does.

The oracle is a list: the absolute numbers of the frames a cache holds, appended, trimmed and rebuilt as the policies
are described to people.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.wire.conftest import CASES, POLICIES, ROWS, make, rolling

from genlock.errors import CacheRefused, FrameRefused, OutOfStep, UsageError
from genlock.generator.window import Policy, Recache, Regime, Rope, recompute_policy
from genlock.wire.envelope import Envelope
from genlock.wire.header import Stamp
from genlock.wire.kinds import Action, ContextSource, Plan
from genlock.wire.lifecycle import (
    accept,
    begin,
    deliverable,
    live,
    must_reset,
    next_stamp,
    plan_infer,
    rebase_due,
)
from genlock.wire.prepare import ENVELOPE, Received, check_payload, prepare, prepare_notice, receive
from genlock.wire.result import Fault


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is agreed at start. seen: what streams of this kind came to."""

    policy: str
    regime: Regime | None = None
    source: ContextSource = ContextSource.ENVELOPE
    seen: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return "-".join([self.policy, *([self.regime] if self.regime else []), self.source])

    def reach(self) -> set[str]:
        """What a search worth its name comes to."""
        policy = POLICIES[self.policy]
        reach = {"warm", "live", "cut", "new prompt", "noop", "repeat", "skip"}
        if policy.policy is Policy.RECOMPUTE:
            return reach | ({"recompute"} if self.regime is not Regime.R1 else set())
        if policy.fixed_window and policy.rope is Rope.ABSOLUTE:
            reach.add("rebase")
        return reach | ({"switch"} if policy.recache_on_prompt else set())


KINDS = [
    Kind(policy=name, regime=regime)
    for name, policy in POLICIES.items()
    for regime in (Regime if policy.policy is Policy.RECOMPUTE else (None,))
] + [Kind(policy="recompute", regime=regime, source=ContextSource.MESH) for regime in (Regime.R0, Regime.R0A)]
SHARE = 3  # of a profile's examples for each kind


class Stream(RuleBasedStateMachine):
    """A sender and a receiver, joined by bytes."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    @initialize(warm=st.booleans())
    def start(self, *, warm: bool) -> None:
        self.policy, self.regime, source = POLICIES[self.kind.policy], self.kind.regime, self.kind.source
        self.sender = self.receiver = begin(self.policy, max_rope_positions=ROWS, context_source=source, warm=warm)
        self.warm = warm
        self.sent: list[bytes] = []
        self.held: list[int] = []  # absolute numbers of the frames in the cache; -1 for one of another world
        self.emitted = self.resets = self.chunks = 0
        self.position = 0  # rotary position of the next frame
        self.words: int | None = None
        self.ended = False

    def deliver(self, frame: bytes) -> Received:
        received = receive(frame, self.receiver)
        self.receiver = received.state
        self.sent.append(frame)
        return received

    @precondition(lambda self: not self.ended)
    @rule(
        words=st.integers(1, 2),
        frames=st.sampled_from((3, 2, 3, 1, 4)),
        count=st.sampled_from((8, 3, 2, 1)),
        cut=st.sampled_from((False,) * 7 + (True,)),
    )
    def infer(self, words: int, frames: int, count: int, *, cut: bool) -> None:
        """A few chunks of one prompt; the first may be a cut."""
        for number in range(count):
            self.infer_one(words, frames, cut=cut and number == 0)

    def infer_one(self, words: int, frames: int, *, cut: bool) -> None:
        fresh = cut or self.resets == 0 or (not self.warm and self.chunks == 0)
        if not self.fits(frames, fresh=fresh):
            with pytest.raises(CacheRefused) as refusal:
                make(self.sender, words=words, num_frames=frames, cut=cut, regime=self.regime)
            assert refusal.value.field == "num_frames"
            return
        envelope = make(self.sender, words=words, num_frames=frames, cut=cut, regime=self.regime)
        dropped, _ = prepare(envelope, self.sender)  # a chunk that is never sent leaves no gap
        prepared, self.sender = prepare(envelope, self.sender)
        assert prepared.frame == dropped.frame
        self.note(envelope, words=words, cut=cut)
        self.expect(envelope, words=words, fresh=fresh)
        chunk = self.deliver(prepared.frame).chunk
        assert chunk is not None
        arrived, ours = check_payload(chunk, prepared.payload.clone()), prepared.unpack()
        for name in ENVELOPE.tensors:
            sent, unpacked, came = (getattr(e, name) for e in (envelope, ours, arrived))
            assert (sent is None and unpacked is None and came is None) or (sent.equal(unpacked) and sent.equal(came))
        assert all(getattr(arrived, name) == getattr(envelope, name) for name in ENVELOPE.scalar_names())

    @precondition(lambda self: not self.ended and self.warm)
    @rule()
    def go_live(self) -> None:
        self.sender, self.receiver, self.warm = live(self.sender), live(self.receiver), False

    @precondition(lambda self: not self.ended)
    @rule()
    def noop(self) -> None:
        frame, self.sender = prepare_notice(Action.NOOP, self.sender)
        assert self.deliver(frame).chunk is None
        self.kind.seen.add("noop")

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A duplicate never advances the state, whichever frame it repeats."""
        frame = data.draw(st.sampled_from(self.sent))
        before = self.receiver
        with pytest.raises(OutOfStep) as refusal:
            receive(frame, before)
        assert refusal.value.field == ("action" if self.ended else "call_id")
        assert self.receiver == before
        self.kind.seen.add("repeat")

    @precondition(lambda self: not self.ended)
    @rule()
    def skip(self) -> None:
        """A frame from beyond the next one is a gap."""
        _, ahead = prepare_notice(Action.NOOP, self.sender)
        frame, _ = prepare_notice(Action.NOOP, ahead)
        with pytest.raises(OutOfStep, match="a gap") as refusal:
            receive(frame, self.receiver)
        assert refusal.value.field == "call_id"
        self.kind.seen.add("skip")

    @precondition(lambda self: not self.ended and len(self.sent) > 12)
    @rule(failed=st.booleans())
    def end(self, *, failed: bool) -> None:
        fault = Fault(code="GL-WIRE-02", rank=3, field="call_id", text="call_id is 3, expected 4")
        frame, self.sender = prepare_notice(
            Action.ERROR if failed else Action.SHUTDOWN, self.sender, fault=fault if failed else None
        )
        received = receive(frame, self.receiver)
        assert received.fault == (fault if failed else None)
        self.receiver, self.ended = received.state, True
        self.kind.seen.add("end")

    @invariant()
    def the_copies_agree(self) -> None:
        assert self.sender == self.receiver
        assert self.sender.call_id == len(self.sent)
        assert self.sender.cache_epoch == self.resets
        assert self.sender.chunk_index == (-1 if self.warm else self.chunks - 1)
        assert self.sender.start_abs == self.emitted
        assert self.sender.window_frames == len(self.held)

    def fits(self, frames: int, *, fresh: bool) -> bool:
        policy = self.policy
        held, position = (0, 0) if fresh else (len(self.held), self.position)
        capacity = max(policy.window_frames, policy.chunk_frames + 1)  # room for a first chunk of video input
        if policy.policy is Policy.RECOMPUTE:
            return min(0 if fresh else self.emitted, policy.context_frames) + frames <= capacity
        if policy.rope is Rope.ABSOLUTE and position + frames > ROWS and held + frames > ROWS:
            return False
        if not policy.fixed_window:
            return held + frames <= capacity
        overflow = held + frames > policy.window_frames
        return frames + policy.sink_frames <= policy.window_frames if overflow and held else frames <= capacity

    def note(self, e: Envelope, *, words: int, cut: bool) -> None:
        """Remembers what was reached."""
        self.kind.seen.add("warm" if self.warm else "live")
        self.kind.seen.update({"cut"} if cut and self.resets else set())
        self.kind.seen.update({"new prompt"} if words != self.words and not e.reset_kv else set())
        self.kind.seen.update({"recompute"} if e.do_recompute else set())
        self.kind.seen.update({e.recache.value} if e.recache else set())

    def expect(self, e: Envelope, *, words: int, fresh: bool) -> None:
        """What a person would say this envelope must be, and what the cache holds after it."""
        if fresh:
            self.held, self.emitted, self.position = [], 0, 0
            self.resets += 1
        assert (e.reset_kv, e.reset_cross) == (fresh, fresh or words != self.words)
        new = list(range(self.emitted, self.emitted + e.num_frames))
        if self.policy.policy is Policy.RECOMPUTE:
            self.expect_recompute(e, new, fresh=fresh)
        else:
            self.expect_rolling(e, new, switched=not fresh and words != self.words)
        self.words = words
        self.emitted += e.num_frames
        self.chunks += not self.warm

    def expect_recompute(self, e: Envelope, new: list[int], *, fresh: bool) -> None:
        context = min(self.emitted, self.policy.context_frames)
        assert e.do_recompute == (not fresh and self.regime is not Regime.R1)
        if e.do_recompute:
            self.held = list(range(context))
        assert (e.start_frame, e.window_frames) == (context, len(self.held))
        assert e.expected_generator_calls == e.steps + e.do_recompute
        self.held = self.held[:context] + new
        self.position = context + e.num_frames

    def expect_rolling(self, e: Envelope, new: list[int], *, switched: bool) -> None:
        recache = Recache.SWITCH if switched and self.policy.recache_on_prompt else None
        if self.policy.rope is Rope.ABSOLUTE and self.position + e.num_frames > ROWS:
            recache = Recache.REBASE
            self.position = len(self.held)
        assert e.recache is recache
        assert (e.start_frame, e.window_frames) == (self.position, len(self.held))
        assert (0 if e.context is None else e.context.shape[0]) == (len(self.held) if recache else 0)
        assert e.expected_generator_calls == e.steps + 1 + (recache is not None)
        sink, capacity = self.policy.sink_frames, self.policy.window_frames
        self.held = self.held + new
        if self.policy.fixed_window and len(self.held) > capacity and len(self.held) > len(new):
            self.held = self.held[:sink] + self.held[sink - capacity :]
        self.position += e.num_frames


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_sequence_of_events_is_accepted(kind: Kind) -> None:
    examples = -(-settings().max_examples // SHARE)
    run_state_machine_as_test(lambda: Stream(kind), settings=settings(max_examples=examples))
    assert kind.seen >= kind.reach()


def test_warm_chunks_count_for_nothing_and_the_first_live_one_starts_anew() -> None:
    state = begin(POLICIES["recompute"], max_rope_positions=ROWS, warm=True)
    for _ in range(2):
        state = prepare(make(state), state)[1]
    assert (state.call_id, state.chunk_index, state.cache_epoch, state.start_abs) == (2, -1, 1, 6)
    state = live(state)
    assert must_reset(state)
    first = make(state)
    assert first.reset_kv
    assert first.reset_cross
    prepared, state = prepare(first, state)
    assert (prepared.header.call_id, prepared.header.chunk_index, prepared.header.cache_epoch) == (3, 0, 2)


def test_a_rebase_comes_before_the_table_ends_and_positions_start_from_the_window() -> None:
    state = begin(rolling(9), max_rope_positions=ROWS)
    starts = []
    for _ in range(12):
        assert rebase_due(state, 3) == (state.rope_start + 3 > ROWS)
        envelope = make(state)
        starts.append((envelope.start_frame, envelope.recache))
        state = prepare(envelope, state)[1]
    rebases = [(start, kind) for start, kind in starts if kind is not None]
    assert starts[:8] == [(3 * chunk, None) for chunk in range(8)]
    assert rebases == [(9, Recache.REBASE)]
    assert state.start_abs == 36


def test_a_rebase_can_be_asked_for_early_while_warm_only() -> None:
    warm = begin(rolling(9), max_rope_positions=ROWS, warm=True)
    warm = prepare(make(warm), warm)[1]
    asked = make(warm, rebase=True)
    assert (asked.recache, asked.start_frame) == (Recache.REBASE, 3)
    prepare(asked, warm)
    cold = live(warm)
    cold = prepare(make(cold), cold)[1]
    relative = begin(POLICIES["rolling_relative"], max_rope_positions=ROWS, warm=True)
    relative = prepare(make(relative), relative)[1]
    for state in (cold, relative):
        with pytest.raises(OutOfStep) as refusal:
            make(state, rebase=True)
        assert refusal.value.field == "recache"


def test_relative_positions_have_no_end() -> None:
    state = begin(POLICIES["rolling_relative"], max_rope_positions=ROWS)
    for _ in range(3 * ROWS):
        state = prepare(make(state), state)[1]
    assert state.rope_start == 9 * ROWS


def test_a_recording_may_hold_more_context_than_was_emitted_but_not_less() -> None:
    state = begin(POLICIES["recompute_long"], max_rope_positions=ROWS)
    state = prepare(make(state), state)[1]

    def due(frames: int) -> tuple[int, int]:
        asked = plan_infer(state, num_frames=3, steps=3, embeds_id=1, regime=Regime.R0A, context_frames=frames)
        e = make(state)
        context = torch.zeros(asked.context_frames, *e.noise.shape[1:])
        prepare(replace(e, context=context, window_frames=asked.window_frames), state)
        return asked.start_frame, asked.window_frames

    assert [due(frames) for frames in (3, 6)] == [(3, 3), (3, 6)]
    for frames in (2, 7):
        with pytest.raises(OutOfStep, match="window_frames"):
            due(frames)


def test_the_end_is_obeyed_whatever_the_ids() -> None:
    state = begin(POLICIES["recompute"], max_rope_positions=ROWS)
    for action in (Action.SHUTDOWN, Action.ERROR):
        stamp = Stamp(action=action, plan=Plan.V0_FULL_PIPELINE, call_id=99, chunk_index=7, cache_epoch=42)
        ended = accept(state, stamp, None)
        assert ended.ended
        with pytest.raises(OutOfStep, match="nothing more"):
            accept(ended, next_stamp(ended, Action.NOOP), None)
        assert accept(ended, stamp, None).ended


def test_only_an_infer_carries_an_envelope_and_only_an_error_a_fault() -> None:
    state = begin(POLICIES["recompute"], max_rope_positions=ROWS)
    fault = Fault(code="GL-00", rank=0, field="", text="")
    with pytest.raises(OutOfStep, match="INFER without its envelope"):
        accept(state, next_stamp(state, Action.INFER), None)
    for action, carried in ((Action.INFER, None), (Action.ERROR, None), (Action.NOOP, fault)):
        with pytest.raises(FrameRefused) as refusal:
            prepare_notice(action, state, fault=carried)
        assert refusal.value.field == "action"


def test_a_session_that_cannot_work_does_not_begin() -> None:
    with pytest.raises(UsageError, match="recompute"):
        begin(rolling(9), max_rope_positions=ROWS, context_source=ContextSource.MESH)
    with pytest.raises(UsageError, match="rotary"):
        begin(recompute_policy(), max_rope_positions=5)


def test_an_older_result_is_dropped_and_a_newer_one_is_a_defect() -> None:
    expected = Stamp(action=Action.INFER, plan=Plan.V1_GENERATOR_ONLY, call_id=8, chunk_index=5, cache_epoch=2)

    def answer(**said: Any) -> bool:
        return deliverable(replace(expected, action=Action.RESULT, **said), expected=expected, cache_epoch=2)

    assert answer()
    assert not answer(cache_epoch=1)
    assert not answer(call_id=7, chunk_index=4)
    for ahead in ({"call_id": 9}, {"cache_epoch": 3}, {"chunk_index": 4}, {"plan": Plan.V0_FULL_PIPELINE}):
        with pytest.raises(OutOfStep) as refusal:
            answer(**ahead)
        assert refusal.value.field == next(iter(ahead))


def test_where_the_epoch_is_not_held_to_another_one_passes() -> None:
    state = replace(CASES["steady"].state, epoch_held=False)
    due = next_stamp(state, Action.INFER)
    late = replace(due, cache_epoch=due.cache_epoch - 1)
    assert accept(state, late, CASES["steady"].envelope).cache_epoch == late.cache_epoch
    assert not deliverable(late, expected=due, cache_epoch=due.cache_epoch)
    assert deliverable(late, expected=due, cache_epoch=due.cache_epoch, epoch_held=False)
