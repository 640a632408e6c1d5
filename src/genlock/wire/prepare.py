"""From a message to bytes that can only fail to be sent, and back: the last place that may throw.

Everything that can be wrong with a chunk is found in `prepare` on the sender and in `receive` on the receiver, before
anybody waits for more. A `Prepared` that is dropped drops its next state, so that it leaves no gap in the ids.
Results are prepared and read by the same rules. Knows no connection and no collective.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused, OutOfStep
from genlock.generator.schedule import TABLE_ROWS
from genlock.generator.window import Policy, Recache, Regime
from genlock.wire.codec import Manifest, Message, Schema, build, describe, pack, read_manifest, unpack
from genlock.wire.digest import embeds_id, tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.header import Header, Stamp, open_frame, seal
from genlock.wire.kinds import LOADS, Action, Plan
from genlock.wire.lifecycle import State, accept, next_stamp
from genlock.wire.result import Fault, Result
from genlock.wire.rules import refuse

_ENUMS = (("plan", Plan), ("cache_policy", Policy), ("regime", Regime), ("recache", Recache))
_LATENTS = ("timesteps", "sigmas", "noise", "step_noise", "context")
ENVELOPE = Schema(name="envelope", kind=Envelope, tensors=(*_LATENTS, "embeds"), enums=_ENUMS)
EVENTS = Schema(
    name="events",
    kind=Events,
    tensors=(*_LATENTS, "requests", "frames", "shadow_frame", "shadow_payload"),
    enums=_ENUMS,
)
RESULT = Schema(name="result", kind=Result, tensors=("latents", "verdicts"), records=(("fault", Fault),))
FAULT = Schema(name="fault", kind=Fault)

Digest = Callable[[Tensor], int]
Work = TypeVar("Work", Envelope, Events)  # what an INFER can carry


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Announced(Generic[Message]):
    """A message whose frame was read and believed. shapes: the message, its tensors without bytes (meta device)."""

    header: Header
    schema: Schema[Message]
    manifest: Manifest
    shapes: Message

    def unpack(self, payload: Tensor) -> Message:
        """The message, its tensors views of `payload` (uint8 [payload_bytes], any device), whose digest is known."""
        return build(self.schema, self.manifest.scalars, unpack(self.manifest.specs, payload))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared(Generic[Message]):
    """A message as bytes. frame: header and manifest. payload: uint8 [payload_bytes] in host memory, all tensors."""

    frame: bytes
    payload: Tensor
    announced: Announced[Message]

    @property
    def header(self) -> Header:
        return self.announced.header

    def unpack(self) -> Message:
        """The message as every rank will read it: the only source of what phase B reads, on rank 0 too."""
        return self.announced.unpack(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Received:
    """A frame that follows from the receiver's state. state: the receiver's, once it says that it accepts.
    chunk: of INFER, its payload still to come. fault: of ERROR."""

    header: Header
    state: State
    chunk: Announced[Envelope] | Announced[Events] | None = None
    fault: Fault | None = None


def carried(state: State) -> Schema[Envelope] | Schema[Events]:
    """The message that an INFER carries: follows from what was agreed at the start, never from what came.

    Events where workers prepare their own. Chunks of warm-up mean nothing, so that there is nothing to prepare them
    from: they are whole envelopes under every plan.
    """
    return EVENTS if LOADS[state.plan] and not state.warm else ENVELOPE


def prepare(message: Work, state: State, *, digest: Digest = tensor_digest) -> tuple[Prepared[Work], State]:
    """The bytes of the next chunk and the sender's state once they are sent. message: an envelope, or its events.

    Raises EnvelopeRefused for a field that breaks its rule, OutOfStep for one that does not follow from `state`,
    CacheRefused for a chunk the cache cannot hold, FrameRefused if what was written does not read back. Nothing has
    changed then.
    """
    schema: Schema[Any] = ENVELOPE if isinstance(message, Envelope) else EVENTS
    _check_host(schema, message)
    _check_contents(message)
    stamp = next_stamp(state, Action.INFER, reset_kv=message.reset_kv)
    next_state = accept(state, stamp, outline(message))
    return _prepare(schema, message, stamp, digest), next_state


def outline(message: Envelope | Events) -> Envelope:
    """What of a message is judged by its shapes alone."""
    return message if isinstance(message, Envelope) else message.outline()


def prepare_notice(action: Action, state: State, *, fault: Fault | None = None) -> tuple[bytes, State]:
    """The frame of a NOOP, a SHUTDOWN or an ERROR, and the sender's state once it is sent. `fault`: of an ERROR."""
    if action not in (Action.NOOP, Action.SHUTDOWN, Action.ERROR) or (fault is not None) != (action is Action.ERROR):
        raise FrameRefused(f"action is {action.name}, {'with' if fault else 'without'} a fault", field="action")
    stamp = next_stamp(state, action)
    manifest = b"" if fault is None else describe(FAULT, fault)[1]
    return seal(stamp, manifest)[1], accept(state, stamp, None)


def prepare_result(result: Result, *, plan: Plan, digest: Digest = tensor_digest) -> Prepared[Result]:
    """The bytes of an answer. Raises EnvelopeRefused for a field that breaks its rule."""
    _check_host(RESULT, result)
    stamp = Stamp(
        action=Action.RESULT,
        plan=plan,
        call_id=result.call_id,
        chunk_index=result.chunk_index,
        cache_epoch=result.cache_epoch,
    )
    return _prepare(RESULT, result, stamp, digest)


