"""The DiT against an independent implementation, against itself split over ranks, and at its limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tests.generator.conftest import TOY, randomised
from torch import Tensor

from genlock.errors import CacheRefused, MeshRefused
from genlock.generator.cache import KeyValueCache
from genlock.generator.checkpoint import shard
from genlock.generator.model import Generator
from genlock.generator.window import Span

FRAMES, ROWS, COLUMNS = 3, 6, 8  # latent frames, rows, columns
WHOLE = Span(frames=FRAMES, rope_start=0, write_start=0, visible=FRAMES)


def one_call(generator: Generator, x: Tensor, t: float, embeds: Tensor, span: Span = WHOLE) -> Tensor:
    config = generator.config
    store = KeyValueCache(
        layers=config.num_layers,
        frames=span.visible,
        tokens=(ROWS // 2) * (COLUMNS // 2),
        heads=config.num_heads // generator.parallel.size,
        head_dim=config.head_dim,
    )
    with torch.inference_mode():
        return generator(x, torch.full((1, 1), t), generator.cross_kv(embeds), store, span)


@pytest.fixture
def inputs() -> tuple[Tensor, float, Tensor]:
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(1, FRAMES, TOY.latent_channels, ROWS, COLUMNS, generator=draw)
    return x, 617.5, torch.randn(1, 9, TOY.text_dim, generator=draw)


@pytest.mark.slow
def test_one_full_attention_chunk_equals_diffusers(toy: Generator, inputs: tuple[Tensor, float, Tensor]) -> None:
    diffusers = pytest.importorskip("diffusers.models.transformers.transformer_wan")
    peer = diffusers.WanTransformer3DModel(
        num_attention_heads=TOY.num_heads,
        attention_head_dim=TOY.head_dim,
        in_channels=TOY.latent_channels,
        out_channels=TOY.latent_channels,
        text_dim=TOY.text_dim,
        freq_dim=TOY.freq_dim,
        ffn_dim=TOY.ffn_dim,
        num_layers=TOY.num_layers,
        eps=TOY.eps,
        rope_max_seq_len=64,
    ).eval()
    from genlock.generator.formats import diffusers_name

    peer.load_state_dict({diffusers_name(name): value for name, value in toy.state_dict().items()}, strict=True)
    x, t, embeds = inputs
    padded = torch.zeros(1, TOY.text_len, TOY.text_dim)
    padded[:, : embeds.shape[1]] = embeds
    with torch.inference_mode():
        expected = peer(x.transpose(1, 2), torch.tensor([t]), padded, return_dict=False)[0].transpose(1, 2)
    torch.testing.assert_close(one_call(toy, x, t, embeds), expected, atol=2e-5, rtol=0)


@dataclass
class SharedSum:
    """A mesh of threads: every sum meets at a barrier. Ranks add in the same order, so results are equal on all."""

    rank: int
    size: int
    barrier: threading.Barrier
    slots: list[Tensor | None]
    sites: list[str]

    def sum_partial(self, partial: Tensor, site: str) -> Tensor:
        self.sites.append(site)
        self.slots[self.rank] = partial
        self.barrier.wait(timeout=20)
        total = torch.stack([slot for slot in self.slots if slot is not None]).sum(0)
        self.barrier.wait(timeout=20)
        return total

    sum_squares = sum_partial


def on_ranks(size: int, work: Callable[[SharedSum], Tensor]) -> list[tuple[Tensor, list[str]]]:
    barrier, slots = threading.Barrier(size), [None] * size
    ranks = [SharedSum(rank, size, barrier, slots, []) for rank in range(size)]
    results: list[tuple[Tensor, list[str]] | None] = [None] * size

    def run(mesh: SharedSum) -> None:
        results[mesh.rank] = (work(mesh), mesh.sites)

    threads = [threading.Thread(target=run, args=(mesh,), daemon=True) for mesh in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_that_hold_shards_compute_what_one_rank_does(
    toy: Generator, inputs: tuple[Tensor, float, Tensor], size: int
) -> None:
    def rank(mesh: SharedSum) -> Tensor:
        part = Generator(TOY, mesh).eval()
        part.load_state_dict({name: shard(name, v, mesh.rank, size) for name, v in toy.state_dict().items()})
        return one_call(part, *inputs)

    results = on_ranks(size, rank)
    expected = one_call(toy, *inputs)
    for flow, sites in results:
        torch.testing.assert_close(flow, expected, atol=2e-5, rtol=0)
        assert sites == results[0][1]  # the same sums, in the same order, on every rank
    # a call: query-and-key norm, o, cross query norm, cross o, ffn, in every layer; and the text's key norms, once.
    assert len(results[0][1]) == 5 * TOY.num_layers + TOY.num_layers


def test_a_mesh_that_does_not_divide_the_heads_is_refused_with_those_that_do() -> None:
    with pytest.raises(MeshRefused, match=r"4 heads.*3 ranks.*use 1, 2, 4"):
        TOY.check_mesh(3)


def test_rotary_positions_end_where_the_table_does(toy: Generator, inputs: tuple[Tensor, float, Tensor]) -> None:
    last = TOY.max_rope_positions - FRAMES
    fits = Span(frames=FRAMES, rope_start=last, write_start=0, visible=FRAMES)
    one_call(toy, *inputs, span=fits)
    beyond = Span(frames=FRAMES, rope_start=last + 1, write_start=0, visible=FRAMES)
    with pytest.raises(CacheRefused, match="1024 rotary positions"):
        one_call(toy, *inputs, span=beyond)


def test_time_per_frame_equals_one_time_for_all(toy: Generator, inputs: tuple[Tensor, float, Tensor]) -> None:
    x, t, embeds = inputs
    cross = toy.cross_kv(embeds)
    stores = [
        KeyValueCache(layers=2, frames=FRAMES, tokens=12, heads=TOY.num_heads, head_dim=TOY.head_dim) for _ in range(2)
    ]
    with torch.inference_mode():
        one = toy(x, torch.full((1, 1), t), cross, stores[0], WHOLE)
        each = toy(x, torch.full((1, FRAMES), t), cross, stores[1], WHOLE)
    torch.testing.assert_close(one, each, atol=1e-5, rtol=0)


def test_randomised_weights_reach_every_parameter() -> None:
    first, second = (randomised(Generator(TOY), seed=seed) for seed in (1, 2))
    same = [n for (n, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True) if a.equal(b)]
    assert same == []
