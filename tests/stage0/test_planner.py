"""Stage 0 as a whole: whatever is asked, every envelope follows from the lifecycle, and a dropped plan never was.

The mesh is a fake that answers with latents full of their own frame numbers; the text encoder draws from the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genlock.errors import (
    OutOfStep,
    PromptRefused,
    SizeRefused,
    TimelineRefused,
    UsageError,
    VideoInputRefused,
)
from genlock.generator.config import GeneratorConfig, pixel_frames
from genlock.generator.schedule import Schedule
from genlock.generator.window import CachePolicy, Policy, Rope, recompute_policy
from genlock.stage0.chunk import Planned, Sources, StreamSettings
from genlock.stage0.planner import Awaited, Planner
from genlock.stage0.timeline import Controls, Request, Timeline, Transition, WeightedPrompts
from genlock.wire.kinds import Action, ContextSource, Recache, Regime
from genlock.wire.lifecycle import State, accept, begin, live, next_stamp

CONFIG = GeneratorConfig(dim=24, ffn_dim=32, num_heads=1, num_layers=1, freq_dim=8, text_dim=5, text_len=6)
HEIGHT, WIDTH = 16, 32
LATENT = (16, 2, 4)
FRAMES = torch.arange(12 * 8 * 8 * 3, dtype=torch.uint8).reshape(12, 8, 8, 3)


def text(prompt: str) -> Tensor:
    if prompt == "too long":
        raise PromptRefused("the prompt is too long")
    generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
    return torch.randn(len(prompt), CONFIG.text_dim, generator=generator)


def image(frame: Tensor) -> Tensor:
    return frame[:, :1, : LATENT[1], : LATENT[2]].expand(-1, LATENT[0], -1, -1) + 1000


def video(state: Any, frames: Tensor) -> tuple[Tensor, Any]:
    """The state counts frames, so that a stream that was not restarted is seen."""
    count = frames.shape[1]
    assert count % 4 == (1 if state is None else 0)
    latents = -(-count // 4)
    return torch.full((1, latents, *LATENT), 0.25), (state or 0) + count


SOURCES = Sources(text=text, image=image, video=video)


def settings_for(policy: CachePolicy, **changes: Any) -> StreamSettings:
    values: dict[str, Any] = {
        "config": CONFIG,
        "height": HEIGHT,
        "width": WIDTH,
        "dtype": torch.float32,
        "schedule": Schedule(shift=5.0),
        "steps": (1000, 500),
        "warped": True,
        "regime": Regime.R0A if policy.policy is Policy.RECOMPUTE else None,
        "fps": 16,
        "controls": Controls(seed=42, strength=0.7, attention_bias=1.0),
    }
    return StreamSettings(**(values | changes))


@dataclass
class Studio:
    """A planner with its sending lifecycle, a receiver that judges every frame, and a mesh that answers at once."""

    policy: CachePolicy
    changes: dict[str, Any] = field(default_factory=dict)
    source: ContextSource = ContextSource.ENVELOPE
    rope_rows: int = 1024

    def __post_init__(self) -> None:
        self.sender = begin(self.policy, max_rope_positions=self.rope_rows, context_source=self.source)
        self.receiver = begin(self.policy, max_rope_positions=self.rope_rows, context_source=self.source)
        self.planner = Planner(settings_for(self.policy, **self.changes), SOURCES, self.sender)

    def ask(self, prompt: str | None = None, **more: Any) -> None:
        prompts = None if prompt is None else WeightedPrompts.of(prompt)
        self.planner.submit(Request(prompts=prompts, **more))

    def plan(self, frames: Tensor | None = None) -> Planned:
        planned = self.planner.plan(self.sender, frames=frames)
        stamp = next_stamp(self.sender, Action.INFER, reset_kv=planned.envelope.reset_kv)
        self.sender = accept(self.sender, stamp, planned.envelope)
        return planned

    def send(self, planned: Planned) -> None:
        stamp = next_stamp(self.receiver, Action.INFER, reset_kv=planned.envelope.reset_kv)
        self.receiver = accept(self.receiver, stamp, planned.envelope)
        self.planner.confirm(planned)

    def answer(self, planned: Planned) -> None:
        frames = planned.envelope.num_frames
        first = self.receiver.start_abs - frames
        latents = torch.arange(first, first + frames, dtype=torch.float32)[:, None, None, None].expand(-1, *LATENT)
        shown = pixel_frames(frames, first=first == 0)
        pixels = torch.full((shown, 3, HEIGHT, WIDTH), float(first))
        self.planner.absorb(latents, pixels, cache_epoch=self.receiver.cache_epoch)

    def chunk(self, frames: Tensor | None = None) -> Planned:
        assert self.planner.awaited(self.sender) is Awaited.NOTHING
        planned = self.plan(frames)
        self.send(planned)
        self.answer(planned)
        return planned


LONGLIVE = CachePolicy(policy=Policy.ROLLING, window_frames=9, sink_frames=3, recache_on_prompt=True)
policies = st.sampled_from(
    [
        recompute_policy(),
        recompute_policy(context_frames=1),
        recompute_policy(context_frames=6),
        CachePolicy(policy=Policy.ROLLING, window_frames=7),
        CachePolicy(policy=Policy.ROLLING, window_frames=9, sink_frames=3, rope=Rope.RELATIVE),
        LONGLIVE,
    ]
)
asks = st.one_of(
    st.builds(dict, prompt=st.sampled_from(["a", "bb", "ccc"]), cut=st.booleans()),
    st.builds(dict, prompt=st.sampled_from(["a", "bb"]), transition=st.builds(Transition, chunks=st.integers(0, 4))),
    st.just({"cut": True}),
    st.builds(dict, seed=st.integers(0, 99)),
    st.builds(dict, cut=st.just(value=True), at_s=st.floats(0, 9)),
)


@given(policies, st.lists(st.tuples(st.lists(asks, max_size=2), st.booleans()), min_size=1, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked_the_receiver_accepts(
    policy: CachePolicy, chunks: list[tuple[list[dict[str, Any]], bool]], may_see: bool
) -> None:
    studio = Studio(policy, rope_rows=30)
    studio.ask("a")
    frame = 0
    for requests, sees in chunks:
        for request in requests:
            studio.ask(**request)
        planned = studio.chunk(FRAMES if sees and may_see else None)
        envelope = planned.envelope
        assert planned.start.pixel_frame == frame
        assert planned.start.first == envelope.reset_kv
        frame += pixel_frames(envelope.num_frames, first=envelope.reset_kv)
        assert all(receipt.placement.pixel_frame == planned.start.pixel_frame for receipt in planned.receipts)
    assert studio.sender == studio.receiver


@given(policies, st.lists(st.integers(1, 2), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_plan_that_was_dropped_never_was(policy: CachePolicy, depths: list[int]) -> None:
    """Plans are made ahead, dropped, and made again: the stream is the one that never planned ahead."""
    ahead, plain = Studio(policy), Studio(policy)
    for index, depth in enumerate(depths):
        for studio in (ahead, plain):
            studio.ask("abc"[index % 3] * (1 + index), cut=index == 2)
        kept = ahead.sender
        for _ in range(depth):
            if ahead.planner.awaited(ahead.sender) is Awaited.NOTHING:
                ahead.plan()
        assert ahead.planner.drop() >= 1
        ahead.sender = kept
        one, other = ahead.chunk().envelope, plain.chunk().envelope
        assert one.embeds_id == other.embeds_id
        assert torch.equal(one.noise, other.noise)
        assert (one.context is None) == (other.context is None)
        assert one.context is None or (other.context is not None and torch.equal(one.context, other.context))


def test_a_request_that_came_between_waits_after_a_drop() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a")
    studio.chunk()
    kept = studio.sender
    studio.ask("bb")
    assert [receipt.request.prompts for receipt in studio.plan().receipts] == [WeightedPrompts.of("bb")]
    studio.planner.drop()
    studio.sender = kept
    assert len(studio.chunk().receipts) == 1
    assert studio.chunk().receipts == ()


def test_plans_run_ahead_where_no_result_is_needed() -> None:
    studio = Studio(recompute_policy(), {"regime": Regime.R1})
    studio.ask("a")
    first, second = studio.plan(), studio.plan()
    with pytest.raises(OutOfStep, match="out of turn"):
        studio.planner.confirm(second)
    for planned in (first, second):
        studio.send(planned)
        studio.answer(planned)
    assert studio.planner.state.context.end == 6


def test_a_request_is_served_once_however_far_plans_run_ahead() -> None:
    studio = Studio(recompute_policy(), {"regime": Regime.R1})
    studio.ask("a")
    studio.ask(cut=True)
    plans = [studio.plan() for _ in range(3)]
    assert [planned.envelope.reset_kv for planned in plans] == [True, False, False]
    assert [len(planned.receipts) for planned in plans] == [2, 0, 0]


def test_a_result_belongs_to_its_own_epoch() -> None:
    """A cut is planned ahead while the old epoch's last result is on its way."""
    studio = Studio(recompute_policy())
    studio.ask("a")
    studio.send(studio.plan())
    studio.ask(cut=True)
    ahead = studio.plan()
    studio.planner.absorb(torch.ones(3, *LATENT), None, cache_epoch=1)
    assert studio.planner.state.context.end == 0
    studio.planner.drop()
    assert studio.planner.state.context.end == 3
    assert ahead.state.cache_epoch == 2


