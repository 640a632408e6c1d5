"""The causal Wan DiT: one generator call.

Legend: B batch, F latent frames of the call, C latent channels, H_lat W_lat latent rows and columns, h w token rows and
columns (half of those), S = h w tokens of a frame, N = F S, D hidden size, H heads of this rank, d head size, M visible
tokens, L text rows. Parameter names are the canonical checkpoint keys (Wan 2.1's).

Written for sharding: each rank holds H heads and its feed-forward columns, and meets the others in five sums a block
(`TensorParallel`). No index of a tensor is read back from a device, and no slice depends on data.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlock.generator.cache import KeyValueStore, LayerStore
from genlock.generator.census import Census
from genlock.generator.config import GeneratorConfig
from genlock.generator.parallel import SOLO, TEXT, Sum, TensorParallel
from genlock.generator.rope import RopeTable, rotate
from genlock.generator.window import Span

Rotation = tuple[Tensor, Tensor]
CrossKV = list[tuple[Tensor, Tensor]]  # of every layer: [B, text_len, H, d] each

PAD_MULTIPLE = 128  # rows the reference's biased kernel pads to (pad_sink only)


class RmsGain(nn.Module):
    """The gain of a norm over the whole hidden vector, before it is split in heads (sharded like the heads)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, z: Tensor, mean_square: Tensor, eps: float) -> Tensor:
        return (z.float() * torch.rsqrt(mean_square + eps)).to(z.dtype) * self.weight


def square_sum(z: Tensor) -> Tensor:
    """Float32 [B, N, 1]: this rank's part of the sum of squares of each hidden vector."""
    return z.float().square().sum(-1, keepdim=True)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, scale 1/sqrt(d). q: [B, N, H, d], k v: [B, M, H, d] -> [B, N, H d]."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Projections and query/key norms shared by self- and cross-attention."""

    def __init__(self, config: GeneratorConfig, parallel: TensorParallel, site: str) -> None:
        super().__init__()
        local = config.dim // parallel.size
        self.head_dim, self.dim, self.eps = config.head_dim, config.dim, config.eps
        self.parallel = parallel
        self.norm_site, self.norm_q_site, self.norm_k_site, self.o_site = (
            f"{site}.{name}"
            for name in ("norm", "norm_q", "norm_k", "o")  # made once: no graph is about a text
        )
        self.q = nn.Linear(config.dim, local)
        self.k = nn.Linear(config.dim, local)
        self.v = nn.Linear(config.dim, local)
        self.o = nn.Linear(local, config.dim)
        self.norm_q = RmsGain(local)
        self.norm_k = RmsGain(local)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def output(self, attended: Tensor) -> Tensor:
        partial = F.linear(attended, self.o.weight)
        return self.parallel.sum_partial(partial, self.o_site) + self.o.bias


