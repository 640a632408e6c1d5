"""The VAE's streams: values that nobody else disturbs, steps of the sizes that make sense, gradients through both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genlock.errors import CheckpointConfig, SizeRefused, UsageError, VaeStepRefused
from genlock.media.vae import LIGHT_VAE, WAN_VAE, Vae, VaeConfig, clamp_pixels, to_uint8
from genlock.media.vae_layers import CONV_FORMS

HEIGHT, WIDTH = 16, 24
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
TINY = replace(
    WAN_VAE,
    encoder_width=3,
    decoder_width=4,
    encoder_mult=(1, 2, 1, 2),
    decoder_mult=(1, 1, 2, 3),
    encoder_blocks=1,
    decoder_blocks=1,
)


def alive(vae: Vae) -> Vae:
    """Random in every tensor: fresh weights have silent biases and a silent attention, which would hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            spread = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.normal_(1.0 if name.endswith("gamma") else 0.0, spread, generator=generator)
    return vae.eval()


@pytest.fixture(scope="module")
def vae() -> Vae:
    return alive(Vae(TINY)).requires_grad_(requires_grad=False)


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latents_of(count: int, seed: int = 0, batch: int = 1) -> Tensor:
    return noise(batch, count, TINY.latent_channels, ROWS, COLUMNS, seed=seed)


def clip_of(count: int, seed: int = 0, batch: int = 1) -> Tensor:
    return noise(batch, count, 3, HEIGHT, WIDTH, seed=seed).clamp(-1, 1)


# -- streams are values ------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_the_run_time_path_does_not_depend_on_how_a_stream_is_cut(vae, cuts):
    """One latent, and four pixel frames, a step always: bit for bit the same in every chunking."""
    with torch.no_grad():
        latents = latents_of(sum(cuts))
        whole, _ = vae.decode_chunk(None, latents)
        state, parts = None, []
        for chunk in latents.split(cuts, dim=1):
            frames, state = vae.decode_chunk(state, chunk)
            parts.append(frames)
        assert torch.equal(torch.cat(parts, dim=1), whole)

        clip = clip_of(4 * sum(cuts) - 3)
        whole, _ = vae.encode_chunk(None, clip)
        counts = [4 * cuts[0] - 3, *(4 * cut for cut in cuts[1:])]
        state, parts = None, []
        for frames in clip.split(counts, dim=1):
            chunk, state = vae.encode_chunk(state, frames)
            parts.append(chunk)
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_the_run_time_path_hands_the_decoder_one_latent_at_a_time(vae, monkeypatch):
    carried = []
    original = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda x, step: (carried.append(len(x)), original(x, step))[1])
    _, state = vae.decode_chunk(None, latents_of(3))
    vae.decode_chunk(state, latents_of(3, seed=1))
    assert carried == [1] * 6


def test_a_stream_may_be_parked_rolled_back_and_interleaved_with_another(vae):
    first, second = latents_of(4, seed=1), latents_of(4, seed=2)
    alone = [vae.decode_chunk(None, latents)[0] for latents in (first, second)]
    states, parts = [None, None], [[], []]
    for step in range(4):
        for which, latents in enumerate((first, second)):
            frames, states[which] = vae.decode_chunk(states[which], latents[:, step : step + 1])
            parts[which].append(frames)
            vae.decode_chunk(states[which], latents_of(1, seed=9))  # a step that is rolled back
    for found, expected in zip(parts, alone, strict=True):
        assert torch.equal(torch.cat(found, dim=1), expected)


def test_an_anchor_leaves_the_pixel_stream_alone(vae):
    clip = clip_of(9)
    expected, _ = vae.encode_chunk(None, clip)
    start, state = vae.encode_chunk(None, clip[:, :5])
    kept = [memory.clone() for memory in state.memory]
    anchor = vae.encode_image(clip[:, 3])
    assert torch.equal(anchor, vae.encode(None, clip[:, 3:4])[0][:, 0])
    assert all(torch.equal(a, b) for a, b in zip(kept, state.memory, strict=True))
    rest, _ = vae.encode_chunk(state, clip[:, 5:])
    assert torch.equal(torch.cat((start, rest), dim=1), expected)