@pytest.mark.parametrize("ask", [None, "bb"])
def test_a_rolling_stream_awaits_latents_only_for_a_pass_over_its_window(ask: str | None) -> None:
    studio = Studio(LONGLIVE, rope_rows=12)
    studio.ask("a")
    studio.chunk()
    studio.send(studio.plan())
    assert studio.planner.awaited(studio.sender) is Awaited.NOTHING
    if ask is not None:
        studio.ask(ask)
        assert studio.planner.awaited(studio.sender) is Awaited.LATENTS
        return
    for _ in range(2):
        studio.send(studio.plan())
    assert studio.planner.awaited(studio.sender) is Awaited.LATENTS  # the rotary table ends
    with pytest.raises(OutOfStep, match="12 frames were planned and 3 absorbed"):
        studio.plan()


def test_the_anchor_is_awaited_after_its_latents() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a")
    for _ in range(2):
        studio.chunk()
    planned = studio.plan()
    studio.send(planned)
    assert studio.planner.awaited(studio.sender) is Awaited.LATENTS
    with pytest.raises(OutOfStep, match="9 frames were planned and 6 absorbed"):
        studio.planner.plan(studio.sender)
    studio.planner.absorb(torch.full((3, *LATENT), 7.0), None, cache_epoch=1)
    assert studio.planner.awaited(studio.sender) is Awaited.ANCHOR
    assert studio.planner.state.context.anchor_wants_latents == 1
    studio.planner.absorb_pixels(torch.full((4, 3, HEIGHT, WIDTH), 0.5), cache_epoch=1)
    assert studio.planner.awaited(studio.sender) is Awaited.NOTHING
    context = studio.plan().envelope.context
    assert context is not None
    assert context[:, 0, 0, 0].tolist() == [1000.5, 7.0, 7.0]


