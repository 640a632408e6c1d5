"""A fingerprint is one number for one model, however many ranks share it, and any change shows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.generator.conftest import TOY

from genlock.generator import fingerprint as module
from genlock.generator.checkpoint import expected_shapes, shard
from genlock.generator.fingerprint import combine, fingerprint, fingerprint_part, group_of

SHAPES = expected_shapes(TOY)
NAMES = [
    "blocks.0.self_attn.q.weight",  # rows
    "blocks.1.cross_attn.o.weight",  # columns
    "blocks.1.ffn.2.bias",  # whole, added once
    "blocks.0.self_attn.norm_k.weight",  # one dimension, by heads
    "patch_embedding.weight",  # five dimensions, whole
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(name: str, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed)).to(dtype)


def model(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: drawn(name, seed + i, dtype) for i, name in enumerate(SHAPES)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_parts_of_any_mesh_add_up_to_the_same_number(dtype: torch.dtype) -> None:
    whole = model(1, dtype)
    totals = set()
    for size in (1, 2, 4):
        parts = [
            fingerprint({n: shard(n, t, rank, size) for n, t in whole.items()}, SHAPES, rank=rank, size=size)
            for rank in range(size)
        ]
        assert len({part.replicated for part in parts}) == 1
        totals.add(combine(parts))
    assert len(totals) == 1


@given(
    name=st.sampled_from(NAMES), size=st.sampled_from([2, 4]), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES)
)
def test_a_sharded_tensor_adds_up(name: str, size: int, seed: int, dtype: torch.dtype) -> None:
    whole = drawn(name, seed, dtype)
    alone = fingerprint_part(name, whole, SHAPES[name], rank=0, size=1)
    parts = [fingerprint_part(name, shard(name, whole, r, size), SHAPES[name], rank=r, size=size) for r in range(size)]
    assert alone == (sum(parts) % 2**64 if module.is_sharded(name) else parts[0])
    assert module.is_sharded(name) or len(set(parts)) == 1


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 99), bit=st.integers(0, 31), data=st.data())
def test_any_changed_bit_of_any_element_shows(name: str, seed: int, bit: int, data: st.DataObject) -> None:
    whole = drawn(name, seed)
    before = fingerprint_part(name, whole, SHAPES[name], rank=0, size=1)
    where = data.draw(st.integers(0, whole.numel() - 1))
    whole.view(torch.int32).view(-1)[where] ^= -(2**31) if bit == 31 else 1 << bit
    assert fingerprint_part(name, whole, SHAPES[name], rank=0, size=1) != before


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 99), dtype=st.sampled_from(DTYPES), data=st.data())
def test_two_elements_that_are_swapped_show(name: str, seed: int, dtype: torch.dtype, data: st.DataObject) -> None:
    flat = drawn(name, seed, dtype).view(-1)
    one, other = data.draw(st.lists(st.integers(0, flat.numel() - 1), min_size=2, max_size=2, unique=True))
    swapped = flat.clone()
    swapped[one], swapped[other] = flat[other], flat[one]
    numbers = {
        fingerprint_part(name, tensor.view(SHAPES[name]), SHAPES[name], rank=0, size=1) for tensor in (flat, swapped)
    }
    assert len(numbers) == (1 if flat[one] == flat[other] else 2)


def test_two_tensors_that_are_swapped_show() -> None:
    weights = model(3)
    one, other = "blocks.0.self_attn.q.weight", "blocks.1.self_attn.q.weight"
    swapped = {**weights, one: weights[other], other: weights[one]}
    numbers = [combine([fingerprint(w, SHAPES, rank=0, size=1)]) for w in (weights, swapped)]
    assert numbers[0] != numbers[1]


def test_the_group_of_a_changed_weight_is_the_one_that_differs() -> None:
    weights = model(4)
    before = fingerprint(weights, SHAPES, rank=0, size=1)
    weights["blocks.1.ffn.0.weight"][3, 4] += 1
    after = fingerprint(weights, SHAPES, rank=0, size=1)
    assert [g for g in before.groups if before.groups[g] != after.groups[g]] == ["blocks.1"]
    assert set(before.groups) == {"blocks.0", "blocks.1", "outside"}
    assert group_of("blocks.12.ffn.0.bias") == "blocks.12"


def test_small_pieces_give_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "blocks.1.cross_attn.o.weight"
    whole = drawn(name, 5)
    at_once = fingerprint_part(name, whole, SHAPES[name], rank=0, size=1)
    monkeypatch.setattr(module, "PIECE_BYTES", 3 * 8 * SHAPES[name][1])
    assert fingerprint_part(name, whole, SHAPES[name], rank=0, size=1) == at_once


def test_it_is_the_sum_that_it_says_it_is() -> None:
    """By Python's own integers, with values whose products leave 64 bits."""
    part = torch.tensor([[1.5, -2.25], [3e38, -0.0]])
    values = [int(v) for v in part.view(torch.int32).view(-1)]
    expected = sum(v * (2 * (7 + i // 2 * 10 + i % 2) + 1) for i, v in enumerate(values))
    assert int(module.odd_sum(part, first=7, stride=10)) % 2**64 == expected % 2**64