def test_a_state_owns_no_more_than_it_remembers(vae):
    _, decoder = vae.decode_chunk(None, latents_of(2))
    _, encoder = vae.encode_chunk(None, clip_of(5))
    for memory in (*decoder.memory, *encoder.memory):
        assert memory.untyped_storage().nbytes() == memory.numel() * memory.element_size()


@pytest.mark.parametrize("form", CONV_FORMS)
def test_streams_side_by_side_do_not_mix(vae, monkeypatch, form):
    monkeypatch.setattr(vae, "conv_form", form)
    latents = torch.cat([latents_of(3, seed=seed) for seed in range(3)])
    together, _ = vae.decode(None, latents)
    clips = torch.cat([clip_of(9, seed=seed) for seed in range(3)])
    encoded, _ = vae.encode(None, clips)
    for row in range(3):
        for found, alone in (
            (together, vae.decode(None, latents[row : row + 1])[0]),
            (encoded, vae.encode(None, clips[row : row + 1])[0]),
        ):  # other kernels may serve another batch: rounding, of numbers of the order of 1
            torch.testing.assert_close(found[row : row + 1], alone, rtol=0, atol=1e-4)


# -- what training asks for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", CONV_FORMS)
def test_gradients_reach_every_weight_and_the_first_frame(form):
    vae = alive(Vae(TINY, conv_form=form)).train()
    clip = clip_of(9, batch=2).requires_grad_()
    mean, log_variance, _ = vae.moments(None, clip)
    latents = vae.scale(mean + (0.5 * log_variance).exp() * noise(*mean.shape))
    frames, _ = vae.decode(None, latents)
    assert frames.shape == clip.shape
    frames[:, -1].square().mean().backward()
    silent = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []
    assert clip.grad[:, 0].abs().max() > 0


def test_gradients_cross_a_carried_state():
    vae = alive(Vae(TINY))
    early = latents_of(2).requires_grad_()
    _, state = vae.decode(None, early)
    frames, _ = vae.decode(state, latents_of(1, seed=1))
    frames.sum().backward()
    assert early.grad[:, 1].abs().max() > 0


def test_weights_that_change_are_seen_though_kernels_are_kept(vae):
    """The run time keeps kernels that it made from weights; a training step in between must not leave old ones."""
    changed = alive(Vae(TINY))
    before, _ = changed.decode_chunk(None, latents_of(2))
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.mul_(1.1)
    after, _ = changed.decode_chunk(None, latents_of(2))
    fresh = Vae(TINY).eval()
    fresh.load_state_dict(changed.state_dict())
    assert torch.equal(after, fresh.decode_chunk(None, latents_of(2))[0])
    assert not torch.allclose(before, after)
    changed.load_state_dict(vae.state_dict())
    assert torch.equal(changed.decode_chunk(None, latents_of(2))[0], vae.decode_chunk(None, latents_of(2))[0])


def test_weights_changed_behind_pytorchs_back_are_seen_after_eval(vae):
    """An average of weights is often written through `.data`, which no version counts."""
    average = alive(Vae(TINY))
    before, _ = average.decode_chunk(None, latents_of(2))
    for parameter in average.parameters():
        parameter.data.mul_(0.5)
    average.eval()
    fresh = Vae(TINY).eval()
    fresh.load_state_dict(average.state_dict())
    after, _ = average.decode_chunk(None, latents_of(2))
    assert torch.equal(after, fresh.decode_chunk(None, latents_of(2))[0])
    assert not torch.allclose(before, after)


def test_sixteen_bit_weights_keep_scales_and_norms_in_full_precision(vae):
    """With norms or scales in 16 bit the error would be several times larger; rounding alone stays below this."""
    expected, _ = vae.decode_chunk(None, latents_of(3))
    half = Vae(TINY).eval()
    half.load_state_dict(vae.state_dict())
    half.to(torch.bfloat16)
    found, _ = half.decode_chunk(None, latents_of(3))
    assert found.dtype is torch.float32
    assert (found - expected).square().mean().sqrt() < 0.05 * expected.square().mean().sqrt()
    mean = noise(1, 1, 16, 2, 2).bfloat16()
    torch.testing.assert_close(half.unscale(half.scale(mean)), mean.float())


