"""House rules that no linter knows: geometry, device reads, errors, docstrings, the map, words."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from genlock import errors
from genlock.errors import EXIT_CODES, GenlockError

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "genlock"
FILES = sorted(SRC.rglob("*.py"))
# What runs between the first and the last generator call of a chunk.
CHUNK_PATH = [SRC / "generator" / f"{name}.py" for name in ("model", "attention", "cache", "rope", "sampler", "stream")]
HOST_READS = ("item", "cpu", "tolist", "numpy")
# Tokens and lengths of the big models' usual sizes; they follow from a preset and a picture size, always.
GEOMETRY = {720, 880, 1560, 4680, 32760}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def every_error(base: type[GenlockError] = GenlockError) -> list[type[GenlockError]]:
    return [base, *(each for sub in base.__subclasses__() for each in every_error(sub))]


@pytest.mark.parametrize("path", [p for p in CHUNK_PATH if p.exists()], ids=name_of)
def test_nothing_is_read_back_from_the_device_inside_a_chunk(path: Path) -> None:
    reads = [
        f"{name_of(path)}:{node.lineno} .{node.func.attr}()"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in HOST_READS
    ]
    assert not reads, "positions and counts are host integers; a read-back waits for the device"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_geometry_follows_from_a_preset(path: Path) -> None:
    literals = [
        f"{name_of(path)}:{node.lineno} {node.value}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in GEOMETRY
    ]
    assert not literals


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_says_what_it_gives(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)) or not text.strip(), "a docstring: what it gives, what it does not know"


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_an_error_has_a_code_a_remedy_and_an_exit_code(error: type[GenlockError]) -> None:
    assert [other for other in every_error() if other.code == error.code] == [error], "a code belongs to one class"
    assert re.fullmatch(r"GL-[A-Z0-9]+(-\d\d)?", error.code)
    assert error.default_remedy[:1].islower() or error.default_remedy[0] == "`", "a remedy continues a sentence"
    assert not error.default_remedy.endswith(".")
    assert error.exit_code in EXIT_CODES
    assert error.__doc__
    assert error.__module__ == errors.__name__, "one hierarchy, one file"


@pytest.mark.parametrize("error", every_error()[1:], ids=lambda error: error.__name__)
def test_an_error_is_provoked_by_some_test(error: type[GenlockError]) -> None:
    known = ("test_tidy.py", "test_errors.py", "test_manuals.py")  # these know every error, and provoke none
    general = {ROOT / "tests" / name for name in known}
    tests = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path not in general]
    leaf = not error.__subclasses__()
    assert not leaf or any(re.search(rf"\b{error.__name__}\b|{error.code}", text) for text in tests)


def test_every_file_is_on_the_map() -> None:
    code_map = (ROOT / "docs" / "codemap.md").read_text()
    missing = [
        name_of(p) for p in FILES if p.read_text().strip() and f"`{name_of(p).removeprefix('src/')}`" not in code_map
    ]
    assert not missing, "docs/codemap.md has one line per file"
    gone = [name for name in re.findall(r"`(genlock/[\w/]+\.py)`", code_map) if not (ROOT / "src" / name).exists()]
    assert not gone, "docs/codemap.md names files that are not there"


# Spelled in pieces, so that this file does not break its own rule.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3 + r"(?=:)", "HA" + "CK"]) + r")\b")
PLACES = re.compile(
    "|".join(["/wo" + "rk/", "/tmp/" + "brief", r"\bclau" + "de", "anthro" + "pic", r"\bissue #?\d", "/roo" + "t/"]),
    re.IGNORECASE,
)
WORDS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".sh", ""}


def test_nothing_is_left_unfinished_and_no_private_place_is_named() -> None:
    found = []
    for path in tracked():
        if path.suffix not in WORDS or path.name == "LICENSE":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if UNFINISHED.search(line) or PLACES.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:80]}")
    assert not found
