"""The last stage: what was trained, as the folder that the package loads.

Writes model/ with generator.safetensors, vae.safetensors, text.safetensors, tokenizer.json and model.json: half
precision, the sizes in each file's metadata. Reads it back and refuses to end if one tensor is not finite.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch

from genlock.generator.checkpoint import load_generator, save_generator
from genlock.generator.model import Generator
from genlock.generator.model_folder import read_model_folder, write_model_folder
from genlock.generator.presets import Preset as RunPreset
from genlock.generator.window import Regime, recompute_policy
from genlock.media.text import TextEncoder, train_word_tokenizer
from genlock.media.umt5 import load_text, save_text
from genlock.media.vae import Vae
from genlock.media.vae_checkpoint import load_vae, save_vae

from . import weights
from .captions import phrases, plain_caption, vocabulary
from .config import CHUNK, CONTEXT, SHIFT, STEPS, ModelShape, Preset
from .loop import Log, table
from .scene import FRAMES_PER_SECOND, FULL_WORLD, Factors

FOLDER = "model"
NAME, TITLE = "bundled", "Small world"
GENERATOR_FILE, VAE_FILE = "generator.safetensors", "vae.safetensors"
HALF = torch.float16
EXAMPLE = Factors(subject="balloon", colour="red", motion="rises", place="sea", light="sunset", weather="clear")


def run(preset: Preset, out: Path, *, log: Log, source: str = weights.STUDENT) -> Path:
    """Writes the folder and loads it again; returns its path. source: the file of weights in `out` to export."""
    shape, folder = preset.shape, out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = weights.read(out / source)
    generator = weights.new_generator(shape)
    weights.fill(generator, content["modules"]["generator"])
    save_generator(generator.state_dict(), shape.generator, folder / GENERATOR_FILE, dtype=HALF)
    save_vae(weights.read_vae(out / weights.VAE, shape, torch.device("cpu")), folder / VAE_FILE, dtype=HALF)
    text = weights.new_text(shape, content["words"])
    weights.fill(text, content["modules"]["text"])
    save_text(text, train_word_tokenizer(vocabulary()), folder, dtype=HALF)
    words = [word for word in vocabulary() if word not in string.punctuation]
    example = plain_caption(EXAMPLE, spec=FULL_WORLD)
    write_model_folder(folder, run_preset(shape), words=words, phrases=phrases(), example=example)
    load(folder)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    log(event="exported", source=source, bytes=sum(sizes.values()), **sizes)
    table(f"model folder from {source}, bytes", [*sizes.items(), ("all", sum(sizes.values()))])
    return folder


def run_preset(shape: ModelShape) -> RunPreset:
    """How the model is run: as it was trained."""
    return RunPreset(
        name=NAME,
        title=TITLE,
        generator=shape.generator,
        cache=recompute_policy(context_frames=CONTEXT, chunk_frames=CHUNK),
        steps=STEPS,
        warped=True,
        shift=SHIFT,
        regime=Regime.R0A,
        height=shape.height,
        width=shape.width,
        fps=FRAMES_PER_SECOND,
    )


def load(path: Path) -> tuple[Generator, Vae, TextEncoder]:
    """The three models of a folder, float32. Raises FloatingPointError for a tensor that is not finite."""
    folder = read_model_folder(path)
    generator = Generator(folder.preset.generator)
    generator.load_state_dict(load_generator(folder.file("generator"), folder.preset.generator))
    vae = load_vae(folder.file("vae"))
    text = load_text(path, max_tokens=folder.preset.generator.text_len)
    for module in (generator, vae):
        for name, tensor in module.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(f"{name} in {path} is not finite")
    return generator.eval(), vae.eval(), text
