"""The toy model that the drills run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from genlock.drills.toy import write_toy_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a few thousand random weights."""
    return write_toy_model(tmp_path_factory.mktemp("model"))
