"""Flight recorders of several ranks side by side: where they first did not do the same, and what each did last.

Ranks are aligned by call and collective, never by time. A collective is noted when it is entered and again when it is
done, so that a rank which stands in one, or died in it, is told from one that never came. Only what every ring still
holds is compared: an older note that one of them has lost is nobody's difference. Pure, but for `read_run`. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genlock.errors import InputOutputError
from genlock.observe.recorder import BEACON, COLLECTIVE, Entry, read

NOTHING = "nothing"  # in place of what a rank did, where it did not get so far
INSIDE = ", entered and not finished"

Place = tuple[int, int]  # call, collective of its chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """place: of the first collective that not every rank did and finished, None if there is none. did: what each rank
    did there; what it entered and did not finish says so. last: each rank's last note (not its beacon), None for an
    empty recorder. compared: places before it, where all did the same."""

    place: Place | None
    did: Mapping[int, str]
    last: Mapping[int, Entry | None]
    compared: int


def merge(held: Mapping[int, Sequence[Entry]]) -> Merged:
    """held: each rank's notes, oldest first."""
    done = {rank: _collectives(entries) for rank, entries in held.items()}
    last = {rank: next((e for e in reversed(entries) if not _is_beacon(e)), None) for rank, entries in held.items()}
    begun = max((min(places) for places in done.values() if places), default=(0, 0))
    compared = 0
    for place in sorted({place for places in done.values() for place in places if place >= begun}):
        did = {rank: places.get(place, NOTHING) for rank, places in done.items()}
        if len(set(did.values())) > 1 or any(what.endswith(INSIDE) for what in did.values()):
            return Merged(place=place, did=did, last=last, compared=compared)
        compared += 1
    return Merged(place=None, did={}, last=last, compared=compared)


def _collectives(entries: Sequence[Entry]) -> dict[Place, str]:
    return {(entry.call_id, entry.op): _what(entry) for entry in entries if entry.kind == COLLECTIVE}


def _what(entry: Entry) -> str:
    inside = entry.kind == COLLECTIVE and entry.until_s is None
    return f"{entry.text}{INSIDE}" if inside else entry.text


def _is_beacon(entry: Entry) -> bool:
    return entry.kind == BEACON and entry.number == 0


def read_run(run_dir: Path) -> dict[int, list[Entry]]:
    """Every recorder in a run's folder, by rank. Raises InputOutputError where there is none, or one is damaged."""
    found = {}
    for path in run_dir.glob("recorder-rank*.bin"):
        named = re.fullmatch(r"recorder-rank(\d+)\.bin", path.name)
        if named is not None:
            found[int(named.group(1))] = read(path)
    if not found:
        raise InputOutputError("no flight recorder is here", where=str(run_dir), remedy="name the folder of a mesh run")
    return dict(sorted(found.items()))


def merged_text(merged: Merged) -> str:
    """For people: the first difference, and the last act of each rank."""
    if merged.place is None:
        lines = [f"no difference in {merged.compared} collectives that all {len(merged.last)} recorders hold"]
    else:
        call_id, op = merged.place
        what = "first difference" if len(set(merged.did.values())) > 1 else "all stand"
        lines = [f"{what} at call {call_id}, collective {op}, after {merged.compared} that are the same:"]
        lines += [f"  rank {rank}  {did}" for rank, did in sorted(merged.did.items())]
    newest_s = max((entry.seconds for entry in merged.last.values() if entry is not None), default=0.0)
    lines += ["last notes:"]
    for rank, entry in sorted(merged.last.items()):
        lines += [f"  rank {rank}  " + ("none" if entry is None else entry_text(entry, newest_s))]
    return "\n".join(lines)


def entry_text(entry: Entry, newest_s: float) -> str:
    """One note as one line; its time is counted back from `newest_s`, of the same host's clock."""
    ids = [("call", entry.call_id), ("chunk", entry.chunk), ("op", entry.op)]
    place = " ".join(f"{name} {value}" for name, value in ids if value >= 0)
    return f"{entry.seconds - newest_s:+9.3f} s  {entry.kind:<10}  {place:<24}  {_what(entry)}".rstrip()
