"""One stream on one rank: cache, text keys and values, and what they hold; runs a chunk from what the envelope says.

Legend: F latent frames, C channels, H W latent rows and columns, L text rows, n steps, k context frames.
The stream decides nothing: resets, recompute, recache and the schedule arrive as data. It draws no noise, reads no
device value, and keeps nothing of a chunk's inputs once the chunk is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from genlock.errors import CacheRefused
from genlock.generator.cache import KeyValueCache
from genlock.generator.config import frame_tokens
from genlock.generator.model import CrossKV, Generator, sums_of_pass
from genlock.generator.parallel import TEXT
from genlock.generator.sampler import Call, CallCounter, planned_calls, sample_chunk
from genlock.generator.schedule import clean_estimate
from genlock.generator.slot_digests import ChangedSlot, SlotDigests
from genlock.generator.window import (
    CachePolicy,
    Held,
    Recache,
    Span,
    cache_frames,
    span_of_chunk,
    span_of_recompute,
)
from genlock.observe.trace import SpanOf, unmeasured

# Called after every generator call: kind, step, flow [1, F, C, H, W] and, of a denoise step, its clean estimate.
OnCall = Callable[[Call, int, Tensor, Tensor | None], None]


class ChunkInputs(Protocol):
    """What a chunk is made from: the part of an envelope that the generator reads. Tensors without batch axis."""

    @property
    def num_frames(self) -> int: ...
    @property
    def start_frame(self) -> int: ...
    @property
    def reset_kv(self) -> bool: ...
    @property
    def reset_cross(self) -> bool: ...
    @property
    def do_recompute(self) -> bool: ...
    @property
    def do_cache_write(self) -> bool: ...
    @property
    def recache(self) -> Recache | None: ...
    @property
    def timesteps(self) -> Tensor: ...
    @property
    def sigmas(self) -> Tensor: ...
    @property
    def expected_generator_calls(self) -> int: ...
    @property
    def attention_bias(self) -> float: ...
    @property
    def pad_sink(self) -> bool: ...
    @property
    def noise(self) -> Tensor: ...
    @property
    def step_noise(self) -> Tensor: ...
    @property
    def embeds(self) -> Tensor: ...
    @property
    def context(self) -> Tensor | None: ...


def announced_calls(inputs: ChunkInputs) -> list[Call]:
    """The generator calls of a chunk, in order, as its inputs ask for them."""
    return planned_calls(
        do_recompute=inputs.do_recompute,
        recache=inputs.recache is not None,
        steps=len(inputs.timesteps),
        do_cache_write=inputs.do_cache_write,
    )


def announced_passes(inputs: ChunkInputs) -> list[str]:
    """Every pass of a chunk that meets the other ranks, in order: the text's, if it is made anew, and the calls."""
    return [*([TEXT] if inputs.reset_cross else []), *announced_calls(inputs)]


