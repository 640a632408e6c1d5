"""The layers of the Wan 2.1 video VAE in streaming form, and how their memory travels.

Gives causal convolutions, residual blocks, attention, up- and down-sampling. Every layer is a function of its input and
of what the stream remembers: memory enters a step as a tuple and leaves it as a new one (`Step`), nothing is written in
place, so a stream can be parked, two streams can share the weights, and gradients flow through a whole clip.
Does not know configurations, checkpoints, latent scaling or pixels.

Legend: N streams side by side (batch), T frames of this step, c channels (i in, o out), h w rows and columns.
Inside, tensors are [T*N, c, h, w], frame-major (frames t of all streams lie together), channels-last in memory: frames
are the batch of 2-D convolutions, and a run of frames is a view.
Source of every formula: Wan-Video/Wan2.1@9737cba:wan/modules/vae.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Self, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ConvForm: TypeAlias = Literal["three", "stack", "conv3d"]
CONV_FORMS: tuple[ConvForm, ...] = ("three", "stack", "conv3d")

KERNEL = 3  # taps of every convolution wider than 1, in time and in space
CONTEXT = KERNEL - 1  # earlier frames a causal convolution looks at
LENGTH_FLOOR = 1e-12  # shortest channel vector a norm divides by
Memory: TypeAlias = tuple[Tensor, ...]
Triple: TypeAlias = tuple[int, int, int]


class Step:
    """One step of one stream: what it remembers so far, and what it will remember.

    `past` is None on the first step of a stream, which carries exactly one frame. Layers ask `recall` and `remember` in
    running order; `memory` is the new value to carry on.
    """

    def __init__(self, past: Memory | None, *, streams: int, form: ConvForm) -> None:
        self.first = past is None
        self.streams = streams
        self.form = form
        self._past = iter(past or ())
        self._kept: list[Tensor] = []

    def recall(self) -> Tensor:
        return next(self._past)

    def remember(self, frames: Tensor) -> None:
        self._kept.append(frames)

    @property
    def memory(self) -> Memory:
        return tuple(self._kept)

    def frames(self, x: Tensor) -> int:
        return x.shape[0] // self.streams

    def remember_last(self, buffer: Tensor, count: int) -> None:
        """Keeps the last `count` frames: a copy, lest a state hold the whole buffer; a view where autograd holds it."""
        last = buffer[buffer.shape[0] - count * self.streams :]
        self.remember(last if torch.is_grad_enabled() else last.clone())

    def after_past(self, x: Tensor, *, context: int) -> Tensor:
        """What is remembered and then x, as one buffer, of which the last `context` frames are remembered next."""
        buffer = torch.cat((self.recall(), x))
        self.remember_last(buffer, context)
        return buffer


class Derived:
    """Tensors computed from a weight, kept for as long as the weight stays what it is.

    Kept only where no gradient is asked for; under autograd they are computed afresh, as part of the graph. An update
    through `.data`, which PyTorch does not count, is seen after the next `train()` or `eval()`.
    """

    def __init__(self, compute: Callable[[Tensor], Memory]) -> None:
        self._compute = compute
        self._source: Tensor | None = None  # held, so that no other tensor can come to lie at its address
        self._version = 0
        self._kept: Memory = ()

    def forget(self) -> None:
        self._source, self._kept = None, ()

    def __call__(self, weight: Tensor) -> Memory:
        if torch.is_grad_enabled():
            return self._compute(weight)
        if torch.compiler.is_compiling():
            return self._kept or self._compute(weight)
        version = 0 if weight.is_inference() else weight._version
        known = self._source is not None and self._source.data_ptr() == weight.data_ptr()
        if not known or self._version != version:
            self._source, self._version = weight.detach(), version
            self._kept = self._compute(self._source)
        return self._kept


class Deriving(nn.Module):
    """A layer that keeps derived tensors, and drops them where its weights may have changed unseen."""

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - nn.Module's signature
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002 - likewise
        self._forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def _forget(self) -> None:
        for kept in vars(self).values():
            if isinstance(kept, Derived):
                kept.forget()


def _flat(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _taps(weight: Tensor) -> Memory:
    """[o, i, 3, k, k] -> three kernels [o, i, k, k], oldest frame first."""
    return tuple(_flat(weight[:, :, tap]) for tap in range(KERNEL))


def _stacked(weight: Tensor) -> Memory:
    """[o, i, 3, k, k] -> [o, 3*i, k, k], the channels of the oldest frame first."""
    return (_flat(weight.transpose(1, 2).flatten(1, 2)),)


def _latest(weight: Tensor) -> Memory:
    """[o, i, 3, k, k] -> [o, i, k, k], the tap of the current frame."""
    return (_flat(weight[:, :, -1]),)


def _solid(weight: Tensor) -> Memory:
    """[o, i, 3, k, k], channels-last in memory."""
    return (weight.contiguous(memory_format=torch.channels_last_3d),)


def _conv3d(clip: Tensor, weight: Tensor, bias: Tensor, *, stride: Triple, padding: Triple) -> Tensor:
    """A 3-D convolution by the fast kernel.

    PyTorch hands a float32 clip on a CPU to oneDNN only from a certain size on, and smaller ones, ours among them, to
    a kernel ten times slower. So oneDNN is asked by name, which has no gradient.
    """
    exact = clip.dtype == weight.dtype == torch.float32
    if exact and runs_onednn(clip.device) and not torch.is_grad_enabled():
        return torch.mkldnn_convolution(clip, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(clip, weight, bias, stride=stride, padding=padding)


def runs_onednn(device: torch.device) -> bool:
    """Whether float convolutions on the device can be asked of oneDNN by name."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def best_form(device: torch.device) -> ConvForm:
    """The 3-D convolution wherever it has a fast kernel, which on a CPU is oneDNN's and knows no gradient."""
    fast = device.type == "cuda" or (runs_onednn(device) and not torch.is_grad_enabled())
    return "conv3d" if fast else "three"


