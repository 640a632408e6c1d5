"""Nothing that a test waits for can hold up all the others."""

from __future__ import annotations

import os

import pytest
from tests.ranks import line_of


def test_every_test_has_a_limit(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.hasplugin("timeout")
    assert 0 < float(request.config.getini("timeout")) <= 600


def test_a_process_that_says_nothing_is_not_waited_for() -> None:
    reads, writes = os.pipe()
    with os.fdopen(reads) as heard, os.fdopen(writes, "w") as said:
        with pytest.raises(TimeoutError, match=r"not a word within 0\.05 s"):
            line_of(heard, 0.05)
        said.write("ready\n")
        said.flush()
        assert line_of(heard, 10) == "ready\n"
        said.close()
        assert line_of(heard, 10) == ""
