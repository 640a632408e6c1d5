"""What stands beside every kept figure: command, commit, hardware, versions; and how a result is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def surroundings(name: str, words: list[str], *sources: str) -> dict[str, Any]:
    """name: of the benchmark. sources: files and folders that the figures follow from, beside its own."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "command": " ".join([f"python -m benchmarks.{name}", *words]),
        "commit": git("rev-parse", "HEAD"),
        "changed_since": bool(git("status", "--porcelain", "--", f"benchmarks/{name}.py", *sources)),
        "hardware": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        },
        "versions": {
            "python": platform.python_version(),
            "linux": platform.release(),
            **{name: metadata.version(name) for name in ("torch", "numpy", "av", "transformers")},
        },
    }


def keep(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)
