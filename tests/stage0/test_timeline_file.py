"""The timeline as text: round trip, and refusals that say where."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genlock.errors import TimelineRefused
from genlock.stage0.blend import Method
from genlock.stage0.timeline import Prompt, Request, Timeline, Transition, WeightedPrompts
from genlock.stage0.timeline_file import format_timeline, parse_timeline

texts = st.text(alphabet='abc é"\\\n', min_size=1).filter(str.strip)
weighted = st.builds(
    WeightedPrompts,
    prompts=st.lists(st.builds(Prompt, text=texts, weight=st.floats(0, 9)), min_size=1, max_size=3).map(tuple),
    method=st.sampled_from(list(Method)),
)
transitions = st.one_of(
    st.none(), st.builds(Transition, chunks=st.integers(0, 9)), st.builds(Transition, seconds=st.floats(0, 9))
)
share = st.one_of(st.none(), st.floats(0.01, 1))
events = st.builds(
    Request,
    at_s=st.floats(0, 1e4),
    prompts=weighted,
    transition=transitions,
    cut=st.booleans(),
    seed=st.one_of(st.none(), st.integers(0, 2**53)),
    strength=share,
    attention_bias=share,
)


@given(st.lists(events, max_size=4))
@settings(deadline=None)
def test_what_is_written_is_read_back(requests: list[Request]) -> None:
    timeline = Timeline(requests=tuple(sorted(requests, key=lambda request: request.at_s or 0)))
    assert parse_timeline(format_timeline(timeline), needs_prompt=False) == timeline


def test_every_key() -> None:
    text = json.dumps(
        {
            "version": 1,
            "events": [
                {"at": 0, "prompt": "a", "seed": 7},
                {
                    "at": 4.5,
                    "prompts": [{"text": "a", "weight": 0.7}, {"text": "b"}],
                    "blend": "slerp",
                    "transition": {"seconds": 3, "method": "slerp"},
                    "strength": 0.5,
                    "attention_bias": 0.3,
                },
                {"at": 5, "cut": True},
            ],
        }
    )
    first, second, third = parse_timeline(text).requests
    assert first == Request(at_s=0.0, prompts=WeightedPrompts.of("a"), seed=7)
    assert second.prompts == WeightedPrompts(
        prompts=(Prompt(text="a", weight=0.7), Prompt(text="b")), method=Method.SLERP
    )
    assert second.transition == Transition(seconds=3.0, method=Method.SLERP)
    assert (second.strength, second.attention_bias) == (0.5, 0.3)
    assert third == Request(at_s=5.0, cut=True)


def events_text(*entries: dict[str, object]) -> str:
    return json.dumps({"version": 1, "events": [{"at": 0, "prompt": "a"}, *entries]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "show.json"),
        (b"\xff\xfe", "show.json"),
        ('{"version": 2, "events": []}', "version 2"),
        ('{"version": 1, "events": []}', "no prompt at 0 s"),
        ('{"version": 1, "events": [{"at": 1, "prompt": "a"}]}', "no prompt at 0 s"),
        ('{"version": 1, "events": [], "fps": 16}', "fps"),
        (events_text({"at": 1, "promt": "b"}), "promt"),
        (events_text({"prompt": "b"}), r"events\[1\]: no time"),
        (events_text({"at": -1, "prompt": "b"}), r"events\[1\]: time -1.0"),
        (events_text({"at": 2, "prompt": "b"}, {"at": 1, "prompt": "a"}), "comes after"),
        (events_text({"at": 1, "prompt": "  "}), r"events\[1\]: the prompt is empty"),
        (events_text({"at": 1, "prompts": []}), r"events\[1\]: the list of prompts is empty"),
        (events_text({"at": 1, "prompts": [{"text": "b", "weight": -2}]}), r"events\[1\]: weight -2.0"),
        (events_text({"at": 1, "prompts": [{"text": "b", "weight": "x"}]}), "weight"),
        (events_text({"at": 1, "prompt": "a", "prompts": [{"text": "b"}]}), "both"),
        (events_text({"at": 1, "prompt": "b", "transition": {"chunks": 2, "method": "cubic"}}), "cubic"),
        (events_text({"at": 1, "prompt": "b", "transition": {}}), r"events\[1\]: a transition has one length"),
        (events_text({"at": 1, "seed": 1.5}), "seed"),
        (events_text({"at": 1}), r"events\[1\]: a request that asks for nothing"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_place(text: str | bytes, message: str) -> None:
    with pytest.raises(TimelineRefused, match=message) as refusal:
        parse_timeline(text, where="show.json")
    assert str(refusal.value).count("\n") == 0
    assert "show.json" in str(refusal.value)
