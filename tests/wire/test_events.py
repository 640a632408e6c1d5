"""Events on the wire: by each plan's own table, one wrong field is named by the sender, and by a receiver of a sender
that checks nothing; what did not travel cannot be smuggled in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.wire.conftest import CASES
from tests.wire.test_mutations import wrong_tensors
from torch import Tensor

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused, GenlockError, OutOfStep
from genlock.generator.window import Policy, Recache, Regime
from genlock.wire.codec import DTYPES, describe, pack
from genlock.wire.digest import tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.events import LATENTS, SHARED, Events, differences
from genlock.wire.header import Stamp, seal
from genlock.wire.kinds import LOADS, Action, Part, Plan
from genlock.wire.lifecycle import State, next_stamp
from genlock.wire.prepare import EVENTS, carried, check_payload, packed_shadow, prepare, read_shadow, receive
from genlock.wire.rules import LATENT_DTYPES

LADDER = [plan for plan in Plan if LOADS[plan]]
SOME = ("first", "steady", "latents_only", "mesh_keeps", "switch", "rebase")
REQUESTS = torch.frombuffer(bytearray(b'[{"prompt":"a boat"}]'), dtype=torch.uint8)
FRAMES = torch.zeros(12, 8, 8, 3, dtype=torch.uint8)
FREE = ("base_seed", "strength")  # any value in its bounds is a right one
# Where two fields contradict each other and nothing else takes sides, the one asked about first is named.
ALSO = {
    "plan": ("frames", "context", "timesteps"),  # what travels says it as well
    "steps": ("expected_generator_calls", "timesteps"),
    "context_frames": ("context", "window_frames"),
    "video": ("frames",),
    "embeds_id": ("reset_cross",),
    "timesteps": ("steps",),
    "noise": ("step_noise",),  # of two tensors of another type or size, where there is no third
    "step_noise": ("noise",),
    "context": ("context_frames",),
    "regime": ("context_frames", "context"),
    "shadow_frame": ("shadow_payload",),
    "num_frames": ("noise",),
}


@cache
def right(case: str, plan: Plan, *, video: bool = True) -> tuple[Events, Envelope, State]:
    """Events that follow from a state, as rank 0 makes them, and the envelope that they stand for."""
    state = replace(CASES[case].state, plan=plan)
    envelope = replace(CASES[case].envelope, plan=plan)
    loads = LOADS[plan]
    shared: dict[str, Any] = {name: getattr(envelope, name) for name in SHARED}
    latents: dict[str, Any] = {name: None if Part.ENCODER in loads else getattr(envelope, name) for name in LATENTS}
    events = Events(
        **shared,
        **latents,
        steps=envelope.steps,
        context_frames=0 if envelope.context is None else envelope.context.shape[0],
        base_seed=7,
        strength=0.7,
        video=video,
        requests=REQUESTS,
        frames=FRAMES if video and Part.ENCODER in loads else None,
        context=None if Part.DECODER in loads else envelope.context,
        shadow_frame=None,
        shadow_payload=None,
    )
    return events, envelope, state


def unchecked(events: Events, **changes: Any) -> Events:
    other = object.__new__(Events)
    for each in fields(Events):
        object.__setattr__(other, each.name, changes.get(each.name, getattr(events, each.name)))
    return other


def framed(events: Events, stamp: Stamp) -> tuple[bytes, Tensor]:
    """Of a sender that checks nothing and digests everything."""
    manifest, data, tensors = describe(EVENTS, events)
    payload = pack(manifest.specs, manifest.payload_bytes, tensors)
    frame = seal(stamp, data, payload_bytes=manifest.payload_bytes, payload_digest=tensor_digest(payload))[1]
    return frame, payload


def arrive(events: Events, stamp: Stamp, state: State) -> Any:
    frame, payload = framed(events, stamp)
    received = receive(frame, state)
    assert received.chunk is not None
    return check_payload(received.chunk, payload)  # type: ignore[arg-type]


def wrong_values(e: Events, name: str) -> Iterator[Any]:
    """Values that `name` cannot have while every other field stays as it is."""
    value = getattr(e, name)
    bytes_only = name in ("requests", "frames", "shadow_frame", "shadow_payload")
    if name == "attention_bias":
        yield from (0.0, -0.5, 1.5, float("nan"), 1, None, "1.0")
    elif name in FREE:
        yield from {"base_seed": (-1, 1.0, None, 2**63), "strength": (1.5, -0.1, 1, float("nan"), None)}[name]
    elif name == "video":
        yield from (0, None, *(() if e.frames is None else (False,)))
    elif name == "plan":
        yield from [plan for plan in Plan if plan is not value]
    elif bytes_only and value is None:
        yield torch.zeros(12, 8, 8, 3, dtype=torch.uint8) if name == "frames" else torch.zeros(8, dtype=torch.uint8)
    elif bytes_only:
        yield from (None, 0.5, value.unsqueeze(0), value.float(), value.int(), value[:0])
    elif isinstance(value, Tensor):
        # Alone, a context may have the type and the channels of any latents: the model knows better (`engine.worker`).
        alone = name == "context" and e.noise is None
        yield from (each for each in wrong_tensors(name, value) if not (alone and other_latents(each, value)))
    elif name in (*LATENTS, "context"):  # does not travel
        yield torch.zeros(3) if name in ("timesteps", "sigmas") else torch.zeros(3, 16, 2, 2)
    elif isinstance(value, bool):
        yield from (not value, int(value), None)
    elif isinstance(value, int):
        yield from (float(value), -1, None, str(value))
        # Without the noise or the embedding there is nothing that a right number must agree with: a worker that
        # prepares another one says so (`stage0.events`).
        free = (name == "num_frames" and e.noise is None) or (name == "embeds_id" and e.reset_cross)
        yield from () if free else (value + 1, value - 1)
    elif name == "cache_policy":
        yield from [policy for policy in Policy if policy is not value]
    elif name == "recache":
        yield from [kind for kind in (*Recache, None) if kind is not value]
    elif name == "regime":
        yield from [regime for regime in (*Regime, None) if regime is not value and not (e.reset_kv and regime)]


def other_latents(value: Any, right: Tensor) -> bool:
    """Right in all but its type or its channels."""
    if not isinstance(value, Tensor) or value.is_sparse or value.ndim != right.ndim:
        return False
    kinds = (value.dtype, value.shape[1]), (right.dtype, right.shape[1])
    return value.dtype in LATENT_DTYPES and kinds[0] != kinds[1]


def names(error: GenlockError, field: str) -> None:
    assert error.field in (field, *ALSO.get(field, ())), str(error)
    assert error.field in str(error)
    assert "\n" not in str(error)


EVERY = [(case, plan, each.name) for case in SOME for plan in LADDER for each in fields(Events)]


@pytest.mark.parametrize(("case", "plan", "field"), EVERY)
def test_one_wrong_field_is_named_on_both_sides(case: str, plan: Plan, field: str) -> None:
    events, envelope, state = right(case, plan)
    stamp = next_stamp(state, Action.INFER, reset_kv=envelope.reset_kv)
    assert arrive(events, stamp, state).embeds_id == envelope.embeds_id
    for value in wrong_values(events, field):
        with pytest.raises(GenlockError) as refusal:
            prepare(replace(events, **{field: value}), state)
        names(refusal.value, field)
        sent = not isinstance(value, Tensor) or (value.dtype in DTYPES.values() and not value.is_sparse)
        nan = isinstance(value, float) and value != value
        if not sent or nan or (isinstance(value, float) and field in (*LATENTS, "context", "requests", "frames")):
            continue  # even a sender that checks nothing could not write it
        with pytest.raises(GenlockError) as refusal:
            arrive(unchecked(events, **{field: value}), stamp, state)
        names(refusal.value, field)


def test_every_field_is_covered() -> None:
    touched = {field for case, plan, field in EVERY if any(True for _ in wrong_values(right(case, plan)[0], field))}
    assert touched == {each.name for each in fields(Events)}


@pytest.mark.parametrize("plan", LADDER)
@pytest.mark.parametrize("case", SOME)
def test_sender_and_receiver_end_in_one_state(case: str, plan: Plan) -> None:
    """The lifecycle of events is that of the envelope they stand for."""
    events, envelope, state = right(case, plan)
    sent, after = prepare(events, state)
    assert prepare(envelope, state)[1] == after
    assert receive(sent.frame, state).state == after
    assert (sent.header.call_id, sent.header.chunk_index) == (after.call_id, after.chunk_index)


@pytest.mark.parametrize("plan", LADDER)
def test_whichever_message_a_plan_does_not_carry_is_refused(plan: Plan) -> None:
    """What an INFER carries follows from what was agreed, not from what came; while warm it is the envelope."""
    events, envelope, state = right("steady", plan)
    with pytest.raises(FrameRefused, match="message is 'envelope', expected 'events'"):
        receive(prepare(envelope, state)[0].frame, state)
    only = replace(state, plan=Plan.V1_GENERATOR_ONLY)
    with pytest.raises(OutOfStep, match="plan is"):
        receive(prepare(events, state)[0].frame, only)
    assert carried(replace(state, warm=True)) is carried(only)
    assert carried(state) is EVENTS


@pytest.mark.parametrize("plan", LADDER)
def test_flipped_bytes_are_refused_by_their_digest(plan: Plan) -> None:
    events, _, state = right("steady", plan)
    sent, _ = prepare(events, state)
    for place in range(0, len(sent.frame), 37):
        frame = bytearray(sent.frame)
        frame[place] ^= 1
        with pytest.raises(GenlockError):
            receive(bytes(frame), state)
    chunk = receive(sent.frame, state).chunk
    assert chunk is not None
    for place in range(0, len(sent.payload), 997):
        payload = sent.payload.clone()
        payload[place] ^= 1
        with pytest.raises(DigestMismatch):
            check_payload(chunk, payload)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b"{}", b"[1]", b"[", b"\xff\xfe", b"[" * 100_000])
def test_requests_that_nobody_can_read_are_named(text: bytes) -> None:
    events, _, state = right("steady", Plan.V0_FULL_PIPELINE)
    with pytest.raises(EnvelopeRefused) as refusal:
        prepare(replace(events, requests=torch.frombuffer(bytearray(text), dtype=torch.uint8)), state)
    assert refusal.value.field == "requests"


def test_the_shadow_is_the_envelope_itself() -> None:
    events, envelope, state = right("steady", Plan.V1A_CONTEXT_OVERRIDE)
    prepared, _ = prepare(envelope, state)
    sent, _ = prepare(replace(events, **packed_shadow(prepared)), state)
    arrived = check_payload(receive(sent.frame, state).chunk, sent.payload)  # type: ignore[arg-type, type-var]
    assert isinstance(arrived, Events)
    shadow = read_shadow(arrived)
    assert shadow is not None
    assert not list(differences(envelope, shadow))
    assert read_shadow(events) is None
    other = replace(envelope, noise=envelope.noise + 1, regime=envelope.regime)
    assert [name for name, _ in differences(other, shadow)] == ["noise"]


def test_nothing_of_the_envelope_hides_in_a_manifest() -> None:
    """What a worker must make by itself is not there to be copied."""
    events, envelope, state = right("steady", Plan.V0_FULL_PIPELINE, video=False)
    sent, _ = prepare(events, state)
    said = json.loads(sent.frame[sent.frame.index(b"{") :])
    assert {name for name, spec in said["tensors"].items() if spec} == {"requests"}
    assert sent.header.payload_bytes < envelope.noise.numel()


def test_every_rung_asks_less_of_a_worker_than_the_one_before() -> None:
    rungs = [LOADS[plan] for plan in Plan]
    assert all(fewer < more for more, fewer in pairwise(rungs))
    assert (rungs[0], rungs[-1]) == (frozenset(Part), frozenset())


def test_the_bare_plan_has_no_events() -> None:
    events, _, _ = right("steady", Plan.V1B_LATENTS_OVERRIDE)
    with pytest.raises(EnvelopeRefused, match="the whole envelope travels"):
        replace(events, plan=Plan.V1_GENERATOR_ONLY)
