"""One rank that is both stage 0 and the mesh: plan, prepare, generate, decode, absorb.

The order and the checks are those of every topology: phase B runs from what was packed, a receiving copy of the
lifecycle accepts the frame, and pixels are decoded one latent frame at a time. What is not here: words, files, sizes
of models (all handed in), and any decision about what to show.

    F  latent frames     C, h, w  latent channels, rows, columns     T  pixel frames     H, W  pixel rows and columns
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlock.errors import NotFinite
from genlock.generator.stream import OnCall, Stream
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.lifecycle import State, accept
from genlock.wire.prepare import prepare

if TYPE_CHECKING:
    from genlock.media.vae import Vae
    from genlock.stage0.chunk import Planned
    from genlock.stage0.planner import Planner

Clock = Callable[[], float]
Alter = Callable[[Envelope], Envelope]  # a replay puts recorded noise in place of what was drawn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """One chunk. latents: [F, C, h, w]. pixels: [T, 3, H, W] in [-1, 1], None without a VAE. seconds: by phase."""

    planned: Planned
    envelope: Envelope
    latents: Tensor
    pixels: Tensor | None
    seconds: dict[str, float]


class SoloEngine:
    """Runs one stream on this process. `clock`: seconds, for the account of where time went."""

    def __init__(
        self, *, planner: Planner, stream: Stream, vae: Vae | None, lifecycle: State, clock: Clock, strict: bool = True
    ) -> None:
        self.planner, self.stream, self.vae, self._clock, self._strict = planner, stream, vae, clock, strict
        self.sender = self.receiver = lifecycle
        self._decoder: Any = None

    @torch.inference_mode()
    def next_chunk(
        self, *, frames: Tensor | None = None, alter: Alter | None = None, on_call: OnCall | None = None
    ) -> Made:
        """Make the next chunk. frames: uint8 [T, H', W', 3], the input of video-to-video.

        Whatever is refused is refused before the cache is touched; the same chunk can then be asked for again.
        """
        began = self._clock()
        planned = self.planner.plan(self.sender, frames=frames)
        try:
            prepared, sender = prepare(planned.envelope if alter is None else alter(planned.envelope), self.sender)
            envelope = prepared.unpack()
            check_model(envelope, self.stream.generator.config)
            receiver = accept(self.receiver, prepared.header, envelope)
        except BaseException:
            self.planner.drop()
            raise
        self.sender, self.receiver = sender, receiver
        self.planner.confirm(planned)
        packed = self._clock()
        latents = self.stream.run(envelope, on_call)
        self._check_finite(latents, prepared.header.chunk_index)
        generated = self._clock()
        pixels = self._decode(latents, fresh=envelope.reset_kv)
        self.planner.absorb(latents, pixels, cache_epoch=self.receiver.cache_epoch)
        seconds = {
            "plan": packed - began,
            "generator": generated - packed,
            "decode": self._clock() - generated,
        }
        return Made(planned=planned, envelope=envelope, latents=latents, pixels=pixels, seconds=seconds)

    def _decode(self, latents: Tensor, *, fresh: bool) -> Tensor | None:
        """Clamped pixels [T, 3, H, W]; a cut begins a new stream of pixels."""
        if self.vae is None:
            return None
        frames, self._decoder = self.vae.decode_chunk(None if fresh else self._decoder, latents.float().unsqueeze(0))
        return frames.squeeze(0).clamp(-1.0, 1.0)

    def _check_finite(self, latents: Tensor, chunk: int) -> None:
        if self._strict and not bool(torch.isfinite(latents).all()):
            raise NotFinite("the generator's latents are not finite", field="latents", chunk_index=chunk)
