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
from .takes import Take, Words, begin_takes, exam_takes, first_pixel, usual_takes, window_pixels


class Exam:
    """What a generator and its text encoder make of takes under given words; pictures go to `out`."""

    def __init__(
        self,
        generator: Generator,
        text: nn.Module,
        vae: Vae,
        words: Words,
        preset: Preset,
        world: WorldSpec,
        *,
        out: Path,
        log: Log,
        steps: Sequence[int] = STEPS,
    ) -> None:
        self.generator, self.text, self.vae, self.words, self.preset = generator, text, vae, words, preset
        self.world, self.out, self.log, self.steps = world, out, log, steps

    def held_out(self, count: int, chunks: int, name: str) -> None:
        """Held-out scenes with their plain captions, half of them with a change."""
        takes = exam_takes(count, chunks, self.world, random.Random(3))
        self._sit(takes, self.words.plain[self.words.scenes(takes)], name, self._titles(takes))

    def openings(self, name: str) -> None:
        """Every subject's bare name, against what is usual for it."""
        takes = usual_takes(self.world)
        texts = [f"a {take.scenes[0].subject}" for take in takes]
        self._sit(takes, self.words.tokens(texts)[:, None].expand(-1, 2, -1), name, texts)

    def beginnings(self, chunks: int, name: str) -> None:
        """Weathers and places that begin in mid-stream."""
        takes = begin_takes(self.world, chunks)
        titles = [self.words.said(take.scenes[-1]) for take in takes]
        self._sit(takes, self.words.plain[self.words.scenes(takes)], name, titles)

    def _titles(self, takes: Sequence[Take]) -> list[str]:
        return [self.words.said(take.scenes[0]) for take in takes]

    @torch.no_grad()
    def _sit(self, takes: Sequence[Take], tokens: Tensor, name: str, titles: Sequence[str]) -> None:
        """Rolls the takes out under tokens [M, K, L]; PSNR per chunk to the log, NAME.png."""
        chunks, device = tokens.shape[1], self.generator.device
        truth = as_pixels(film(takes, window_pixels(chunks), self.preset.shape, device))
        rng = torch.Generator(device).manual_seed(11)
        rollout = Rollout(self.generator, self.vae, self.preset.shape, streams=len(takes), rng=rng, steps=self.steps)
        made = [rollout.run(weights.embed(self.text, tokens[:, chunk])).frames for chunk in range(chunks)]
        frames = torch.cat(made, dim=1)
        per_frame = psnr(frames, truth)
        per_chunk = [float(per_frame[:, first_pixel(k) : first_pixel(k + 1)].mean()) for k in range(chunks)]
        mean = float(per_frame.mean())
        self.log(event="examined", name=name, steps=len(self.steps), psnr_chunk=per_chunk, psnr=mean)
        table(f"{name}: PSNR against the renderer, dB", [("all chunks", mean), ("by chunk", per_chunk)])
        pictures(frames, truth, chunks, self.out / f"{name}.png", titles)


def pictures(frames: Tensor, truth: Tensor, chunks: int, path: Path, titles: Sequence[str]) -> None:
    """Nine moments of up to eight takes: what should be, above what came."""
    total = frames.shape[1]
    middle = first_pixel(chunks // 2)
    wanted = {0, 4, 8, middle - 1, middle + 4, middle + 16, total // 4, 3 * total // 4, total - 1}
    moments = sorted(n for n in wanted if 0 <= n < total)
    rows, names = [], []
    for n in range(min(8, len(frames))):
        rows += [as_bytes(truth[n, moments]), as_bytes(frames[n, moments])]
        names += [f"{titles[n]}: rendered, frames {moments}", "generated"]
    sheet(rows, path, names)
