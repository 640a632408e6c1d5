"""One suite for every kind of connection, and the door: who is let in, who is not, and that nobody is held up."""

from __future__ import annotations

import hmac
import os
import random
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fabric.conftest import (
    ADDRESSES,
    KEY,
    LONG_S,
    SHORT_S,
    all_of,
    beside,
    caught,
    guest,
    joined,
    kept,
    place,
    together,
)

from genlock.errors import FrameRefused, GateMissed, LaunchRefused, LinkBroken, LinkTimeout
from genlock.fabric.address import Address
from genlock.fabric.connection import (
    _HELLO,
    BEACON,
    CLIENTS_MOST,
    FRAME_MOST,
    Connection,
    Listener,
    SocketConnection,
    gather,
    listen,
    pair,
    send_all,
    tell_all,
)

KINDS = ("in_memory", "unix", "tcp")
LENGTH = struct.Struct("<I")


def fill(connection: Connection) -> None:
    """More than the system keeps for somebody who does not read."""
    for _ in range(64):
        connection.send(bytes(FRAME_MOST), within_s=SHORT_S)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_come_whole_and_in_order(kind: str) -> None:
    frames = [b"", b"x", bytes(range(256)) * 257, b"last"]
    with joined(kind) as ends:
        for one, other in (ends, ends[::-1]):
            for frame in frames:
                one.send(frame, within_s=LONG_S)
            assert [other.receive(within_s=None if frame else LONG_S) for frame in frames] == frames


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_frame_comes_and_a_larger_one_is_refused_before_it_leaves(kind: str) -> None:
    with joined(kind) as (ours, theirs):
        frame = os.urandom(FRAME_MOST)
        with beside(lambda: theirs.send(frame, within_s=LONG_S)):
            assert ours.receive(within_s=LONG_S) == frame
        with pytest.raises(FrameRefused, match=f"a frame of {FRAME_MOST + 1} bytes"):
            theirs.send(frame + b"x", within_s=LONG_S)
        theirs.send(b"still good", within_s=LONG_S)
        assert ours.receive(within_s=LONG_S) == b"still good"


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_peer_is_waited_for_until_the_deadline_and_can_still_be_heard_later(kind: str) -> None:
    with joined(kind) as (ours, theirs):
        began = time.monotonic()
        with pytest.raises(LinkTimeout, match=r"GL-LINK-02: rank 1: it sent no frame within 0\.2 s") as late:
            ours.receive(within_s=SHORT_S)
        assert SHORT_S <= time.monotonic() - began < SHORT_S + 2
        assert (late.value.rank, late.value.exit_code) == (1, 12)
        with pytest.raises(LinkTimeout):
            ours.receive(within_s=0)
        theirs.send(b"late", within_s=LONG_S)
        assert ours.receive(within_s=LONG_S) == b"late"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_is_taken_without_waiting(kind: str) -> None:
    with joined(kind) as (ours, theirs):
        theirs.send(b"here", within_s=LONG_S)
        assert select.select([ours], [], [], LONG_S)[0]
        assert ours.receive(within_s=0) == b"here"


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_reads_nothing_stops_the_sender_at_the_deadline_for_good(kind: str) -> None:
    """A frame cut in two cannot be finished later: the rest of it would be taken for another."""
    with joined(kind) as (ours, _):
        with pytest.raises(LinkTimeout, match=r"took no frame within 0\.2 s, only a part of one"):
            fill(ours)
        with pytest.raises(LinkBroken, match="cannot be used any more: it took no frame"):
            ours.send(b"", within_s=LONG_S)
        with pytest.raises(LinkTimeout):  # the other direction is whole
            ours.receive(within_s=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_is_gone_is_noticed_at_once(kind: str) -> None:
    with joined(kind) as (ours, theirs):
        theirs.send(b"last words", within_s=LONG_S)
        theirs.close()
        assert ours.receive(within_s=LONG_S) == b"last words"  # what was sent before the end is not lost
        began = time.monotonic()
        with pytest.raises(LinkBroken, match="GL-LINK-01: rank 1: it closed the connection") as end:
            ours.receive(within_s=None)
        assert (end.value.rank, end.value.exit_code) == (1, 11)
        with pytest.raises(LinkBroken):
            fill(ours)
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_wait_ends_when_the_peer_goes(kind: str) -> None:
    with (
        joined(kind) as (ours, theirs),
        beside(lambda: (time.sleep(0.05), theirs.close())),
        pytest.raises(LinkBroken),
    ):
        ours.receive(within_s=None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_end_says_so(kind: str) -> None:
    with joined(kind) as (ours, _):
        ours.close()
        assert ours.fileno() == -1
        for use in (lambda: ours.receive(within_s=0), lambda: ours.send(b"", within_s=0)):
            with pytest.raises(LinkBroken, match="closed on this side"):
                use()
        ours.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_descriptor_is_not_handed_down_by_exec(kind: str) -> None:
    """One that is would hide the end of file."""
    with joined(kind) as ends:
        assert not any(os.get_inheritable(end.fileno()) for end in ends)


def raw() -> tuple[SocketConnection, socket.socket]:
    ours, theirs = socket.socketpair()
    return SocketConnection(ours, peer=3), theirs


@given(st.binary(max_size=300), st.data())
def test_a_frame_in_pieces_is_the_same_frame(frame: bytes, data: st.DataObject) -> None:
    sent = LENGTH.pack(len(frame)) + frame
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=5)))
    connection, other = raw()
    with closing(connection), closing(other):

        def trickle() -> None:
            for first, last in zip([0, *cuts], [*cuts, len(sent)], strict=True):
                other.sendall(sent[first:last])

        with beside(trickle):
            assert connection.receive(within_s=LONG_S) == frame


