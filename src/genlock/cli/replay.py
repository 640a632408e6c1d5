"""`genlock replay`: a recording run again, the largest error of every chunk, and a verdict."""

from __future__ import annotations

from pathlib import Path

import click

from genlock.cli._flags import mesh_flags, told
from genlock.cli._mesh import take_part
from genlock.cli.main import Surroundings
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
@mesh_flags
@click.pass_obj
def command(
    surroundings: Surroundings,
    /,
    folder: Path,
    names: tuple[str, ...],
    feed: str,
    tolerance: float,
    device: str,
    topology: str | None,
    mesh: int | None,
) -> None:
    """Run a recording again and print the largest error of each chunk: latents, keys, values, contexts, pixels.

    \b
    Example:
      genlock replay out/rec --tolerance 1e-4 --feed session
    """
    from genlock.engine.recording import read_recording
    from genlock.engine.replay import beginning, case_job, closed_loop_chunks, replay_envelopes, replay_session

    recording = read_recording(folder)
    cases = [recording.case(name) for name in names or recording.cases]
    followed = {case.name: closed_loop_chunks(case) for case in cases} if feed == "session" else {}
    cases = [case for case in cases if followed.get(case.name, 1)]
    settings = told(topology=topology, mesh=mesh, device=device)
    take_part(settings, surroundings, lambda: [case_job(case, device) for case in cases])
    for name, chunks in followed.items():
        if chunks < max(1, len(recording.case(name).events)):
            which = "no session" if chunks == 0 else f"chunks 0 to {chunks - 1} only"
            click.echo(f"{name}: {which}: the rest is one call or holds upstream's quirks; use --feed envelope")
    worst, place, compared = 0.0, "", 0
    begun = beginning(settings, cases, device)
    for case in cases:
        name = case.name
        replay = replay_session if feed == "session" else replay_envelopes
        for report in replay(case, device=device, begun=begun):
            figures = "  ".join(f"{kind} {error:.1e}" for kind, error in report.errors.items())
            click.echo(f"{name:22} chunk {report.chunk:3}  {figures}")
            compared += 1
            if not report.largest <= worst:
                worst, place = report.largest, f"{name}, chunk {report.chunk}"
    if not compared:
        raise ReplayFailed("nothing was compared", where=str(folder), remedy="use --feed envelope")
    click.echo(f"largest error {worst:.1e}{f' ({place})' if place else ''}, tolerance {tolerance:.0e}")
    if not worst <= tolerance:
        raise ReplayFailed(f"{place}: an error of {worst:.1e} is over the tolerance of {tolerance:.0e}")