class TimeConv(Deriving):
    """Convolution over three frames in time and k x k pixels, of frames that lie in one buffer.

    weight [o, i, 3, k, k]; space is padded with zeros to keep its size, time is not padded.
    """

    def __init__(self, channels_in: int, channels_out: int, *, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, KERNEL, pixels, pixels))
        self.bias = nn.Parameter(torch.empty(channels_out))
        self.padding = pixels // 2
        self.taps, self.stacked, self.solid = Derived(_taps), Derived(_stacked), Derived(_solid)
        self.latest = Derived(_latest)

    def last_tap(self, x: Tensor) -> Tensor:
        """The convolution where all earlier frames are zero: [T*N, i, h, w] -> [T*N, o, h, w]."""
        (weight,) = self.latest(self.weight)
        return F.conv2d(x, weight, self.bias, padding=self.padding)

    def over(self, windows: Sequence[Tensor], step: Step) -> Tensor:
        """Three tensors [T*N, i, h, w], oldest frame first -> [T*N, o, h, w]."""
        if step.form == "stack":
            (weight,) = self.stacked(self.weight)
            return F.conv2d(torch.cat(tuple(windows), dim=1), weight, self.bias, padding=self.padding)
        oldest, middle, latest = self.taps(self.weight)
        out = F.conv2d(windows[2], latest, self.bias, padding=self.padding)
        out += F.conv2d(windows[1], middle, padding=self.padding)
        out += F.conv2d(windows[0], oldest, padding=self.padding)
        return out

    def along(self, buffer: Tensor, step: Step, *, stride: int = 1) -> Tensor:
        """buffer [(T+2)*N, i, h, w] -> [T*N, o, h, w]; with stride 2, every second window only."""
        length = step.frames(buffer)
        if step.form == "conv3d":
            clip = torch.unflatten(buffer, 0, (length, step.streams)).permute(1, 2, 0, 3, 4)
            clip = clip.contiguous(memory_format=torch.channels_last_3d)
            (weight,) = self.solid(self.weight)
            out = _conv3d(clip, weight, self.bias, stride=(stride, 1, 1), padding=(0, self.padding, self.padding))
            return out.permute(2, 0, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)
        if stride == 1:
            count = (length - CONTEXT) * step.streams
            return self.over([buffer[tap * step.streams :][:count] for tap in range(KERNEL)], step)
        frames = torch.unflatten(buffer.permute(0, 2, 3, 1), 0, (length, step.streams))
        chosen = [frames[tap : length - CONTEXT + tap : stride].flatten(0, 1) for tap in range(KERNEL)]
        return self.over([window.permute(0, 3, 1, 2) for window in chosen], step)


