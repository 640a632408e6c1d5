"""`genlock bench`: what this machine delivers, in plain words and as JSON."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from genlock.settings import from_environment, launch, mesh_deadlines


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """Measure this machine. Without a suite, all of them run.

    \b
    Example:
      genlock bench end-to-end --seconds 20 --json out/bench.json
    """
    if context.invoked_subcommand is None:
        context.invoke(end_to_end)
        context.invoke(ladder)
        context.invoke(control)


@command.command("end-to-end")
@click.option(
    "--seconds",
    type=float,
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to count, in seconds of this machine's time, after two chunks of warm-up.",
)
@click.option(
    "--prompt", default="a red balloon over the sea at noon", show_default=True, metavar="TEXT", help="What to show."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write all figures there."
)
def end_to_end(
    seconds: float = 20.0, prompt: str = "a red balloon over the sea at noon", json_file: Path | None = None
) -> None:
    """Frames delivered a second, from noise to frames in an mp4."""
    from genlock.bench.end_to_end import as_json
    from genlock.bench.end_to_end import end_to_end as run

    result = run(from_environment(), prompt=prompt, seconds=seconds)
    click.echo(
        f"{result.frames_per_s:.1f} delivered frames/s at {result.size}, {result.steps} steps, {result.regime} "
        f"({result.frames_counted} frames in {result.seconds_counted:.1f} s, mp4 written, {result.threads} threads)"
    )
    typical, least, most = result.chunk_ms
    click.echo(f"a chunk: median {typical:.0f} ms, least {least:.0f}, most {most:.0f}")
    click.echo("where it goes: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in result.phase_ms.items()))
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(result, shlex.join(["genlock", *sys.argv[1:]])), indent=1) + "\n")


@command.command("ladder")
@click.option(
    "--seconds", type=float, default=8.0, show_default=True, metavar="SECONDS", help="Length of each run's video."
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="Runs of each rung, in turn.",
)
@click.option(
    "--mesh", type=click.IntRange(2), default=2, show_default=True, metavar="RANKS", help="Ranks of the mesh."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write all figures there."
)
def ladder(seconds: float = 8.0, rounds: int = 1, mesh: int = 2, json_file: Path | None = None) -> None:
    """Memory, start and frames a second of every rank on every rung of --plan, and whether the last rung pays."""
    from genlock.bench.ladder import as_json
    from genlock.bench.ladder import ladder as run

    def generate(words: Sequence[str]) -> None:
        ended = subprocess.run([sys.executable, "-m", "genlock", "generate", *words], stdout=subprocess.DEVNULL)
        if ended.returncode:
            raise click.exceptions.Exit(ended.returncode)

    result = run(generate, from_environment().model, seconds=seconds, mesh=mesh, rounds=rounds)
    for rung in result.rungs:
        click.echo(f"{rung.plan}: {rung.frames_per_s:.1f} delivered frames/s")
        for cost in rung.ranks:
            device = f", {cost.device_bytes / 1e9:.1f} GB of the device" if cost.device_bytes else ""
            click.echo(
                f"  rank {cost.rank}: {cost.memory_bytes / 1e6:.0f} MB at most{device}, "
                f"ready after {cost.ready_s:.1f} s, {cost.load_s:.1f} s of them loading"
            )
    gate = result.gate
    same = "the same frames on every rung" if gate.same_frames else "NOT the same frames on every rung"
    click.echo(
        f"a generator-only worker beside a full pipeline's: {gate.saved_bytes / 1e6:.0f} MB "
        f"({gate.saved_share:.0%}) less, ready {gate.sooner_s:.1f} s sooner; {same}; the gate ({gate.bar}) is "
        f"{'passed' if gate.passed else 'missed'}"
    )
    if json_file is not None:
        command_line = shlex.join(["genlock", *sys.argv[1:]])
        json_file.write_text(json.dumps(as_json(result, command_line), indent=1) + "\n")
    if not gate.same_frames:
        raise click.exceptions.Exit(4)


@command.command("control")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    metavar="NUMBER",
    help="Chunks handed out in each of the three ways, in turn, after ten of warm-up.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Also write all figures there."
)
def control(rounds: int = 200, json_file: Path | None = None) -> None:
    """What agreeing on a chunk costs two ranks beside a bare broadcast of its 2 MB and an object list."""
    settings, place = from_environment(), launch()
    if place is None:
        from genlock.engine.supervisor import supervise

        words = ["bench", "control", "--rounds", str(rounds), *(["--json", str(json_file)] if json_file else [])]
        code = supervise(
            [sys.executable, "-m", "genlock", *words], mesh=2, deadlines=mesh_deadlines(settings), run_dir=None
        )
        raise click.exceptions.Exit(code)
    from genlock.bench.control import control as run

    result = run(place, settings, rounds=rounds)
    if result is None:
        return
    for name, spread in (
        ("bare broadcast", result.bare_ms),
        ("genlock, packing and checking an envelope", result.prepare_ms),
        ("genlock, agreeing and handing out", result.genlock_ms),
        ("object list", result.object_list_ms),
    ):
        click.echo(f"{name}: median {spread.median:.2f} ms, least {spread.least:.2f}, most {spread.most:.2f}")
    click.echo(
        f"{result.payload_bytes / 1e6:.1f} MB, {result.ranks} ranks, {result.rounds} rounds: genlock adds "
        f"{result.added_ms:.2f} ms to the broadcast and takes, packing and all, {result.object_share:.2f} of an object "
        f"list; the bar "
        f"({result.bar}) is {'met' if result.within_the_bar else 'missed'}"
    )
    if json_file is not None:
        command_line = shlex.join(["genlock", *sys.argv[1:]])
        json_file.write_text(json.dumps({"command": command_line, **asdict(result)}, indent=1) + "\n")
