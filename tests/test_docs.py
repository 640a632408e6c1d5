"""The docs say what the code says: generated pages are current, links lead somewhere, examples parse."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
from tools.docs import pages

from genlock.cli.main import cli
from genlock.stage0.timeline_file import parse_timeline

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MADE = pages()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", MADE, ids=str)
def test_a_generated_page_is_current(path: Path) -> None:
    assert (ROOT / path).read_text() == MADE[path], f"{path} is not what the code says; run `make docs`"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        assert "://" in target or (path.parent / target).exists(), f"{name_of(path)}: {target} is not there"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_places_in_the_code_exist(path: Path) -> None:
    """A place is written `genlock/room/file.py:Name` or `...:Class.method`."""
    for file, dotted in re.findall(r"`(genlock/[\w/]+\.py):([\w.]+)`", path.read_text()):
        body = ast.parse((ROOT / "src" / file).read_text()).body
        for name in dotted.split("."):
            named = [node for node in body if getattr(node, "name", None) == name]
            assert named, f"{name_of(path)}: there is no {dotted} in {file}"
            body = named[0].body


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_commands_in_the_pages_parse(path: Path) -> None:
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "genlock" in words[:1]:
                check_command(words[1:])


def check_command(words: list[str]) -> None:
    """Parses flags without running anything; click refuses an unknown one."""
    top = click.Context(cli)
    command = cli.get_command(top, words[0])
    assert command is not None, words
    command.make_context(words[0], words[1:], parent=top)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_make_targets_in_the_pages_exist(path: Path) -> None:
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", path.read_text(), flags=re.MULTILINE)) <= {
        (word, "") for word in known
    } | {("", word) for word in known}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_timelines_in_the_pages_are_timelines(path: Path) -> None:
    for block in blocks(path, "json"):
        parse_timeline(block)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_python_in_the_pages_compiles(path: Path) -> None:
    for block in blocks(path, "python"):
        compile(block, name_of(path), "exec")
