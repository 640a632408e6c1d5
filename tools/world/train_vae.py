"""Stage 1: the VAE. Single frames first, then clips as long as the state must live, some of them begun warm.

Writes vae.pt (averaged weights and the latent scaling), vae-clips.png (what came out under what went in) and the log.

Legend: B clips, T pixel frames, H W pixels, t latents.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlock.media.vae import Vae
from genlock.media.vae_layers import CausalConv, Downsample, Upsample

from . import ranks, weights
from .clips import ClipVae, Memory
from .config import Preset, VaeStage
from .footage import FILMED, as_pixels, film, film_pool, latent_statistics, round_trip
from .loop import Log, Trainer, autocast, table
from .scene import WorldSpec
from .sheets import as_bytes, psnr, sheet
from .takes import draw_takes, exam_takes, window_pixels

EDGE_WEIGHT = 0.5
CHANGE_WEIGHT = 0.25
COARSE_WEIGHT = 0.25
SQUARE_WEIGHT = 4.0


def run(
    preset: Preset,
    world: WorldSpec,
    out: Path,
    *,
    seconds: float,
    device: torch.device,
    compile_: bool,  # noqa: ARG001 - every stage's arguments; its kernels are ready made
    log: Log,
) -> None:
    stage, shape = preset.vae, preset.shape
    torch.manual_seed(preset.seed)
    vae = begin_as_picture_coder(Vae(weights.vae_config(shape))).to(device).train()
    trainer = Trainer(
        {"vae": vae},
        path=out / "vae.ckpt",
        log=log,
        seconds=seconds,
        tail=stage.tail_seconds,
        peak_lr=stage.peak_lr,
        weight_decay=1e-3,
        planned=stage.planned_seconds,
    )
    knows_pictures = trainer.resumed
    if not trainer.resumed and (out / weights.VAE).exists():
        weights.fill(vae, weights.read(out / weights.VAE)["modules"]["vae"])
        trainer.ema.capture()
        log(event="begun from", file=weights.VAE)
        knows_pictures = True
    rng = random.Random(ranks.seed(preset.seed + trainer.steps))
    takes = draw_takes(stage.pool_takes, stage.pool_chunks, world, rng, together=FILMED)
    seconds_left = min(stage.pool_seconds, 0.3 * seconds)
    pool = film_pool(takes, window_pixels(stage.pool_chunks), shape, device, seconds=seconds_left, log=log)
    generator = torch.Generator(device).manual_seed(ranks.seed(preset.seed + trainer.steps))
    lesson = Lesson(vae, pool, stage, generator)
    trainer.begin()
    shown = time.monotonic()
    while not trainer.over:
        images = trainer.progress < stage.image_share and not knows_pictures
        kind = "images" if images else "clips"
        warm = not images and rng.random() < stage.warm_share
        trainer.step(lesson.loss(images=images, warm=warm), kind=kind)
        if ranks.leads() and stage.show_seconds and time.monotonic() - shown > stage.show_seconds:
            write_so_far(out, trainer, vae, pool, stage, log)
            shown = time.monotonic()
    trainer.save()
    if not ranks.leads():
        return
    write_so_far(out, trainer, vae, pool, stage, log)
    del pool
    examine(out, preset, world, device, log, trainer.budget.trained)


def write_so_far(out: Path, trainer: Trainer, vae: Vae, pool: Tensor, stage: VaeStage, log: Log) -> None:
    """The averaged weights and the latent scaling they need, so that the next stage can begin on them."""
    with trainer.ema.averaged():
        vae.eval()
        mean, std = latent_statistics(vae, pool[: 16 * stage.clip_batch], stage.clip_batch, log)
        weights.write_vae(out / weights.VAE, vae, mean, std)
    vae.train()


def begin_as_picture_coder(vae: Vae) -> Vae:
    """Weights under which every frame is coded alone: later taps see nothing yet, doubling repeats, halving skips.

    What is learned on single frames then holds for clips from their first step on.
    """
    for module in vae.modules():
        if isinstance(module, CausalConv):
            nn.init.kaiming_uniform_(module.weight[:, :, -1], nonlinearity="linear")
            nn.init.zeros_(module.weight[:, :, :-1])
        elif isinstance(module, Upsample | Downsample) and module.time_conv is not None:
            weight = module.time_conv.weight
            nn.init.zeros_(weight)
            copies = weight.shape[0] // weight.shape[1]
            eye = torch.eye(weight.shape[1]).repeat(copies, 1)
            with torch.no_grad():
                weight[:, :, -1, 0, 0] = eye
    return vae


class Lesson:
    """Draws clips from a pool of uint8 frames [M, T, 3, H, W] and says how badly the VAE repeats them."""

    def __init__(self, vae: Vae, pool: Tensor, stage: VaeStage, generator: torch.Generator) -> None:
        self.vae, self.pool, self.stage, self.generator = ClipVae(vae), pool, stage, generator

    def clips(self, count: int, frames: int) -> Tensor:
        """[B, T, 3, H, W] in [-1, 1], from anywhere."""
        device = self.pool.device
        take = torch.randint(self.pool.shape[0], (count, 1), generator=self.generator, device=device)
        last = self.pool.shape[1] - frames
        start = torch.randint(last + 1, (count, 1), generator=self.generator, device=device)
        return as_pixels(self.pool[take, start + torch.arange(frames, device=device)])

    def loss(self, *, images: bool, warm: bool) -> Tensor:
        stage = self.stage
        if images:
            return self.repeat(self.clips(stage.image_batch, 1), None, None)
        if not warm:
            return self.repeat(self.clips(stage.clip_batch, stage.clip_frames), None, None)
        clips = self.clips(stage.clip_batch, stage.warm_frames + stage.clip_frames)
        before, after = clips.split([stage.warm_frames + 1, stage.clip_frames - 1], dim=1)
        with torch.no_grad(), autocast(clips.device):
            latents, encoder = self.vae.encode(before, keep=True)
            _, decoder = self.vae.decode(latents, keep=True)
        return self.repeat(after, encoder, decoder)

    def repeat(self, frames: Tensor, encoder: Memory | None, decoder: Memory | None) -> Tensor:
        """Loss of coding the frames once, going on from what the streams remember."""
        with autocast(frames.device):
            mean, log_variance, _ = self.vae.moments(frames, encoder)
            log_variance = log_variance.clamp(-20.0, 4.0)
            noise = torch.randn(mean.shape, generator=self.generator, device=mean.device)
            latents = mean + noise * (0.5 * log_variance).exp()
            back, _ = self.vae.decode(self.vae.vae.scale(latents), decoder)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return difference(back, frames) + self.stage.kl * divergence


def difference(back: Tensor, frames: Tensor) -> Tensor:
    """How unlike two stacks [B, T, 3, H, W] are: levels, edges, what moves, and both at a quarter of the size."""
    error = back - frames
    loss = error.abs().mean() + SQUARE_WEIGHT * error.square().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    loss = loss + EDGE_WEIGHT * edges
    coarse = F.avg_pool2d(error.flatten(0, 1), 4)
    loss = loss + COARSE_WEIGHT * coarse.abs().mean()
    if error.shape[1] > 1:
        loss = loss + CHANGE_WEIGHT * error.diff(dim=1).abs().mean()
    return loss


@torch.no_grad()
def examine(out: Path, preset: Preset, world: WorldSpec, device: torch.device, log: Log, trained: float) -> None:
    """PSNR per frame of held-out scenes as the saved file codes them, and a sheet of some."""
    stage, shape = preset.vae, preset.shape
    vae = weights.read_vae(out / weights.VAE, shape, device)
    takes = exam_takes(min(32, 4 * stage.clip_batch), stage.pool_chunks, world, random.Random(1))
    frames = film(takes, window_pixels(stage.pool_chunks), shape, device)
    _, decoding = round_trip(vae, frames)
    back = torch.cat(list(decoding), dim=1)
    per_frame = psnr(back, as_pixels(frames)).mean(0)
    rows, titles = picture_rows(frames, back)
    sheet(rows, out / "vae-clips.png", titles)
    at = [n for n in (0, 1, 4, 9, 10, 16, 32, 64, 96, 128) if n < len(per_frame)]
    clip = per_frame[: stage.clip_frames]
    log(event="examined", psnr_clip=clip.mean(), psnr_all=per_frame.mean(), frames=at, psnr=per_frame[at].tolist())
    rows = [("seconds trained", trained), ("PSNR of a clip, dB", float(clip.mean()))]
    rows += [(f"PSNR of frame {n}, dB", float(per_frame[n])) for n in at]
    table("VAE on held-out scenes", rows)


def picture_rows(frames: Tensor, back: Tensor) -> tuple[list[Tensor], list[str]]:
    at = [n for n in (0, 3, 8, 16, 32, 64, 100, 128) if n < frames.shape[1]]
    rows, titles = [], []
    for n in range(min(6, len(frames))):
        rows += [frames[n, at], as_bytes(back[n, at])]
        titles += [f"rendered, frames {at}", "through the VAE"]
    return rows, titles