@given(st.integers(0, 20))
def test_half_a_frame_is_an_end_of_it_by_death_and_by_deadline(count: int) -> None:
    sent = (LENGTH.pack(20) + bytes(20))[:count]
    connection, other = raw()
    with closing(connection), closing(other):
        other.sendall(sent)
        with pytest.raises(LinkTimeout, match="part of one" if count else "no frame"):
            connection.receive(within_s=0.001)
        if count:
            with pytest.raises(LinkBroken, match="cannot be used any more"):
                connection.receive(within_s=LONG_S)
    connection, other = raw()
    with closing(connection):
        other.sendall(sent)
        other.close()
        with pytest.raises(LinkBroken, match="in the middle of a frame" if count else "closed the connection$|closed"):
            connection.receive(within_s=LONG_S)


def test_a_peer_that_trickles_does_not_stretch_the_deadline() -> None:
    connection, other = raw()
    done = threading.Event()

    def trickle() -> None:
        other.sendall(LENGTH.pack(1000))
        while not done.wait(0.02):
            other.sendall(b"x")

    with closing(connection), closing(other), beside(trickle):
        began = time.monotonic()
        with pytest.raises(LinkTimeout, match="part of one"):
            connection.receive(within_s=SHORT_S)
        assert time.monotonic() - began < SHORT_S + 2
        done.set()


def test_an_absurd_length_allocates_nothing() -> None:
    connection, other = raw()
    with closing(connection), closing(other):
        other.sendall(LENGTH.pack(2**32 - 1))
        with pytest.raises(LinkBroken, match="announces a frame of 4294967295 bytes"):
            connection.receive(within_s=LONG_S)


def test_signal_handlers_run_while_a_frame_is_waited_for() -> None:
    ours, theirs = pair()
    with closing(ours), closing(theirs):
        before = signal.signal(signal.SIGALRM, lambda *_: theirs.send(b"from the handler", within_s=LONG_S))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert ours.receive(within_s=None) == b"from the handler"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_a_host_that_vanishes_is_noticed_in_twenty_seconds_whether_or_not_it_was_sent_something() -> None:
    with joined("tcp") as ends:
        for end in ends:
            copy = socket.socket(fileno=os.dup(end.fileno()))
            with closing(copy):
                said = [
                    copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                    copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
                ]
            assert said == [1, 1, 20_000]


# -- many at once ------------------------------------------------------------------------------------------------


def star(size: int) -> tuple[dict[int, Connection], dict[int, Connection]]:
    """Rank 0's ends and the workers', by rank."""
    ends = {rank: pair(rank) for rank in range(1, size)}
    for pair_of_ends in ends.values():
        for end in pair_of_ends:
            kept(end)
    return {rank: ours for rank, (ours, _) in ends.items()}, {rank: theirs for rank, (_, theirs) in ends.items()}


