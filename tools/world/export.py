"""The last stage: what was trained, as the folder that the package loads.

Writes model/ with generator.safetensors, vae.safetensors, text.safetensors, tokenizer.json and model.json: half
precision, the sizes in each file's metadata. Reads it back and refuses to end if one tensor is not finite.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genlock.generator.checkpoint import load_generator, save_generator
from genlock.generator.config import GeneratorConfig
from genlock.generator.model import Generator
from genlock.generator.tensor_files import read_tensors, write_tensors
from genlock.media.text import TextEncoder, train_word_tokenizer
from genlock.media.umt5 import load_text, save_text
from genlock.media.vae import Vae, VaeConfig

from . import weights
from .captions import vocabulary
from .config import CHUNK, CONTEXT, SHIFT, STEPS, ModelShape, Preset
from .loop import Log, table
from .scene import FRAMES_PER_SECOND

FOLDER = "model"
GENERATOR_FILE, VAE_FILE, MODEL_FILE = "generator.safetensors", "vae.safetensors", "model.json"
HALF = torch.float16


def run(preset: Preset, out: Path, *, log: Log, source: str = weights.STUDENT) -> Path:
    """Writes the folder and loads it again; returns its path."""
    shape, folder = preset.shape, out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = weights.read(out / source)
    generator = weights.new_generator(shape)
    weights.fill(generator, content["modules"]["generator"])
    save_generator(generator.state_dict(), shape.generator, folder / GENERATOR_FILE, dtype=HALF)
    vae = weights.read_vae(out / weights.VAE, shape, torch.device("cpu"))
    tensors = {name: tensor.to(HALF) for name, tensor in vae.state_dict().items()}
    write_tensors(folder / VAE_FILE, tensors, {"config": json.dumps(vae.config.to_dict())})
    text = weights.new_text(shape, content["words"])
    weights.fill(text, content["modules"]["text"])
    save_text(text, train_word_tokenizer(vocabulary()), folder, dtype=HALF)
    (folder / MODEL_FILE).write_text(json.dumps(card(preset), indent=1) + "\n", encoding="utf-8")
    load(folder, text_len=shape.text_len)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    log(event="exported", bytes=sum(sizes.values()), **sizes)
    table("model folder, bytes", [*sizes.items(), ("all", sum(sizes.values()))])
    return folder


def card(preset: Preset) -> dict[str, Any]:
    """What model.json says: how the files are to be run."""
    return {
        "format": 1,
        "height": preset.shape.height,
        "width": preset.shape.width,
        "fps": FRAMES_PER_SECOND,
        "steps": list(STEPS),
        "warped": True,
        "shift": SHIFT,
        "policy": {"policy": "recompute", "context_frames": CONTEXT, "chunk_frames": CHUNK},
        "shape": asdict(preset.shape),
    }


def load(folder: Path, *, text_len: int) -> tuple[Generator, Vae, TextEncoder]:
    """The three models of a folder, float32. Raises FloatingPointError for a tensor that is not finite."""
    state = load_generator(folder / GENERATOR_FILE, None)
    written = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
    generator = Generator(_generator_config(written["shape"]))
    generator.load_state_dict(state)
    tensors, metadata = read_tensors(folder / VAE_FILE, device="cpu", dtype=torch.float32)
    vae = Vae(VaeConfig.from_dict(json.loads(metadata["config"]), where=VAE_FILE))
    vae.load_state_dict(tensors)
    text = load_text(folder, max_tokens=text_len)
    for module in (generator, vae):
        for name, tensor in module.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(f"{name} in {folder} is not finite")
    return generator.eval(), vae.eval(), text


def _generator_config(sizes: dict[str, Any]) -> GeneratorConfig:
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return ModelShape(**tuples).generator
