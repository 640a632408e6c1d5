"""Which frame may follow which: ids, epochs, resets and positions, as pure arithmetic, the same code on every rank.

A rank keeps one receiving `State`, rank 0 a sending one besides. The sender asks `plan_infer` what the next envelope
must say; every receiver asks `accept`, which works the same out from its own state and refuses by the name of the
first field that differs. A state is a value: a frame that is refused or dropped has changed nothing.

Knows frames and numbers; no tensor's content, no bytes, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from genlock.errors import CacheRefused, OutOfStep, UsageError
from genlock.generator.window import CachePolicy, Held, Policy, Rope, span_of_chunk, span_of_recompute
from genlock.wire.envelope import Envelope
from genlock.wire.header import Stamp
from genlock.wire.kinds import Action, ContextSource, Plan, Recache, Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a rank knows of the stream after the last accepted frame.

    policy, plan, max_rope_positions, context_source, epoch_held: agreed at start; the last one is False where another
    cache epoch is let through on purpose. warm: between start and `live`.
    ended: after SHUTDOWN or ERROR. call_id, chunk_index, cache_epoch: of the last frame (0, -1, 0 before any).
    start_abs: latent frames since the last cut (noise seeds follow it). rope_start: position of the next chunk's first
    frame unless it is cut or re-based. held: what the cache holds. embeds_id: of the last chunk, none before any.
    height, width, regime: of this epoch; a change of one needs a cut.
    """

    policy: CachePolicy
    plan: Plan
    max_rope_positions: int
    context_source: ContextSource
    warm: bool
    epoch_held: bool = True
    ended: bool = False
    call_id: int = 0
    chunk_index: int = -1
    cache_epoch: int = 0
    start_abs: int = 0
    rope_start: int = 0
    held: Held = field(default_factory=Held)
    embeds_id: int | None = None
    height: int = 0
    width: int = 0
    regime: Regime | None = None

    @property
    def window_frames(self) -> int:
        """Latent frames in the cache now."""
        return self.held.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the next chunk's envelope must say. start_abs: frames emitted since the cut, which its noise is seeded by.
    context_frames: how many frames `context` must have; 0 for none. held: what the cache holds after the chunk."""

    start_abs: int
    context_frames: int
    held: Held
    plan: Plan
    num_frames: int
    start_frame: int
    window_frames: int
    reset_kv: bool
    reset_cross: bool
    cache_policy: Policy
    regime: Regime | None
    do_recompute: bool
    do_cache_write: bool
    recache: Recache | None
    expected_generator_calls: int
    embeds_id: int

    def fields(self) -> dict[str, Any]:
        """The envelope's derived fields by name: `Envelope(**due.fields(), noise=..., ...)`."""
        return {name: getattr(self, name) for name in DERIVED}


# In the order in which a difference is named: causes before what follows from them.
DERIVED = (
    "plan",
    "cache_policy",
    "reset_kv",
    "reset_cross",
    "regime",
    "do_recompute",
    "do_cache_write",
    "recache",
    "num_frames",
    "start_frame",
    "window_frames",
    "expected_generator_calls",
    "embeds_id",
)


def begin(
    policy: CachePolicy,
    *,
    max_rope_positions: int,
    plan: Plan = Plan.V1_GENERATOR_ONLY,
    context_source: ContextSource = ContextSource.ENVELOPE,
    warm: bool = False,
    epoch_held: bool = True,
) -> State:
    """The state before any frame. `warm`: chunks count as -1 until `live`. Raises UsageError for what cannot work."""
    if context_source is ContextSource.MESH and policy.policy is not Policy.RECOMPUTE:
        raise UsageError("context_source=mesh belongs to the recompute policy")
    if policy.rope is Rope.ABSOLUTE and policy.chunk_frames + policy.context_frames > max_rope_positions:
        raise UsageError(f"a chunk and its context do not fit {max_rope_positions} rotary positions")
    return State(
        policy=policy,
        plan=plan,
        max_rope_positions=max_rope_positions,
        context_source=context_source,
        warm=warm,
        epoch_held=epoch_held,
    )


def live(state: State) -> State:
    """Warm-up is over, on this rank as on all: the next chunk is chunk 0 and starts a new epoch."""
    return replace(state, warm=False)


def must_reset(state: State) -> bool:
    """The first chunk ever, and the first one after warm-up."""
    return state.cache_epoch == 0 or (not state.warm and state.chunk_index == -1)


def rebase_due(state: State, num_frames: int) -> bool:
    """Whether the rotary table ends before the next chunk of `num_frames` does, so that the window must be re-based.

    Only rolling with absolute positions grows for ever.
    """
    growing = state.policy.policy is Policy.ROLLING and state.policy.rope is Rope.ABSOLUTE
    return growing and state.rope_start + num_frames > state.max_rope_positions