def test_a_cut_needs_no_result() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a")
    studio.chunk()
    late = studio.plan()
    studio.send(late)
    studio.ask(cut=True)
    assert studio.planner.awaited(studio.sender) is Awaited.NOTHING
    planned = studio.plan()
    studio.send(planned)
    assert planned.envelope.reset_kv
    with pytest.raises(OutOfStep, match="epoch 1, which was left"):
        studio.planner.absorb(torch.zeros(3, *LATENT), None, cache_epoch=1)


def test_noise_starts_again_at_a_cut_and_follows_the_seed() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a")
    first, second = studio.chunk().envelope, studio.chunk().envelope
    studio.ask(cut=True)
    again = studio.chunk().envelope
    studio.ask(cut=True, seed=7)
    other = studio.chunk().envelope
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, second.noise)
    assert not torch.equal(first.noise, other.noise)
    assert (first.seed, second.seed, other.seed) == (42, 45, 7)


def test_the_first_chunk_of_a_transition_resets_nothing() -> None:
    studio = Studio(LONGLIVE)
    studio.ask("a")
    studio.chunk()
    studio.ask("bb", transition=Transition(chunks=3))
    flags = [(planned.envelope.reset_cross, planned.envelope.recache) for planned in (studio.chunk(), studio.chunk())]
    assert flags == [(False, None), (True, Recache.SWITCH)]


