"""The one draw: reproducible, and independent of everything but its seed and shape."""

from __future__ import annotations

import torch

from genlock.stage0.noise import ChunkNoise, chunk_seed, draw_noise


def draw(seed: int, steps: int = 4) -> ChunkNoise:
    return draw_noise(seed=seed, num_steps=steps, frames=3, channels=16, height=4, width=6)


def test_shapes_and_type() -> None:
    noise = draw(1)
    assert noise.initial.shape == (3, 16, 4, 6)
    assert noise.steps.shape == (3, 3, 16, 4, 6)
    assert noise.initial.dtype is noise.steps.dtype is torch.float32
    assert draw(1, steps=1).steps.shape == (0, 3, 16, 4, 6)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = draw(42)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    assert torch.equal(one.initial, draw(42).initial)


def test_fewer_steps_draw_a_prefix() -> None:
    many, few = draw(42, steps=4), draw(42, steps=2)
    assert torch.equal(many.initial, few.initial)
    assert torch.equal(many.steps[:1], few.steps)


def test_chunks_differ_and_a_cut_repeats() -> None:
    assert chunk_seed(42, 3) != chunk_seed(42, 6)
    assert not torch.equal(draw(chunk_seed(42, 0)).initial, draw(chunk_seed(42, 3)).initial)
