"""What a cache holds, as arithmetic on host integers; the tensors only obey.

Two policies. *Rolling*: keys and values stay where they were computed; a window of the newest frames and a sink of the
first ones. *Recompute*: the cache is rebuilt from a few clean frames before every chunk. Everything here counts in
latent frames; the cache multiplies by the tokens of a frame. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from genlock.errors import UsageError


class Policy(StrEnum):
    ROLLING = "rolling"
    RECOMPUTE = "recompute"


class Rope(StrEnum):
    """Where rotary positions come from under the rolling policy."""

    ABSOLUTE = "absolute"  # keys are cached rotated, at the frame's position in the stream
    RELATIVE = "relative"  # keys are cached unrotated and rotated by their slot at every call


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """The cache rule of a session. Equal on every rank.

    chunk_frames: latent frames of an ordinary chunk (3).
    context_frames: recompute only: clean frames the cache is rebuilt from (3); 0 under rolling.
    window_frames: frames the cache can hold. Recompute: context_frames + the largest chunk's frames are allocated.
        Rolling: the window, sink included.
    sink_frames: rolling only: first frames that are never evicted.
    global_sink: rolling only: a prompt switch keeps K/V in place (True) or zeroes them first (False).
    recache_on_prompt: rolling only: a prompt change is followed by a pass over the window (LongLive).
    fixed_window: rolling only: False means the window is as large as memory was set aside (replay of unlimited
        windows): nothing is evicted and a chunk that does not fit is refused.
    """

    policy: Policy
    chunk_frames: int = 3
    context_frames: int = 0
    window_frames: int
    sink_frames: int = 0
    rope: Rope = Rope.ABSOLUTE
    global_sink: bool = True
    recache_on_prompt: bool = False
    fixed_window: bool = True

    def __post_init__(self) -> None:
        if self.chunk_frames < 1 or self.window_frames < self.chunk_frames:
            raise UsageError(f"a window of {self.window_frames} frames cannot hold a chunk of {self.chunk_frames}")
        if self.policy is Policy.RECOMPUTE:
            if self.context_frames < 1 or self.sink_frames or self.recache_on_prompt or self.rope is Rope.RELATIVE:
                raise UsageError("the recompute policy needs context_frames >= 1 and has no sink, recache or rope mode")
        elif self.context_frames:
            raise UsageError(f"the rolling policy has no context_frames (got {self.context_frames})")
        if not 0 <= self.sink_frames < self.window_frames:
            raise UsageError(f"a sink of {self.sink_frames} frames does not fit a window of {self.window_frames}")


def recompute_policy(*, context_frames: int = 3, chunk_frames: int = 3) -> CachePolicy:
    return CachePolicy(
        policy=Policy.RECOMPUTE,
        chunk_frames=chunk_frames,
        context_frames=context_frames,
        window_frames=context_frames + chunk_frames,
    )
