"""Warm-up: every shape and pass that a job can need, once, as envelopes like any other.

The contents mean nothing; only what a stream's first chunks look like does. Both sides of a mesh know how many there
will be. Knows no connection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from genlock.engine.job import Job
from genlock.generator.config import SPATIAL_STRIDE
from genlock.generator.window import Policy, Rope
from genlock.settings import Guard
from genlock.wire.digest import embeds_id
from genlock.wire.envelope import Envelope
from genlock.wire.lifecycle import State, begin, plan_infer

SEED = 0
SOME_BIAS = 0.5  # any but 1: how much the past counts is in a tensor's content, whether it counts less is not


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmChunk:
    """One chunk of warm-up. prompt: a number that stands for one. frames, attention_bias: as in the envelope."""

    frames: int
    cut: bool = False
    rebase: bool = False
    prompt: int = 0
    attention_bias: float = 1.0


def warm_chunks(job: Job) -> list[WarmChunk]:
    """What is run, in order: a stream from its first chunk until no pass is new, once for each way of beginning one;
    every chunk with another prompt than the last, so that a recache is met at every fill. Then a re-base, where the
    policy can come to one.

    Compiled blocks have a graph more for each pass over a past that counts less, which a request may ask for or take
    back at any chunk: then everything is run with and without. And one chunk more, that compiles nothing: what a call
    takes.
    """
    if not job.warm:
        return []
    ordinary = job.policy.chunk_frames
    firsts = (ordinary + 1, ordinary) if job.video else (ordinary,)
    biases: tuple[float, ...] = (job.attention_bias,)
    if job.compile != "off" and job.policy.policy is Policy.RECOMPUTE:
        biases = (1.0 if job.attention_bias != 1.0 else SOME_BIAS, job.attention_bias)
    chunks = [
        WarmChunk(frames=ordinary if number else first, cut=not number, attention_bias=bias)
        for bias in biases
        for first in firsts
        for number in range(_until_nothing_is_new(job, first))
    ]
    room = job.policy.fixed_window  # for one chunk more
    last = WarmChunk(frames=ordinary, cut=not room, attention_bias=job.attention_bias)
    if _may_rebase(job):
        chunks.append(replace(last, rebase=True))
    if job.compile != "off":
        chunks.append(last)
    return [replace(chunk, prompt=number % 2) for number, chunk in enumerate(chunks)]


def _until_nothing_is_new(job: Job, first: int) -> int:
    """Chunks of a stream that begins with one of `first` frames, until the next is like the last."""
    policy = job.policy
    if policy.policy is Policy.RECOMPUTE:
        return 2 + max(0, -(-(policy.context_frames - first) // policy.chunk_frames))
    # Rolling: until it is full, then one that evicts fewer frames than all later ones may, and one of these.
    return 1 + (policy.window_frames - first) // policy.chunk_frames + 2 * policy.fixed_window


def _may_rebase(job: Job) -> bool:
    """Whether a stream can outlive the rotary table: what it holds and a chunk fit in at positions from 0."""
    policy = job.policy
    growing = policy.policy is Policy.ROLLING and policy.rope is Rope.ABSOLUTE and policy.fixed_window
    return growing and policy.window_frames + policy.chunk_frames <= job.config.max_rope_positions


def begin_job(job: Job, guards_off: frozenset[Guard] = frozenset()) -> State:
    """The lifecycle of a job's stream on every rank."""
    return begin(
        job.policy,
        max_rope_positions=job.config.max_rope_positions,
        plan=job.plan,
        warm=job.warm,
        epoch_held=Guard.EPOCH not in guards_off,
    )


def warm_envelope(job: Job, state: State, number: int) -> Envelope:
    """The envelope of warm chunk `number`, which follows from `state`."""
    return envelope_of(job, state, warm_chunks(job)[number], number)


def envelope_of(job: Job, state: State, chunk: WarmChunk, number: int) -> Envelope:
    """The envelope of a chunk that shows nothing. number: what its noise is drawn from."""
    rows, columns = job.latent_size
    rng = torch.Generator().manual_seed(SEED + number)
    rows_of_text = torch.full((1, job.config.text_dim), 0.01 * chunk.prompt).to(job.dtype)
    due = plan_infer(
        state,
        num_frames=chunk.frames,
        steps=job.steps,
        embeds_id=embeds_id(rows_of_text),
        regime=job.regime,
        cut=chunk.cut,
        rebase=chunk.rebase,
    )
    shape = (chunk.frames, job.config.latent_channels, rows, columns)

    def noise(*lead: int) -> torch.Tensor:
        return torch.randn(*lead, generator=rng).to(job.dtype)

    sigmas = torch.linspace(1.0, 1.0 / job.steps, job.steps)
    return Envelope(
        **due.fields(),
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        timesteps=sigmas * 1000,
        sigmas=sigmas,
        attention_bias=chunk.attention_bias,
        pad_sink=job.pad_sink,
        noise=noise(*shape),
        step_noise=noise(job.steps - 1, *shape),
        embeds=rows_of_text,
        context=noise(due.context_frames, *shape[1:]) if due.context_frames else None,
        seed=SEED,
    )


def count(job: Job) -> int:
    return len(warm_chunks(job))
