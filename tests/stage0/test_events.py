"""What travels as events is prepared again to the same bits, whatever was asked and however little travels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stage0.test_planner import FRAMES, SOURCES, Studio, asks, policies, settings_for
from torch import Tensor

from genlock.errors import EnvelopeRefused, GenlockError, MeshDisagrees
from genlock.generator.window import CachePolicy, recompute_policy
from genlock.stage0.chunk import Planned, Sources
from genlock.stage0.events import OwnStage0, events_of, pack_requests, unpack_requests
from genlock.stage0.timeline import Prompt, Request, Transition, WeightedPrompts
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.kinds import LOADS, Part, Plan, Regime
from genlock.wire.lifecycle import begin
from genlock.wire.prepare import Prepared, check_payload, prepare, receive

LADDER = [plan for plan in Plan if LOADS[plan]]
ROWS = 30


class Ladder:
    """Rank 0's stage 0, and one of its own at the other end of the wire."""

    def __init__(self, policy: CachePolicy, plan: Plan, *, shadow: bool = False, **changes: Any) -> None:
        self.studio = Studio(policy, changes, rope_rows=ROWS)
        lifecycle = begin(policy, max_rope_positions=ROWS, plan=plan)
        self.studio.sender = self.studio.receiver = lifecycle
        self.shadow, self.state = shadow, lifecycle
        has = LOADS[plan]
        own = Sources(
            text=SOURCES.text,
            image=SOURCES.image if Part.DECODER in has else None,
            video=SOURCES.video if Part.ENCODER in has else None,
        )
        self.own = OwnStage0(settings_for(policy, **changes), own, lifecycle)

    def plan(self, frames: Tensor | None = None) -> tuple[Planned, Prepared[Envelope], Events]:
        """The next chunk as rank 0 prepared it, and its events as they arrive."""
        before = self.studio.sender
        planned = self.studio.plan(frames)
        prepared, _ = prepare(planned.envelope, before)
        shadow = prepared if self.shadow else None
        sent, _ = prepare(events_of(planned, prepared.unpack(), frames=frames, shadow=shadow), before)
        received = receive(sent.frame, self.state)
        self.state = received.state
        assert received.chunk is not None
        events: Any = check_payload(received.chunk, sent.payload)  # type: ignore[arg-type]
        assert isinstance(events, Events)
        return planned, prepared, events

    def chunk(self, frames: Tensor | None = None) -> tuple[Prepared[Envelope], Prepared[Envelope]]:
        planned, theirs, events = self.plan(frames)
        mine = self.own.prepare(events)
        self.studio.send(planned)
        self.studio.answer(planned)
        count = planned.envelope.num_frames
        first = self.studio.receiver.start_abs - count
        latents, pixels = answer_of(first, count, self.studio)
        self.own.absorb(latents, pixels)
        return mine, theirs


def answer_of(first: int, count: int, studio: Studio) -> tuple[Tensor, Tensor]:
    """As `Studio.answer` has them."""
    window = studio.planner.state.context
    assert window.recent is not None
    latents = torch.arange(first, first + count, dtype=torch.float32)[:, None, None, None]
    shown = 4 * count - (3 if first == 0 else 0)
    return latents.expand(-1, *window.recent.shape[1:]), torch.full((shown, 3, 16, 32), float(first))


chunks = st.lists(st.tuples(st.lists(asks, max_size=2), st.booleans()), min_size=1, max_size=10)


