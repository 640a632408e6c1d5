"""Every case of every drill, run as `genlock drill` runs it; those without their guard, for the four that operators try
first; and that a case can fall short at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genlock.drills.catalogue import ANTI_STRANDING, CALL_COUNT, CATALOGUE, FLAG_MISMATCH, STALE_EPOCH, Case, signalled
from genlock.drills.conduct import conduct
from genlock.drills.runs import PATIENCE_S
from genlock.settings import Phase

CASES = [(drill.name, case) for drill in CATALOGUE for case in drill.cases if not drill.not_run()]
STANDARD = (ANTI_STRANDING, CALL_COUNT, FLAG_MISMATCH, STALE_EPOCH)
HARM = [(drill.name, case) for drill in STANDARD for case in drill.without]


def named(value: object) -> str:
    return value.injected.replace(" ", "-") if isinstance(value, Case) else str(value)


@pytest.mark.slow
@pytest.mark.parametrize(("drill", "case"), CASES, ids=named)
def test_a_case_comes_out_as_it_must(drill: str, case: Case, tmp_path: Path, model_folder: Path) -> None:
    outcome = conduct(case, tmp_path / "case", model_folder)
    assert not outcome.fell_short, f"{drill}: {outcome.seen}"


@pytest.mark.slow
@pytest.mark.parametrize(("drill", "case"), HARM, ids=named)
def test_without_its_guard_the_harm_is_seen(drill: str, case: Case, tmp_path: Path, model_folder: Path) -> None:
    outcome = conduct(case, tmp_path / "case", model_folder)
    assert not outcome.fell_short, f"{drill}: {outcome.seen}"


@pytest.mark.slow
def test_an_expectation_that_is_not_met_is_said(tmp_path: Path, model_folder: Path) -> None:
    """One clean run held against what a kill must show: each part of the judgement falls short, by name."""
    case = replace(signalled("kill", Phase.PAYLOAD, 1), faults="none", video=False, least_s=PATIENCE_S)
    short = conduct(case, tmp_path / "case", model_folder).fell_short
    for part in ("exit code 0, not 11", "rank None is named, not 1", "is not said", " s, not within", "a video"):
        assert part in short
