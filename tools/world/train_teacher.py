"""Stage 2: the teacher. Flow matching over chunks whose past is clean, as the cache is rebuilt at run time.

Writes teacher.pt (generator and text encoder, averaged), teacher*.png and the log.

Legend: B contexts, R draws on each, C channels, h w latent rows and columns, L tokens of a caption.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from genlock.generator.schedule import Schedule
from genlock.media.vae import Vae

from . import ranks, weights
from .config import SHIFT, STEPS, Preset, TeacherStage
from .exam import Exam
from .footage import LatentPool, Samples
from .forward import TrainingGenerator, repeat
from .loop import Log, Trainer, autocast
from .replay import Inputs, Lessons
from .scene import WorldSpec
from .spotlight import weighed
from .takes import Words, draw_takes

FINE_STEPS = (1000, 937, 875, 812, 750, 687, 625, 562, 500, 437, 375, 312, 250, 187, 125, 62)
WEIGHT_DECAY = 0.02
POOL = "latents-{rank}.pool"


def run(
    preset: Preset, world: WorldSpec, out: Path, *, seconds: float, device: torch.device, compile_: bool, log: Log
) -> None:
    stage, shape = preset.teacher, preset.shape
    torch.manual_seed(preset.seed)
    words = Words.kept(out, world, phrasings=stage.phrasings, text_len=shape.text_len, seed=preset.seed, device=device)
    generator = weights.new_generator(shape).to(device)
    text = weights.new_text(shape, words.vocabulary).to(device)
    trainer = Trainer(
        {"generator": generator, "text": text},
        path=out / "teacher.ckpt",
        log=log,
        seconds=seconds,
        tail=stage.tail_seconds,
        peak_lr=stage.peak_lr,
        weight_decay=WEIGHT_DECAY,
        planned=stage.planned_seconds,
    )
    begin_from(out / weights.TEACHER, trainer, log)
    vae = weights.read_vae(out / weights.VAE, shape, device)
    rng = torch.Generator(device).manual_seed(ranks.seed(preset.seed + trainer.steps))
    pool = fill_pool(vae, words, preset, world, out, seconds, log)
    training = TrainingGenerator(generator, compile_block=compile_)
    lesson = Lesson(training, text, pool, words, stage, rng)
    lessons = Lessons(lesson.draw, lesson.measure)
    prepare(lessons, training, trainer, compile_=compile_, log=log)
    trainer.begin()
    while not trainer.over:
        trainer.step(lessons())
    trainer.save()
    if not ranks.leads():
        return
    with trainer.ema.averaged():
        weights.write(out / weights.TEACHER, trainer.modules, torch.float16, words=words.vocabulary)
        for name, steps in (("teacher", STEPS), ("teacher-fine", FINE_STEPS)):
            exam = Exam(generator, text, vae, words, preset, world, out=out, log=log, steps=steps)
            exam.held_out(stage.eval_prompts, stage.eval_chunks, name)


def begin_from(path: Path, trainer: Trainer, log: Log) -> bool:
    """Fills the modules from a file of weights if no checkpoint was resumed and the file is there."""
    if trainer.resumed or not path.exists():
        return False
    content = weights.read(path)
    for name, module in trainer.modules.items():
        weights.fill(module, content["modules"][name])
    trainer.ema.capture()
    log(event="begun from", file=path.name)
    return True


def fill_pool(
    vae: Vae, words: Words, preset: Preset, world: WorldSpec, out: Path, seconds: float, log: Log
) -> LatentPool:
    """Latents of the stage's takes: those kept in `out` if the same VAE made them, else new ones, which are kept."""
    stage = preset.teacher
    rng = random.Random(ranks.seed(preset.seed + 1))
    takes = draw_takes(stage.pool_takes, stage.pool_chunks, world, rng, together=stage.encode_batch)
    key = f"{replace(stage, planned_seconds=0.0)} {preset.shape} {world} {weights.fingerprint(vae)}"
    pool = LatentPool(vae, takes, words, preset.shape, stage.pool_chunks)
    kept = out / POOL.format(rank=ranks.rank())
    if not pool.restore(kept, key, takes, batch=stage.encode_batch, log=log):
        pool.fill(takes, batch=stage.encode_batch, seconds=min(stage.pool_seconds, 0.3 * seconds), log=log)
        pool.save(kept, key)
    return pool


