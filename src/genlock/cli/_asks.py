"""What a stream is asked to show, and when: a `Timeline` from flags or from a file, checked before a model loads.

Times and transitions are seconds of the stream. Knows no chunk: the session rounds, and refuses what it cannot serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genlock.errors import InputOutputError, TimelineRefused, UsageError

if TYPE_CHECKING:
    from genlock.stage0.timeline import Request, Timeline

LARGEST_FILE = 16 * 1024 * 1024  # bytes; a timeline of a day with a change a second is a tenth of that


def timeline_of_flags(
    prompts: Sequence[str], at_s: Sequence[float], cuts_at_s: Sequence[float], transition_s: float
) -> Timeline:
    """Prompts with their times, in order; a cut at a prompt's own time is that prompt's cut.

    Raises UsageError unless there is one time for every prompt after the first, and TimelineRefused or PromptRefused.
    """
    from genlock.stage0.timeline import Request, Timeline, Transition, WeightedPrompts

    if len(at_s) not in (len(prompts), len(prompts) - 1):
        raise UsageError(
            f"{len(prompts)} prompts and {len(at_s)} times",
            where="--at",
            remedy="give one --at SECONDS for every --prompt after the first",
        )
    times = [0.0, *at_s][-len(prompts) :]
    if times[0] != 0:
        raise TimelineRefused(f"no prompt before {times[0]:g} s", where="--at", remedy="start with a prompt at 0 s")
    transition = Transition(seconds=transition_s)
    changes = [
        Request(
            at_s=time, prompts=WeightedPrompts.of(text), cut=number > 0 and time in cuts_at_s, transition=transition
        )
        for number, (text, time) in enumerate(zip(prompts, times, strict=True))
    ]
    Timeline(requests=tuple(changes))  # times that go back are refused as they were written, not sorted away
    cuts = [Request(at_s=time, cut=True) for time in cuts_at_s if time not in times]
    return Timeline(requests=tuple(sorted([*changes, *cuts], key=time_of)))


def timeline_of_file(path: Path) -> Timeline:
    """The timeline in a JSON file. Raises InputOutputError or TimelineRefused, naming the file."""
    from genlock.stage0.timeline_file import parse_timeline

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise TimelineRefused("more than 16 MiB", where=str(path), remedy="give a timeline file")
        text = path.read_bytes()
    except OSError as error:
        raise InputOutputError(f"cannot be read ({(error.strerror or '').lower()})", where=str(path)) from error
    return parse_timeline(text, where=str(path))


def time_of(request: Request) -> float:
    return request.at_s or 0.0
