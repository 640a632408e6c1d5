"""Where the recorded tensors are: the folder that holds `golden` and `golden-vae`.

`GENLOCK_GOLDEN` names that folder; without it, `../shared` beside the repository. A golden test is skipped, with the
reason said, only where the data was never put; a folder that was named and is not there is an error.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared"


def _recorded(name: str) -> Path:
    named = os.environ.get("GENLOCK_GOLDEN")
    folder = (Path(named) if named else BESIDE_THE_REPOSITORY) / name
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"GENLOCK_GOLDEN is {named}, which holds no folder {name!r}")
    pytest.skip(f"no recorded tensors: {folder} is not there and GENLOCK_GOLDEN is not set")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The recordings of the generator."""
    return _recorded("golden")


@pytest.fixture(scope="session")
def golden_vae_dir() -> Path:
    """The recordings of the VAE."""
    return _recorded("golden-vae")