def plan_infer(
    state: State,
    *,
    num_frames: int,
    steps: int,
    embeds_id: int,
    regime: Regime | None,
    cut: bool = False,
    rebase: bool = False,
    context_frames: int | None = None,
) -> Due:
    """What the next envelope must say for a chunk of `num_frames` frames in `steps` denoise steps.

    cut: the stream starts anew (done unasked where it must be). rebase: ask for a re-base before it is due, while
    warm. context_frames: recompute, where a recording's context is longer than the stream (20-generator, 5.4).
    Raises CacheRefused (num_frames) for a chunk the cache or the rotary table cannot hold, OutOfStep for a request
    that the state does not allow.
    """
    reset = cut or must_reset(state)
    recompute = state.policy.policy is Policy.RECOMPUTE
    start_abs = 0 if reset else state.start_abs
    start = 0 if reset else state.rope_start
    held = Held() if reset else state.held
    changed = embeds_id != state.embeds_id
    do_recompute = recompute and not reset and regime is not Regime.R1
    recache = None if reset else _recache(state, num_frames, changed=changed, rebase=rebase)
    if do_recompute:
        frames = _context_frames(state, context_frames)
        _, held = span_of_recompute(state.policy, frames)
    elif recache is Recache.REBASE:
        start = frames = held.end
        held = Held(end_abs=frames, end=frames)
    else:
        frames = held.end if recache is Recache.SWITCH else 0
    return Due(
        start_abs=start_abs,
        context_frames=frames,
        held=_held_after(state, held, start=start, frames=num_frames),
        plan=state.plan,
        num_frames=num_frames,
        start_frame=start,
        window_frames=held.end,
        reset_kv=reset,
        reset_cross=reset or changed,
        cache_policy=state.policy.policy,
        regime=regime,
        do_recompute=do_recompute,
        do_cache_write=not recompute,
        recache=recache,
        expected_generator_calls=do_recompute + (recache is not None) + steps + (not recompute),
        embeds_id=embeds_id,
    )


def next_stamp(state: State, action: Action, *, reset_kv: bool = False) -> Stamp:
    """The stamp of the next frame. `reset_kv`: of an INFER's envelope."""
    return Stamp(
        action=action,
        plan=state.plan,
        call_id=state.call_id + 1,
        chunk_index=-1 if state.warm else state.chunk_index + (action is Action.INFER),
        cache_epoch=state.cache_epoch + reset_kv,
    )


def accept(state: State, stamp: Stamp, envelope: Envelope | None) -> State:
    """The state after this frame. `envelope` belongs to INFER alone.

    ERROR and SHUTDOWN are obeyed whatever their ids, which may be what went wrong. Raises OutOfStep naming the first
    field that does not follow from `state`, and CacheRefused as `plan_infer` does.
    """
    if (stamp.action is Action.INFER) != (envelope is not None):
        raise OutOfStep(f"{stamp.action.name} {'with an' if envelope else 'without its'} envelope", field="action")
    if stamp.action in (Action.ERROR, Action.SHUTDOWN):
        return replace(state, ended=True)
    if state.ended or stamp.action is Action.RESULT:
        raise _differs(stamp, "action", stamp.action.name, "nothing more" if state.ended else "a frame for a worker")
    due = next_stamp(state, stamp.action, reset_kv=envelope is not None and envelope.reset_kv)
    reset_due = envelope is not None and must_reset(state) and not envelope.reset_kv
    _compare_stamp(stamp, due, reset_due=reset_due, epoch_held=state.epoch_held)
    if envelope is None:
        return replace(state, call_id=stamp.call_id)
    return _accept_chunk(state, stamp, envelope)


def deliverable(result: Stamp, *, expected: Stamp, cache_epoch: int, epoch_held: bool = True) -> bool:
    """Whether a result is the one waited for (True), or of an older epoch or call and to be dropped (False).

    expected: the stamp of the oldest envelope not yet answered. cache_epoch: the sender's now. epoch_held: as in
    `State`. Raises OutOfStep for a result that is ahead of what was asked, or that answers another chunk.
    """
    if result.plan is not expected.plan:
        raise _differs(result, "plan", result.plan, expected.plan)
    for name, now in (*[("cache_epoch", cache_epoch)] * epoch_held, ("call_id", expected.call_id)):
        got = getattr(result, name)
        if got < now:
            return False
        if got > now:
            raise _differs(result, name, got, now, "a result from ahead")
    if result.chunk_index != expected.chunk_index:
        raise _differs(result, "chunk_index", result.chunk_index, expected.chunk_index)
    return True


