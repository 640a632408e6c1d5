"""Warm-up: every shape and pass that a job can need, once, as envelopes like any other.

The contents mean nothing; only what a stream's first chunks look like does. Both sides of a mesh know how many there
will be. Knows no connection.
"""

from __future__ import annotations

import torch

from genlock.engine.job import Job
from genlock.generator.config import SPATIAL_STRIDE
from genlock.generator.window import Policy
from genlock.settings import Guard
from genlock.wire.digest import embeds_id
from genlock.wire.envelope import Envelope
from genlock.wire.lifecycle import State, begin, plan_infer

SEED = 0


def warm_chunks(job: Job) -> list[tuple[int, bool, bool]]:
    """(latent frames, cut, re-base) of each chunk of warm-up, in order."""
    chunk, policy = job.policy.chunk_frames, job.policy
    if not job.warm:
        return []
    again = [] if job.compile == "off" else [(chunk, False, False)]  # one that compiles nothing: what a call takes
    first = [(chunk + 1, True, False), (chunk, False, False)] if job.video else []
    if policy.policy is Policy.RECOMPUTE:
        until_full = 1 + -(-policy.context_frames // chunk)
        return [*first, (chunk, True, False), *[(chunk, False, False)] * (until_full - 1), *again]
    until_evicted = 1 + -(-policy.window_frames // chunk)
    return [*first, (chunk, True, False), *[(chunk, False, False)] * until_evicted, *again]


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
    frames, cut, rebase = warm_chunks(job)[number]
    rows, columns = job.latent_size
    rng = torch.Generator().manual_seed(SEED + number)
    # Another prompt in the last chunk: the pass over the text, and the recache where the policy has one.
    changed = number == len(warm_chunks(job)) - 1
    rows_of_text = torch.full((1, job.config.text_dim), 0.01 if changed else 0.0).to(job.dtype)
    due = plan_infer(
        state,
        num_frames=frames,
        steps=job.steps,
        embeds_id=embeds_id(rows_of_text),
        regime=job.regime,
        cut=cut,
        rebase=rebase,
    )
    shape = (frames, job.config.latent_channels, rows, columns)

    def noise(*lead: int) -> torch.Tensor:
        return torch.randn(*lead, generator=rng).to(job.dtype)

    sigmas = torch.linspace(1.0, 1.0 / job.steps, job.steps)
    return Envelope(
        **due.fields(),
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        timesteps=sigmas * 1000,
        sigmas=sigmas,
        attention_bias=job.attention_bias,
        pad_sink=job.pad_sink,
        noise=noise(*shape),
        step_noise=noise(job.steps - 1, *shape),
        embeds=rows_of_text,
        context=noise(due.context_frames, *shape[1:]) if due.context_frames else None,
        seed=SEED,
    )


def count(job: Job) -> int:
    return len(warm_chunks(job))
