"""A timeline delivered as a video file: asks the session, writes the frames, says what was done.

Built on the public session alone. Knows no flag and no chunk arithmetic: where a request falls is the session's word.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genlock.cli._asks import time_of
from genlock.cli._drain import drained_when_asked
from genlock.cli._pace import Mark, Pace
from genlock.cli.main import Surroundings
from genlock.errors import TimelineRefused
from genlock.observe.trace import MP4
from genlock.settings import Settings, metrics_port_from

if TYPE_CHECKING:
    from torch import Tensor

    from genlock.stage0.timeline import Timeline

SHEET_PICTURES = 12
SHEET_COLUMNS = 4
KEPT_PER_PICTURE = 4  # the length is known only about: more are kept than shown, and the shown are chosen at the end
SAME_TIME_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be made. out, sheet: files. seconds: of video. Sizes, steps and strength None: the model's own."""

    timeline: Timeline
    out: Path
    sheet: Path | None
    seconds: float
    seed: int
    height: int | None
    width: int | None
    steps: int | None
    input_video: Path | None
    strength: float | None
    settings: Settings


def deliver(order: Order, surroundings: Surroundings) -> None:
    """Streams the order into its file, and says what was done. Whatever fails, no half-written file stays."""
    from genlock.media.video import VideoWriter

    watch_figures = metrics_of(order.settings)
    with surroundings.open_session(
        order.settings.model,
        height=order.height,
        width=order.width,
        seed=order.seed,
        steps=order.steps,
        input_video=order.input_video,
        strength=order.strength,
        settings=order.settings,
    ) as session:
        for note in session.notes:
            click.echo(note)
        warn_of_unknown_words(session, order.timeline)
        ask(session, order)
        watch_figures(session)
        fps = session.fps
        pace = Pace(surroundings.started_s, fps)
        moments = Moments(order.seconds, fps)
        with (
            drained_when_asked(session, order.settings),
            VideoWriter(order.out, session.width, session.height, fps) as video,
            progress(order.seconds) as advance,
        ):
            for chunk in session.stream(seconds=order.seconds):
                made_s = surroundings.clock()
                with session.handing_on(), session.trace.span(MP4):
                    video.write(chunk.frames)
                done_s = surroundings.clock()
                timings = {**chunk.timings, "mp4": done_s - made_s}
                pace.marks.append(Mark(frames=len(chunk.frames), done_s=done_s, timings=timings))
                if order.sheet is not None:
                    moments.keep(chunk.frames, chunk.start_frame)
                advance(len(chunk.frames) / fps)
                for note in chunk.notes:
                    click.echo(note)
    size = f"{session.width}x{session.height}"
    click.echo(f"{order.out}: {pace.seconds:.1f} s, {pace.frames} frames of {size} at {fps:g} frames/s")
    if order.sheet is not None:
        moments.write(order.sheet)
        click.echo(f"{order.sheet}: contact sheet, {len(moments.pictures)} moments")
    for line in pace.words():
        click.echo(line)


def metrics_of(settings: Settings) -> Callable[[Any], None]:
    """Answers for Prometheus from now on, if that is asked for, so that a port that is taken is found before a model
    loads; what is returned is told the session when there is one. Raises UsageError."""
    wanted = metrics_port_from(settings.metrics_port)
    if wanted is None:
        return lambda session: None  # noqa: ARG005 - nobody asks for figures
    from genlock.observe.metrics import Metrics

    metrics = Metrics()
    port = metrics.serve(wanted)
    click.echo(f"metrics: http://{metrics.host}:{port}/metrics")
    return lambda session: metrics.watch(session.trace, session.ranks, rank=0, fps=session.fps)


def ask(session: Any, order: Order) -> None:
    """Asks the session for everything in the timeline, and says where each falls. Raises TimelineRefused."""
    from genlock.stage0.timeline import words_of

    for request, placed in zip(order.timeline.requests, session.ask(order.timeline), strict=True):
        if placed.effect_s >= order.seconds:
            raise TimelineRefused(
                f"{time_of(request):g} s comes into effect at {placed.effect_s:g} s, after the end of the video",
                remedy="give a larger --seconds",
            )
        rounded = abs(placed.effect_s - time_of(request)) > SAME_TIME_S
        asked = f" (asked for {time_of(request):g} s, rounded up to a chunk)" if rounded else ""
        click.echo(f"at {placed.effect_s:.2f} s, chunk {placed.chunk_index}{asked}: {words_of(request)}")


def warn_of_unknown_words(session: Any, timeline: Timeline) -> None:
    texts = [prompt.text for request in timeline.requests if request.prompts for prompt in request.prompts.prompts]
    unknown = dict.fromkeys(word for text in texts for word in session.unknown_words(text))
    if unknown:
        click.echo(
            f"warning: the model does not know {', '.join(unknown)}; "
            "`genlock generate --list-words` prints what it knows",
            err=True,
        )


class Moments:
    """Pictures for a contact sheet, evenly spread over a video of about so many seconds."""

    def __init__(self, seconds: float, fps: float) -> None:
        self.fps = fps
        self._kept: list[tuple[int, Tensor]] = []
        self._every = max(1, int(seconds * fps) // (SHEET_PICTURES * KEPT_PER_PICTURE))

    def keep(self, frames: Tensor, start_frame: int) -> None:
        """frames: uint8 [T, height, width, 3], the first of them number `start_frame` of the video."""
        first = -start_frame % self._every
        self._kept += [
            (start_frame + number, frames[number].clone()) for number in range(first, len(frames), self._every)
        ]

    @property
    def pictures(self) -> list[tuple[int, Tensor]]:
        """At most SHEET_PICTURES frames with their numbers, the first and the last of what was kept among them."""
        count = min(SHEET_PICTURES, len(self._kept))
        last = len(self._kept) - 1
        return [self._kept[round(index * last / max(1, count - 1))] for index in range(count)]

    def write(self, path: Path) -> None:
        from genlock.media.video import contact_sheet

        pictures = self.pictures
        captions = [f"{number / self.fps:.1f} s, frame {number}" for number, _ in pictures]
        contact_sheet(path, [frame for _, frame in pictures], columns=SHEET_COLUMNS, captions=captions)


@contextmanager
def progress(seconds: float) -> Iterator[Callable[[float], None]]:
    """Yields a function to call with seconds delivered: a bar where stderr is a terminal, nothing anywhere else."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    amount = TextColumn("{task.completed:.1f} of {task.total:.1f} s")
    columns = TextColumn("generating"), BarColumn(), amount, TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda done: bar.advance(task, done)
