"""`genlock trace` and `genlock report`: what they write, and what is wrong with a folder in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genlock.observe.recorder import SPAN, Recorder, recorder_path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    recorder = Recorder(recorder_path(folder, 0), 8, spans=8)
    recorder.end(recorder.begin(SPAN, began_s=5.0, call_id=3, chunk=1, text="plan"), 5.25)
    recorder.close()
    return folder


def test_a_trace_is_written_and_says_how_clocks_were_aligned(desk, run_dir: Path, tmp_path: Path) -> None:
    code, out, err = desk.run("trace", run_dir, "--out", tmp_path / "t.json")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == f"{tmp_path / 't.json'}: 6 events of 1 rank"
    assert second.startswith("rank 0: monotonic clock of one host; time of day = monotonic + ")
    spans = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert spans == [
        {"name": "plan", "cat": "span", "pid": 0, "ts": 0.0, "ph": "X", "tid": 1, "dur": 250000.0}
        | {"args": {"call": 3, "chunk": 1}}
    ]


def test_a_report_is_written_of_one_run_or_of_two(desk, run_dir: Path, tmp_path: Path) -> None:
    for folders in ([run_dir], [run_dir, run_dir]):
        code, out, _ = desk.run("report", *folders, "--out", tmp_path / "r.html")
        assert (code, out.split(": ")[0]) == (0, str(tmp_path / "r.html"))
        assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("command", ["trace", "report"])
def test_what_is_wrong_with_a_folder_is_one_line_and_nothing_is_written(desk, command: str, tmp_path: Path) -> None:
    out = tmp_path / "out.file"
    code, said = desk.refuses(command, tmp_path, "--out", out)
    assert (code, said.split(": ")[0], "GENLOCK_RUN_DIR" in said) == (5, "GL-IO-01", True)
    recorder_path(tmp_path, 0).write_bytes(b"no recorder")
    code, said = desk.refuses(command, tmp_path, "--out", out)
    assert code == 5
    assert "is not a flight recorder" in said
    assert not out.exists()


def test_a_place_that_cannot_be_written_and_a_third_run_are_one_line(desk, run_dir: Path, tmp_path: Path) -> None:
    code, said = desk.refuses("report", run_dir, "--out", tmp_path / "none" / "r.html")
    assert (code, "No such file" in said) == (5, True)
    code, said = desk.refuses("report", run_dir, run_dir, run_dir, "--out", tmp_path / "r.html")
    assert (code, "name one folder, or two" in said) == (2, True)
