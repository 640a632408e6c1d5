"""Blending: what holds for any embeddings and weights."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genlock.stage0.blend import Method, between, blend_prompts, is_same, normalized, slerp

seeds = st.integers(0, 10_000)
methods = st.sampled_from(list(Method))


def embedding(seed: int, length: int = 4, rows: int = 6, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(rows, width, generator=generator)
    drawn[length:] = 0
    return drawn


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=5))
@settings(deadline=None)
def test_shares_add_up_to_one(weights: list[float]) -> None:
    shares = normalized(weights)
    assert math.isclose(sum(shares), 1.0, rel_tol=1e-9)
    assert all(share >= 0 for share in shares)


def test_weights_that_are_all_zero_count_equally() -> None:
    assert normalized([0.0, 0.0]) == [0.5, 0.5]


@given(st.lists(st.tuples(seeds, st.floats(0.01, 10)), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_linear_blend_has_the_weighted_mean_of_the_norms(parts: list[tuple[int, float]]) -> None:
    embeddings = [embedding(seed) for seed, _ in parts]
    shares = normalized([weight for _, weight in parts])
    expected = sum(share * float(e.norm()) for e, share in zip(embeddings, shares, strict=True))
    assert float(blend_prompts(embeddings, shares).norm()) == pytest.approx(expected, rel=1e-4)


@given(seeds, seeds, st.floats(0, 1), methods, st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None)
def test_a_transition_is_finite_and_keeps_padding_zero(
    a: int, b: int, t: float, method: Method, m: int, n: int
) -> None:
    point = between(embedding(a, m), embedding(b, n), t, method)
    assert bool(point.isfinite().all())
    assert not bool(point[max(m, n) :].any())


@given(seeds, seeds, methods)
@settings(deadline=None)
def test_the_ends_of_a_transition_are_the_embeddings_themselves(a: int, b: int, method: Method) -> None:
    source, target = embedding(a), embedding(b)
    assert between(source, target, 0.0, method) is source
    assert between(source, target, 1.0, method) is target


@pytest.mark.parametrize("factor", [1.0, -1.0, 2.5, 1 + 1e-7])
def test_a_token_that_does_not_turn_is_mixed_linearly(factor: float) -> None:
    """The sine of its angle is 0 there: upstream's formula loses such a token, or blows it up."""
    source, target = embedding(1), embedding(2)
    target[0] = factor * source[0]
    torch.testing.assert_close(slerp(source, target, 0.25)[0], (0.75 + 0.25 * factor) * source[0], atol=1e-5, rtol=1e-4)


def test_a_blend_that_cancels_out_stays_finite() -> None:
    source = embedding(3)
    assert bool(blend_prompts([source, -source], [1, 1]).isfinite().all())


def test_slerp_halfway_keeps_the_length_of_unit_tokens() -> None:
    source, target = torch.eye(4)[:2], torch.eye(4)[2:]
    torch.testing.assert_close(slerp(source, target, 0.5).norm(dim=-1), torch.ones(2))


def test_three_prompts_are_blended_linearly_whatever_the_method() -> None:
    parts = [embedding(seed) for seed in (1, 2, 3)]
    assert torch.equal(blend_prompts(parts, [1, 2, 3], Method.SLERP), blend_prompts(parts, [1, 2, 3]))


def test_a_single_prompt_is_its_own_blend() -> None:
    only = embedding(1)
    assert blend_prompts([only], [0.3]) is only


def test_same_means_a_hundredth_over_all_rows() -> None:
    source = torch.zeros(10, 10)
    assert is_same(source, source + 0.0009)
    assert not is_same(source, source + 0.0011)
