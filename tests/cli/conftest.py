"""A session that makes flat pictures at once, and a `genlock` to run against it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from genlock.cli.main import Surroundings, main
from genlock.observe.trace import Trace
from genlock.stage0.grid import Boundary, ChunkGrid, Placement
from genlock.stage0.timeline import Request, Timeline

KNOWN = ("balloon", "boat", "noon", "night", "red", "sea")


@dataclass
class Chunk:
    index: int
    frames: torch.Tensor
    start_frame: int
    timings: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass
class FakeSession:
    """Delivers grey frames, one level a chunk; remembers how it was opened and what it was asked."""

    opened_with: dict[str, Any]
    tick: Callable[[], None]
    fails_at: int | None = None
    error: BaseException | None = None
    grid: ChunkGrid = field(default_factory=lambda: ChunkGrid(fps=16.0, chunk_frames=3, first_frames=3))
    fps: float = 16.0
    width: int = 64
    height: int = 48
    words: Sequence[str] = KNOWN
    notes: tuple[str, ...] = ()
    trace: Trace = field(default_factory=Trace)
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    drained: bool = False
    closed: bool = False

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def unknown_words(self, text: str) -> list[str]:
        return [word for word in text.split() if len(word) > 2 and word not in KNOWN]

    def ask(self, timeline: Timeline) -> tuple[Placement, ...]:
        self.asked += timeline.requests
        return timeline.placements(self.grid)

    def handing_on(self) -> AbstractContextManager[None]:
        return nullcontext()

    def drain(self) -> None:
        self.drained = True

    def stream(self, *, seconds: float) -> Iterator[Chunk]:
        at = Boundary()
        while not self.drained and at.pixel_frame < seconds * self.grid.fps:
            if self.error is not None and at.chunk_index == self.fails_at:
                raise self.error
            count = self.grid.after(at).pixel_frame - at.pixel_frame
            frames = torch.full((count, self.height, self.width, 3), min(255, 16 * at.chunk_index), dtype=torch.uint8)
            self.tick()
            yield Chunk(at.chunk_index, frames, at.pixel_frame, {"generator": 0.3, "decode": 0.2})
            at = self.grid.after(at)


class Desk:
    """`desk.run(...)` runs one command line; every session it opens is kept. The clock moves half a second a chunk."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.kind = FakeSession
        self.sessions: list[FakeSession] = []
        self.now_s = 0.0
        self.fails_at: int | None = None
        self.error: BaseException | None = None
        self.interrupts: dict[int, signal.Signals] = {}  # by the number of chunks made before
        self._chunks = 0
        self._capsys = capsys

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        around = Surroundings(open_session=self._open, clock=lambda: self.now_s, started_s=0.0)
        code = main([str(word) for word in words], around)
        out, err = self._capsys.readouterr()
        return code, out, err

    def refuses(self, *words: str | Path) -> tuple[int, str]:
        """Exit code and the one line of an error; nothing else may be printed, and no session opened."""
        code, out, err = self.run(*words)
        assert (out, err.count("\n"), self.sessions) == ("", 1, [])
        return code, err.strip()

    def _open(self, model: str, **options: Any) -> FakeSession:
        session = self.kind({"model": model, **options}, self._tick, self.fails_at, self.error)
        self.sessions.append(session)
        return session

    def _tick(self) -> None:
        self.now_s += 0.5
        self._chunks += 1
        if self._chunks in self.interrupts:
            signal.raise_signal(self.interrupts[self._chunks])


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in ("GENLOCK_MODEL", "GENLOCK_DEVICE", "GENLOCK_REGIME", "GENLOCK_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return Desk(capsys)
