"""`genlock report`: what happened in a run, as one page to look at; or two runs side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR [RUN_DIR]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=Path("report.html"),
    show_default=True,
    help="The page to write; it needs nothing beside it. Example: --out out/report.html.",
)
def command(folders: tuple[Path, ...], out: Path) -> None:
    """Write a page about a run: timeline of every rank, where each chunk's time went, start, memory, failures.

    Two folders are held beside each other, on the same axes.

    \b
    Examples:
      genlock generate --run-dir out/run --prompt "a red balloon over the sea at noon" --out video.mp4
      genlock report out/run --out out/report.html
      genlock report out/run out/other
    """
    from genlock.report.page import write_report

    size = write_report(folders, out)
    click.echo(f"{out}: {size / 1e3:.0f} kB; open it in a browser")