class SelfAttention(Attention):
    def forward(
        self,
        x: Tensor,
        held: LayerStore,
        span: Span,
        query_rotation: Rotation,
        key_rotation: Rotation | None,
        mask: Tensor | None,
    ) -> Tensor:
        """x: [B, N, D]. key_rotation: of all visible slots where keys are cached unrotated, else None."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        squares = torch.stack((square_sum(q), square_sum(k)))  # one sum over ranks for both
        q_square, k_square = self.parallel.sum_squares(squares, self.norm_site).div(self.dim).unbind(0)
        q = rotate(self.heads(self.norm_q(q, q_square, self.eps)), query_rotation)
        k = self.heads(self.norm_k(k, k_square, self.eps))
        if key_rotation is None:
            keys, values = held.put(rotate(k, query_rotation), self.heads(v), span)
        else:
            keys, values = held.put(k, self.heads(v), span)
            keys = rotate(keys, key_rotation)
        if mask is not None and mask.shape[-1] == keys.shape[1] + 1:  # the virtual key of pad_sink
            keys, values = F.pad(keys, (0, 0, 0, 0, 0, 1)), F.pad(values, (0, 0, 0, 0, 0, 1))
        return self.output(attend(q, keys, values, mask))


class CrossAttention(Attention):
    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """context: projected text [B, L, D] -> k, v [B, L, H, d]. Depends on the prompt alone."""
        k = self.k(context)
        mean_square = self.parallel.sum_squares(square_sum(k), self.norm_k_site) / self.dim
        return self.heads(self.norm_k(k, mean_square, self.eps)), self.heads(self.v(context))

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        q = self.q(x)
        mean_square = self.parallel.sum_squares(square_sum(q), self.norm_q_site) / self.dim
        return self.output(attend(self.heads(self.norm_q(q, mean_square, self.eps)), *keys_values))


class Block(nn.Module):
    def __init__(self, config: GeneratorConfig, parallel: TensorParallel, index: int) -> None:
        super().__init__()
        self.dim, self.eps, self.parallel, self.ffn_site = config.dim, config.eps, parallel, f"blocks.{index}.ffn.2"
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_attn = SelfAttention(config, parallel, f"blocks.{index}.self_attn")
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config, parallel, f"blocks.{index}.cross_attn")
        local_ffn = config.ffn_dim // parallel.size
        self.ffn = nn.ModuleDict({"0": nn.Linear(config.dim, local_ffn), "2": nn.Linear(local_ffn, config.dim)})

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Layer norm without parameters, then shift and scale of each frame. x: [B, F, S, D] -> [B, N, D]."""
        return (F.layer_norm(x, (self.dim,), eps=self.eps) * (1 + scale) + shift).flatten(1, 2)

    def feed_forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.ffn["0"](x), approximate="tanh")
        last = cast("nn.Linear", self.ffn["2"])
        return self.parallel.sum_partial(F.linear(inner, last.weight), self.ffn_site) + last.bias

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        cross: tuple[Tensor, Tensor],
        held: LayerStore,
        span: Span,
        query_rotation: Rotation,
        key_rotation: Rotation | None,
        mask: Tensor | None,
    ) -> Tensor:
        """x: [B, F, S, D]; time: [B, F or 1, 6, D], one row a frame, or one for all."""
        modulation = (self.modulation + time).unsqueeze(3).unbind(2)  # six of [B, F or 1, 1, D]
        shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = modulation
        y = self.self_attn(self.modulated(x, shift_attn, scale_attn), held, span, query_rotation, key_rotation, mask)
        x = x + y.view_as(x) * gate_attn
        x = x + self.cross_attn(self.norm3(x).flatten(1, 2), cross).view_as(x)
        y = self.feed_forward(self.modulated(x, shift_ffn, scale_ffn))
        return x + y.view_as(x) * gate_ffn


class Head(nn.Module):
    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.dim, self.eps, self.channels = config.dim, config.eps, config.latent_channels
        self.head = nn.Linear(config.dim, 4 * config.latent_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, x: Tensor, time: Tensor, grid: tuple[int, int]) -> Tensor:
        """x: [B, F, S, D]; time: [B, F or 1, D], before its projection -> flow [B, F, C, H_lat, W_lat]."""
        shift, scale = (self.modulation + time.unsqueeze(2)).unsqueeze(3).unbind(2)
        out = self.head(F.layer_norm(x, (self.dim,), eps=self.eps) * (1 + scale) + shift)
        height, width = grid
        patches = out.unflatten(-1, (2, 2, self.channels)).unflatten(2, (height, width))  # B F h w py px C
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


class PatchEmbedding(nn.Module):
    """A convolution with kernel = stride = (1, 2, 2), computed as one matrix product (channel slowest)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.dim, config.latent_channels, 1, 2, 2))
        self.bias = nn.Parameter(torch.zeros(config.dim))
        nn.init.xavier_uniform_(self.weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, F, C, H_lat, W_lat] -> tokens [B, F, S, D], row by row."""
        patches = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2))  # B F C h py w px
        tokens = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        return F.linear(tokens, self.weight.flatten(1), self.bias)