@given(policies, st.sampled_from(LADDER), chunks, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_two_planners_prepare_the_same_bits(
    policy: CachePolicy, plan: Plan, asked: list[tuple[list[dict[str, Any]], bool]], may_see: bool, shadow: bool
) -> None:
    ladder = Ladder(policy, plan, shadow=shadow)
    ladder.studio.ask("a")
    for requests, sees in asked:
        for request in requests:
            ladder.studio.ask(**request)
        mine, theirs = ladder.chunk(FRAMES if sees and may_see else None)
        assert mine.frame == theirs.frame
        assert torch.equal(mine.payload, theirs.payload)


@pytest.mark.parametrize("plan", LADDER)
@pytest.mark.parametrize("changes", [{"regime": Regime.R0}, {"warped": False, "noise_controller": True}])
def test_other_ways_of_running_are_prepared_the_same(plan: Plan, changes: dict[str, Any]) -> None:
    ladder = Ladder(recompute_policy(), plan, **changes)
    ladder.studio.ask("a", strength=0.8)
    for number in range(6):
        mine, theirs = ladder.chunk(FRAMES.roll(number, 0))
        assert mine.frame == theirs.frame


def test_what_travels_is_what_the_plans_table_says() -> None:
    travelled = {}
    for plan in LADDER:
        ladder = Ladder(recompute_policy(), plan)
        ladder.studio.ask("a")
        ladder.chunk(FRAMES)
        _, _, events = ladder.plan(FRAMES)
        names = ("frames", "context", "timesteps", "sigmas", "noise", "step_noise", "shadow_frame", "shadow_payload")
        travelled[plan] = {name for name in names if getattr(events, name) is not None}
    latents = {"timesteps", "sigmas", "noise", "step_noise"}
    assert travelled == {
        Plan.V0_FULL_PIPELINE: {"frames"},
        Plan.V1A_CONTEXT_OVERRIDE: {"frames", "context"},
        Plan.V1B_LATENTS_OVERRIDE: {"context", *latents},
    }


@pytest.mark.parametrize("plan", LADDER)
@pytest.mark.parametrize("name", ["noise", "step_noise", "embeds", "context", "sigmas"])
def test_the_first_tensor_that_differs_is_named(plan: Plan, name: str) -> None:
    ladder = Ladder(recompute_policy(), plan, shadow=True)
    ladder.studio.ask("a")
    ladder.chunk()
    _, _, events = ladder.plan()

    def defect(envelope: Envelope) -> Envelope:
        tensor = getattr(envelope, name).clone()
        tensor.view(-1)[-1] -= 0.125
        return replace(envelope, **{name: tensor})

    with pytest.raises(MeshDisagrees, match=rf"^[^:]*: {name}: .* 1 of \d+ values differ") as found:
        ladder.own.prepare(events, alter=defect)
    assert found.value.field == name


@pytest.mark.parametrize("shadow", [True, False])
def test_another_embedding_is_named_before_anything_is_computed(shadow: bool) -> None:
    ladder = Ladder(recompute_policy(), Plan.V0_FULL_PIPELINE, shadow=shadow)
    ladder.own = OwnStage0(
        settings_for(recompute_policy()), replace(SOURCES, text=lambda prompt: SOURCES.text(prompt) + 1), ladder.state
    )
    ladder.studio.ask("a")
    _, _, events = ladder.plan()
    with pytest.raises(MeshDisagrees) as found:
        ladder.own.prepare(events)
    assert found.value.field == ("embeds" if shadow else "embeds_id")


def test_a_chunk_that_was_not_prepared_changed_nothing() -> None:
    ladder = Ladder(recompute_policy(), Plan.V0_FULL_PIPELINE)
    ladder.studio.ask("a")
    ladder.studio.ask("bb", transition=Transition(chunks=3), at_s=0.1)
    ladder.chunk()
    _, theirs, events = ladder.plan()

    def defect(envelope: Envelope) -> Envelope:
        raise MeshDisagrees("planted")

    with pytest.raises(MeshDisagrees):
        ladder.own.prepare(events, alter=defect)
    assert ladder.own.prepare(events).frame == theirs.frame


requests = st.builds(
    Request,
    at_s=st.none() | st.floats(0, 1e6),
    prompts=st.builds(
        WeightedPrompts,
        prompts=st.lists(
            st.builds(Prompt, text=st.text(min_size=1).filter(str.strip), weight=st.floats(0, 1e3)), min_size=1
        ).map(tuple),
    ),
    transition=st.none() | st.builds(Transition, seconds=st.floats(0, 1e3)),
    cut=st.booleans(),
    seed=st.none() | st.integers(0, 2**53),
    strength=st.none() | st.floats(0, 1, exclude_min=True),
)


@given(st.lists(requests, max_size=3))
def test_requests_are_read_as_they_were_written(asked: list[Request]) -> None:
    assert unpack_requests(pack_requests(asked)) == asked


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b'[{"prompt": " "}]', b'[{"speed": 1}]', b'{"prompt": "a"}'])
def test_what_is_no_list_of_requests_is_refused(text: bytes) -> None:
    with pytest.raises(EnvelopeRefused) as refusal:
        unpack_requests(torch.frombuffer(bytearray(text) or bytearray(b" "), dtype=torch.uint8))
    assert refusal.value.field == "requests"


def test_a_worker_without_a_decoder_cannot_be_left_to_make_a_context() -> None:
    """Not by a wrong table either: planning itself has no anchor then."""
    ladder = Ladder(recompute_policy(context_frames=1), Plan.V1A_CONTEXT_OVERRIDE)
    ladder.studio.ask("a")
    for _ in range(3):
        ladder.chunk()
    _, _, events = ladder.plan()
    starved = object.__new__(Events)
    for name in Events.__dataclass_fields__:
        object.__setattr__(starved, name, None if name == "context" else getattr(events, name))
    with pytest.raises(GenlockError):
        ladder.own.prepare(starved)