def test_gather_takes_one_frame_of_each_whatever_the_order() -> None:
    ours, theirs = star(4)
    send_all(ours, b"question", within_s=LONG_S)
    for rank in (3, 1, 2):
        assert theirs[rank].receive(within_s=LONG_S) == b"question"
        send_all({rank: theirs[rank]}, b"%d" % rank, within_s=LONG_S)
    assert gather(ours, within_s=LONG_S) == ({1: b"1", 2: b"2", 3: b"3"}, None)
    assert gather({}, within_s=0) == ({}, None)


def test_gather_names_all_who_are_silent() -> None:
    ours, theirs = star(5)
    theirs[2].send(b"two", within_s=LONG_S)
    frames, missing = gather(ours, within_s=SHORT_S)
    assert frames == {2: b"two"}
    assert isinstance(missing, LinkTimeout)
    assert str(missing).startswith("GL-LINK-02: ranks 1, 3, 4 sent no frame within 0.2 s")
    assert missing.rank is None  # they may be waiting for one of them


def test_gather_ends_at_once_for_one_that_is_gone_and_keeps_what_came() -> None:
    """Whoever waits for the slow before it looks at the dead waits for nothing."""
    ours, theirs = star(4)
    theirs[1].send(b"one", within_s=LONG_S)
    theirs[3].close()
    began = time.monotonic()
    frames, missing = gather(ours, within_s=LONG_S)
    assert time.monotonic() - began < 2
    assert frames.items() <= {1: b"one"}.items()
    assert isinstance(missing, LinkBroken)
    assert missing.rank == 3
    ours[2].close()
    assert getattr(gather(ours, within_s=LONG_S)[1], "rank", None) == 2


def test_gather_ends_at_a_frame_that_says_so() -> None:
    ours, theirs = star(3)
    theirs[2].send(b"stop", within_s=LONG_S)
    assert gather(ours, within_s=LONG_S, ends=lambda frame: frame == b"stop") == ({2: b"stop"}, None)


def test_last_words_reach_whoever_can_hear_them() -> None:
    ours, theirs = star(4)
    theirs[1].close()
    with pytest.raises(LinkTimeout):
        fill(ours[2])
    with pytest.raises(LinkBroken) as first:
        send_all(ours, b"x", within_s=SHORT_S)
    assert first.value.rank == 1
    tell_all(ours, b"the end", within_s=SHORT_S)
    assert theirs[3].receive(within_s=LONG_S) == b"the end"


# -- the door ----------------------------------------------------------------------------------------------------

doors = pytest.mark.parametrize("kind", ADDRESSES)


@doors
def test_all_ranks_come_in_whatever_the_order_and_on_two_channels(kind: str) -> None:
    with ADDRESSES[kind]() as address:

        def worker(rank: int) -> Callable[[], list[Connection]]:
            channels = [{}, {"channel": BEACON}]
            return lambda: [guest(address, rank, 4, **more) for more in channels[:: (-1) ** rank]][:: (-1) ** rank]

        def rank_0() -> list[dict[int, Connection]]:
            with closing(listen(place(0, 4), address, KEY)) as door:
                return [all_of(door), all_of(door, channel=BEACON)]

        came = together({3: worker(3), 1: worker(1), 0: rank_0, 2: worker(2)})
        for channel in (0, 1):
            assert list(came[0][channel]) == [1, 2, 3]
            for rank in (1, 2, 3):
                came[0][channel][rank].send(b"%d %d" % (channel, rank), within_s=LONG_S)
                assert came[rank][channel].receive(within_s=LONG_S) == b"%d %d" % (channel, rank)
        assert address.path is None or not address.path.exists()


def strange(address: Address, say: bytes) -> socket.socket:
    """Somebody who knocks, says something, and stays."""
    client = kept(socket.socket(socket.AF_UNIX if address.path else socket.AF_INET))
    client.connect(str(address.path) if address.path else (address.host, address.port))
    client.sendall(say)
    return client


@doors
def test_a_mute_client_and_garbage_hold_nobody_up(kind: str) -> None:
    with ADDRESSES[kind]() as address, closing(listen(place(), address, KEY)) as door:
        hello = LENGTH.pack(3) + b"abc"
        mute = [strange(address, say) for say in (b"", b"", b"GET / HTTP/1.1\r\n\r\n", hello, LENGTH.pack(120), b"\0")]
        strange(address, hello).close()
        began = time.monotonic()
        came = together({0: lambda: all_of(door), 1: lambda: guest(address)})
        assert time.monotonic() - began < 2
        came[0][1].send(b"in", within_s=LONG_S)
        assert came[1].receive(within_s=LONG_S) == b"in"
        for client in mute:
            client.close()