# -- what is refused ---------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Vae], object], type[Exception], str]] = {
    "two frames to start": (lambda v: v.encode(None, clip_of(2)), VaeStepRefused, "2 pixel frames"),
    "four frames to start": (lambda v: v.encode_chunk(None, clip_of(4)), VaeStepRefused, "4 pixel frames"),
    "no frame": (lambda v: v.encode(None, clip_of(0)), VaeStepRefused, "0 pixel frames"),
    "six to go on": (lambda v: v.encode(started(v), clip_of(6)), VaeStepRefused, "6 pixel frames"),
    "five to go on": (lambda v: v.encode(started(v), clip_of(5)), VaeStepRefused, "goes on with 4k"),
    "no latent": (lambda v: v.decode(None, latents_of(0)), VaeStepRefused, r"\[1, 0, 16, 2, 3\]"),
    "channels": (lambda v: v.decode(None, noise(1, 1, 8, 2, 3)), VaeStepRefused, r"\[1, 1, 8, 2, 3\]"),
    "grey": (lambda v: v.encode(None, noise(1, 1, 1, 16, 16)), VaeStepRefused, r"\[1, 1, 1, 16, 16\]"),
    "size": (lambda v: v.encode(None, noise(1, 1, 3, 20, 16)), SizeRefused, "16x20"),
    "other size": (lambda v: v.encode(started(v), noise(1, 4, 3, 16, 16)), VaeStepRefused, "does not follow"),
    "other batch": (lambda v: v.encode(started(v), clip_of(4, batch=2)), VaeStepRefused, "batch 2"),
    "no encoder": (lambda v: Vae(TINY, encoder=False).encode_image(clip_of(1)[0]), UsageError, "decode only"),
}


def started(vae: Vae):
    return vae.encode(None, clip_of(1))[1]


@pytest.mark.parametrize("case", REFUSED)
def test_a_step_that_no_stream_can_take_is_refused_by_its_numbers(vae, case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call(vae)


# -- sizes -------------------------------------------------------------------------------------------------------


def test_the_released_model_has_its_number_of_weights():
    with torch.device("meta"):
        wan, light = Vae(WAN_VAE), Vae(LIGHT_VAE)
    assert sum(parameter.numel() for parameter in wan.parameters()) == 126_892_531
    assert len(wan.state_dict()) == len(light.state_dict()) == 194
    assert light.state_dict().keys() == wan.state_dict().keys()
    assert light.decoder.middle[0].residual["2"].weight.shape == (96, 96, 3, 3, 3)


def test_a_configuration_survives_being_written():
    assert VaeConfig.from_dict(TINY.to_dict()) == TINY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 4}, "unknown key 'width'"),
        ({"std": None}, "std is None"),
        ({"encoder_width": True}, "encoder_width is True"),
        ({"decoder_mult": [1, 2, "4", 4]}, "decoder_mult is"),
        ({"mean": [0.0] * 15 + [float("nan")]}, "not finite numbers"),
        ({"mean": [0.0] * 15}, "15 numbers for 16"),
        ({"std": [0.0] * 16}, "not positive"),
        ({"encoder_mult": [1, 2, 4]}, "4 levels"),
        ({"temporal_downsample": [False, False, True]}, "stride of 8"),
        ({"decoder_width": 3, "decoder_mult": [1, 1, 1, 2]}, "cannot be halved"),
        ({"decoder_blocks": 0}, "below 1"),
        ({"encoder_mult": [1, 0, 4, 4]}, "below 1"),
    ],
)
def test_a_configuration_that_makes_no_vae_is_refused_by_name(change, words):
    with pytest.raises(CheckpointConfig, match=words):
        VaeConfig.from_dict({**TINY.to_dict(), **change})


def test_a_configuration_without_a_number_is_refused():
    values = TINY.to_dict()
    del values["mean"]
    with pytest.raises(CheckpointConfig, match="missing key 'mean'"):
        VaeConfig.from_dict(values)


def test_pixels_are_clamped_once_and_rounded_to_bytes():
    numbers = torch.tensor([-3.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 7.0])
    assert clamp_pixels(numbers).tolist() == numbers.clamp(-1, 1).tolist()
    assert to_uint8(numbers).tolist() == [0, 0, 0, 128, 191, 255, 255, 255]
