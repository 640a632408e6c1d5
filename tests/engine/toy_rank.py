"""A rank without a model: goes through the phases in lockstep with its peers, over bare sockets, watched for real.

    python toy_rank.py '{"chunks": 5, "deadline": 2, "do": {"1": {"call:2": "hang"}}}'

chunks: -1 goes on until a drain. do: rank -> "phase:chunk" -> what happens there: hang, spin (holding the interpreter
for good), raise, memory, exit:CODE, tripwire:RANK, child (leaves a process behind). lingers_s: how long each process
goes on after its part is over. Everything else comes from the environment, as for a real rank.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from genlock.errors import LinkBroken, LinkTimeout, MeshDisagrees
from genlock.fabric.liveness import Watch
from genlock.observe.recorder import Recorder, recorder_path
from genlock.settings import Deadlines, Phase, faults_from, from_environment, launch


class Toy:
    def __init__(self, told: dict[str, object]) -> None:
        place = launch()
        assert place is not None
        assert place.supervised is not None
        self.place, self.told = place, told
        assert len(os.read(place.supervised.key_fd, 64)) == 32
        assert os.read(place.supervised.key_fd, 1) == b""
        folder = Path(place.supervised.run_dir)
        self.deadlines = Deadlines(answer_s=float(str(told["deadline"])), deliver_s=4.0, load_s=5.0)
        faults = faults_from(from_environment().faults)
        self.watch = Watch(place, self.deadlines, folder, faults, Recorder(recorder_path(folder, place.rank), 256))
        self.peers: dict[int, socket.socket] = {}

    def meet(self) -> None:
        assert self.place.supervised is not None
        path, peers = Path(self.place.supervised.run_dir) / "socket", self.peers
        self.enter(Phase.GATE_1)
        if self.place.rank == 0:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path) + ".new")
            listener.listen()
            os.rename(str(path) + ".new", path)
            for _ in range(1, self.place.world):
                peer, _ = listener.accept()
                peers[peer.recv(1)[0]] = peer
        else:
            while not path.exists():
                time.sleep(0.02)
            peers[0] = socket.socket(socket.AF_UNIX)
            peers[0].connect(str(path))
            peers[0].send(bytes([self.place.rank]))
        for rank, peer in peers.items():
            peer.settimeout(self.deadlines.group_s)
            self.watch.hang_up(peer.fileno(), rank)

    def enter(self, phase: Phase, chunk: int = -1) -> None:
        self.watch.enter(phase, call_id=chunk, chunk=chunk)
        self.misbehave(phase, chunk)

    def misbehave(self, phase: Phase, chunk: int) -> None:
        do = self.told.get("do", {})
        assert isinstance(do, dict)
        what, _, more = do.get(str(self.place.rank), {}).get(f"{phase}:{chunk}", "").partition(":")
        if what == "hang":
            while True:
                time.sleep(1)
        if what == "spin":
            re.match(r"(a|a)*b", "a" * 64)  # one call into C that holds the interpreter
        if what == "child":
            subprocess.Popen(["sleep", "60"])  # in this rank's group; inherits its environment
        if what == "raise":
            raise ArithmeticError("a rank that fails")
        if what == "memory":
            raise MemoryError
        if what == "tripwire":
            raise MeshDisagrees("weights differ", rank=int(more), chunk_index=chunk)
        if what == "exit":
            print(f"rank {self.place.rank} says why")
            sys.stdout.flush()
            os._exit(int(more))

    def exchange(self, word: bytes, *, collective: bool) -> bytes:
        """One lockstep round: rank 0 says, the others answer. The errors of a collective name nobody."""
        said = b""
        for rank, peer in self.peers.items():
            try:
                if self.place.rank == 0:
                    peer.send(word)
                said = peer.recv(1)
                if self.place.rank > 0:
                    peer.send(said)
            except TimeoutError:
                if collective:
                    raise RuntimeError("Timed out waiting 1800ms for recv operation to complete") from None
                raise LinkTimeout("it does not answer", rank=rank) from None
            except OSError:
                said = b""
            if not said and collective:
                raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711")
            if not said:
                raise LinkBroken("it is gone", rank=rank)
        self.watch.tick()
        return said

    def announce(self, word: bytes) -> None:
        for rank, peer in self.peers.items():
            try:
                peer.send(word)
            except OSError:
                raise LinkBroken("it is gone", rank=rank) from None

    def wait_for_word(self) -> bytes:
        """A worker waits for ever for a frame; rank 0 for as long as it takes to be asked."""
        if self.place.rank == 0:
            time.sleep(0.03)
            return b"g"
        self.peers[0].settimeout(None)
        word = self.peers[0].recv(1)
        self.peers[0].settimeout(self.deadlines.group_s)
        if not word:
            raise LinkBroken("it is gone", rank=0)
        return word

    def run(self) -> None:
        self.meet()
        for phase in (Phase.LOAD, Phase.WARM_UP):
            self.enter(phase)
            time.sleep(0.05)
        chunk, chunks = 0, int(str(self.told["chunks"]))
        while True:
            self.enter(Phase.IDLE, chunk)
            word = self.wait_for_word()
            if self.place.rank == 0 and (chunk == chunks or self.watch.drain_asked):
                break
            if word == b"q":
                break
            if self.place.rank == 0:
                self.announce(b"g")
            for phase in (Phase.PAYLOAD, Phase.CALL, Phase.VERDICT):
                self.enter(phase, chunk)
                self.exchange(b"x", collective=phase is not Phase.VERDICT)
            chunk += 1
        self.enter(Phase.EXIT, chunk)
        if self.place.rank == 0:
            print(f"{chunk} chunks")
            self.announce(b"q")
        for peer in self.peers.values():
            self.watch.let_go(peer.fileno())
            peer.close()
        if self.told.get("lingers_s"):
            self.watch.close()
            time.sleep(float(str(self.told["lingers_s"])))
        if self.place.rank > 0:
            self.watch.finish()


if __name__ == "__main__":
    toy = Toy(json.loads(sys.argv[1]))
    try:
        toy.run()
    except BaseException as error:  # noqa: BLE001 - as a rank does
        toy.watch.fail(error)
