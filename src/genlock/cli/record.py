"""`genlock record`: a session written to a folder that `genlock replay` runs again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genlock.cli._asks import timeline_of_flags
from genlock.cli._drain import drained_when_asked
from genlock.cli._flags import asking_flags, mesh_flags, model_flag, plan_flag, seed_flag, told
from genlock.cli._mesh import take_part
from genlock.cli.main import Surroundings
from genlock.errors import UsageError

if TYPE_CHECKING:
    from genlock.engine.job import Job


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@asking_flags
@click.option(
    "--seconds",
    type=float,
    default=6.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the stream, rounded up to whole chunks. Example: --seconds 4.",
)
@seed_flag
@model_flag
@mesh_flags
@plan_flag
@click.option(
    "--case",
    default="session",
    show_default=True,
    metavar="NAME",
    help="The recording's name in its folder. Example: --case sunset.",
)
@click.pass_obj
def command(
    surroundings: Surroundings,
    /,
    folder: Path,
    prompts: tuple[str, ...],
    at_s: tuple[float, ...],
    transition_s: float,
    cuts_at_s: tuple[float, ...],
    seconds: float,
    seed: int,
    model: str | None,
    topology: str | None,
    mesh: int | None,
    plan: str | None,
    case: str,
) -> None:
    """Run a session and write noise, contexts, latents, keys, values and pixels to DIR.

    \b
    Example:
      genlock record out/rec --prompt "a red balloon over the sea at noon" --seconds 4
      genlock replay out/rec --feed session
    """
    if not prompts:
        raise UsageError("nothing to show", where="--prompt", remedy='add --prompt "what to show"')
    settings = told(model=model, topology=topology, mesh=mesh, plan=plan)
    timeline = timeline_of_flags(prompts, at_s, cuts_at_s, transition_s)

    def jobs() -> list[Job]:
        from genlock.engine.session import session_job

        return [session_job(settings)]

    take_part(settings, surroundings, jobs)
    from genlock.engine.record import record

    with surroundings.open_session(settings.model, seed=seed, settings=settings) as session:
        session.ask(timeline)
        with drained_when_asked(session, settings):
            chunks = record(session, folder, seconds=seconds, case=case)
    click.echo(f"{folder}: {chunks} chunks of case {case}")
