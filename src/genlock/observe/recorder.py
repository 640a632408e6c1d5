"""The flight recorder of one rank: the last few thousand things it did, in a file that survives its death.

A ring of fixed-size slots in a mapped file: a note costs a few microseconds and no system call, and what was noted is
in the file as soon as it is noted, also when the process is killed a moment later. One slot more holds the latest
beacon. A slot that was being written when the process died fails its checksum and is left out when the file is read.
Knows nothing of what is noted. No torch.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from genlock.errors import InputOutputError

MAGIC = b"GLREC01\n"
HEADER = struct.Struct("<8sIIq")  # magic, bytes of a slot, slots, process id
HEAD_BYTES = 64
BODY = struct.Struct("<Qdqqq16s68s")  # number, seconds, call, chunk, op, kind, text
CHECK = struct.Struct("<I")  # crc32 of the body
SLOT_BYTES = BODY.size + CHECK.size
KIND_BYTES, TEXT_BYTES = 16, 68
# Kinds of notes that readers know; any other word is as good.
BEACON, PHASE, COLLECTIVE, FAILURE = "beacon", "phase", "collective", "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One note. number: from 1, over the process's life. seconds: of this host's monotonic clock. -1: no such id."""

    number: int
    seconds: float
    call_id: int
    chunk: int
    op: int
    kind: str
    text: str


def recorder_path(run_dir: Path, rank: int) -> Path:
    return run_dir / f"recorder-rank{rank}.bin"


class Recorder:
    """Notes of one process, from any of its threads. The file is made anew, with all its room taken at once."""

    def __init__(self, path: Path, slots: int = 4096) -> None:
        """slots: notes that are kept. Raises InputOutputError; for a full disk too, where a later note would crash."""
        self._slots = slots
        size = HEAD_BYTES + (slots + 1) * SLOT_BYTES
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
                self._map = mmap.mmap(descriptor, size)
                self._map[: HEADER.size] = HEADER.pack(MAGIC, SLOT_BYTES, slots, os.getpid())
                partial.replace(path)  # a reader finds a whole recorder or none
            finally:
                os.close(descriptor)
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise InputOutputError(f"no flight recorder: {error.strerror or error}", where=str(path)) from None
        self._numbers = itertools.count(1)  # `next` is one step for every thread, so that no two share a slot

    def note(self, kind: str, *, call_id: int = -1, chunk: int = -1, op: int = -1, text: str = "") -> None:
        """kind: one word (16 bytes are kept). text: whatever helps (68 bytes are kept)."""
        number = next(self._numbers)
        self._write(1 + (number - 1) % self._slots, number, kind, call_id, chunk, op, text)

    def beacon(self, *, call_id: int, chunk: int, op: int, text: str) -> None:
        """The latest sign of life, in a slot of its own."""
        self._write(0, 0, BEACON, call_id, chunk, op, text)

    def close(self) -> None:
        self._map.close()

    def _write(self, slot: int, number: int, kind: str, call_id: int, chunk: int, op: int, text: str) -> None:
        body = BODY.pack(number, time.monotonic(), call_id, chunk, op, kind.encode(), text.encode())
        start = HEAD_BYTES + slot * SLOT_BYTES
        self._map[start : start + SLOT_BYTES] = body + CHECK.pack(zlib.crc32(body))


def read(path: Path) -> list[Entry]:
    """What a recorder holds, oldest first, the latest beacon last; damaged and unused slots are left out.

    Raises InputOutputError for a file that is missing or is no recorder.
    """
    try:
        held = path.read_bytes()
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be read", where=str(path)) from None
    if not held.startswith(MAGIC) or len(held) < HEAD_BYTES:
        raise InputOutputError("is not a flight recorder", where=str(path))
    places = range(HEAD_BYTES, len(held) - SLOT_BYTES + 1, SLOT_BYTES)
    entries = [entry for place in places if (entry := _entry(held[place : place + SLOT_BYTES])) is not None]
    return sorted(entries, key=lambda entry: (entry.kind == BEACON and entry.number == 0, entry.number))


def _entry(slot: bytes) -> Entry | None:
    body, check = slot[: BODY.size], slot[BODY.size :]
    if CHECK.unpack(check)[0] != zlib.crc32(body):
        return None
    number, seconds, call_id, chunk, op, kind, text = BODY.unpack(body)
    return Entry(
        number=number, seconds=seconds, call_id=call_id, chunk=chunk, op=op, kind=_text(kind), text=_text(text)
    )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="ignore")
