"""Checkpoints: every layout loads to the same weights, every planted defect is named, shards add up to the whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.generator.conftest import TOY

import genlock
from genlock.errors import (
    CheckpointConfig,
    CheckpointDtype,
    CheckpointKeys,
    CheckpointMissing,
    CheckpointShape,
    CheckpointUnreadable,
    GenlockError,
    InputOutputError,
    MeshRefused,
)
from genlock.generator.checkpoint import (
    Split,
    canonical_keys,
    checkpoint_config,
    expected_shapes,
    load_generator,
    read_tensors,
    save_generator,
    shard,
    split_rule,
)
from genlock.generator.formats import diffusers_name
from genlock.generator.model import Generator
from genlock.generator.presets import preset
from genlock.generator.tensor_files import open_tensors

SHAPES = expected_shapes(TOY)
SHARED_OUT = (Split.ROWS, Split.COLUMNS)
WRAPPER = "_fsdp_wrapped_module."


@dataclass(frozen=True)
class Place:
    rank: int
    size: int


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def fused(state):
    result = dict(state)
    for i in range(TOY.num_layers):
        for parameter in ("weight", "bias"):
            thirds = [result.pop(f"blocks.{i}.self_attn.{letter}.{parameter}") for letter in "qkv"]
            result[f"blocks.{i}.self_attn.to_qkv.{parameter}"] = torch.cat(thirds)
    return result


def wrapped(state):
    return {f"model.{name.replace('blocks.1.', f'blocks.1.{WRAPPER}')}": tensor for name, tensor in state.items()}


def write_wan(folder, state):
    save_file(state, folder / "wan.safetensors")
    return folder / "wan.safetensors"


def write_wan_pickle(folder, state):
    torch.save({**state, "freqs": torch.ones(4, 2, dtype=torch.complex64)}, folder / "wan.pth")
    return folder / "wan.pth"


def write_old_pickle(folder, state):
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def write_shards(folder, state, names=lambda name: name):
    (folder / "transformer").mkdir(exist_ok=True)
    keys = sorted(state)
    places = {names(key): f"diffusion-0000{1 + i % 3}-of-00003.safetensors" for i, key in enumerate(keys)}
    for file in set(places.values()):
        part = {names(key): state[key] for key in keys if places[names(key)] == file}
        save_file(part, folder / "transformer" / file, metadata={"format": "pt"})
    index = folder / "transformer" / "diffusion.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return folder / "transformer"


def write_diffusers(folder, state):
    write_shards(folder, state, diffusers_name)
    return folder  # the pipeline's folder: the weights lie in transformer/


def write_unindexed_shards(folder, state):
    (write_shards(folder, state) / "diffusion.safetensors.index.json").unlink()
    return folder / "transformer" / "diffusion-00002-of-00003.safetensors"


def write_self_forcing(folder, state):
    wrong = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    content = {"generator": wrapped(wrong), "generator_ema": wrapped(state), "critic": {"x": torch.ones(1)}, "step": 7}
    torch.save(content, folder / "self_forcing_dmd.pt")
    return folder / "self_forcing_dmd.pt"


def write_longlive(folder, state):
    torch.save({"generator": wrapped(state)}, folder / "longlive_base.pt")
    return folder / "longlive_base.pt"


def write_krea(folder, state):
    save_file({f"model.{name}": tensor for name, tensor in state.items()}, folder / "krea.safetensors")
    return folder / "krea.safetensors"


def write_fused(folder, state):
    save_file(fused(state), folder / "fused.safetensors")
    return folder / "fused.safetensors"


FORMATS = [
    write_wan,
    write_wan_pickle,
    write_old_pickle,
    write_shards,
    write_diffusers,
    write_unindexed_shards,
    write_self_forcing,
    write_longlive,
    write_krea,
    write_fused,
]


@pytest.mark.parametrize("write", FORMATS)
def test_every_layout_loads_to_the_state_it_was_made_from(write, tmp_path, state):
    loaded = load_generator(write(tmp_path, state), TOY)
    assert list(loaded) == list(SHAPES)
    assert all(torch.equal(loaded[name], state[name]) for name in SHAPES)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("write", [write_shards, write_longlive, write_fused])
def test_shards_put_together_are_the_whole(write, size, tmp_path, state):
    path = write(tmp_path, state)
    ranks = [load_generator(path, TOY, parallel=Place(rank, size)) for rank in range(size)]
    for name, tensor in state.items():
        parts = [weights[name] for weights in ranks]
        assert all(part.is_contiguous() for part in parts)
        rule = split_rule(name)
        if rule in (Split.ROWS, Split.COLUMNS):
            parts = [torch.cat(parts, dim=0 if rule is Split.ROWS else 1)]
        assert all(torch.equal(part, tensor) for part in parts), name


def rank_share(shapes, size):
    """Bytes of float32 that one rank keeps, and of the whole model."""
    whole = sum(math.prod(shape) for shape in shapes.values())
    own = [shard(name, torch.empty(shape, device="meta"), size - 1, size).numel() for name, shape in shapes.items()]
    return 4 * sum(own), 4 * whole


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("write", [write_wan, write_wan_pickle, write_shards, write_fused])
def test_a_rank_reads_its_own_part_and_no_more(write, size, tmp_path, state):
    path = write(tmp_path, state)
    for rank in range(size):
        read = {}
        weights = load_generator(path, TOY, parallel=Place(rank, size), bytes_read=read)
        own, whole = rank_share(SHAPES, size)
        assert read == {"bytes_read": own, "bytes_total": whole}
        assert sum(tensor.nbytes for tensor in weights.values()) == own


def test_a_pickle_that_cannot_be_mapped_counts_as_read_whole(tmp_path, state):
    read = {}
    load_generator(write_old_pickle(tmp_path, state), TOY, parallel=Place(0, 4), bytes_read=read)
    assert read["bytes_read"] == read["bytes_total"]


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_reads_no_more_of_the_bundled_model_than_its_part(size):
    path = Path(genlock.__file__).parent / "bundled" / "generator.safetensors"
    config = checkpoint_config(path)
    with open_tensors(path) as file:
        whole = file.bytes_total
    sharded = sum(2 * math.prod(s) for n, s in expected_shapes(config).items() if split_rule(n) in SHARED_OUT)
    for rank in range(size):
        read = {}
        load_generator(path, config, parallel=Place(rank, size), bytes_read=read)
        assert read["bytes_total"] == whole
        assert read["bytes_read"] <= 1.05 * (sharded / size + whole - sharded)


def test_a_rank_of_eight_keeps_an_eighth_of_the_large_model_and_what_all_need():
    shapes = expected_shapes(preset("krea-14b").generator)
    own, whole = rank_share(shapes, 8)
    sharded = 4 * sum(math.prod(s) for n, s in shapes.items() if split_rule(n) in SHARED_OUT)
    assert own <= 1.05 * (sharded / 8 + whole - sharded)
    assert own < 0.15 * whole, "what every rank holds whole is small beside the blocks"


def test_a_shard_fits_the_model_of_its_rank(tmp_path, state):
    @dataclass(frozen=True)
    class Lone:
        rank: int
        size: int

        def sum_partial(self, partial, site):
            return partial

        def sum_squares(self, squares, site):
            return squares

    path = write_wan(tmp_path, state)
    for place in (Place(0, 1), Place(1, 2), Place(3, 4)):
        model = Generator(TOY, Lone(place.rank, place.size))
        model.load_state_dict(load_generator(path, TOY, parallel=place), strict=True, assign=True)


def test_the_table_of_splits():
    # Section by section, for one block: what the head split, the column split and the single bias are.
    rules = {name.removeprefix("blocks.0."): split_rule(name) for name in SHAPES if name.startswith("blocks.0.")}
    expected = dict.fromkeys(rules, Split.REPLICATED)
    for attention in ("self_attn", "cross_attn"):
        for letter in "qkv":
            expected[f"{attention}.{letter}.weight"] = expected[f"{attention}.{letter}.bias"] = Split.ROWS
        expected[f"{attention}.norm_q.weight"] = expected[f"{attention}.norm_k.weight"] = Split.ROWS
        expected[f"{attention}.o.weight"], expected[f"{attention}.o.bias"] = Split.COLUMNS, Split.BIAS_ONCE
    expected["ffn.0.weight"] = expected["ffn.0.bias"] = Split.ROWS
    expected["ffn.2.weight"], expected["ffn.2.bias"] = Split.COLUMNS, Split.BIAS_ONCE
    assert len(rules) == 27
    assert rules == expected
    assert {split_rule(name) for name in SHAPES if not name.startswith("blocks.")} == {Split.REPLICATED}


def test_released_models_have_as_many_tensors_as_published():
    assert len(expected_shapes(preset("self-forcing-1.3b").generator)) == 825
    assert len(expected_shapes(preset("krea-14b").generator)) == 1095


@pytest.mark.parametrize("size", [3, 8])
def test_a_mesh_that_does_not_divide_the_heads_is_refused(size, tmp_path, state):
    with pytest.raises(MeshRefused, match=f"over {size} ranks; use 1, 2, 4"):
        load_generator(write_wan(tmp_path, state), TOY, parallel=Place(0, size))
    with pytest.raises(MeshRefused, match=r"blocks\.0\.self_attn\.q\.weight"):
        shard("blocks.0.self_attn.q.weight", torch.zeros(80, 80), 0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_stored_precision_is_cast_to_the_one_asked_for(dtype, tmp_path, state):
    stored = {name: tensor.to(dtype) for name, tensor in state.items()}
    loaded = load_generator(write_wan(tmp_path, stored), TOY, dtype=torch.bfloat16)
    assert all(torch.equal(loaded[name], stored[name].to(torch.bfloat16)) for name in SHAPES)


# -- defects: each is planted alone, and named ----------------------------------------------------------------------


def missing_key(state):
    return {name: tensor for name, tensor in state.items() if name != "blocks.1.norm3.bias"}


def unknown_key(state):
    return state | {"blocks.1.norm4.bias": torch.zeros(80)}


def unknown_layer(state):
    return state | {"blocks.2.norm3.bias": torch.zeros(80)}


def wrong_shape(state):
    return state | {"blocks.1.ffn.0.weight": torch.zeros(111, 80)}


def integers(state):
    return state | {"blocks.1.ffn.0.weight": torch.zeros(112, 80, dtype=torch.int8)}


def partly_prefixed(state):
    return {name if "head" in name else f"model.{name}": tensor for name, tensor in state.items()}


def both_fused_and_not(state):
    return state | {"blocks.0.self_attn.to_qkv.bias": torch.zeros(240)}


def fused_unevenly(state):
    return fused(state) | {"blocks.0.self_attn.to_qkv.bias": torch.zeros(241)}


DEFECTS = [
    (missing_key, CheckpointKeys, r"'blocks\.1\.norm3\.bias' missing"),
    (unknown_key, CheckpointKeys, r"'blocks\.1\.norm4\.bias' unknown"),
    (unknown_layer, CheckpointKeys, r"'blocks\.2\.norm3\.bias' unknown"),
    (wrong_shape, CheckpointShape, r"'blocks\.1\.ffn\.0\.weight' is \[111, 80\], not \[112, 80\]"),
    (integers, CheckpointDtype, r"'blocks\.1\.ffn\.0\.weight' is (i8|int8)"),
    (partly_prefixed, CheckpointKeys, r"66 of 69 keys start with 'model\.', and 'head\.\w+(\.\w+)?' does not"),
    (both_fused_and_not, CheckpointKeys, r"'blocks\.0\.self_attn\.q\.bias' is there twice"),
    (fused_unevenly, CheckpointShape, r"'blocks\.0\.self_attn\.q\.bias' is \[241\], not \[80\]"),
]


@pytest.mark.parametrize("write", [write_wan, write_wan_pickle])
@pytest.mark.parametrize(("plant", "error", "named"), DEFECTS)
def test_a_planted_defect_is_named(plant, error, named, write, tmp_path, state):
    with pytest.raises(error, match=named) as refusal:
        load_generator(write(tmp_path, plant(state)), TOY)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("write", FORMATS)
def test_a_missing_tensor_is_named_in_every_layout(write, tmp_path, state):
    with pytest.raises(CheckpointKeys, match=r"'blocks\.1\.norm3\.bias' missing"):
        load_generator(write(tmp_path, missing_key(state)), TOY)


@pytest.mark.parametrize("write", [write_wan, write_wan_pickle, write_old_pickle])
@pytest.mark.parametrize("kept", [0, 5, 900, -40])
def test_a_file_cut_short_is_refused_in_one_line(write, kept, tmp_path, state):
    path = write(tmp_path, state)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointUnreadable) as refusal:
        load_generator(path, TOY)
    assert path.name in str(refusal.value)
    assert "\n" not in str(refusal.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_load_as_other_numbers(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    whole = {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(5)}
    suffix = data.draw(st.sampled_from([".safetensors", ".pth", ".pt"]))
    path = folder / f"file{suffix}"
    if suffix == ".safetensors":
        save_file(whole, path)
    else:
        torch.save(whole, path, _use_new_zipfile_serialization=suffix == ".pt")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tensors, _ = read_tensors(path)
    except GenlockError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 - a refusal is one of two right answers
    else:
        assert all(tensor.is_floating_point() for tensor in tensors.values())


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(zipped, tmp_path, state):
    marker = tmp_path / "ran"
    path = tmp_path / "hostile.pt"
    torch.save({**state, "x": Hostile(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointUnreadable, match="nothing in it was run"):
        load_generator(path, TOY)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the bait was live


def test_missing_files_shards_and_promises_are_named(tmp_path, state):
    with pytest.raises(CheckpointMissing, match="no such file"):
        load_generator(tmp_path / "none.safetensors", TOY)
    with pytest.raises(CheckpointMissing, match=r"no \.safetensors file in this folder"):
        load_generator(tmp_path, TOY)
    folder = write_shards(tmp_path, state)
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMissing, match=r"'a\.safetensors', 'b\.safetensors'"):
        load_generator(tmp_path, TOY)
    index = folder / "diffusion.safetensors.index.json"
    promises = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    index.write_text(json.dumps({"weight_map": promises | {"x.y": next(iter(promises.values()))}}), encoding="utf-8")
    with pytest.raises(CheckpointKeys, match=r"'x\.y' promised by the index"):
        load_generator(folder, TOY)
    index.write_text(json.dumps({"weight_map": promises | {"x": "../a.safetensors"}}), encoding="utf-8")
    with pytest.raises(CheckpointUnreadable, match="not a shard beside it"):
        load_generator(folder, TOY)
    index.write_text(json.dumps({"weight_map": promises}), encoding="utf-8")
    for left in (index, folder / "diffusion-00001-of-00003.safetensors"):  # with an index, and without
        (folder / "diffusion-00003-of-00003.safetensors").unlink(missing_ok=True)
        with pytest.raises(CheckpointMissing, match="diffusion-00003-of-00003"):
            load_generator(left, TOY)


@pytest.mark.parametrize(
    ("content", "named"),
    [([1, 2], "no dictionary"), ({"a": torch.ones(2), "epoch": 3}, "'epoch' is a int"), ({}, "no d")],
)
def test_a_pickle_of_something_else_is_refused(content, named, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointUnreadable, match=named):
        read_tensors(tmp_path / "other.pt")


# -- LoRA -----------------------------------------------------------------------------------------------------------

MODULES = ["self_attn.q", "self_attn.o", "cross_attn.v", "ffn.0", "ffn.2"]
RANK = 6


@pytest.fixture(scope="module")
def factors():
    draw = torch.Generator().manual_seed(8)
    names = [f"blocks.{i}.{module}" for i in range(TOY.num_layers) for module in MODULES]
    return {
        name: (
            torch.randn(RANK, SHAPES[f"{name}.weight"][1], generator=draw),
            torch.randn(SHAPES[f"{name}.weight"][0], RANK, generator=draw),
        )
        for name in names
    }


def lora_file(path, factors, *, adapter="", container=None):
    tensors = {}
    for module, (a, b) in factors.items():
        tensors[f"base_model.model.{module}.lora_A{adapter}.weight"] = a
        tensors[f"base_model.model.{module}.lora_B{adapter}.weight"] = b
    torch.save({container: tensors} if container else tensors, path)
    return path


@pytest.mark.parametrize(("adapter", "container"), [("", None), (".default", "generator_lora")])
@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("size", [1, 2])
def test_a_lora_is_merged_before_the_split(size, alpha, adapter, container, tmp_path, state, factors):
    lora = lora_file(tmp_path / "lora.pt", factors, adapter=adapter, container=container)
    base = write_longlive(tmp_path, state)
    scale = 1.0 if alpha is None else alpha / RANK
    merged = dict(state)
    for module, (a, b) in factors.items():
        merged[f"{module}.weight"] = state[f"{module}.weight"] + scale * (b @ a)
    for rank in range(size):
        found = load_generator(base, TOY, lora=lora, lora_alpha=alpha, parallel=Place(rank, size))
        for name, tensor in merged.items():
            torch.testing.assert_close(found[name], shard(name, tensor, rank, size), atol=1e-5, rtol=1e-5)


def test_merged_weights_have_the_same_bits_on_any_mesh(tmp_path, state, factors):
    lora, base = lora_file(tmp_path / "lora.pt", factors), write_wan(tmp_path, state)
    whole = load_generator(base, TOY, lora=lora, dtype=torch.bfloat16)
    for rank in range(4):
        own = load_generator(base, TOY, lora=lora, dtype=torch.bfloat16, parallel=Place(rank, 4))
        assert all(torch.equal(own[name], shard(name, whole[name], rank, 4)) for name in SHAPES)


def test_a_lora_that_does_not_fit_is_named(tmp_path, state, factors):
    base = write_wan(tmp_path, state)
    a, b = factors["blocks.0.self_attn.q"]
    cases = [
        ({"blocks.2.self_attn.q": (a, b)}, CheckpointKeys, r"'blocks\.2\.self_attn\.q\.weight'"),
        ({"head.head": (a, b)}, CheckpointKeys, r"'head\.head\.weight'"),
        ({"blocks.0.self_attn.q": (a[:-1], b)}, CheckpointShape, r"B \[80, 6\] times A \[5, 80\]"),
        ({"blocks.0.ffn.0": (a, b)}, CheckpointShape, r"is no \[112, 80\]"),
    ]
    for planted, error, named in cases:
        with pytest.raises(error, match=named):
            load_generator(base, TOY, lora=lora_file(tmp_path / "lora.pt", planted))
    for tensors, named in [
        ({"base_model.model.blocks.0.self_attn.q.lora_A.weight": a}, "has no lora_B"),
        ({"blocks.0.self_attn.q.weight": a}, "is no LoRA factor"),
    ]:
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(CheckpointKeys, match=named):
            load_generator(base, TOY, lora=tmp_path / "lora.safetensors")


# -- config and writing ---------------------------------------------------------------------------------------------


def test_what_is_saved_loads_again_without_being_told_its_sizes(tmp_path, state):
    path = tmp_path / "generator.safetensors"
    save_generator(state, TOY, path, dtype=torch.float32, extra_metadata={"title": "toy"})
    assert checkpoint_config(path) == TOY
    loaded = load_generator(path, None)
    assert all(torch.equal(loaded[name], state[name]) for name in SHAPES)
    assert read_tensors(path)[1]["title"] == "toy"
    assert [file.name for file in tmp_path.iterdir()] == ["generator.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({}, "does not say its sizes"),
        ({"config": "{"}, "not a JSON object"),
        ({"config": json.dumps(TOY.to_dict() | {"num_heads": 0})}, "positive numbers"),
        ({"config": json.dumps(TOY.to_dict() | {"depth": 3})}, "unknown key 'depth'"),
    ],
)
def test_a_checkpoint_that_does_not_say_its_sizes_is_refused(metadata, named, tmp_path, state):
    save_file(state, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(CheckpointConfig, match=named):
        load_generator(tmp_path / "x.safetensors", None)


def test_a_checkpoint_that_contradicts_the_preset_is_refused(tmp_path, state):
    save_generator(state, TOY, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointConfig, match="the checkpoint has text_len 12, the preset 13"):
        load_generator(tmp_path / "x.safetensors", replace(TOY, text_len=13))


def test_saving_refuses_what_would_not_load(tmp_path, state):
    path = tmp_path / "x.safetensors"
    for plant, error, named in DEFECTS[:4]:
        with pytest.raises(error, match=named):
            save_generator(plant(state), TOY, path)
    too_large = state | {"head.head.bias": torch.full((64,), 1e6)}
    with pytest.raises(CheckpointDtype, match=r"'head\.head\.bias' has a value that float16 cannot hold"):
        save_generator(too_large, TOY, path)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path, state):
    with pytest.raises(InputOutputError, match="no such folder"):
        save_generator(state, TOY, tmp_path / "none" / "x.safetensors")
    with pytest.raises(InputOutputError, match="is a folder"):
        save_generator(state, TOY, tmp_path)
    with pytest.raises(InputOutputError, match="not a regular file"):
        save_generator(state, TOY, Path("/dev/full"))


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, state):
    path = tmp_path / "x.safetensors"
    save_generator(state, TOY, path)
    before = path.read_bytes()
    program = f"""
import resource, torch
from pathlib import Path
from genlock.errors import InputOutputError
from genlock.generator.checkpoint import save_generator
from tests.generator.conftest import TOY
from genlock.generator.checkpoint import expected_shapes
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
state = {{name: torch.zeros(shape) for name, shape in expected_shapes(TOY).items()}}
try:
    save_generator(state, TOY, Path({str(path)!r}))
except InputOutputError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.startswith("GL-IO-01: ")
    assert ended.stdout.count("\n") == 1
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@given(st.permutations(sorted(SHAPES)))
@settings(max_examples=5, deadline=None)
def test_renaming_does_not_depend_on_the_order_of_keys(names):
    tensors = {diffusers_name(name): torch.zeros(1) for name in names}
    found, layout = canonical_keys(tensors)
    assert layout == "diffusers"
    assert set(found) == set(SHAPES)
