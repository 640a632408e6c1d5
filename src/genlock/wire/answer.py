"""What a rank says to a frame, in one small record: accepted, alive, go, look again, or a fault with its reason.

A worker answers every frame: ACCEPT to a chunk that it will take, ALIVE to a NOOP, FAULT to what it refuses or cannot
finish. Rank 0 answers the answers: GO, once all have accepted; only then does anybody wait in a broadcast. And LOOK, to
verdicts that disagree and name nobody: every rank looks at all that it holds, and gives another verdict.
Knows no connection, and not whose turn it is.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import IntEnum

from genlock.errors import DigestMismatch, FrameRefused, GenlockError
from genlock.wire.codec import describe, read_manifest
from genlock.wire.digest import bytes_digest
from genlock.wire.prepare import FAULT
from genlock.wire.result import Fault

MAGIC = b"gnla"
VERSION = 1

_HEAD = struct.Struct("<4sHHq")  # magic, version, kind, call_id; the digest of all else follows, then the fault
_DIGEST_BYTES = 16


class Kind(IntEnum):
    """What an answer says; the number is in the record."""

    ALIVE = 0
    ACCEPT = 1
    GO = 2
    FAULT = 3
    LOOK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to the frame `call_id`; `fault` belongs to FAULT alone."""

    kind: Kind
    call_id: int
    fault: Fault | None = None

    def __post_init__(self) -> None:
        if (self.fault is not None) != (self.kind is Kind.FAULT):
            raise FrameRefused(f"{self.kind.name} {'with' if self.fault else 'without'} a fault", field="kind")


def is_answer(data: bytes) -> bool:
    """Whether these bytes claim to be an answer, and not a frame or a verdict."""
    return data.startswith(MAGIC)


def is_fault(data: bytes) -> bool:
    """Whether these bytes claim to be an answer with a fault."""
    return is_answer(data) and len(data) >= _HEAD.size and _HEAD.unpack_from(data)[2] == Kind.FAULT


def pack_answer(answer: Answer) -> bytes:
    """The record: head, digest of everything else, fault."""
    fault = b"" if answer.fault is None else describe(FAULT, answer.fault)[1]
    head = _HEAD.pack(MAGIC, VERSION, int(answer.kind), answer.call_id)
    return head + bytes_digest(head + fault).to_bytes(_DIGEST_BYTES, "little") + fault


def unpack_answer(data: bytes) -> Answer:
    """An answer read. Raises FrameRefused for what cannot be one, DigestMismatch for changed bytes."""
    start = _HEAD.size + _DIGEST_BYTES
    if len(data) < start:
        raise FrameRefused(f"an answer of {len(data)} bytes, the least is {start}", field="answer")
    magic, version, kind, call_id = _HEAD.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION) or kind not in tuple(map(int, Kind)):
        raise FrameRefused(f"no answer of version {VERSION}: {data[: _HEAD.size].hex()}", field="answer")
    head, digest, fault = data[: _HEAD.size], data[_HEAD.size : start], data[start:]
    if bytes_digest(head + fault) != int.from_bytes(digest, "little"):
        raise DigestMismatch("an answer is not the bytes that were sent", field="answer")
    read = read_manifest(FAULT, fault)[1] if fault else None
    return Answer(kind=Kind(kind), call_id=call_id, fault=read)


_PLACE = re.compile(r"(?P<ids>(?:(?:rank|call|chunk) -?\d+(?:, |: ))+)")


def error_of(fault: Fault) -> GenlockError:
    """The error that a fault tells of, as it read where it was raised: class, ids, field, text and remedy.

    A code that is unknown here, of another version, becomes a GenlockError whose text says the code.
    """
    kind = error_class(fault.code)
    text = fault.text.removeprefix(f"{fault.code}: ")
    if text.endswith(f"; {kind.default_remedy}"):  # may itself have a semicolon
        what, remedy = text.removesuffix(f"; {kind.default_remedy}"), kind.default_remedy
    else:
        what, _, remedy = text.rpartition("; ")
    ids: dict[str, int] = {} if fault.rank < 0 else {"rank": fault.rank}
    place = _PLACE.match(what)
    if place is not None:
        what = what[place.end() :]
        ids |= {name: int(number) for name, number in re.findall(r"(\w+) (-?\d+)", place["ids"])}
    return kind(
        (what if kind.code == fault.code else f"{fault.code}: {what}") or remedy,
        remedy=remedy,
        field=fault.field,
        rank=ids.get("rank"),
        call_id=ids.get("call"),
        chunk_index=ids.get("chunk"),
    )


def error_class(code: str, base: type[GenlockError] = GenlockError) -> type[GenlockError]:
    """The class of a code; GenlockError for one that no class has."""
    todo = [base]
    while todo:
        kind = todo.pop()
        if kind.code == code:
            return kind
        todo += kind.__subclasses__()
    return base
