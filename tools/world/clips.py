"""The VAE's call as training wants it: whole clips that never change their layout in memory.

The arithmetic and the weights are the package's own (`genlock.media.vae`); a test holds the two equal. There, frames
are the batch of two-dimensional layers, which is what a stream on a CPU wants; here a clip stays [B, c, T, h, w],
channels-last, convolutions see it without a copy, and what lies between two of them is one pass (`activation`).

Legend: B clips, c channels, T pixel frames or t latents, h w rows and columns.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlock.media.vae import Vae
from genlock.media.vae_layers import (
    CausalConv,
    Downsample,
    FrameAttention,
    Head,
    PixelConv,
    Residual,
    SpaceUp,
    TimeConv,
    Upsample,
    _folded,
)

from .activation import PAST, Activate, Solid, best

Memory = list[Tensor]


class Past:
    """What every causal layer of one network remembers, in running order: read from `held`, written to `kept`."""

    def __init__(self, held: Memory | None, *, frames: int, keep: bool) -> None:
        self.held = None if held is None else iter(held)
        self.keep = keep
        self.kept: Memory = []
        self.over = _alone if held is None and frames == 1 else _over

    def recall(self) -> Tensor | None:
        return None if self.held is None else next(self.held)

    def remember(self, frames: Tensor, count: int) -> None:
        if self.keep:
            self.kept.append(frames[:, :, frames.shape[2] - count :].detach().clone(memory_format=Solid))


class ClipVae:
    """Both streams of a VAE over whole clips. Clips that start a stream have 1 + 4k frames, those that go on 4k."""

    def __init__(self, vae: Vae, activate: Activate | None = None) -> None:
        self.vae = vae
        self.activate = activate or best(vae.conv2.weight.device)

    def moments(
        self, frames: Tensor, memory: Memory | None = None, *, keep: bool = False
    ) -> tuple[Tensor, Tensor, Memory]:
        """Mean and log variance, unscaled [B, t, z, h, w], float32, of frames [B, T, 3, H, W] in [-1, 1]."""
        encoder, past = self.vae.encoder, Past(memory, frames=frames.shape[1], keep=keep)
        assert encoder is not None
        assert self.vae.conv1 is not None
        x = self._into(frames)
        x = self._causal(encoder.conv1, x, past)
        x = self._through([*encoder.downsamples, *encoder.middle], encoder.head, x, past)
        x = _pixelwise(self.vae.conv1, x)
        mean, log_variance = x.transpose(1, 2).float().chunk(2, dim=2)
        return mean, log_variance, past.kept

    def encode(self, frames: Tensor, memory: Memory | None = None, *, keep: bool = False) -> tuple[Tensor, Memory]:
        """Scaled latents [B, t, z, h, w], float32."""
        mean, _, kept = self.moments(frames, memory, keep=keep)
        return self.vae.scale(mean), kept

    def decode(self, latents: Tensor, memory: Memory | None = None, *, keep: bool = False) -> tuple[Tensor, Memory]:
        """Pixels [B, T, 3, H, W], float32, not clamped, of scaled latents [B, t, z, h, w]."""
        decoder, past = self.vae.decoder, Past(memory, frames=latents.shape[1], keep=keep)
        x = _pixelwise(self.vae.conv2, self._into(self.vae.unscale(latents)))
        x = self._causal(decoder.conv1, x, past)
        x = self._through([*decoder.middle, *decoder.upsamples], decoder.head, x, past)
        return x.transpose(1, 2).float(), past.kept

    def _into(self, frames: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(frames.device.type) if _autocast(frames) else self.vae.conv2.weight.dtype
        return frames.transpose(1, 2).to(dtype).contiguous(memory_format=Solid)

    def _through(self, layers: list[nn.Module], head: Head, x: Tensor, past: Past) -> Tensor:
        """Layers in order. A residual's sum waits for the next norm, which adds it up in passing."""
        waiting: tuple[Tensor, Tensor, Tensor] | None = None  # skip, and what is added to it: a convolution and bias
        for layer in [*layers, head]:
            if isinstance(layer, Residual):
                part = layer.residual
                x, active = self._norm(x, waiting, part["0"].gamma, past)
                inner = cast("CausalConv", part["2"])
                y = past.over(inner, active)
                _, active = self._norm(y, (y, inner.bias, None), part["3"].gamma, past)
                outer = cast("CausalConv", part["6"])
                skip = x if layer.shortcut is None else _pixelwise(layer.shortcut, x)
                waiting = (past.over(outer, active), outer.bias, skip)
                continue
            if isinstance(layer, Head):
                _, active = self._norm(x, waiting, cast("nn.Module", layer["0"]).gamma, past)
                last = cast("CausalConv", layer["2"])
                return past.over(last, active, last.bias)
            if waiting is not None:
                grown, bias, skip = waiting
                x, waiting = grown + bias.to(grown.dtype).view(-1, 1, 1, 1) + skip, None
            if isinstance(layer, FrameAttention):
                x = _attended(layer, x)
            elif isinstance(layer, Downsample):
                x = self._down(layer, x, past)
            elif isinstance(layer, Upsample):
                x = self._up(layer, x, past)
            else:
                raise TypeError(f"no clip form of {type(layer).__name__}")
        raise AssertionError("a network ends with its head")

    def _norm(
        self, x: Tensor, waiting: tuple[Tensor, Tensor, Tensor | None] | None, gamma: Tensor, past: Past
    ) -> tuple[Tensor, Tensor]:
        grown, bias, skip = (x, None, None) if waiting is None else waiting
        total, buffer = self.activate(grown, bias, skip, gamma, past.recall())
        past.remember(buffer, PAST)
        return total, buffer

    def _causal(self, conv: CausalConv, x: Tensor, past: Past) -> Tensor:
        before = past.recall()
        if before is None:
            before = x.new_zeros(*x.shape[:2], PAST, *x.shape[3:])
        buffer = torch.cat((before.to(x.dtype), x), dim=2).contiguous(memory_format=Solid)
        past.remember(buffer, PAST)
        return past.over(conv, buffer, conv.bias)

    def _down(self, layer: Downsample, x: Tensor, past: Past) -> Tensor:
        frames = x.shape[2]
        x = _unmerged(layer.resample["1"](F.pad(_merged(x), (0, 1, 0, 1))), frames)
        conv = layer.time_conv
        if conv is None:
            return x
        before = past.recall()
        past.remember(x, 1)
        if before is not None:
            return _along(conv, torch.cat((before.to(x.dtype), x), dim=2), stride=2)
        if frames == 1:
            return x
        return torch.cat((x[:, :, :1], _along(conv, x, stride=2)), dim=2).contiguous(memory_format=Solid)

    def _up(self, layer: Upsample, x: Tensor, past: Past) -> Tensor:
        conv = layer.time_conv
        if conv is not None:
            x = self._double(conv, x, past)
        frames = x.shape[2]
        space = cast("SpaceUp", layer.resample["1"])
        # The same map as doubling and then the 3 x 3 convolution, at less than half the work.
        (weight,) = _folded(space.weight)
        return _unmerged(F.conv_transpose2d(_merged(x), weight, space.bias, stride=2, padding=1), frames)

    def _double(self, conv: TimeConv, x: Tensor, past: Past) -> Tensor:
        before = past.recall()
        first = x[:, :, :1] if before is None else None
        rest = x[:, :, 1:] if before is None else x
        if before is None:
            before = x.new_zeros(*x.shape[:2], PAST, *x.shape[3:])
        buffer = torch.cat((before.to(x.dtype), rest), dim=2)
        past.remember(buffer, PAST)
        if not rest.shape[2]:
            return x
        both = _along(conv, buffer).permute(0, 2, 3, 4, 1)  # [B, T, h, w, earlier and later, c]
        pairs = both.unflatten(-1, (2, -1)).permute(0, 5, 1, 4, 2, 3).flatten(2, 3)
        return (pairs if first is None else torch.cat((first, pairs), dim=2)).contiguous(memory_format=Solid)


