"""What is asked of one chunk, for workers that prepare their own: in place of the envelope under v0, v1a and v1b.

`Events` says what an envelope says of calls, resets and positions, what was asked (requests, seeds, raw input frames),
and, by its plan's own table, what a worker of that plan cannot make: the context without a VAE decoder, what the
denoise loop begins with without an encoder. It is judged like an envelope, by the `outline` of the one it stands for.
In bring-up mode rank 0's whole envelope travels in it as bytes, to be held against what the worker prepared.

Letters: F latent frames of the chunk, C latent channels, h w latent rows and columns (pixels / 8), n denoise steps,
k context frames, T pixel frames, H W pixel rows and columns of the input, B bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from genlock.errors import EnvelopeRefused
from genlock.generator.config import SPATIAL_STRIDE
from genlock.generator.window import Policy
from genlock.wire.envelope import CHANNELS, STEPS_MAX, Envelope
from genlock.wire.kinds import LOADS, Part, Plan, Recache, Regime
from genlock.wire.rules import LATENT_DTYPES, agree, check_float, check_int, check_tensor, check_type, refuse

PIXELS_MOST = 2**16  # of a side: far beyond any model; bounds what is worked out from a number that is wrong
FRAMES_MOST = 2**16
RGB = 3
LATENTS = ("timesteps", "sigmas", "noise", "step_noise")  # what the denoise loop begins with
# The number that says the size of a tensor that did not travel.
SIZES = {
    "timesteps": "steps",
    "sigmas": "steps",
    "noise": "num_frames",
    "step_noise": "steps",
    "context": "context_frames",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Events:
    """One chunk's events. Raises EnvelopeRefused naming field, value and rule.

    plan to embeds_id: as in the envelope that it stands for. steps: n. context_frames: k; 0 where no pass reads any.
    base_seed, strength, attention_bias: in force in this chunk. video: whether it follows input frames.
    requests: uint8 [B], the JSON of those that take effect with it, in order (`stage0.events`). frames: uint8
    [T, H, W, 3], the raw input; where a worker has an encoder and there is input, and nowhere else. context:
    [k, C, h, w] where a worker has no decoder. timesteps, sigmas: float32 [n], noise: [F, C, h, w], step_noise:
    [n-1, F, C, h, w] where it has no encoder. shadow_frame, shadow_payload: uint8 [B], rank 0's own envelope; both or
    none.
    """

    plan: Plan
    height: int
    width: int
    num_frames: int
    start_frame: int
    window_frames: int
    reset_kv: bool
    reset_cross: bool
    cache_policy: Policy
    regime: Regime | None
    do_recompute: bool
    do_cache_write: bool
    recache: Recache | None
    expected_generator_calls: int
    embeds_id: int
    steps: int
    context_frames: int
    base_seed: int
    strength: float
    attention_bias: float
    video: bool
    requests: Tensor
    frames: Tensor | None
    context: Tensor | None
    timesteps: Tensor | None
    sigmas: Tensor | None
    noise: Tensor | None
    step_noise: Tensor | None
    shadow_frame: Tensor | None
    shadow_payload: Tensor | None

    def __post_init__(self) -> None:
        _check_types(self)
        _check_table(self)
        self.outline()

    def outline(self) -> Envelope:
        """The envelope that these events stand for, as far as it can be told: what did not travel has its shape alone,
        on the meta device, and `embeds` is one row of one. Raises EnvelopeRefused as an envelope does."""
        given = [t for t in (self.noise, self.step_noise, self.context) if t is not None]
        dtype = Counter(t.dtype for t in given).most_common(1)[0][0] if given else torch.float32
        channels = Counter(t.shape[-3] for t in given).most_common(1)[0][0] if given else CHANNELS
        frame = (channels, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE)

        def or_shape(tensor: Tensor | None, *shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta") if tensor is None else tensor

        try:
            return Envelope(
                **{name: getattr(self, name) for name in SHARED},
                pad_sink=False,
                timesteps=or_shape(self.timesteps, self.steps, dtype=torch.float32),
                sigmas=or_shape(self.sigmas, self.steps, dtype=torch.float32),
                noise=or_shape(self.noise, self.num_frames, *frame),
                step_noise=or_shape(self.step_noise, self.steps - 1, self.num_frames, *frame),
                embeds=or_shape(None, 1, 1),
                context=or_shape(self.context, self.context_frames, *frame) if self.context_frames else self.context,
                seed=self.base_seed,
            )
        except EnvelopeRefused as refusal:
            said_by = SIZES.get(refusal.field)
            if said_by is None or getattr(self, refusal.field) is not None:
                raise
            raise EnvelopeRefused(f"{said_by}: {refusal.what}", field=said_by) from None


# Fields that events and their envelope both have.
SHARED = tuple(
    field.name
    for field in fields(Events)
    if field.name in {field.name for field in fields(Envelope)} - {*LATENTS, "context"}
)


def differences(own: Envelope, other: Envelope) -> Iterator[tuple[str, str]]:
    """(field, what differs) of two envelopes for one chunk, causes before what follows from them: what is said of
    calls and positions, then the tensors, then the number that follows from one of them."""
    scalars = [field.name for field in fields(Envelope) if not isinstance(getattr(own, field.name), Tensor)]
    scalars = [name for name in scalars if name not in ("context", "embeds_id")]
    for name in (*scalars, "embeds", "timesteps", "sigmas", "noise", "step_noise", "context", "embeds_id"):
        mine, theirs = getattr(own, name), getattr(other, name)
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
            said = _compared(mine, theirs)
            if said:
                yield name, said
        elif isinstance(mine, Tensor) or isinstance(theirs, Tensor):
            yield name, "there on one side only"
        elif mine != theirs:
            yield name, f"{mine} here, {theirs} on rank 0"


def _compared(mine: Tensor, theirs: Tensor) -> str:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return f"{mine.dtype} {list(mine.shape)} here, {theirs.dtype} {list(theirs.shape)} on rank 0"
    odd = (mine != theirs) & ~((mine != mine) & (theirs != theirs))
    if not bool(odd.any()):
        return ""
    first = [int(index) for index in odd.nonzero()[0]]
    here, there = float(mine[tuple(first)]), float(theirs[tuple(first)])
    return f"{int(odd.sum())} of {mine.numel()} values differ, the first at {first}: {here:g} here, {there:g} on rank 0"


def _check_types(e: Events) -> None:
    check_type("plan", e.plan, Plan)
    if Part.TEXT not in LOADS[e.plan]:
        raise refuse("plan", e.plan, "the whole envelope travels under this plan")
    check_int("steps", e.steps, least=1, most=STEPS_MAX)
    for name in ("height", "width"):
        check_int(name, getattr(e, name), least=1, most=PIXELS_MOST)
    check_int("num_frames", e.num_frames, least=1, most=FRAMES_MOST)
    check_int("context_frames", e.context_frames, most=FRAMES_MOST)
    check_int("base_seed", e.base_seed)
    check_float("strength", e.strength, most=1.0)
    check_type("video", e.video, bool)
    check_tensor("requests", e.requests, dims="B", dtypes=(torch.uint8,))


def _check_table(e: Events) -> None:
    """Which tensors travel: the plan's table."""
    loads = LOADS[e.plan]
    due: dict[str, bool] = {
        "frames": e.video and Part.ENCODER in loads,
        "context": e.context_frames > 0 and Part.DECODER not in loads,
        **dict.fromkeys(LATENTS, Part.ENCODER not in loads),
    }
    for name, travels in due.items():
        if (getattr(e, name) is not None) != travels:
            raise refuse(name, "none" if travels else "there", f"{'must' if travels else 'must not'} travel: {e.plan}")
    if e.frames is not None:
        check_tensor("frames", e.frames, dims="THWC", dtypes=(torch.uint8,))
        if e.frames.shape[-1] != RGB or not e.frames.numel():
            raise refuse("frames", list(e.frames.shape), f"must have frames of {RGB} colours")
    if e.context is not None:
        check_tensor("context", e.context, dims="kChw", dtypes=LATENT_DTYPES)
        agree("k", [("context_frames", e.context_frames), ("context", e.context.shape[0])])
    if e.timesteps is not None:
        check_tensor("timesteps", e.timesteps, dims="n", dtypes=(torch.float32,))
        check_tensor("noise", e.noise, dims="FChw", dtypes=LATENT_DTYPES)
        check_tensor("step_noise", e.step_noise, dims="nFChw", dtypes=LATENT_DTYPES)
        agree("the number of steps", [("steps", e.steps), ("timesteps", e.timesteps.shape[0])])
    if (e.shadow_frame is None) != (e.shadow_payload is None):
        raise refuse("shadow_payload", "none" if e.shadow_payload is None else "there", "comes with its frame")
    for name in ("shadow_frame", "shadow_payload"):
        value: Any = getattr(e, name)
        if value is not None:
            check_tensor(name, value, dims="B", dtypes=(torch.uint8,))
