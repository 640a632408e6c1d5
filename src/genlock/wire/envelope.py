"""Everything a rank needs for one chunk, and nothing it could guess.

`Envelope` is checked once, when it is made: types, presence, shapes, and the arithmetic between fields. The same
checks run when one is decoded; tensors may then lie on the meta device, for shapes are known before the bytes come.
It knows no lifecycle (whether this chunk follows the last: `wire.lifecycle`) and no bytes (`wire.codec`).

Letters: F latent frames of the chunk, C latent channels, h w latent rows and columns (pixels / 8), n denoise steps,
L text rows, T width of a text row, k context frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genlock.generator.config import PIXEL_MULTIPLE, SPATIAL_STRIDE, GeneratorConfig
from genlock.generator.window import Policy
from genlock.wire.kinds import Plan, Recache, Regime
from genlock.wire.rules import (
    LATENT_DTYPES,
    UINT64_MAX,
    agree,
    check_float,
    check_int,
    check_tensor,
    check_type,
    refuse,
)

CHANNELS = 16  # of the Wan latent space; only breaks a tie between two tensors that disagree
STEPS_MAX = 1000  # a schedule cannot be longer than the sigma table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Envelope:
    """One chunk's work order. Raises EnvelopeRefused naming field, value and rule.

    plan: equals the plan agreed at start. height, width: pixels, multiples of 16. num_frames: F.
    start_frame: rotary position of the chunk's first frame. window_frames: frames in the cache before the first
    denoise step. Recompute with a pass: k; R1: what the last chunk left. Rolling: frames held before any eviction.
    reset_kv, reset_cross: the only cause of a reset anywhere. do_recompute: the only cause of a recompute call.
    do_cache_write: the rolling policy's closing call at t = 0. recache: a pass over `context` before the first step.
    timesteps, sigmas: float32 [n], the schedule itself. expected_generator_calls: the plan of calls, as a number.
    attention_bias: factor in (0, 1] on the weights of past keys, 1.0 is off (always under rolling).
    pad_sink: reproduce the zero keys that upstream's padding adds on the bias path.
    noise: [F, C, h, w], already mixed with the input's latents in video-to-video. step_noise: [n-1, F, C, h, w].
    embeds: [L, T], the prompt cut at its true length. embeds_id: `wire.digest.embeds_id(embeds)`.
    context: [k, C, h, w], or none where no pass reads one. seed: for the record only.
    Latents and embeds share one dtype: float32, bfloat16 or float16.
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
    timesteps: Tensor
    sigmas: Tensor
    expected_generator_calls: int
    attention_bias: float
    pad_sink: bool
    noise: Tensor
    step_noise: Tensor
    embeds: Tensor
    embeds_id: int
    context: Tensor | None
    seed: int

    def __post_init__(self) -> None:
        _check_types(self)
        _check_shapes(self)
        _check_policy(self)
        _check_passes(self)
        _check_context_size(self)

    @property
    def steps(self) -> int:
        """n, the number of denoise steps."""
        return self.timesteps.shape[0]


def check_model(envelope: Envelope, config: GeneratorConfig) -> None:
    """Raises EnvelopeRefused unless the tensors fit the model: channels, text width, text length."""
    if envelope.noise.shape[1] != config.latent_channels:
        raise refuse("noise", list(envelope.noise.shape), f"the model has {config.latent_channels} latent channels")
    rows, width = envelope.embeds.shape
    if width != config.text_dim or rows > config.text_len:
        rule = f"the model takes at most {config.text_len} rows of {config.text_dim}"
        raise refuse("embeds", list(envelope.embeds.shape), rule)


def _check_types(e: Envelope) -> None:
    check_type("plan", e.plan, Plan)
    for name in ("height", "width"):
        check_int(name, getattr(e, name), least=PIXEL_MULTIPLE)
        if getattr(e, name) % PIXEL_MULTIPLE:
            raise refuse(name, getattr(e, name), f"must be a multiple of {PIXEL_MULTIPLE}")
    check_int("num_frames", e.num_frames, least=1)
    check_int("start_frame", e.start_frame)
    check_int("window_frames", e.window_frames)
    for name in ("reset_kv", "reset_cross", "do_recompute", "do_cache_write", "pad_sink"):
        check_type(name, getattr(e, name), bool)
    check_type("cache_policy", e.cache_policy, Policy)
    if e.regime is not None:
        check_type("regime", e.regime, Regime)
    if e.recache is not None:
        check_type("recache", e.recache, Recache)
    check_int("expected_generator_calls", e.expected_generator_calls, least=1)
    check_float("attention_bias", e.attention_bias, most=1.0)
    if e.attention_bias == 0.0:
        raise refuse("attention_bias", e.attention_bias, "must be above 0")
    check_int("embeds_id", e.embeds_id, most=UINT64_MAX)
    check_int("seed", e.seed, least=-UINT64_MAX, most=UINT64_MAX)
    check_tensor("timesteps", e.timesteps, dims="n", dtypes=(torch.float32,))
    check_tensor("sigmas", e.sigmas, dims="n", dtypes=(torch.float32,))
    check_tensor("noise", e.noise, dims="FChw", dtypes=LATENT_DTYPES)
    check_tensor("step_noise", e.step_noise, dims="nFChw", dtypes=LATENT_DTYPES)
    check_tensor("embeds", e.embeds, dims="LT", dtypes=LATENT_DTYPES)
    if e.context is not None:
        check_tensor("context", e.context, dims="kChw", dtypes=LATENT_DTYPES)


