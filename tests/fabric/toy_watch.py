"""A process with a watchdog and no supervisor: `python toy_watch.py RANK DEADLINE RUN_DIR WHAT FD...`.

The descriptors are its ends of sockets to its peers, in rank order; rank 0 has one a worker, a worker has one. WHAT
happens in the end: idle (waits for ever), hang (in a phase with a deadline), door (hangs in what passes for a
collective), tick (for a while, then hangs), leave:SECONDS (well), stay:SECONDS (its part is over, it lives on), spin
(holding the interpreter for good). With `real-` before it the connections are the product's, which load torch;
otherwise they are a few lines that behave alike.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path

from genlock.errors import LinkBroken, LinkTimeout
from genlock.fabric.liveness import Connection, Watch
from genlock.settings import Deadlines, Faults, Launch, Phase


class Line:
    """A connection of whole messages."""

    def __init__(self, stream: socket.socket, peer: int) -> None:
        self._socket, self._peer = stream, peer

    def send(self, frame: bytes, *, within_s: float) -> None:
        self._socket.settimeout(within_s)
        try:
            self._socket.send(frame)
        except TimeoutError:
            raise LinkTimeout("took no frame", rank=self._peer) from None
        except OSError:
            raise LinkBroken("is gone", rank=self._peer) from None

    def receive(self, *, within_s: float | None) -> bytes:
        self._socket.settimeout(within_s)
        try:
            frame = self._socket.recv(4096)
        except TimeoutError:
            raise LinkTimeout("sent no frame", rank=self._peer) from None
        except OSError:
            frame = b""
        if not frame:
            raise LinkBroken("is gone", rank=self._peer)
        return frame

    def fileno(self) -> int:
        return self._socket.fileno()


def connection(number: int, peer: int, *, real: bool) -> Connection:
    stream = socket.socket(fileno=number)
    if not real:
        return Line(stream, peer)
    from genlock.fabric.connection import SocketConnection

    return SocketConnection(stream, peer=peer)


if __name__ == "__main__":
    rank, deadline, run_dir, what = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    peers = range(1, 1 + len(sys.argv[5:])) if rank == 0 else [0]
    place = Launch(
        rank=rank,
        world=3,
        local_rank=rank,
        local_world=3,
        master_addr="",
        master_port=0,
        run_id="",
        supervised=None,
    )
    watch = Watch(place, Deadlines(answer_s=deadline, grace_s=0.5), run_dir, Faults(), None)
    connections = {
        peer: connection(int(number), peer, real=what.startswith("real-"))
        for peer, number in zip(peers, sys.argv[5:], strict=True)
    }
    watch.enter(Phase.IDLE, call_id=0, chunk=0)
    watch.exchange_beacons(connections)
    print("ready", flush=True)
    kind, _, seconds = what.removeprefix("real-").partition(":")
    if kind in ("hang", "tick", "spin", "door"):
        watch.enter(Phase.CALL, call_id=1, chunk=1)
    if kind == "spin":
        time.sleep(1.0)  # the watchdog runs once or twice
        re.match(r"(a|a)*b", "a" * 64)
    if kind == "door":
        exec("import time; time.sleep(1000)", {"__name__": "genlock.fabric.collectives"})
    if kind == "decode":
        watch.enter(Phase.DELIVER, call_id=1, chunk=1)
        time.sleep(float(seconds))
        watch.enter(Phase.IDLE, call_id=1, chunk=1)
    if kind == "leave":
        time.sleep(float(seconds))
    if kind in ("leave", "stay"):
        watch.enter(Phase.EXIT, call_id=1, chunk=1)
        watch.close()
    if kind == "stay":
        time.sleep(float(seconds))
    if kind in ("leave", "stay"):
        sys.exit(0)
    for turn in range(10**6):
        time.sleep(0.1)
        if kind == "tick" and turn < 2 * deadline * 10:
            watch.tick()
        if watch.drain_asked and kind == "idle":
            print("drained", flush=True)
            watch.enter(Phase.EXIT)
            sys.exit(0)