def _recache(state: State, num_frames: int, *, changed: bool, rebase: bool) -> Recache | None:
    """A re-base serves a prompt change of the same chunk too."""
    if rebase_due(state, num_frames):
        return Recache.REBASE
    if rebase:
        possible = state.policy.policy is Policy.ROLLING and state.policy.rope is Rope.ABSOLUTE
        if not (state.warm and possible):
            raise OutOfStep(f"recache is rebase, which is not due at position {state.rope_start}", field="recache")
        return Recache.REBASE
    return Recache.SWITCH if changed and state.policy.recache_on_prompt else None


def _context_frames(state: State, asked: int | None) -> int:
    """k: the frames emitted so far, at most the policy's. A recording may hold more than were emitted, not fewer."""
    least, most = state.rope_start, state.policy.context_frames
    frames = least if asked is None else asked
    if not least <= frames <= most:
        raise OutOfStep(f"window_frames is {frames}, expected {least} to {most}", field="window_frames")
    return frames


def _held_after(state: State, held: Held, *, start: int, frames: int) -> Held:
    if state.policy.rope is Rope.ABSOLUTE and start + frames > state.max_rope_positions:
        what = f"frames {start}..{start + frames - 1} do not fit {state.max_rope_positions} rotary positions"
        raise CacheRefused(what, field="num_frames")
    try:
        return span_of_chunk(state.policy, held, start=start, frames=frames)[1]
    except CacheRefused as refusal:
        raise CacheRefused(refusal.what, remedy=refusal.remedy, field="num_frames") from refusal


def _compare_stamp(stamp: Stamp, due: Stamp, *, reset_due: bool, epoch_held: bool) -> None:
    if stamp.plan is not due.plan:
        raise _differs(stamp, "plan", stamp.plan, due.plan)
    if stamp.call_id != due.call_id:
        hint = "a duplicate, or older" if stamp.call_id < due.call_id else "a gap"
        raise _differs(stamp, "call_id", stamp.call_id, due.call_id, hint)
    if stamp.chunk_index != due.chunk_index:
        raise _differs(stamp, "chunk_index", stamp.chunk_index, due.chunk_index)
    if reset_due:
        raise _differs(stamp, "reset_kv", value=False, due=True, hint="the first chunk starts from nothing")
    if epoch_held and stamp.cache_epoch != due.cache_epoch:
        hint = "a reset without its epoch" if stamp.cache_epoch < due.cache_epoch else "an epoch without its reset"
        raise _differs(stamp, "cache_epoch", stamp.cache_epoch, due.cache_epoch, hint)


def _accept_chunk(state: State, stamp: Stamp, e: Envelope) -> State:
    carried = not e.reset_kv
    for name in ("height", "width", "regime"):
        if carried and getattr(e, name) != getattr(state, name):
            raise _differs(stamp, name, getattr(e, name), getattr(state, name), "a change needs a cut")
    due = plan_infer(
        state,
        num_frames=e.num_frames,
        steps=e.steps,
        embeds_id=e.embeds_id,
        regime=e.regime,
        cut=e.reset_kv,
        rebase=e.recache is Recache.REBASE,
        context_frames=e.window_frames if e.do_recompute else None,
    )
    for name in DERIVED:
        if getattr(e, name) != getattr(due, name):
            raise _differs(stamp, name, getattr(e, name), getattr(due, name))
    mesh_keeps = state.context_source is ContextSource.MESH and e.regime is Regime.R0
    wanted = 0 if mesh_keeps else due.context_frames
    sent = 0 if e.context is None else e.context.shape[0]
    if sent != wanted:
        raise _differs(stamp, "context", f"of {sent} frames", f"{wanted} frames")
    recompute = state.policy.policy is Policy.RECOMPUTE
    start_abs = due.start_abs + e.num_frames
    return replace(
        state,
        call_id=stamp.call_id,
        chunk_index=stamp.chunk_index,
        cache_epoch=stamp.cache_epoch,
        start_abs=start_abs,
        rope_start=min(start_abs, state.policy.context_frames) if recompute else due.start_frame + e.num_frames,
        held=due.held,
        embeds_id=e.embeds_id,
        height=e.height,
        width=e.width,
        regime=e.regime,
    )


def _differs(stamp: Stamp, name: str, value: object, due: object, hint: str = "") -> OutOfStep:
    what = f"{name} is {value}, expected {due}" + (f" ({hint})" if hint else "")
    return OutOfStep(what, field=name, call_id=stamp.call_id, chunk_index=stamp.chunk_index)
