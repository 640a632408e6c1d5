"""What one stage hands to the next: averaged weights, in one small file each, and how to make models of them.

Files (torch, tensors and plain values alone): vae.pt, teacher.pt, student.pt.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genlock.generator.checkpoint import load_generator
from genlock.generator.model import Generator
from genlock.generator.model_folder import read_model_folder
from genlock.media.umt5 import load_text, small_umt5
from genlock.media.vae import Vae, VaeConfig
from genlock.media.vae_checkpoint import load_vae

from .config import ModelShape

VAE, TEACHER, STUDENT = "vae.pt", "teacher.pt", "student.pt"


def write(path: Path, modules: dict[str, nn.Module], dtype: torch.dtype, **extra: Any) -> None:
    """Writes whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    states = {
        name: {k: v.detach().to("cpu", dtype) if v.is_floating_point() else v.cpu() for k, v in m.state_dict().items()}
        for name, m in modules.items()
    }
    partial = path.with_suffix(".partial")
    torch.save({"modules": states, **extra}, partial)
    os.replace(partial, path)


def read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run the stage that makes it, or put it there")
    return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})


def begin(out: Path, model: Path, shape: ModelShape) -> None:
    """Makes vae.pt and teacher.pt of a finished model's folder, for stages that are to go on. A feed-forward wider than
    the shape's loses what matters least."""
    folder = read_model_folder(model)
    vae = load_vae(folder.file("vae"))
    write_vae(out / VAE, vae, torch.tensor(vae.config.mean), torch.tensor(vae.config.std))
    encoder = load_text(model, max_tokens=folder.preset.generator.text_len)
    words = encoder.tokenizer.get_vocab_size()
    fresh = {"generator": new_generator(shape), "text": new_text(shape, words)}
    fill(fresh["generator"], narrowed(load_generator(folder.file("generator"), folder.preset.generator), shape))
    fill(fresh["text"], encoder._model.state_dict())
    write(out / TEACHER, fresh, torch.float16, words=words)


def narrowed(state: dict[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """A generator's weights with at most the shape's feed-forward units, those kept that say most to the others."""
    state = dict(state)
    for layer in range(shape.layers):
        key = f"blocks.{layer}.ffn"
        into, out = state[f"{key}.0.weight"], state[f"{key}.2.weight"]  # [units, D], [D, units]
        says = into.float().norm(dim=1) * out.float().norm(dim=0)
        kept = says.argsort(descending=True)[: shape.ffn].sort().values
        state[f"{key}.0.weight"], state[f"{key}.2.weight"] = into[kept], out[:, kept]
        state[f"{key}.0.bias"] = state[f"{key}.0.bias"][kept]
    return state


def vae_config(shape: ModelShape) -> VaeConfig:
    return VaeConfig(
        encoder_width=shape.encoder_width,
        decoder_width=shape.decoder_width,
        encoder_mult=shape.encoder_mult,
        decoder_mult=shape.decoder_mult,
        encoder_blocks=shape.blocks,
        decoder_blocks=shape.blocks,
        mean=(0.0,) * 16,
        std=(1.0,) * 16,
    )


def write_vae(path: Path, vae: Vae, mean: Tensor, std: Tensor) -> None:
    write(path, {"vae": vae}, torch.float32, mean=mean.float().tolist(), std=std.float().tolist())


def read_vae(path: Path, shape: ModelShape, device: torch.device) -> Vae:
    """The trained VAE with its latent scaling, frozen."""
    content = read(path)
    config = replace(vae_config(shape), mean=tuple(content["mean"]), std=tuple(content["std"]))
    vae = Vae(config)
    fill(vae, content["modules"]["vae"])
    return vae.to(device).eval().requires_grad_(False)


def new_generator(shape: ModelShape) -> Generator:
    """Random weights whose first output is zero and whose blocks begin as nothing but their cross-attention."""
    generator = Generator(shape.generator)
    nn.init.zeros_(generator.head.head.weight)
    nn.init.zeros_(generator.head.head.bias)
    nn.init.zeros_(generator.patch_embedding.bias)
    for block in generator.blocks:
        nn.init.normal_(block.modulation, std=shape.dim**-0.5)
    nn.init.normal_(generator.head.modulation, std=shape.dim**-0.5)
    return generator


def fitted(shape: ModelShape, out: Path) -> ModelShape:
    """The shape with the feed-forward width of weights that are already in the folder, where there are any."""
    for name in (TEACHER, STUDENT):
        if (out / name).exists():
            inner = read(out / name)["modules"]["generator"]["blocks.0.ffn.0.weight"].shape[0]
            return replace(shape, ffn=inner)
    return shape


def new_text(shape: ModelShape, vocabulary: int) -> nn.Module:
    return small_umt5(vocabulary, dim=shape.text_dim, num_layers=shape.text_layers, head_dim=shape.text_dim // 4)


def embed(text: nn.Module, ids: Tensor) -> Tensor:
    """Embeddings [B, L, D] of padded token ids [B, L]; rows after the end mark are zero, as at run time."""
    mask = ids != 0
    # A mask that is already additive: making it from a row of ones reads the device back in every step.
    hidden_keys = torch.zeros(mask.shape, device=ids.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    additive = hidden_keys[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
    hidden: Tensor = text(input_ids=ids, attention_mask=additive).last_hidden_state
    return hidden.float() * mask[..., None]


def fingerprint(module: nn.Module) -> str:
    """A short text that differs between two sets of weights."""
    total = sum(float(p.detach().double().abs().sum()) for p in module.parameters())
    return f"{total:.6f}"
