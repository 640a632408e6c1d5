"""A model folder of a few thousand random weights: every part of a real one, at no cost. For drills and tests."""

from __future__ import annotations

from pathlib import Path

import torch

from genlock.generator.checkpoint import save_generator
from genlock.generator.config import GeneratorConfig
from genlock.generator.model import Generator
from genlock.generator.model_folder import write_model_folder
from genlock.generator.presets import Preset
from genlock.generator.window import Regime, recompute_policy
from genlock.media.text import train_word_tokenizer
from genlock.media.umt5 import save_text, small_umt5
from genlock.media.vae import WAN_MEAN, WAN_STD, Vae, VaeConfig
from genlock.media.vae_checkpoint import save_vae

TOY_WORDS = ("a", "red", "blue", "boat", "car", "at", "sea", "night", "noon")
SIZES = GeneratorConfig(dim=48, ffn_dim=64, num_heads=4, num_layers=2, freq_dim=16, text_dim=24, text_len=10)
MULTIPLIERS = (1, 1, 2, 2)


def write_toy_model(folder: Path) -> Path:
    """Fills a folder that is there; the same weights every time."""
    torch.manual_seed(5)
    generator = Generator(SIZES)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    save_generator(generator.state_dict(), SIZES, folder / "generator.safetensors", dtype=torch.float32)
    vae = Vae(
        VaeConfig(
            encoder_width=4,
            decoder_width=4,
            encoder_mult=MULTIPLIERS,
            decoder_mult=MULTIPLIERS,
            encoder_blocks=1,
            decoder_blocks=1,
            mean=WAN_MEAN,
            std=WAN_STD,
        )
    )
    save_vae(vae, folder / "vae.safetensors", dtype=torch.float32)
    words = train_word_tokenizer(TOY_WORDS)
    encoder = small_umt5(words.get_vocab_size(), dim=SIZES.text_dim, num_layers=1, num_heads=2, head_dim=12, ffn_dim=32)
    save_text(encoder, words, folder, dtype=torch.float32)
    preset = Preset(
        name="toy",
        title="A toy",
        generator=SIZES,
        cache=recompute_policy(),
        steps=(1000, 500),
        warped=True,
        regime=Regime.R0A,
        height=32,
        width=48,
    )
    write_model_folder(folder, preset, words=TOY_WORDS)
    return folder
