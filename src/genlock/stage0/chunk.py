"""One chunk planned: from what is asked for, and what the stream has shown, to the envelope.

`plan_chunk` is a function of values: a plan that is not sent is forgotten by keeping the old state. What the envelope
must say of ids, resets, positions and passes it asks of `wire.lifecycle`; the VAE and the text encoder are handed in.

    F  latent frames of the chunk     C, h, w  latent channels, rows, columns     n  denoise steps
    T  pixel frames                   H, W  pixel rows and columns                L, D  embedding rows and their width
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from genlock.errors import OutOfStep, PromptRefused, UsageError
from genlock.generator.config import TEMPORAL_STRIDE, GeneratorConfig, latent_size
from genlock.generator.schedule import Schedule
from genlock.stage0.context import ContextWindow, EncodeImage
from genlock.stage0.grid import Boundary, ChunkGrid, Placement
from genlock.stage0.noise import ChunkNoise, chunk_seed, draw_noise
from genlock.stage0.timeline import Asked, Controls, Embedding, Encode, Request, TimelineState, advance
from genlock.stage0.video_input import (
    STEP_SCALE,
    EncodeVideo,
    VideoState,
    controlled_strength,
    mix,
    motion,
    raw_steps,
    to_pixels,
    warped_steps,
)
from genlock.wire.digest import embeds_id
from genlock.wire.envelope import Envelope
from genlock.wire.kinds import Action, ContextSource, Recache, Regime
from genlock.wire.lifecycle import Due, State, must_reset, next_stamp, plan_infer


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What stays the same for a whole stream.

    config: the generator's sizes. height, width: pixels. dtype: of every latent and embedding that is sent.
    schedule, steps, warped: the step list, raw or warped. regime: none under the rolling policy. fps: pixel frames a
    second. controls: seed, strength and attention bias until they are asked otherwise. pad_sink: as in the envelope.
    input_first: pixel frames the first chunk of video input is resampled to: 13 (Scope) or 9 (Krea).
    cut_on_prompt: in video mode a prompt change outside a transition is a cut. noise_controller: motion of the input
    sets the strength.
    """

    config: GeneratorConfig
    height: int
    width: int
    dtype: torch.dtype
    schedule: Schedule
    steps: tuple[int, ...]
    warped: bool
    regime: Regime | None
    fps: float
    controls: Controls
    pad_sink: bool = False
    input_first: int = 13
    cut_on_prompt: bool = False
    noise_controller: bool = False

    def __post_init__(self) -> None:
        latent_size(self.height, self.width)
        self.schedule.resolve(self.steps, warped=self.warped)
        if self.input_first < 1 or self.input_first % TEMPORAL_STRIDE != 1:
            raise UsageError(f"a first chunk of {self.input_first} input frames", remedy="give 13 or 9")

    def grid(self, chunk_frames: int, *, video: bool) -> ChunkGrid:
        """Chunk lengths; the first chunk of video input has its own."""
        first = 1 + self.input_first // TEMPORAL_STRIDE if video else chunk_frames
        return ChunkGrid(fps=self.fps, chunk_frames=chunk_frames, first_frames=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What turns words and pixels into tensors.

    text: a prompt -> [L, D] float32, cut at its true length; raises PromptRefused. image: the anchor's encoder, a
    stream of its own. video: the encoder of a live input, whose state is a value. Either may be None where never used.
    """

    text: Callable[[str], Tensor]
    image: EncodeImage | None = None
    video: EncodeVideo | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage0State:
    """Where stage 0 stands between two plans.

    start: of the next chunk. cache_epoch: of the chunks that `context` holds. video: None in text mode.
    """

    timeline: TimelineState
    context: ContextWindow
    start: Boundary = field(default_factory=Boundary)
    cache_epoch: int = 0
    video: VideoState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A request that took effect: under which number it was submitted, and where it fell."""

    number: int
    request: Request
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """A chunk ready to be prepared, and the state to go on with once it is sent.

    asked: what it shows. start: its first frame. strength: of the input's change, None in text mode.
    """

    envelope: Envelope
    state: Stage0State
    asked: Asked
    start: Boundary
    strength: float | None
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beginning:
    """What the denoise loop begins with: timesteps, sigmas: float32 [n]. noise: [F, C, h, w], the input's latents mixed
    in. step_noise: [n-1, F, C, h, w]."""

    timesteps: Tensor
    sigmas: Tensor
    noise: Tensor
    step_noise: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Given:
    """What another stage 0 has made of a chunk, taken as it is. video: whether the chunk follows input frames, which
    need not be here then. context: [k, C, h, w]. beginning: also in place of noise that would be drawn. None: this
    stage 0 makes its own."""

    video: bool
    context: Tensor | None = None
    beginning: Beginning | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Latents:
    """What the denoise loop begins with. noise: float32. start: the video's latents, to be mixed in at `share`."""

    timesteps: Tensor
    sigmas: Tensor
    start: Tensor | None = None
    share: float = 1.0
    strength: float | None = None
    video: VideoState | None = None


def begin_stage0(settings: StreamSettings, sender: State) -> Stage0State:
    """The state before the first chunk."""
    context = ContextWindow(policy=sender.policy, regime=settings.regime)
    return Stage0State(timeline=TimelineState(controls=settings.controls), context=context)


@torch.no_grad()
def plan_chunk(
    state: Stage0State,
    sender: State,
    settings: StreamSettings,
    sources: Sources,
    requests: Sequence[tuple[int, Request]],
    *,
    frames: Tensor | None = None,
    rebase: bool = False,
    given: Given | None = None,
) -> Planned:
    """The next envelope. Order of work: 6.1 of the session's semantics, prompts first, noise last.

    sender: rank 0's sending copy of the lifecycle. requests: those due, with their numbers. frames: uint8
    [T, H', W', 3] in video mode. rebase: ask for a re-base before it is due, while warming up. given: what is not to be
    made here.
    Raises PromptRefused, TimelineRefused, VideoInputRefused for what was asked; OutOfStep if the result that the
    context is made of has not been absorbed; CacheRefused for a chunk the cache cannot hold.
    """
    policy = sender.policy
    given = given or Given(video=frames is not None)
    grid = settings.grid(policy.chunk_frames, video=given.video)
    encode = padded_encode(sources, settings.config)
    asked, timeline = advance(state.timeline, [request for _, request in requests], encode, chunk_s=grid.chunk_s)
    cut = asked.cut or _cuts_unasked(state, settings, asked, video=given.video)
    first = cut or must_reset(sender)
    if given.beginning is None:
        latents = _initial_latents(state, settings, sources, asked, frames, grid, first=first)
    else:
        latents = _given_latents(given.beginning, video=given.video)
    embeds = asked.embedding.rows[: asked.embedding.length].to(device="cpu", dtype=settings.dtype).contiguous()
    due = plan_infer(
        sender,
        num_frames=grid.first_frames if first else grid.chunk_frames,
        steps=latents.timesteps.shape[0],
        embeds_id=embeds_id(embeds),
        regime=settings.regime,
        cut=cut,
        rebase=rebase,
    )
    context = given.context
    if context is None and not first:
        context = _context(state.context, sender, due, sources)
    seed = chunk_seed(asked.controls.seed, due.start_abs)
    if given.beginning is None:
        noise = _draw(settings, due, seed, latents.timesteps.shape[0])
        initial = noise.initial if latents.start is None else mix(latents.start, noise.initial, latents.share)
        step_noise = noise.steps
    else:
        initial, step_noise = given.beginning.noise, given.beginning.step_noise
    envelope = Envelope(
        **due.fields(),
        height=settings.height,
        width=settings.width,
        timesteps=latents.timesteps,
        sigmas=latents.sigmas,
        attention_bias=asked.controls.attention_bias,
        pad_sink=settings.pad_sink,
        noise=initial.to(settings.dtype),
        step_noise=step_noise.to(settings.dtype),
        embeds=embeds,
        context=None if context is None else context.to(device="cpu", dtype=settings.dtype).contiguous(),
        seed=seed,
    )
    start = replace(state.start, first=first)
    fresh = ContextWindow(policy=policy, regime=settings.regime)
    following = Stage0State(
        timeline=timeline,
        context=fresh if first else state.context,
        start=grid.after(start),
        cache_epoch=next_stamp(sender, Action.INFER, reset_kv=first).cache_epoch,
        video=latents.video,
    )
    receipts = tuple(
        Receipt(number=number, request=request, placement=grid.placement(start, request.at_s))
        for number, request in requests
    )
    return Planned(
        envelope=envelope, state=following, asked=asked, start=start, strength=latents.strength, receipts=receipts
    )


def padded_encode(sources: Sources, config: GeneratorConfig) -> Encode:
    """`sources.text` with zero rows up to text_len, as blending wants them. Raises PromptRefused for a longer one."""

    def encode(prompt: str) -> Embedding:
        rows = sources.text(prompt).float()
        length = rows.shape[0]
        if not 1 <= length <= config.text_len:
            raise PromptRefused(f"the prompt has {length} tokens of {config.text_len}", remedy="shorten the prompt")
        return Embedding(rows=torch.nn.functional.pad(rows, (0, 0, 0, config.text_len - length)), length=length)

    return encode


def _cuts_unasked(state: Stage0State, settings: StreamSettings, asked: Asked, *, video: bool) -> bool:
    """A change between text and video mode is a cut; so is, if set, a prompt change in video mode."""
    return video != (state.video is not None) or (video and settings.cut_on_prompt and asked.prompt_switched)


def _initial_latents(
    state: Stage0State,
    settings: StreamSettings,
    sources: Sources,
    asked: Asked,
    frames: Tensor | None,
    grid: ChunkGrid,
    *,
    first: bool,
) -> _Latents:
    """The step list, and in video mode the encoded input and its share."""
    if frames is None:
        timesteps, sigmas = settings.schedule.resolve(settings.steps, warped=settings.warped)
        return _Latents(timesteps=timesteps, sigmas=sigmas)
    if sources.video is None:
        raise UsageError("video input without a VAE encoder", remedy="use a VAE that has its encoder")
    count = grid.first_pixel_frames if first else grid.chunk_pixel_frames
    pixels = to_pixels(frames, height=settings.height, width=settings.width, count=count)
    before = state.video or VideoState()
    strength = asked.controls.strength
    if settings.noise_controller:
        last_frame = None if asked.cut else before.last_frame
        strength = controlled_strength(strength, motion(pixels, last_frame))
    steps = warped_steps(len(settings.steps), strength) if settings.warped else raw_steps(settings.steps, strength)
    timesteps, sigmas = settings.schedule.resolve(steps, warped=settings.warped)
    encoded, encoder = sources.video(None if first else before.encoder, pixels[None])
    return _Latents(
        timesteps=timesteps,
        sigmas=sigmas,
        start=encoded[0].float().cpu(),
        share=float(timesteps[0]) / STEP_SCALE if settings.warped else strength,
        strength=strength,
        video=VideoState(encoder=encoder, last_frame=pixels[-1]),
    )


def _given_latents(beginning: Beginning, *, video: bool) -> _Latents:
    """The step list of another stage 0. The state says no more of the input than that there is one."""
    return _Latents(timesteps=beginning.timesteps, sigmas=beginning.sigmas, video=VideoState() if video else None)


def _context(window: ContextWindow, sender: State, due: Due, sources: Sources) -> Tensor | None:
    """The frames for the pass that comes before the first step, if one does and the mesh has not kept them."""
    if not due.context_frames:
        return None
    if sender.context_source is ContextSource.MESH and due.regime is Regime.R0:
        return None
    if window.end != due.start_abs:
        raise OutOfStep(f"{due.start_abs} frames were planned and {window.end} absorbed", field="context")
    if due.recache is Recache.SWITCH:
        return window.switch_context()
    if due.recache is Recache.REBASE:
        return window.rebase_context()
    return window.recompute_context(sources.image or _no_image)


def _no_image(_: Tensor) -> Tensor:
    raise UsageError("the anchor needs a VAE encoder", remedy="use a VAE that has its encoder, or the regime R0")


def _draw(settings: StreamSettings, due: Due, seed: int, num_steps: int) -> ChunkNoise:
    height, width = latent_size(settings.height, settings.width)
    channels = settings.config.latent_channels
    return draw_noise(
        seed=seed, num_steps=num_steps, frames=due.num_frames, channels=channels, height=height, width=width
    )
