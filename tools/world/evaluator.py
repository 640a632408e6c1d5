"""The stage before all others: the evaluator, taught on fresh pictures of random scenes, every combination among them.

The training of the VAE uses its features and the bars are measured with it. It needs nothing; run again when vae.pt is
there, it goes on and half of what it sees has been through the VAE. Writes evaluator.pt and the log.

Legend: P clips kept, B clips, T pixel frames, H W pixels.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from genlock.media.vae import Vae

from . import weights
from .config import EvaluatorStage, ModelShape, Preset
from .footage import as_pixels, round_trip
from .judge import FILE, Evaluator, classes, load, new, right, smaller, write
from .loop import Log, Trainer, synchronised, table
from .motion import WORLD_CYCLE
from .render import render
from .scene import LOOK_FADE, Factors, Script, WorldSpec
from .sheets import as_bytes
from .takes import CHUNK_PIXELS, FACTOR_NAMES, changed_scene

__all__ = ["FILE", "Evaluator", "load", "run"]

EARLY = 72  # most windows begin before this frame: the first seconds are what is judged
LATE_SHARE = 0.25  # the others begin anywhere in the world's cycle
CHANGED_SHARE = 0.4  # windows whose scene replaced another one
SINCE_CHANGE = 60  # at most so many frames ago
SMOOTHING = 0.03


def run(
    preset: Preset,
    world: WorldSpec,
    out: Path,
    *,
    seconds: float,
    device: torch.device,
    compile_: bool,  # noqa: ARG001 - every stage's arguments; compiling takes longer than it saves here
    log: Log,
) -> None:
    stage, shape = preset.evaluator, preset.shape
    torch.manual_seed(preset.seed)
    net = new(stage, world).to(device).train()
    trainer = Trainer(
        {"evaluator": net},
        path=out / "evaluator.ckpt",
        log=log,
        seconds=seconds,
        tail=stage.tail_seconds,
        peak_lr=stage.peak_lr,
        weight_decay=0.02,
        planned=stage.planned_seconds,
    )
    if not trainer.resumed and (out / FILE).exists():
        weights.fill(net, weights.read(out / FILE)["modules"]["evaluator"])
        trainer.ema.capture()
        log(event="begun from", file=FILE)
    vae = weights.read_vae(out / weights.VAE, shape, device) if (out / weights.VAE).exists() else None
    rng = random.Random(preset.seed + trainer.steps)
    reel = Reel(stage, shape, world, vae, device, rng)
    reel.fill(min(stage.pool_seconds, 0.25 * seconds), log)
    generator = torch.Generator(device).manual_seed(preset.seed + trainer.steps)
    half = rehearsed(net, reel, stage, generator, log)
    trainer.begin()
    while not trainer.budget.over():
        clips, target = reel.draw(stage.batch, generator)
        loss, correct = lesson(net, augmented(clips, generator), target, half=half)
        trainer.step(loss, right=correct)
        if trainer.steps % stage.refresh_every == 0:
            reel.grow()
    trainer.save()
    with trainer.ema.averaged():
        write(out / FILE, net)
    examine(load(out / FILE, device), preset, world, vae, device, log, trainer.budget.trained)


def lesson(net: Evaluator, clips: Tensor, target: Tensor, *, half: bool) -> tuple[Tensor, Tensor]:
    """Loss over all factors, and the share of each factor that was named rightly. half: products in bfloat16."""
    with torch.autocast(clips.device.type, dtype=torch.bfloat16, enabled=half):
        logits = net.named(clips)
    losses = [
        F.cross_entropy(logits[name], target[:, number], label_smoothing=SMOOTHING)
        for number, name in enumerate(FACTOR_NAMES)
    ]
    return torch.stack(losses).sum(), right(logits, target).float().mean(0).detach()


def rehearsed(net: Evaluator, reel: Reel, stage: EvaluatorStage, generator: torch.Generator, log: Log) -> bool:
    """Whether products can be in bfloat16: on a GPU, if all gradients of a step that is not taken are finite.

    Raises FloatingPointError naming the weights whose gradient is not finite in float32 either.
    """
    fault = ""
    for half in [True, False] if reel.device.type == "cuda" else [False]:
        clips, target = reel.draw(stage.batch, generator)
        loss, _ = lesson(net, augmented(clips, generator), target, half=half)
        loss.backward()
        bad = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]
        net.zero_grad(set_to_none=True)
        if not bad:
            return half
        fault = f"loss {float(loss.detach())}: no finite gradient of {', '.join(bad[:5])} ({len(bad)} in all)"
        log(event="failed", way="bfloat16" if half else "float32", why=fault)
    raise FloatingPointError(fault)


def shot(first: int, scene: Factors, combos: Sequence[Factors], allowed: set[Factors], rng: random.Random) -> Script:
    """A script whose scene at frame `first` is this one: alone, or in place of another that has wholly gone."""
    if first < 2 * LOOK_FADE or rng.random() >= CHANGED_SHARE or len(combos) < 2:
        return Script(scenes=((0, scene),))
    at = rng.randint(max(LOOK_FADE, first - SINCE_CHANGE), first - LOOK_FADE)
    return Script(scenes=((0, changed_scene(scene, combos, allowed, rng)), (at, scene)))


class Reel:
    """A ring of P short clips, uint8 [P, T, 3, H, W] on the training device, and what they show, int64 [P, factors].

    H and W are what the evaluator looks at: the picture's, made `shrink` times smaller. Where there is a VAE, every
    second group of clips has been through it.
    """

    def __init__(
        self,
        stage: EvaluatorStage,
        shape: ModelShape,
        world: WorldSpec,
        vae: Vae | None,
        device: torch.device,
        rng: random.Random,
    ) -> None:
        self.stage, self.shape, self.vae, self.device, self.rng = stage, shape, vae, device, rng
        self.values = {name: getattr(world, f"{name}s") for name in FACTOR_NAMES}
        self.combos = world.combinations()
        self.allowed = set(self.combos)
        size = (stage.pool_clips, stage.clip_frames, 3, shape.height // stage.shrink, shape.width // stage.shrink)
        self.frames = torch.empty(size, dtype=torch.uint8, device=device)
        self.shown = torch.zeros(stage.pool_clips, len(FACTOR_NAMES), dtype=torch.int64, device=device)
        self.filled = self.next = self.groups = 0

    def grow(self) -> None:
        """Films one more group, in place of the oldest."""
        group = min(self.stage.group, self.stage.pool_clips)
        late = self.rng.random() < LATE_SHARE
        first = self.rng.randrange(WORLD_CYCLE if late else EARLY)
        scenes = [self.rng.choice(self.combos) for _ in range(group)]
        scripts = [shot(first, scene, self.combos, self.allowed, self.rng) for scene in scenes]
        clips = film_window(scripts, first, self.stage.clip_frames, self.shape, self.device)
        if self.vae is not None and self.groups % 2:
            clips = through(self.vae, clips)
        at = (self.next + torch.arange(group)) % self.stage.pool_clips
        self.frames[at.to(self.device)] = smaller(clips, self.stage.shrink).round().to(torch.uint8)
        self.shown[at.to(self.device)] = classes(scenes, self.values, self.device)
        self.next = (self.next + group) % self.stage.pool_clips
        self.filled = min(self.filled + group, self.stage.pool_clips)
        self.groups += 1

    def fill(self, seconds: float, log: Log) -> None:
        """Films until the ring is full or the time is over; one group at least (with a VAE, two)."""
        begun = time.monotonic()
        while self.filled < self.stage.pool_clips:
            self.grow()
            if synchronised(self.device) - begun > seconds and self.groups >= 2:
                break
        took = time.monotonic() - begun
        frames = self.filled * self.stage.clip_frames
        log(
            event="rendered", clips=self.filled, frames=frames, took_s=took, fps=frames / took, vae=self.vae is not None
        )

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random windows of a chunk, [B, 12, 3, H, W] in [-1, 1], and what they show."""
        clip = torch.randint(self.filled, (count, 1), generator=generator, device=self.device)
        last = self.stage.clip_frames - CHUNK_PIXELS
        start = torch.randint(last + 1, (count, 1), generator=generator, device=self.device)
        window = start + torch.arange(CHUNK_PIXELS, device=self.device)
        return as_pixels(self.frames[clip, window]), self.shown[clip[:, 0]]


