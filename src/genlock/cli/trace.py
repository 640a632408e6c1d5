"""`genlock trace`: the spans of all ranks of a run, as a file for a trace viewer."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=Path("trace.json"),
    show_default=True,
    help="The file to write, for ui.perfetto.dev or chrome://tracing. Example: --out out/trace.json.",
)
def command(folder: Path, out: Path) -> None:
    """Write what every rank of a run spent its time on, as Chrome trace events.

    Ranks are processes. Spans are of the hosts' clocks; how they were put beside each other is printed.

    \b
    Example:
      genlock generate --run-dir out/run --prompt "a red balloon over the sea at noon" --out video.mp4
      genlock trace out/run --out out/trace.json
    """
    from genlock.observe.timeline import read_timeline, write_chrome_trace

    lines = read_timeline(folder)
    count = write_chrome_trace(lines, out)
    click.echo(f"{out}: {count} events of {len(lines)} rank{'s' * (len(lines) > 1)}")
    for rank, line in lines.items():
        click.echo(f"rank {rank}: {line.aligned_by}; time of day = monotonic + {line.writer.wall_offset_s:.3f} s")