def time_sinusoid(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t times 10000^(-i / half). t: [...] -> float64 [..., width]."""
    half = width // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angles = t.double().unsqueeze(-1) * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def attention_mask(span: Span, tokens: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """What a call's queries may see, or how much of it; None where every visible key counts alike.

    Block-causal (recompute): bool [N, M]. Biased: [1, M], log(bias) added to past frames except the first and the last
    `bias_spares`; with pad_sink one more column, the P zero keys of the reference folded into one of score log(P).
    """
    if span.causal_block:
        block = torch.arange(span.frames, device=device).repeat_interleave(tokens) // span.causal_block
        return block[:, None] >= block[None, :]
    if span.bias == 1.0:
        return None
    queries, keys = span.frames * tokens, span.visible * tokens
    padded = PAD_MULTIPLE * math.ceil(max(queries, keys) / PAD_MULTIPLE) - keys if span.pad_sink else 0
    mask = torch.zeros(1, keys + bool(padded), device=device, dtype=dtype)
    mask[:, tokens : max(tokens, keys - span.bias_spares * tokens)] = math.log(span.bias)
    if padded:
        mask[:, keys:] = math.log(padded)
    return mask


@lru_cache(maxsize=64)  # a stream has a handful of passes
def sums_of_pass(config: GeneratorConfig, call: str, frames: int, tokens: int) -> tuple[Sum, ...]:
    """The sums over ranks of one pass, in order: what the blocks above do. frames: of a generator call; tokens: S."""
    rows = frames * tokens
    sums: list[Sum] = []
    for block in (f"blocks.{index}" for index in range(config.num_layers)):
        if call == TEXT:
            sums.append(Sum("sum_squares", f"{block}.cross_attn.norm_k", config.text_len))
            continue
        sums += (
            Sum("sum_squares", f"{block}.self_attn.norm", 2 * rows),
            Sum("sum_partial", f"{block}.self_attn.o", rows * config.dim),
            Sum("sum_squares", f"{block}.cross_attn.norm_q", rows),
            Sum("sum_partial", f"{block}.cross_attn.o", rows * config.dim),
            Sum("sum_partial", f"{block}.ffn.2", rows * config.dim),
        )
    return tuple(sums)


class Generator(nn.Module):
    """The DiT of one rank. `parallel` says which shard it is; parameters are created at that shard's sizes."""

    def __init__(self, config: GeneratorConfig, parallel: TensorParallel = SOLO) -> None:
        super().__init__()
        config.check_mesh(parallel.size)
        self.config, self.parallel = config, parallel
        self.census: Census | None = None  # of compiled blocks
        self.rope = RopeTable(config)
        self.patch_embedding = PatchEmbedding(config)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        blocks = nn.ModuleList(Block(config, parallel, index) for index in range(config.num_layers))
        self.blocks = cast("list[Block]", blocks)
        self.head = Head(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.patch_embedding.weight.device

    def cross_kv(self, embeds: Tensor) -> CrossKV:
        """Keys and values of a prompt for every layer. embeds: [B, L <= text_len, text_dim].

        Rows up to text_len are zero before the projection, constant after it, and attended to like the others.
        """
        padded = F.pad(embeds.to(self.dtype), (0, 0, 0, self.config.text_len - embeds.shape[1]))
        context = self.text_embedding(padded)
        return [block.cross_attn.keys_values(context) for block in self.blocks]

    def time_vectors(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t: [B, F or 1] -> (for the head [B, F or 1, D], for the blocks [B, F or 1, 6, D])."""
        time = self.time_embedding(time_sinusoid(t, self.config.freq_dim).to(self.dtype))
        return time, self.time_projection(time).unflatten(-1, (6, -1))

    def forward(self, x: Tensor, t: Tensor, cross: CrossKV, store: KeyValueStore, span: Span) -> Tensor:
        """One generator call.

        x: latents [B, F, C, H_lat, W_lat] in the model's dtype. t: time steps [B, F], or [B, 1] for all frames.
        cross: from `cross_kv`. Returns the flow, same shape and dtype as x.
        """
        height, width = x.shape[3] // 2, x.shape[4] // 2
        query_rotation = self.rope.rotation(span.rope_start, span.frames, height, width, x.device)
        key_rotation = self.rope.rotation(0, span.visible, height, width, x.device) if span.relative else None
        mask = attention_mask(span, height * width, x.device, x.dtype)
        time, block_time = self.time_vectors(t)
        tokens = self.patch_embedding(x)
        for index, (block, text) in enumerate(zip(self.blocks, cross, strict=True)):
            tokens = block(tokens, block_time, text, store.layer(index), span, query_rotation, key_rotation, mask)
        return self.head(tokens, time, (height, width))
