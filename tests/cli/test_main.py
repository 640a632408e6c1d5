"""The command itself: help texts are committed, errors are a line, the start is light."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from genlock.cli.main import HELP_WIDTH, Subcommands, cli, one_line, told_as
from genlock.errors import DeviceUnavailable, InputOutputError, OutOfMemory

HELP = Path(__file__).parent / "help"
COMMANDS = ["", *Subcommands().list_commands(click.Context(cli))]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_the_committed_text(desk, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed flag is a changed file: write it with `python tools/docs.py` and read the difference."""
    monkeypatch.setenv("COLUMNS", str(HELP_WIDTH))
    code, out, _ = desk.run(*([name] if name else []), "--help")
    assert code == 0
    assert out == (HELP / f"{name or 'genlock'}.txt").read_text()


def test_no_help_text_is_of_a_command_that_is_gone() -> None:
    assert {path.stem for path in HELP.iterdir()} == {name or "genlock" for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS[1:])
def test_every_flag_says_what_by_default_and_an_example(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and option.name != "debug":
            plain = option.is_flag or "default" in (option.help or "").lower() or option.show_default or option.multiple
            assert plain or "needed" in (option.help or ""), option.opts
            assert option.is_flag or "Example: " in (option.help or ""), option.opts


def test_a_command_that_is_not_there_is_named(desk) -> None:
    assert desk.refuses("imagine") == (2, "GL-USE-01: No such command 'imagine'; see `genlock --help`")


def test_the_command_alone_prints_its_help(desk) -> None:
    code, out, err = desk.run()
    assert (code, err) == (2, "")
    assert "First steps:" in out.splitlines()[4]


def test_the_version_is_the_packages(desk) -> None:
    code, out, _ = desk.run("--version")
    assert (code, out) == (0, "genlock, version 0.1.0\n")


def test_an_error_is_one_line_whatever_its_text() -> None:
    assert one_line(DeviceUnavailable("first\n  second")) == (
        "GL-DEV-01: first second; run `genlock doctor` to see the devices of this machine"
    )


def test_errors_of_the_system_and_of_torch_join_the_hierarchy() -> None:
    missing = told_as(FileNotFoundError(2, "No such file or directory", "a.json"))
    assert isinstance(missing, InputOutputError)
    assert missing.where == "a.json"
    full = told_as(OSError(errno.ENOSPC, "No space left on device", "v.mp4"))
    assert one_line(full) == "GL-IO-01: v.mp4: no space left on device; free some space on that disk"
    assert isinstance(told_as(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")), OutOfMemory)


def test_a_reader_that_has_gone_is_told_in_one_line() -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "genlock", "generate", "--list-words"]
    ended = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (
        5,
        "GL-IO-01: standard output: nobody reads it any more; leave the pipe open\n",
    )


def test_help_loads_no_torch_and_no_rich() -> None:
    code = (
        "import sys; sys.argv = ['genlock', '--help']; from genlock.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'rich', 'av'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "0 []"
