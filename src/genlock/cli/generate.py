"""`genlock generate`: prompts in, a video file out, and a plain account of what was done.

Built on the public session alone. Knows no chunk arithmetic: what was asked for and where it fell is the session's word.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genlock.cli._asks import time_of, timeline_of_file, timeline_of_flags, words_of
from genlock.cli._pace import Mark, Pace
from genlock.cli.main import Surroundings
from genlock.errors import InputOutputError, TimelineRefused, UsageError
from genlock.settings import Settings, from_environment

if TYPE_CHECKING:
    from torch import Tensor

    from genlock.stage0.timeline import Timeline

SHEET_PICTURES = 12
SHEET_COLUMNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one `generate` is to make. out, sheet: files. Sizes and steps None: the model's own."""

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


@click.command()
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help='What to show. Several change the picture while the stream runs, each with its --at. Example: "a red boat on the sea at noon".',
)
@click.option(
    "--at",
    "at_s",
    type=float,
    multiple=True,
    metavar="SECONDS",
    help="When a prompt after the first comes in, in seconds of video; once for each, in the same order. Rounded up to the start of a chunk (12 frames), and said. Example: --at 4.",
)
@click.option(
    "--transition",
    "transition_s",
    type=float,
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a change of prompt takes. 0 changes at once. Example: --transition 1.5.",
)
@click.option(
    "--cut-at",
    "cuts_at_s",
    type=float,
    multiple=True,
    metavar="SECONDS",
    help="A hard cut: forget the past and start afresh, with the prompt of that moment. Rounded up like --at. Example: --cut-at 8.",
)
@click.option(
    "--timeline",
    "timeline_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Prompts, blends, transitions and cuts from a JSON file, in place of the four flags above. Example: --timeline story.json.",
)
@click.option(
    "--input",
    "input_video",
    type=click.Path(path_type=Path),
    metavar="VIDEO",
    help="A video to start from and to follow (video-to-video). Example: --input walk.mp4.",
)
@click.option(
    "--strength",
    type=float,
    metavar="SHARE",
    help="How far --input is changed, above 0 and at most 1. Default: the model's own. Example: --strength 0.7.",
)
@click.option(
    "--seconds",
    type=float,
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the video, rounded up to whole chunks. Example: --seconds 20.",
)
@click.option(
    "--seed",
    type=int,
    default=42,
    show_default=True,
    metavar="NUMBER",
    help="Start of all randomness: the same seed, prompts and machine give the same video. Example: --seed 7.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="VIDEO",
    help="The file to write, an H.264 mp4. Needed unless --list-words is given. Example: --out video.mp4.",
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="Also write a contact sheet: 12 moments of the video on one picture. Example: --sheet video.png.",
)
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="A preset's name or a checkpoint. Default: GENLOCK_MODEL, else the bundled model. Example: --model bundled.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to run. Default: GENLOCK_DEVICE, else auto: CUDA where it works, otherwise the CPU. Example: --device cpu.",
)
@click.option(
    "--regime",
    type=click.Choice(["auto", "R0a", "R0", "R1"]),
    help="What the cache is rebuilt from before a chunk: R0a exact, R0 latents only, R1 never. Default: GENLOCK_REGIME, else auto: the model's own. Example: --regime R0.",
)
@click.option(
    "--height",
    type=int,
    metavar="PIXELS",
    help="Height of the picture, a multiple of 16. Default: the model's own. Example: --height 128.",
)
@click.option(
    "--width",
    type=int,
    metavar="PIXELS",
    help="Width of the picture, a multiple of 16. Default: the model's own. Example: --width 192.",
)
@click.option(
    "--steps",
    type=int,
    metavar="NUMBER",
    help="Denoising steps of a chunk. Default: the model's own. Example: --steps 4.",
)
@click.option("--list-words", is_flag=True, help="Print the words the model knows, and stop.")
@click.pass_obj
def command(
    surroundings: Surroundings,
    prompts: tuple[str, ...],
    at_s: tuple[float, ...],
    transition_s: float,
    cuts_at_s: tuple[float, ...],
    timeline_file: Path | None,
    model: str | None,
    device: str | None,
    regime: str | None,
    list_words: bool,
    **rest: Any,
) -> None:
    """Make a video from prompts.

    \b
    Examples:
      genlock generate --prompt "a red balloon over the sea at noon" --out video.mp4
      genlock generate --prompt "a boat at noon" --prompt "a boat at night" --at 4 --transition 1 --out night.mp4
    """
    given = {
        name: value for name, value in [("model", model), ("device", device), ("regime", regime)] if value is not None
    }
    settings = replace(from_environment(), **given)
    if list_words:
        return show_words(surroundings, settings)
    if rest["out"] is None:
        raise UsageError("no file to write", where="--out", remedy="add --out video.mp4")
    if rest["strength"] is not None and rest["input_video"] is None:
        raise UsageError("nothing to change", where="--strength", remedy="add --input VIDEO")
    if not 0 < rest["seconds"] < float("inf"):
        raise UsageError(f"a video of {rest['seconds']:g} seconds", where="--seconds", remedy="give more than 0")
    for place in (rest["out"], rest["sheet"]):
        must_be_writable(place)
    return generate(
        Order(timeline=timeline_of(prompts, at_s, cuts_at_s, transition_s, timeline_file), settings=settings, **rest),
        surroundings,
    )


