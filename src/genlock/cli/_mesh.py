"""Which part this process takes in a command that runs on a mesh: its supervisor, a worker, or the one that goes on.

A command line is the same on every rank. Without a launcher, this process starts the ranks and watches them; a worker
serves and never comes back; rank 0, or the only rank there is, goes on with the command.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genlock.cli.main import Surroundings
from genlock.errors import UsageError
from genlock.settings import (
    Faults,
    Launch,
    Settings,
    guards_off,
    launch,
    mesh_deadlines,
    planted_faults,
    warn_of_faults,
)

if TYPE_CHECKING:
    from genlock.engine.job import Job

SMALLEST = 2  # ranks, where nobody said how many


def take_part(
    settings: Settings, surroundings: Surroundings, jobs: Callable[[], Sequence[Job]], *, files: Sequence[Path] = ()
) -> None:
    """Returns where the command is to go on. Otherwise ends it with the exit code of the run (`click.exceptions.Exit`).

    jobs: what each rank loads; asked for on workers only, after the command line was checked. files: what rank 0 is to
    write.
    """
    guards_off(settings)  # said before a rank is started, where it is no list of tripwires
    place = launch()
    if settings.topology == "solo" and place is not None and place.world > 1:
        raise UsageError(
            f"{place.world} ranks were launched for a topology of one",
            where="--topology",
            remedy="add --topology tp",
        )
    if settings.topology == "solo" and settings.mesh > 1:
        raise UsageError(f"a mesh of {settings.mesh} and a topology of one", where="--mesh", remedy="add --topology tp")
    faults = planted_faults(settings, ranks_of(settings, place))
    if place is None or (place.rank == 0 and place.supervised is None):  # the first process that there is
        warn_of_faults(settings)
    if settings.topology == "solo":
        return
    if place is None:
        supervise_ranks(settings, surroundings, faults, files)
    elif place.rank > 0:
        from genlock.engine.worker import work

        work(place, settings, jobs())


def ranks_of(settings: Settings, place: Launch | None) -> int:
    """Of the mesh, 0 where there is none."""
    if settings.topology == "solo":
        return 0
    return settings.mesh or (SMALLEST if place is None else place.world)


def supervise_ranks(settings: Settings, surroundings: Surroundings, faults: Faults, files: Sequence[Path]) -> None:
    from genlock.engine.supervisor import supervise
    from genlock.generator.whole_file import sweep

    code = supervise(
        [sys.executable, "-m", "genlock", *surroundings.arguments],
        mesh=ranks_of(settings, None),
        deadlines=mesh_deadlines(settings),
        run_dir=None if settings.run_dir == "auto" else Path(settings.run_dir),
        faults=faults,
    )
    with suppress(OSError):  # where it cannot be swept, the next run of that name does
        for file in files:
            sweep(file)
    raise click.exceptions.Exit(code)
