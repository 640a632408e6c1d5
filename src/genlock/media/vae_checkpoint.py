"""VAE weights in files: upstream's names and diffusers', any floating type, checked name by name and shape by shape.

Knows the two naming schemes and no computation. Upstream's names are the parameters' own; diffusers' are derived from
them, so the way back is the same table read the other way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from genlock.errors import CheckpointConfig, CheckpointDtype, CheckpointKeys, CheckpointShape
from genlock.generator.tensor_files import FLOATS, few, open_tensors, write_tensors
from genlock.media.vae import Vae, VaeConfig

CONFIG_KEY = "config"  # of the safetensors metadata: JSON of VaeConfig.to_dict
ENCODE_ONLY = ("encoder.", "conv1.")  # upstream names that decoding does without
DECODE_ONLY = ("decoder.",)  # and those that encoding does without

_TOP = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_SIDE = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_MIDDLE = ("resnets.0", "attentions.0", "resnets.1")


def diffusers_name(name: str, config: VaeConfig) -> str:
    """The name that diffusers' AutoencoderKLWan gives a parameter of `Vae`, whose own name is upstream's."""
    owner, _, leaf = name.rpartition(".")
    if owner in _TOP:
        return f"{_TOP[owner]}.{leaf}"
    side, _, inner = owner.partition(".")
    if inner in _SIDE:
        return f"{side}.{_SIDE[inner]}.{leaf}"
    room, number, part = inner.split(".", 2)
    part = _RESIDUAL.get(part, part)
    if room == "middle":
        place = f"mid_block.{_MIDDLE[int(number)]}"
    elif room == "downsamples":
        place = f"down_blocks.{number}"
    else:  # a level is its residual blocks and one up-sampler
        residuals = config.decoder_blocks + 1
        level, index = divmod(int(number), residuals + 1)
        place = f"up_blocks.{level}." + (f"resnets.{index}" if index < residuals else "upsamplers.0")
    return f"{side}.{place}.{part}.{leaf}"


def load_vae(
    source: Path | str | Mapping[str, Tensor],
    config: VaeConfig | None = None,
    *,
    decode_only: bool = False,
    encode_only: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Vae:
    """A VAE in evaluation mode, its weights in `dtype` on `device`, without gradients until they are asked for.

    source: a file as `open_tensors` takes it, or named tensors. config: None takes the one written in the file.
    decode_only, encode_only: reads and keeps that half alone. Names may be upstream's or diffusers'.
    Raises CheckpointMissing, CheckpointUnreadable, CheckpointDtype; CheckpointKeys and CheckpointShape naming the
    tensor; CheckpointConfig if there is no configuration, or one that contradicts `config`.
    """
    with ExitStack() as files:
        metadata: Mapping[str, str] = {}
        read: Callable[[str], Tensor]
        if isinstance(source, Mapping):
            where, read = "VAE tensors", source.__getitem__
            shapes = {name: tuple(tensor.shape) for name, tensor in source.items()}
            _check_floats(source, where=where)
        else:
            where = str(source)
            opened = files.enter_context(open_tensors(Path(source), device=device))
            read, shapes, metadata = opened.read, opened.shapes, opened.metadata
        config = _agreed(config, metadata.get(CONFIG_KEY), where=where)
        with torch.device("meta"):
            vae = Vae(config, encoder=not decode_only, decoder=not encode_only)
        wanted = {name: tuple(parameter.shape) for name, parameter in vae.state_dict().items()}
        stored = _stored_names(shapes, config, where=where)
        left = (*(ENCODE_ONLY if decode_only else ()), *(DECODE_ONLY if encode_only else ()))
        stored = {name: theirs for name, theirs in stored.items() if not name.startswith(left)}
        _check_names(stored, wanted, where=where)
        for name, shape in wanted.items():
            _check_shape(stored[name], shapes[stored[name]], shape, where=where)
        weights = {
            name: torch.empty(shape, dtype=dtype, device=device).copy_(read(stored[name]).reshape(shape))
            for name, shape in wanted.items()
        }
    vae.load_state_dict(weights, strict=True, assign=True)
    return vae.eval().requires_grad_(requires_grad=False)


def save_vae(vae: Vae, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes weights under upstream's names and shapes, and the configuration; whole or not at all.

    Raises CheckpointDtype where a value does not fit `dtype`, InputOutputError.
    """
    tensors = {}
    for name, tensor in vae.state_dict().items():
        cast = tensor.detach().to(dtype)
        if not bool(torch.isfinite(cast).all()):
            kind = str(dtype).removeprefix("torch.")
            raise CheckpointDtype(
                f"tensor {name!r} has a value that {kind} cannot hold",
                where=str(path),
                remedy="save as bfloat16 or float32, or look for NaN in the weights",
            )
        tensors[name] = cast.reshape(_upstream_shape(name, tuple(cast.shape)))
    write_tensors(path, tensors, {CONFIG_KEY: json.dumps(vae.config.to_dict())})


def _upstream_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Gains are kept as [c] here and stored as [c, 1, 1, 1], those of an attention as [c, 1, 1]."""
    if not name.endswith(".gamma"):
        return shape
    return (*shape, 1, 1) if name.endswith(".norm.gamma") else (*shape, 1, 1, 1)


def _stored_names(shapes: Mapping[str, object], config: VaeConfig, *, where: str) -> dict[str, str]:
    """Upstream name -> name in the file; a name of neither scheme stands for itself."""
    with torch.device("meta"):
        names = [name for name, _ in Vae(config).named_parameters()]
    theirs = {diffusers_name(name, config): name for name in names}
    stored: dict[str, str] = {}
    for name in shapes:
        ours = theirs.get(name, name)
        if ours in stored:
            raise CheckpointKeys(f"{stored[ours]!r} and {name!r} are the same tensor", where=where)
        stored[ours] = name
    return stored


def _agreed(config: VaeConfig | None, written: str | None, *, where: str) -> VaeConfig:
    if written is None:
        if config is None:
            raise CheckpointConfig("the VAE's file carries no configuration", where=where)
        return config
    try:
        values = json.loads(written)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CheckpointConfig("the metadata's config is not a JSON object", where=where)
    said = VaeConfig.from_dict(values, where=where)
    for name, value in asdict(config or said).items():
        if getattr(said, name) != value:
            raise CheckpointConfig(f"the file has {name} {getattr(said, name)}, the model {value}", where=where)
    return said


def _check_floats(tensors: Mapping[str, Tensor], *, where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS.values():
            raise CheckpointDtype(f"tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}", where=where)


def _check_names(stored: Mapping[str, str], wanted: Mapping[str, object], *, where: str) -> None:
    if unknown := sorted(theirs for name, theirs in stored.items() if name not in wanted):
        raise CheckpointKeys(f"{few(unknown)} unknown to this VAE", where=where)
    if missing := [name for name in wanted if name not in stored]:
        raise CheckpointKeys(f"{few(missing)} missing", where=where)


def _check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...], *, where: str) -> None:
    """A gain may come flat or with sizes of one behind it; everything else as it is."""
    gain = name.endswith(".gamma") and found[:1] == wanted and set(found[1:]) <= {1}
    if found != wanted and not gain:
        raise CheckpointShape(f"tensor {name!r} is {list(found)}, not {list(wanted)}", where=where)
