"""`genlock recorder`: what the ranks of a mesh run noted, each by itself or side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("what", type=click.Choice(["show", "merge"]))
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--rank",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="With show: only this rank. Default: every rank. Example: --rank 1.",
)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="NUMBER",
    help="With show: this many of the newest notes of a rank. Example: --last 200.",
)
def command(what: str, folder: Path, rank: int | None, last: int) -> None:
    """Read the flight recorders that a mesh run leaves in its folder when it fails.

    \b
    show    the newest notes of each rank: phases, collectives, failures
    merge   where the ranks first did not do the same, and what each did last

    \b
    Example:
      genlock recorder merge /tmp/genlock-x1y2z3
    """
    from genlock.errors import UsageError
    from genlock.observe.merge import entry_text, merge, merged_text, read_run

    held = read_run(folder)
    if what == "merge":
        click.echo(merged_text(merge(held)))
        return
    if rank is not None and rank not in held:
        raise UsageError(f"no recorder of rank {rank}", where="--rank", remedy=f"there are {', '.join(map(str, held))}")
    newest_s = max((entry.seconds for entries in held.values() for entry in entries), default=0.0)
    for each in held if rank is None else [rank]:
        click.echo(f"rank {each}")
        for entry in held[each][-last:]:
            click.echo(f"  {entry_text(entry, newest_s)}")
