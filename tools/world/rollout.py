"""Streams rolled out side by side, as the package runs one: its sampler, its cache, its rule of what the past is.

The context of chunk 1 is the first three latents; that of chunk k >= 2 is the anchor (the last pixel frame of latent
3k-3, decoded and encoded again as an image) and the two newest latents. Nothing here has gradients.

Legend: B streams, F = 3 latent frames, C channels, h w latent rows and columns, n steps, T pixel frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genlock.generator.cache import KeyValueCache
from genlock.generator.config import TEMPORAL_STRIDE, frame_tokens
from genlock.generator.model import Generator
from genlock.generator.sampler import sample_chunk
from genlock.generator.schedule import Schedule, clean_estimate
from genlock.generator.window import Held, recompute_policy, span_of_chunk, span_of_recompute
from genlock.media.vae import Vae, clamp_pixels

from .clips import ClipVae, Memory
from .config import CHUNK, CONTEXT, SHIFT, STEPS, ModelShape
from .loop import autocast, work_type

PIXEL_WINDOW = 1 + TEMPORAL_STRIDE * (CONTEXT - 1)  # newest decoded frames; the oldest of them becomes the anchor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """One chunk of every stream. context [B, 3, C, h, w] or None; noised: the n inputs of the steps, [B, F, C, h, w]
    each; latents [B, F, C, h, w]; frames [B, T, 3, H, W] in [-1, 1]."""

    context: Tensor | None
    noised: list[Tensor]
    latents: Tensor
    frames: Tensor


class Rollout:
    """B streams in lockstep. `clear` starts them anew."""

    def __init__(
        self,
        generator: Generator,
        vae: Vae,
        shape: ModelShape,
        *,
        streams: int,
        rng: torch.Generator,
        steps: Sequence[int] = STEPS,
    ) -> None:
        self.generator, self.vae, self.rng = generator, ClipVae(vae), rng
        self.policy = recompute_policy(context_frames=CONTEXT, chunk_frames=CHUNK)
        device, config = generator.device, generator.config
        rows, columns = shape.height // 8, shape.width // 8
        self.size = (streams, CHUNK, config.latent_channels, rows, columns)
        self.cache = KeyValueCache(
            layers=config.num_layers,
            frames=CONTEXT + CHUNK,
            tokens=frame_tokens(rows, columns),
            heads=config.num_heads,
            head_dim=config.head_dim,
            batch=streams,
            dtype=work_type(device),
            device=device,
        )
        times, sigmas = Schedule(shift=SHIFT).resolve(steps, warped=True)
        self.times, self.sigmas = times.to(device), sigmas.to(device)
        self.clear()

    def clear(self) -> None:
        self.chunk = 0
        self.past: Tensor | None = None
        self.anchor: Tensor | None = None
        self.decoder: Memory | None = None

    def context(self) -> Tensor | None:
        if self.past is None or self.anchor is None:
            return self.past
        return torch.cat((self.anchor[:, None], self.past[:, 1:]), dim=1)

    @torch.no_grad()
    def run(self, embeds: Tensor, *, truth: Tensor | None = None, trusted: Tensor | None = None) -> Rolled:
        """The next chunk under embeds [B, L, D]. Where trusted [B], the truth [B, F, C, h, w] becomes the past."""
        noised: list[Tensor] = []
        with autocast(embeds.device):
            cross = self.generator.cross_kv(embeds)
            context, held = self.context(), Held()
            if context is not None:
                span, held = span_of_recompute(self.policy, context.shape[1])
                still = torch.zeros(1, 1, device=embeds.device)
                self.generator(context, still, cross, self.cache, span)
            start = 0 if context is None else CONTEXT
            span, _ = span_of_chunk(self.policy, held, start=start, frames=CHUNK)

            def denoise(z: Tensor, step: int) -> Tensor:
                noised.append(z)
                flow = self.generator(z, self.times[step].view(1, 1), cross, self.cache, span)
                return clean_estimate(z, flow.float(), self.sigmas[step])

            steps = [self._noise() for _ in self.times]
            latents = sample_chunk(denoise, steps[0], self.sigmas.unbind(0), steps[1:])
        kept = latents
        if truth is not None and trusted is not None:
            kept = torch.where(trusted.view(-1, 1, 1, 1, 1), truth, latents)
        frames = self.remember(kept)
        return Rolled(context=context, noised=noised, latents=latents, frames=frames)

    @torch.no_grad()
    def remember(self, latents: Tensor) -> Tensor:
        """Takes a chunk as what the streams have shown; its pixels, clamped."""
        with autocast(latents.device):
            frames, self.decoder = self.vae.decode(latents, self.decoder, keep=True)
            frames = clamp_pixels(frames)
            if self.chunk >= 1:
                self.anchor = self.vae.encode(frames[:, -PIXEL_WINDOW, None])[0][:, 0]
        self.past = latents
        self.chunk += 1
        return frames

    def _noise(self) -> Tensor:
        return torch.randn(self.size, generator=self.rng, device=self.times.device)
