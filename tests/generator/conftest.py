"""A generator of a few thousand parameters with weights of order one, for tests that need no recording."""

from __future__ import annotations

import pytest
import torch

from genlock.generator.config import GeneratorConfig
from genlock.generator.model import Generator

TOY = GeneratorConfig(dim=80, ffn_dim=112, num_heads=4, num_layers=2, freq_dim=32, text_dim=20, text_len=12)


def randomised(generator: Generator, seed: int) -> Generator:
    """Every parameter drawn anew, gains and modulations included, so that no term is multiplied by zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
    return generator.eval()


@pytest.fixture
def toy() -> Generator:
    return randomised(Generator(TOY), seed=1)
