"""The VAE as training calls it is the package's own: results, what a stream remembers, gradients."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tools.world import activation, weights
from tools.world.clips import ClipVae
from tools.world.config import SMOKE

from genlock.media.vae import Vae


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(4)
    vae = Vae(weights.vae_config(SMOKE.shape)).train()
    for parameter in vae.parameters():
        deep = parameter.ndim > 1
        torch.nn.init.normal_(parameter, 0.0 if deep else 0.3, 0.1 if deep else 0.2)
    return vae


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 9])
def test_a_clip_is_a_stream_from_its_start_and_on(vae, frames):
    clips = ClipVae(vae)
    first, later = torch.rand(2, frames, 3, 32, 48) * 2 - 1, torch.rand(2, 8, 3, 32, 48) * 2 - 1
    mean, log_variance, encoder = vae.moments(None, first)
    mean_on, _, _ = vae.moments(encoder, later)
    found, found_variance, memory = clips.moments(first, keep=True)
    found_on, _, _ = clips.moments(later, memory)
    near = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(found, mean, **near)
    torch.testing.assert_close(found_variance, log_variance, **near)
    torch.testing.assert_close(found_on, mean_on, **near)
    pixels, decoder = vae.decode(None, vae.scale(mean))
    pixels_on, _ = vae.decode(decoder, vae.scale(mean_on))
    drawn, memory = clips.decode(vae.scale(mean), keep=True)
    drawn_on, _ = clips.decode(vae.scale(mean_on), memory)
    torch.testing.assert_close(drawn, pixels, **near)
    torch.testing.assert_close(drawn_on, pixels_on, **near)


def test_gradients_are_the_package_s(vae):
    frames = torch.rand(2, 9, 3, 32, 48) * 2 - 1
    clips = ClipVae(vae)

    def gradients(loss):
        vae.zero_grad(set_to_none=True)
        loss.backward()
        return {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}

    mean, log_variance, _ = vae.moments(None, frames)
    pixels, _ = vae.decode(None, vae.scale(mean))
    expected = gradients((pixels - frames).square().mean() + log_variance.mean())
    mean, log_variance, _ = clips.moments(frames)
    pixels, _ = clips.decode(vae.scale(mean))
    found = gradients((pixels - frames).square().mean() + log_variance.mean())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_form_is_held_against_the_plain_one():
    cpu = torch.device("cpu")

    def wrong(x, bias, skip, gamma, past):
        return activation.plain(x, bias, None, gamma, past)

    with torch.no_grad():
        assert activation.difference(activation.plain, cpu, torch.float32) == 0.0
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        activation.difference(wrong, cpu, torch.float32)
    assert activation.best(cpu) is activation.plain


INTERPRETED = """
import torch
from tools.world import activation
for channels in (16, 48):
    fused = activation.Fused(rows=32)
    assert activation.difference(fused, torch.device("cpu"), torch.float32, channels) < 1e-5, channels
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="a GPU's compiler, not among the requirements")
def test_the_fused_kernels_agree_where_they_can_be_interpreted():
    # In a process of its own: Triton decides at its first import whether it interprets.
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment, timeout=300)
