"""What ranks do in the tests of the channel on a real backend: run by every rank of a `tests.ranks` call."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from typing import Any

import torch
from tests.fabric.conftest import KEY
from tests.fabric.mesh_scenarios import door, place
from tests.fabric.test_channel import start, verdict_of
from tests.ranks import Here
from tests.wire.conftest import make

from genlock.errors import GenlockError
from genlock.fabric.address import SOCKET, Address
from genlock.fabric.channel import Follower, Leader, Stop
from genlock.fabric.collectives import Mesh
from genlock.fabric.connection import connect, listen
from genlock.fabric.groups import shorten
from genlock.settings import Deadlines, Phase
from genlock.wire.kinds import Action
from genlock.wire.prepare import prepare, prepare_notice

GOOD = 2  # chunks before anything happens
DEADLINES = Deadlines(answer_s=3.0)


class Victim:
    """The rank that is struck, at the moment that the call named, in the chunk after the good ones."""

    def __init__(self, here: Here) -> None:
        self.struck = here.rank == here.given.get("victim")
        self.at, self.how = here.given.get("at", ""), here.given.get("how", "SIGKILL")

    def on_phase(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
        if chunk == GOOD:
            self.strike(phase)

    def strike(self, moment: str) -> None:
        if self.struck and self.at == moment:
            os.kill(os.getpid(), getattr(signal, self.how))


def chunks(here: Here) -> dict[str, Any]:
    """Chunks of one sum each, until one ends it: what that was, and the seconds from the last good verdict."""
    mesh, victim = door(here), Victim(here)
    shorten(mesh.group, DEADLINES.group_s)
    begun = [time.monotonic()]
    try:
        address = Address(path=here.folder / SOCKET)
        run_0(here, mesh, victim, address, begun) if here.rank == 0 else run_worker(here, mesh, victim, address, begun)
    except GenlockError as error:
        seconds = time.monotonic() - begun[0]
        return {"code": error.code, "rank": error.rank, "text": str(error), "seconds": seconds}
    return {"code": "", "rank": None, "text": "", "seconds": 0.0}


def work(mesh: Mesh, victim: Victim, chunk: int) -> None:
    with mesh.opened("work"):
        if chunk == GOOD:
            victim.strike("work")
        mesh.sum_squares(torch.ones(70_000), "somewhere")


def run_0(here: Here, mesh: Mesh, victim: Victim, address: Address, begun: list[float]) -> None:
    with closing(listen(place(here), address, KEY)) as listener:
        workers = listener.accept_all(within_s=20)
    leader, state = Leader(workers, mesh, DEADLINES, on_phase=victim.on_phase), start()
    for chunk in range(GOOD + 1):
        prepared, state = prepare(make(state), state)
        leader.infer(prepared)
        try:
            work(mesh, victim, chunk)
        except GenlockError as error:
            raise leader.tell(error) from error
        leader.verdict(verdict_of(prepared.header.call_id, state))
        begun[0] = time.monotonic()
    leader.shutdown(prepare_notice(Action.SHUTDOWN, state)[0])


def run_worker(here: Here, mesh: Mesh, victim: Victim, address: Address, begun: list[float]) -> None:
    connection = connect(place(here), address, KEY, within_s=20)
    follower = Follower(
        connection, mesh, start(), DEADLINES, check=lambda _: None, on_phase=victim.on_phase, alone=here.size == 2
    )
    while not isinstance(chunk := follower.next(), Stop):
        try:
            work(mesh, victim, chunk.header.chunk_index)
        except GenlockError as error:
            raise follower.fail(error) from error
        follower.report(verdict_of(chunk.header.call_id, follower.state))
        begun[0] = time.monotonic()