def test_a_prompt_is_sent_at_its_true_length_in_the_streams_type() -> None:
    studio = Studio(recompute_policy(), {"dtype": torch.bfloat16})
    studio.ask("a")
    assert studio.chunk().envelope.embeds.shape == (1, CONFIG.text_dim)
    studio.ask("ccc", transition=Transition(chunks=3))
    lengths = [studio.chunk().envelope.embeds.shape[0] for _ in range(3)]
    assert lengths == [1, 3, 3]
    context = studio.chunk().envelope.context
    assert context is not None
    assert context.dtype is torch.bfloat16


def test_the_window_is_rebased_before_the_rotary_table_ends() -> None:
    studio = Studio(LONGLIVE, rope_rows=14)
    studio.ask("a")
    planned = [studio.chunk() for _ in range(8)]
    recaches = [p.envelope.recache for p in planned]
    assert recaches == [None] * 4 + [Recache.REBASE, Recache.REBASE, Recache.REBASE, Recache.REBASE]
    context = planned[4].envelope.context
    assert context is not None
    assert context[:, 0, 0, 0].tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert planned[4].envelope.start_frame == 9


def test_video_begins_with_a_longer_chunk_and_keeps_its_encoder() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a", strength=0.45)
    first, second = studio.chunk(FRAMES), studio.chunk(FRAMES)
    assert [p.envelope.num_frames for p in (first, second)] == [4, 3]
    assert first.state.video is not None
    assert second.state.video is not None
    assert (first.state.video.encoder, second.state.video.encoder) == (13, 25)
    share = float(first.envelope.timesteps[0]) / 1000
    assert share == pytest.approx(0.80357, abs=1e-5)
    plain = Studio(recompute_policy(), {"steps": (1000, 500)})
    plain.ask("a")
    drawn = plain.chunk().envelope.noise
    assert drawn.shape[0] == 3
    assert first.strength == 0.45


def test_video_can_begin_as_kreas() -> None:
    studio = Studio(recompute_policy(), {"input_first": 9})
    studio.ask("a")
    assert studio.planner.frames_wanted(studio.sender) == 9
    assert studio.chunk(FRAMES).envelope.num_frames == 3
    assert studio.planner.frames_wanted(studio.sender) == 12


def test_a_change_of_mode_is_a_cut_that_keeps_the_prompt() -> None:
    studio = Studio(recompute_policy())
    studio.ask("a")
    chunks = [studio.chunk(frames) for frames in (None, None, FRAMES, FRAMES, None)]
    assert [p.envelope.reset_kv for p in chunks] == [True, False, True, False, True]
    assert len({p.envelope.embeds_id for p in chunks}) == 1
    assert chunks[-1].strength is None


@pytest.mark.parametrize(("cut_on_prompt", "cuts"), [(True, [True, False, True]), (False, [True, False, False])])
def test_a_prompt_change_in_video_mode_cuts_where_asked(cut_on_prompt: bool, cuts: list[bool]) -> None:
    studio = Studio(recompute_policy(), {"cut_on_prompt": cut_on_prompt})
    studio.ask("a")
    chunks = [studio.chunk(FRAMES), studio.chunk(FRAMES)]
    studio.ask("bb")
    chunks.append(studio.chunk(FRAMES))
    assert [p.envelope.reset_kv for p in chunks] == cuts
    studio.ask("ccc", transition=Transition(chunks=3))
    assert not any(studio.chunk(FRAMES).envelope.reset_kv for _ in range(3))


def test_the_noise_controller_lowers_the_strength_of_moving_input() -> None:
    studio = Studio(recompute_policy(), {"noise_controller": True})
    studio.ask("a")
    still, moving = torch.zeros_like(FRAMES), FRAMES.flip(0)
    strengths = [studio.chunk(frames).strength for frames in (still, still, moving)]
    assert strengths[0] == pytest.approx(0.79)
    assert strengths[1] == pytest.approx(0.79)
    assert strengths[2] is not None
    assert strengths[2] < 0.7


