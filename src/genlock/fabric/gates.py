"""Start-up gates: every rank says what it is, rank 0 holds all of it together, and all go on or none does.

A manifest is what must be equal; a report is what rank 0 merely wants to know. A difference ends the start on every
rank with the same table: key, value, ranks. A rank that does not come is named, with the phase it had reached where
that is known. What belongs in a manifest is not this file's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genlock.errors import FrameRefused, GateMissed, GateRefused, GenlockError, LinkTimeout
from genlock.fabric.connection import FRAME_MOST, Connection, gather, send_all, tell_all
from genlock.wire.answer import error_class, error_of, is_fault, unpack_answer

Value = str | int | float | bool
Manifest = Mapping[str, Value]

NAME = "gate"  # the key under which a rank says at which gate it is
ABSENT = "(not there)"
ROWS_MOST = 60  # of the table that an error shows
VALUE_MOST = 80  # characters of a value in it
LAST_WORD_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A key whose value is not the same everywhere. values: each value, as JSON writes it, and the ranks that have it,
    in the order of their lowest rank."""

    key: str
    values: tuple[tuple[str, tuple[int, ...]], ...]


def differences(manifests: Mapping[int, Manifest]) -> list[Difference]:
    """Every key that is not the same on all ranks, by name. 1, 1.0 and True are three values; so is an absent key."""
    keys = sorted({key for manifest in manifests.values() for key in manifest})
    found = []
    for key in keys:
        groups: dict[str, list[int]] = {}
        for rank in sorted(manifests):
            manifest = manifests[rank]
            groups.setdefault(json.dumps(manifest[key]) if key in manifest else ABSENT, []).append(rank)
        if len(groups) > 1:
            found.append(Difference(key=key, values=tuple((value, tuple(ranks)) for value, ranks in groups.items())))
    return found


def odd_rank(found: Sequence[Difference]) -> int | None:
    """The one rank that stands alone against a majority in every difference; None if there is no such rank."""
    odd: set[int | None] = set()
    for difference in found:
        groups = sorted((ranks for _, ranks in difference.values), key=len)
        alone = len(groups) == 2 and len(groups[0]) == 1 < len(groups[1])
        odd.add(groups[0][0] if alone else None)
    return odd.pop() if len(odd) == 1 else None


def table(found: Sequence[Difference]) -> str:
    """Key, value, ranks, in columns; the first ROWS_MOST rows."""
    rows = [("key", "value", "ranks")]
    for difference in found:
        for value, ranks in difference.values:
            shown = value if len(value) <= VALUE_MOST else value[: VALUE_MOST - 3] + "..."
            rows.append((difference.key, shown, ", ".join(map(str, ranks))))
    shown_rows, left = rows[: ROWS_MOST + 1], len(rows) - ROWS_MOST - 1
    widths = [max(len(row[column]) for row in shown_rows) for column in (0, 1)]
    lines = [f"  {key:<{widths[0]}}  {value:<{widths[1]}}  {ranks}" for key, value, ranks in shown_rows]
    return "\n".join(lines + ([f"  and {left} more rows"] if left > 0 else []))


