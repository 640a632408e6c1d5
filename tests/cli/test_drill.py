"""`genlock drill`: its list, its table, its exit code. What the drills do is `tests/drills`'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from genlock.cli.main import cli
from genlock.drills import conduct as conducting
from genlock.drills.catalogue import CATALOGUE, Case
from genlock.drills.conduct import Outcome
from genlock.errors import DrillFellShort, UsageError


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the scenes and faults that are to fall short; nothing is run."""
    fall: set[str] = set()

    def conduct(case: Case, folder: Path, model: Path) -> Outcome:
        assert (model / "model.json").is_file()
        assert folder.parent == model.parent
        wrong = "exit code 0, not 10" if {case.scene, case.faults} & fall else ""
        return Outcome(injected=case.injected, expected=case.expected, seen="this", seconds=1.5, fell_short=wrong)

    monkeypatch.setattr(conducting, "conduct", conduct)
    return fall


def invoke(*words: str) -> tuple[str, BaseException | None]:
    result = CliRunner().invoke(cli, ["drill", *words], standalone_mode=False)
    return result.output, result.exception


def test_without_a_name_every_drill_is_listed_with_why_it_cannot_run() -> None:
    said, error = invoke()
    assert error is None
    for drill in CATALOGUE:
        assert drill.name in said
        assert drill.not_run() in said


@pytest.mark.usefixtures("short")
def test_all_runs_every_case_and_says_what_is_not_run() -> None:
    said, error = invoke("--all", "--json")
    assert error is None
    lines = [json.loads(line) for line in said.splitlines()]
    for drill in CATALOGUE:
        of_drill = [line for line in lines if line["drill"] == drill.name]
        if drill.not_run():
            assert [line["not_run"] for line in of_drill] == [drill.not_run()]
        else:
            assert [line["injected"] for line in of_drill] == [case.injected for case in drill.cases]
            assert all(line["ok"] for line in of_drill)


def test_one_that_falls_short_is_named_and_the_others_still_run(short: set[str]) -> None:
    short.add("call-count")
    said, error = invoke("anti-stranding", "call-count", "stale-epoch")
    assert isinstance(error, DrillFellShort)
    assert error.exit_code == 4
    assert "1 of the cases fell short: call-count" in str(error)
    assert "fell short exit code 0, not 10" in said
    assert "stale-epoch: " in said


@pytest.mark.usefixtures("short")
def test_without_guard_runs_what_has_such_a_run() -> None:
    said, error = invoke("--all", "--without-guard")
    assert error is None
    for drill in CATALOGUE:
        assert (f" {drill.name} " in said) == bool(drill.without)
    assert f"{sum(len(drill.without) for drill in CATALOGUE)} cases of" in said


@pytest.mark.usefixtures("short")
def test_a_named_drill_says_what_was_injected_expected_and_seen() -> None:
    said, error = invoke("replay")
    assert error is None
    (drill,) = [drill for drill in CATALOGUE if drill.name == "replay"]
    for case in drill.cases:
        assert f"  injected  {case.injected}\n  expected  {case.expected}\n  seen      this\n    1.5 s   ok\n" in said
    assert "3 cases of 1 drills as expected, 0 drills not run" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [(["no-such"], "no drill 'no-such'"), (["kill", "--without-guard"], "kill has no run without its guard")],
)
def test_a_drill_that_there_is_not_is_refused(words: list[str], says: str) -> None:
    _, error = invoke(*words)
    assert isinstance(error, UsageError)
    assert says in str(error)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    _, error = invoke("kill", "--keep", str(tmp_path))
    assert isinstance(error, UsageError)
    assert "not empty" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
