"""Flags that several commands share: said once, so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from genlock.settings import Settings, from_environment, options

CHOICES = {option.name: option.choices for option in options()}
Command = Callable[..., Any]
LARGEST_SEED = 2**53  # as in a timeline

_ASKING = (
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        metavar="TEXT",
        help="What to show. Several change the picture while the stream runs, each with its --at. "
        'Example: --prompt "a red boat on the sea at noon".',
    ),
    click.option(
        "--at",
        "at_s",
        type=float,
        multiple=True,
        metavar="SECONDS",
        help="When a prompt after the first comes in, in seconds of video: one for each, in the same order. Rounded up "
        "to the start of a chunk, and said. Example: --at 4.",
    ),
    click.option(
        "--transition",
        "transition_s",
        type=float,
        default=0.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a change of prompt takes; 0 changes at once. Example: --transition 1.5.",
    ),
    click.option(
        "--cut-at",
        "cuts_at_s",
        type=float,
        multiple=True,
        metavar="SECONDS",
        help="A hard cut: forget the past and start afresh with the prompt of that moment. Rounded up like --at. "
        "Example: --cut-at 8.",
    ),
)

seed_flag = click.option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=42,
    show_default=True,
    metavar="NUMBER",
    help="Start of all randomness: the same seed, flags and machine give the same frames. Example: --seed 7.",
)

model_flag = click.option(
    "--model",
    metavar="NAME|PATH",
    help="The bundled model, or the folder of another. Default: GENLOCK_MODEL, else bundled. "
    "Example: --model models/krea-14b.",
)

plan_flag = click.option(
    "--plan",
    type=click.Choice(CHOICES["plan"]),
    help="How much of a chunk each worker prepares by itself, from all to nothing; the frames are the same. "
    "Default: GENLOCK_PLAN, else v1_generator_only. Example: --plan v0_full_pipeline.",
)

_MESH = (
    click.option(
        "--topology",
        type=click.Choice(CHOICES["topology"]),
        help="Who runs what: solo is one rank, tp shares the generator out over a mesh of ranks, all of them started "
        "here unless a launcher did. Default: GENLOCK_TOPOLOGY, else solo. Example: --topology tp.",
    ),
    click.option(
        "--mesh",
        type=click.IntRange(min=1),
        metavar="RANKS",
        help="Ranks of the mesh; must divide the model's heads. Default: GENLOCK_MESH, else 2. Example: --mesh 4.",
    ),
)


run_dir_flag = click.option(
    "--run-dir",
    metavar="FOLDER",
    help="A new or empty folder that keeps what the run notes of itself, for `genlock report` and `genlock trace`. "
    "Default: GENLOCK_RUN_DIR, else none (of a mesh: one that goes unless the run fails). Example: --run-dir out/run.",
)

_LOOKING = (
    run_dir_flag,
    click.option(
        "--metrics-port",
        metavar="PORT",
        help="Answer with metrics for Prometheus at this port of 127.0.0.1 while the stream runs; 0 takes any that is "
        "free and prints it. Default: GENLOCK_METRICS_PORT, else none. Example: --metrics-port 9400.",
    ),
    click.option(
        "--log-json",
        "log_format",
        flag_value="json",
        default=None,
        help="Also write a line of JSON for each event to stderr, a worker to its log. Default: GENLOCK_LOG_FORMAT.",
    ),
    click.option(
        "--profile",
        metavar="CHUNKS",
        help="Run torch's profiler in these chunks on every rank, and write what it saw into the run's folder; needs "
        "--run-dir, and slows these chunks down. Default: GENLOCK_PROFILE, else none. Example: --profile 7-9.",
    ),
)


def looking_flags(command: Command) -> Command:
    """--run-dir, --metrics-port, --log-json and --profile."""
    return _with(_LOOKING, command)


def mesh_flags(command: Command) -> Command:
    """--topology and --mesh."""
    return _with(_MESH, command)


def told(**flags: Any) -> Settings:
    """Settings of the environment, with the flags that were given in their place."""
    given = {name: value for name, value in flags.items() if value is not None}
    return replace(from_environment(), **given)


def asking_flags(command: Command) -> Command:
    """--prompt, --at, --transition and --cut-at, as `prompts`, `at_s`, `transition_s` and `cuts_at_s`."""
    return _with(_ASKING, command)


def _with(flags: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    """The command with these flags, which its help shows in this order."""
    for flag in reversed(flags):
        command = flag(command)
    return command
