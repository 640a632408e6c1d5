"""What stage 0 is made of, on every rank that has one: loaded as far as a plan allows, and the same for all.

`Parts` are rank 0's whole stage 0, or a worker's share of it under v0, v1a and v1b; `Preparing` is how such a worker
makes its own chunks. Only ranks with a stage 0 call anything here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlock.engine.decoding import Decoding
from genlock.engine.job import Job
from genlock.engine.planted import preparation_altered
from genlock.generator.config import pixel_frames
from genlock.generator.model_folder import ModelFolder
from genlock.generator.presets import Preset
from genlock.generator.schedule import Schedule
from genlock.observe.trace import ABSORB, PLAN, VAE_ENCODE, SpanOf
from genlock.settings import FaultKind
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.kinds import LOADS, Part
from genlock.wire.lifecycle import State
from genlock.wire.prepare import Prepared

if TYPE_CHECKING:
    from genlock.media.text import TextEncoder
    from genlock.media.vae import Vae
    from genlock.stage0.chunk import Sources, StreamSettings

UNASKED: Mapping[str, Any] = {"seed": 0, "strength": 1.0}  # before events say what is in force


class Parts:
    """Text encoder and VAE of a model folder, as far as `parts` says; `vae` and `text` are None where not loaded.

    remembered: prompts whose embeddings are kept. span_of: of each run of an encoder or a decoder. Raises what loading
    raises: CheckpointMissing, CheckpointUnreadable and their kin.
    """

    def __init__(
        self,
        folder: ModelFolder,
        device: torch.device,
        *,
        parts: frozenset[Part],
        remembered: int,
        span_of: SpanOf,
    ) -> None:
        self.device, self._span_of = device, span_of
        self.vae: Vae | None = None
        self.text: TextEncoder | None = None
        if {Part.ENCODER, Part.DECODER} & parts:
            from genlock.media.vae_checkpoint import load_vae  # noqa: PLC0415 - only where there is a stage 0

            self.vae = load_vae(folder.file("vae"), device=str(device), encode_only=Part.DECODER not in parts)
        if Part.TEXT in parts:
            from genlock.media.umt5 import load_text  # noqa: PLC0415

            self.text = load_text(
                folder.file("text"),
                tokenizer=folder.file("tokenizer"),
                max_tokens=folder.preset.generator.text_len,
                device=str(device),
                remembered=remembered,
                span_of=span_of,
            )
        self.decode = Decoding(self.vae, span_of)

    def sources(self) -> Sources:
        """What turns words and pixels into tensors."""
        from genlock.stage0.chunk import Sources  # noqa: PLC0415

        vae, text, device, span_of = self.vae, self.text, self.device, self._span_of
        assert text is not None  # every stage 0 has one

        def embed(prompt: str) -> Tensor:
            return text.encode(prompt).cpu()

        if vae is None:
            return Sources(text=embed)

        def image(frame: Tensor) -> Tensor:
            with span_of(VAE_ENCODE):
                return vae.encode_image(frame.to(device))

        def video(state: Any, frames: Tensor) -> tuple[Tensor, Any]:
            with span_of(VAE_ENCODE):
                return vae.encode_chunk(state, frames.to(device))

        return Sources(text=embed, image=image, video=video)

    @torch.inference_mode()
    def rehearse(self, job: Job) -> None:
        """Every shape of the VAE once, not measured: on some devices the first run of each is slow."""
        vae, chunk = self.vae, job.policy.chunk_frames
        if vae is None:
            return
        rows, columns = job.latent_size

        def pixels(count: int) -> Tensor:
            return torch.zeros(1, count, 3, job.height, job.width, device=self.device)

        state: Any = None
        vae.encode_image(pixels(1)[:, 0])
        for count in (pixel_frames(chunk + 1, first=True), pixel_frames(chunk, first=False)) if job.video else ():
            _, state = vae.encode_chunk(state, pixels(count))
        state = None
        for _ in range(2) if vae.decoder is not None else ():
            latents = torch.zeros(1, chunk, job.config.latent_channels, rows, columns, device=self.device)
            _, state = vae.decode_chunk(state, latents)


def stream_settings(used: Preset, job: Job, steps: tuple[int, ...], controls: Mapping[str, Any]) -> StreamSettings:
    """What stays the same for a stream. controls: seed and strength at the start."""
    from genlock.stage0.chunk import StreamSettings  # noqa: PLC0415
    from genlock.stage0.timeline import Controls  # noqa: PLC0415

    return StreamSettings(
        config=job.config,
        height=job.height,
        width=job.width,
        dtype=job.dtype,
        schedule=Schedule(used.shift),
        steps=steps,
        warped=used.warped,
        regime=job.regime,
        fps=float(used.fps),
        controls=Controls(attention_bias=used.attention_bias, **controls),
        pad_sink=used.pad_sink,
    )


class Preparing:
    """A worker's own stage 0: made while loading, then told once that warm-up is over."""

    def __init__(self, job: Job, span_of: SpanOf) -> None:
        assert job.stage0 is not None  # a job of such a plan has one
        self._job, self._stage0 = job, job.stage0
        self._span_of = span_of
        self._parts = Parts(
            self._stage0.folder,
            job.device,
            parts=LOADS[job.plan],
            remembered=self._stage0.remembered,
            span_of=span_of,
        )
        self._decodes = Part.DECODER in LOADS[job.plan]
        if job.warm:
            self._parts.rehearse(job)
        self._own: Any = None
        self._fresh = True

    def begin(self, lifecycle: State) -> None:
        """lifecycle: in which chunk 0 is due."""
        from genlock.stage0.events import OwnStage0  # noqa: PLC0415

        settings = stream_settings(self._stage0.folder.preset, self._job, self._stage0.steps, UNASKED)
        self._own = OwnStage0(settings, self._parts.sources(), lifecycle)

    @torch.inference_mode()
    def prepare(self, events: Events, faults: tuple[FaultKind, ...]) -> Prepared[Envelope]:
        """This rank's own envelope of the chunk. Raises as `OwnStage0.prepare`."""
        alter: Callable[[Envelope], Envelope] | None = None
        if faults:

            def alter(envelope: Envelope) -> Envelope:
                return preparation_altered(faults, envelope)

        with self._span_of(PLAN):
            prepared: Prepared[Envelope] = self._own.prepare(events, alter=alter)
        self._fresh = events.reset_kv
        return prepared

    @torch.inference_mode()
    def absorb(self, latents: Tensor) -> None:
        """The chunk's latents [F, C, h, w] and its pixels, as the next one's context, where none travels."""
        if self._decodes:
            pixels = self._parts.decode(latents, fresh=self._fresh)
            with self._span_of(ABSORB):
                self._own.absorb(latents, pixels)
