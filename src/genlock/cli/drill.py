"""`genlock drill`: faults planted in real processes on this machine, and whether what must come of them does."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genlock.errors import DrillFellShort, LaunchRefused, UsageError

if TYPE_CHECKING:
    from genlock.drills.catalogue import Drill
    from genlock.drills.conduct import Outcome


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
    try:
        short = [name for name, outcome in run(chosen, folder, without_guard, as_json) if outcome.fell_short]
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if short:
        raise DrillFellShort(f"{len(short)} of the cases fell short: {', '.join(dict.fromkeys(short))}")


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


def run(drills: list[Drill], folder: Path, without_guard: bool, as_json: bool) -> Iterator[tuple[str, Outcome]]:
    """Each case, as it is done."""
    from genlock.drills.conduct import conduct
    from genlock.drills.toy import write_toy_model

    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    write_toy_model(model)
    for drill in drills:
        cases = drill.without if without_guard else drill.cases
        reason = drill.not_run()
        if not as_json:
            click.secho(f"{drill.name}: {drill.about}" + (" - without its guard" if without_guard else ""), bold=True)
        if reason:
            tell_not_run(drill, reason, as_json=as_json)
            continue
        for number, case in enumerate(cases):
            outcome = conduct(case, folder / f"{drill.name}-{number}", model)
            tell(drill, outcome, as_json=as_json)
            yield drill.name, outcome


def tell(drill: Drill, outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"drill": drill.name, "ok": not outcome.fell_short, **asdict(outcome)}))
        return
    mark = click.style("short", fg="red") if outcome.fell_short else click.style("ok   ", fg="green")
    click.echo(f"  {mark} {outcome.seconds:6.1f} s  {outcome.injected}")
    click.echo(f"                  expected: {outcome.expected}")
    click.echo(f"                  seen:     {outcome.seen}")
    if outcome.fell_short:
        click.secho(f"                  fell short: {outcome.fell_short}", fg="red")


def tell_not_run(drill: Drill, reason: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"drill": drill.name, "not_run": reason}))
    else:
        click.echo(f"  not run: {reason}")


def list_drills(catalogue: tuple[Drill, ...], *, as_json: bool) -> None:
    for drill in catalogue:
        reason = drill.not_run()
        if as_json:
            about = {"drill": drill.name, "about": drill.about, "cases": len(drill.cases), "not_run": reason}
            click.echo(json.dumps({**about, "without_guard": bool(drill.without)}))
            continue
        click.echo(f"{drill.name:34} {drill.about}")
        more = f"not run here: {reason}" if reason else f"{len(drill.cases)} cases"
        click.echo(f"{'':34} {more}{', and without its guard' if drill.without else ''}")
