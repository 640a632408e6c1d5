"""What holds for all tests: signals are heard, and how hard property tests try.

`desk` (default): the same few examples every time. `night`: many, drawn afresh. Choose by `--hypothesis-profile=night`
or HYPOTHESIS_PROFILE=night; a failure at night prints what replays it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.ranks import Ranks

settings.register_profile(
    "desk", max_examples=60, stateful_step_count=30, derandomize=True, deadline=None, print_blob=True
)
settings.register_profile(
    "night",
    max_examples=2000,
    stateful_step_count=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "desk"))

# Under nohup, or in the background of a script, these are ignored, and by every process started from here as well.
for number, heard in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, heard)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Runs scenarios on real processes: see `tests.ranks`."""
    started = Ranks()
    yield started
    started.close()
