"""Compiled blocks: the bits of none under the back end that promises them, one graph a shape, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genlock.errors import GraphRefused
from genlock.generator.cache import KeyValueCache
from genlock.generator.census import Census
from genlock.generator.compiled import compile_blocks, graphs_whole
from genlock.generator.config import GeneratorConfig
from genlock.generator.model import Generator
from genlock.generator.window import Span

SIZES = GeneratorConfig(dim=48, ffn_dim=64, num_heads=4, num_layers=3, freq_dim=16, text_dim=24, text_len=10)
FRAMES, ROWS, COLUMNS = 3, 4, 6
FIRST = Span(frames=FRAMES, rope_start=0, write_start=0, visible=FRAMES)
LATER = Span(frames=FRAMES, rope_start=FRAMES, write_start=FRAMES, visible=2 * FRAMES)

Pass = Callable[[Generator, Span], Tensor]


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(3)
    made = Generator(SIZES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.eval().requires_grad_(requires_grad=False)


@pytest.fixture
def one_pass() -> Pass:
    tokens = ROWS * COLUMNS // 4
    cache = KeyValueCache(
        layers=SIZES.num_layers, frames=2 * FRAMES, tokens=tokens, heads=SIZES.num_heads, head_dim=SIZES.head_dim
    )
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(1, FRAMES, SIZES.latent_channels, ROWS, COLUMNS, generator=draw)
    embeds = torch.randn(1, 5, SIZES.text_dim, generator=draw)

    def run(generator: Generator, span: Span) -> Tensor:
        with torch.inference_mode(), graphs_whole(generator.census):
            return generator(x, torch.full((1, 1), 500.0), generator.cross_kv(embeds), cache, span)

    return run


@pytest.fixture
def compiled() -> Callable[[Generator], Census]:
    torch.compiler.reset()
    return lambda generator: compile_blocks(generator, "aot_eager")


def test_one_graph_serves_every_block_and_has_the_bits_of_none(
    generator: Generator, one_pass: Pass, compiled: Callable[[Generator], Census]
) -> None:
    names = list(generator.state_dict())
    eager = [one_pass(generator, span) for span in (FIRST, LATER)]
    census = compiled(generator)
    for _ in range(2):
        assert all(map(torch.equal, [one_pass(generator, span) for span in (FIRST, LATER)], eager))
    assert census.manifest() == {"graphs": 2, "graph 0": "no collective", "graph 1": "no collective"}
    assert list(generator.state_dict()) == names


def test_a_graph_that_comes_after_the_start_is_refused(
    generator: Generator, one_pass: Pass, compiled: Callable[[Generator], Census]
) -> None:
    census = compiled(generator)
    one_pass(generator, FIRST)
    digest, census.closed = census.digest, True
    one_pass(generator, FIRST)
    with pytest.raises(GraphRefused, match="compiled anew after the start"):
        one_pass(generator, LATER)
    assert census.digest == digest


def test_a_block_with_a_break_is_refused(
    generator: Generator, one_pass: Pass, compiled: Callable[[Generator], Census]
) -> None:
    right = generator.blocks[1].feed_forward

    def breaking(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return right(x)

    vars(generator.blocks[1])["feed_forward"] = breaking
    compiled(generator)
    with pytest.raises(GraphRefused, match="does not compile whole"):
        one_pass(generator, FIRST)


def test_a_graph_more_than_the_compiler_keeps_is_refused(
    generator: Generator,
    one_pass: Pass,
    compiled: Callable[[Generator], Census],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genlock.generator.compiled.GRAPHS_MAX", 1)
    compiled(generator)
    one_pass(generator, FIRST)
    with pytest.raises(GraphRefused, match="GL-GRAPH-01: a block needs a graph beside the 1 it has"):
        one_pass(generator, LATER)
