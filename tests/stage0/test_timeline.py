"""What is asked for now: the state machine of prompts, transitions and cuts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genlock.errors import PromptRefused, TimelineRefused
from genlock.stage0.blend import Method
from genlock.stage0.grid import Boundary, ChunkGrid
from genlock.stage0.timeline import (
    Agenda,
    Asked,
    Controls,
    Embedding,
    Prompt,
    Request,
    Timeline,
    TimelineState,
    Transition,
    WeightedPrompts,
    advance,
    embed,
)

ROWS, WIDTH, CHUNK_S = 8, 6, 0.75
GRID = ChunkGrid(fps=16, chunk_frames=3, first_frames=3)
START = TimelineState(controls=Controls(seed=42, strength=0.7, attention_bias=1.0))
WORDS = ["a", "bb", "ccc", "dddd"]


def encode(text: str) -> Embedding:
    """Length: that of the word. Values: from the word."""
    rows = torch.zeros(ROWS, WIDTH)
    generator = torch.Generator().manual_seed(sum(map(ord, text)))
    rows[: len(text)] = torch.randn(len(text), WIDTH, generator=generator)
    return Embedding(rows=rows, length=len(text))


def prompt(text: str, chunks: int | None = None, method: Method = Method.LINEAR, **more: object) -> Request:
    transition = None if chunks is None else Transition(chunks=chunks, method=method)
    return Request(prompts=WeightedPrompts.of(text), transition=transition, **more)


def play(*chunks: list[Request], state: TimelineState = START) -> list[Asked]:
    shown = []
    for requests in chunks:
        asked, state = advance(state, requests, encode, chunk_s=CHUNK_S)
        shown.append(asked)
    return shown


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(TimelineRefused, match="no prompt to start with"):
        play([])


def test_a_prompt_applies_at_once_and_stays() -> None:
    first, second, third = play([prompt("a")], [prompt("bb")], [])
    assert torch.equal(second.embedding.rows, encode("bb").rows)
    assert (first.changed, second.changed, third.changed) == (True, True, False)
    assert (second.prompt_switched, third.prompt_switched) == (True, False)
    assert third.embedding.length == 2


def test_an_equal_list_is_no_event() -> None:
    _, again = play([prompt("a")], [prompt("a", 4)])
    assert not again.changed
    assert not again.blending


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("chunks", [2, 3, 4, 7])
def test_a_transition_ends_at_its_target_on_its_last_chunk(chunks: int, method: Method) -> None:
    shown = play([prompt("ccc")], [prompt("bb", chunks, method)], *[[] for _ in range(chunks)])[1:]
    assert torch.equal(shown[0].embedding.rows, encode("ccc").rows)
    assert not shown[0].changed
    assert [asked.blending for asked in shown] == [True] * (chunks - 1) + [False, False]
    assert [asked.changed for asked in shown] == [False] + [True] * (chunks - 1) + [False]
    for asked in shown[1 : chunks - 1]:
        assert asked.embedding.length == 3
        assert not torch.equal(asked.embedding.rows, encode("bb").rows)
    assert torch.equal(shown[chunks - 1].embedding.rows, encode("bb").rows)
    assert shown[chunks - 1].embedding.length == 2
    assert not any(asked.prompt_switched for asked in shown)


@pytest.mark.parametrize("chunks", [0, 1])
def test_a_transition_of_one_chunk_or_none_snaps(chunks: int) -> None:
    _, second = play([prompt("a")], [prompt("bb", chunks)])
    assert torch.equal(second.embedding.rows, encode("bb").rows)
    assert second.prompt_switched


def test_a_transition_with_nothing_to_leave_snaps() -> None:
    (first,) = play([prompt("a", 5)])
    assert torch.equal(first.embedding.rows, encode("a").rows)
    assert not first.blending


def test_a_new_prompt_during_a_transition_starts_from_the_blend() -> None:
    shown = play([prompt("a")], [prompt("bb", 5)], [], [prompt("ccc", 3)], [], [])
    assert shown[3].embedding is shown[2].embedding
    halfway = 0.5 * shown[2].embedding.rows + 0.5 * encode("ccc").rows
    torch.testing.assert_close(shown[4].embedding.rows, halfway)
    assert torch.equal(shown[5].embedding.rows, encode("ccc").rows)


def test_the_target_asked_for_again_leaves_its_transition_alone() -> None:
    plain = play([prompt("a")], [prompt("bb", 4)], [], [], [])
    nudged = play([prompt("a")], [prompt("bb", 4)], [prompt("bb")], [prompt("bb", 9)], [])
    for one, other in zip(plain, nudged, strict=True):
        assert torch.equal(one.embedding.rows, other.embedding.rows)


def test_a_target_that_is_almost_the_source_changes_nothing() -> None:
    def near(text: str) -> Embedding:
        return Embedding(rows=encode("a").rows + (1e-4 if text == "bb" else 0), length=1)

    _, state = advance(START, [prompt("a")], near, chunk_s=CHUNK_S)
    asked, state = advance(state, [prompt("bb", 4)], near, chunk_s=CHUNK_S)
    assert not asked.changed
    assert not asked.blending
    assert asked.prompts == WeightedPrompts.of("bb")


def test_a_cut_drops_the_transition_and_applies_its_target() -> None:
    shown = play([prompt("a")], [prompt("bb", 6)], [], [Request(cut=True)], [])
    assert [asked.cut for asked in shown] == [False, False, False, True, False]
    assert torch.equal(shown[3].embedding.rows, encode("bb").rows)
    assert not shown[3].blending


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cut_and_a_transition_in_one_chunk_snap(reverse: bool) -> None:
    requests = [Request(cut=True), prompt("bb", 6)]
    _, second = play([prompt("a")], requests[::-1] if reverse else requests)
    assert torch.equal(second.embedding.rows, encode("bb").rows)


def test_controls_stay_until_asked_otherwise() -> None:
    shown = play([prompt("a")], [Request(seed=7, strength=0.4)], [Request(attention_bias=0.3)])
    assert [asked.controls for asked in shown] == [
        Controls(seed=42, strength=0.7, attention_bias=1.0),
        Controls(seed=7, strength=0.4, attention_bias=1.0),
        Controls(seed=7, strength=0.4, attention_bias=0.3),
    ]


def test_a_step_that_throws_leaves_the_state() -> None:
    def refuse(text: str) -> Embedding:
        raise PromptRefused("too long")

    _, state = advance(START, [prompt("a")], encode, chunk_s=CHUNK_S)
    with pytest.raises(PromptRefused):
        advance(state, [prompt("bb")], refuse, chunk_s=CHUNK_S)
    asked, _ = advance(state, [], refuse, chunk_s=CHUNK_S)
    assert not asked.changed


weighted = st.builds(
    WeightedPrompts,
    prompts=st.lists(
        st.builds(Prompt, text=st.sampled_from(WORDS), weight=st.floats(0, 5)), min_size=1, max_size=3
    ).map(tuple),
    method=st.sampled_from(list(Method)),
)
transitions = st.one_of(
    st.none(),
    st.builds(Transition, chunks=st.integers(0, 5), method=st.sampled_from(list(Method))),
    st.builds(Transition, seconds=st.floats(0, 4), method=st.sampled_from(list(Method))),
)
requests_ = st.one_of(
    st.builds(Request, prompts=weighted, transition=transitions, cut=st.booleans()),
    st.builds(Request, cut=st.just(value=True)),
    st.builds(Request, seed=st.integers(0, 9)),
)


@given(weighted, st.lists(st.lists(requests_, max_size=3), min_size=1, max_size=8))
@settings(deadline=None)
def test_any_requests_give_well_formed_embeddings(first: WeightedPrompts, chunks: list[list[Request]]) -> None:
    _, state = advance(START, [Request(prompts=first)], encode, chunk_s=CHUNK_S)
    before = state.embedding
    for requests in chunks:
        asked, state = advance(state, requests, encode, chunk_s=CHUNK_S)
        rows, length = asked.embedding.rows, asked.embedding.length
        assert rows.shape == (ROWS, WIDTH)
        assert 1 <= length <= ROWS
        assert bool(rows.isfinite().all())
        assert not bool(rows[length:].any())
        assert asked.changed == (asked.embedding is not before)
        assert asked.cut == any(request.cut for request in requests)
        named = [request.prompts for request in requests if request.prompts is not None]
        assert not named or asked.prompts == named[-1]
        before = asked.embedding
    for _ in range(20):  # nothing new is asked for: the last prompts are reached, wholly
        asked, state = advance(state, [], encode, chunk_s=CHUNK_S)
    assert not asked.blending
    torch.testing.assert_close(asked.embedding.rows, embed(asked.prompts, encode).rows, atol=0.011, rtol=0)


def test_a_duration_in_seconds_is_rounded_up_to_chunks() -> None:
    counts = [Transition(seconds=s).count(CHUNK_S) for s in (0, 0.1, 0.75, 0.76, 2.25, 0.75 * 7)]
    assert counts == [0, 1, 1, 2, 3, 7]


def test_placements_count_the_cuts_asked_for() -> None:
    timeline = Timeline(
        requests=(
            prompt("a", at_s=0.0),
            prompt("bb", at_s=0.6, cut=True),  # after frame 9: chunk 2, frame 21; 9 frames long
            prompt("a", at_s=1.5),  # after frame 21: chunk 3 starts at 30
            prompt("bb", at_s=1.9),  # frame 30.4: chunk 4, frame 42
        )
    )
    placed = timeline.placements(GRID)
    assert [(p.chunk_index, p.pixel_frame) for p in placed] == [(0, 0), (2, 21), (3, 30), (4, 42)]
    assert [p.effect_s for p in placed] == [0, 21 / 16, 30 / 16, 42 / 16]
    assert [p.at_s for p in placed] == [0.0, 0.6, 1.5, 1.9]


def test_an_agenda_serves_times_in_order_and_live_requests_last() -> None:
    requests = [prompt("a", at_s=9.0), prompt("bb"), prompt("ccc", at_s=0.5), prompt("a", at_s=0.1)]
    agenda = Agenda().extended(enumerate(requests))
    assert [number for number, _ in agenda.due(Boundary(), GRID)] == [1]
    later = Boundary(chunk_index=1, pixel_frame=9, first=False)
    assert [number for number, _ in agenda.due(later, GRID)] == [3, 2, 1]
    assert [number for number, _ in agenda.without(frozenset({3, 1})).due(later, GRID)] == [2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompt(text=" "), "empty"),
        (lambda: Prompt(text="a", weight=-1.0), "weight -1.0"),
        (lambda: Prompt(text="a", weight=math.nan), "weight nan"),
        (lambda: WeightedPrompts(prompts=()), "list of prompts is empty"),
        (lambda: Transition(), "one length"),
        (lambda: Transition(chunks=1, seconds=1.0), "one length"),
        (lambda: Transition(seconds=-1.0), "transition of -1.0"),
        (lambda: Transition(seconds=math.inf), "transition of inf"),
        (lambda: Request(), "asks for nothing"),
        (lambda: Request(at_s=-0.1, cut=True), "time -0.1"),
        (lambda: Request(at_s=math.nan, cut=True), "time nan"),
        (lambda: Request(seed=-1), "seed -1"),
        (lambda: Request(seed=2**60), "seed"),
        (lambda: Request(strength=0.0), "strength 0.0"),
        (lambda: Request(attention_bias=1.5), "attention_bias 1.5"),
        (lambda: Controls(seed=-1, strength=0.7, attention_bias=1.0), "seed -1"),
        (lambda: Controls(seed=1, strength=math.nan, attention_bias=1.0), "strength nan"),
        (lambda: Request(cut=True, transition=Transition(chunks=3)), "without a prompt"),
        (lambda: Timeline(requests=(prompt("a", at_s=2.0), prompt("a", at_s=1.0))), "comes after"),
        (lambda: ChunkGrid(fps=0.0, chunk_frames=3, first_frames=3), "0.0 frames a second"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(make: object, message: str) -> None:
    with pytest.raises((PromptRefused, TimelineRefused), match=message) as refusal:
        make()
    assert "\n" not in str(refusal.value)