def _autocast(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)


def _over(conv: CausalConv, buffer: Tensor, bias: Tensor | None = None) -> Tensor:
    return _convolved(buffer, conv.weight, bias, stride=1, pad=conv.padding)


def _alone(conv: CausalConv, buffer: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same where the past is zero and one frame came: a third of the work."""
    frame = buffer[:, :, -1].contiguous(memory_format=torch.channels_last)
    return F.conv2d(frame, conv.weight[:, :, -1], bias, padding=conv.padding).unsqueeze(2)


def _along(conv: TimeConv, buffer: Tensor, *, stride: int = 1) -> Tensor:
    return _convolved(buffer.contiguous(memory_format=Solid), conv.weight, conv.bias, stride=stride, pad=0)


def _convolved(buffer: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, pad: int) -> Tensor:
    if buffer.device.type == "cuda":
        return F.conv3d(buffer, weight, bias, stride=(stride, 1, 1), padding=(0, pad, pad))
    # A CPU has no fast kernel of three dimensions that knows gradients: three frames are stacked as channels.
    length = buffer.shape[2]
    stacked = torch.cat([buffer[:, :, tap : length - PAST + tap : stride] for tap in range(PAST + 1)], dim=1)
    out = F.conv2d(_merged(stacked), weight.transpose(1, 2).flatten(1, 2), bias, padding=pad)
    return _unmerged(out, stacked.shape[2])


def _merged(x: Tensor) -> Tensor:
    """[B, c, T, h, w] -> [B*T, c, h, w], a view where the clip lies channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def _unmerged(x: Tensor, frames: int) -> Tensor:
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def _pixelwise(conv: PixelConv, x: Tensor) -> Tensor:
    return _unmerged(conv(_merged(x)), x.shape[2])


def _attended(layer: FrameAttention, x: Tensor) -> Tensor:
    return _unmerged(layer(_merged(x), None), x.shape[2])
