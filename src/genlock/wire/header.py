"""The first bytes of every frame: who, what, which one, how much follows, and what it must digest to.

Fixed size, little-endian. The header's digests leave no byte uncovered: the payload's is part of the header, and the
manifest's is taken over the header (with its own sixteen bytes left out) and the manifest together.
A reader refuses by name what it does not know, before it believes any number in the rest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from genlock.errors import DigestMismatch, FrameRefused
from genlock.wire.digest import bytes_digest
from genlock.wire.kinds import Action, Plan

MAGIC = b"gnlk"
WIRE_VERSION = 1
MAX_MANIFEST_BYTES = 64 * 1024  # a manifest of ours is about 2 KB
MAX_PAYLOAD_BYTES = 1024**3  # no envelope of a model this side of 100 GB comes near
DIGEST_BYTES = 16

# magic, wire version, action, plan, stream, call_id, chunk_index, cache_epoch, manifest bytes, payload bytes
_FIELDS = struct.Struct("<4sHBBIqqqIQ")
_PREFIX_BYTES = _FIELDS.size + DIGEST_BYTES  # up to and with the payload's digest: what the manifest's digest covers
HEADER_BYTES = _PREFIX_BYTES + DIGEST_BYTES
FRAME_BYTES_MAX = HEADER_BYTES + MAX_MANIFEST_BYTES

_PLANS = tuple(Plan)
STREAM = 0  # the only one, in this version; its place in the header is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Which frame this is. call_id counts the frames of any action, from 1; chunk_index numbers the chunks from 0 and
    is -1 while warm; cache_epoch counts the resets."""

    action: Action
    plan: Plan
    call_id: int
    chunk_index: int
    cache_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Stamp):
    """A stamp, and how much follows and what it digests to; manifest_digest covers all other fields too."""

    manifest_bytes: int
    payload_bytes: int
    payload_digest: int
    manifest_digest: int


def seal(stamp: Stamp, manifest: bytes, *, payload_bytes: int = 0, payload_digest: int = 0) -> tuple[Header, bytes]:
    """The header of a manifest and of a payload already digested, and the frame: header bytes, then the manifest.

    Raises FrameRefused if manifest or payload is larger than any reader takes.
    """
    _check_sizes(len(manifest), payload_bytes)
    ids = (stamp.call_id, stamp.chunk_index, stamp.cache_epoch)
    head = (MAGIC, WIRE_VERSION, int(stamp.action), _PLANS.index(stamp.plan), STREAM)
    prefix = _FIELDS.pack(*head, *ids, len(manifest), payload_bytes)
    prefix += payload_digest.to_bytes(DIGEST_BYTES, "little")
    manifest_digest = bytes_digest(prefix + manifest)
    header = Header(
        action=stamp.action,
        plan=stamp.plan,
        call_id=stamp.call_id,
        chunk_index=stamp.chunk_index,
        cache_epoch=stamp.cache_epoch,
        manifest_bytes=len(manifest),
        payload_bytes=payload_bytes,
        payload_digest=payload_digest,
        manifest_digest=manifest_digest,
    )
    return header, prefix + manifest_digest.to_bytes(DIGEST_BYTES, "little") + manifest


def open_frame(frame: bytes) -> tuple[Header, bytes]:
    """Header and manifest of one frame, believed only after the digest.

    Raises FrameRefused for a frame that cannot be read, naming the field; DigestMismatch for changed bytes.
    """
    if len(frame) < HEADER_BYTES:
        raise FrameRefused(f"a frame of {len(frame)} bytes is shorter than a header of {HEADER_BYTES}", field="frame")
    magic, version, action, plan, stream, *ids, manifest_bytes, payload_bytes = _FIELDS.unpack_from(frame)
    for field, value, known in (
        ("magic", magic, (MAGIC,)),
        ("wire_version", version, (WIRE_VERSION,)),
        ("action", action, tuple(map(int, Action))),
        ("plan", plan, tuple(range(len(_PLANS)))),
        ("stream", stream, (STREAM,)),
    ):
        if value not in known:
            raise FrameRefused(f"{field} is {value!r}, known here: {', '.join(map(repr, known))}", field=field)
    _check_sizes(manifest_bytes, payload_bytes)
    manifest = frame[HEADER_BYTES:]
    if len(manifest) != manifest_bytes:
        what = f"manifest_bytes is {manifest_bytes}, and {len(manifest)} bytes follow the header"
        raise FrameRefused(what, field="manifest_bytes")
    manifest_digest = int.from_bytes(frame[_PREFIX_BYTES:HEADER_BYTES], "little")
    if bytes_digest(frame[:_PREFIX_BYTES] + manifest) != manifest_digest:
        raise DigestMismatch("header and manifest are not the bytes that were sent", field="manifest_digest")
    header = Header(
        action=Action(action),
        plan=_PLANS[plan],
        call_id=ids[0],
        chunk_index=ids[1],
        cache_epoch=ids[2],
        manifest_bytes=manifest_bytes,
        payload_bytes=payload_bytes,
        payload_digest=int.from_bytes(frame[_FIELDS.size : _PREFIX_BYTES], "little"),
        manifest_digest=manifest_digest,
    )
    return header, manifest


def _check_sizes(manifest_bytes: int, payload_bytes: int) -> None:
    for field, value, most in (
        ("manifest_bytes", manifest_bytes, MAX_MANIFEST_BYTES),
        ("payload_bytes", payload_bytes, MAX_PAYLOAD_BYTES),
    ):
        if value > most:
            raise FrameRefused(f"{field} is {value}, the most is {most}", field=field)