def timeline_of(
    prompts: tuple[str, ...],
    at_s: tuple[float, ...],
    cuts_at_s: tuple[float, ...],
    transition_s: float,
    timeline_file: Path | None,
) -> Timeline:
    """The one timeline that flags or the file describe. Raises UsageError for both or neither."""
    if timeline_file is None and not prompts:
        raise UsageError("nothing to show", where="--prompt", remedy='add --prompt "what to show" or --timeline FILE')
    if timeline_file is None:
        return timeline_of_flags(prompts, at_s, cuts_at_s, transition_s)
    if prompts or at_s or cuts_at_s or transition_s:
        raise UsageError(
            "a timeline has its own prompts and times", where="--timeline", remedy="leave the other flags out"
        )
    return timeline_of_file(timeline_file)


def must_be_writable(path: Path | None) -> None:
    """Before minutes of work: raises InputOutputError where the folder of a file to write is not there."""
    if path is None:
        return
    if path.is_dir():
        raise InputOutputError("is a folder", where=str(path), remedy="name a file in it")
    if not path.absolute().parent.is_dir():
        raise InputOutputError("there is no such folder", where=str(path.parent), remedy="make the folder first")


def show_words(surroundings: Surroundings, settings: Settings) -> None:
    with surroundings.open_session(settings.model, settings=settings) as session:
        for word in session.words:
            click.echo(word)


def generate(order: Order, surroundings: Surroundings) -> None:
    """Streams the order into its file, and says what was done. Whatever fails, no half-written file stays."""
    from genlock.media.video import VideoWriter

    settings = order.settings
    with surroundings.open_session(
        settings.model,
        height=order.height,
        width=order.width,
        seed=order.seed,
        steps=order.steps,
        input_video=order.input_video,
        strength=order.strength,
        settings=settings,
    ) as session:
        warn_of_unknown_words(session, order.timeline)
        submit(session, order)
        pace = Pace(surroundings.started_s, session.fps)
        moments = Moments(order.seconds, session.fps)
        with (
            VideoWriter(order.out, session.width, session.height, session.fps) as video,
            progress(order.seconds) as advance,
        ):
            for chunk in session.stream(seconds=order.seconds):
                video.write(chunk.frames)
                pace.marks.append(Mark(frames=len(chunk.frames), done_s=surroundings.clock(), timings=chunk.timings))
                moments.keep(chunk.frames, chunk.start_frame)
                advance(len(chunk.frames) / session.fps)
                for note in chunk.notes:
                    click.echo(note)
        click.echo(
            f"{order.out}: {pace.frames} frames, {pace.seconds:.1f} s at {session.fps:g} frames/s, {session.width}x{session.height}"
        )
    if order.sheet is not None:
        moments.write(order.sheet)
        click.echo(f"{order.sheet}: contact sheet, {len(moments.pictures)} moments")
    for line in pace.words():
        click.echo(line)


def submit(session: Any, order: Order) -> None:
    """Asks the session for everything in the timeline, and says where each falls. Raises TimelineRefused."""
    for request, placed in zip(order.timeline.requests, session.ask(order.timeline), strict=True):
        if placed.effect_s >= order.seconds:
            raise TimelineRefused(
                f"{time_of(request):g} s is beyond the video's {order.seconds:g} s", remedy="give a larger --seconds"
            )
        rounded = f" (asked for {time_of(request):g} s)" if abs(placed.effect_s - time_of(request)) > 1e-6 else ""
        click.echo(f"at {placed.effect_s:.2f} s{rounded}, chunk {placed.chunk_index}: {words_of(request)}")


def warn_of_unknown_words(session: Any, timeline: Timeline) -> None:
    texts = [prompt.text for request in timeline.requests if request.prompts for prompt in request.prompts.prompts]
    unknown = dict.fromkeys(word for text in texts for word in session.unknown_words(text))
    if unknown:
        click.echo(
            f"warning: the model does not know {', '.join(unknown)}; `genlock generate --list-words` prints what it knows",
            err=True,
        )


class Moments:
    """Pictures for the contact sheet, evenly spread over a video whose length is only known about."""

    def __init__(self, seconds: float, fps: float) -> None:
        self.fps = fps
        self.pictures: list[tuple[int, Tensor]] = []
        self._every = max(1, int(seconds * fps) // SHEET_PICTURES)

    def keep(self, frames: Tensor, start_frame: int) -> None:
        """frames: uint8 [T, H, W, 3], the first of them number `start_frame` of the video."""
        for number, frame in enumerate(frames, start=start_frame):
            if number == len(self.pictures) * self._every + self._every // 2 and len(self.pictures) < SHEET_PICTURES:
                self.pictures.append((number, frame.clone()))

    def write(self, path: Path) -> None:
        from genlock.media.video import contact_sheet

        captions = [f"{number / self.fps:.1f} s, frame {number}" for number, _ in self.pictures]
        contact_sheet(path, [frame for _, frame in self.pictures], columns=SHEET_COLUMNS, captions=captions)


@contextmanager
def progress(seconds: float) -> Iterator[Any]:
    """Yields advance(seconds delivered): a bar on a terminal's stderr, and nothing anywhere else."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("generating"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda done: bar.advance(task, done)
