"""Small chunks for the tests of the wire: right envelopes from a state, and wrong ones that no constructor would let
through.

Letters: F latent frames, C latent channels, h w latent rows and columns, n steps, L text rows, k context frames.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from genlock.generator.window import CachePolicy, Policy, Recache, Regime, Rope, recompute_policy
from genlock.wire.codec import describe, pack
from genlock.wire.digest import embeds_id, tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.header import Stamp, seal
from genlock.wire.kinds import Action, ContextSource
from genlock.wire.lifecycle import State, begin, live, next_stamp, plan_infer
from genlock.wire.prepare import ENVELOPE, prepare

SIDE, CHANNELS, TEXT_DIM = 16, 16, 4  # pixels, latent channels, width of a text row
STEPS = 3
ROWS = 24  # rotary positions: few, so that a stream soon reaches their end


def rolling(window: int, sink: int = 0, **more: Any) -> CachePolicy:
    return CachePolicy(policy=Policy.ROLLING, window_frames=window, sink_frames=sink, **more)


POLICIES: dict[str, CachePolicy] = {
    "recompute": recompute_policy(),
    "recompute_one": recompute_policy(context_frames=1),
    "recompute_long": recompute_policy(context_frames=6),
    "rolling": rolling(9),
    "rolling_sink_chunk": rolling(9, 3, recache_on_prompt=True),
    "rolling_sink": rolling(8, 2, recache_on_prompt=True),
    "rolling_tight": rolling(5, 3, recache_on_prompt=True, global_sink=False),
    "rolling_relative": rolling(7, 1, rope=Rope.RELATIVE),
    "rolling_unlimited": rolling(15, fixed_window=False),
}


def prompt(number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[L, T], another L and other values for each number."""
    return torch.full((1 + number % 3, TEXT_DIM), float(number), dtype=dtype)


def make(
    state: State,
    *,
    words: int = 1,
    num_frames: int = 3,
    cut: bool = False,
    rebase: bool = False,
    regime: Regime | None = Regime.R0A,
    steps: int = STEPS,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Envelope:
    """The envelope that follows from `state`."""
    embeds = prompt(words, dtype)
    due = plan_infer(
        state,
        num_frames=num_frames,
        steps=steps,
        embeds_id=embeds_id(embeds),
        regime=regime if state.policy.policy is Policy.RECOMPUTE else None,
        cut=cut,
        rebase=rebase,
    )
    draw = torch.Generator().manual_seed(seed)
    frame = (CHANNELS, SIDE // 8, SIDE // 8)
    kept = state.context_source is ContextSource.MESH and due.regime is Regime.R0
    count = 0 if kept else due.context_frames
    return Envelope(
        **due.fields(),
        height=SIDE,
        width=SIDE,
        timesteps=torch.linspace(1000, 250, steps),
        sigmas=torch.linspace(1, 0.25, steps),
        attention_bias=1.0,
        pad_sink=False,
        noise=torch.randn(num_frames, *frame, generator=draw).to(dtype),
        step_noise=torch.randn(steps - 1, num_frames, *frame, generator=draw).to(dtype),
        embeds=embeds,
        context=torch.randn(count, *frame, generator=draw).to(dtype) if count else None,
        seed=seed,
    )


def unchecked(envelope: Envelope, **changes: Any) -> Envelope:
    """An envelope that nobody checked, as a defective sender would make it."""
    other = object.__new__(Envelope)
    for each in fields(Envelope):
        object.__setattr__(other, each.name, changes.get(each.name, getattr(envelope, each.name)))
    return other


def framed(envelope: Envelope, stamp: Stamp) -> tuple[bytes, Tensor]:
    """Frame and payload of a sender that checks nothing and digests everything."""
    manifest, data, tensors = describe(ENVELOPE, envelope)
    payload = pack(manifest.specs, manifest.payload_bytes, tensors)
    frame = seal(stamp, data, payload_bytes=manifest.payload_bytes, payload_digest=tensor_digest(payload))[1]
    return frame, payload


def infer_stamp(envelope: Envelope, state: State) -> Stamp:
    return next_stamp(state, Action.INFER, reset_kv=envelope.reset_kv)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A right envelope, and the state it follows from."""

    state: State
    envelope: Envelope


def case(
    policy: str, chunks: int, *, source: ContextSource = ContextSource.ENVELOPE, words: int = 1, **more: Any
) -> Case:
    """After warm-up of one chunk and `chunks` live ones with prompt 1, the next with prompt `words`."""
    state = begin(POLICIES[policy], max_rope_positions=ROWS, context_source=source, warm=True)
    state = live(prepare(make(state, **more), state)[1])
    for seed in range(chunks):
        state = prepare(make(state, seed=seed, **more), state)[1]
    return Case(state=state, envelope=make(state, words=words, seed=chunks, **more))


CASES: dict[str, Case] = {
    "first": case("recompute", 0),
    "first_rolling": case("rolling", 0),
    "early": case("recompute_long", 1),
    "steady": case("recompute", 3),
    "one_context_frame": case("recompute_one", 2),
    "latents_only": case("recompute", 2, regime=Regime.R0),
    "mesh_keeps": case("recompute", 2, regime=Regime.R0, source=ContextSource.MESH),
    "no_pass": case("recompute", 2, regime=Regime.R1),
    "new_prompt": case("recompute", 2, words=2),
    "rolling": case("rolling", 4),
    "switch_early": case("rolling_sink", 2, words=2),
    "switch": case("rolling_sink", 5, words=2),
    "rebase": case("rolling_sink", 8),
    "rebase_new_prompt": case("rolling_sink", 8, words=2),
    "relative": case("rolling_relative", 9),
    "one_step": case("recompute", 2, steps=1),
}
assert CASES["switch"].envelope.recache is Recache.SWITCH
assert CASES["rebase"].envelope.recache is Recache.REBASE
