"""Stage 3: the student. It runs as the package will run it, and learns from what it meets.

The world is determined by the prompt and by what has been shown, so the right continuation of a rollout is known: the
renderer's. Streams roll out on the student's own latents and re-encoded pixels; the inputs of their four steps go into
a ring, and updates on it pull every step's clean estimate towards the truth.

Writes student.pt (generator and text encoder, averaged), student*.png and the log.

Legend: B samples, n steps of the sampler, F = 3 latent frames, C channels, h w latent rows and columns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import ranks, weights
from .config import STEPS, Preset, StudentStage
from .exam import Exam
from .footage import LatentPool, Samples
from .forward import TrainingGenerator, repeat
from .loop import Log, Trainer, autocast
from .replay import Inputs, Lessons
from .rollout import Rolled, Rollout
from .scene import WorldSpec
from .spotlight import weighed
from .takes import Words
from .train_teacher import WEIGHT_DECAY, begin_from, fill_pool, part_of, prepare

SHORTEST = 4  # chunks of the first rollouts; they grow with the stage's progress
SHIFTED_SHARE = 0.35  # of the rounds, those that join a stream in the middle
BRIEF_FIRST, BRIEF = 0.5, 0.4  # of the captions, those that leave something open
KNEE = 0.1  # of the loss: squares below it, distances above (latents have a deviation of 1)


def run(
    preset: Preset, world: WorldSpec, out: Path, *, seconds: float, device: torch.device, compile_: bool, log: Log
) -> None:
    stage, shape = preset.student, preset.shape
    torch.manual_seed(preset.seed + 1)
    words = Words.kept(
        out, world, phrasings=preset.teacher.phrasings, text_len=shape.text_len, seed=preset.seed, device=device
    )
    generator = weights.new_generator(shape).to(device)
    text = weights.new_text(shape, words.vocabulary).to(device)
    trainer = Trainer(
        {"generator": generator, "text": text},
        path=out / "student.ckpt",
        log=log,
        seconds=seconds,
        tail=stage.tail_seconds,
        peak_lr=stage.peak_lr,
        weight_decay=WEIGHT_DECAY,
        planned=stage.planned_seconds,
    )
    if not begin_from(out / weights.STUDENT, trainer, log) and not trainer.resumed:
        weights.read(out / weights.TEACHER)
        begin_from(out / weights.TEACHER, trainer, log)
    vae = weights.read_vae(out / weights.VAE, shape, device)
    pool = fill_pool(vae, words, preset, world, out, seconds, log)
    rng = torch.Generator(device).manual_seed(ranks.seed(preset.seed + 1 + trainer.steps))
    rollout = Rollout(generator, vae, shape, streams=stage.streams, rng=rng)
    training = TrainingGenerator(generator, compile_block=compile_)
    school = School(rollout, training, text, pool, words, stage, rng)
    for _ in school.round(SHORTEST, join=False):
        pass
    lessons = Lessons(school.draw, school.measure)
    prepare(lessons, training, trainer, compile_=compile_, log=log)
    trainer.begin()
    while not trainer.over:
        longest = SHORTEST + int(2 * trainer.progress * stage.chunks)
        for error in school.round(min(longest, stage.chunks, pool.chunks)):
            for _ in range(stage.updates):
                trainer.step(lessons(), rollout_error=error, chunks=min(longest, stage.chunks))
            if trainer.over:
                break
    trainer.save()
    if not ranks.leads():
        return
    with trainer.ema.averaged():
        weights.write(out / weights.STUDENT, trainer.modules, torch.float16, words=words.vocabulary)
        exam = Exam(generator, text, vae, words, preset, world, out=out, log=log)
        exam.held_out(stage.eval_prompts, stage.eval_chunks, "student")
        exam.openings("student-openings")
        exam.beginnings(stage.eval_chunks, "student-beginnings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """What rollouts met: context [B, 3, C, h, w] or None, noised [B, n, F, C, h, w], truth [B, F, C, h, w], lit
    [B, F, h, w], scene, must [B]."""

    context: Tensor | None
    noised: Tensor
    truth: Tensor
    lit: Tensor
    scene: Tensor
    must: Tensor


class Ring:
    """The newest `capacity` samples."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: dict[str, Tensor] = {}
        self.count = 0
        self.cursor = 0

    def add(self, met: Met) -> None:
        fields = {name: getattr(met, name) for name in ("context", "noised", "truth", "lit", "scene", "must")}
        rows = len(met.scene)
        where = (self.cursor + torch.arange(rows, device=met.scene.device)) % self.capacity
        for name, value in fields.items():
            if value is None:
                continue
            if value.is_floating_point():
                value = value.half()
            if name not in self.held:
                self.held[name] = value.new_zeros((self.capacity, *value.shape[1:]))
            self.held[name][where] = value
        self.cursor = (self.cursor + rows) % self.capacity
        self.count = min(self.count + rows, self.capacity)

    def draw(self, count: int, rng: torch.Generator) -> Met:
        device = self.held["scene"].device
        rows = torch.randint(self.count, (count,), generator=rng, device=device)
        drawn = {name: value[rows] for name, value in self.held.items()}
        floats = {name: value.float() if value.is_floating_point() else value for name, value in drawn.items()}
        return Met(**{"context": None, **floats})


