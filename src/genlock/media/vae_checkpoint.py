"""VAE weights in files: upstream's names and diffusers', any floating type, checked name by name.

Letters: i, n numbers of layers. Knows the two naming schemes and no computation. Upstream's are the names of `Vae`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from genlock.errors import CheckpointConfig, CheckpointKeys, CheckpointShape
from genlock.generator.tensor_files import open_tensors, write_tensors
from genlock.media.vae import Vae, VaeConfig

NAMED = 3  # names a message shows
DECODE_ONLY = ("decoder.", "conv2.")

# diffusers -> upstream, tried in order on every name.
_DIFFUSERS = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.norm_out\.gamma$", ".head.0.gamma"),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.down_blocks\.(\d+)\.", r".downsamples.\1."),
)
_RESIDUAL = (
    ("norm1.gamma", "residual.0.gamma"),
    ("conv1.", "residual.2."),
    ("norm2.gamma", "residual.3.gamma"),
    ("conv2.", "residual.6."),
    ("conv_shortcut.", "shortcut."),
)


def upstream_name(name: str, *, blocks: int) -> str:
    """Upstream's name of a diffusers name; blocks: residual blocks of a decoder level. Upstream names stay."""
    if name.startswith(("conv1.", "conv2.", "encoder.conv1.", "decoder.conv1.")):
        return name
    for pattern, replacement in _DIFFUSERS:
        name = re.sub(pattern, replacement, name)
    level = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", name)
    if level:
        place = int(level[3]) if level[2] == "resnets" else blocks
        name = f"decoder.upsamples.{int(level[1]) * (blocks + 1) + place}." + name[level.end() :]
    stem = re.match(r"(encoder|decoder)\.(middle|upsamples|downsamples)\.\d+\.", name)
    if stem:
        for theirs, ours in _RESIDUAL:
            if name[stem.end() :].startswith(theirs):
                return name[: stem.end()] + ours + name[stem.end() + len(theirs) :]
    return name


def load_vae(
    path: Path,
    config: VaeConfig | None = None,
    *,
    decode_only: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Vae:
    """A VAE ready to run. config: None takes the one written in the file.

    Raises CheckpointMissing, CheckpointUnreadable, CheckpointDtype (reading); CheckpointKeys, CheckpointShape naming
    the tensor; CheckpointConfig if there is no configuration, or one that contradicts `config`.
    """
    with open_tensors(Path(path), device=device) as opened:
        config = _agreed(config, opened.metadata.get("config"), where=str(path))
        names = {upstream_name(name, blocks=config.decoder_blocks + 1): name for name in opened.shapes}
        if decode_only:
            names = {ours: theirs for ours, theirs in names.items() if ours.startswith(DECODE_ONLY)}
        with torch.device("meta"):
            vae = Vae(config, encoder=not decode_only)
        wanted = {name: tuple(parameter.shape) for name, parameter in vae.state_dict().items()}
        _check_names(set(names), set(wanted), where=str(path))
        state = {}
        for name, shape in wanted.items():
            found = opened.shapes[names[name]]
            if not _fits(found, shape):
                what = f"tensor {names[name]!r} is {list(found)}, not {list(shape)}"
                raise CheckpointShape(what, where=str(path))
            state[name] = opened.read(names[name]).to(dtype).reshape(shape)
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.eval().requires_grad_(requires_grad=False)


def save_vae(vae: Vae, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes weights and configuration, whole or not at all. Raises InputOutputError."""
    tensors: Mapping[str, Tensor] = {name: value.to(dtype).contiguous() for name, value in vae.state_dict().items()}
    write_tensors(path, tensors, {"config": json.dumps(vae.config.to_dict())})


def _agreed(config: VaeConfig | None, written: str | None, *, where: str) -> VaeConfig:
    if written is None:
        if config is None:
            raise CheckpointConfig("the VAE's file carries no configuration", where=where)
        return config
    try:
        said = VaeConfig.from_dict(json.loads(written), where=where)
    except ValueError as error:
        raise CheckpointConfig(f"its configuration is not JSON ({error})", where=where) from error
    if config is not None and config != said:
        raise CheckpointConfig("its configuration is not that of the model asked for", where=where)
    return said


def _check_names(found: set[str], wanted: set[str], *, where: str) -> None:
    for what, names in (("unknown", sorted(found - wanted)), ("missing", sorted(wanted - found))):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise CheckpointKeys(f"{what} tensor {', '.join(map(repr, names[:NAMED]))}{more}", where=where)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes agree but for sizes of one, which saves add to gains and to kernels without extent."""
    return found == wanted or [n for n in found if n > 1] == [n for n in wanted if n > 1]