def receive(frame: bytes, state: State) -> Received:
    """A receiver's checks before it allocates anything: digest, schema, arithmetic, its own lifecycle.

    Raises FrameRefused, DigestMismatch, EnvelopeRefused, OutOfStep or CacheRefused, each naming the field. `state` is
    not changed: the new one takes its place when the receiver says that it accepts.
    """
    header, data = open_frame(frame)
    if header.action is Action.INFER:
        if header.plan is not state.plan:
            raise OutOfStep(f"plan is {header.plan}, expected {state.plan}", field="plan", call_id=header.call_id)
        schema: Schema[Any] = carried(state)
        chunk = _announced(schema, header, data)
        return Received(header=header, state=accept(state, header, outline(chunk.shapes)), chunk=chunk)
    if header.payload_bytes or (data and header.action is not Action.ERROR):
        raise FrameRefused(f"a {header.action.name} frame with more than its header", field="action")
    fault = read_manifest(FAULT, data)[1] if data else None
    return Received(header=header, state=accept(state, header, None), fault=fault)


def receive_result(frame: bytes) -> Announced[Result]:
    """An answer whose payload is still to come; whether it is the one waited for: `lifecycle.deliverable`."""
    header, data = open_frame(frame)
    if header.action is not Action.RESULT:
        raise FrameRefused(f"action is {header.action.name}, expected RESULT", field="action")
    answer = _announced(RESULT, header, data)
    for name in ("call_id", "chunk_index", "cache_epoch"):
        if getattr(answer.shapes, name) != getattr(header, name):
            raise refuse(name, getattr(answer.shapes, name), f"the header says {getattr(header, name)}")
    return answer


def check_payload(announced: Announced[Message], payload: Tensor) -> Message:
    """The message, from a payload in host memory. Raises DigestMismatch for changed bytes, EnvelopeRefused for
    contents that break a rule only they can show."""
    if payload.dtype is not torch.uint8 or payload.shape != (announced.header.payload_bytes,):
        raise DigestMismatch("the payload has another size than was announced", field="payload_bytes")
    if tensor_digest(payload) != announced.header.payload_digest:
        raise DigestMismatch("the payload is not the bytes that were announced", field="payload_digest")
    message = announced.unpack(payload)
    if isinstance(message, Envelope | Events):
        _check_contents(message)
    return message


def packed_shadow(prepared: Prepared[Envelope]) -> dict[str, Tensor]:
    """Rank 0's own envelope as the fields of `Events` that carry it, uint8 [B] each."""
    return {
        "shadow_frame": torch.frombuffer(bytearray(prepared.frame), dtype=torch.uint8),
        "shadow_payload": prepared.payload,
    }


def read_shadow(events: Events) -> Envelope | None:
    """Rank 0's own envelope, if it travelled. Raises FrameRefused, DigestMismatch, EnvelopeRefused."""
    if events.shadow_frame is None or events.shadow_payload is None:
        return None
    header, data = open_frame(bytes(events.shadow_frame.numpy()))
    return check_payload(_announced(ENVELOPE, header, data), events.shadow_payload)


def _prepare(schema: Schema[Message], message: Message, stamp: Stamp, digest: Digest) -> Prepared[Message]:
    """Pack, digest, and read back what was written; that runs the constructor's checks once more, for a frozen value's
    tensors may have been resized since."""
    manifest, data, tensors = describe(schema, message)
    payload = pack(manifest.specs, manifest.payload_bytes, tensors)
    header, frame = seal(stamp, data, payload_bytes=manifest.payload_bytes, payload_digest=digest(payload))
    announced = _announced(schema, header, data)
    if announced.manifest != manifest:
        raise FrameRefused("the manifest does not read back as it was written", field="manifest")
    return Prepared(frame=frame, payload=payload, announced=announced)


def _announced(schema: Schema[Message], header: Header, data: bytes) -> Announced[Message]:
    manifest, shapes = read_manifest(schema, data)
    if manifest.payload_bytes != header.payload_bytes:
        what = f"payload_bytes is {header.payload_bytes}, the manifest's tensors take {manifest.payload_bytes}"
        raise FrameRefused(what, field="payload_bytes")
    return Announced(header=header, schema=schema, manifest=manifest, shapes=shapes)


def _check_host(schema: Schema[Message], message: Message) -> None:
    """A copy from a device would be a wait that nobody sees: the maker of the message makes it."""
    for name in schema.tensors:
        tensor = getattr(message, name)
        if tensor is not None and tensor.device.type != "cpu":
            raise refuse(name, f"on {tensor.device}", "must be in host memory")


def _check_contents(message: Envelope | Events) -> None:
    """What shapes cannot show: the schedule's values, that embeds_id is the digest of embeds, that requests can be
    read."""
    for name, values, most in (("timesteps", message.timesteps, float(TABLE_ROWS)), ("sigmas", message.sigmas, 1.0)):
        listed = [] if values is None else values.tolist()
        if not all(0.0 <= value <= most for value in listed):
            raise refuse(name, listed, f"must lie in 0..{most}")
    if isinstance(message, Events):
        _check_requests(message.requests)
    elif embeds_id(message.embeds) != message.embeds_id:
        raise EnvelopeRefused(f"embeds_id is {message.embeds_id}: not the digest of embeds", field="embeds_id")


def _check_requests(requests: Tensor) -> None:
    try:
        listed = json.loads(bytes(requests.numpy()))
    except (ValueError, RecursionError, UnicodeError):
        listed = None
    if type(listed) is not list or not all(type(request) is dict for request in listed):
        raise EnvelopeRefused("requests are no JSON list of objects", field="requests")
