"""A stream does what its inputs say, counts it, and keeps nothing between chunks but its cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from genlock.errors import CacheRefused, CallCount
from genlock.generator.cache import KeyValueCache
from genlock.generator.model import Generator
from genlock.generator.sampler import Call, CallCounter, planned_calls
from genlock.generator.stream import Stream
from genlock.generator.window import CachePolicy, Held, Policy, Recache, Span, recompute_policy

ROWS, COLUMNS, STEPS = 4, 6, 2


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a stream reads of an envelope."""

    num_frames: int = 3
    start_frame: int = 0
    reset_kv: bool = False
    reset_cross: bool = False
    do_recompute: bool = False
    do_cache_write: bool = False
    recache: Recache | None = None
    timesteps: Tensor
    sigmas: Tensor
    expected_generator_calls: int = STEPS
    attention_bias: float = 1.0
    pad_sink: bool = False
    noise: Tensor
    step_noise: Tensor
    embeds: Tensor
    context: Tensor | None = None


def latents(frames: int, seed: int) -> Tensor:
    return torch.randn(frames, 16, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def first_chunk(seed: int = 0) -> Inputs:
    return Inputs(
        reset_kv=True,
        reset_cross=True,
        timesteps=torch.tensor([1000.0, 750.0]),
        sigmas=torch.tensor([1.0, 0.75]),
        noise=latents(3, seed),
        step_noise=latents(3, seed + 100).unsqueeze(0),
        embeds=torch.randn(5, 20, generator=torch.Generator().manual_seed(9)),
    )


def later_chunk(start: int, seed: int, **changes: object) -> Inputs:
    fresh = replace(first_chunk(seed), reset_kv=False, reset_cross=False, start_frame=start)
    return replace(fresh, **changes)  # type: ignore[arg-type]


def recompute_stream(toy: Generator) -> Stream:
    return Stream(toy, recompute_policy(), latent_height=ROWS, latent_width=COLUMNS)


def rolling_stream(toy: Generator, window: int = 9, sink: int = 0) -> Stream:
    policy = CachePolicy(policy=Policy.ROLLING, window_frames=window, sink_frames=sink)
    return Stream(toy, policy, latent_height=ROWS, latent_width=COLUMNS)


def rolling_chunk(start: int, seed: int, **changes: object) -> Inputs:
    base = first_chunk(seed) if start == 0 else later_chunk(start, seed)
    counted = replace(base, do_cache_write=True, expected_generator_calls=STEPS + 1)
    return replace(counted, **changes)  # type: ignore[arg-type]


def test_the_same_inputs_give_the_same_bits_whatever_came_before(toy: Generator) -> None:
    fresh, used = recompute_stream(toy), recompute_stream(toy)
    used.run(first_chunk(seed=50))
    used.run(later_chunk(3, 51, do_recompute=True, expected_generator_calls=3, context=latents(3, 52)))
    assert torch.equal(fresh.run(first_chunk()), used.run(first_chunk()))


def test_a_context_that_is_not_asked_for_is_not_read(toy: Generator) -> None:
    plain, tempted = recompute_stream(toy), recompute_stream(toy)
    for stream in (plain, tempted):
        stream.run(first_chunk())
    chunk = later_chunk(3, 1)
    assert torch.equal(plain.run(chunk), tempted.run(replace(chunk, context=latents(3, 2))))


@pytest.mark.parametrize("expected", [1, 3])
def test_a_plan_of_another_length_than_expected_is_refused_before_any_call(toy: Generator, expected: int) -> None:
    stream = recompute_stream(toy)
    with pytest.raises(CallCount, match=f"2 generator calls, the envelope expects {expected}"):
        stream.run(replace(first_chunk(), expected_generator_calls=expected))
    assert stream.held == Held()


def test_a_call_that_the_plan_does_not_have_next_is_refused() -> None:
    plan = planned_calls(do_recompute=True, recache=False, steps=2, do_cache_write=False)
    counter = CallCounter(plan, 3)
    with pytest.raises(CallCount, match="call 0 is denoise, the plan has recompute"):
        counter.begin(Call.DENOISE)
    for call in plan:
        counter.begin(call)
    with pytest.raises(CallCount, match="call 3 is denoise, the plan has none"):
        counter.begin(Call.DENOISE)
    with pytest.raises(CallCount, match="0 of 3"):
        CallCounter(plan, 3).finish()


def test_a_pass_without_its_context_is_refused(toy: Generator) -> None:
    stream = recompute_stream(toy)
    stream.run(first_chunk())
    with pytest.raises(CacheRefused, match="no context came with it"):
        stream.run(later_chunk(3, 1, do_recompute=True, expected_generator_calls=3))


def test_a_first_chunk_that_does_not_reset_cross_attention_is_refused(toy: Generator) -> None:
    with pytest.raises(CacheRefused, match="must reset cross-attention"):
        recompute_stream(toy).run(replace(first_chunk(), reset_cross=False))


def test_a_new_prompt_without_its_reset_changes_nothing(toy: Generator) -> None:
    kept, other = recompute_stream(toy), recompute_stream(toy)
    for stream in (kept, other):
        stream.run(first_chunk())
    chunk = later_chunk(3, 1)
    another = replace(chunk, embeds=chunk.embeds + 1)
    assert torch.equal(kept.run(chunk), other.run(another))
    assert not torch.equal(kept.run(chunk), other.run(replace(another, reset_cross=True)))


def test_a_rebase_leaves_the_window_as_one_call_at_positions_from_0_makes_it(toy: Generator) -> None:
    stream = rolling_stream(toy)
    emitted = torch.cat([stream.run(rolling_chunk(start, start)) for start in (0, 3, 6)])
    chunk = rolling_chunk(9, 9, recache=Recache.REBASE, context=emitted, expected_generator_calls=STEPS + 2)
    seen: list[tuple[Tensor, Tensor]] = []

    def on_call(call: Call, *_: object) -> None:
        if call is Call.RECACHE:
            seen.extend((k.clone(), v.clone()) for k, v in (stream.cache.held(layer, 9) for layer in range(2)))

    stream.run(replace(chunk, start_frame=9), on_call)
    alone = KeyValueCache(layers=2, frames=9, tokens=6, heads=4, head_dim=20)
    with torch.inference_mode():
        cross = toy.cross_kv(chunk.embeds.unsqueeze(0))
        whole = Span(frames=9, rope_start=0, write_start=0, visible=9)
        toy(emitted.unsqueeze(0), torch.zeros(1, 1), cross, alone, whole)
    for layer, (keys, values) in enumerate(seen):
        torch.testing.assert_close((keys, values), alone.held(layer, 9), atol=1e-6, rtol=0)


def test_a_switch_without_a_global_sink_forgets_the_old_prompt(toy: Generator) -> None:
    policy = CachePolicy(policy=Policy.ROLLING, window_frames=6, sink_frames=3, global_sink=False)
    streams = [Stream(toy, policy, latent_height=ROWS, latent_width=COLUMNS) for _ in range(2)]
    for start in (0, 3, 6):
        for offset, stream in enumerate(streams):  # two histories with nothing in common
            stream.run(rolling_chunk(start, start + 500 * offset))
    chunk = rolling_chunk(
        9, 9, recache=Recache.SWITCH, reset_cross=True, context=latents(6, 77), expected_generator_calls=STEPS + 2
    )
    assert torch.equal(streams[0].run(chunk), streams[1].run(chunk))
