"""What one rank is, holds and has done, as one small JSON file in the run's folder: `rankN.json`.

Written three times: when the rank is ready for its first chunk, when two chunks have been made (`warm`), and at its
end. How long each phase of the start took, memory at each of the three, the calls of every encoder and generator by
kind, and the modules that are loaded. Knows what the trace was told and what the system counts. No torch.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from genlock.errors import InputOutputError
from genlock.observe.process import age_s, loaded_modules, memory_bytes
from genlock.observe.recorder import PHASE
from genlock.observe.run_folder import write_whole
from genlock.observe.trace import Span, Trace
from genlock.settings import START_PHASES, Phase

WARM_CHUNK = 1  # the second chunk of a stream is the first with a context: after it nothing is made for the first time


class Moment(StrEnum):
    """When the file is written."""

    READY = "ready"
    WARM = "warm"
    EXIT = "exit"


def rank_path(run_dir: Path, rank: int) -> Path:
    return run_dir / f"rank{rank}.json"


class RankFile:
    """The account of this process. run_dir: None keeps it in memory. about: what else is worth saying, JSON values.
    device_memory: bytes by kind on the accelerator, nothing where there is none."""

    def __init__(
        self,
        run_dir: Path | None,
        trace: Trace,
        *,
        rank: int,
        about: Mapping[str, Any],
        device_memory: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.run_dir, self.trace, self.rank = run_dir, trace, rank
        self.about, self._device_memory = dict(about), device_memory
        self._memory: dict[str, dict[str, int]] = {}
        self._ready_s = 0.0
        self._modules: list[str] = []
        trace.listeners.append(self._heard)

    def write(self, moment: Moment) -> None:
        """Takes stock, and puts the file in place of the one before. Raises InputOutputError when ready: later a stream
        does not end because nobody can write down how it goes."""
        self._memory[moment] = {**memory_bytes(), **self._device_memory()}
        self._modules = loaded_modules()
        if moment is Moment.READY:
            self._ready_s = age_s()
        if self.run_dir is None:
            return
        try:
            write_whole(rank_path(self.run_dir, self.rank), (json.dumps(self.values(), indent=1) + "\n").encode())
        except InputOutputError:
            if moment is Moment.READY:
                raise

    def held(self, moment: Moment) -> Mapping[str, int]:
        """Bytes by kind, at a moment that has been."""
        return self._memory[moment]

    def values(self) -> dict[str, Any]:
        """What the file holds. Seconds, bytes, counts; start: seconds of each phase of the start that is over."""
        trace = self.trace
        start_s = {str(phase): trace.phases[phase].seconds for phase in START_PHASES if phase in trace.phases}
        return {
            "rank": self.rank,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            **self.about,
            "start_s": {name: round(seconds, 3) for name, seconds in start_s.items()},
            "ready_s": round(self._ready_s, 3),
            "memory_bytes": self._memory,
            "calls": {name: total.count for name, total in trace.totals.items()},
            "seconds": {name: round(total.seconds, 6) for name, total in trace.totals.items()},
            "modules": self._modules,
        }

    def _heard(self, span: Span) -> None:
        if (
            span.kind == PHASE
            and span.name == Phase.IDLE
            and span.chunk >= WARM_CHUNK
            and Moment.WARM not in self._memory
        ):
            self.write(Moment.WARM)


def read_rank_files(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Every rank's file in a run's folder, by rank; what cannot be read is left out: a report must still be made."""
    found = {}
    for path in sorted(run_dir.glob("rank*.json")):
        number = path.stem.removeprefix("rank")
        try:
            held = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if number.isdecimal() and isinstance(held, dict):
            found[int(number)] = held
    return dict(sorted(found.items()))
