"""`genlock generate`: prompts in, a video file out. Its flags, and what can be refused before a model loads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genlock.cli._asks import timeline_of_file, timeline_of_flags
from genlock.cli._delivery import Order, deliver
from genlock.cli._flags import (
    CHOICES,
    asking_flags,
    looking_flags,
    mesh_flags,
    model_flag,
    plan_flag,
    seed_flag,
    told,
)
from genlock.cli._mesh import take_part
from genlock.cli.main import Surroundings
from genlock.errors import InputOutputError, UsageError, VideoUnreadable
from genlock.settings import Settings, profiled

if TYPE_CHECKING:
    from genlock.engine.job import Job
    from genlock.stage0.timeline import Timeline

# Flags that say a setting.
OF_SETTINGS = (
    "model",
    "device",
    "regime",
    "topology",
    "mesh",
    "plan",
    "run_dir",
    "metrics_port",
    "log_format",
    "profile",
)
A_PATH = click.Path(path_type=Path)


@click.command()
@asking_flags
@click.option(
    "--timeline",
    "timeline_file",
    type=A_PATH,
    metavar="FILE",
    help="Prompts, blends, transitions and cuts from a JSON file, in place of the four flags above. "
    "Default: those flags. Example: --timeline story.json.",
)
@click.option(
    "--input",
    "input_video",
    type=A_PATH,
    metavar="VIDEO",
    help="A video to follow (video-to-video). Default: none. Example: --input walk.mp4.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="How far the input video is changed, above 0 and at most 1. Default: the model's own. "
    "Example: --strength 0.7.",
)
@click.option(
    "--seconds",
    type=float,
    default=8.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the video, rounded up to whole chunks. Example: --seconds 20.",
)
@seed_flag
@click.option(
    "--out",
    type=A_PATH,
    metavar="VIDEO",
    help="The file to write, an H.264 mp4; needed. Example: --out video.mp4.",
)
@click.option(
    "--sheet",
    type=A_PATH,
    metavar="PNG",
    help="Also write a contact sheet, 12 moments of the video on one picture. Default: none. "
    "Example: --sheet video.png.",
)
@model_flag
@click.option(
    "--device",
    type=click.Choice(CHOICES["device"]),
    help="Where to run; auto is CUDA where it works, otherwise the CPU. "
    "Default: GENLOCK_DEVICE, else auto. Example: --device cpu.",
)
@click.option(
    "--regime",
    type=click.Choice(CHOICES["regime"]),
    help="What the cache is rebuilt from before a chunk: R0a exact, R0 latents only, R1 never. "
    "Default: GENLOCK_REGIME, else auto, the model's own. Example: --regime R0.",
)
@click.option(
    "--height",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Height of the picture, a multiple of 16. Default: the model's own. Example: --height 128.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Width of the picture, a multiple of 16. Default: the model's own. Example: --width 192.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Denoising steps of a chunk. Default: the model's own. Example: --steps 4.",
)
@mesh_flags
@plan_flag
@looking_flags
@click.option("--list-words", is_flag=True, help="Print what the model can be told, by kind, and stop.")
@click.pass_obj
def command(
    surroundings: Surroundings,
    /,
    prompts: tuple[str, ...],
    at_s: tuple[float, ...],
    transition_s: float,
    cuts_at_s: tuple[float, ...],
    timeline_file: Path | None,
    list_words: bool,
    **rest: Any,
) -> None:
    """Make a video from prompts.

    \b
    Examples:
      genlock generate --prompt "a red balloon over the sea at noon" --out video.mp4
      genlock generate --prompt "a boat at noon" --prompt "a boat at night" --at 4 \\
        --transition 1 --seconds 10 --out night.mp4 --sheet night.png
    """
    settings = told(**{name: rest.pop(name) for name in OF_SETTINGS})
    if list_words:
        show_words(settings.model)
        return
    check(**rest)
    profiled(settings)  # refused now, where it cannot be
    timeline = timeline_of(prompts, at_s, cuts_at_s, transition_s, timeline_file)
    files = [path for path in (rest["out"], rest["sheet"]) if path is not None]
    take_part(settings, surroundings, lambda: session_jobs(settings, **rest), files=files)
    deliver(Order(timeline=timeline, settings=settings, **rest), surroundings)


def session_jobs(
    settings: Settings,
    *,
    height: int | None,
    width: int | None,
    steps: int | None,
    input_video: Path | None,
    **_: Any,
) -> list[Job]:
    """What a rank of a mesh loads for these flags."""
    from genlock.engine.session import session_job

    return [session_job(settings, height=height, width=width, steps=steps, video=input_video is not None)]


def check(
    *, out: Path | None, sheet: Path | None, seconds: float, strength: float | None, input_video: Path | None, **_: Any
) -> None:
    """Refuses, before minutes of work, what cannot end well. Raises UsageError, InputOutputError."""
    if out is None:
        raise UsageError("no file to write", where="--out", remedy="add --out video.mp4")
    if strength is not None and input_video is None:
        raise UsageError("nothing to change", where="--strength", remedy="add --input VIDEO")
    if input_video is not None and not input_video.is_file():
        raise VideoUnreadable("there is no such file", where=str(input_video))
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"a video of {seconds:g} seconds", where="--seconds", remedy="give more than 0")
    named: dict[Path, str] = {}
    for flag, path in (("--input", input_video), ("--out", out), ("--sheet", sheet)):
        other = flag if path is None else named.setdefault(path.resolve(), flag)
        if other != flag:
            raise UsageError(f"the same file as {other}", where=flag, remedy="give each a name of its own")
    for path in (out, sheet):
        if path is not None and path.is_dir():
            raise InputOutputError("is a folder", where=str(path), remedy="name a file in it")
        if path is not None and not path.absolute().parent.is_dir():
            raise InputOutputError("there is no such folder", where=str(path.parent), remedy="make the folder first")


def timeline_of(
    prompts: tuple[str, ...],
    at_s: tuple[float, ...],
    cuts_at_s: tuple[float, ...],
    transition_s: float,
    timeline_file: Path | None,
) -> Timeline:
    """The one timeline that the flags or the file describe. Raises UsageError for both or neither."""
    if timeline_file is None and not prompts:
        raise UsageError("nothing to show", where="--prompt", remedy='add --prompt "what to show" or --timeline FILE')
    if timeline_file is None:
        return timeline_of_flags(prompts, at_s, cuts_at_s, transition_s)
    if prompts or at_s or cuts_at_s or transition_s:
        raise UsageError(
            "a timeline file has its own prompts and times",
            where="--timeline",
            remedy="leave out --prompt, --at, --cut-at and --transition",
        )
    return timeline_of_file(timeline_file)


def show_words(model: str) -> None:
    """What prompts are made of, by kind, as the model folder says; or its bare words."""
    from genlock.engine.session import find_model

    folder = find_model(model)
    for kind, phrases in folder.phrases.items():
        click.echo(f"{kind}: {', '.join(phrases)}")
    if not folder.phrases:
        click.echo("\n".join(folder.words) if folder.words else "this model has no list of words: any word will do")
    if folder.example:
        click.echo(f'\nfor example: genlock generate --prompt "{folder.example}" --out video.mp4')
