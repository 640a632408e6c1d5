"""What a cache holds, as arithmetic on host integers; the tensors only obey.

Two policies. *Rolling*: keys and values stay where they were computed; a window of the newest frames and a sink of the
first ones. *Recompute*: the cache is rebuilt from a few clean frames before every chunk. Everything here counts in
latent frames; the cache multiplies by the tokens of a frame. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from genlock.errors import CacheRefused, UsageError


class Policy(StrEnum):
    ROLLING = "rolling"
    RECOMPUTE = "recompute"


class Regime(StrEnum):
    """What the cache is rebuilt from before a chunk, under the recompute policy; the rolling policy has none."""

    R1 = "R1"  # no pass ever; the cache is carried on (bring-up)
    R0A = "R0a"  # exact: the first frame of the context is decoded to pixels and encoded again
    R0 = "R0"  # latents only


class Recache(StrEnum):
    """The pass over context frames before the first step, under the rolling policy."""

    SWITCH = "switch"  # the prompt changed: keys and values of the window are made again in place
    REBASE = "rebase"  # the rotary table ends: the window is made again at positions from 0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a cache holds, in frames: `end_abs` is one past the newest frame's position, `end` the slots in use."""

    end_abs: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where one generator call writes and what it sees, in frames of the cache: host integers only.

    frames: F of the call. rope_start: rotary row of its first frame. write_start: slot of its first frame;
    the first `write_skip` frames are computed but not stored (a protected sink). visible: slots [0, visible) are
    attended to. move: (source, destination, frames) shifted before the write (eviction), or None.
    causal_block: frames of a block inside the call, each block seeing itself and earlier ones; 0 means no mask.
    relative: cached keys are unrotated and are rotated by slot when read.
    bias: factor on the attention weight of past frames except the first and the last `bias_spares` (Krea's
    soft forgetting; 1 is off). pad_sink: reproduce the reference's unmasked zero keys on the biased path.
    """

    frames: int
    rope_start: int
    write_start: int
    write_skip: int = 0
    visible: int
    move: tuple[int, int, int] | None = None
    causal_block: int = 0
    relative: bool = False
    bias: float = 1.0
    bias_spares: int = 0
    pad_sink: bool = False


def cache_frames(policy: CachePolicy) -> int:
    """Frames to set memory aside for; a first chunk of video input has one frame more than the others."""
    return max(policy.window_frames, policy.chunk_frames + 1)


def span_of_chunk(
    policy: CachePolicy, held: Held, *, start: int, frames: int, bias: float = 1.0, pad_sink: bool = False
) -> tuple[Span, Held]:
    """A denoise, cache-write or recache call of `frames` frames at position `start`, and what is held after it.

    Only the first call of a chunk advances the cache; later ones find it advanced and write the same slots.
    Raises CacheRefused if the call does not fit.
    """
    end_abs = start + frames
    advance = end_abs - held.end_abs
    capacity, sink = policy.window_frames, policy.sink_frames
    rolling = policy.policy is Policy.ROLLING
    move = None
    end = held.end + advance
    if rolling and policy.fixed_window and advance > 0 and frames + held.end > capacity:
        evicted = frames + held.end - capacity
        kept = held.end - evicted - sink
        if kept < 0:
            raise CacheRefused(f"{frames} new frames and a sink of {sink} do not fit a window of {capacity}")
        move = (sink + evicted, sink, kept) if kept else None
        end -= evicted
    limit = cache_frames(policy)
    if not frames <= end <= limit:
        raise CacheRefused(
            f"frames {start}..{end_abs - 1} would end at slot {end}, the cache has {limit} and holds {held.end}",
            remedy="use a fixed window, or a shorter stream",
        )
    # LongLive: what is written again while the stream is past its start leaves the sink as it was.
    protected = rolling and policy.global_sink and advance <= 0 and start > 0
    relative = policy.rope is Rope.RELATIVE
    span = Span(
        frames=frames,
        rope_start=end - frames if relative else start,
        write_start=end - frames,
        write_skip=min(frames, max(0, sink - (end - frames))) if protected else 0,
        visible=end,
        move=move,
        relative=relative,
        bias=bias,
        bias_spares=policy.chunk_frames,
        pad_sink=pad_sink,
    )
    return span, Held(end_abs=end_abs, end=end)


def span_of_recompute(policy: CachePolicy, frames: int) -> tuple[Span, Held]:
    """The pass that rebuilds the cache from `frames` clean frames, at positions from 0, block-causal."""
    if not 1 <= frames <= cache_frames(policy):
        raise CacheRefused(f"a context of {frames} frames does not fit a cache of {cache_frames(policy)}")
    block = policy.chunk_frames if frames > policy.chunk_frames else 0
    span = Span(frames=frames, rope_start=0, write_start=0, visible=frames, causal_block=block)
    return span, Held(end_abs=frames, end=frames)
