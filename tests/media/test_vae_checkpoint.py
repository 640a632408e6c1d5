"""VAE files: both naming schemes and any floating type in, upstream's names out, and every misfit refused by name."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genlock.errors import (
    CheckpointConfig,
    CheckpointDtype,
    CheckpointKeys,
    CheckpointMissing,
    CheckpointShape,
    CheckpointUnreadable,
    UsageError,
)
from genlock.media.vae import LIGHT_VAE, WAN_VAE, Vae, clamp_pixels
from genlock.media.vae_checkpoint import diffusers_name, load_vae, save_vae

CONFIG = replace(LIGHT_VAE, encoder_width=4, decoder_width=4)
TOLERANCE = 2e-5


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of CONFIG by name: exact in float16, and of a size at which the outputs are of the order of 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in Vae(CONFIG).state_dict().items():
        spread = 0.1 if tensor.ndim < 2 else 0.5 * tensor[0].numel() ** -0.5
        value = torch.randn(tensor.shape, generator=generator) * spread + name.endswith("gamma")
        drawn[name] = value.half().float()
    return drawn


@pytest.fixture(scope="module")
def named() -> dict[str, Tensor]:
    return weights()


@pytest.fixture
def file(tmp_path: Path, named: dict[str, Tensor]) -> Path:
    save_vae(load_vae(named, CONFIG), tmp_path / "vae.safetensors")
    return tmp_path / "vae.safetensors"


def same(found: Vae, expected: dict[str, Tensor]) -> bool:
    state = found.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


# -- names -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(named: dict[str, Tensor]):
    """diffusers' model with the same weights, renamed by us and loaded strictly by it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKLWan

        model = AutoencoderKLWan(base_dim=4).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    renamed = {diffusers_name(name, CONFIG): tensor for name, tensor in named.items()}
    assert renamed.keys() == shapes.keys()
    model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in renamed.items()})
    return model


def test_a_diffusers_checkpoint_is_the_same_vae(theirs, named, tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}, tmp_path / "d.safetensors")
    assert same(load_vae(tmp_path / "d.safetensors", CONFIG), named)


