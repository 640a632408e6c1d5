"""Pictures and latents of takes, made once and kept on the training device.

Legend: M takes, T pixel frames, H W pixels, K chunks, C latent channels, h w latent rows and columns, B samples.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genlock.generator.config import TEMPORAL_STRIDE
from genlock.media.vae import Vae, clamp_pixels

from .clips import ClipVae, Memory
from .config import CHUNK, CONTEXT, ModelShape
from .loop import Log, autocast
from .render import render
from .spotlight import spotlight
from .takes import Take, Words, changes, first_pixel, window_pixels

PIECE = 32  # pixel frames coded at a time
FILMED = 24  # takes rendered at a time


def by_offset(takes: Sequence[Take], batch: int, seed: int) -> Iterator[list[Take]]:
    """Groups of at most `batch` takes that begin at the same frame, in a mixed order."""
    offsets: dict[int, list[Take]] = {}
    for take in takes:
        offsets.setdefault(take.offset, []).append(take)
    groups = [held[at : at + batch] for held in offsets.values() for at in range(0, len(held), batch)]
    random.Random(seed).shuffle(groups)
    yield from sorted(groups, key=lambda group: len(group) < batch)  # whole ones first: another size is slow at first


def film(takes: Sequence[Take], frames: int, shape: ModelShape, device: torch.device) -> Tensor:
    """uint8 [M, T, 3, H, W] of takes that share their offset."""
    return render(
        [take.script for take in takes],
        first_frame=takes[0].offset,
        frames=frames,
        height=shape.height,
        width=shape.width,
        device=device,
    )


def film_pool(
    takes: Sequence[Take], frames: int, shape: ModelShape, device: torch.device, *, seconds: float, log: Log
) -> Tensor:
    """uint8 [M', T, 3, H, W]: as many of the takes as can be rendered in the time; at least one group."""
    pool = torch.empty(len(takes), frames, 3, shape.height, shape.width, dtype=torch.uint8, device=device)
    begun, filled = time.monotonic(), 0
    for group in by_offset(takes, FILMED, seed=len(takes)):
        pool[filled : filled + len(group)] = film(group, frames, shape, device)
        filled += len(group)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if time.monotonic() - begun > seconds:
            break
    took = time.monotonic() - begun
    log(event="rendered", takes=filled, frames=filled * frames, took_s=took, fps=filled * frames / took)
    return pool[:filled]


def as_pixels(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1.0


@torch.no_grad()
def round_trip(vae: Vae, frames: Tensor) -> tuple[Tensor, Iterator[Tensor]]:
    """Latents [M, t, C, h, w] of uint8 frames [M, T, 3, H, W], T = 1 + 4k, and, lazily, their decoding in pieces."""
    clips, memory, parts = ClipVae(vae), None, []
    with autocast(frames.device):
        for piece in pieces(frames, PIECE):
            part, memory = clips.encode(as_pixels(piece), memory, keep=True)
            parts.append(part)
    latents = torch.cat(parts, dim=1)
    return latents, decoded(vae, latents)


@torch.no_grad()
def decoded(vae: Vae, latents: Tensor) -> Iterator[Tensor]:
    """Clamped pixels [M, T, 3, H, W] of latents [M, t, C, h, w], piece by piece."""
    clips = ClipVae(vae)
    memory: Memory | None = None
    for piece in pieces(latents, PIECE // TEMPORAL_STRIDE):
        with torch.no_grad(), autocast(latents.device):
            frames, memory = clips.decode(piece, memory, keep=True)
        yield clamp_pixels(frames)


def pieces(frames: Tensor, size: int) -> list[Tensor]:
    """[M, 1 + n, ...] as 1 + the rest of the first piece together, then `size` at a time."""
    return [frames[:, : 1 + size], *(frames[:, 1 + size :].split(size, dim=1) if frames.shape[1] > 1 + size else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Chunks to train on: context [B, 3, C, h, w] (None: they start a stream), truth [B, 3, C, h, w], the number of the
    scene, what its words must say because it is new, as bits [B], and where the subject is [B, 3, h, w]."""

    context: Tensor | None
    truth: Tensor
    lit: Tensor
    scene: Tensor
    must: Tensor


class LatentPool:
    """Latents of takes, and for every chunk the anchor that the stream would have at that point.

    latents [M, 3K, C, h, w]; lit [M, 3K, h, w]; anchors [M, K, C, h, w] (chunks 0 and 1 have none); scene, must [M, K];
    starts [M].
    """

    def __init__(self, vae: Vae, takes: Sequence[Take], words: Words, shape: ModelShape, chunks: int) -> None:
        self.vae, self.words, self.shape, self.chunks = vae, words, shape, chunks
        self.device = words.plain.device
        size = (vae.config.latent_channels, shape.height // 8, shape.width // 8)
        half = torch.float16
        self.latents = torch.empty(len(takes), CHUNK * chunks, *size, dtype=half, device=self.device)
        self.anchors = torch.zeros(len(takes), chunks, *size, dtype=half, device=self.device)
        self.lit = torch.empty(len(takes), CHUNK * chunks, *size[1:], dtype=half, device=self.device)
        self.takes: list[Take] = []

    def fill(self, takes: Sequence[Take], *, batch: int, seconds: float, log: Log) -> None:
        """Films and encodes the takes, as many as fit the time, one that starts the stream among them."""
        begun = time.monotonic()
        for group in by_offset(takes, batch, seed=len(takes)):
            self._add(group)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            if time.monotonic() - begun > seconds and any(take.offset == 0 for take in self.takes):
                break
        took = time.monotonic() - begun
        count = len(self.takes)
        self.latents, self.anchors, self.lit = self.latents[:count], self.anchors[:count], self.lit[:count]
        self._index()
        frames = count * window_pixels(self.chunks)
        log(event="latents", takes=count, frames=frames, took_s=took, fps=frames / took, chunks=len(self.later))

    def _index(self) -> None:
        self.scene = self.words.scenes(self.takes)
        self.must = changes(self.takes, self.device)
        self.starts = torch.tensor([take.offset == 0 for take in self.takes], device=self.device)
        chunk = torch.arange(self.chunks, device=self.device)
        # A window that does not start the stream begins with a latent that no stream would have there.
        usable = (chunk >= 1) & (self.starts[:, None] | (chunk >= 2))
        self.later = usable.nonzero()
        self.first = self.starts.nonzero()[:, 0]
        if not len(self.first) or not len(self.later):
            raise RuntimeError("no time to make latents: give the stage more seconds")

    def save(self, path: Path, key: str) -> None:
        """Keeps the latents beside the checkpoints; `key` says what they were made from."""
        partial = path.with_suffix(".partial")
        torch.save({"key": key, "latents": self.latents, "anchors": self.anchors, "lit": self.lit}, partial)
        os.replace(partial, path)

    def restore(self, path: Path, key: str, takes: Sequence[Take], *, batch: int, log: Log) -> bool:
        """Takes latents that `save` kept of the same takes; False if there are none of that key."""
        if not path.exists():
            return False
        kept = torch.load(path, map_location=self.device, weights_only=True)
        if kept["key"] != key:
            return False
        self.latents, self.anchors, self.lit = kept["latents"], kept["anchors"], kept["lit"]
        ordered = [take for group in by_offset(takes, batch, seed=len(takes)) for take in group]
        self.takes = ordered[: len(self.latents)]
        self._index()
        log(event="latents read", takes=len(self.takes), file=path.name)
        return True

    def _add(self, group: list[Take]) -> None:
        frames = film(group, window_pixels(self.chunks), self.shape, self.device)
        latents, decoding = round_trip(self.vae, frames)
        at = slice(len(self.takes), len(self.takes) + len(group))
        self.latents[at] = latents.half()
        self.lit[at] = spotlight(group, frames.shape[1], self.shape, self.device).half()
        start = 0
        wanted = {anchor_pixel(chunk): chunk for chunk in range(2, self.chunks)}
        for piece in decoding:
            here = [n for n in wanted if start <= n < start + piece.shape[1]]
            if here:
                images = piece[:, [n - start for n in here]].flatten(0, 1)
                with torch.no_grad(), autocast(self.device):
                    anchors = ClipVae(self.vae).encode(images[:, None])[0][:, 0].unflatten(0, (len(group), len(here)))
                self.anchors[at, [wanted[n] for n in here]] = anchors.half()
            start += piece.shape[1]
        self.takes += group

    def draw(self, count: int, *, first: bool, generator: torch.Generator) -> Samples:
        """Random chunks: the first of streams, or later ones with the context they would have had."""
        source = self.first if first else self.later
        rows = source[torch.randint(len(source), (count,), generator=generator, device=self.device)]
        if first:
            return self.chunk(rows, torch.zeros_like(rows), first=True)
        return self.chunk(rows[:, 0], rows[:, 1], first=False)

    def chunk(self, take: Tensor, chunk: Tensor, *, first: bool) -> Samples:
        """Chunk numbers [B] of takes [B]; `first` says whether they are all 0 (or none is)."""
        span = CHUNK * chunk[:, None] + torch.arange(CHUNK, device=self.device)
        truth = self.latents[take[:, None], span].float()
        context = None
        if not first:
            past = self.latents[take[:, None], (span - CHUNK).clamp_min(0)].float()
            has_anchor = (chunk >= 2).view(-1, 1, 1, 1)
            past[:, 0] = torch.where(has_anchor, self.anchors[take, chunk].float(), past[:, 0])
            context = past[:, -CONTEXT:]
        lit = self.lit[take[:, None], span].float()
        return Samples(
            context=context, truth=truth, lit=lit, scene=self.scene[take, chunk], must=self.must[take, chunk]
        )


def anchor_pixel(chunk: int) -> int:
    """The pixel frame of the window that is encoded again for a chunk: the last one of latent 3 * chunk - 3."""
    return first_pixel(chunk) - (1 + TEMPORAL_STRIDE * (CONTEXT - 1))


def latent_statistics(vae: Vae, frames: Tensor, batch: int, say: Callable[..., None]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of the unscaled latents of uint8 frames [M, T, 3, H, W]."""
    total = torch.zeros(3, vae.config.latent_channels, dtype=torch.float64, device=frames.device)
    for group in frames.split(batch):
        latents = vae.unscale(round_trip(vae, group)[0]).double().transpose(0, 2).flatten(1)
        count = torch.full_like(total[0], latents.shape[1])
        total += torch.stack((count, latents.sum(1), latents.square().sum(1)))
    mean = total[1] / total[0]
    std = (total[2] / total[0] - mean.square()).clamp_min(1e-8).sqrt()
    say(event="latent statistics", mean=mean, std=std)
    return mean, std
