"""Which chunk a second falls in. A request takes effect at a chunk's first frame, so its time is rounded up.

Counts pixel frames of the delivered stream, across cuts. Knows chunks, not what they show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from genlock.errors import TimelineRefused
from genlock.generator.config import pixel_frames

SAME_FRAME = 1e-6  # frames; a time that is a frame's own start, written as a float, is that frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The start of a chunk.

    chunk_index: from 0, over the whole session. pixel_frame: frames delivered before it. first: it follows a cut (or
    begins the session), so its first latent frame stands for one pixel frame.
    """

    chunk_index: int = 0
    pixel_frame: int = 0
    first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a request falls: at_s is what was asked (None: as soon as possible), effect_s the chunk's own time."""

    at_s: float | None
    chunk_index: int
    pixel_frame: int
    effect_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkGrid:
    """Chunk lengths of a session.

    fps: pixel frames a second. chunk_frames: latent frames of a chunk. first_frames: latent frames of the first chunk
    after a cut (one more in video mode).
    """

    fps: float
    chunk_frames: int
    first_frames: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise TimelineRefused(f"{self.fps} frames a second", remedy="give a positive frame rate")

    @property
    def chunk_pixel_frames(self) -> int:
        return pixel_frames(self.chunk_frames, first=False)

    @property
    def first_pixel_frames(self) -> int:
        return pixel_frames(self.first_frames, first=True)

    @property
    def chunk_s(self) -> float:
        """Seconds an ordinary chunk lasts."""
        return self.chunk_pixel_frames / self.fps

    def after(self, start: Boundary) -> Boundary:
        """The chunk that follows `start`, without a cut."""
        length = self.first_pixel_frames if start.first else self.chunk_pixel_frames
        return Boundary(chunk_index=start.chunk_index + 1, pixel_frame=start.pixel_frame + length, first=False)

    def frame_at(self, at_s: float) -> int:
        """The first pixel frame at or after a time."""
        return math.ceil(at_s * self.fps - SAME_FRAME)

    def is_due(self, start: Boundary, at_s: float | None) -> bool:
        """Whether a request for `at_s` belongs to the chunk at `start` or to an earlier one."""
        return at_s is None or self.frame_at(at_s) <= start.pixel_frame

    def reach(self, start: Boundary, at_s: float | None) -> Boundary:
        """The first chunk, from `start` on and without a cut, for which a request at `at_s` is due."""
        if self.is_due(start, at_s) or at_s is None:
            return start
        if start.first:
            return self.reach(self.after(start), at_s)
        chunks = -(-(self.frame_at(at_s) - start.pixel_frame) // self.chunk_pixel_frames)
        return Boundary(
            chunk_index=start.chunk_index + chunks,
            pixel_frame=start.pixel_frame + chunks * self.chunk_pixel_frames,
            first=False,
        )

    def placement(self, start: Boundary, at_s: float | None) -> Placement:
        """The report for a request that takes effect at `start`."""
        return Placement(
            at_s=at_s,
            chunk_index=start.chunk_index,
            pixel_frame=start.pixel_frame,
            effect_s=start.pixel_frame / self.fps,
        )