class Lesson:
    """One batch: chunks that start a stream and later ones, each noised at several levels."""

    def __init__(
        self,
        training: TrainingGenerator,
        text: nn.Module,
        pool: LatentPool,
        words: Words,
        stage: TeacherStage,
        rng: torch.Generator,
    ) -> None:
        self.training, self.text, self.pool, self.words, self.stage, self.rng = training, text, pool, words, stage, rng
        self.device = pool.device
        self.stops = Schedule(shift=SHIFT).resolve(STEPS, warped=True)[1].to(self.device)
        self.first = max(round(stage.first_share * stage.contexts), 1)

    def draw(self) -> Inputs:
        """Everything random of one batch: `first.*` of chunks that start a stream, `later.*` of the others."""
        first = self.pool.draw(self.first, first=True, generator=self.rng)
        later = self.pool.draw(max(self.stage.contexts - self.first, 1), first=False, generator=self.rng)
        parts = {"first": self._drawn(first), "later": self._drawn(later)}
        return {f"{part}.{name}": value for part, drawn in parts.items() for name, value in drawn.items()}

    def _drawn(self, samples: Samples) -> Inputs:
        draws = self.stage.draws
        count = len(samples.scene)
        truth = samples.truth.repeat_interleave(draws, 0)
        drawn = {
            "words": self._words(samples),
            "kept": (self._chance(count) >= self.stage.text_drop).float().view(-1, 1, 1),
            "truth": truth,
            "lit": samples.lit.repeat_interleave(draws, 0),
            "sigma": self._levels(count * draws),
            "noise": torch.randn(truth.shape, generator=self.rng, device=self.device),
        }
        if samples.context is not None:
            drawn["context"] = self._shaken(samples.context)
        return drawn

    def measure(self, inputs: Inputs) -> Tensor:
        first, later = (part_of(inputs, part) for part in ("first", "later"))
        counts = (len(first["words"]), len(later["words"]))
        return (self._loss(first) * counts[0] + self._loss(later) * counts[1]) / sum(counts)

    def _loss(self, drawn: Inputs) -> Tensor:
        draws = self.stage.draws
        with autocast(self.device):
            embeds = weights.embed(self.text, drawn["words"])
            cross = self.training.generator.cross_kv(embeds * drawn["kept"])
            past = self.training.context(drawn["context"], cross) if "context" in drawn else None
            level = drawn["sigma"].view(-1, 1, 1, 1, 1)
            z = (1 - level) * drawn["truth"] + level * drawn["noise"]
            seen = None if past is None else repeat(past, draws)
            flow = self.training.flow(z, 1000 * drawn["sigma"], repeat(cross, draws), seen)
        error = (flow - (drawn["noise"] - drawn["truth"])).square()
        return weighed(error, drawn["lit"], self.stage.subject_more)

    def _words(self, samples: Samples) -> Tensor:
        brief = self._chance(len(samples.scene)) >= self.stage.full_share
        return self.words.draw(samples.scene, samples.must, brief, self.rng, first=samples.context is None)

    def _shaken(self, context: Tensor) -> Tensor:
        """The past with a little noise of a random size: a stream's own past is never quite clean."""
        size = self.stage.context_noise * self._chance(len(context)).view(-1, 1, 1, 1, 1)
        return context + size * torch.randn(context.shape, generator=self.rng, device=self.device)

    def _levels(self, count: int) -> Tensor:
        """Noise levels [count]: a share exactly where the sampler stops, the others spread as the schedule has them."""
        even = self._chance(count)
        spread = SHIFT * even / (1 + (SHIFT - 1) * even)
        stop = self.stops[torch.randint(len(self.stops), (count,), generator=self.rng, device=self.device)]
        return torch.where(self._chance(count) < self.stage.step_share, stop, spread)

    def _chance(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.rng, device=self.device)


def part_of(inputs: Inputs, part: str) -> Inputs:
    return {name.split(".", 1)[1]: value for name, value in inputs.items() if name.startswith(f"{part}.")}


def prepare(lessons: Lessons, training: TrainingGenerator, trainer: Trainer, *, compile_: bool, log: Log) -> None:
    """Compiles the blocks by two whole steps and records a step as one launch; what fails is left as it was."""
    if not compile_:
        return
    begun = time.monotonic()
    try:
        for _ in range(2):
            lessons().backward()
        log(event="compiled", setup_s=time.monotonic() - begun)
    except Exception as fault:  # noqa: BLE001 - whatever goes wrong with a compiler, the plain form remains
        log(event="failed", way="compiled", why=(str(fault).splitlines() or [repr(fault)])[0][:300])
        training.block = training.plain
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.device.type == "cuda":
        lessons.record(trainer.modules.values(), log)