@doors
def test_more_mute_clients_than_are_challenged_at_once_hold_nobody_up_for_long(kind: str) -> None:
    with ADDRESSES[kind]() as address, closing(listen(place(), address, KEY)) as door:
        crowd: list[socket.socket] = []

        def come() -> Connection:
            crowd.extend(strange(address, b"") for _ in range(CLIENTS_MOST + 8))
            threading.Timer(0.3, lambda: [client.close() for client in crowd]).start()
            return guest(address)

        came = together({0: lambda: all_of(door), 1: come})
        assert list(came[0]) == [1]


def test_a_crowd_does_not_stretch_the_deadline() -> None:
    with ADDRESSES["unix"]() as address, closing(listen(place(), address, KEY)) as door:
        crowd = beside(lambda: [strange(address, b"") for _ in range(CLIENTS_MOST + 8)])
        began = time.monotonic()
        with crowd, pytest.raises(GateMissed):
            door.accept_all(within_s=1.0)
        assert time.monotonic() - began < 3


@doors
def test_a_wrong_key_is_refused_on_both_sides_and_the_right_one_comes_in(kind: str) -> None:
    with ADDRESSES[kind]() as address, closing(listen(place(0, 3), address, KEY)) as door:

        def stranger() -> Connection:
            return guest(address, 2, 3, key=b"another key of thirty-two bytes!")

        came = together(
            {0: lambda: caught(lambda: all_of(door, within_s=1.0)), 1: lambda: guest(address, 1, 3), 2: stranger}
        )
        assert isinstance(came[2], LaunchRefused)
        assert str(came[2]).startswith("GL-LAUNCH-01: rank 2: rank 0 has another key; give every rank the same")
        assert isinstance(came[1], SocketConnection)
        assert isinstance(came[0], GateMissed)
        assert "rank 2 did not come to rank 0's control connection within 1 s (1 came with another key)" in str(came[0])


@pytest.mark.parametrize(
    ("rank", "world", "more", "reason"),
    [
        (1, 5, {}, "rank 1 of 5, where rank 0 expects 1 to 2 of 3"),
        (3, 4, {}, "rank 3 of 4"),
        (1, 3, {"channel": "gossip"}, "there is no channel 'gossip'"),
    ],
)
def test_a_rank_that_does_not_belong_here_is_told_why(rank: int, world: int, more: dict[str, str], reason: str) -> None:
    with ADDRESSES["unix"]() as address, closing(listen(place(0, 3), address, KEY)) as door:
        came = together({0: lambda: all_of(door, within_s=1.0), 1: lambda: guest(address, rank, world, **more)})
        assert isinstance(came[1], LaunchRefused)
        assert f"rank 0 refuses: {reason}" in str(came[1])
        assert came[1].exit_code == 13


def test_a_second_rank_of_the_same_number_is_refused_unless_the_first_has_gone() -> None:
    with ADDRESSES["unix"]() as address, closing(listen(place(0, 3), address, KEY)) as door:

        def twice() -> list[object]:
            first = guest(address, 1, 3)
            second = caught(lambda: guest(address, 1, 3))
            first.close()
            return [second, guest(address, 1, 3), guest(address, 2, 3)]

        came = together({0: lambda: all_of(door), 1: twice})
        second, again, _ = came[1]
        assert isinstance(second, LaunchRefused)
        assert "rank 0 refuses: rank 1 is there already" in str(second)
        came[0][1].send(b"to the living", within_s=LONG_S)
        assert again.receive(within_s=LONG_S) == b"to the living"


@doors
def test_ranks_that_do_not_come_are_named(kind: str) -> None:
    with ADDRESSES[kind]() as address, closing(listen(place(0, 4), address, KEY)) as door:
        came = together({0: lambda: all_of(door, within_s=1.0), 2: lambda: guest(address, 2, 4)})
        assert isinstance(came[0], GateMissed)
        assert "ranks 1, 3 did not come to rank 0's control connection within 1 s" in str(came[0])
        assert (came[0].rank, came[0].exit_code) == (1, 13)


@doors
def test_a_worker_names_rank_0_if_nobody_listens(kind: str) -> None:
    with ADDRESSES[kind]() as address, pytest.raises(GateMissed) as missed:
        guest(address, within_s=SHORT_S)
    assert missed.value.rank == 0
    assert "rank 0 let nobody in within 0.2 s" in str(missed.value)


