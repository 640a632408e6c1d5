"""What the cache is rebuilt from: the few latent frames and decoded pixels that stage 0 keeps of the stream so far.

`ContextWindow` is a value; a chunk's result makes a new one. From it come the context of a recompute pass, the frames
of a prompt switch and those of a re-base. It knows no prompt, no noise and no VAE (it is handed one to encode a frame).

    F  latent frames of a chunk     C  latent channels     h, w  latent rows and columns     k  frames of a context
    T  pixel frames                 H, W  pixel rows and columns

Source of the recompute rule: krea-ai/realtime-video@acf4b7b and daydreamlive/scope@68b0f95.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genlock.errors import OutOfStep
from genlock.generator.config import TEMPORAL_STRIDE, pixel_frames
from genlock.generator.window import CachePolicy, Policy
from genlock.wire.kinds import Regime

EncodeImage = Callable[[Tensor], Tensor]  # [B, 3, H, W] in [-1, 1] -> [B, C, h, w], a stream of its own


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContextWindow:
    """The stream since the last cut, as far as later chunks need it.

    policy, regime: what a context is made of. head: [<= sink or 1, C, h, w], the first latent frames. recent: the
    newest latent frames, in order. pixels: [T, 3, H, W] in [-1, 1], the newest decoded frames, ending before
    `pixel_end`; kept under R0a only. end: latent frames so far. pixel_end: pixel frames so far.
    """

    policy: CachePolicy
    regime: Regime | None
    head: Tensor | None = None
    recent: Tensor | None = None
    pixels: Tensor | None = None
    end: int = 0
    pixel_end: int = 0

    def after_chunk(self, latents: Tensor, pixels: Tensor | None) -> ContextWindow:
        """The window after a chunk's clean latents [F, C, h, w] and its clamped pixels [T, 3, H, W], if decoded."""
        window = self.after_latents(latents)
        return window if pixels is None else window.after_pixels(pixels)

    def after_latents(self, latents: Tensor) -> ContextWindow:
        """Latents alone: their pixels may follow later, or in parts, or (but under R0a) never."""
        grown = replace(
            self,
            head=_joined(self.head, latents)[: self._head_frames],
            recent=_joined(self.recent, latents)[-self._recent_frames :],
            end=self.end + latents.shape[0],
        )
        return grown._trimmed()

    def after_pixels(self, pixels: Tensor) -> ContextWindow:
        """The next decoded frames, kept as they are: nobody may write to them later.

        Raises OutOfStep if they are more than the latents so far stand for.
        """
        pixel_end = self.pixel_end + pixels.shape[0]
        if pixel_end > pixel_frames(self.end, first=True):
            raise OutOfStep(
                f"{pixel_end} decoded frames for {self.end} latent frames", field="pixels", remedy="report this"
            )
        if self.regime is not Regime.R0A:
            return replace(self, pixel_end=pixel_end)
        return replace(self, pixels=_joined(self.pixels, pixels), pixel_end=pixel_end)._trimmed()

    @property
    def is_early(self) -> bool:
        """Whether the next chunk's context still begins with the true first frame."""
        return self.end - self.policy.chunk_frames < self.policy.context_frames

    @property
    def anchor_pixel(self) -> int | None:
        """Index, since the cut, of the pixel frame the next context must begin with; None if it needs none.

        It is the last one of the latent frame that stands just before the context's newest frames.
        """
        if self.regime is not Regime.R0A or self.is_early:
            return None
        return TEMPORAL_STRIDE * (self.end - self.policy.context_frames)

    @property
    def has_anchor(self) -> bool:
        """Whether the next context can be made from what was decoded so far."""
        return self.anchor_pixel is None or self.anchor_pixel < self.pixel_end

    @property
    def anchor_wants_latents(self) -> int:
        """Latent frames still to decode, after those already decoded, until the next context can be made."""
        if self.has_anchor or self.anchor_pixel is None:
            return 0
        decoded = -(-self.pixel_end // TEMPORAL_STRIDE)
        return self.anchor_pixel // TEMPORAL_STRIDE + 1 - decoded

    def recompute_context(self, encode_image: EncodeImage) -> Tensor:
        """[k, C, h, w] for the pass before the next chunk of the recompute policy (regimes R0a and R0).

        Raises OutOfStep before the first chunk, or while the anchor's pixel frame is not decoded yet.
        """
        head, recent = self._latents()
        count = self.policy.context_frames
        if self.is_early:
            later = min(count, self.end) - 1
            return torch.cat([head[:1], recent[recent.shape[0] - later :]])
        if self.regime is Regime.R0:
            return recent[-count:]
        anchor = encode_image(self._anchor_frame()[None]).to(device=recent.device, dtype=recent.dtype)
        return torch.cat([anchor, recent[recent.shape[0] - (count - 1) :]])

    def switch_context(self) -> Tensor:
        """[k, C, h, w], rolling: the newest frames, up to a window, that a prompt switch makes again."""
        _, recent = self._latents()
        return recent

    def rebase_context(self) -> Tensor:
        """[k, C, h, w], rolling: the frames the cache holds, in slot order: the sink, then the newest."""
        head, recent = self._latents()
        if self.end <= self.policy.window_frames:
            return recent
        return torch.cat([head, recent[recent.shape[0] - (self.policy.window_frames - head.shape[0]) :]])

    @property
    def _head_frames(self) -> int:
        return 1 if self.policy.policy is Policy.RECOMPUTE else self.policy.sink_frames

    @property
    def _recent_frames(self) -> int:
        recompute = self.policy.policy is Policy.RECOMPUTE
        return self.policy.context_frames if recompute else self.policy.window_frames

    def _latents(self) -> tuple[Tensor, Tensor]:
        if self.head is None or self.recent is None:
            raise OutOfStep("a context was asked for before the first chunk", field="context")
        return self.head, self.recent

    def _anchor_frame(self) -> Tensor:
        """[3, H, W]"""
        index = self.anchor_pixel
        if self.pixels is None or index is None or index >= self.pixel_end:
            raise OutOfStep(f"the anchor, pixel frame {index}, is not decoded yet", field="context")
        return self.pixels[index - self.pixel_end]

    def _trimmed(self) -> ContextWindow:
        """Without the pixel frames that no later context can begin with."""
        if self.pixels is None:
            return self
        oldest = TEMPORAL_STRIDE * (self.end - self.policy.context_frames)
        held_from = self.pixel_end - self.pixels.shape[0]
        kept = self.pixels[max(0, oldest - held_from) :]  # a view: a chunk's frames are not copied to be remembered
        return replace(self, pixels=kept if kept.shape[0] else None)


def _joined(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.cat([old, new])
