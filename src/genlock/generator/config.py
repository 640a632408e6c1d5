"""The shape of a generator: what a checkpoint must fit and a preset must say.

No defaults for what differs between models: a preset says everything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from genlock.errors import CheckpointConfig, MeshRefused, SizeRefused

SPATIAL_STRIDE = 8  # pixels per latent row or column (VAE)
TEMPORAL_STRIDE = 4  # pixel frames per latent frame after the first (VAE)
PIXEL_MULTIPLE = 16  # SPATIAL_STRIDE * patch of 2: pixel sizes the generator can take


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorConfig:
    """Sizes of a causal Wan DiT.

    dim: hidden size D. ffn_dim: inner size of the feed-forward. num_heads: H. num_layers: blocks.
    freq_dim: width of the sinusoid of the time step. text_dim: width of a text embedding row. text_len: rows after
    padding. latent_channels: C, in and out. eps: of every norm. max_rope_positions: rows of the rotary table.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    freq_dim: int
    text_dim: int
    text_len: int
    latent_channels: int = 16
    eps: float = 1e-6
    max_rope_positions: int = 1024

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise CheckpointConfig(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.head_dim % 2 or self.rope_split[0] <= 0:
            raise CheckpointConfig(f"a head size of {self.head_dim} cannot be split into three rotary axes")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def rope_split(self) -> tuple[int, int, int]:
        """Widths of the time, height and width parts of a head vector (128 -> 44, 42, 42)."""
        side = 2 * (self.head_dim // 6)
        return self.head_dim - 2 * side, side, side

    def check_mesh(self, mesh_size: int) -> None:
        """Raises MeshRefused unless heads and feed-forward columns can be split over `mesh_size` ranks."""
        if mesh_size < 1 or self.num_heads % mesh_size or self.ffn_dim % mesh_size:
            fit = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0 and self.ffn_dim % n == 0]
            raise MeshRefused(
                f"{self.num_heads} heads, {self.ffn_dim} feed-forward columns: no split over {mesh_size} ranks",
                remedy=f"use {', '.join(map(str, fit))}",
            )

    def to_dict(self) -> dict[str, int | float]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, int | float], *, where: str = "config") -> GeneratorConfig:
        """Strict: raises CheckpointConfig naming any unknown or missing key."""
        known = {f.name for f in fields(cls)}
        needed = known - {"latent_channels", "eps", "max_rope_positions"}
        if unknown := sorted(set(values) - known):
            raise CheckpointConfig(f"unknown key {unknown[0]!r}", where=where)
        if missing := sorted(needed - set(values)):
            raise CheckpointConfig(f"missing key {missing[0]!r}", where=where)
        return cls(**values)  # type: ignore[arg-type]


def latent_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a latent frame for a pixel size. Raises SizeRefused unless both are multiples of 16."""
    if height < PIXEL_MULTIPLE or width < PIXEL_MULTIPLE or height % PIXEL_MULTIPLE or width % PIXEL_MULTIPLE:
        raise SizeRefused(f"{width}x{height} pixels: both sides must be positive multiples of {PIXEL_MULTIPLE}")
    return height // SPATIAL_STRIDE, width // SPATIAL_STRIDE


def frame_tokens(latent_height: int, latent_width: int) -> int:
    """Tokens S of one latent frame: patches of 1 x 2 x 2."""
    return (latent_height // 2) * (latent_width // 2)


def pixel_frames(latent_frames: int, *, first: bool) -> int:
    """Pixel frames a chunk decodes to; the first latent frame of a stream stands for one."""
    return TEMPORAL_STRIDE * latent_frames - (TEMPORAL_STRIDE - 1 if first else 0)