def _check_shapes(e: Envelope) -> None:
    """Every size is said at least twice; the field that stands alone is named."""
    latents = [("noise", e.noise, 1), ("step_noise", e.step_noise, 2)]
    if e.context is not None:
        latents.append(("context", e.context, 1))
    agree("the dtype", [(name, t.dtype) for name, t, _ in latents] + [("embeds", e.embeds.dtype)])
    agree("the latent channels", [(name, t.shape[c]) for name, t, c in latents], prior=CHANNELS)
    for side, pixels, axis in (("height", e.height, 1), ("width", e.width, 2)):
        said = [(side, pixels // SPATIAL_STRIDE)] + [(name, t.shape[c + axis]) for name, t, c in latents]
        agree(f"the latent {side}", said)
    frames = [("num_frames", e.num_frames), ("noise", e.noise.shape[0]), ("step_noise", e.step_noise.shape[1])]
    agree("the number of frames", frames)
    steps = [("timesteps", e.timesteps.shape[0]), ("sigmas", e.sigmas.shape[0])]
    agree("the number of steps", [*steps, ("step_noise", e.step_noise.shape[0] + 1)])
    if not 1 <= e.steps <= STEPS_MAX:
        raise refuse("timesteps", list(e.timesteps.shape), f"a chunk has 1 to {STEPS_MAX} steps")
    if not e.embeds.numel():
        raise refuse("embeds", list(e.embeds.shape), "a prompt has at least one row")


def _check_policy(e: Envelope) -> None:
    """Three fields say which policy this is; two more belong to one of them alone."""
    rolling = [("cache_policy", e.cache_policy is Policy.ROLLING), ("regime", e.regime is None)]
    agree("that the policy is rolling", [*rolling, ("do_cache_write", e.do_cache_write)])
    if e.cache_policy is Policy.ROLLING:
        if e.do_recompute:
            raise refuse("do_recompute", e.do_recompute, "the rolling policy has no recompute call")
        if e.attention_bias != 1.0:
            raise refuse("attention_bias", e.attention_bias, "the rolling policy has none: must be 1.0")
    elif e.recache is not None:
        raise refuse("recache", e.recache, "the recompute policy has none")


def _check_passes(e: Envelope) -> None:
    """Whether the cache is carried on, and whether a pass over `context` comes before the first step."""
    carried = agree(
        "that the cache is carried on",
        [("reset_kv", not e.reset_kv), ("start_frame", e.start_frame > 0), ("window_frames", e.window_frames > 0)],
    )
    if e.reset_kv and not e.reset_cross:
        raise refuse("reset_cross", e.reset_cross, "reset_kv resets cross-attention too")
    recompute = e.cache_policy is Policy.RECOMPUTE
    due = carried and recompute and e.regime is not Regime.R1
    flag = ("do_recompute", e.do_recompute) if recompute else ("recache", e.recache is not None)
    said = [flag, ("expected_generator_calls", e.expected_generator_calls > e.steps + e.do_cache_write)]
    if e.context is not None or e.regime is not Regime.R0:  # under R0 the mesh may have kept its own: `lifecycle`
        said.append(("context", e.context is not None))
    announced = agree("that a pass comes first", said, prior=due)
    if recompute and announced != due:
        raise refuse("regime", e.regime, f"does not fit do_recompute {e.do_recompute} at start_frame {e.start_frame}")
    if announced and not carried:
        raise refuse("recache", e.recache, "there is nothing to make again after reset_kv")
    calls = announced + e.steps + e.do_cache_write
    if e.expected_generator_calls != calls:
        raise refuse("expected_generator_calls", e.expected_generator_calls, f"the flags and steps make {calls}")


def _check_context_size(e: Envelope) -> None:
    """k of a recompute pass or a re-base, where window_frames says it too and start_frame breaks a tie.

    What only the stream's past can tell (k of a switch, start_frame of a re-base) is left to `lifecycle`.
    """
    if e.context is None or not (e.do_recompute or e.recache is Recache.REBASE):
        return
    agree("k", [("window_frames", e.window_frames), ("context", e.context.shape[0])], prior=e.start_frame)
    if e.do_recompute and e.start_frame > e.window_frames:
        raise refuse("start_frame", e.start_frame, f"lies beyond the {e.window_frames} frames of the context")
