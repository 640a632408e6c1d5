"""A sign of life: where a rank is, as one small message, and the words that travel beside it. No torch.

What travels between a rank and who watches it, one message a datagram, JSON: beacons and the cause of an end go up,
the wish to drain goes down.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, fields

from genlock.observe.cause import Cause, cause_from
from genlock.settings import START_PHASES, Deadlines, Phase

DRAIN = b"drain"  # from the supervisor to rank 0: finish the chunk in flight, then leave
MESSAGE_BYTES = 65536  # no message is longer
STACKS_SIGNAL = signal.SIGUSR1  # a rank that gets it writes the stacks of all its threads to its file, and goes on

GATES = (Phase.GATE_1, Phase.GATE_2A, Phase.GATE_2B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """Where a rank's main thread is. op: collectives finished in this chunk. counter: grows with every sign of
    progress that restarts the phase's clock. watched: whether the watchdog still holds it to deadlines; it does not
    once the rank's part in the run is over and its process goes on with what is its own."""

    phase: Phase
    call_id: int
    chunk: int
    op: int
    counter: int
    watched: bool = True

    def to_bytes(self) -> bytes:
        return json.dumps({"beacon": {name: getattr(self, name) for name in self.__slots__}}).encode()


def beacon_period_s(deadlines: Deadlines) -> float:
    """Seconds from one beacon of a rank to its next: a tenth of D, between 0.1 and 1."""
    return max(0.1, min(1.0, deadlines.answer_s / 10))


def limit_s(deadlines: Deadlines, phase: Phase) -> float | None:
    """How long a watchdog lets a phase last: longer where main holds its own wait to the deadline, for it can say whom
    it waited for. At a gate that is twice: for the connections and for the manifests, or for a rank 0 that comes last.
    """
    allowed_s = deadlines.of(phase)
    if allowed_s is None or phase not in START_PHASES:
        return allowed_s
    return (2 if phase in GATES else 1) * allowed_s + deadlines.grace_s


def up_bytes(cause: Cause) -> bytes:
    """A cause as a message."""
    return b'{"cause": ' + cause.to_bytes() + b"}"


def read_up(message: bytes) -> Beacon | Cause:
    """What a rank says. Raises ValueError for anything else."""
    held = json.loads(message)
    try:
        if "cause" in held:
            return cause_from(held["cause"])
        values = {each.name: held["beacon"][each.name] for each in fields(Beacon)}
        return Beacon(**values | {"phase": Phase(values["phase"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"neither a beacon nor a cause: {error}") from None
