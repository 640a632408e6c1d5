"""The three ways are run for real, and every figure of the result follows from them. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genlock.bench.control import ADDED_MS, OBJECT_SHARE, _result


def test_the_figures_follow_from_the_rounds() -> None:
    took = {
        "bare": [1.0, 3.0, 2.0],
        "prepare": [1.0, 1.0, 1.0],
        "genlock": [4.0, 3.0, 5.0],
        "object_list": [10.0, 30.0, 20.0],
    }
    result = _result(took, payload_bytes=7, rounds=3, ranks=2)
    assert result.added_ms == pytest.approx(2.0)
    assert result.object_share == pytest.approx(0.25)
    assert result.within_the_bar
    assert (result.genlock_ms.least, result.genlock_ms.most) == (3.0, 5.0)
    assert result.added_ms <= ADDED_MS
    slow = _result({**took, "genlock": [9.1] * 3}, payload_bytes=7, rounds=3, ranks=2)
    assert slow.object_share >= OBJECT_SHARE
    assert not slow.within_the_bar


@pytest.mark.slow
def test_two_ranks_hand_out_chunks_in_three_ways(tmp_path: Path) -> None:
    file = tmp_path / "control.json"
    words = ["bench", "control", "--rounds", "2", "--json", str(file)]
    ran = subprocess.run(
        [sys.executable, "-m", "genlock", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(file.read_text())
    assert said["rounds"] == said["ranks"] == 2
    assert 2_000_000 < said["payload_bytes"] < 2_500_000
    assert said["machine"]["threads"] == 1
    for way in ("bare_ms", "prepare_ms", "genlock_ms", "object_list_ms"):
        assert 0 < said[way]["least"] <= said[way]["median"] <= said[way]["most"]
    assert "bare broadcast: median" in ran.stdout
    assert "the bar" in ran.stdout
