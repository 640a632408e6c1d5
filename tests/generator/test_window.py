"""What a cache holds, against a model that keeps a plain list of frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import CacheRefused, UsageError
from genlock.generator.window import (
    CachePolicy,
    Held,
    Policy,
    Span,
    cache_frames,
    recompute_policy,
    span_of_chunk,
    span_of_recompute,
)


def rolling(window: int, sink: int = 0, **more: object) -> CachePolicy:
    return CachePolicy(policy=Policy.ROLLING, window_frames=window, sink_frames=sink, **more)  # type: ignore[arg-type]


class ListOfFrames:
    """The cache as slots that hold frame numbers: obeys spans and knows no rule."""

    def __init__(self, slots: int) -> None:
        self.slots: list[int | None] = [None] * slots

    def obey(self, span: Span, first: int) -> list[int | None]:
        if span.move is not None:
            source, target, count = span.move
            self.slots[target : target + count] = self.slots[source : source + count]
        for offset in range(span.write_skip, span.frames):
            self.slots[span.write_start + offset] = first + offset
        return self.slots[: span.visible]


@given(window=st.integers(4, 14), sink=st.integers(0, 4), chunks=st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_a_rolling_cache_shows_the_sink_and_the_newest_frames(window: int, sink: int, chunks: list[int]) -> None:
    if sink + max(chunks) > window:
        return
    policy, held, frames = rolling(window, sink), Held(), ListOfFrames(max(window, 4))
    start = 0
    for count in chunks:
        for call in range(3):  # denoise, denoise, cache write: only the first may advance the cache
            span, held = span_of_chunk(policy, held, start=start, frames=count)
            seen = frames.obey(span, start)
            assert call == 0 or span.move is None
        start += count
        everything = list(range(start))
        newest = everything[max(sink, start - (window - sink)) :] if start > window else everything[sink:]
        assert seen == everything[:sink] + newest
        assert held == Held(end_abs=start, end=min(start, window))


@given(context=st.integers(1, 6), chunks=st.lists(st.integers(3, 4), min_size=1, max_size=6))
def test_a_recomputed_cache_shows_the_context_then_the_chunk(context: int, chunks: list[int]) -> None:
    policy = recompute_policy(context_frames=context)
    emitted = 0
    for count in chunks:
        held, known = Held(), min(emitted, context)
        if known:
            span, held = span_of_recompute(policy, known)
            assert (span.rope_start, span.write_start, span.visible) == (0, 0, known)
        span, held = span_of_chunk(policy, held, start=known, frames=min(count, 3) if emitted else count)
        assert (span.write_start, span.visible) == (known, known + span.frames)
        emitted += count
    assert cache_frames(policy) >= held.end


def test_a_rewritten_window_leaves_a_global_sink_alone_once_the_stream_is_past_it() -> None:
    policy, held = rolling(9, 3), Held(end_abs=18, end=9)
    span, after = span_of_chunk(policy, held, start=9, frames=9)
    assert (span.write_start, span.write_skip, span.visible, after) == (0, 3, 9, held)
    at_the_start, _ = span_of_chunk(policy, Held(end_abs=6, end=6), start=0, frames=6)
    assert at_the_start.write_skip == 0  # a stream no longer than its window takes the new prompt in its sink too
    whole, _ = span_of_chunk(rolling(9, 3, global_sink=False), held, start=9, frames=9)
    assert whole.write_skip == 0


def test_an_unlimited_window_refuses_the_chunk_that_does_not_fit() -> None:
    policy, held = rolling(6, fixed_window=False), Held(end_abs=6, end=6)
    with pytest.raises(CacheRefused, match=r"frames 6\.\.8 would end at slot 9, the cache has 6"):
        span_of_chunk(policy, held, start=6, frames=3)


def test_a_call_at_a_position_the_cache_never_reached_is_refused() -> None:
    with pytest.raises(CacheRefused):
        span_of_chunk(rolling(8), Held(end_abs=9, end=8), start=30, frames=3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": Policy.ROLLING, "window_frames": 2},
        {"policy": Policy.ROLLING, "window_frames": 6, "sink_frames": 6},
        {"policy": Policy.ROLLING, "window_frames": 6, "context_frames": 3},
        {"policy": Policy.RECOMPUTE, "window_frames": 6},
        {"policy": Policy.RECOMPUTE, "window_frames": 6, "context_frames": 3, "sink_frames": 1},
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        CachePolicy(**wrong)  # type: ignore[arg-type]
