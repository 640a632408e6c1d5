"""Delivered frames a second of a whole session: from noise to frames written to an mp4, in one process.

Measures; judges nothing. Warm-up chunks are made and written like all others and not counted.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from genlock.bench.machine import machine
from genlock.engine.session import open as open_session
from genlock.media.video import VideoWriter
from genlock.settings import Settings

WARM_CHUNKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """One run. frames_per_s: delivered in the counted part. chunk_ms: median, least and most. phase_ms: medians."""

    frames_per_s: float
    seconds_counted: float
    frames_counted: int
    size: str
    steps: int
    regime: str
    chunk_ms: tuple[float, float, float]
    phase_ms: dict[str, float]
    hardware: str
    threads: int
    torch_version: str
    python: str


def end_to_end(settings: Settings, *, prompt: str, seconds: float, seed: int = 42) -> EndToEnd:
    """Stream for `seconds` of wall time after warm-up, into a temporary mp4. Raises as `genlock.open`."""
    with TemporaryDirectory() as folder, open_session(settings.model, settings=settings, seed=seed) as session:
        session.prompt(prompt)
        writer = VideoWriter(Path(folder) / "bench.mp4", session.width, session.height, session.fps)
        marks: list[tuple[float, int, dict[str, float]]] = []
        with writer as video:
            for chunk in session.stream():
                begun = time.perf_counter()
                video.write(chunk.frames)
                done = time.perf_counter()
                marks.append((done, len(chunk.frames), {**chunk.timings, "write": done - begun}))
                if len(marks) > WARM_CHUNKS + 1 and done - marks[WARM_CHUNKS - 1][0] >= seconds:
                    break
        planned = session.engine.planner.settings
    counted = marks[WARM_CHUNKS:]
    took = counted[-1][0] - marks[WARM_CHUNKS - 1][0]
    frames = sum(count for _, count, _ in counted)
    chunks = [1e3 * (b[0] - a[0]) for a, b in zip(marks[WARM_CHUNKS - 1 :], counted, strict=False)]
    phases = {name: 1e3 * median(phase[name] for _, _, phase in counted) for name in counted[0][2]}
    about = machine()
    return EndToEnd(
        frames_per_s=frames / took,
        seconds_counted=took,
        frames_counted=frames,
        size=f"{session.width}x{session.height}",
        steps=len(planned.steps),
        regime=str(planned.regime),
        chunk_ms=(median(chunks), min(chunks), max(chunks)),
        phase_ms=phases,
        hardware=about.hardware,
        threads=about.threads,
        torch_version=about.torch_version,
        python=about.python,
    )


def as_json(result: EndToEnd, command: str) -> dict[str, object]:
    return {"command": command, **asdict(result)}
