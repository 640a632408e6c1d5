"""`genlock replay`: a recording run again, the largest error of every chunk, and a verdict."""

from __future__ import annotations

from pathlib import Path

import click

from genlock.errors import ReplayFailed


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--case",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this case; may be given several times. Default: every case. Example: --case recompute.",
)
@click.option(
    "--feed",
    type=click.Choice(["envelope", "session"]),
    default="envelope",
    show_default=True,
    help="What is fed: whole envelopes with recorded contexts, or only causes, so that the session's own timeline, "
    "anchors and contexts are tested. Example: --feed session.",
)
@click.option(
    "--tolerance",
    type=float,
    default=2e-5,
    show_default=True,
    metavar="NUMBER",
    help="Largest absolute error that passes. Example: --tolerance 1e-4.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where to run, in float32. Example: --device cuda.",
)
def command(folder: Path, names: tuple[str, ...], feed: str, tolerance: float, device: str) -> None:
    """Run a recording again and print the largest error of each chunk: latents, keys, values, contexts, pixels.

    \b
    Example:
      genlock replay out/rec --tolerance 1e-4 --feed session
    """
    from genlock.engine.recording import read_recording
    from genlock.engine.replay import closed_loop_chunks, replay_envelopes, replay_session

    recording = read_recording(folder)
    worst, place, compared = 0.0, "", 0
    for name in names or tuple(recording.cases):
        case = recording.case(name)
        if feed == "session":
            followed = closed_loop_chunks(case)
            if followed < max(1, len(case.events)):
                which = "no session" if followed == 0 else f"chunks 0 to {followed - 1} only"
                click.echo(f"{name}: {which}: the rest is one call or holds upstream's quirks; use --feed envelope")
            if followed == 0:
                continue
        reports = replay_session(case, device=device) if feed == "session" else replay_envelopes(case, device=device)
        for report in reports:
            figures = "  ".join(f"{kind} {error:.1e}" for kind, error in report.errors.items())
            click.echo(f"{name:22} chunk {report.chunk:3}  {figures}")
            compared += 1
            if not report.largest <= worst:
                worst, place = report.largest, f"{name}, chunk {report.chunk}"
    if not compared:
        raise ReplayFailed("nothing was compared", where=str(folder), remedy="use --feed envelope")
    click.echo(f"largest error {worst:.1e} ({place}), tolerance {tolerance:.0e}")
    if not worst <= tolerance:
        raise ReplayFailed(f"{place}: an error of {worst:.1e} is over the tolerance of {tolerance:.0e}")
