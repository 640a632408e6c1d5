"""Video to video: resampling, mixing, step lists and the noise controller."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genlock.errors import VideoInputRefused
from genlock.generator.schedule import Schedule
from genlock.stage0.video_input import (
    controlled_strength,
    mix,
    motion,
    raw_steps,
    resample_indices,
    to_pixels,
    warped_steps,
)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(deadline=None)
def test_resampling_keeps_order_and_both_ends(count: int, wanted: int) -> None:
    indices = resample_indices(count, wanted)
    assert len(indices) == wanted
    assert indices == sorted(indices)
    assert indices[0] == 0
    assert wanted == 1 or indices[-1] == count - 1


def test_twelve_frames_as_thirteen_repeat_a_middle_one() -> None:
    assert resample_indices(12, 13) == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]


def test_pixels_span_the_whole_range_and_have_the_wanted_size() -> None:
    frames = torch.zeros(5, 8, 8, 3, dtype=torch.uint8)
    frames[:, :, 4:] = 255
    pixels = to_pixels(frames, height=16, width=32, count=9)
    assert pixels.shape == (9, 3, 16, 32)
    assert pixels.min() == -1
    assert pixels.max() == 1
    assert torch.equal(to_pixels(frames, height=8, width=8, count=5)[0, 0, 0], torch.tensor([-1.0] * 4 + [1.0] * 4))


@pytest.mark.parametrize(
    "frames", [torch.zeros(5, 8, 8, 3), torch.zeros(0, 8, 8, 3).byte(), torch.zeros(5, 3, 8, 8).byte()]
)
def test_other_frames_are_refused(frames: torch.Tensor) -> None:
    with pytest.raises(VideoInputRefused, match="input frames of shape"):
        to_pixels(frames, height=8, width=8, count=5)


def test_a_raw_list_starts_below_the_mix() -> None:
    assert raw_steps([1000, 750], 0.7) == [600, 750]
    assert raw_steps([1000, 750, 500], 0.1) == [0, 750, 500]
    with pytest.raises(VideoInputRefused, match=r"at least 0\.1"):
        raw_steps([1000, 750], 0.09)


def test_a_warped_list_is_kreas_without_its_last_step() -> None:
    assert warped_steps(4, 1.0) == [1000, 750, 500, 250]
    assert warped_steps(4, 0.45) == [450, 337, 225, 112]
    assert Schedule(shift=5.0).warp(warped_steps(4, 0.45)[0]) == pytest.approx(803.57, abs=0.01)


@given(st.floats(0, 1))
@settings(deadline=None)
def test_a_mix_lies_between_its_ends(share: float) -> None:
    mixed = mix(torch.zeros(3, 16, 2, 2), torch.ones(3, 16, 2, 2), share)
    torch.testing.assert_close(mixed, torch.full_like(mixed, share))


def test_motion_is_measured_from_the_last_chunk_on() -> None:
    still = torch.zeros(12, 3, 8, 8)
    assert motion(still, None) == 0
    assert motion(still, torch.full((3, 8, 8), 0.1)) == pytest.approx(0.5)
    assert motion(still, torch.ones(3, 8, 8)) == 1.0
    early, late = still.clone(), still.clone()
    early[:8] = 1  # a change before the newest frames and their predecessor is not seen
    late[11] = 0.1
    assert motion(early, None) == 0
    assert motion(late, None) == pytest.approx(0.5)


def test_motion_lowers_the_strength() -> None:
    assert controlled_strength(0.7, 0.0) == pytest.approx(0.79)
    assert controlled_strength(0.7, 1.0) == pytest.approx(0.61)
