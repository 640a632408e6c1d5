"""Torch's profiler on this rank, in some chunks of a run: started and ended by what its trace hears.

It begins when the chunk before the first is over and ends when the last is; what it saw is then written into the run's
folder as a Chrome trace, which keeps the others of a mesh waiting for a moment. Slow and large: for a few chunks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from genlock.observe.recorder import MARK, PHASE
from genlock.observe.trace import DELIVERED, Span, Trace
from genlock.settings import Phase


def profile_path(run_dir: Path, rank: int) -> Path:
    return run_dir / f"profile-rank{rank}.json"


class Profiled:
    """Profiles the chunks of `chunks` (a range of step 1)."""

    def __init__(self, trace: Trace, run_dir: Path, *, rank: int, chunks: range) -> None:
        self._run_dir, self._rank, self._chunks = run_dir, rank, chunks
        self._profile: profile | None = None
        self._done = False
        trace.listeners.append(self.heard)

    def heard(self, span: Span) -> None:
        handed_on = span.kind == MARK and span.name == DELIVERED  # rank 0's last act of a chunk
        judged = self._rank > 0 and span.kind == PHASE and span.name == Phase.VERDICT  # a worker's
        ready = span.kind == PHASE and span.name == Phase.IDLE and span.chunk < 0  # before the first chunk
        if not (handed_on or judged or ready) or self._done:
            return
        if self._profile is None and span.chunk >= self._chunks.start - 1:
            self._profile = profile(activities=activities())
            self._profile.start()
        elif self._profile is not None and span.chunk >= self._chunks.stop - 1:
            self._profile.stop()
            self._profile.export_chrome_trace(str(profile_path(self._run_dir, self._rank)))
            self._profile, self._done = None, True


def activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
