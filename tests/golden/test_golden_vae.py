"""The VAE against the original's recorded results: whole, streamed, in larger steps, and one frame alone.

The limit is the recording's own: other summation orders move float32 results by up to 7.5e-6, the smallest mistake in
the state by more than 0.1. Some of those show from the fourth latent on only, so five are decoded.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genlock.media.vae import Vae, VaeConfig, clamp_pixels
from genlock.media.vae_checkpoint import load_vae
from genlock.media.vae_layers import CONV_FORMS, ConvForm

pytestmark = pytest.mark.golden

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def index(golden_vae_dir: Path) -> dict:
    return json.loads((golden_vae_dir / "index.json").read_text())


@pytest.fixture(scope="module")
def recorded(golden_vae_dir: Path) -> dict[str, Tensor]:
    """Everything as [batch, frames, channels, rows, columns], float32."""
    tensors = load_file(golden_vae_dir / "tensors.safetensors")
    return {name: tensor.float().transpose(1, 2) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def weights(golden_vae_dir: Path, index: dict) -> Vae:
    sizes = index["config"]
    mult, blocks = tuple(sizes["dim_mult"]), sizes["num_res_blocks"]
    config = VaeConfig(
        encoder_width=sizes["dim"],
        decoder_width=sizes["dim"],
        encoder_mult=mult,
        decoder_mult=mult,
        encoder_blocks=blocks,
        decoder_blocks=blocks,
        latent_channels=sizes["z_dim"],
        mean=tuple(index["latent_mean"]),
        std=tuple(index["latent_std"]),
        temporal_downsample=tuple(sizes["temperal_downsample"]),
    )
    return load_vae(golden_vae_dir / "weights.safetensors", config)


@pytest.fixture(params=CONV_FORMS)
def vae(weights: Vae, request: pytest.FixtureRequest):
    form: ConvForm = request.param
    weights.conv_form = form
    with torch.no_grad():
        yield weights
    weights.conv_form = None


def close(found: Tensor, recorded: Tensor) -> None:
    torch.testing.assert_close(found, recorded, rtol=0, atol=TOLERANCE)


def test_a_clip_is_encoded_as_recorded_in_one_call_and_step_by_step(vae, recorded, index):
    whole, _ = vae.encode(None, recorded["clip"])
    close(whole, recorded["encode_whole"])
    state, steps = None, []
    for number, frames in enumerate(recorded["clip"].split(index["encode_steps"], dim=1)):
        latents, state = vae.encode(state, frames)
        close(latents, recorded[f"encode_stream_{number}"])
        steps.append(latents)
    chunk, _ = vae.encode_chunk(None, recorded["clip"])
    assert torch.equal(chunk, torch.cat(steps, dim=1))


def test_latents_are_decoded_as_recorded_in_one_call_and_step_by_step(vae, recorded, index):
    whole, _ = vae.decode(None, recorded["decode_latents"])
    close(whole, recorded["decode_whole"])
    state, steps = None, []
    for number, latents in enumerate(recorded["decode_latents"].split(index["decode_steps"], dim=1)):
        frames, state = vae.decode(state, latents)
        close(frames, recorded[f"decode_stream_{number}"])
        steps.append(frames)
    assert [frames.shape[1] for frames in steps] == index["decode_frames_per_step"]
    chunk, _ = vae.decode_chunk(None, recorded["decode_latents"])
    assert torch.equal(chunk, torch.cat(steps, dim=1))


@pytest.mark.parametrize("sizes", [(1, 2, 2), (3, 2), (2, 3)])
def test_latents_in_larger_steps_are_the_same_stream(vae, recorded, sizes):
    state, steps = None, []
    for latents in recorded["decode_latents"].split(sizes, dim=1):
        frames, state = vae.decode(state, latents)
        steps.append(frames)
    close(torch.cat(steps, dim=1), recorded["decode_whole"])


def test_pixel_frames_in_larger_steps_are_the_same_stream(vae, recorded):
    start, state = vae.encode(None, recorded["clip"][:, :1])
    rest, _ = vae.encode(state, recorded["clip"][:, 1:])
    close(torch.cat((start, rest), dim=1), recorded["encode_whole"])


def test_an_anchor_is_one_clamped_frame_encoded_alone(vae, recorded):
    decoded, _ = vae.decode(None, recorded["decode_latents"])
    frame = clamp_pixels(decoded[:, 8])
    close(frame, recorded["anchor_frame"][:, 0])
    close(vae.encode_image(frame), recorded["anchor_latent"][:, 0])


@pytest.mark.parametrize("form", CONV_FORMS)
def test_training_computes_what_the_run_time_computes(weights, recorded, form):
    """Under autograd other kernels run: no folded up-sampling, nothing in place, two clips side by side."""
    weights.conv_form = form
    both = torch.cat((recorded["decode_latents"].flip(1), recorded["decode_latents"]))
    frames, _ = weights.decode(None, both.requires_grad_())
    close(frames[1:].detach(), recorded["decode_whole"])
    clips = torch.cat((recorded["clip"].flip(1), recorded["clip"]))
    latents, _ = weights.encode(None, clips.requires_grad_())
    close(latents[1:].detach(), recorded["encode_whole"])
    weights.conv_form = None
