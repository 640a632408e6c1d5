"""The flight recorder of one rank: the last few thousand things it did, in a file that survives its death.

Two rings of fixed-size slots in a mapped file: a note costs a few microseconds and no system call, and what was noted
is in the file as soon as it is noted, also when the process is killed a moment later. Spans have the longer ring: a
chunk makes a dozen of them and hundreds of collectives. What takes time is written when it begins and its end is put
beside it, so that what never ended is there too. One slot more holds the latest beacon. A slot that was being written
when the process died fails its checksum and is left out when the file is read.
The file's head says which host's clock its seconds are of, and how far that is from the time of day.
Knows nothing of what is noted. No torch.
"""

from __future__ import annotations

import itertools
import mmap
import os
import socket
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from genlock.errors import InputOutputError

MAGIC = b"GLREC03\n"
HEADER = struct.Struct("<8sIqd40s4x")  # magic, bytes of a slot, process id, time of day less monotonic clock, host
HEAD_BYTES = HEADER.size
BODY = struct.Struct("<Qdqqq16s68s")  # number, seconds, call, chunk, op, kind, text
NUMBER = struct.Struct("<Q")
REST = struct.Struct("<Id")  # crc32 of the body; and, not covered by it, when what was noted ended
UNTIL = struct.Struct("<d")
UNTIL_AT = BODY.size + REST.size - UNTIL.size
SLOT_BYTES = BODY.size + REST.size
KIND_BYTES, TEXT_BYTES = 16, 68
# Kinds of notes that readers know; any other word is as good.
BEACON, PHASE, COLLECTIVE, FAILURE, SPAN, MARK = "beacon", "phase", "collective", "failure", "span", "mark"
NOT_ENDED = -1.0

Open = tuple[int, int]  # what was noted and goes on: its slot and its number


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One note. number: from 1, over the process's life. seconds: of this host's monotonic clock; of what takes time,
    when it began. until_s: when it ended, None where it has not, and of other notes. -1: no such id."""

    number: int
    seconds: float
    call_id: int
    chunk: int
    op: int
    kind: str
    text: str
    until_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Whose notes a file holds. wall_offset_s: time of day less the monotonic clock, seconds, when the file was made.
    host: ranks of one host share a clock."""

    pid: int
    host: str
    wall_offset_s: float


def recorder_path(run_dir: Path, rank: int) -> Path:
    return run_dir / f"recorder-rank{rank}.bin"


class Recorder:
    """Notes of one process, from any of its threads. The file is made anew, with all its room taken at once."""

    def __init__(self, path: Path, slots: int = 4096, *, spans: int = 16384) -> None:
        """slots, spans: notes and spans that are kept. Raises InputOutputError; for a full disk too, where a later
        note would crash."""
        self._slots, self._span_slots = slots, spans
        size = HEAD_BYTES + (slots + spans + 1) * SLOT_BYTES
        wall_offset_s = time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()
        host = socket.gethostname().encode()
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
                self._map = mmap.mmap(descriptor, size)
                self._map[: HEADER.size] = HEADER.pack(MAGIC, SLOT_BYTES, os.getpid(), wall_offset_s, host)
                partial.replace(path)  # a reader finds a whole recorder or none
            finally:
                os.close(descriptor)
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise InputOutputError(f"no flight recorder: {error.strerror or error}", where=str(path)) from None
        # `next` is one step for every thread, so that no two share a slot
        self._numbers, self._noted, self._begun = itertools.count(1), itertools.count(), itertools.count()

    def note(self, kind: str, *, call_id: int = -1, chunk: int = -1, op: int = -1, text: str = "") -> Open:
        """kind: one word (16 bytes are kept). text: whatever helps (68 bytes are kept). What is returned is for the end
        of what takes time."""
        slot = 1 + next(self._noted) % self._slots
        return self._write(slot, next(self._numbers), time.monotonic(), kind, call_id, chunk, op, text)

    def begin(
        self, kind: str, *, began_s: float, call_id: int = -1, chunk: int = -1, op: int = -1, text: str = ""
    ) -> Open:
        """A span begins, at `began_s` of the monotonic clock; what is returned is for its end."""
        slot = 1 + self._slots + next(self._begun) % self._span_slots
        return self._write(slot, next(self._numbers), began_s, kind, call_id, chunk, op, text)

    def end(self, what: Open, until_s: float) -> None:
        """What was noted has ended, unless its slot was taken by something later meanwhile."""
        start = HEAD_BYTES + what[0] * SLOT_BYTES
        if NUMBER.unpack_from(self._map, start)[0] == what[1]:
            UNTIL.pack_into(self._map, start + UNTIL_AT, until_s)

    def beacon(self, *, call_id: int, chunk: int, op: int, text: str) -> None:
        """The latest sign of life, in a slot of its own."""
        self._write(0, 0, time.monotonic(), BEACON, call_id, chunk, op, text)

    def close(self) -> None:
        self._map.close()

    def _write(
        self, slot: int, number: int, seconds: float, kind: str, call_id: int, chunk: int, op: int, text: str
    ) -> Open:
        body = BODY.pack(number, seconds, call_id, chunk, op, kind.encode(), text.encode())
        start = HEAD_BYTES + slot * SLOT_BYTES
        self._map[start : start + SLOT_BYTES] = body + REST.pack(zlib.crc32(body), NOT_ENDED)
        return slot, number


def read(path: Path) -> list[Entry]:
    """What a recorder holds, oldest first, the latest beacon last; damaged and unused slots are left out.

    Raises InputOutputError for a file that is missing or is no recorder.
    """
    held = _bytes_of(path)
    places = range(HEAD_BYTES, len(held) - SLOT_BYTES + 1, SLOT_BYTES)
    entries = [entry for place in places if (entry := _entry(held[place : place + SLOT_BYTES])) is not None]
    return sorted(entries, key=lambda entry: (entry.kind == BEACON and entry.number == 0, entry.number))


def read_writer(path: Path) -> Writer:
    """Who wrote a recorder. Raises as `read`."""
    _, _, pid, wall_offset_s, host = HEADER.unpack_from(_bytes_of(path))
    return Writer(pid=pid, host=_text(host), wall_offset_s=wall_offset_s)


def _bytes_of(path: Path) -> bytes:
    try:
        held = path.read_bytes()
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be read", where=str(path)) from None
    if not held.startswith(MAGIC) or len(held) < HEAD_BYTES:
        raise InputOutputError("is not a flight recorder", where=str(path))
    return held


def _entry(slot: bytes) -> Entry | None:
    body = slot[: BODY.size]
    check, until_s = REST.unpack_from(slot, BODY.size)
    if check != zlib.crc32(body):
        return None
    number, seconds, call_id, chunk, op, kind, text = BODY.unpack(body)
    return Entry(
        number=number,
        seconds=seconds,
        call_id=call_id,
        chunk=chunk,
        op=op,
        kind=_text(kind),
        text=_text(text),
        until_s=None if until_s == NOT_ENDED else until_s,
    )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="ignore")
