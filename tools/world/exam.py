"""What a generator makes of prompts it never saw, held against what the renderer shows: figures and pictures.

Legend: M takes, K chunks, T pixel frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from genlock.generator.model import Generator
from genlock.media.vae import Vae

from . import weights
from .config import STEPS, Preset
from .footage import as_pixels, film
from .loop import Log, table
from .rollout import Rollout
from .scene import WorldSpec
from .sheets import as_bytes, psnr, sheet
from .takes import Words, exam_takes, first_pixel, window_pixels


@torch.no_grad()
def examine(
    generator: Generator,
    text: nn.Module,
    vae: Vae,
    words: Words,
    preset: Preset,
    world: WorldSpec,
    *,
    count: int,
    chunks: int,
    out: Path,
    name: str,
    log: Log,
    steps: Sequence[int] = STEPS,
) -> list[float]:
    """PSNR per chunk on held-out scenes with their plain captions, half of them with a change; writes NAME.png."""
    takes = exam_takes(count, chunks, world, random.Random(3))
    device = generator.device
    truth = as_pixels(film(takes, window_pixels(chunks), preset.shape, device))
    rng = torch.Generator(device).manual_seed(11)
    rollout = Rollout(generator, vae, preset.shape, streams=count, rng=rng, steps=steps)
    scenes = words.scenes(takes)
    made = []
    for chunk in range(chunks):
        embeds = weights.embed(text, words.plain[scenes[:, chunk]])
        made.append(rollout.run(embeds).frames)
    frames = torch.cat(made, dim=1)
    per_frame = psnr(frames, truth)
    per_chunk = [
        float(per_frame[:, first_pixel(k) : first_pixel(k + 1)].mean()) if k else float(per_frame[:, :9].mean())
        for k in range(chunks)
    ]
    log(event="examined", name=name, steps=len(steps), psnr_chunk=per_chunk, psnr=per_frame.mean())
    table(f"{name}: PSNR against the renderer, dB", [("all chunks", float(per_frame.mean())), ("by chunk", per_chunk)])
    pictures(frames, truth, chunks, out / f"{name}.png", [words.said(take.scenes[0]) for take in takes])
    return per_chunk


def pictures(frames: Tensor, truth: Tensor, chunks: int, path: Path, titles: Sequence[str]) -> None:
    """Nine moments of up to six takes: what should be, above what came."""
    total = frames.shape[1]
    middle = first_pixel(chunks // 2)
    wanted = {0, 4, 8, middle - 1, middle + 4, middle + 16, total // 4, 3 * total // 4, total - 1}
    moments = sorted(n for n in wanted if 0 <= n < total)
    rows, names = [], []
    for n in range(min(6, len(frames))):
        rows += [as_bytes(truth[n, moments]), as_bytes(frames[n, moments])]
        names += [f"{titles[n]}: rendered, frames {moments}", "generated"]
    sheet(rows, path, names)
