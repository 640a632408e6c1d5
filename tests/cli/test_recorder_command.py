"""`genlock recorder`: reads what a mesh run leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlock.observe.recorder import COLLECTIVE, Recorder, recorder_path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for rank, site in enumerate(("blocks.0.o", "blocks.0.ffn")):
        recorder = Recorder(recorder_path(tmp_path, rank), 8)
        recorder.note("phase", call_id=3, chunk=2, text="generator call")
        recorder.end(recorder.note(COLLECTIVE, call_id=3, chunk=2, op=1, text=site), 9.0)
        recorder.close()
    return tmp_path


def test_merge_names_the_first_difference(desk, run_dir: Path) -> None:
    code, out, _ = desk.run("recorder", "merge", str(run_dir))
    assert code == 0
    assert out.splitlines()[:3] == [
        "first difference at call 3, collective 1, after 0 that are the same:",
        "  rank 0  blocks.0.o",
        "  rank 1  blocks.0.ffn",
    ]


def test_show_prints_the_newest_notes_of_a_rank(desk, run_dir: Path) -> None:
    code, out, _ = desk.run("recorder", "show", str(run_dir), "--rank", "1", "--last", "1")
    assert code == 0
    assert out.splitlines()[0] == "rank 1"
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["blocks.0.ffn"]
    assert desk.run("recorder", "show", str(run_dir))[1].count("generator call") == 2


def test_what_is_not_there_is_one_line(desk, tmp_path: Path, run_dir: Path) -> None:
    code, _, err = desk.run("recorder", "show", str(run_dir), "--rank", "7")
    assert (code, err) == (2, "GL-USE-01: --rank: no recorder of rank 7; there are 0, 1\n")
    (tmp_path / "none").mkdir()
    code, _, err = desk.run("recorder", "merge", str(tmp_path / "none"))
    assert code == 5
    assert err.startswith("GL-IO-01")
