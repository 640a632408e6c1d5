"""The reference of a model's weights: one number for every mesh, kept by the first start, held to by the next."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genlock.engine.reference import hold_to_reference, keep_reference, read_reference, reference_path, whole
from genlock.errors import GateRefused, InputOutputError
from genlock.generator.checkpoint import expected_shapes, shard
from genlock.generator.config import GeneratorConfig
from genlock.generator.fingerprint import combine, fingerprint
from genlock.generator.model import Generator

SIZES = GeneratorConfig(dim=48, ffn_dim=64, num_heads=4, num_layers=1, freq_dim=16, text_dim=24, text_len=10)


def test_a_model_has_one_fingerprint_on_every_mesh() -> None:
    torch.manual_seed(1)
    weights, shapes = Generator(SIZES).state_dict(), expected_shapes(SIZES)
    for size in (1, 2, 4):
        parts = [
            fingerprint({n: shard(n, t, rank, size) for n, t in weights.items()}, shapes, rank=rank, size=size)
            for rank in range(size)
        ]
        said = whole([f"{p.replicated:016x}" for p in parts], [f"{p.sharded:016x}" for p in parts])
        assert said == f"{combine(parts):016x}" == f"{combine([fingerprint(weights, shapes, rank=0, size=1)]):016x}"


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8))
def test_the_replicated_part_counts_once(replicated: int, sharded: list[int]) -> None:
    said = whole([f"{replicated:016x}"] * len(sharded), [f"{part:016x}" for part in sharded])
    assert int(said, 16) == (replicated + sum(sharded)) % 2**64


def test_the_first_start_keeps_it_and_the_next_is_held_to_it(tmp_path: Path) -> None:
    weights = tmp_path / "generator.safetensors"
    assert "no reference yet" in hold_to_reference(weights, "float32", "00" * 8)
    keep_reference(weights, "float32", "00" * 8)
    keep_reference(weights, "bfloat16", "11" * 8)
    keep_reference(weights, "float32", "22" * 8)  # known already: it stays
    assert read_reference(weights) == {"float32": "00" * 8, "bfloat16": "11" * 8}
    assert "as the reference says" in hold_to_reference(weights, "float32", "00" * 8)
    with pytest.raises(GateRefused, match=r"GL-GATE-01.*fingerprint is 2222.*says 0000.*remove the reference"):
        hold_to_reference(weights, "float32", "22" * 8)


def test_a_folder_has_its_reference_inside(tmp_path: Path) -> None:
    assert reference_path(tmp_path).parent == tmp_path


def test_a_reference_that_is_none_is_named(tmp_path: Path) -> None:
    weights = tmp_path / "generator.safetensors"
    for content in ("[", "[1]", '{"float32": 3}'):
        reference_path(weights).write_text(content)
        with pytest.raises(InputOutputError, match="remove the file"):
            read_reference(weights)
