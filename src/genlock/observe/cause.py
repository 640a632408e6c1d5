"""Why a rank ended: one record a rank, written by the rank itself before it leaves, read by whoever reports.

A record is one JSON file in the run's folder, whole or not there, and the first one of a rank stays. It says what the
writer saw; which of several records came first is not known here (`engine/first_cause.py`). No torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from genlock.settings import Phase

TEXT_MAX = 8000  # characters of text and remedy: the table of a gate; a record also travels as one datagram


class Kind(StrEnum):
    """How a rank came to its end, which is what causality is judged by."""

    TRIPWIRE = "tripwire"  # it found that what was about to happen, or had happened, was not what was agreed
    REFUSAL = "refusal"  # it could not go on for a reason of its own: a gate's table, memory, a device, an interrupt
    DIED = "died"  # it is gone and wrote nothing
    SILENT = "silent"  # it is stopped, or its watchdog says nothing any more
    DEFECT = "defect"  # an error that nobody foresaw
    BROKEN_PIPE = "broken pipe"  # a peer was gone
    ABORT = "abort"  # the tensor library ended the process
    TIMEOUT = "timeout"  # something did not come in time: a peer, or its own main thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why one rank ends.

    rank: the writer. seconds: since its watch began, on its own clock. phase, call_id, chunk, op: where it was; op is
    the number of collectives it had finished in this chunk. Ids are -1 where there is none. names: the rank it holds
    responsible, -1 for none. code and exit_code: of the error; text: one line, or a table. in_collective: it waited for
    others in a collective, so that it is not the one that did not come.
    """

    rank: int
    seconds: float
    phase: Phase
    call_id: int
    chunk: int
    op: int
    code: str
    exit_code: int
    kind: Kind
    text: str
    remedy: str
    names: int = -1
    in_collective: bool = False

    def write(self, run_dir: Path) -> None:
        """Into the run's folder; an earlier record of this rank stays. Raises OSError (a full disk)."""
        place = cause_path(run_dir, self.rank)
        partial = run_dir / f".cause-rank{self.rank}.{os.getpid()}"
        try:
            partial.write_bytes(self.to_bytes())
            os.link(partial, place)  # whole at once, and never over an earlier one
        except FileExistsError:
            return
        finally:
            partial.unlink(missing_ok=True)

    def to_bytes(self) -> bytes:
        """One JSON object, at most a few kilobytes."""
        values = asdict(self) | {"text": self.text[:TEXT_MAX], "remedy": self.remedy[:TEXT_MAX]}
        return json.dumps(values).encode()


def cause_path(run_dir: Path, rank: int) -> Path:
    return run_dir / f"cause-rank{rank}.json"


def cause_from(values: Mapping[str, Any]) -> Cause:
    """The record that `to_bytes` wrote. Raises ValueError for anything else."""
    try:
        wanted = {each.name: values[each.name] for each in fields(Cause)}
        return Cause(**wanted | {"phase": Phase(wanted["phase"]), "kind": Kind(wanted["kind"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a record of a cause: {error}") from None


def read_all(run_dir: Path) -> list[Cause]:
    """Every record in a run's folder, by rank. What cannot be read as one is left out: a report must still be made."""
    found = []
    for path in run_dir.glob("cause-rank*.json"):
        try:
            found.append(cause_from(json.loads(path.read_bytes())))
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda cause: cause.rank)
