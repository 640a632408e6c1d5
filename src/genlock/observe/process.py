"""This process as the system counts it: its age, its memory, what it has loaded. By /proc; less where there is none."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

PROC = Path("/proc/self")
IMPORTED_S = time.monotonic()
# What a rank may or may not have loaded says which half of the house it keeps.
TELLING = ("torch", "torch.distributed", "transformers", "tokenizers", "av", "prometheus_client", "fastapi", "uvicorn")


def age_s() -> float:
    """Seconds since this process was started, the interpreter's own start included; since this module was loaded where
    the system does not say."""
    try:
        stat = (PROC / "stat").read_text(encoding="utf-8")
    except OSError:
        return time.monotonic() - IMPORTED_S
    started_ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes() -> dict[str, int]:
    """Resident memory now (`rss`) and at its highest (`rss_peak`); nothing where the system does not say."""
    try:
        held = (PROC / "status").read_text(encoding="utf-8")
    except OSError:
        return {}
    names = {"rss": "VmRSS", "rss_peak": "VmHWM"}
    found = {name: re.search(rf"^{field}:\s+(\d+) kB", held, flags=re.MULTILINE) for name, field in names.items()}
    return {name: 1024 * int(match.group(1)) for name, match in found.items() if match is not None}


def loaded_modules() -> list[str]:
    """The modules of genlock that this process has loaded, and those of TELLING."""
    return sorted(name for name in list(sys.modules) if name.startswith("genlock.") or name in TELLING)
