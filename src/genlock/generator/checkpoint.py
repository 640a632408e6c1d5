"""The generator's weights: what a model must have, which part of it a rank keeps, and how it is read and written.

Legend: D hidden size. A rank reads its own part of each tensor only. Key names of other
layouts are `formats`' business, files `tensor_files`'; the model itself is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from genlock.errors import CheckpointConfig, CheckpointDtype, CheckpointKeys, CheckpointShape, MeshRefused
from genlock.generator.config import GeneratorConfig
from genlock.generator.formats import Origin, canonical_keys, plan_keys
from genlock.generator.lora import LoraMerge
from genlock.generator.tensor_files import Part, TensorFile, few, open_tensors, read_tensors, write_tensors

__all__ = [
    "Split",
    "canonical_keys",
    "checkpoint_config",
    "expected_shapes",
    "load_generator",
    "read_tensors",
    "save_generator",
    "shard",
    "split_rule",
    "write_tensors",
]

CONFIG_KEY = "config"  # of the safetensors metadata: JSON of GeneratorConfig.to_dict
PATCH = (1, 2, 2)
PATCH_SIZE = PATCH[0] * PATCH[1] * PATCH[2]


class Ranked(Protocol):
    """This rank's place among those that share the weights."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


class Split(StrEnum):
    """How a tensor is shared out over ranks."""

    ROWS = "rows"  # dimension 0, by head or by feed-forward column
    COLUMNS = "columns"  # dimension 1: the ranks' results are partial sums
    BIAS_ONCE = "bias_once"  # whole on every rank, added once: after the partial sums have met
    REPLICATED = "replicated"