@pytest.mark.parametrize(
    ("ask", "strength"), [({"prompt": "bb"}, 0.61), ({"cut": True}, 0.79), ({"seed": 1}, 0.61)], ids=str
)
def test_only_an_explicit_cut_forgets_the_last_input_frame(ask: dict[str, Any], strength: float) -> None:
    studio = Studio(recompute_policy(), {"noise_controller": True, "cut_on_prompt": True})
    studio.ask("a")
    studio.chunk(torch.zeros_like(FRAMES))
    studio.ask(**ask)
    assert studio.chunk(torch.full_like(FRAMES, 255)).strength == pytest.approx(strength)


def test_the_mesh_may_keep_its_own_latents() -> None:
    studio = Studio(recompute_policy(), {"regime": Regime.R0}, source=ContextSource.MESH)
    studio.ask("a")
    studio.chunk()
    planned = studio.plan()
    assert planned.envelope.do_recompute
    assert planned.envelope.context is None
    assert studio.planner.awaited(studio.sender) is Awaited.NOTHING


def test_warm_up_is_planned_by_a_planner_of_its_own() -> None:
    state = begin(LONGLIVE, max_rope_positions=1024, warm=True)
    planner = Planner(settings_for(LONGLIVE), SOURCES, state)
    planner.submit(Request(prompts=WeightedPrompts.of("a")))
    for rebase in (False, True):
        planned = planner.plan(state, rebase=rebase)
        state = accept(state, next_stamp(state, Action.INFER, reset_kv=planned.envelope.reset_kv), planned.envelope)
        planner.confirm(planned)
        planner.absorb(torch.zeros(3, *LATENT), None, cache_epoch=state.cache_epoch)
    assert planned.envelope.recache is Recache.REBASE
    fresh = Planner(settings_for(LONGLIVE), SOURCES, live(state))
    fresh.submit(Request(prompts=WeightedPrompts.of("a")))
    first = fresh.plan(live(state))
    assert first.envelope.reset_kv
    assert first.state.cache_epoch == state.cache_epoch + 1


def test_a_timeline_is_taken_whole_or_not_at_all() -> None:
    studio = Studio(recompute_policy())
    good = Request(at_s=0.0, prompts=WeightedPrompts.of("a"))
    with pytest.raises(PromptRefused, match="too long"):
        studio.planner.submit_timeline(
            Timeline(requests=(good, Request(at_s=3.0, prompts=WeightedPrompts.of("too long"))))
        )
    with pytest.raises(TimelineRefused, match="no prompt to start with"):
        studio.plan()
    accepted = studio.planner.submit_timeline(
        Timeline(requests=(good, Request(at_s=3.0, prompts=WeightedPrompts.of("bb"))))
    )
    assert [a.placement.chunk_index for a in accepted] == [0, 5]
    applied = [studio.chunk().receipts for _ in range(6)]
    assert [len(receipts) for receipts in applied] == [1, 0, 0, 0, 0, 1]
    assert applied[5][0].placement == accepted[1].placement
    assert applied[5][0].number == accepted[1].number


def recompute(**changes: Any) -> Studio:
    return Studio(recompute_policy(), changes)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: recompute(height=20), SizeRefused, "32x20"),
        (lambda: recompute(steps=()), UsageError, "at least one step"),
        (lambda: recompute(input_first=12), UsageError, "12 input frames"),
        (lambda: Studio(LONGLIVE).ask("a", attention_bias=0.3), TimelineRefused, "rolling"),
        (lambda: recompute(warped=False).ask("a", strength=0.05), VideoInputRefused, r"strength 0\.05"),
        (lambda: recompute().ask("too long"), PromptRefused, "too long"),
        (lambda: recompute().ask("seven77"), PromptRefused, "7 tokens of 6"),
    ],
)
def test_what_cannot_be_served_is_refused_when_it_is_asked(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_video_without_an_encoder_is_refused() -> None:
    policy = recompute_policy()
    state = begin(policy, max_rope_positions=1024)
    planner = Planner(settings_for(policy), Sources(text=text), state)
    planner.submit(Request(prompts=WeightedPrompts.of("a")))
    with pytest.raises(UsageError, match="without a VAE encoder"):
        planner.plan(state, frames=FRAMES)
    assert planner.plan(state).envelope.reset_kv
    assert isinstance(state, State)
