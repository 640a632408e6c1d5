"""What a context is made of, against a model that keeps every frame of the stream in a list.

Latent frame i is a tensor full of i; pixel frame p one full of 1000 + p, and encoding it leaves its number.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genlock.errors import OutOfStep
from genlock.generator.config import pixel_frames
from genlock.generator.window import CachePolicy, Policy, recompute_policy
from genlock.stage0.context import ContextWindow
from genlock.wire.kinds import Regime

PIXEL = 1000


def latents(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.float32)[:, None, None, None].expand(-1, 16, 2, 2).clone()


def pixels(first: int, count: int) -> Tensor:
    numbers = torch.arange(first, first + count, dtype=torch.float32) + PIXEL
    return numbers[:, None, None, None].expand(-1, 3, 16, 16).clone()


def encode_image(frame: Tensor) -> Tensor:
    assert frame.shape[1:] == (3, 16, 16)
    return frame[:, :1, :2, :2].expand(-1, 16, -1, -1)


def numbers(context: Tensor) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in context]


def rolling(window: int, sink: int) -> CachePolicy:
    return CachePolicy(policy=Policy.ROLLING, window_frames=window, sink_frames=sink)


def played(window: ContextWindow, chunks: list[int], *, decode: bool = True) -> ContextWindow:
    for count in chunks:
        first = window.end == 0
        shown = pixels(window.pixel_end, pixel_frames(count, first=first)) if decode else None
        window = window.after_chunk(latents(window.end, count), shown)
    return window


streams = st.tuples(st.sampled_from([3, 4]), st.integers(0, 8)).map(lambda s: [s[0]] + [3] * s[1])


@given(streams, st.integers(1, 7))
@settings(deadline=None)
def test_the_exact_context_is_the_anchor_and_the_newest_latents(chunks: list[int], n_ctx: int) -> None:
    window = played(ContextWindow(policy=recompute_policy(context_frames=n_ctx), regime=Regime.R0A), chunks)
    end = sum(chunks)
    everything = list(range(end))
    if end - 3 < n_ctx:
        expected = [0, *everything[1:][-(n_ctx - 1) :]] if n_ctx > 1 else [0]
        assert window.anchor_pixel is None
    else:
        shown = pixel_frames(end, first=True)
        anchor = shown - (1 + 4 * (n_ctx - 1))  # the oldest of the decoded tail that upstream keeps
        assert window.anchor_pixel == anchor
        expected = [PIXEL + anchor, *everything[end - (n_ctx - 1) :]]
    assert numbers(window.recompute_context(encode_image)) == expected
    assert window.pixels is not None
    assert window.pixels.shape[0] <= 1 + 4 * (n_ctx - 1) + 4 * max(0, n_ctx - end)


@given(streams, st.integers(1, 7))
@settings(deadline=None)
def test_the_latent_context_never_encodes(chunks: list[int], n_ctx: int) -> None:
    def never(frame: Tensor) -> Tensor:
        raise AssertionError

    window = ContextWindow(policy=recompute_policy(context_frames=n_ctx), regime=Regime.R0)
    window = played(window, chunks, decode=False)
    end = sum(chunks)
    expected = (
        [0, *range(end)[1:][end - n_ctx if end > n_ctx else 0 :]] if end - 3 < n_ctx else list(range(end))[-n_ctx:]
    )
    assert numbers(window.recompute_context(never)) == expected


@given(streams, st.integers(4, 12), st.integers(0, 3))
@settings(deadline=None)
def test_the_rolling_contexts_are_the_slots_of_the_window(chunks: list[int], size: int, sink: int) -> None:
    window = played(ContextWindow(policy=rolling(size, sink), regime=None), chunks)
    end = sum(chunks)
    everything = list(range(end))
    assert numbers(window.switch_context()) == everything[-size:]
    slots = everything if end <= size else everything[:sink] + everything[end - (size - sink) :]
    assert numbers(window.rebase_context()) == slots
    assert window.pixels is None


@given(streams.filter(lambda chunks: len(chunks) > 2), st.integers(1, 3))
@settings(deadline=None)
def test_the_anchor_needs_no_more_than_its_own_frame(chunks: list[int], n_ctx: int) -> None:
    """Anchor first: latents arrive, then the frames up to the anchor, then (after the next plan) the rest."""
    policy = recompute_policy(context_frames=n_ctx)
    whole = played(ContextWindow(policy=policy, regime=Regime.R0A), chunks)
    window = played(ContextWindow(policy=policy, regime=Regime.R0A), chunks[:-1])
    window = window.after_latents(latents(window.end, 3))
    assert window.anchor_pixel is not None
    assert not window.has_anchor
    with pytest.raises(OutOfStep, match="not decoded yet"):
        window.recompute_context(encode_image)
    need = window.anchor_pixel + 1 - window.pixel_end
    assert window.anchor_wants_latents == need / 4
    window = window.after_pixels(pixels(window.pixel_end, need))
    assert window.has_anchor
    assert window.anchor_wants_latents == 0
    assert numbers(window.recompute_context(encode_image)) == numbers(whole.recompute_context(encode_image))
    rest = window.after_pixels(pixels(window.pixel_end, 12 - need))
    assert numbers(rest.recompute_context(encode_image)) == numbers(whole.recompute_context(encode_image))


def test_the_context_has_the_type_of_the_latents() -> None:
    window = ContextWindow(policy=recompute_policy(), regime=Regime.R0A)
    for _ in range(3):
        decoded = pixels(window.pixel_end, pixel_frames(3, first=window.end == 0))
        window = window.after_chunk(latents(window.end, 3).bfloat16(), decoded)
    assert window.recompute_context(encode_image).dtype is torch.bfloat16


def test_pixels_without_latents_are_out_of_step() -> None:
    window = ContextWindow(policy=recompute_policy(), regime=Regime.R0A).after_latents(latents(0, 3))
    with pytest.raises(OutOfStep, match="10 decoded frames"):
        window.after_pixels(pixels(0, 10))


def test_no_context_before_the_first_chunk() -> None:
    with pytest.raises(OutOfStep, match="before the first chunk"):
        ContextWindow(policy=recompute_policy(), regime=Regime.R0A).recompute_context(encode_image)
