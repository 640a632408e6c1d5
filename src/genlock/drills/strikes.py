"""What is done to a run from outside, at a moment of its own: signals, and a disk that fills up.

Each waits for its moment, strikes, and returns when it struck, of the monotonic clock; or None where the time from the
strike to the end says nothing. Raises TimeoutError if the moment does not come, RunOver if the run ends before it.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable

from genlock.drills.hosts import TwoHosts
from genlock.drills.runs import D, Run, RunOver, until
from genlock.settings import Phase

FILE_BYTES = 64 * 1024


def kill_supervisor(run: Run) -> float:
    run.wait_for(Phase.IDLE, 3)
    run.process.kill()
    return time.monotonic()


def stop_supervisor(run: Run) -> None:
    """Stopped for longer than D, then continued, then asked to end."""
    run.wait_for(Phase.IDLE, 3)
    run.process.send_signal(signal.SIGSTOP)
    held = run.phases(0)[-1].chunk
    until(lambda: run.phases(0)[-1].chunk > held + 3)
    time.sleep(D + 1)  # what it hears when it goes on is old
    run.process.send_signal(signal.SIGCONT)
    run.wait_for(Phase.IDLE, run.phases(0)[-1].chunk + 5)
    run.process.send_signal(signal.SIGTERM)


def fill_disk(run: Run) -> None:
    """No file of rank 0 may become larger than this from now on, as if its disk were full."""
    run.wait_for(Phase.IDLE, 1)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.prlimit(_pid(run, 0), resource.RLIMIT_FSIZE, (FILE_BYTES, hard))


def signal_rank(run: Run, rank: int, number: signal.Signals, *, after_s: float) -> float:
    """`number` to a rank, `after_s` from the start of the command or as soon as it is there."""
    time.sleep(max(0.0, run.began_s + after_s - time.monotonic()))
    pid = _pid(run, rank)
    struck_s = time.monotonic()
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise RunOver("the rank left a moment ago") from None
    return struck_s


def on_line(run: Run, strike: Callable[[TwoHosts], None]) -> float:
    """Of two hosts in mid-stream: something happens to the line between them, for good."""
    hosts = _hosts(run)
    hosts.wait_for(Phase.IDLE, 2)
    strike(hosts)
    return time.monotonic()


def outage(run: Run, seconds: float) -> None:
    """Both directions, for a while."""
    hosts = _hosts(run)
    hosts.wait_for(Phase.IDLE, 2)
    for sender in (0, 1):
        hosts.cut(sender)
    time.sleep(seconds)
    for sender in (0, 1):
        hosts.mend(sender)


def _hosts(run: Run) -> TwoHosts:
    assert isinstance(run, TwoHosts)  # the catalogue says so beside the strike
    return run


def _pid(run: Run, rank: int) -> int:
    found: list[int | None] = []

    def there() -> bool:
        found.append(run.rank_pid(rank))
        if found[-1] is None and run.process.poll() is not None:
            raise RunOver(run.said)
        return found[-1] is not None

    until(there)
    assert found[-1] is not None
    return found[-1]