@doors
def test_a_worker_waits_for_a_listener_that_comes_late(kind: str) -> None:
    with ADDRESSES[kind]() as address:

        def late() -> dict[int, Connection]:
            time.sleep(0.2)
            with closing(listen(place(), address, KEY)) as door:
                return all_of(door)

        came = together({0: late, 1: lambda: guest(address)})
        assert isinstance(came[1], SocketConnection)


def test_no_greeting_comes_in_but_the_right_one() -> None:
    """One flipped bit of it, or anything else, is refused or closed, and the door goes on."""
    draw = random.Random(0)
    with ADDRESSES["unix"]() as address, closing(listen(place(), address, KEY)) as door:
        arrived: dict[int, Connection] = {}
        with beside(lambda: arrived.update(all_of(door))):
            for number in range(100):
                client = SocketConnection(strange(address, b""), peer=0)
                nonce = client.receive(within_s=LONG_S)
                body = _HELLO.pack(b"gnlh", 1, 1, 2, b"control", draw.randbytes(32))
                greeting = bytearray(body + hmac.digest(KEY, b"guest" + nonce + body, "sha256"))
                if number % 2:
                    greeting[draw.randrange(len(greeting))] ^= 1 << draw.randrange(8)
                else:
                    greeting = bytearray(draw.randbytes(draw.randrange(2 * len(greeting))))
                client.send(bytes(greeting), within_s=LONG_S)
                answer = caught(lambda client=client: client.receive(within_s=LONG_S))
                assert isinstance(answer, LinkBroken) or answer[32:], "a reason, or no answer"
                assert not arrived
                client.close()
            own = guest(address)
        arrived[1].send(b"in", within_s=LONG_S)
        assert own.receive(within_s=LONG_S) == b"in"


def test_one_who_only_pretends_to_be_rank_0_lets_nobody_in() -> None:
    """The proof goes both ways: a worker does not talk to whoever sits at the address."""
    other = b"not the key, but as long as one"
    with ADDRESSES["tcp"]() as address, closing(listen(place(), address, other)) as impostor:
        came = together(
            {
                0: lambda: all_of(impostor, within_s=1.0),
                1: lambda: guest(address),
            }
        )
        assert isinstance(came[1], LaunchRefused)


def test_a_proof_cannot_be_played_back() -> None:
    """An impostor that sends a worker's own proof back to it, as a host's, is found out."""
    with ADDRESSES["tcp"]() as address, closing(socket.create_server((address.host, address.port))) as server:

        def echo() -> None:
            client, _ = server.accept()
            with closing(client):
                connection = SocketConnection(client, peer=1)
                connection.send(bytes(32), within_s=LONG_S)
                hello = connection.receive(within_s=LONG_S)
                connection.send(hello[-32:], within_s=LONG_S)

        with beside(echo), pytest.raises(LaunchRefused, match="rank 0 has another key"):
            guest(address)


def test_a_port_in_use_is_one_line() -> None:
    refused = pytest.raises(
        LaunchRefused, match=r"rank 0 cannot listen: Address already in use; .*GENLOCK_CONTROL_PORT"
    )
    with ADDRESSES["tcp"]() as address, closing(listen(place(), address, KEY)), refused:
        listen(place(), address, KEY)


def test_too_many_open_files_are_one_line_and_not_a_deadline() -> None:
    with ADDRESSES["unix"]() as address, closing(listen(place(), address, KEY)) as door, ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        stack.enter_context(strange(address, b""))
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(LaunchRefused, match="cannot let anybody in: Too many open files; raise the limit"):
            door.accept_all(within_s=LONG_S)


def test_a_live_run_is_not_pushed_out_of_its_socket_and_a_dead_one_is() -> None:
    with ADDRESSES["unix"]() as address:
        assert address.path is not None
        with closing(socket.socket(socket.AF_UNIX)) as dead:  # bound, never listening: as a killed run leaves it
            dead.bind(str(address.path))
        with closing(listen(place(), address, KEY)) as door:
            with pytest.raises(LaunchRefused, match="another run listens here; give each run its own run folder"):
                listen(place(), address, KEY)
            assert isinstance(door, Listener)


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    address = Address(path=folder / "control.sock")
    with closing(listen(place(), address, KEY)) as door:
        came = together({0: lambda: all_of(door), 1: lambda: guest(address)})
        assert isinstance(came[1], SocketConnection)
