"""Every recorded case run again by a mesh of real processes, in one start a feed."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlock.drills.runs import Run
from genlock.engine.recording import read_recording

pytestmark = [pytest.mark.golden, pytest.mark.slow]

PATIENCE_S = 600.0
TOLERANCE = "2e-4"  # the sums of a mesh come in another order than one rank's
PATIENT = {"GENLOCK_DEADLINE": "20"}


@pytest.mark.parametrize("feed", ["envelope", "session"])
def test_a_mesh_of_two_computes_what_was_recorded(golden_dir: Path, tmp_path: Path, feed: str) -> None:
    recording = read_recording(golden_dir)
    replayed(tmp_path, golden_dir, feed, 2, sorted(recording.cases))


def test_a_mesh_of_four_computes_what_was_recorded(golden_dir: Path, tmp_path: Path) -> None:
    recording = read_recording(golden_dir)
    names = [name for name in sorted(recording.cases) if recording.case(name).generator.num_heads % 4 == 0]
    assert names
    replayed(tmp_path, golden_dir, "envelope", 4, names)


def replayed(folder: Path, golden: Path, feed: str, mesh: int, names: list[str]) -> None:
    chosen = [word for name in names for word in ("--case", name)]
    words = ["replay", str(golden), *chosen, "--feed", feed, "--tolerance", TOLERANCE]
    run = Run(folder, Path("bundled"), *words, mesh=mesh, **PATIENT)
    try:
        assert run.ended(PATIENCE_S) == 0, run.said + run.printed
        assert not run.left()
        compared = {line.split()[0] for line in run.printed.splitlines() if " chunk " in line}
        missing = set(names) - compared
        assert missing <= ({"one_shot", "recompute_nctx6"} if feed == "session" else set())
    finally:
        run.end()
