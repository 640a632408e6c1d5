"""Low-rank changes of a checkpoint: W + (alpha / r) B A, merged while the weights are read.

Legend: r LoRA rank, in and out the sizes of a linear layer. Names are PEFT's. Only linear layers of blocks can be
changed. Knows no mesh beyond the part of a tensor it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genlock.errors import CheckpointKeys, CheckpointShape
from genlock.generator.formats import WRAPPER, without_prefix
from genlock.generator.tensor_files import Part, TensorFile, few

PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """Names in the file of the two factors of one module: a [r, in] and b [out, r]."""

    a: str
    b: str


def plan_lora(names: Iterable[str]) -> dict[str, LoraPair]:
    """Canonical module -> its two factors. Raises CheckpointKeys for a name that is no factor, a factor without its
    other half, or one that is there twice."""
    found: dict[str, dict[str, str]] = {}
    bare = {name.replace(WRAPPER, "").removeprefix(PREFIX): name for name in names}
    for name, file_name in without_prefix(bare).items():
        factor = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if factor is None:
            raise CheckpointKeys(f"{file_name!r} is no LoRA factor", remedy="give a LoRA file in PEFT naming")
        module, letter = factor.groups()
        if letter in found.setdefault(module, {}):
            raise CheckpointKeys(f"{file_name!r} and {found[module][letter]!r} are the same LoRA factor")
        found[module][letter] = file_name
    for module, pair in found.items():
        if absent := {"A", "B"} - set(pair):
            raise CheckpointKeys(f"the LoRA of {module!r} has no lora_{absent.pop()}")
    return {module: LoraPair(a=pair["A"], b=pair["B"]) for module, pair in found.items()}


class LoraMerge:
    """The changes of one open LoRA file, checked against the shapes of a model (canonical name -> shape).

    alpha: None means r, a scale of 1; the files do not carry it. Raises CheckpointKeys for a module that is no linear
    layer of a block, CheckpointShape for factors that do not multiply to its weight.
    """

    def __init__(
        self, file: TensorFile, shapes: Mapping[str, tuple[int, ...]], *, alpha: float | None, device: str
    ) -> None:
        self.file, self.alpha, self.device = file, alpha, device
        self.pairs = {f"{module}.weight": pair for module, pair in plan_lora(file.shapes).items()}
        where = str(file.path)
        if unknown := [name for name in self.pairs if not name.startswith("blocks.") or len(shapes.get(name, ())) != 2]:
            raise CheckpointKeys(f"LoRA for {few(unknown)}, no linear layer of this model's blocks", where=where)
        for name, pair in self.pairs.items():
            expected, a, b = shapes[name], file.shapes[pair.a], file.shapes[pair.b]
            if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (b[0], a[1]) != expected:
                raise CheckpointShape(
                    f"LoRA of {name!r}: B {list(b)} times A {list(a)} is no {list(expected)}", where=where
                )

    def merged(self, name: str, part: Part | None, stored: Tensor) -> Tensor:
        """`stored`, the part of a weight, changed in float32 if the file changes it.

        The product is made whole and then cut, so that merged weights have the same bits on any mesh.
        """
        if name not in self.pairs:
            return stored
        a, b = (
            self.file.read(factor).to(self.device, torch.float32) for factor in (self.pairs[name].a, self.pairs[name].b)
        )
        scale = 1.0 if self.alpha is None else self.alpha / a.shape[0]
        change = (b @ a) * scale
        return stored.to(self.device, torch.float32) + (change if part is None else part.of(change))
