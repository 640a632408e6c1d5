"""A timeline as JSON text: what `generate --timeline` reads and the live page exports.

    {"version": 1, "events": [
      {"at": 0, "prompt": "a red balloon over the sea", "seed": 7},
      {"at": 4.5, "prompts": [{"text": "a boat", "weight": 0.7}, {"text": "a whale", "weight": 0.3}], "blend": "slerp",
       "transition": {"chunks": 4, "method": "linear"}},
      {"at": 12, "prompt": "a desert at night", "cut": true}]}

Strict: an unknown key, a wrong type or a time out of order is one line that names the place. Knows no chunk.
"""

from __future__ import annotations

from typing import Any

import msgspec

from genlock.errors import RefusedInput, TimelineRefused
from genlock.stage0.blend import Method
from genlock.stage0.timeline import Prompt, Request, Timeline, Transition, WeightedPrompts

VERSION = 1


class PromptEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    text: str
    weight: float = 1.0


class TransitionEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    chunks: int | None = None
    seconds: float | None = None
    method: Method = Method.LINEAR


class EventEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One request as it is written: a single `prompt`, or weighted `prompts` and how they `blend`."""

    at: float | None = None
    prompt: str | None = None
    prompts: list[PromptEntry] | None = None
    blend: Method = Method.LINEAR
    transition: TransitionEntry | None = None
    cut: bool = False
    seed: int | None = None
    strength: float | None = None
    attention_bias: float | None = None


class TimelineEntry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    version: int
    events: list[EventEntry]


def parse_timeline(text: str | bytes, *, where: str = "timeline", needs_prompt: bool = True) -> Timeline:
    """The timeline in a JSON text; `where` is the file's name in messages.

    Raises TimelineRefused in one line: not JSON, another version, an unknown key, a wrong type, times that are
    negative or out of order, an empty prompt, a bad weight, transition or setting; and, if `needs_prompt`, a timeline
    that shows nothing at 0 s.
    """
    try:
        entry = msgspec.json.decode(text, type=TimelineEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TimelineRefused(_one_line(error), where=where, remedy="see docs/reference for the form") from None
    if entry.version != VERSION:
        raise TimelineRefused(f"version {entry.version}", where=where, remedy=f"write version {VERSION}")
    requests = []
    for index, event in enumerate(entry.events):
        place = f"{where}, events[{index}]"
        if event.at is None:
            raise TimelineRefused("no time", where=place, remedy='give "at", in seconds')
        requests.append(_checked(event, place))
    try:
        timeline = Timeline(requests=tuple(requests))
    except TimelineRefused as error:
        raise TimelineRefused(error.what, where=where, remedy=error.remedy) from None
    if needs_prompt and not any(request.prompts and not request.at_s for request in timeline.requests):
        raise TimelineRefused("no prompt at 0 s", where=where, remedy="begin with an event at 0 that has a prompt")
    return timeline


def parse_request(entry: EventEntry) -> Request:
    """One event as a request. Raises PromptRefused or TimelineRefused."""
    if entry.prompt is not None and entry.prompts is not None:
        raise TimelineRefused('both "prompt" and "prompts"', remedy="give one of them")
    prompts = None
    if entry.prompt is not None:
        prompts = WeightedPrompts.of(entry.prompt)
    elif entry.prompts is not None:
        parts = tuple(Prompt(text=part.text, weight=part.weight) for part in entry.prompts)
        prompts = WeightedPrompts(prompts=parts, method=entry.blend)
    step = entry.transition
    return Request(
        at_s=entry.at,
        prompts=prompts,
        transition=None if step is None else Transition(chunks=step.chunks, seconds=step.seconds, method=step.method),
        cut=entry.cut,
        seed=entry.seed,
        strength=entry.strength,
        attention_bias=entry.attention_bias,
    )


def format_timeline(timeline: Timeline) -> str:
    """The JSON text that `parse_timeline` reads back as the same timeline."""
    events = [entry_of(request, at=request.at_s or 0.0) for request in timeline.requests]
    entry = TimelineEntry(version=VERSION, events=events)
    return msgspec.json.format(msgspec.json.encode(entry), indent=2).decode() + "\n"


def entry_of(request: Request, *, at: float | None) -> EventEntry:
    """The event that `parse_request` reads back as the same request, but for its time, which is `at`."""
    words: dict[str, Any] = {}
    if request.prompts is not None:
        parts = request.prompts.prompts
        if request.prompts == WeightedPrompts.of(parts[0].text):
            words["prompt"] = parts[0].text
        else:
            words["prompts"] = [PromptEntry(text=part.text, weight=part.weight) for part in parts]
            words["blend"] = request.prompts.method
    step = request.transition
    if step is not None:
        words["transition"] = TransitionEntry(chunks=step.chunks, seconds=step.seconds, method=step.method)
    return EventEntry(
        at=at,
        cut=request.cut,
        seed=request.seed,
        strength=request.strength,
        attention_bias=request.attention_bias,
        **words,
    )


def _checked(event: EventEntry, place: str) -> Request:
    try:
        return parse_request(event)
    except RefusedInput as error:
        raise TimelineRefused(error.what, where=place, remedy=error.remedy) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
