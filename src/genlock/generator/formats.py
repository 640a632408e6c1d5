"""Names of a generator's tensors: from every layout in circulation to the canonical one (Wan 2.1's, without prefix).

Pure: works on names, and on tensors only to cut fused ones in thirds. Layouts: Wan original, diffusers, keys wrapped by
FSDP or prefixed `model.` (Self-Forcing, LongLive, Krea), and fused q-k-v.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from genlock.errors import CheckpointKeys
from genlock.generator.tensor_files import DERIVED, few

WRAPPER = "_fsdp_wrapped_module."
PREFIX = "model."
FUSED = "to_qkv"

# Canonical module -> diffusers module; {} is the block.
ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
INSIDE_ATTENTION = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    FUSED: FUSED,
}
MODULES = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "blocks.{}.norm3": "blocks.{}.norm2",
    "blocks.{}.ffn.0": "blocks.{}.ffn.net.0.proj",
    "blocks.{}.ffn.2": "blocks.{}.ffn.net.2",
    "head.head": "proj_out",
} | {
    f"blocks.{{}}.{ours}.{inner}": f"blocks.{{}}.{theirs}.{outer}"
    for ours, theirs in ATTENTIONS.items()
    for inner, outer in INSIDE_ATTENTION.items()
}
TABLES = {"blocks.{}.modulation": "blocks.{}.scale_shift_table", "head.modulation": "scale_shift_table"}
TO_DIFFUSERS = TABLES | {f"{m}.{p}": f"{d}.{p}" for m, d in MODULES.items() for p in ("weight", "bias")}
FROM_DIFFUSERS = {theirs: ours for ours, theirs in TO_DIFFUSERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a canonical tensor lies in a file: under `name`, whole, or as one third of the rows of a fused tensor."""

    name: str
    third: int | None = None  # 0 q, 1 k, 2 v


def plan_keys(names: Iterable[str]) -> tuple[dict[str, Origin], str]:
    """Canonical name -> where it lies, and the layout's name: "wan" or "diffusers", "+fused" where q-k-v are.

    Names that belong to no generator are kept as they are, for the strict check to refuse. Raises CheckpointKeys for
    keys of which only some have the prefix `model.`, and for a tensor that is there twice.
    """
    bare = without_prefix({name.replace(WRAPPER, ""): name for name in names})
    layout = "wan"
    if any(".attn1." in name or name.startswith("condition_embedder.") for name in bare):
        layout = "diffusers"
        bare = {_translate(name, FROM_DIFFUSERS) or name: file_name for name, file_name in bare.items()}
    plan: dict[str, Origin] = {}
    for name, file_name in bare.items():
        if name.rpartition(".")[2] == DERIVED:
            continue
        for canonical, origin in _unfused(name, file_name):
            if canonical in plan:
                raise CheckpointKeys(f"{canonical!r} is there twice, as {plan[canonical].name!r} and as {file_name!r}")
            plan[canonical] = origin
    fused = any(origin.third is not None for origin in plan.values())
    return plan, layout + ("+fused" if fused else "")


def canonical_keys(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The same tensors by canonical name, and the layout they came in. Raises CheckpointKeys as `plan_keys` does."""
    plan, layout = plan_keys(tensors)
    return {name: origin_part(tensors[origin.name], origin) for name, origin in plan.items()}, layout


def origin_part(tensor: Tensor, origin: Origin) -> Tensor:
    """The rows of a stored tensor that are the canonical one."""
    if origin.third is None:
        return tensor
    rows = tensor.shape[0] // 3
    return tensor[origin.third * rows : (origin.third + 1) * rows]


def without_prefix(names: Mapping[str, str]) -> dict[str, str]:
    """The same mapping with the prefix `model.` off its keys, if all have it. Raises CheckpointKeys if only some do."""
    prefixed = [name for name in names if name.startswith(PREFIX)]
    if prefixed and len(prefixed) < len(names):
        other = next(name for name in names if not name.startswith(PREFIX))
        raise CheckpointKeys(f"{len(prefixed)} of {len(names)} keys start with {PREFIX!r}, and {few([other])} does not")
    return {name.removeprefix(PREFIX): file_name for name, file_name in names.items()}


def diffusers_name(name: str) -> str:
    """The diffusers name of a canonical tensor name. Raises CheckpointKeys."""
    translated = _translate(name, TO_DIFFUSERS)
    if translated is None:
        raise CheckpointKeys(f"{name!r} is no tensor of a generator")
    return translated


def _translate(name: str, table: Mapping[str, str]) -> str | None:
    block = re.match(r"blocks\.(\d+)\.", name)
    if block is None:
        return table.get(name)
    translated = table.get(name.replace(f"blocks.{block[1]}.", "blocks.{}.", 1))
    return translated.format(block[1]) if translated else None


def _unfused(name: str, file_name: str) -> list[tuple[str, Origin]]:
    module, _, parameter = name.rpartition(".")
    if not module.endswith(f"self_attn.{FUSED}"):
        return [(name, Origin(name=file_name))]
    stem = module.removesuffix(FUSED)
    return [(f"{stem}{letter}.{parameter}", Origin(name=file_name, third=i)) for i, letter in enumerate("qkv")]