def film_window(scripts: list[Script], first: int, frames: int, shape: ModelShape, device: torch.device) -> Tensor:
    """uint8 [B, T, 3, H, W] of every script from frame `first` on."""
    return render(scripts, first_frame=first, frames=frames, height=shape.height, width=shape.width, device=device)


def through(vae: Vae, clips: Tensor) -> Tensor:
    """uint8 clips [B, 1 + 4 k, 3, H, W] after the VAE's round trip."""
    return as_bytes(torch.cat(list(round_trip(vae, clips)[1]), dim=1))


def augmented(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips [B, T, 3, H, W], each moved and scaled a little, some coarser, some softer; levels and noise vary."""
    count, frames, _, height, width = clips.shape
    device = clips.device

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator, device=device)

    scale, across, down = drawn(0.94, 1.06), drawn(-0.06, 0.06), drawn(-0.06, 0.06)
    zero = torch.zeros_like(scale)
    turn = torch.cat((scale, zero, across, zero, scale, down), dim=1).view(count, 2, 3)
    grid = F.affine_grid(turn.repeat_interleave(frames, 0), [count * frames, 3, height, width], align_corners=False)
    flat = F.grid_sample(clips.flatten(0, 1), grid, padding_mode="reflection", align_corners=False)
    soft = F.avg_pool2d(flat, 3, stride=1, padding=1, count_include_pad=False)
    coarse = F.interpolate(F.avg_pool2d(flat, 2), size=(height, width), mode="bilinear")
    softness, coarseness = (drawn(-1.0, 1.0).clamp_min(0.0).repeat_interleave(frames, 0)[..., None, None] for _ in "ab")
    flat = torch.lerp(torch.lerp(flat, soft, softness), coarse, coarseness)
    clips = flat.unflatten(0, (count, frames))
    gain, offset, noise = (
        drawn(low, high)[..., None, None, None] for low, high in ((0.93, 1.07), (-0.05, 0.05), (-0.06, 0.06))
    )
    grain = torch.randn(clips.shape, generator=generator, device=device)
    return (clips * gain + offset + noise.clamp_min(0.0) * grain).clamp(-1.0, 1.0)


@torch.no_grad()
def examine(
    net: Evaluator,
    preset: Preset,
    world: WorldSpec,
    vae: Vae | None,
    device: torch.device,
    log: Log,
    trained: float,
) -> dict[str, list[float]]:
    """Share right of every factor on pictures that nothing was taught on: as drawn, a chunk after a change, coded."""
    stage, shape, rng = preset.evaluator, preset.shape, random.Random(1)
    combos = world.combinations()
    allowed = set(combos)
    found: dict[str, list[Tensor]] = {}
    for number in range(-(-stage.exam_clips // stage.group)):
        first = rng.randrange(2 * LOOK_FADE, EARLY)
        scenes = [rng.choice(combos) for _ in range(stage.group)]
        target = classes(scenes, net.values, device)
        kinds = {"still": [Script(scenes=((0, scene),)) for scene in scenes]}
        if len(combos) > 1:
            kinds["changed"] = [
                Script(scenes=((0, changed_scene(scene, combos, allowed, rng)), (CHUNK_PIXELS, scene)))
                for scene in scenes
            ]
        for kind, scripts in kinds.items():
            begin = first if kind == "still" else 2 * CHUNK_PIXELS
            clips = film_window(scripts, begin, 1 + CHUNK_PIXELS, shape, device)
            shown = {kind: clips}
            if vae is not None and kind == "still" and number % 2:
                shown["coded"] = through(vae, clips)
            for name, pictures in shown.items():
                logits = net.logits(as_pixels(pictures[:, 1:]))
                found.setdefault(name, []).append(right(logits, target).float())
    shares = {name: torch.cat(parts).mean(0).tolist() for name, parts in found.items()}
    log(event="examined", factors=FACTOR_NAMES, **{f"right_{name}": values for name, values in shares.items()})
    rows = [("seconds trained", trained), *((f"{name}: {', '.join(FACTOR_NAMES)}", v) for name, v in shares.items())]
    table("evaluator on fresh pictures, share right", rows)
    return shares
