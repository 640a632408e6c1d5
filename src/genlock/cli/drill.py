"""`genlock drill`: faults planted in real processes on this machine, and whether what must come of them does."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genlock.errors import DrillFellShort, LaunchRefused, UsageError

if TYPE_CHECKING:
    from genlock.drills.catalogue import Drill
    from genlock.drills.conduct import Outcome

Tell = Callable[["Drill", "Outcome | str"], None]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run every drill, and print one table.")
@click.option(
    "--without-guard",
    is_flag=True,
    help="Leave the tripwire off: show the hang or the wrong picture that it is there for. Bounded.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a case instead of words.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Keep the run folders (recorders, causes, stacks, logs) in a new or empty folder; by default none is kept. "
    "Example: --keep out/drills.",
)
def command(names: tuple[str, ...], *, everything: bool, without_guard: bool, as_json: bool, keep: Path | None) -> None:
    """Break a mesh on purpose: real processes, a toy model, D = 3 s.

    Without a name: the list. Ends with exit code 4 if a drill falls short of what was expected.

    \b
    Examples:
      genlock drill
      genlock drill kill anti-stranding
      genlock drill --all
      genlock drill call-count --without-guard
    """
    from genlock.drills.catalogue import CATALOGUE

    if not names and not everything:
        list_drills(CATALOGUE, as_json=as_json)
        return
    if not sys.platform.startswith("linux"):
        raise LaunchRefused("drills need means that only Linux has", remedy="run them on Linux")
    chosen = choose(CATALOGUE, names, everything=everything, without_guard=without_guard)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise UsageError("the folder is not empty", where=str(keep), remedy="name a new one with --keep")
    folder = Path(tempfile.mkdtemp(prefix="genlock-drill-")) if keep is None else keep.absolute()
    began_s = time.monotonic()
    tell = as_line if as_json else as_row if everything else in_full
    try:
        seen = [(drill.name, outcome) for drill, outcome in run(chosen, folder, without_guard, tell)]
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    short = [name for name, outcome in seen if not isinstance(outcome, str) and outcome.fell_short]
    if short:
        raise DrillFellShort(f"{len(short)} of the cases fell short: {', '.join(dict.fromkeys(short))}")
    if not as_json:
        not_run = sum(isinstance(outcome, str) for _, outcome in seen)
        click.echo(
            f"{len(seen) - not_run} cases of {len(chosen) - not_run} drills as expected, {not_run} drills not run, in "
            f"{time.monotonic() - began_s:.0f} s"
        )


def choose(
    catalogue: tuple[Drill, ...], names: tuple[str, ...], *, everything: bool, without_guard: bool
) -> list[Drill]:
    """Raises UsageError for a name that there is not, or a drill that has no run without its guard."""
    known = {drill.name: drill for drill in catalogue}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no drill {name!r}", remedy="`genlock drill` lists them")
        if without_guard and not known[name].without:
            can = ", ".join(drill.name for drill in catalogue if drill.without)
            raise UsageError(f"{name} has no run without its guard", where="--without-guard", remedy=f"use {can}")
    chosen = list(catalogue) if everything else [known[name] for name in dict.fromkeys(names)]
    return [drill for drill in chosen if drill.without] if without_guard else chosen


def run(drills: list[Drill], folder: Path, without_guard: bool, tell: Tell) -> Iterator[tuple[Drill, Outcome | str]]:
    """Each case, told and yielded as it is done; or why a drill is not run."""
    from genlock.drills.conduct import conduct
    from genlock.drills.toy import write_toy_model

    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    write_toy_model(model)
    for drill in drills:
        reason = drill.not_run()
        if reason:
            tell(drill, reason)
            yield drill, reason
            continue
        for number, case in enumerate(drill.without if without_guard else drill.cases):
            outcome = conduct(case, folder / f"{drill.name}-{number}", model)
            tell(drill, outcome)
            yield drill, outcome


def as_line(drill: Drill, outcome: Outcome | str) -> None:
    """JSON, an object a case."""
    found = {"not_run": outcome} if isinstance(outcome, str) else {"ok": not outcome.fell_short, **asdict(outcome)}
    click.echo(json.dumps({"drill": drill.name, **found}))


def as_row(drill: Drill, outcome: Outcome | str) -> None:
    """One line of a table; more of what fell short."""
    if isinstance(outcome, str):
        click.echo(f"{'not run':8} {drill.name:20} {outcome}")
    elif outcome.fell_short:
        in_full(drill, outcome)
    else:
        seen = outcome.seen[outcome.seen.rfind("exit code") :]
        click.echo(f"{'ok':8} {drill.name:20} {outcome.injected:58} {outcome.seconds:5.1f} s  {seen:.90}")


def in_full(drill: Drill, outcome: Outcome | str) -> None:
    """All that there is to say, for people."""
    if isinstance(outcome, str):
        click.echo(f"{drill.name}: not run: {outcome}")
        return
    mark = click.style("fell short", fg="red") if outcome.fell_short else click.style("ok", fg="green")
    click.echo(f"{drill.name}: {drill.about}")
    for name, value in (("injected", outcome.injected), ("expected", outcome.expected), ("seen", outcome.seen)):
        click.echo(f"  {name:9} {value}")
    click.echo(f"  {outcome.seconds:5.1f} s   {mark} {outcome.fell_short}".rstrip())


def list_drills(catalogue: tuple[Drill, ...], *, as_json: bool) -> None:
    for drill in catalogue:
        reason = drill.not_run()
        if as_json:
            about = {"drill": drill.name, "about": drill.about, "cases": len(drill.cases), "not_run": reason}
            click.echo(json.dumps({**about, "without_guard": bool(drill.without)}))
            continue
        click.echo(f"{drill.name:34} {drill.about}")
        more = f"not run here: {reason}" if reason else f"{len(drill.cases)} case{'s' * (len(drill.cases) > 1)}"
        click.echo(f"{'':34} {more}{', and without its guard' if drill.without else ''}")
