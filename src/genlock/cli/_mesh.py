"""Which part this process takes in a command that runs on a mesh: its supervisor, a worker, or the one that goes on.

A command line is the same on every rank. Without a launcher, this process starts the ranks and watches them; a worker
serves and never comes back; rank 0, or the only rank there is, goes on with the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genlock.cli.main import Surroundings
from genlock.errors import UsageError
from genlock.settings import Settings, faults_from, guards_off, launch, mesh_deadlines

if TYPE_CHECKING:
    from genlock.engine.job import Job

SMALLEST = 2  # ranks, where nobody said how many


def take_part(settings: Settings, surroundings: Surroundings, jobs: Callable[[], Sequence[Job]]) -> None:
    """Returns where the command is to go on. Otherwise ends it with the exit code of the run (`click.exceptions.Exit`).

    jobs: what each rank loads; asked for on workers only, after the command line was checked.
    """
    guards_off(settings)  # said before a rank is started, where it is no list of tripwires
    place = launch()
    if settings.topology == "solo":
        if place is not None and place.world > 1:
            raise UsageError(
                f"{place.world} ranks were launched for a topology of one",
                where="--topology",
                remedy="add --topology tp",
            )
        return
    if place is None:
        supervise_ranks(settings, surroundings)
    elif place.rank > 0:
        from genlock.engine.worker import work

        work(place, settings, jobs())


def supervise_ranks(settings: Settings, surroundings: Surroundings) -> None:
    from genlock.engine.supervisor import supervise

    code = supervise(
        [sys.executable, "-m", "genlock", *surroundings.arguments],
        mesh=settings.mesh or SMALLEST,
        deadlines=mesh_deadlines(settings),
        run_dir=None if settings.run_dir == "auto" else Path(settings.run_dir),
        faults=faults_from(settings.faults),
    )
    raise click.exceptions.Exit(code)