class Stream:
    """The generator's side of one video stream of a fixed size.

    watch_slots: keep digests of what the cache holds, made and checked in the chunks that ask for it. span_of: of each
    pass, on the host's clock.
    """

    def __init__(
        self,
        generator: Generator,
        policy: CachePolicy,
        *,
        latent_height: int,
        latent_width: int,
        watch_slots: bool = False,
        span_of: SpanOf = unmeasured,
    ) -> None:
        config = generator.config
        self.generator, self.policy = generator, policy
        self.cache = KeyValueCache(
            layers=config.num_layers,
            frames=cache_frames(policy),
            tokens=frame_tokens(latent_height, latent_width),
            heads=config.num_heads // generator.parallel.size,
            head_dim=config.head_dim,
            dtype=generator.dtype,
            device=generator.device,
        )
        self.held = Held()
        self.cross: CrossKV | None = None
        self.observed_calls = 0
        self.slots = SlotDigests(self.cache) if watch_slots else None
        self._slots_due = False
        self.span_of = span_of

    @torch.inference_mode()
    def run(self, inputs: ChunkInputs, on_call: OnCall | None = None, *, slots_due: bool = False) -> Tensor:
        """The clean latents [F, C, H, W] of one chunk, in the generator's dtype and on its device.

        slots_due: make and check the cache's digests in this chunk; then ask `changed_slot`.
        Raises CallCount if the plan and the calls differ, CacheRefused if the cache cannot hold a call.
        """
        chunk = _OnDevice(inputs, self.generator)
        self._slots_due = slots_due
        if inputs.reset_kv:
            self._clear_cache()
            self.held = Held()
        if inputs.reset_cross:
            self._begin(TEXT)
            with self.span_of(TEXT):
                self.cross = self.generator.cross_kv(chunk.embeds)
            if self.slots is not None:
                self.slots.made_text(self.cross)
        counter = CallCounter(announced_calls(inputs), inputs.expected_generator_calls)
        if inputs.do_recompute:
            self._recompute(chunk, counter, on_call)
        if inputs.recache is not None:
            self._recache(inputs.recache, inputs.start_frame, chunk, counter, on_call)

        def denoise(z: Tensor, step: int) -> Tensor:
            span = self._chunk_span(inputs, biased=True)
            flow = self._call(Call.DENOISE, z, chunk.timesteps[step], span, counter)
            x0 = clean_estimate(z, flow, chunk.sigmas[step])
            if on_call is not None:
                on_call(Call.DENOISE, step, flow, x0)
            return x0

        latents = sample_chunk(denoise, chunk.noise, chunk.sigmas.unbind(0), chunk.step_noise)
        if inputs.do_cache_write:
            span = self._chunk_span(inputs, biased=False)
            flow = self._call(Call.CACHE_WRITE, latents, chunk.clean_time, span, counter)
            if on_call is not None:
                on_call(Call.CACHE_WRITE, 0, flow, None)
        self.observed_calls = counter.finish()
        if self.slots is not None:
            self.slots.end_chunk(self.held.end, due=slots_due)
        return latents.squeeze(0)

    def _begin(self, call: str, frames: int = 0) -> None:
        generator, census = self.generator, self.generator.census
        if census is not None and call != TEXT:
            generator.parallel.begin_call(call, None, graphs=census.digest if census.closed else 0)
        else:
            generator.parallel.begin_call(call, sums_of_pass(generator.config, call, frames, self.cache.tokens))

    def watch_slots(self, on: bool) -> None:  # noqa: FBT001 - on or off is all there is to say
        """From the next chunk on; what the cache holds now is taken as it is."""
        self.slots = SlotDigests(self.cache) if on else None
        if self.slots is not None and self.cross is not None:
            self.slots.made_text(self.cross)

    def changed_slot(self) -> ChangedSlot | None:
        """A frame slot of the cache that changed without a write, as far as was checked; waits for the device."""
        return None if self.slots is None else self.slots.changed()

    def _clear_cache(self) -> None:
        self.cache.clear()
        if self.slots is not None:
            self.slots.clear()

    def _chunk_span(self, inputs: ChunkInputs, *, biased: bool) -> Span:
        span, self.held = span_of_chunk(
            self.policy,
            self.held,
            start=inputs.start_frame,
            frames=inputs.num_frames,
            bias=inputs.attention_bias if biased else 1.0,
            pad_sink=inputs.pad_sink,
        )
        return span

    def _recompute(self, chunk: _OnDevice, counter: CallCounter, on_call: OnCall | None) -> None:
        context = chunk.required_context()
        span, self.held = span_of_recompute(self.policy, context.shape[1])
        flow = self._call(Call.RECOMPUTE, context, chunk.clean_time, span, counter)
        if on_call is not None:
            on_call(Call.RECOMPUTE, 0, flow, None)

    def _recache(
        self, kind: Recache, start: int, chunk: _OnDevice, counter: CallCounter, on_call: OnCall | None
    ) -> None:
        """A pass over recent frames with the current prompt (LongLive's prompt switch), or at positions from 0."""
        context = chunk.required_context()
        frames = context.shape[1]
        if kind is Recache.REBASE:
            self.held, first = Held(), 0
        else:
            first = start - frames
            if not self.policy.global_sink:
                self._clear_cache()
        span, self.held = span_of_chunk(self.policy, self.held, start=first, frames=frames)
        flow = self._call(Call.RECACHE, context, chunk.clean_time, span, counter)
        if on_call is not None:
            on_call(Call.RECACHE, 0, flow, None)

    def _call(self, call: Call, x: Tensor, t: Tensor, span: Span, counter: CallCounter) -> Tensor:
        counter.begin(call)
        if self.cross is None:
            raise CacheRefused("the first chunk of a stream must reset cross-attention")
        if self.slots is not None:
            self.slots.before(span, due=self._slots_due)
        self._begin(call, span.frames)
        with self.span_of(call):
            return self.generator(x, t.view(1, 1), self.cross, self.cache, span)


class _OnDevice:
    """A chunk's tensors where the generator is, with a batch axis; lives as long as the chunk."""

    def __init__(self, inputs: ChunkInputs, generator: Generator) -> None:
        device, dtype = generator.device, generator.dtype
        self.noise = inputs.noise.to(device, dtype).unsqueeze(0)
        self.step_noise = [noise.unsqueeze(0) for noise in inputs.step_noise.to(device, dtype)]
        self.embeds = inputs.embeds.to(device, dtype).unsqueeze(0)
        self.timesteps = inputs.timesteps.to(device)
        self.sigmas = inputs.sigmas.to(device)
        self.clean_time = torch.zeros((), device=device)
        self.context = None if inputs.context is None else inputs.context.to(device, dtype).unsqueeze(0)

    def required_context(self) -> Tensor:
        if self.context is None:
            raise CacheRefused("a pass over context frames was asked for and no context came with it")
        return self.context
