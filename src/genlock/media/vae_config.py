"""The shape of a video VAE: what its checkpoint must fit, and the numbers of the published ones.

Knows no tensors. Source of the constants: Wan-Video/Wan2.1@9737cba:wan/modules/vae.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from genlock.errors import CheckpointConfig
from genlock.generator.config import SPATIAL_STRIDE, TEMPORAL_STRIDE

WAN_MEAN: tuple[float, ...] = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_STD: tuple[float, ...] = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeConfig:
    """Sizes of a video VAE.

    width: channels at full resolution, multiplied by mult level by level from the finest. blocks: residual blocks of an
    encoder level; a decoder level has one more. mean, std: of every latent channel, taken out of and put back into the
    latents. temporal_downsample: which of the spatial reductions, from the finest, also halve time.
    Raises CheckpointConfig for numbers that make no VAE of stride 8 x 8 x 4.
    """

    encoder_width: int
    decoder_width: int
    encoder_mult: tuple[int, ...]
    decoder_mult: tuple[int, ...]
    encoder_blocks: int
    decoder_blocks: int
    latent_channels: int = 16
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temporal_downsample: tuple[bool, ...] = (False, True, True)

    def __post_init__(self) -> None:
        reductions = len(self.temporal_downsample)
        if 2**reductions != SPATIAL_STRIDE or 2 ** sum(self.temporal_downsample) != TEMPORAL_STRIDE:
            raise CheckpointConfig(
                f"temporal_downsample {self.temporal_downsample} is not a stride of {SPATIAL_STRIDE} in space"
                f" and {TEMPORAL_STRIDE} in time"
            )
        for name in ("encoder_mult", "decoder_mult"):
            if len(getattr(self, name)) != reductions + 1:
                raise CheckpointConfig(f"{name} {getattr(self, name)} does not have {reductions + 1} levels")
        for name in ("encoder_width", "decoder_width", "encoder_blocks", "decoder_blocks", "latent_channels"):
            if getattr(self, name) < 1:
                raise CheckpointConfig(f"{name} is {getattr(self, name)}, below 1")
        if min(self.encoder_mult + self.decoder_mult) < 1:
            raise CheckpointConfig("a multiplier is below 1")
        if odd := [m for m in self.decoder_mult[1:] if self.decoder_width * m % 2]:
            raise CheckpointConfig(f"{self.decoder_width} x {odd[0]} decoder channels cannot be halved")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.latent_channels:
                raise CheckpointConfig(
                    f"{name} has {len(getattr(self, name))} numbers for {self.latent_channels} latent channels"
                )
        if min(self.std) <= 0:
            raise CheckpointConfig("std has a number that is not positive")

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, as JSON keeps them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config") -> VaeConfig:
        """Strict: raises CheckpointConfig naming any key that is unknown, missing or of another type."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise CheckpointConfig(f"unknown key {unknown[0]!r}", where=where)
        if missing := sorted(known - {"latent_channels", "temporal_downsample"} - set(values)):
            raise CheckpointConfig(f"missing key {missing[0]!r}", where=where)
        for name, value in values.items():
            if not _is_kind(name, value):
                raise CheckpointConfig(f"{name} is {value!r}, not {_KINDS.get(name, 'a whole number')}", where=where)
        numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**numbers)


_KINDS = {
    "encoder_mult": "whole numbers",
    "decoder_mult": "whole numbers",
    "temporal_downsample": "truth values",
    "mean": "finite numbers",
    "std": "finite numbers",
}


def _is_kind(name: str, value: object) -> bool:
    """Whether a value read from a file has the type that its field promises."""
    kind = _KINDS.get(name)
    if kind is None:
        return type(value) is int
    if not isinstance(value, list | tuple):
        return False
    if kind == "finite numbers":
        return all(type(v) in (int, float) and math.isfinite(v) for v in value)
    return all(type(v) is (bool if kind == "truth values" else int) for v in value)


def _wan(width: int) -> VaeConfig:
    return VaeConfig(
        encoder_width=width,
        decoder_width=width,
        encoder_mult=(1, 2, 4, 4),
        decoder_mult=(1, 2, 4, 4),
        encoder_blocks=2,
        decoder_blocks=2,
        mean=WAN_MEAN,
        std=WAN_STD,
    )


WAN_VAE = _wan(96)
LIGHT_VAE = _wan(24)  # lightx2v's pruned model: the same graph at a quarter of the width
