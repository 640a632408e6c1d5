"""What a rank did in a chunk and what it holds, as one small record; and who is odd when ranks are held together.

A record has a fixed size and is readable exactly when collectives have gone wrong, for it travels beside them. Whatever
a rank can find wrong with itself it raises before it writes one, so a record has no status: a rank that failed sends a
fault (`wire.answer`) in its place. Knows no connection, no deadline, and not how a column was measured.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from genlock.errors import FrameRefused, MeshDisagrees
from genlock.wire.rules import INT64_MAX, check_int, check_type

MAGIC = b"gnlv"
VERSION = 2
DIGEST_MOST = 2**128 - 1

# Measured against a reference of the rank's own, so that a False names the rank by itself. Causes before what follows.
REFERENCE = ("inputs", "weights", "kv")
# Follow from the announced plan. Rank 0 has held its own against the plan when it compares.
PLANNED = ("call_id", "prepared", "observed_calls", "ledger", "end_abs", "end")

# magic, version, call_id, prepared, observed_calls, ledger, end_abs, end, three flags, are there outputs, outputs
_RECORD = struct.Struct("<4sHq16sq16sqq3BB16s")
VERDICT_BYTES = _RECORD.size
_DIGESTS = ("prepared", "ledger", "outputs")
_FLAGS = (None, False, True)  # a flag's byte is its place here


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One rank after one chunk. Raises EnvelopeRefused naming a field out of its form.

    prepared: digest of header and manifest of what this rank computed from, which cover the payload, 128 bits: of what
    it was sent, or of what it prepared by itself. ledger: rolling digest of the collectives made, 128 bits. end_abs,
    end: frames that the cache has seen and holds. inputs, weights, kv: whether they still are what this rank's
    reference says; None where the chunk's turn was not to look. outputs: digest of the latents, 128 bits; None where
    not taken.
    """

    call_id: int
    prepared: int
    observed_calls: int
    ledger: int
    end_abs: int
    end: int
    inputs: bool | None = None
    weights: bool | None = None
    kv: bool | None = None
    outputs: int | None = None

    def __post_init__(self) -> None:
        for name in PLANNED:
            check_int(name, getattr(self, name), most=DIGEST_MOST if name in _DIGESTS else INT64_MAX)
        for name in REFERENCE:
            if getattr(self, name) is not None:
                check_type(name, getattr(self, name), bool)
        if self.outputs is not None:
            check_int("outputs", self.outputs, most=DIGEST_MOST)

    def pack(self) -> bytes:
        """The record, VERDICT_BYTES long."""
        return _RECORD.pack(
            MAGIC,
            VERSION,
            self.call_id,
            self.prepared.to_bytes(16, "little"),
            self.observed_calls,
            self.ledger.to_bytes(16, "little"),
            self.end_abs,
            self.end,
            *(_FLAGS.index(getattr(self, name)) for name in REFERENCE),
            self.outputs is not None,
            (self.outputs or 0).to_bytes(16, "little"),
        )


def unpack(record: bytes) -> Verdict:
    """A record read. Raises FrameRefused for bytes that no rank of this version writes."""
    if len(record) != VERDICT_BYTES:
        raise FrameRefused(f"a verdict of {len(record)} bytes, expected {VERDICT_BYTES}", field="verdict")
    magic, version, call_id, prepared, calls, ledger, end_abs, end, *flags, has_outputs, outputs = _RECORD.unpack(
        record
    )
    if (magic, version) != (MAGIC, VERSION):
        what = f"a verdict of {magic!r}, version {version}; known here: {MAGIC!r}, version {VERSION}"
        raise FrameRefused(what, field="verdict")
    for name, flag in zip((*REFERENCE, "outputs"), (*flags, has_outputs), strict=True):
        if flag >= (2 if name == "outputs" else len(_FLAGS)):
            raise FrameRefused(f"{name} is {flag} in a verdict", field=name)
    if not has_outputs and any(outputs):
        raise FrameRefused("outputs are marked as none and are there", field="outputs")
    return Verdict(
        call_id=call_id,
        prepared=int.from_bytes(prepared, "little"),
        observed_calls=calls,
        ledger=int.from_bytes(ledger, "little"),
        end_abs=end_abs,
        end=end,
        **{name: _FLAGS[flag] for name, flag in zip(REFERENCE, flags, strict=True)},
        outputs=int.from_bytes(outputs, "little") if has_outputs else None,
    )


