"""One chunk after another on rank 0: plan, prepare, generate, decode, absorb.

The order and the checks are those of every topology: phase B runs from what was packed, a receiving copy of the
lifecycle accepts the frame, and pixels are decoded one latent frame at a time. Who generates, this rank alone or a mesh
with it, is handed in. What is not here: words, files, sizes of models, and any decision about what to show.

    F  latent frames     C, h, w  latent channels, rows, columns     T  pixel frames     H, W  pixel rows and columns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from genlock.engine.decoding import Decoding
from genlock.generator.stream import OnCall, Stream
from genlock.observe.rank_file import RankFile
from genlock.observe.trace import ABSORB, FETCH, GENERATE, PACK, PLAN
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.events import Events
from genlock.wire.kinds import LOADS
from genlock.wire.lifecycle import State, accept
from genlock.wire.prepare import Prepared, prepare

if TYPE_CHECKING:
    from genlock.media.vae import Vae
    from genlock.stage0.chunk import Planned
    from genlock.stage0.planner import Planner

Clock = Callable[[], float]
Alter = Callable[[Envelope], Envelope]  # a replay puts recorded noise in place of what was drawn


class Generation(Protocol):
    """What makes the latents of a prepared chunk: `engine.solo.Alone`, or `engine.tp.InLockstep`."""

    @property
    def stream(self) -> Stream: ...

    @property
    def rank_file(self) -> RankFile:
        """Of this process, with the trace that it is made from."""
        ...

    @property
    def ranks(self) -> Mapping[int, Mapping[str, Any]]:
        """What is known here of every rank: start, memory, calls (`observe/rank_file.py`)."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth saying about who generates, a line each."""
        ...

    def make(
        self,
        prepared: Prepared[Envelope],
        envelope: Envelope,
        on_call: OnCall | None = None,
        *,
        travels: Prepared[Events] | None = None,
    ) -> Tensor:
        """Latents [F, C, h, w] of `envelope`, which is what `prepared` unpacks to. travels: what workers that prepare
        their own are sent in its place."""
        ...

    def ready(self) -> None:
        """What is rank 0's alone is loaded too: a chunk can be asked for."""
        ...

    def begin_round(self) -> None:
        """Rank 0 is at work, from here to `end_round`, and must get on."""
        ...

    def end_round(self) -> None:
        """Nothing is asked for now."""
        ...

    @property
    def drain_asked(self) -> bool:
        """Whether somebody wants the stream to end after the chunk in flight."""
        ...

    def close(self, sender: State, error: BaseException | None = None) -> None:
        """The stream is over; sender: the lifecycle after its last frame. error: what ended it, if anything did."""
        ...


@contextmanager
def closing(generation: Generation, sender: Callable[[], State]) -> Iterator[None]:
    """Closes the generation at the end of the block, with what ended it. A reader that stops early is a good end."""
    try:
        yield
    except GeneratorExit:
        generation.close(sender())
        raise
    except BaseException as error:
        generation.close(sender(), error)
        raise
    generation.close(sender())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """One chunk. latents: [F, C, h, w]. pixels: [T, 3, H, W] in [-1, 1]. shown: the same, uint8 [T, H, W, 3] on the
    CPU. Both None without a VAE. seconds: by phase."""

    planned: Planned
    envelope: Envelope
    latents: Tensor
    pixels: Tensor | None
    shown: Tensor | None
    seconds: dict[str, float]


class Engine:
    """Runs one stream. clock: seconds, for the account of where time went. shadow: workers that prepare their own are
    sent the whole envelope besides."""

    def __init__(
        self,
        *,
        planner: Planner,
        generation: Generation,
        vae: Vae | None,
        lifecycle: State,
        clock: Clock,
        shadow: bool = False,
    ) -> None:
        self.planner, self.generation, self.vae, self._clock = planner, generation, vae, clock
        self._shadow = shadow
        self.sender = self.receiver = lifecycle
        self.trace = generation.rank_file.trace
        self.failed: BaseException | None = None  # what ended the latest chunk
        self._decode = Decoding(vae, self.trace.span)

    @property
    def stream(self) -> Stream:
        return self.generation.stream

    @torch.inference_mode()
    def next_chunk(
        self, *, frames: Tensor | None = None, alter: Alter | None = None, on_call: OnCall | None = None
    ) -> Made:
        """Make the next chunk. frames: uint8 [T, H', W', 3], the input of video-to-video.

        Raises what the planner refuses, and Tripwire for what does not follow. Nothing has changed where it is raised
        before the cache is touched; the same chunk can then be asked for again.
        """
        try:
            made = self._next_chunk(frames, alter, on_call)
        except BaseException as error:
            self.failed = error
            raise
        self.failed = None
        return made

    def _next_chunk(self, frames: Tensor | None, alter: Alter | None, on_call: OnCall | None) -> Made:
        began = self._clock()
        span = self.trace.span
        self.generation.begin_round()
        self.trace.at(call_id=self.sender.call_id + 1, chunk=self.sender.chunk_index + 1)
        try:
            with span(PLAN):
                planned = self.planner.plan(self.sender, frames=frames)
            with span(PACK):
                prepared, sender = prepare(planned.envelope if alter is None else alter(planned.envelope), self.sender)
                envelope = prepared.unpack()
                check_model(envelope, self.stream.generator.config)
                receiver = accept(self.receiver, prepared.header, envelope)
                travels = self._events(planned, prepared, envelope, frames)
        except BaseException:
            self.planner.drop()
            self.generation.end_round()
            raise
        self.sender, self.receiver = sender, receiver
        self.planner.confirm(planned)
        packed = self._clock()
        with span(GENERATE):
            latents = self.generation.make(prepared, envelope, on_call, travels=travels)
        generated = self._clock()
        pixels = self._decode(latents, fresh=envelope.reset_kv)
        with span(ABSORB):
            self.planner.absorb(latents, pixels, cache_epoch=self.receiver.cache_epoch)
        decoded = self._clock()
        shown = self._fetch(pixels)  # within the round: here a device that hangs is waited for
        self.generation.end_round()
        seconds = {"plan": packed - began, "generator": generated - packed, "decode": decoded - generated}
        return Made(planned=planned, envelope=envelope, latents=latents, pixels=pixels, shown=shown, seconds=seconds)

    def _events(
        self, planned: Planned, prepared: Prepared[Envelope], envelope: Envelope, frames: Tensor | None
    ) -> Prepared[Events] | None:
        """What workers prepare the same envelope from, under a plan that has them do so."""
        if not LOADS[self.sender.plan]:
            return None
        from genlock.stage0.events import events_of  # noqa: PLC0415 - rank 0's room

        events = events_of(planned, envelope, frames=frames, shadow=prepared if self._shadow else None)
        return prepare(events, self.sender)[0]

    def _fetch(self, pixels: Tensor | None) -> Tensor | None:
        """What is handed on, uint8 [T, H, W, 3] on the CPU."""
        if pixels is None:
            return None
        from genlock.media.vae import to_uint8  # noqa: PLC0415 - rank 0's room

        with self.trace.span(FETCH):
            return to_uint8(pixels).permute(0, 2, 3, 1).contiguous().cpu()
