"""The Wan 2.1 video VAE as two streams: pixel frames to latents, latents to pixel frames.

Gives `Vae` (encode, decode, one frame alone as an anchor), the state of either stream as a value, and the
way from the decoder's numbers to pixels. The released model, LightVAE and the bundled small one are the same code with
other numbers. Does not know checkpoint files (`vae_checkpoint`), video files, or who asks.

Legend: B streams side by side, T pixel frames or latents (t the other side's count), H W pixels, h = H/8 and w = W/8.
A stream is causal in time: its first pixel frame is one latent, every later four frames are one.
Source: Wan-Video/Wan2.1@9737cba:wan/modules/vae.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from genlock.errors import SizeRefused, UsageError, VaeStepRefused
from genlock.generator.config import SPATIAL_STRIDE, TEMPORAL_STRIDE
from genlock.media.vae_config import LIGHT_VAE, WAN_MEAN, WAN_STD, WAN_VAE, VaeConfig
from genlock.media.vae_layers import (
    KERNEL,
    CausalConv,
    ConvForm,
    Downsample,
    FrameAttention,
    Head,
    Memory,
    PixelConv,
    Residual,
    Step,
    Upsample,
    best_form,
)

__all__ = [
    "LIGHT_VAE",
    "WAN_MEAN",
    "WAN_STD",
    "WAN_VAE",
    "Decoder",
    "DecoderState",
    "Encoder",
    "EncoderState",
    "Vae",
    "VaeConfig",
    "clamp_pixels",
    "to_uint8",
]

PIXEL_CHANNELS = 3
UINT8_HALF_RANGE = 127.5  # [-1, 1] -> [0, 255]


@dataclass(frozen=True, slots=True)
class EncoderState:
    """What an encoder stream remembers: per causal layer, in running order, the last frames that entered it."""

    memory: Memory


@dataclass(frozen=True, slots=True)
class DecoderState:
    """What a decoder stream remembers: per causal layer, in running order, the last frames that entered it."""

    memory: Memory


class Encoder(nn.Module):
    """Pixels to moments before the last 1 x 1 x 1 convolution."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.encoder_width * m for m in (1, *config.encoder_mult)]
        self.conv1 = CausalConv(PIXEL_CHANNELS, widths[0], pixels=KERNEL)
        levels: list[nn.Module] = []
        for level, (narrow, wide) in enumerate(pairwise(widths)):
            levels += [Residual(narrow if block == 0 else wide, wide) for block in range(config.encoder_blocks)]
            if level < len(config.temporal_downsample):
                levels.append(Downsample(wide, time=config.temporal_downsample[level]))
        self.downsamples = nn.ModuleList(levels)
        self.middle = _middle(widths[-1])
        self.head = Head(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*B, 3, H, W] -> [t*B, 2z, h, w]"""
        x = self.conv1(x, step)
        for layer in (*self.downsamples, *self.middle, self.head):
            x = layer(x, step)
        return x


class Decoder(nn.Module):
    """Unscaled latents to pixels."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        widths = [config.decoder_width * m for m in reversed(config.decoder_mult)]
        self.conv1 = CausalConv(config.latent_channels, widths[0], pixels=KERNEL)
        self.middle = _middle(widths[0])
        levels: list[nn.Module] = []
        narrow = widths[0]
        for level, wide in enumerate(widths):
            levels += [Residual(narrow if block == 0 else wide, wide) for block in range(config.decoder_blocks + 1)]
            if level < len(config.temporal_downsample):
                levels.append(Upsample(wide, time=config.temporal_downsample[-1 - level]))
            narrow = wide // 2
        self.upsamples = nn.ModuleList(levels)
        self.head = Head(widths[-1], PIXEL_CHANNELS)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """[T*B, z, h, w] -> [t*B, 3, H, W]"""
        x = self.conv1(x, step)
        for layer in (*self.middle, *self.upsamples, self.head):
            x = layer(x, step)
        return x


def _middle(width: int) -> nn.ModuleList:
    return nn.ModuleList([Residual(width, width), FrameAttention(width), Residual(width, width)])


