"""A changed key or value is found before what was made from it is delivered; a written one is no change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.generator.test_stream import COLUMNS, ROWS, STEPS, Inputs, first_chunk, latents, later_chunk, rolling_chunk

from genlock.generator.cache import KeyValueCache
from genlock.generator.model import Generator
from genlock.generator.sampler import Call
from genlock.generator.slot_digests import ChangedSlot, SlotDigests
from genlock.generator.stream import Stream
from genlock.generator.window import CachePolicy, Policy, Recache, Span, recompute_policy

LAYERS, FRAMES, TOKENS = 2, 6, 5
SLOTS = st.integers(0, FRAMES - 1)
kernels = pytest.mark.parametrize("kernel", [False, True])  # as in host memory, and as on a device


def filled() -> KeyValueCache:
    cache = KeyValueCache(layers=LAYERS, frames=FRAMES, tokens=TOKENS, heads=2, head_dim=4)
    draw = torch.Generator().manual_seed(3)
    for held in (*cache.keys, *cache.values):
        held.copy_(torch.randn(held.shape, generator=draw))
    return cache


def put(cache: KeyValueCache, span: Span, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for layer in range(LAYERS):
        k, v = torch.randn(2, 1, span.frames * TOKENS, 2, 4, generator=draw)
        cache.layer(layer).put(k, v, span)


def change(cache: KeyValueCache, layer: int, frame: int, *, values: bool = False, element: int = 0) -> None:
    held = (cache.values if values else cache.keys)[layer]
    held[:, frame * TOKENS : (frame + 1) * TOKENS].view(-1)[element] += 1.0


@kernels
@given(layer=st.integers(0, LAYERS - 1), frame=SLOTS, values=st.booleans(), element=st.integers(0, TOKENS * 8 - 1))
def test_any_changed_element_of_a_sealed_slot_is_found(
    kernel: bool, layer: int, frame: int, values: bool, element: int
) -> None:
    cache = filled()
    digests = SlotDigests(cache, kernel=kernel)
    digests.end_chunk(FRAMES, due=True)
    assert digests.changed() is None
    change(cache, layer, frame, values=values, element=element)
    digests.end_chunk(FRAMES, due=True)
    assert digests.changed() == ChangedSlot(layer=layer, frame=frame)
    assert digests.changed() is None, "what was told is not told again"


@given(frame=SLOTS)
def test_a_change_is_found_when_the_slot_is_replaced_whether_or_not_the_chunk_is_due(frame: int) -> None:
    cache = filled()
    digests = SlotDigests(cache)
    digests.end_chunk(FRAMES, due=True)
    change(cache, 1, frame)
    digests.before(Span(frames=FRAMES, rope_start=0, write_start=0, visible=FRAMES), due=False)
    assert digests.changed() == ChangedSlot(layer=1, frame=frame)


spans = st.one_of(
    st.builds(  # in place, with a protected sink or not
        lambda first, frames, skip: Span(
            frames=min(frames, FRAMES - first),
            rope_start=0,
            write_start=first,
            write_skip=min(skip, frames, FRAMES - first),
            visible=FRAMES,
        ),
        SLOTS,
        st.integers(1, 3),
        st.integers(0, 1),
    ),
    st.builds(  # eviction behind a sink
        lambda sink, evicted: Span(
            frames=evicted,
            rope_start=0,
            write_start=FRAMES - evicted,
            visible=FRAMES,
            move=(sink + evicted, sink, FRAMES - sink - evicted),
        ),
        st.integers(0, 2),
        st.integers(1, 3),
    ),
)


@kernels
@given(plan=st.lists(st.tuples(spans, st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_writes_and_moves_are_no_changes(kernel: bool, plan: list[tuple[Span, bool, bool]]) -> None:
    cache = filled()
    digests = SlotDigests(cache, kernel=kernel)
    for seed, (span, due, ends) in enumerate(plan):
        digests.before(span, due=due)
        put(cache, span, seed)
        if ends:
            digests.end_chunk(FRAMES, due=due)
    digests.end_chunk(FRAMES, due=True)
    assert digests.changed() is None


@kernels
@given(plan=st.lists(spans, max_size=6), frame=SLOTS, data=st.data())
def test_a_seal_follows_its_frame(kernel: bool, plan: list[Span], frame: int, data: st.DataObject) -> None:
    """All slots are sealed, then calls are made; a change anywhere in between is found wherever its frame then is,
    unless that frame was already replaced."""
    cache = filled()
    digests = SlotDigests(cache, kernel=kernel)
    digests.end_chunk(FRAMES, due=True)
    when = data.draw(st.integers(0, len(plan)))
    sealed = set(range(FRAMES))
    for step, span in enumerate([*plan, None]):
        if step == when:
            change(cache, 0, frame)
            struck = frame in sealed
        if span is None:
            break
        digests.before(span, due=False)
        put(cache, span, step)
        if span.move is not None:
            source, target, count = span.move
            sealed = {s for s in sealed if s < target} | {
                s - source + target for s in sealed if source <= s < source + count
            }
        sealed -= set(range(span.write_start + span.write_skip, span.write_start + span.frames))
    digests.end_chunk(FRAMES, due=True)
    assert (digests.changed() is not None) == struck


def test_an_emptied_cache_is_no_change() -> None:
    cache = filled()
    digests = SlotDigests(cache)
    digests.end_chunk(FRAMES, due=True)
    cache.clear()
    digests.clear()
    digests.end_chunk(FRAMES, due=True)
    assert digests.changed() is None


def recompute_stream(toy: Generator) -> Stream:
    return Stream(toy, recompute_policy(), latent_height=ROWS, latent_width=COLUMNS, watch_slots=True)


def recompute_chunk(start: int) -> Inputs:
    return later_chunk(3, start, do_recompute=True, expected_generator_calls=STEPS + 1, context=latents(3, 70 + start))


@pytest.mark.parametrize("due", [True, False])
def test_a_stream_without_a_fault_finds_nothing(toy: Generator, due: bool) -> None:
    plain = Stream(toy, recompute_policy(), latent_height=ROWS, latent_width=COLUMNS)
    watched = recompute_stream(toy)
    for index in range(3):
        chunk = first_chunk() if index == 0 else recompute_chunk(index)
        assert torch.equal(plain.run(chunk), watched.run(chunk, slots_due=due))
        assert watched.changed_slot() is None


def test_a_context_frame_that_changes_between_two_calls_is_found_in_the_same_chunk(toy: Generator) -> None:
    stream = recompute_stream(toy)
    stream.run(first_chunk())

    def strike(call: Call, step: int, *_: object) -> None:
        if call is Call.DENOISE and step == 0:
            stream.cache.keys[1][0, 7, 2, 3] += 1e-3  # slot 1: six tokens a frame

    stream.run(recompute_chunk(1), strike, slots_due=True)
    assert stream.changed_slot() == ChangedSlot(layer=1, frame=1)


def test_a_change_between_two_chunks_is_found_in_the_second(toy: Generator) -> None:
    stream = recompute_stream(toy)
    stream.run(first_chunk(), slots_due=True)
    stream.cache.values[0][0, 0, 0, 0] += 1.0
    stream.run(recompute_chunk(1))
    assert stream.changed_slot() == ChangedSlot(layer=0, frame=0)


def test_a_rolling_stream_moves_and_rebuilds_without_alarm_and_finds_a_late_change(toy: Generator) -> None:
    policy = CachePolicy(policy=Policy.ROLLING, window_frames=9, sink_frames=3)
    stream = Stream(toy, policy, latent_height=ROWS, latent_width=COLUMNS, watch_slots=True)
    emitted = []
    for start in range(0, 21, 3):
        emitted.append(stream.run(rolling_chunk(start, start), slots_due=start % 2 == 0))
        assert stream.changed_slot() is None
    window = torch.cat([emitted[0], *emitted[-2:]])
    again = rolling_chunk(21, 21, recache=Recache.SWITCH, context=window, expected_generator_calls=STEPS + 2)
    stream.run(again, slots_due=True)
    assert stream.changed_slot() is None
    stream.cache.keys[0][0, 0] += 1.0  # the sink is never written again: it is looked at whenever a chunk is due
    stream.run(rolling_chunk(24, 24))
    assert stream.changed_slot() is None
    stream.run(rolling_chunk(27, 27), slots_due=True)
    assert stream.changed_slot() == ChangedSlot(layer=0, frame=0)


def test_a_prompts_keys_that_change_are_found_and_new_ones_are_no_change(toy: Generator) -> None:
    stream = recompute_stream(toy)
    stream.run(first_chunk())
    stream.run(recompute_chunk(1), slots_due=True)
    assert stream.changed_slot() is None
    assert stream.cross is not None
    with torch.inference_mode():
        stream.cross[1][0][0, 2, 1, 5] += 1e-3
    stream.run(recompute_chunk(2), slots_due=True)
    assert stream.changed_slot() == ChangedSlot(layer=1, frame=None)
    another = replace(recompute_chunk(3), reset_cross=True, embeds=first_chunk().embeds + 1)
    stream.run(another, slots_due=True)
    assert stream.changed_slot() is None


def test_a_stream_that_is_not_watched_keeps_no_digests(toy: Generator) -> None:
    stream = Stream(toy, recompute_policy(), latent_height=ROWS, latent_width=COLUMNS)
    stream.run(first_chunk(), slots_due=True)
    assert stream.slots is None
    assert stream.changed_slot() is None
