"""What is recorded replays bit for bit, and a recording that was changed does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import genlock
from genlock.engine.record import record
from genlock.engine.recording import read_recording
from genlock.engine.replay import closed_loop_chunks, replay_envelopes, replay_session
from genlock.errors import InputOutputError, RecordingUnreadable, ReplayFailed


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt("a red boat")
        session.prompt("a blue car", at=1.0, transition=2.0)
        session.cut("a red car at night", at=3.0)
        session.prompt("a boat", at=4.0)
        assert record(session, tmp_path / "recording", seconds=5.5) == 8
    return tmp_path / "recording"


def test_a_recording_replays_bit_for_bit_both_ways(folder: Path) -> None:
    case = read_recording(folder).case("session")
    assert closed_loop_chunks(case) == len(case.events) == 8
    for replay in (replay_envelopes, replay_session):
        reports = list(replay(case))
        assert [report.largest for report in reports] == [0.0] * 8
    assert {"latents", "contexts", "keys", "values", "pixels"} <= set(reports[2].errors)


def test_one_changed_number_is_found_in_its_chunk(folder: Path) -> None:
    file = folder / "session.safetensors"
    tensors = load_file(file)
    tensors["chunk03.x0"][0, 1, 5, 0, 0] += 1e-3
    save_file(tensors, file)
    errors = [report.largest for report in replay_envelopes(read_recording(folder).case("session"))]
    assert [error > 2e-5 for error in errors] == [False, False, False, True, False, False, False, False]


def test_an_effect_that_does_not_follow_is_named(folder: Path) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_text())
    index["cases"]["session"]["events"][2]["start"] = 6
    path.write_text(json.dumps(index))
    with pytest.raises(ReplayFailed, match="start is 3, recorded 6"):
        list(replay_session(read_recording(folder).case("session")))


def test_a_folder_in_use_is_left_alone(model_folder: Path, folder: Path) -> None:
    before = sorted(folder.iterdir())
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt("a boat")
        with pytest.raises(InputOutputError, match="not empty"):
            record(session, folder, seconds=1.0)
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_is_no_recording_is_refused_by_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingUnreadable, match=r"index\.json"):
        read_recording(tmp_path / "none")
    with pytest.raises(RecordingUnreadable, match="no case 'other'; cases: session"):
        read_recording(folder).case("other")
    (folder / "index.json").write_text('{"format": 1, "cases": {}}')
    with pytest.raises(RecordingUnreadable, match="lacks or misuses 'weights'"):
        read_recording(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(RecordingUnreadable, match="not JSON"):
        read_recording(folder)
