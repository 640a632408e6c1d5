"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """As it stands beside every result. threads: of the tensor library, in this process."""

    hardware: str
    threads: int
    torch_version: str
    python: str


def machine() -> Machine:
    return Machine(
        hardware=f"{platform.machine()}, {processor()}, {os.cpu_count()} cores",
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        python=platform.python_version(),
    )


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "processor unknown"