def expected_shapes(config: GeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every tensor of a generator, in model order: 15 and 27 a block."""
    D, ffn = config.dim, config.ffn_dim
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    shapes["patch_embedding.weight"], shapes["patch_embedding.bias"] = (D, config.latent_channels, *PATCH), (D,)
    linear("text_embedding.0", D, config.text_dim)
    linear("text_embedding.2", D, D)
    linear("time_embedding.0", D, config.freq_dim)
    linear("time_embedding.2", D, D)
    linear("time_projection.1", 6 * D, D)
    for i in range(config.num_layers):
        block = f"blocks.{i}"
        shapes[f"{block}.modulation"] = (1, 6, D)
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for letter in "qkvo":
                linear(f"{attention}.{letter}", D, D)
            shapes[f"{attention}.norm_q.weight"] = shapes[f"{attention}.norm_k.weight"] = (D,)
        shapes[f"{block}.norm3.weight"] = shapes[f"{block}.norm3.bias"] = (D,)
        linear(f"{block}.ffn.0", ffn, D)
        linear(f"{block}.ffn.2", D, ffn)
    linear("head.head", PATCH_SIZE * config.latent_channels, D)
    shapes["head.modulation"] = (1, 2, D)
    return shapes


def split_rule(name: str) -> Split:
    """How the tensor of this canonical name is shared out."""
    if not name.startswith("blocks."):
        return Split.REPLICATED
    module, _, parameter = name.split(".", 2)[2].rpartition(".")
    if module.endswith(("_attn.q", "_attn.k", "_attn.v", "_attn.norm_q", "_attn.norm_k")) or module == "ffn.0":
        return Split.ROWS
    if module.endswith("_attn.o") or module == "ffn.2":
        return Split.COLUMNS if parameter == "weight" else Split.BIAS_ONCE
    return Split.REPLICATED


def shard(name: str, tensor: Tensor, rank: int, size: int) -> Tensor:
    """This rank's part of a whole tensor; a view. Raises MeshRefused where `size` does not divide it."""
    part = _own_part(name, tuple(tensor.shape), rank, size)
    return tensor if part is None else part.of(tensor)


def checkpoint_config(path: Path, preset: GeneratorConfig | None = None) -> GeneratorConfig:
    """The sizes of a checkpoint, from its metadata or the preset. Raises CheckpointConfig if there is neither, if they
    contradict each other, or if the metadata cannot be read; and as `open_tensors` does."""
    with open_tensors(path) as file:
        return _agreed_config(file, preset)


def load_generator(
    path: Path,
    config: GeneratorConfig | None,
    *,
    lora: Path | None = None,
    lora_alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    parallel: Ranked | None = None,
    bytes_read: dict[str, int] | None = None,
) -> dict[str, Tensor]:
    """Canonical name -> this rank's part, contiguous, in `dtype` on `device`; owns its memory.

    config: of the preset; None takes the metadata's. lora: a PEFT file, merged in float32 before the split; lora_alpha:
    its alpha, None means r (scale 1). parallel: rank and size of the mesh; None is one rank. bytes_read: is told
    `bytes_read` and `bytes_total`, of the tensors in the files.
    Raises CheckpointKeys, CheckpointShape, CheckpointConfig, MeshRefused, and as `open_tensors` does.
    """
    rank, size = (parallel.rank, parallel.size) if parallel else (0, 1)
    with ExitStack() as files:
        file = files.enter_context(open_tensors(path))
        config = _agreed_config(file, config)
        config.check_mesh(size)
        shapes = expected_shapes(config)
        plan = _checked_plan(file, shapes)
        change = None
        if lora is not None:
            change = LoraMerge(files.enter_context(open_tensors(lora)), shapes, alpha=lora_alpha, device=device)
        weights = {}
        for name, shape in shapes.items():
            part = _own_part(name, shape, rank, size)
            stored = file.read(plan[name].name, _in_file(plan[name], part, shape))
            if change is not None:
                stored = change.merged(name, part, stored)
            weights[name] = torch.empty(stored.shape, dtype=dtype, device=device).copy_(stored)
        if bytes_read is not None:
            opened = [file] if change is None else [file, change.file]
            bytes_read["bytes_read"] = sum(each.bytes_read for each in opened)
            bytes_read["bytes_total"] = sum(each.bytes_total for each in opened)
    return weights


def save_generator(
    state: Mapping[str, Tensor],
    config: GeneratorConfig,
    path: Path,
    *,
    dtype: torch.dtype = torch.float16,
    extra_metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a whole generator with its config in the metadata, whole or not at all.

    Raises CheckpointKeys and CheckpointShape as loading would, CheckpointDtype where a value does not fit `dtype`,
    InputOutputError.
    """
    shapes = expected_shapes(config)
    _check_names(set(state), shapes, where=str(path))
    for name, tensor in state.items():
        _check_shape(name, tuple(tensor.shape), shapes[name], where=str(path))
    cast = {name: _cast(name, state[name], dtype, where=str(path)) for name in shapes}
    write_tensors(path, cast, {**(extra_metadata or {}), CONFIG_KEY: json.dumps(config.to_dict())})


def _agreed_config(file: TensorFile, preset: GeneratorConfig | None) -> GeneratorConfig:
    where = str(file.path)
    written = file.metadata.get(CONFIG_KEY)
    if written is None:
        if preset is None:
            raise CheckpointConfig("the file does not say its sizes and no preset was named", where=where)
        return preset
    try:
        values = json.loads(written)
    except ValueError:
        values = None
    if not isinstance(values, dict) or not all(_is_size(name, value) for name, value in values.items()):
        raise CheckpointConfig("the metadata's config is not a JSON object of positive numbers", where=where)
    config = GeneratorConfig.from_dict(values, where=where)
    if preset is not None:
        for name, value in asdict(preset).items():
            if getattr(config, name) != value:
                raise CheckpointConfig(
                    f"the checkpoint has {name} {getattr(config, name)}, the preset {value}", where=where
                )
    return config


def _is_size(name: str, value: object) -> bool:
    """Whether a config value can be what it says: a whole number, or a fraction for eps; above zero."""
    return type(value) in ((int, float) if name == "eps" else (int,)) and value > 0  # type: ignore[operator]


def _checked_plan(file: TensorFile, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Origin]:
    """Where every tensor lies. Raises CheckpointKeys and CheckpointShape before anything is read."""
    where = str(file.path)
    plan, _ = plan_keys(file.shapes)
    _check_names(set(plan), shapes, where=where)
    for name, origin in plan.items():
        found = file.shapes[origin.name]
        if origin.third is not None and found and found[0] % 3 == 0:
            found = (found[0] // 3, *found[1:])
        _check_shape(name, found, shapes[name], where=where)
    return plan


def _check_names(names: set[str], shapes: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    if missing := [name for name in shapes if name not in names]:
        raise CheckpointKeys(f"{few(missing)} missing", where=where)
    if unknown := sorted(names - set(shapes)):
        raise CheckpointKeys(f"{few(unknown)} unknown to this model", where=where)


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...], *, where: str) -> None:
    if found != expected:
        raise CheckpointShape(f"tensor {name!r} is {list(found)}, not {list(expected)}", where=where)


def _own_part(name: str, shape: tuple[int, ...], rank: int, size: int) -> Part | None:
    """What this rank keeps of a tensor; None is all of it."""
    dim = {Split.ROWS: 0, Split.COLUMNS: 1}.get(split_rule(name))
    if dim is None or size == 1:
        return None
    if shape[dim] % size:
        raise MeshRefused(f"{shape[dim]} entries of {name!r} cannot be split over {size} ranks")
    step = shape[dim] // size
    return Part(dim=dim, start=rank * step, stop=(rank + 1) * step)


def _in_file(origin: Origin, part: Part | None, shape: tuple[int, ...]) -> Part | None:
    """The same part, counted in the stored tensor: q, k and v of a fused one follow each other."""
    if origin.third is None:
        return part
    rows = shape[0]
    own = part or Part(dim=0, start=0, stop=rows)
    return Part(dim=0, start=origin.third * rows + own.start, stop=origin.third * rows + own.stop)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype, *, where: str) -> Tensor:
    cast = tensor.detach().to(dtype)
    if not bool(torch.isfinite(cast).all()):
        raise CheckpointDtype(
            f"tensor {name!r} has a value that {str(dtype).removeprefix('torch.')} cannot hold",
            where=where,
            remedy="save as bfloat16 or float32, or look for NaN in the weights",
        )
    return cast