def compare(own: Verdict, others: Mapping[int, Verdict], *, unheld: Collection[str] = ()) -> None:
    """Raises MeshDisagrees unless all ranks did and hold the same; `own` is rank 0's. unheld: of what follows from the
    plan, the columns left out on purpose.

    `field` is the column, `rank` the odd rank, the lowest of several, or None where nobody can be named. The columns
    are looked at in the order in which they name best:
    - one with a reference of its own names the rank that found itself wrong;
    - of one that follows from the plan the minority is odd; in a tie rank 0 is right, for it is the plan's author;
    - of the outputs the minority is odd. In a tie nobody is, and only the reference columns can tell who: a changed
      weight is summed into everybody's latents, and two ranks that differ are each other's witness.
    """
    verdicts = {0: own, **others}
    compare_references(own, others)
    for column in (column for column in PLANNED if column not in unheld):
        _expect_equal(own, column, {rank: getattr(verdict, column) for rank, verdict in verdicts.items()})
    for column in (*REFERENCE, "outputs"):  # a rank that looks at another chunk than the others has lost count
        looked = {rank: getattr(verdict, column) is not None for rank, verdict in verdicts.items()}
        _expect_equal(own, column, looked, what="was it looked at")
    _expect_equal(own, "outputs", {rank: verdict.outputs for rank, verdict in verdicts.items()}, tie=None)


def compare_references(own: Verdict, others: Mapping[int, Verdict]) -> None:
    """Raises MeshDisagrees for a rank that found itself wrong, as `compare` does first."""
    for column in REFERENCE:
        verdicts = {0: own, **others}.items()
        wrong = sorted(rank for rank, verdict in verdicts if getattr(verdict, column) is False)
        if wrong:
            who = f"{_ranks(wrong)}: " if len(wrong) > 1 else ""  # the error says one rank by itself
            what = f"{column}: {who}{_WRONG[column]}"
            raise MeshDisagrees(what, field=column, rank=wrong[0], call_id=own.call_id)


_WRONG = {
    "inputs": "its inputs are no longer what was announced",
    "weights": "its weights are no longer what was loaded",
    "kv": "its keys and values changed without a write",
}


def _expect_equal(own: Verdict, column: str, values: Mapping[int, Any], *, what: str = "", tie: int | None = 0) -> None:
    """`tie`: the rank that is right if no value has a majority; None for nobody."""
    groups: dict[Any, list[int]] = {}
    for rank in sorted(values):
        groups.setdefault(values[rank], []).append(rank)
    if len(groups) == 1:
        return
    largest = sorted(groups, key=lambda value: -len(groups[value]))
    tied = len(groups[largest[0]]) == len(groups[largest[1]])
    right = largest[0] if not tied else None if tie is None else values[tie]
    odd = [] if tied and tie is None else sorted(rank for rank in values if values[rank] != right)
    said = "; ".join(f"{_show(column, value)} on {_ranks(ranks)}" for value, ranks in groups.items())
    raise MeshDisagrees(
        f"{column}{f' ({what})' if what else ''}: {said}"
        + ("" if odd else "; no rank is in the minority: check weights, keys and values of each"),
        field=column,
        rank=odd[0] if odd else None,
        call_id=own.call_id,
    )


def _show(column: str, value: Any) -> str:
    """Digests in hex."""
    return f"{value:032x}" if column in _DIGESTS and type(value) is int else str(value)


def _ranks(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


assert {*PLANNED, *REFERENCE, "outputs"} == {field.name for field in fields(Verdict)}
