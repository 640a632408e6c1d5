"""What a process knows of itself, also where the system has no /proc: one rank alone runs there too."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from genlock.observe import process


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read in /proc")
def test_a_process_is_as_old_as_the_system_says() -> None:
    before_s = time.monotonic() - process.IMPORTED_S
    assert before_s <= process.age_s() + 0.02, "ticks of a hundredth"
    assert process.memory_bytes()["rss"] > 0


def test_without_proc_a_process_is_as_old_as_its_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "PROC", tmp_path / "none")
    before_s = time.monotonic() - process.IMPORTED_S
    assert before_s <= process.age_s() <= before_s + 60
    assert process.memory_bytes() == {}