class CausalConv(TimeConv):
    """Convolution that sees a frame and the two before it, never a later one.

    Remembers the last two frames that entered it, zeros standing in for those that never were.
    """

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*N, i, h, w] -> [T*N, o, h, w]"""
        if step.first:
            step.remember(torch.cat((torch.zeros_like(x), x)))
            return self.last_tap(x)
        return self.along(step.after_past(x, context=CONTEXT), step)

    def activated(self, norm: ChannelNorm, x: Tensor, step: Step) -> Tensor:
        """The convolution of SiLU(norm(x)). Without gradients the activation is written where it will be read."""
        if step.first or torch.is_grad_enabled():
            return self.forward(silu(norm(x)), step)
        past = step.recall()
        frames = past.shape[0] + x.shape[0]
        buffer = x.new_empty((frames, *x.shape[2:], x.shape[1])).permute(0, 3, 1, 2)
        buffer[: past.shape[0]].copy_(past)
        silu(norm(x, out=buffer[past.shape[0] :]))
        step.remember_last(buffer, CONTEXT)
        return self.along(buffer, step)


class PixelConv(nn.Module):
    """1 x 1 x 1 convolution; the weight is [o, i, 1, 1, 1] as in checkpoints."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, 0], self.bias)


class ChannelNorm(nn.Module):
    """Scales every pixel's channel vector to length sqrt(c) * gamma; a zero vector stays zero.

    The length is measured in float32 whatever the tensor's type.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))
        self.root = math.sqrt(channels)

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """[n, c, h, w] -> the same, as a new tensor; or written to `out`, where no gradient is asked for."""
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(LENGTH_FLOOR)
        gain = (self.gamma.float() * self.root)[:, None, None]
        if out is None:
            result: Tensor = (wide * length.reciprocal() * gain).to(x.dtype)
            return result
        if out.dtype == wide.dtype:
            return torch.mul(wide, length.reciprocal(), out=out).mul_(gain)
        return out.copy_((wide * length.reciprocal()).mul_(gain))


class Residual(nn.Module):
    """x -> shortcut(x) + conv(act(conv(act(x)))); the shortcut is a 1x1x1 convolution where the width changes."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(channels_in),
                "2": CausalConv(channels_in, channels_out, pixels=KERNEL),
                "3": ChannelNorm(channels_out),
                "6": CausalConv(channels_out, channels_out, pixels=KERNEL),
            }
        )
        self.shortcut = PixelConv(channels_in, channels_out) if channels_in != channels_out else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*N, i, h, w] -> [T*N, o, h, w]"""
        y = _activated(self.residual, "0", "2", x, step)
        y = _activated(self.residual, "3", "6", y, step)
        return y + (x if self.shortcut is None else self.shortcut.forward(x))


class Head(nn.ModuleDict):
    """Norm, SiLU and the last causal convolution of a network."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__({"0": ChannelNorm(channels_in), "2": CausalConv(channels_in, channels_out, pixels=KERNEL)})

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return _activated(self, "0", "2", x, step)