class Vae(nn.Module):
    """Encoder and decoder streams over one set of weights.

    `conv_form` says how a causal convolution is computed: three 2-D convolutions on views, one on stacked channels, or
    a 3-D one; None takes what suits the device. All are the same function up to rounding (2e-5 in float32).
    Tensors come and go on the weights' device; inputs may have any floating type, results are float32, and the work is
    done in the weights' type. Latent scaling and norm lengths are float32 always. With `encoder=False` the VAE holds
    what decoding needs and refuses to encode, with `decoder=False` the other way round.
    """

    def __init__(
        self, config: VaeConfig, *, encoder: bool = True, decoder: bool = True, conv_form: ConvForm | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.conv_form = conv_form
        channels = config.latent_channels
        self.encoder = Encoder(config) if encoder else None
        self.conv1 = PixelConv(2 * channels, 2 * channels) if encoder else None
        self.decoder = Decoder(config) if decoder else None
        self.conv2 = PixelConv(channels, channels)
        self._scales: dict[torch.device, tuple[Tensor, Tensor]] = {}
        _initialise(self)

    def encode(self, state: EncoderState | None, frames: Tensor) -> tuple[Tensor, EncoderState]:
        """Go on with a stream of pixels: frames [B, T, 3, H, W] in [-1, 1] -> scaled latents [B, t, z, h, w], float32.

        `state` None starts a stream: T = 1 + 4k, computed as 1 and the rest together; later T = 4k.
        Raises VaeStepRefused for any other count or another batch or size than the state's, SizeRefused for a picture
        that is no multiple of 8.
        """
        mean, _, state = self.moments(state, frames)
        return self.scale(mean), state

    def encode_chunk(self, state: EncoderState | None, frames: Tensor) -> tuple[Tensor, EncoderState]:
        """`encode`, four pixel frames a step always: bit-equal however a stream is cut into chunks."""
        self._check_frames(state, frames)
        latents = []
        for group in _split(frames, first=state is None, later=TEMPORAL_STRIDE):
            latent, state = self.encode(state, group)
            latents.append(latent)
        assert state is not None
        return torch.cat(latents, dim=1), state

    def encode_image(self, frame: Tensor) -> Tensor:
        """One picture as a stream of its own, for an anchor: [B, 3, H, W] in [-1, 1] -> scaled [B, z, h, w]."""
        latents, _ = self.encode(None, frame.unsqueeze(1))
        return latents[:, 0]

    def moments(self, state: EncoderState | None, frames: Tensor) -> tuple[Tensor, Tensor, EncoderState]:
        """Mean and log variance, unscaled: frames as in `encode` -> two [B, t, z, h, w], float32, and the new state."""
        self._check_frames(state, frames)
        assert self.encoder is not None
        assert self.conv1 is not None
        parts = []
        for group in _split(frames, first=state is None, later=frames.shape[1]):
            step = Step(None if state is None else state.memory, streams=frames.shape[0], form=self._form())
            parts.append(_apart(self.conv1(self.encoder(self._joined(group), step)), step))
            state = EncoderState(step.memory)
        assert state is not None
        mean, log_variance = torch.cat(parts, dim=1).float().chunk(2, dim=2)
        return mean.contiguous(), log_variance.contiguous(), state

    def decode(self, state: DecoderState | None, latents: Tensor) -> tuple[Tensor, DecoderState]:
        """Go on with a stream of latents: scaled [B, T, z, h, w] -> pixels [B, t, 3, H, W], float32, NOT clamped.

        Four pixel frames a latent, one for the first latent of a stream (`state` None), which is computed alone; all
        others together, which is what training wants. The run-time path is `decode_chunk`.
        Raises VaeStepRefused for no latent, or another batch, channel count or size than the state's.
        """
        self._check_latents(state, latents)
        return self._decode(state, latents, later=latents.shape[1])

    def decode_chunk(self, state: DecoderState | None, latents: Tensor) -> tuple[Tensor, DecoderState]:
        """`decode`, one latent a step always: bit-equal in every topology and however a stream is cut into chunks."""
        self._check_latents(state, latents)
        return self._decode(state, latents, later=1)

    def scale(self, mean: Tensor) -> Tensor:
        """The encoder's mean [..., z, h, w] -> latents as the generator has them, float32."""
        centre, spread = self._scale_of(mean.device)
        return (mean.float() - centre) / spread

    def unscale(self, latents: Tensor) -> Tensor:
        """The inverse of `scale`, float32."""
        centre, spread = self._scale_of(latents.device)
        return latents.float() * spread + centre

    def _decode(self, state: DecoderState | None, latents: Tensor, *, later: int) -> tuple[Tensor, DecoderState]:
        if self.decoder is None:
            raise UsageError("this VAE was loaded to encode only", remedy="load it with its decoder")
        parts = []
        for group in _split(latents, first=state is None, later=later):
            step = Step(None if state is None else state.memory, streams=latents.shape[0], form=self._form())
            parts.append(_apart(self.decoder(self.conv2(self._joined(self.unscale(group))), step), step))
            state = DecoderState(step.memory)
        assert state is not None
        return torch.cat(parts, dim=1).float().contiguous(), state

    def _form(self) -> ConvForm:
        return self.conv_form or best_form(self.conv2.weight.device)

    def _joined(self, frames: Tensor) -> Tensor:
        """[B, T, c, h, w] -> [T*B, c, h, w], channels-last, in the weights' type."""
        joined = frames.transpose(0, 1).flatten(0, 1).to(self.conv2.weight.dtype)
        return joined.contiguous(memory_format=torch.channels_last)

    def _scale_of(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._scales:  # once per device: a copy to a GPU in every step would wait for it
            numbers = torch.tensor([self.config.mean, self.config.std], dtype=torch.float32, device=device)
            mean, std = numbers[..., None, None]
            self._scales[device] = (mean, std)
        return self._scales[device]

    def _check_frames(self, state: EncoderState | None, frames: Tensor) -> None:
        if self.encoder is None:
            raise UsageError("this VAE was loaded to decode only", remedy="load it with its encoder")
        if frames.ndim != 5 or frames.shape[2] != PIXEL_CHANNELS:
            raise VaeStepRefused(
                f"pixel frames of shape {list(frames.shape)} are not [batch, frames, 3, height, width]"
            )
        count, height, width = frames.shape[1], *frames.shape[3:]
        wanted = 1 if state is None else 0
        if count < 1 or count % TEMPORAL_STRIDE != wanted:
            rule = "starts with 1 + 4k (1, 5, 9, ...)" if state is None else "goes on with 4k (4, 8, 12, ...)"
            raise VaeStepRefused(f"{count} pixel frames: an encoder stream {rule}")
        if height < 1 or width < 1 or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise SizeRefused(
                f"{width}x{height} pixels: both sides must be positive multiples of {SPATIAL_STRIDE}",
                remedy=f"use a height and a width that are multiples of {SPATIAL_STRIDE}",
            )
        _check_follows(None if state is None else state.memory, frames)

    def _check_latents(self, state: DecoderState | None, latents: Tensor) -> None:
        channels = self.config.latent_channels
        if latents.ndim != 5 or latents.shape[2] != channels or latents.shape[1] < 1:
            raise VaeStepRefused(
                f"latents of shape {list(latents.shape)} are not [batch, latents, {channels}, rows, columns]"
                " with one latent or more"
            )
        _check_follows(None if state is None else state.memory, latents)


def clamp_pixels(frames: Tensor) -> Tensor:
    """Decoded numbers -> pixels in [-1, 1], what delivery and the anchor both use."""
    return frames.clamp(-1.0, 1.0)


def to_uint8(frames: Tensor) -> Tensor:
    """Pixels in [-1, 1] (clamped here) -> bytes, rounded to the nearest, same shape."""
    return ((clamp_pixels(frames.float()) + 1.0) * UINT8_HALF_RANGE).round().to(torch.uint8)


def _split(frames: Tensor, *, first: bool, later: int) -> list[Tensor]:
    """[B, T, ...] in the steps of a stream: the first frame of a stream alone, then `later` at a time."""
    alone = [frames[:, :1]] if first else []
    rest = frames[:, 1:] if first else frames
    return alone + (list(torch.split(rest, later, dim=1)) if rest.shape[1] else [])


def _apart(x: Tensor, step: Step) -> Tensor:
    """[T*B, c, h, w] -> [B, T, c, h, w]"""
    return torch.unflatten(x, 0, (-1, step.streams)).transpose(0, 1)


def _check_follows(memory: Memory | None, frames: Tensor) -> None:
    """A stream keeps its batch and size: the first remembered frames are what entered the network."""
    if memory is None:
        return
    batch, size = memory[0].shape[0] // 2, memory[0].shape[2:]
    if (batch, size) != (frames.shape[0], frames.shape[3:]):
        raise VaeStepRefused(
            f"a step of batch {frames.shape[0]} and size {list(frames.shape[3:])} does not follow"
            f" a stream of batch {batch} and size {list(size)}"
        )


def _initialise(vae: Vae) -> None:
    """Weights to train from: fan-in uniform, no bias, attention silent, norms at 1."""
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
        elif name.endswith(("bias", "middle.1.proj.weight")):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_uniform_(parameter, nonlinearity="linear")