def test_our_streams_compute_what_diffusers_computes(theirs, named):
    vae = load_vae(named, CONFIG)
    generator = torch.Generator().manual_seed(1)
    clip = torch.rand((1, 13, 3, 32, 48), generator=generator) * 2 - 1
    with torch.no_grad():
        mean, log_variance, _ = vae.moments(None, clip)
        posterior = theirs.encode(clip.transpose(1, 2)).latent_dist
        torch.testing.assert_close(mean.transpose(1, 2), posterior.mean, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(log_variance.transpose(1, 2), posterior.logvar, rtol=0, atol=TOLERANCE)
        latents = torch.randn((1, 4, 16, 4, 6), generator=generator)
        frames, _ = vae.decode_chunk(None, latents)
        decoded = theirs.decode(vae.unscale(latents).transpose(1, 2)).sample.transpose(1, 2)
    assert decoded.abs().mean() > 0.1, "the pictures must have something to compare"
    torch.testing.assert_close(clamp_pixels(frames), clamp_pixels(decoded), rtol=0, atol=TOLERANCE)


def test_the_two_schemes_of_the_released_sizes_are_one_to_one():
    with torch.device("meta"):
        names = [name for name, _ in Vae(WAN_VAE).named_parameters()]
    renamed = [diffusers_name(name, WAN_VAE) for name in names]
    assert len(set(renamed)) == len(names) == 194
    assert (
        renamed[names.index("decoder.upsamples.7.time_conv.bias")] == "decoder.up_blocks.1.upsamplers.0.time_conv.bias"
    )
    assert renamed[names.index("encoder.downsamples.3.shortcut.weight")] == "encoder.down_blocks.3.conv_shortcut.weight"


# -- files -------------------------------------------------------------------------------------------------------


def test_a_saved_vae_comes_back_with_its_configuration(file, named):
    found = load_vae(file)
    assert found.config == CONFIG
    assert same(found, named)
    assert not found.training


def test_saved_names_and_shapes_are_upstreams(file):
    stored = load_file(file)
    assert stored["decoder.head.0.gamma"].shape == (4, 1, 1, 1)
    assert stored["encoder.middle.1.norm.gamma"].shape == (16, 1, 1)
    assert stored["conv1.weight"].shape == (32, 32, 1, 1, 1)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_pickled_checkpoint_is_read_as_float32(tmp_path, named, dtype):
    torch.save({name: tensor.to(dtype) for name, tensor in named.items()}, tmp_path / "Wan2.1_VAE.pth")
    assert same(load_vae(tmp_path / "Wan2.1_VAE.pth", CONFIG), named)


def test_weights_are_held_in_the_type_asked_for(named):
    assert {p.dtype for p in load_vae(named, CONFIG, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_loaded_vae_does_not_change_with_the_tensors_it_came_from(named):
    source = {name: tensor.clone() for name, tensor in named.items()}
    vae = load_vae(source, CONFIG)
    for tensor in source.values():
        tensor.zero_()
    assert same(vae, named)


@pytest.mark.parametrize("left_out", [(), ("encoder.", "conv1.")])
def test_a_decoder_alone_decodes_and_refuses_to_encode(named, left_out):
    kept = {name: tensor for name, tensor in named.items() if not (left_out and name.startswith(left_out))}
    vae = load_vae(kept, CONFIG, decode_only=True)
    latents = torch.randn((1, 2, 16, 2, 2), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(vae.decode_chunk(None, latents)[0], load_vae(named, CONFIG).decode_chunk(None, latents)[0])
    with pytest.raises(UsageError, match="decode only"):
        vae.encode_image(torch.zeros(1, 3, 16, 16))


# -- refusals ----------------------------------------------------------------------------------------------------


def refused(tensors: dict[str, Tensor], error: type[Exception], words: str, **how: bool) -> None:
    with pytest.raises(error, match=words):
        load_vae(tensors, CONFIG, **how)


def test_a_missing_an_unknown_and_a_doubled_tensor_are_named(named):
    rest = {name: tensor for name, tensor in named.items() if name != "decoder.head.2.bias"}
    refused(rest, CheckpointKeys, "'decoder.head.2.bias' missing")
    refused(rest, CheckpointKeys, "'decoder.head.2.bias' missing", decode_only=True)
    refused({**named, "decoder.extra": torch.zeros(1)}, CheckpointKeys, "'decoder.extra' unknown")
    refused({**named, "extra": torch.zeros(1)}, CheckpointKeys, "'extra' unknown", decode_only=True)
    twice = {**named, "quant_conv.bias": named["conv1.bias"]}
    refused(twice, CheckpointKeys, "'conv1.bias' and 'quant_conv.bias' are the same")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv2.weight", (16, 16)), ("decoder.head.0.gamma", (1, 4)), ("decoder.head.0.gamma", (5, 1, 1, 1))],
)
def test_a_tensor_of_another_shape_is_named_with_both_shapes(named, name, shape):
    wanted = list(named[name].shape)
    words = rf"'{name}' is {list(shape)}, not {wanted}".replace("[", r"\[").replace("]", r"\]")
    refused({**named, name: torch.zeros(shape)}, CheckpointShape, words)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.complex64])
def test_numbers_of_another_type_are_named(named, tmp_path, dtype):
    odd = {**named, "conv2.bias": torch.zeros(16, dtype=dtype)}
    refused(odd, CheckpointDtype, "'conv2.bias'")
    torch.save(odd, tmp_path / "vae.pth")
    with pytest.raises(CheckpointDtype, match=r"'conv2.bias'"):
        load_vae(tmp_path / "vae.pth", CONFIG)


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_files_that_are_absent_cut_short_or_hostile_are_refused(tmp_path, named, file, capsys):
    with pytest.raises(CheckpointMissing, match=r"none\.pth"):
        load_vae(tmp_path / "none.pth", CONFIG)
    for suffix in ("pth", "safetensors"):
        cut = tmp_path / f"cut.{suffix}"
        torch.save(named, cut) if suffix == "pth" else cut.write_bytes(file.read_bytes())
        cut.write_bytes(cut.read_bytes()[:-1000])
        with pytest.raises(CheckpointUnreadable, match=f"cut.{suffix}"):
            load_vae(cut, CONFIG)
    torch.save({"conv2.bias": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointUnreadable, match=r"hostile.pth"):
        load_vae(tmp_path / "hostile.pth", CONFIG)
    assert capsys.readouterr().out == ""


def test_a_configuration_must_be_there_readable_and_the_one_asked_for(tmp_path, named, file):
    with pytest.raises(CheckpointConfig, match="carries no configuration"):
        load_vae(named)
    with pytest.raises(CheckpointConfig, match="encoder_width 4, the model 24"):
        load_vae(file, LIGHT_VAE)
    stored = load_file(file)
    for written, words in (("[1]", "not a JSON object"), ("{", "not a JSON object"), ('{"a": 1}', "unknown key 'a'")):
        save_file(stored, tmp_path / "odd.safetensors", metadata={"config": written})
        with pytest.raises(CheckpointConfig, match=words):
            load_vae(tmp_path / "odd.safetensors")
    changed = json.dumps({**CONFIG.to_dict(), "decoder_blocks": 3})
    save_file(stored, tmp_path / "odd.safetensors", metadata={"config": changed})
    with pytest.raises(CheckpointKeys, match="unknown"):
        load_vae(tmp_path / "odd.safetensors")


def test_a_value_that_the_stored_type_cannot_hold_is_not_saved(tmp_path, named):
    vae = load_vae({**named, "conv2.bias": torch.full((16,), 1e6)}, CONFIG)
    with pytest.raises(CheckpointDtype, match=r"'conv2.bias' has a value that float16 cannot hold"):
        save_vae(vae, tmp_path / "vae.safetensors")
    assert list(tmp_path.iterdir()) == []
    save_vae(vae, tmp_path / "vae.safetensors", dtype=torch.float32)