def _activated(part: nn.ModuleDict, norm: str, conv: str, x: Tensor, step: Step) -> Tensor:
    """Norm, SiLU and convolution, which lie in `part` under the numbers that checkpoints know them by."""
    return cast("CausalConv", part[conv]).activated(cast("ChannelNorm", part[norm]), x, step)


class FrameAttention(nn.Module):
    """One attention head of size c over the pixels of each frame; nothing is exchanged over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, _step: Step) -> Tensor:
        """[T*N, c, h, w] -> the same"""
        rows = self.to_qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)  # [T*N, h*w, 3c]
        query, key, value = rows.unsqueeze(1).chunk(3, dim=-1)
        seen = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        return x + self.proj.forward(torch.unflatten(seen, 1, x.shape[2:]).permute(0, 3, 1, 2))


class SpaceUp(Deriving, nn.Conv2d):
    """Nearest x2 in space, then a 3 x 3 convolution that halves the channels, frame by frame."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels // 2, KERNEL, padding=1)
        self.folded = Derived(_folded)

    def forward(self, x: Tensor) -> Tensor:
        """[T*N, c, h, w] -> [T*N, c/2, 2h, 2w]"""
        if self.training or torch.is_grad_enabled():
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        (weight,) = self.folded(self.weight)
        return F.conv_transpose2d(x, weight, self.bias, stride=2, padding=1)


def _folded(weight: Tensor) -> Memory:
    """[o, i, 3, 3] after nearest x2 -> [i, o, 4, 4] of the same map as a transposed convolution of stride 2.

    An even output row meets input rows r-1 and r with k0 and k1+k2, an odd one rows r and r+1 with k0+k1 and k2;
    columns alike. 16 multiply-adds instead of 36, and the large image is never written. Summed in float32.
    """
    wide = weight.float()
    for axis in (2, 3):
        k0, k1, k2 = wide.unbind(axis)
        wide = torch.stack((k2, k1 + k2, k0 + k1, k0), axis)
    return (_flat(wide.transpose(0, 1).to(weight.dtype)),)


class Upsample(nn.Module):
    """Doubles the picture, and with `time` the frames: every frame but the stream's first becomes two."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": SpaceUp(channels)})
        self.time_conv = TimeConv(channels, 2 * channels, pixels=1) if time else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*N, c, h, w] -> [T'*N, c/2, 2h, 2w]; T' = 2T with `time`, except on the first step."""
        if self.time_conv is not None:
            x = self._double(x, self.time_conv, step)
        return cast("SpaceUp", self.resample["1"]).forward(x)

    def _double(self, x: Tensor, conv: TimeConv, step: Step) -> Tensor:
        if step.first:  # passes unchanged and is not remembered: the second step meets zeros, not this frame
            step.remember(torch.cat((torch.zeros_like(x), torch.zeros_like(x))))
            return x
        both = conv.along(step.after_past(x, context=CONTEXT), step).permute(0, 2, 3, 1)
        pairs = both.reshape(-1, step.streams, *both.shape[1:3], 2, x.shape[1])  # [T, N, h, w, earlier and later, c]
        pairs = pairs.movedim(4, 1)
        return pairs.flatten(0, 2).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Halves the picture, and with `time` the frames: every two frames after the stream's first become one."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, KERNEL, stride=2)})
        self.time_conv = TimeConv(channels, channels, pixels=1) if time else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*N, c, h, w] -> [T'*N, c, h/2, w/2]; T' = T/2 with `time`, except on the first step."""
        x = cast("nn.Conv2d", self.resample["1"]).forward(F.pad(x, (0, 1, 0, 1)))
        return x if self.time_conv is None else self._halve(x, self.time_conv, step)

    def _halve(self, x: Tensor, conv: TimeConv, step: Step) -> Tensor:
        if step.first:
            step.remember(x)
            return x
        return conv.along(step.after_past(x, context=1), step, stride=2)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor nobody else holds."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
