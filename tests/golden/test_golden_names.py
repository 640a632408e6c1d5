"""Key names against the recorded map: both upstream models were loaded strictly from the same weights by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from genlock.generator.checkpoint import canonical_keys, expected_shapes, load_generator, read_tensors
from genlock.generator.config import GeneratorConfig
from genlock.generator.formats import diffusers_name

pytestmark = pytest.mark.golden

TINY = GeneratorConfig(dim=80, ffn_dim=112, num_heads=4, num_layers=2, freq_dim=32, text_dim=20, text_len=12)


@pytest.fixture
def key_map(golden_dir: Path) -> dict[str, str]:
    index = json.loads((golden_dir / "index.json").read_text(encoding="utf-8"))
    names: dict[str, str] = index["cases"]["one_shot"]["key_map_canonical_to_diffusers"]
    return names


def test_the_names_are_the_recorded_ones_in_both_directions(key_map: dict[str, str]) -> None:
    assert {name: diffusers_name(name) for name in expected_shapes(TINY)} == key_map
    named = {theirs: torch.full((1,), float(i)) for i, theirs in enumerate(key_map.values())}
    found, layout = canonical_keys(named)
    assert layout == "diffusers"
    assert {name: float(tensor) for name, tensor in found.items()} == {name: i for i, name in enumerate(key_map)}


def test_recorded_weights_load_alike_under_either_name(
    golden_dir: Path, key_map: dict[str, str], tmp_path: Path
) -> None:
    recorded, _ = read_tensors(golden_dir / "weights_tiny4.safetensors")
    save_file({key_map[name]: tensor for name, tensor in recorded.items()}, tmp_path / "diffusers.safetensors")
    for path in (golden_dir / "weights_tiny4.safetensors", tmp_path / "diffusers.safetensors"):
        loaded = load_generator(path, TINY)
        assert all(torch.equal(loaded[name], recorded[name]) for name in expected_shapes(TINY))
