"""The report of one run, or of two side by side, as one self-contained HTML page.

Nothing is fetched: the figures, the pictures, the style and the script that draws are in the file. What a run's figures
are is `collect.py`'s.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from genlock.errors import UsageError
from genlock.observe.run_folder import write_whole
from genlock.report.collect import Json, collect

RUNS_MOST = 2
# What would end the block that the data stands in, or begin a comment in it, is written as JSON's own escape.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def report_page(runs: Sequence[Json]) -> str:
    """The page. runs: as `collect` makes them."""
    data = json.dumps(runs, separators=(",", ":"), ensure_ascii=False)
    for character, escape in ESCAPES.items():
        data = data.replace(character, escape)
    title = "genlock report: " + " and ".join(str(run["folder"]) for run in runs)
    parts = {
        "@TITLE@": html.escape(title),
        "@STYLE@": _part("page.css"),
        "@SCRIPT@": _part("page.js"),
        "@DATA@": data,  # last, so that nothing in it is taken for a place
    }
    page = _part("page.html")
    for place, text in parts.items():
        page = page.replace(place, text)
    return page


def write_report(run_dirs: Sequence[Path], out: Path) -> int:
    """Writes the page, whole or not at all; returns its bytes. Raises UsageError, and as `collect`."""
    if not 1 <= len(run_dirs) <= RUNS_MOST:
        raise UsageError(f"{len(run_dirs)} runs on one page", where="RUN_DIR", remedy="name one folder, or two")
    made = report_page([collect(run_dir, runs=len(run_dirs)) for run_dir in run_dirs]).encode()
    write_whole(out, made)
    return len(made)


def _part(name: str) -> str:
    return files("genlock.report").joinpath(name).read_text(encoding="utf-8")
