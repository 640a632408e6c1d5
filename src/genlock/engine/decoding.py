"""A stream of latents to a stream of pixels, chunk by chunk: rank 0's, and that of a worker that makes its own context,
which must have the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from genlock.observe.trace import VAE_DECODE, SpanOf

if TYPE_CHECKING:
    from genlock.media.vae import Vae


class Decoding:
    """vae: None, or one without a decoder, gives no pixels. span_of: of each run."""

    def __init__(self, vae: Vae | None, span_of: SpanOf) -> None:
        self._vae = None if vae is None or vae.decoder is None else vae
        self._span_of = span_of
        self._state: Any = None

    def __call__(self, latents: Tensor, *, fresh: bool) -> Tensor | None:
        """Clamped pixels [T, 3, H, W] of latents [F, C, h, w]; fresh: a cut begins a new stream of pixels."""
        if self._vae is None:
            return None
        from genlock.media.vae import clamp_pixels  # noqa: PLC0415 - on ranks that decode

        before = None if fresh else self._state
        with self._span_of(VAE_DECODE):
            frames, self._state = self._vae.decode_chunk(before, latents.float().unsqueeze(0))
        return clamp_pixels(frames.squeeze(0))