class GateKeeper:
    """Rank 0's side. phases: what is known of where a rank is, for the message about one that does not come."""

    def __init__(
        self,
        workers: Mapping[int, Connection],
        *,
        phases: Callable[[int], str] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        """only: the keys that are compared, beside the gate's name; None for all."""
        self._workers, self._phases, self._only = workers, phases, only

    def hold(
        self, name: str, own: Manifest, *, within_s: float, report: Manifest | None = None
    ) -> dict[int, dict[str, Value]]:
        """Every rank's manifest and report in one, by rank, once all have come and their manifests are equal.

        within_s: from now. A worker that came earlier waits as long again. Raises, here and on every worker that came:
        GateRefused with the table; GateMissed naming the ranks that did not come in time; a worker's own error if it
        sent one in place of its manifest; LinkBroken naming a rank that is gone.
        """
        try:
            came = self._collect(name, {NAME: name, **own}, within_s)
            found = differences({rank: manifest for rank, (manifest, _) in came.items()})
            if self._only is not None:
                found = [each for each in found if each.key in (NAME, *self._only)]
            if found:
                raise refusal(name, found, keys=len(own))
            came[0] = (came[0][0], report or {})
            send_all(self._workers, _dump({"pass": name}), within_s=within_s)
        except GenlockError as error:
            tell_all(self._workers, _dump(_told(error)), within_s=LAST_WORD_S)
            raise
        return {rank: {**manifest, **said} for rank, (manifest, said) in sorted(came.items())}

    def _collect(self, name: str, own: Manifest, within_s: float) -> dict[int, tuple[Manifest, Manifest]]:
        frames, missing = gather(self._workers, within_s=within_s, ends=is_fault)
        for rank in sorted(frames):
            if is_fault(frames[rank]):
                fault = unpack_answer(frames[rank]).fault
                assert fault is not None  # `Answer` sees to it
                error = error_of(fault)
                error.rank = rank if error.rank is None else error.rank
                raise error
        if isinstance(missing, LinkTimeout):
            raise self._missed(name, sorted(self._workers.keys() - frames.keys()), within_s)
        if missing is not None:
            raise missing
        return {0: (own, {}), **{rank: _read_guest(rank, frame) for rank, frame in frames.items()}}

    def _missed(self, name: str, ranks: Sequence[int], within_s: float) -> GateMissed:
        phases = self._phases
        said = [f"{rank} ({phases(rank)})" if phases is not None else str(rank) for rank in ranks]
        who = f"rank{'s' if len(ranks) > 1 else ''} {', '.join(said)}"
        return GateMissed(f"{name}: {who} did not come within {within_s:g} s", field=NAME, rank=ranks[0])


class GateGuest:
    """A worker's side."""

    def __init__(self, leader: Connection) -> None:
        self._leader = leader

    def pass_(self, name: str, own: Manifest, *, within_s: float, report: Manifest | None = None) -> None:
        """Says what this rank is, and waits for rank 0's word. Raises what rank 0 raises, LinkBroken if it is gone, and
        GateMissed naming rank 0 if it says nothing within twice the time: it may come last, and wait as long again."""
        frame = _dump({"manifest": {NAME: name, **own}, "report": dict(report or {})})
        if len(frame) > FRAME_MOST:
            raise FrameRefused(f"{name}: a manifest of {len(frame)} bytes, the most is {FRAME_MOST}", field="manifest")
        self._leader.send(frame, within_s=within_s)
        try:
            word = _load(self._leader.receive(within_s=2 * within_s), ("pass",), _TOLD)
        except LinkTimeout:
            what = f"{name}: rank 0 gave no word within {2 * within_s:g} s"
            raise GateMissed(what, field=NAME, rank=0) from None
        if "pass" not in word:
            raise _heard(word)
        if word["pass"] != name:
            raise FrameRefused(f"rank 0 passes {word['pass']!r:.40}, this rank is at {name}", field=NAME)


def refusal(name: str, found: Sequence[Difference], *, keys: int) -> GateRefused:
    """The end of a start: the table, then the count, then what to do."""
    count = f"{len(found)} of {keys} values differ{'s' if len(found) == 1 else ''}"
    what = f"{name}: the ranks are not the same:\n{table(found)}\n{count}"
    return GateRefused(what, field=found[0].key, rank=odd_rank(found))


_TOLD = ("code", "field", "rank", "remedy", "what", "where")


def _told(error: GenlockError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in _TOLD}


def _heard(word: Mapping[str, Any]) -> GenlockError:
    kind = error_class(str(word["code"]))
    rank = word["rank"]
    return kind(
        str(word["what"]),
        where=str(word["where"]),
        remedy=str(word["remedy"]),
        field=str(word["field"]),
        rank=rank if type(rank) is int else None,
    )


def _read_guest(rank: int, frame: bytes) -> tuple[Manifest, Manifest]:
    try:
        said = _load(frame, ("manifest", "report"))
        for part in said.values():
            if type(part) is not dict or any(type(value) not in (str, int, float, bool) for value in part.values()):
                raise FrameRefused("a manifest is names and plain values", field="manifest")
    except FrameRefused as error:
        error.rank = rank
        raise
    return said["manifest"], said["report"]


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _load(frame: bytes, *forms: tuple[str, ...]) -> dict[str, Any]:
    """An object whose keys are one of `forms`. Raises FrameRefused."""
    try:
        content = json.loads(frame)
    except (ValueError, RecursionError, UnicodeError):
        raise FrameRefused("what came at a gate is no JSON", field="frame") from None
    if type(content) is not dict or tuple(sorted(content)) not in forms:
        raise FrameRefused(f"what came at a gate is none of its messages: {frame[:60]!r}", field="frame")
    return content
