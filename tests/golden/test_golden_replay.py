"""Every recorded case run again. These fail, and do not skip, where the recordings are."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlock.engine.recording import read_recording
from genlock.engine.replay import closed_loop_chunks, replay_envelopes, replay_session

pytestmark = pytest.mark.golden

OPEN_LOOP = 2e-5
CASES = (
    "rolling_short",
    "rolling_evict",
    "rolling_evict_nosink",
    "rolling_relative",
    "rolling_recache",
    "recompute",
    "recompute_nctx6",
    "recompute_bias",
    "recompute_bias_nopad",
    "recompute_vae",
    "v2v",
    "blend",
    "one_shot",
)


def test_the_list_of_cases_is_the_recordings(golden_dir: Path) -> None:
    assert sorted(CASES) == sorted(read_recording(golden_dir).cases)


@pytest.mark.parametrize("name", CASES)
def test_fed_with_envelopes_the_generator_computes_what_was_recorded(golden_dir: Path, name: str) -> None:
    case = read_recording(golden_dir).case(name)
    reports = list(replay_envelopes(case))
    assert len(reports) == max(1, len(case.events))
    for report in reports:
        assert report.errors, f"chunk {report.chunk} was compared with nothing"
        assert report.largest <= OPEN_LOOP, (report.chunk, report.errors)


CLOSED_LOOP = 1e-4
SESSIONS = {name: None for name in CASES if name not in ("one_shot", "recompute_nctx6")} | {"blend": 9}


@pytest.mark.parametrize("name", SESSIONS)
def test_fed_with_causes_the_session_computes_what_was_recorded(golden_dir: Path, name: str) -> None:
    case = read_recording(golden_dir).case(name)
    reports = list(replay_session(case))
    assert len(reports) == (SESSIONS[name] or len(case.events))
    for report in reports:
        assert report.largest <= CLOSED_LOOP, (report.chunk, report.errors)
    kinds = {kind for report in reports for kind in report.errors}
    assert {"latents", "schedule"} <= kinds
    assert ("pixels" in kinds) == (name in ("recompute_vae", "v2v"))


def test_what_upstream_did_and_we_do_not_is_left_to_the_open_loop(golden_dir: Path) -> None:
    recording = read_recording(golden_dir)
    assert closed_loop_chunks(recording.case("recompute_nctx6")) == 0
    assert closed_loop_chunks(recording.case("one_shot")) == 0
    assert closed_loop_chunks(recording.case("blend")) == 9
