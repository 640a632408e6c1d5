"""From an envelope to bytes that can only fail to be sent, and back: the last place that may throw.

Everything that can be wrong with a chunk is found in `prepare` on the sender and in `receive` on the receiver, before
anybody waits for more. A `Prepared` that is dropped drops its next state, so that it leaves no gap in the ids.
Knows no connection and no collective.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused
from genlock.generator.window import Policy
from genlock.wire.codec import Manifest, Schema, build, describe, pack, read_manifest, shapes_only, unpack
from genlock.wire.digest import embeds_id, tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.header import Header, open_frame, seal
from genlock.wire.kinds import Action, Plan, Recache, Regime
from genlock.wire.lifecycle import State, accept, next_stamp

ENVELOPE = Schema(
    name="envelope",
    kind=Envelope,
    tensors=("timesteps", "sigmas", "noise", "step_noise", "embeds", "context"),
    enums=(("plan", Plan), ("cache_policy", Policy), ("regime", Regime), ("recache", Recache)),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A chunk as bytes. frame: header and manifest. payload: uint8 [payload_bytes], all tensors."""

    header: Header
    frame: bytes
    payload: Tensor
    manifest: Manifest

    def unpack(self) -> Envelope:
        """The envelope as every rank will read it, its tensors views of the payload."""
        return build(ENVELOPE, self.manifest, unpack(self.manifest.specs, self.payload))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Announced:
    """A frame that was read and agreed to, its payload still to come. state: the receiver's, once it accepts."""

    header: Header
    manifest: Manifest
    state: State


def prepare(envelope: Envelope, state: State) -> tuple[Prepared, State]:
    """The bytes of the next chunk and the sender's state once they are sent.

    Raises EnvelopeRefused for a field that breaks its rule, OutOfStep for one that does not follow from `state`,
    FrameRefused if what was written does not read back. Nothing has changed then.
    """
    envelope = replace(envelope)  # the constructor's checks again: a frozen value's tensors may have been resized
    _check_lies_ready(envelope)
    if embeds_id(envelope.embeds) != envelope.embeds_id:
        raise EnvelopeRefused("embeds_id is not the digest of embeds", field="embeds_id")
    stamp = next_stamp(state, Action.INFER, reset_kv=envelope.reset_kv)
    next_state = accept(state, stamp, envelope)
    manifest, data, tensors = describe(ENVELOPE, envelope)
    payload = pack(manifest.specs, manifest.payload_bytes, tensors)
    header, frame = seal(stamp, data, payload_bytes=manifest.payload_bytes, payload_digest=tensor_digest(payload))
    if read_manifest(ENVELOPE, data) != manifest:
        raise FrameRefused("the manifest does not read back as it was written", field="manifest")
    return Prepared(header=header, frame=frame, payload=payload, manifest=manifest), next_state


def receive(frame: bytes, state: State) -> Announced:
    """A receiver's checks before it allocates anything: digest, schema, arithmetic, its own lifecycle.

    Raises FrameRefused, DigestMismatch, EnvelopeRefused or OutOfStep, each naming the field. `state` is not changed:
    the new one takes its place when the receiver says that it accepts.
    """
    header, data = open_frame(frame)
    if header.action is not Action.INFER:
        raise FrameRefused(f"action is {header.action.name}, expected INFER", field="action")
    manifest = read_manifest(ENVELOPE, data)
    if manifest.payload_bytes != header.payload_bytes:
        what = f"payload_bytes is {header.payload_bytes}, the manifest's tensors take {manifest.payload_bytes}"
        raise FrameRefused(what, field="payload_bytes")
    envelope = build(ENVELOPE, manifest, shapes_only(manifest.specs))
    return Announced(header=header, manifest=manifest, state=accept(state, header, envelope))


def check_payload(announced: Announced, payload: Tensor) -> Envelope:
    """The envelope, from a payload in host memory. Raises DigestMismatch for changed bytes."""
    if payload.dtype is not torch.uint8 or payload.shape != (announced.header.payload_bytes,):
        raise DigestMismatch("the payload has another size than was announced", field="payload_bytes")
    if tensor_digest(payload) != announced.header.payload_digest:
        raise DigestMismatch("the payload is not the bytes that were announced", field="payload")
    envelope = build(ENVELOPE, announced.manifest, unpack(announced.manifest.specs, payload))
    if embeds_id(envelope.embeds) != envelope.embeds_id:
        raise EnvelopeRefused("embeds_id is not the digest of embeds", field="embeds_id")
    return envelope


def _check_lies_ready(envelope: Envelope) -> None:
    for name in ENVELOPE.tensors:
        tensor = getattr(envelope, name)
        if tensor is not None and (not tensor.is_contiguous() or tensor.device.type != "cpu"):
            raise EnvelopeRefused(f"{name} must be contiguous and in host memory", field=name)
