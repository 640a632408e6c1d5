"""Figures of a ladder are those of each rank's own file, and the gate follows from them. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from genlock.bench.ladder import Gate, RankCost, Rung, as_json, judged, ladder
from genlock.errors import UsageError
from genlock.observe.rank_file import Moment, RankFile
from genlock.observe.recorder import Recorder, recorder_path
from genlock.observe.trace import DELIVERED, TEXT_ENCODE, Trace
from genlock.settings import Phase
from genlock.wire.kinds import LOADS, Part, Plan

ROOT = Path(__file__).parents[2]
FRAMES = 12
GB = 10**9


class Generated:
    """`genlock generate` as far as its run folder goes: two ranks, chunks half a second apart."""

    def __init__(self, chunks: int, *, videos: Sequence[str] = ("the same",)) -> None:
        self.chunks, self.videos, self.words = chunks, videos, list[list[str]]()

    def __call__(self, words: Sequence[str]) -> None:
        said = dict(zip(words[::2], words[1::2], strict=True))
        self.words.append(list(words))
        run_dir = Path(said["--run-dir"])
        run_dir.mkdir()
        Path(said["--out"]).write_text(self.videos[len(self.words) % len(self.videos)])
        for rank in (0, 1):
            trace = Trace(Recorder(recorder_path(run_dir, rank)))
            held = RankFile(run_dir, trace, rank=rank, about={"plan": said["--plan"]})
            trace.phase(Phase.LOAD)
            trace.phase(Phase.IDLE)
            if Part.TEXT in LOADS[Plan(said["--plan"])]:
                with trace.span(TEXT_ENCODE):
                    pass
            for chunk in range(self.chunks):
                trace.mark(DELIVERED, began_s=chunk / 2, until_s=chunk / 2, number=FRAMES)
            held.write(Moment.READY)
            held.write(Moment.EXIT)


def test_every_rung_is_run_in_turn_and_its_ranks_are_asked() -> None:
    generated = Generated(6)
    result = ladder(generated, "toy", seconds=3, mesh=2, rounds=2)
    assert [words[words.index("--plan") + 1] for words in generated.words] == [*Plan, *Plan]
    assert all(words[words.index("--model") + 1] == "toy" for words in generated.words)
    assert [rung.plan for rung in result.rungs] == list(Plan)
    assert [rung.frames_per_s for rung in result.rungs] == [2 * FRAMES] * 4
    for rung in result.rungs:
        assert [cost.rank for cost in rung.ranks] == [0, 1]
        assert (TEXT_ENCODE in rung.ranks[1].calls) == (Part.TEXT in LOADS[Plan(rung.plan)])
        assert all(cost.held_bytes > 0 for cost in rung.ranks)
    assert result.gate.same_frames
    assert as_json(result, "genlock bench ladder")["rounds"] == 2


def test_frames_that_are_not_the_same_are_seen() -> None:
    assert not ladder(Generated(4, videos=("one", "other")), "toy", seconds=3, mesh=2, rounds=1).gate.same_frames


def test_a_run_too_short_to_count_is_refused() -> None:
    with pytest.raises(UsageError, match="2 chunks were delivered"):
        ladder(Generated(2), "toy", seconds=1, mesh=2, rounds=1)


def cost(memory: float, ready_s: float, *, device: float = 0) -> list[RankCost]:
    common = {"load_s": 1.0, "calls": dict[str, int]()}
    worker = RankCost(
        rank=1,
        memory_bytes=int(memory * GB),
        device_bytes=int(device * GB),
        ready_s=ready_s,
        **common,  # type: ignore[arg-type]
    )
    return [worker]


def gate_of(full: list[RankCost], bare: list[RankCost]) -> Gate:
    return judged([Rung(plan="", frames_per_s=1, video="", ranks=ranks) for ranks in (full, bare)])


def test_the_gate_wants_memory_and_a_sooner_start() -> None:
    assert gate_of(cost(1.0, 20), cost(0.85, 19)).passed
    assert not gate_of(cost(1.0, 20), cost(0.86, 19)).passed
    assert not gate_of(cost(1.0, 20), cost(0.5, 20)).passed, "no sooner"
    assert gate_of(cost(100, 20), cost(89, 19)).passed, "11 GB are enough, whatever their share"
    assert not gate_of(cost(100, 20), cost(89.1, 19)).passed
    assert not gate_of(cost(9, 20, device=40), cost(1, 19, device=39)).passed, "of a device its own memory counts"
    assert gate_of(cost(9, 20, device=40), cost(9, 19, device=28)).passed


@pytest.mark.slow
def test_the_script_for_real_shapes_runs_at_toy_sizes(tmp_path: Path) -> None:
    """Every rung of it, from files, so that a GPU's time is not spent on finding a slip."""
    out = tmp_path / "ladder.json"
    words = [str(ROOT / "benchmarks" / "ladder_14b.py"), "--toy", "--device", "cpu", "--chunks", "1", "--out", str(out)]
    ran = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(out.read_text())
    assert [rung["plan"] for rung in said["rungs"]] == list(Plan)
    assert all((rung["load_s"] > 0) == bool(rung["loads"]) for rung in said["rungs"])
    assert said["rungs"][0]["own_stage0_ms"] > said["rungs"][-1]["own_stage0_ms"] == 0.0
