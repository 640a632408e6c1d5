"""What a command of one process does when it is asked to end: the chunk in flight is its last, as with a mesh.

A mesh's signals are its supervisor's and its ranks' (`fabric/liveness.py`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from genlock.settings import Settings

STDERR = 2


@contextmanager
def drained_when_asked(session: Any, settings: Settings) -> Iterator[None]:
    """While it lasts, the first signal that asks a command of one process to end lets the chunk in flight be the last,
    and a second one interrupts it.

    Nothing is raised at the first, into whatever runs; a signal that was ignored when the command began stays so.
    """
    from genlock.engine.supervisor import ASKS_TO_DRAIN, DRAINING

    asking = [number for number in ASKS_TO_DRAIN if signal.getsignal(number) is not signal.SIG_IGN]
    if settings.topology != "solo":
        asking = []

    def drain(*_: Any) -> None:
        for number in asking:
            signal.signal(number, signal.default_int_handler)
        session.drain()
        os.write(STDERR, f"{DRAINING}\n".encode())  # unbuffered: what was interrupted may be a buffered write

    before = {number: signal.signal(number, drain) for number in asking}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
