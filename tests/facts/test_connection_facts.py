"""What control connections rest on, shown with real processes: end of file, silence, signals, descriptors, paths.

If one of these ever fails on a new system, `fabric/connection.py` is where to look.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.fabric.conftest import ADDRESSES, KEY, LONG_S, SHORT_S, place

from genlock.errors import LinkBroken, LinkTimeout
from genlock.fabric.address import Address
from genlock.fabric.connection import FRAME_MOST, Connection, listen

NOTICED_S = 1.0  # a killed peer is seen in milliseconds; this is a busy machine's second

# A worker: says hello over its connection, does what it is told, then sleeps without reading.
WORKER = """
import sys, time
from pathlib import Path
from tests.fabric.conftest import KEY, place
from genlock.fabric.address import Address
from genlock.fabric.connection import connect
path, host, port, then = sys.argv[1:]
address = Address(path=Path(path)) if path else Address(host=host, port=int(port))
connection = connect(place(1), address, KEY, within_s=60)
connection.send(b"hello", within_s=60)
if then == "fork":
    import subprocess
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    connection.send(b"forked", within_s=60)
if then == "count":
    count = sum(1 for _ in range(16) if connection.receive(within_s=60))
    connection.send(b"%d" % count, within_s=60)
time.sleep(60)
"""


@contextmanager
def worker(kind: str, then: str = "sleep") -> Iterator[tuple[Connection, subprocess.Popen[bytes]]]:
    """Rank 0's connection to a worker that is a process of its own, and the process."""
    with ADDRESSES[kind]() as address:
        listener = listen(place(), address, KEY)
        process = start(address, then)
        try:
            connection = listener.accept_all(within_s=60)[1]
            listener.close()
            assert connection.receive(within_s=LONG_S) == b"hello"
            yield connection, process
            connection.close()
        finally:
            process.kill()
            process.wait(LONG_S)


def start(address: Address, then: str) -> subprocess.Popen[bytes]:
    where = [str(address.path or ""), address.host, str(address.port)]
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", WORKER, *where, then], cwd=root, start_new_session=True)


kinds = pytest.mark.parametrize("kind", ADDRESSES)


@kinds
def test_a_killed_peer_is_an_end_of_file_at_once(kind: str) -> None:
    with worker(kind) as (connection, process):
        process.kill()
        began = time.monotonic()
        with pytest.raises(LinkBroken) as end:
            connection.receive(within_s=LONG_S)
        assert time.monotonic() - began < NOTICED_S
        assert end.value.rank == 1


@kinds
def test_a_killed_peer_hangs_up_for_whoever_polls(kind: str) -> None:
    """So a watchdog sees it while the main thread is in a collective."""
    with worker(kind) as (connection, process):
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLRDHUP)
        assert poll.poll(50) == []
        process.kill()
        assert poll.poll(NOTICED_S * 1000)


@kinds
def test_a_stopped_peer_is_silent_and_whole_again_when_it_goes_on(kind: str) -> None:
    """Nothing tells a stopped peer from a slow one: only deadlines and beacons."""
    with worker(kind, "count") as (connection, process):
        process.send_signal(signal.SIGSTOP)
        for _ in range(16):  # small frames are the system's to keep
            connection.send(bytes(4096), within_s=0)
        with pytest.raises(LinkTimeout):
            connection.receive(within_s=SHORT_S)
        process.send_signal(signal.SIGCONT)
        assert connection.receive(within_s=LONG_S) == b"16"


@kinds
def test_a_send_to_a_stopped_peer_ends_at_its_deadline(kind: str) -> None:
    with worker(kind) as (connection, process):
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(LinkTimeout):
            fill(connection)
        assert time.monotonic() - began < SHORT_S + 2 * NOTICED_S


def fill(connection: Connection) -> None:
    for _ in range(64):
        connection.send(bytes(FRAME_MOST), within_s=SHORT_S)


@kinds
def test_a_grandchild_by_exec_does_not_hide_the_end_of_file(kind: str) -> None:
    """Even one that is told to keep every descriptor: Python's sockets are not inheritable."""
    with worker(kind, "fork") as (connection, process):
        assert connection.receive(within_s=LONG_S) == b"forked"
        process.kill()
        try:
            began = time.monotonic()
            with pytest.raises(LinkBroken):
                connection.receive(within_s=LONG_S)
            assert time.monotonic() - began < NOTICED_S
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the grandchild, in the group of its own that `start` made


def test_a_copied_descriptor_hides_the_end_of_file() -> None:
    """Why ranks are started by exec and not by fork."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        copy = os.dup(theirs.fileno())
        theirs.close()
        assert not select.select([ours], [], [], 0.05)[0]
        os.close(copy)
        assert select.select([ours], [], [], NOTICED_S)[0]


def test_a_timeout_of_the_socket_bounds_a_call_and_not_a_frame() -> None:
    """Why deadlines here are moments and not socket options."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(SHORT_S)
        began, got = time.monotonic(), b""
        while len(got) < 8:
            theirs.sendall(b"x")
            time.sleep(SHORT_S / 2)
            got += ours.recv(8 - len(got))
        assert time.monotonic() - began > 2 * SHORT_S


def test_python_handles_signals_during_poll() -> None:
    handled: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: handled.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            poll = select.poll()
            poll.register(ours, select.POLLIN)
            assert poll.poll(SHORT_S * 1000) == []
        assert time.monotonic() - began >= SHORT_S, "an interrupted wait is taken up again"
        assert handled[0] - began < SHORT_S
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_unix_socket_s_path_has_107_bytes_and_a_way_around(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        with pytest.raises(OSError, match="too long"):
            server.bind(str(folder / "s"))
        held = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{held}/s")
        os.close(held)
        assert (folder / "s").is_socket()


def test_a_socket_that_nobody_holds_open_refuses_though_its_file_is_there(tmp_path: Path) -> None:
    """How a run that was killed is told from one that lives."""
    path = tmp_path / "s"
    held = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    name = f"/proc/self/fd/{held}/s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(name)
    os.close(held)
    assert path.exists()
