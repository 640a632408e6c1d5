"""Folders of runs: one of a mesh whose rank 1 was killed, one of a rank alone that ended well; both real."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlock.drills.runs import LAST_CHUNK, Run, fault
from genlock.drills.toy import write_toy_model
from genlock.settings import Phase

CHANGES = ("--prompt", "a red boat at sea", "--prompt", "a blue car at night", "--at", "1", "--seconds", "2")


@pytest.fixture(scope="session")
def runs_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("model"))


def ended(run: Run, code: int) -> Path:
    try:
        assert run.ended() == code, run.said
    finally:
        run.end()
    return run.run_dir


@pytest.fixture(scope="session")
def killed(runs_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mesh of two whose rank 1 is killed in the last chunk, in a generator call."""
    struck = fault("kill", Phase.CALL, rank=1)
    assert LAST_CHUNK == 2  # two chunks were delivered
    return ended(
        Run(tmp_path_factory.mktemp("killed"), runs_model, "generate", *CHANGES, "--log-json", faults=struck), 11
    )


@pytest.fixture(scope="session")
def alone(runs_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ended(Run(tmp_path_factory.mktemp("alone"), runs_model, "generate", *CHANGES, mesh=0), 0)
