"""Warm-up: after it no stream can come to a pass that is not like one of its own, whatever is asked of it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from genlock.drills.runs import Run
from genlock.engine.job import Job
from genlock.engine.warm_up import WarmChunk, begin_job, count, envelope_of, warm_chunks
from genlock.generator.compiled import compile_blocks, graphs_whole
from genlock.generator.config import GeneratorConfig
from genlock.generator.model import Generator, attention_mask
from genlock.generator.parallel import SOLO
from genlock.generator.presets import PRESETS
from genlock.generator.stream import Stream
from genlock.generator.window import CachePolicy, Policy, Recache, Regime, Rope, Span, recompute_policy
from genlock.wire.lifecycle import State, live
from genlock.wire.prepare import prepare

SIZES = GeneratorConfig(dim=48, ffn_dim=64, num_heads=4, num_layers=1, freq_dim=16, text_dim=24, text_len=10)


def rolling(window: int, **rule: Any) -> CachePolicy:
    return CachePolicy(policy=Policy.ROLLING, window_frames=window, **rule)


POLICIES = {
    **{name: preset.cache for name, preset in PRESETS.items()},
    "no-multiple": rolling(11, sink_frames=4, recache_on_prompt=True),
    "emptied": rolling(8, recache_on_prompt=True, global_sink=False),
    "relative": rolling(9, sink_frames=3, rope=Rope.RELATIVE),
    "kept": rolling(14, fixed_window=False),
    "long-context": recompute_policy(context_frames=7, chunk_frames=2),
}


def job_of(policy: CachePolicy, **about: Any) -> Job:
    """Of the least size, and with a rotary table that ends soon."""
    recompute = policy.policy is Policy.RECOMPUTE
    return replace(
        Job(
            name="toy",
            weights=Path("nowhere"),
            config=replace(SIZES, max_rope_positions=policy.window_frames + 3 * policy.chunk_frames),
            policy=policy,
            regime=Regime.R0A if recompute else None,
            height=32,
            width=32,
            steps=2,
            dtype=torch.float32,
            device=torch.device("cpu"),
            warm=True,
            compile="aot_eager",
        ),
        **about,
    )


class Pass(NamedTuple):
    """What a compiled block has a graph for."""

    frames: int
    write: tuple[int, int]
    visible: int
    move: tuple[int, int, int] | None
    mask: tuple[int, ...] | None


class Noting:
    """In place of a generator: keeps what it is asked, and makes nothing."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config, self.parallel, self.census = config, SOLO, None
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.passes: set[Pass] = set()

    def cross_kv(self, embeds: Tensor) -> list[Any]:
        return []

    def __call__(self, x: Tensor, t: Tensor, cross: object, cache: object, span: Span) -> Tensor:
        mask = attention_mask(span, 1, x.device, x.dtype)
        shape = None if mask is None else tuple(mask.shape)
        self.passes.add(Pass(span.frames, (span.write_start, span.write_skip), span.visible, span.move, shape))
        return x


def stream_of(job: Job, generator: Any) -> Stream:
    rows, columns = job.latent_size
    return Stream(generator, job.policy, latent_height=rows, latent_width=columns)


def run(job: Job, stream: Stream, state: State, chunk: WarmChunk, number: int) -> tuple[State, Recache | None]:
    envelope = envelope_of(job, state, chunk, number)
    _, state = prepare(envelope, state)
    with graphs_whole(stream.generator.census):
        stream.run(envelope)
    return state, envelope.recache


def warmed(job: Job, stream: Stream) -> State:
    state = begin_job(job)
    for number, chunk in enumerate(warm_chunks(job)):
        state, _ = run(job, stream, state, chunk, number)
    return live(state)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_no_pass_of_a_stream_is_new_after_warm_up(name: str, *, video: bool) -> None:
    policy = POLICIES[name]
    job, draw = job_of(policy, video=video), random.Random(name)
    noting = Noting(job.config)
    stream = stream_of(job, noting)
    state, known, recaches = warmed(job, stream), set(noting.passes), set()
    assert state.chunk_index == -1
    recompute = policy.policy is Policy.RECOMPUTE
    until_cut = 0
    for number in range(200):
        cut = until_cut == 0
        if cut:
            longest = 25 if policy.fixed_window else policy.window_frames // policy.chunk_frames
            until_cut = draw.randint(1, longest)
        until_cut -= 1
        chunk = WarmChunk(
            frames=policy.chunk_frames + (cut and video and draw.random() < 0.5),
            cut=cut,
            prompt=draw.randint(0, 1),
            attention_bias=draw.choice((1.0, 0.9, 0.3)) if recompute else 1.0,
        )
        state, recache = run(job, stream, state, chunk, number)
        recaches.add(recache)
        assert noting.passes == known, (number, chunk)
    possible = {None, *[Recache.SWITCH] * policy.recache_on_prompt}
    if not recompute and policy.rope is Rope.ABSOLUTE and policy.fixed_window:
        possible.add(Recache.REBASE)
    assert recaches == possible, "the test came to all of them"