class School:
    """Rolls streams out and draws lessons from what they met."""

    def __init__(
        self,
        rollout: Rollout,
        training: TrainingGenerator,
        text: nn.Module,
        pool: LatentPool,
        words: Words,
        stage: StudentStage,
        rng: torch.Generator,
    ) -> None:
        self.rollout, self.training, self.text, self.pool = rollout, training, text, pool
        self.words, self.stage, self.rng = words, stage, rng
        self.device = pool.device
        self.first = Ring(max(stage.ring // 4, stage.streams))
        self.later = Ring(max(stage.ring, stage.streams))
        self.order = random.Random(3)
        self.shifted = (~pool.starts).nonzero()[:, 0]

    def round(self, chunks: int, *, join: bool = True) -> Iterator[Tensor]:
        """Rolls every stream out for some chunks; yields the mean error of each chunk it generated, as a tensor.

        join: whether this round may join streams in the middle.
        """
        stage, pool = self.stage, self.pool
        joined = join and len(self.shifted) > 0 and chunks > 3 and self.order.random() < SHIFTED_SHARE
        source = self.shifted if joined else pool.first
        take = source[torch.randint(len(source), (stage.streams,), generator=self.rng, device=self.device)]
        trusted = torch.rand(stage.streams, generator=self.rng, device=self.device) < stage.truth_share
        self.rollout.clear()
        for number in range(chunks):
            chunk = torch.full_like(take, number)
            truth = pool.chunk(take, chunk, first=number == 0)
            if joined and number < 2:
                self.rollout.remember(truth.truth)
                continue
            with torch.no_grad(), autocast(self.device):
                embeds = weights.embed(self.text, self._words(truth.scene, truth.must, first=truth.context is None))
            rolled = self.rollout.run(embeds, truth=truth.truth, trusted=trusted)
            ring = self.first if rolled.context is None else self.later
            ring.add(met(rolled, truth))
            yield (rolled.latents - truth.truth).abs().mean()

    def draw(self) -> Inputs:
        """One batch from the rings: `first.*` of chunks that start a stream, `later.*` of the others."""
        count = max(round(self.stage.first_share * self.stage.contexts), 1)
        parts = {
            "first": self._drawn(self.first.draw(count, self.rng)),
            "later": self._drawn(self.later.draw(max(self.stage.contexts - count, 1), self.rng)),
        }
        return {f"{part}.{name}": value for part, drawn in parts.items() for name, value in drawn.items()}

    def _drawn(self, met: Met) -> Inputs:
        draws, steps = self.stage.draws, len(STEPS)
        count = len(met.scene)
        # Different steps of the same chunk share its context pass.
        step = torch.rand(count, steps, generator=self.rng, device=self.device).argsort(dim=1)[:, :draws]
        rows = torch.arange(count, device=self.device)[:, None]
        drawn = {
            "z": met.noised[rows, step].flatten(0, 1),
            "step": step.flatten(),
            "words": self._words(met.scene, met.must, first=met.context is None),
            "truth": met.truth.repeat_interleave(draws, 0),
            "lit": met.lit.repeat_interleave(draws, 0),
        }
        if met.context is not None:
            drawn["context"] = self._shaken(met.context)
        return drawn

    def measure(self, inputs: Inputs) -> Tensor:
        first, later = (part_of(inputs, part) for part in ("first", "later"))
        counts = (len(first["words"]), len(later["words"]))
        return (self._loss(first) * counts[0] + self._loss(later) * counts[1]) / sum(counts)

    def _loss(self, drawn: Inputs) -> Tensor:
        draws, z = self.stage.draws, drawn["z"]
        times, sigmas = self.rollout.times[drawn["step"]], self.rollout.sigmas[drawn["step"]]
        with autocast(self.device):
            embeds = weights.embed(self.text, drawn["words"])
            cross = self.training.generator.cross_kv(embeds)
            past = self.training.context(drawn["context"], cross) if "context" in drawn else None
            seen = None if past is None else repeat(past, draws)
            flow = self.training.flow(z, times, repeat(cross, draws), seen)
        clean = z - sigmas.view(-1, 1, 1, 1, 1) * flow
        return distance(clean, drawn["truth"], drawn["lit"], self.stage.subject_more)

    def _words(self, scene: Tensor, must: Tensor, *, first: bool) -> Tensor:
        brief = torch.rand(len(scene), generator=self.rng, device=self.device) < (BRIEF_FIRST if first else BRIEF)
        return self.words.draw(scene, must, brief, self.rng, first=first)

    def _shaken(self, context: Tensor) -> Tensor:
        size = self.stage.context_noise
        return context + size * torch.randn(context.shape, generator=self.rng, device=self.device)


def met(rolled: Rolled, wanted: Samples) -> Met:
    return Met(
        context=rolled.context,
        noised=torch.stack(rolled.noised, dim=1),
        truth=wanted.truth,
        lit=wanted.lit,
        scene=wanted.scene,
        must=wanted.must,
    )


def distance(a: Tensor, b: Tensor, lit: Tensor, more: float) -> Tensor:
    """Mean pseudo-Huber distance: as forgiving as a square near zero, no harsher than the distance far from it. It
    counts 1 + more times where the subject is."""
    return weighed(((a - b).square() + KNEE**2).sqrt() - KNEE, lit, more)
