"""The `genlock` command: finds subcommands, and turns every way of failing into one line and an exit code.

A subcommand is a module of this folder whose name has no leading underscore; it offers `command`. Modules load when
they are asked for and import what is heavy inside functions, so that `genlock --help` costs a tenth of a second. Knows
nothing of what the subcommands do.
"""

from __future__ import annotations

import errno
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import click

import genlock
from genlock import cli as room
from genlock.errors import GenlockError, InputOutputError, OutOfMemory, UsageError
from genlock.settings import keep_freed_memory, share_the_cores

HELP_WIDTH = 100
INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command is given beside its flags.

    open_session: makes a session, with the arguments of `genlock.open`. clock: seconds. started_s: the clock when the
    command began.
    """

    open_session: Callable[..., Any]
    clock: Callable[[], float]
    started_s: float
    arguments: tuple[str, ...] = ()


# Understood after any command; `main` reads it, for an error may come before the flags are parsed.
DEBUG = click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")


class Subcommands(click.Group):
    """One module of this folder per command, loaded when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click hands it over
        names = (module.name for module in pkgutil.iter_modules(room.__path__))
        return sorted(name for name in names if name != "main" and not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{room.__name__}.{cmd_name}").command
        if DEBUG not in command.params:
            command.params.append(DEBUG)
        return command


@click.group(
    cls=Subcommands,
    params=[DEBUG],
    context_settings={"max_content_width": HELP_WIDTH, "help_option_names": ["-h", "--help"]},
    epilog="Exit codes and error codes: docs/reference/errors.md. Settings: docs/reference/settings.md.",
)
@click.version_option(genlock.__version__, prog_name="genlock")
def cli() -> None:
    """Live video from prompts, on one machine or many ranks in lockstep.

    \b
    First steps:
      genlock generate --prompt "a red balloon over the sea at noon" --out video.mp4
      genlock doctor
    """


def main(arguments: Sequence[str], surroundings: Surroundings) -> int:
    """Runs one command line; returns its exit code. Errors are one line on stderr, with a traceback under --debug."""
    words = list(arguments)
    debug = "--debug" in words
    if debug:
        words.remove("--debug")  # wherever it stands: a group's own options would have to come first
    try:
        ended = cli.main(args=words, prog_name="genlock", standalone_mode=False, obj=surroundings)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return UsageError.exit_code
    except SystemExit:  # what click makes of a reader of its output that has gone
        told: GenlockError = InputOutputError(
            "nobody reads it any more", where="standard output", remedy="leave the pipe open"
        )
    except Exception as error:  # noqa: BLE001 - the one place where an error of any kind ends the process
        if debug:
            traceback.print_exc()
        told = told_as(error)
    else:
        return ended if isinstance(ended, int) else 0  # click returns the code of a command that called `exit`
    click.echo(one_line(told), err=True)
    return told.exit_code


def told_as(error: Exception) -> GenlockError:
    """The error of our own hierarchy that an error of any kind is reported as."""
    if isinstance(error, GenlockError):
        return error
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return UsageError(
            error.format_message().rstrip("."),
            remedy=f"see `{context.command_path} --help`" if context is not None else "",
        )
    if is_out_of_memory(error):
        return OutOfMemory(first_line(error) or "out of memory")
    if isinstance(error, OSError) and error.errno is not None:
        remedy = "free some space on that disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return InputOutputError(
            (error.strerror or "input or output failed").lower(), where=str(error.filename or ""), remedy=remedy
        )
    return GenlockError(
        f"a defect in genlock: {type(error).__name__}: {first_line(error)}",
        remedy="run it again with --debug and report that, with the output of `genlock doctor`",
    )


def is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # not loaded: it cannot have raised anything
    of_torch = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_torch or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def one_line(error: GenlockError) -> str:
    return " ".join(str(error).split())


def run() -> NoReturn:
    """The entry point of the `genlock` script."""
    started_s = time.perf_counter()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # like an interrupt: what was begun is cleaned up
    share_the_cores()
    keep_freed_memory()

    def open_session(*args: Any, **options: Any) -> Any:
        return genlock.open(*args, **options)  # resolved here: this is what loads torch

    words = tuple(sys.argv[1:])
    surroundings = Surroundings(
        open_session=open_session, clock=time.perf_counter, started_s=started_s, arguments=words
    )
    sys.exit(main(words, surroundings))