@pytest.mark.parametrize(
    ("name", "video", "passes"),
    [
        ("self-forcing-1.3b", False, 9),
        ("self-forcing-1.3b", True, 16),
        ("longlive-1.3b", False, 9),
        ("longlive-1.3b", True, 15),
        ("krea-14b", False, 4),
        ("krea-14b", True, 6),
    ],
)
def test_a_preset_has_so_many_passes(name: str, video: bool, passes: int) -> None:
    job = job_of(POLICIES[name], video=video)
    noting = Noting(job.config)
    warmed(job, stream_of(job, noting))
    assert len(noting.passes) == passes


@pytest.mark.parametrize("regime", list(Regime))
def test_neither_is_one_of_another_regime(regime: Regime) -> None:
    job = job_of(recompute_policy(context_frames=6), regime=regime, video=True)
    noting = Noting(job.config)
    stream = stream_of(job, noting)
    state = warmed(job, stream)
    known = set(noting.passes)
    for number in range(40):
        cut = number % 10 == 0
        state, _ = run(job, stream, state, WarmChunk(frames=3 + (cut and number < 20), cut=cut), number)
    assert noting.passes == known


def drawn(config: GeneratorConfig) -> Generator:
    torch.manual_seed(3)
    made = Generator(config)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made.eval().requires_grad_(requires_grad=False)


SMALL = {  # the presets' rules with windows that are soon full
    name: replace(preset.cache, window_frames=min(9, preset.cache.window_frames)) for name, preset in PRESETS.items()
}


def life(job: Job) -> list[WarmChunk]:
    """A stream that changes its prompt while young and while old, is cut, once to follow a video, and goes on until it
    is re-based; under the rule that has a bias, the past counts less now and then."""
    starts = {0: 3, 2: 3 + job.video, 7: 3}
    biases = (1.0, 0.4, 0.3) if job.policy.policy is Policy.RECOMPUTE else (1.0,)
    return [
        WarmChunk(
            frames=starts.get(number, 3),
            cut=number in starts,
            prompt=number // 2,
            attention_bias=biases[number % len(biases)],
        )
        for number in range(14)
    ]


def recaches_of(job: Job, compiled: Stream, state: State) -> set[Recache | None]:
    """What a life came to, once its latents have been found to be those of blocks that are not compiled."""
    plain, recaches = stream_of(job, drawn(job.config)), set()
    for number, chunk in enumerate(life(job)):
        envelope = envelope_of(job, state, chunk, number)
        _, state = prepare(envelope, state)
        with graphs_whole(compiled.generator.census):
            assert torch.equal(compiled.run(envelope), plain.run(envelope)), number
        recaches.add(envelope.recache)
    return recaches


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_compiled_stream_makes_no_graph_after_warm_up(name: str) -> None:
    torch.compiler.reset()
    job = job_of(SMALL[name])
    stream = stream_of(job, drawn(job.config))
    census = compile_blocks(stream.generator, job.compile)
    state = warmed(job, stream)
    graphs, census.closed = len(census.graphs), True
    recaches = recaches_of(job, stream, state)
    assert len(census.graphs) == graphs
    assert (Recache.REBASE in recaches) == (job.policy.policy is Policy.ROLLING)
    assert (Recache.SWITCH in recaches) == job.policy.recache_on_prompt


@pytest.mark.slow
def test_a_compiled_stream_that_was_not_warmed_has_the_graphs_it_comes_to() -> None:
    torch.compiler.reset()
    job = job_of(SMALL["longlive-1.3b"], video=True, warm=False)
    assert count(job) == 0
    stream = stream_of(job, drawn(job.config))
    census = compile_blocks(stream.generator, job.compile)
    assert recaches_of(job, stream, begin_job(job)) == {None, *Recache}
    assert len(census.graphs) > 8, "more than dynamo has by itself"


ASKED = """{"version": 1, "events": [
  {"at": 0, "prompt": "a red boat at sea"},
  {"at": 1.4, "prompt": "a blue car at night", "attention_bias": 0.4},
  {"at": 2.8, "prompt": "a blue boat at noon", "cut": true},
  {"at": 4.2, "attention_bias": 1}]}"""


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [2, 0])
def test_a_compiled_run_has_the_frames_of_one_that_is_not(mesh: int, tmp_path: Path, model_folder: Path) -> None:
    """By the picture that a run keeps of every chunk: how a video is packed is no matter of bits."""
    (tmp_path / "asked.json").write_text(ASKED)
    words = ["generate", "--timeline", str(tmp_path / "asked.json"), "--seconds", "5.4"]
    pictures = []
    for backend in ("off", "aot_eager"):
        run = Run(tmp_path / backend, model_folder, *words, mesh=mesh, GENLOCK_COMPILE=backend, GENLOCK_DEADLINE="20")
        try:
            assert run.ended() == 0, run.said
            assert not run.left()
        finally:
            run.end()
        pictures.append({path.name: path.read_bytes() for path in run.run_dir.glob("chunk-*.jpg")})
    assert len(pictures[0]) == 8
    assert pictures[0] == pictures[1]
