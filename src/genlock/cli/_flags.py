"""Flags that several commands share: said once, so that they mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

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


def asking_flags(command: Command) -> Command:
    """--prompt, --at, --transition and --cut-at, as `prompts`, `at_s`, `transition_s` and `cuts_at_s`."""
    for flag in reversed(_ASKING):
        command = flag(command)
    return command
