"""How fast a stream was delivered, and where its time went: marks in, plain words out.

Counted is everything between asking for a chunk and having its frames in the file. Knows no session and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

WARM_CHUNKS = 2  # the first chunk is shorter and the second is the first with a context: neither is the steady state


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One delivered chunk. frames: pixel frames. done_s: clock when they were written. timings: seconds by phase."""

    frames: int
    done_s: float
    timings: Mapping[str, float]


@dataclass(slots=True)
class Pace:
    """Marks of a run. started_s: the clock when the command began. fps: the frame rate the video plays at."""

    started_s: float
    fps: float
    marks: list[Mark] = field(default_factory=list)

    @property
    def frames(self) -> int:
        return sum(mark.frames for mark in self.marks)

    @property
    def seconds(self) -> float:
        """Length of what was delivered, in seconds of video."""
        return self.frames / self.fps

    @property
    def first_frame_s(self) -> float:
        """From the command to the first frames delivered."""
        return self.marks[0].done_s - self.started_s

    @property
    def overall_fps(self) -> float:
        return self.frames / (self.marks[-1].done_s - self.started_s)

    @property
    def steady_fps(self) -> float | None:
        """Delivered frames a second after the first chunks; None for a stream too short to have a steady state."""
        steady = self.marks[WARM_CHUNKS:]
        if not steady:
            return None
        return sum(mark.frames for mark in steady) / (steady[-1].done_s - self.marks[WARM_CHUNKS - 1].done_s)

    def phases(self) -> dict[str, float]:
        """Median milliseconds of a chunk by phase, longest first; of the steady chunks where there are any."""
        counted = self.marks[WARM_CHUNKS:] or self.marks
        names = dict.fromkeys(name for mark in counted for name in mark.timings)
        spent = {name: 1e3 * median(mark.timings.get(name, 0.0) for mark in counted) for name in names}
        return dict(sorted(spent.items(), key=lambda item: -item[1]))

    def words(self) -> list[str]:
        """The closing lines: rates, what they count, and where the time went."""
        lines = []
        if self.steady_fps is not None:
            lines.append(
                f"steady state: {self.steady_fps:.1f} delivered frames/s, {self._against(self.steady_fps)} "
                f"(chunks {WARM_CHUNKS} to {len(self.marks) - 1}; from noise to frames written to the file)"
            )
        lines.append(
            f"overall: {self.overall_fps:.1f} frames/s from the command to the last frame; "
            f"the first frames came after {self.first_frame_s:.1f} s, start and loading included"
        )
        spent = ", ".join(f"{name} {ms:.0f} ms" for name, ms in self.phases().items())
        return [*lines, f"a chunk's time, median: {spent}"] if spent else lines

    def _against(self, rate: float) -> str:
        return f"{rate / self.fps:.2f} times the {self.fps:g} it plays at"
