"""A byte stream between rank 0 and each worker: whole frames, a deadline for each, and nobody in it without the key.

Plain sockets: a Unix socket on one host, TCP between hosts. `multiprocessing.connection` would do, but only its `poll`
has a deadline: with timeouts set on its socket each system call is bounded and a frame that trickles in is not, and its
challenge says nothing of who comes. Framing here is a length and that many bytes; a deadline is one moment for the
whole frame; waiting is `poll`, in which Python's signal handlers run. No pickle.

Whoever connects is challenged by HMAC-SHA256 both ways and says which rank and which channel it is; the two proofs
differ in a word, so that neither can be played back as the other. Each client is challenged in a thread of its own, for
a few seconds at most: a mute one, garbage or a wrong key holds nobody up.

A peer that is killed is seen at once, as an end of file. One that is stopped is not: its frames are simply late.
Ranks must be started by exec, not by fork: a copied descriptor hides the end of file (Python's are closed by exec).
Knows no frame's meaning, and loads no torch.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from genlock.errors import FrameRefused, GateMissed, LaunchRefused, LinkBroken, LinkTimeout
from genlock.fabric.address import Address, answers, short
from genlock.settings import Launch

FRAME_MOST = 1024 * 1024  # bytes; the largest frame of ours is a gate's table
CONTROL, BEACON = "control", "beacon"
CHANNELS = (CONTROL, BEACON)

SLICE_S = 0.25  # of a long wait: a signal that another thread took is handled by the main thread after at most this
CHALLENGE_S = 5.0
CLIENTS_MOST = 64  # challenged at once; further ones are turned away and come again
RETRY_S = 0.05
KEEPALIVE_S, PROBES = 5, 3  # TCP: idle before the first probe and between probes; how many may be lost

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_LENGTH = struct.Struct("<I")
_HELLO = struct.Struct("<4sHII8s32s")  # magic, version, rank, world, channel, the client's nonce
_HELLO_MAGIC, _HELLO_VERSION = b"gnlh", 1
_NONCE_BYTES = _PROOF_BYTES = 32
_GREETING_MOST = 4096  # bytes of any frame before the other side is known


class Connection(Protocol):
    """One side of a connection. Used by one thread at a time; errors name the rank at the other side."""

    def send(self, frame: bytes, *, within_s: float) -> None:
        """Hands the whole frame to the system. Raises FrameRefused for one over FRAME_MOST, before a byte is sent;
        LinkTimeout if there is no room for it in time; LinkBroken if the other side is gone."""
        ...

    def receive(self, *, within_s: float | None) -> bytes:
        """The next frame; None waits for ever, 0 takes what is there. Raises LinkTimeout, LinkBroken.

        After a deadline that cut a frame in two, sent or received, that direction is spoilt: LinkBroken from then on.
        """
        ...

    def fileno(self) -> int:
        """For `poll`; -1 once closed."""
        ...

    def close(self) -> None: ...


class SocketConnection:
    """The one real kind. `peer`: the rank at the other side, -1 while it is not known."""

    def __init__(self, stream: socket.socket, *, peer: int, most: int = FRAME_MOST) -> None:
        stream.settimeout(0)
        self._socket, self._most = stream, most
        self.peer = peer
        self._spoilt: dict[int, str] = {}  # by direction: POLLIN, POLLOUT

    def send(self, frame: bytes, *, within_s: float) -> None:
        if len(frame) > self._most:
            raise FrameRefused(f"a frame of {len(frame)} bytes, the most is {self._most}", field="frame")
        self._check(select.POLLOUT)
        until, left = time.monotonic() + within_s, memoryview(_LENGTH.pack(len(frame)) + frame)
        while left:
            try:
                left = left[self._socket.send(left, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                cut = len(left) < _LENGTH.size + len(frame)
                self._wait(select.POLLOUT, until, within_s, cut=cut)
            except OSError as error:
                raise self._broken(select.POLLOUT, _reason(error)) from None

    def receive(self, *, within_s: float | None) -> bytes:
        self._check(select.POLLIN)
        until = None if within_s is None else time.monotonic() + within_s
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size, until, within_s, begun=False))
        if size > self._most:
            raise self._broken(select.POLLIN, f"it announces a frame of {size} bytes, the most is {self._most}")
        return self._exactly(size, until, within_s, begun=True)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int, until: float | None, within_s: float | None, *, begun: bool) -> bytes:
        buffer = bytearray(size)
        left = memoryview(buffer)
        while left:
            try:
                count = self._socket.recv_into(left)
            except BlockingIOError:
                self._wait(select.POLLIN, until, within_s, cut=begun or len(left) < size)
                continue
            except OSError as error:
                raise self._broken(select.POLLIN, _reason(error)) from None
            if not count:
                cut = " in the middle of a frame" if begun or len(left) < size else ""
                raise self._broken(select.POLLIN, f"it closed the connection{cut}")
            left = left[count:]
        return bytes(buffer)

    def _wait(self, event: int, until: float | None, within_s: float | None, *, cut: bool) -> None:
        """Returns when the socket is ready. Raises LinkTimeout at the deadline; `cut`: in the middle of a frame."""
        poll = select.poll()
        poll.register(self._socket, event)
        while until is None or time.monotonic() < until:
            slice_s = SLICE_S if until is None else min(SLICE_S, until - time.monotonic())
            if poll.poll(max(slice_s, 0.0) * 1000):
                return
        verb = "took no frame" if event == select.POLLOUT else "sent no frame"
        what = f"it {verb} within {within_s:g} s" + (", only a part of one" if cut else "")
        if cut:
            self._spoilt[event] = what
        raise LinkTimeout(what, rank=self._rank)

    def _check(self, event: int) -> None:
        if self._socket.fileno() < 0:
            raise LinkBroken("the connection is closed on this side", rank=self._rank)
        if event in self._spoilt:
            raise LinkBroken(f"the connection cannot be used any more: {self._spoilt[event]}", rank=self._rank)

    def _broken(self, event: int, what: str) -> LinkBroken:
        self._spoilt[event] = what
        return LinkBroken(what, rank=self._rank)

    @property
    def _rank(self) -> int | None:
        return None if self.peer < 0 else self.peer


def pair(rank: int = 1) -> tuple[SocketConnection, SocketConnection]:
    """Two ends in one process: rank 0's, whose peer is `rank`, and that rank's, whose peer is 0."""
    ours, theirs = socket.socketpair()
    return SocketConnection(ours, peer=rank), SocketConnection(theirs, peer=0)


def _never(frame: bytes) -> bool:  # noqa: ARG001 - a default
    return False


def gather(
    connections: Mapping[int, Connection], *, within_s: float, ends: Callable[[bytes], bool] = _never
) -> tuple[dict[int, bytes], LinkBroken | LinkTimeout | None]:
    """One frame from each rank, in the order in which they come, and what was wrong if one is missing.

    A broken connection ends the wait at once, silence at the deadline; of several silent ranks all are in the text and
    none is `rank`, for they may be waiting for one of them. Frames that came by then are there all the same. A frame
    for which `ends` is true ends the wait too, with nothing wrong.
    """
    until = time.monotonic() + within_s
    frames: dict[int, bytes] = {}
    missing = {connection.fileno(): rank for rank, connection in connections.items()}
    poll = select.poll()
    for fd, rank in missing.items():
        if fd < 0:
            return frames, LinkBroken("the connection is closed on this side", rank=rank)
        poll.register(fd, select.POLLIN)
    while missing:
        left_s = until - time.monotonic()
        ready = poll.poll(max(min(left_s, SLICE_S), 0.0) * 1000)
        if not ready and left_s <= 0:
            silent = sorted(missing.values())
            if len(silent) == 1:
                return frames, LinkTimeout(f"it sent no frame within {within_s:g} s", rank=silent[0])
            who = f"ranks {', '.join(map(str, silent))}"
            return frames, LinkTimeout(f"{who} sent no frame within {within_s:g} s")
        for fd, _ in ready:
            rank = missing.pop(fd)
            poll.unregister(fd)
            try:
                frames[rank] = connections[rank].receive(within_s=max(until - time.monotonic(), 0.0))
            except (LinkBroken, LinkTimeout) as error:
                return frames, error
        if any(ends(frame) for frame in frames.values()):
            break
    return frames, None


def send_all(connections: Mapping[int, Connection], frame: bytes, *, within_s: float) -> None:
    """The same frame to each rank, in rank order, one deadline for all. Errors as in `send`, of the first that fails:
    those after it got nothing."""
    until = time.monotonic() + within_s
    for rank in sorted(connections):
        connections[rank].send(frame, within_s=max(until - time.monotonic(), 0.0))


def tell_all(connections: Mapping[int, Connection], frame: bytes, *, within_s: float) -> None:
    """The same frame to each rank that can be reached; one that cannot is passed over. Raises nothing."""
    for rank in sorted(connections):
        with contextlib.suppress(LinkBroken, LinkTimeout):
            connections[rank].send(frame, within_s=within_s)


# -- who may come in ---------------------------------------------------------------------------------------------


class Listener:
    """Rank 0's door. Ranks may come on any channel and in any order, while `accept_all` runs."""

    def __init__(self, place: Launch, address: Address, key: bytes, door: socket.socket) -> None:
        door.settimeout(0)
        self._place, self._address, self._key, self._door = place, address, key, door
        self._lock = threading.Lock()  # of what follows, which the challenging threads write
        self._arrived: dict[str, dict[int, Connection]] = {channel: {} for channel in CHANNELS}
        self._taken: set[str] = set()  # channels whose connections somebody owns
        self._without_key = 0
        self._challenged = threading.Semaphore(CLIENTS_MOST)

    def accept_all(self, *, within_s: float, channel: str = CONTROL) -> dict[int, Connection]:
        """A connection to every worker, by rank. Raises GateMissed naming the ranks that did not come, LaunchRefused if
        the system lets nobody in."""
        until = time.monotonic() + within_s
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        while True:
            with self._lock:
                arrived = dict(sorted(self._arrived[channel].items()))
                missing = [rank for rank in range(1, self._place.world) if rank not in arrived]
                if not missing:
                    self._taken.add(channel)
                    return arrived
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise self._missed(missing, channel, within_s)
            if poll.poll(min(left_s, RETRY_S) * 1000):
                self._let_in()

    def close(self) -> None:
        """Nobody comes in any more; connections that were taken stay. What was made for the meeting is removed."""
        self._door.close()
        self._address.remove()
        with self._lock:
            for channel in self._arrived.keys() - self._taken:
                for connection in self._arrived[channel].values():
                    connection.close()

    def _missed(self, missing: list[int], channel: str, within_s: float) -> GateMissed:
        who = f"rank{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        away = f" ({self._without_key} came with another key)" if self._without_key else ""
        what = f"{who} did not come to rank 0's {channel} connection within {within_s:g} s{away}"
        return GateMissed(what, where=str(self._address), rank=missing[0])

    def _let_in(self) -> None:
        try:
            client, _ = self._door.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise LaunchRefused(
                    f"rank 0 cannot let anybody in: {_reason(error)}",
                    where=str(self._address),
                    remedy="raise the limit of open files (ulimit -n), or free memory",
                ) from None
            return  # who knocked has gone again
        if not self._challenged.acquire(blocking=False):
            client.close()
            return
        threading.Thread(target=self._challenge, args=(client,), name="genlock-challenge", daemon=True).start()

    def _challenge(self, client: socket.socket) -> None:
        """In a thread of its own: who passes has arrived, everybody else is closed."""
        stays = False
        try:
            _set_up(client)
            stays = self._examine(client, SocketConnection(client, peer=-1, most=_GREETING_MOST))
        except (LinkBroken, LinkTimeout, OSError):
            pass  # mute, garbage, or gone: of no interest, and no longer in anybody's way
        finally:
            if not stays:
                client.close()
            self._challenged.release()

    def _examine(self, client: socket.socket, greeting: SocketConnection) -> bool:
        until = time.monotonic() + CHALLENGE_S
        nonce = secrets.token_bytes(_NONCE_BYTES)
        greeting.send(nonce, within_s=CHALLENGE_S)
        hello = greeting.receive(within_s=CHALLENGE_S)
        body, proof = hello[: _HELLO.size], hello[_HELLO.size :]
        if len(body) < _HELLO.size or not body.startswith(_HELLO_MAGIC):
            return False
        known = hmac.compare_digest(proof, _proof(self._key, b"guest", nonce, body))
        _, version, rank, world, name, _ = _HELLO.unpack(body)
        channel = name.rstrip(b"\0").decode(errors="replace")
        with self._lock:  # the reply too: nobody uses the connection before the guest knows that it is in
            self._without_key += not known
            reason = self._objection(version, rank, world, channel) if known else "another key than rank 0's"
            reply = reason.encode()
            left_s = max(until - time.monotonic(), 0.0)
            greeting.send(_proof(self._key, b"host", nonce, body + reply) + reply, within_s=min(left_s, 1.0))
            if not reason:
                self._arrived[channel][rank] = SocketConnection(client, peer=rank)
        return not reason

    def _objection(self, version: int, rank: int, world: int, channel: str) -> str:
        if version != _HELLO_VERSION:
            return f"a greeting of version {version}, where rank 0 knows {_HELLO_VERSION}"
        if channel not in CHANNELS:
            return f"there is no channel {channel!r}"
        if world != self._place.world or not 1 <= rank < world:
            return f"rank {rank} of {world}, where rank 0 expects 1 to {self._place.world - 1} of {self._place.world}"
        before = self._arrived[channel].get(rank)
        if before is None:
            return ""
        if channel in self._taken or not _hung_up(before):
            return f"rank {rank} is there already"
        before.close()
        return ""


def listen(place: Launch, address: Address, key: bytes) -> Listener:
    """Rank 0's door at an address. Raises LaunchRefused if it cannot be opened: a port in use, another run there."""
    try:
        return Listener(place, address, key, _door(address))
    except OSError as error:
        raise LaunchRefused(
            f"rank 0 cannot listen: {_reason(error)}",
            where=str(address),
            remedy="" if address.path is None else "give each run its own run folder, MASTER_PORT or run id",
        ) from None


def connect(place: Launch, address: Address, key: bytes, *, within_s: float, channel: str = CONTROL) -> Connection:
    """A worker's connection to rank 0, which may not listen yet.

    Raises LaunchRefused if rank 0 refuses this rank or has another key, GateMissed if nobody answered in time.
    """
    until = time.monotonic() + within_s
    while True:
        try:
            stream = _dial(address, max(until - time.monotonic(), RETRY_S))
            try:
                return _introduce(stream, place, key, channel, until)
            except BaseException:
                stream.close()
                raise
        except (OSError, LinkBroken, LinkTimeout) as error:
            last = error.what if isinstance(error, LinkBroken | LinkTimeout) else _reason(error)
        if time.monotonic() + RETRY_S >= until:
            what = f"rank 0 let nobody in within {within_s:g} s ({last})"
            raise GateMissed(what, where=str(address), rank=0, remedy="look at what rank 0 printed")
        time.sleep(RETRY_S)


def _introduce(stream: socket.socket, place: Launch, key: bytes, channel: str, until: float) -> SocketConnection:
    greeting = SocketConnection(stream, peer=0, most=_GREETING_MOST)
    nonce = greeting.receive(within_s=max(until - time.monotonic(), 0.0))
    own = secrets.token_bytes(_NONCE_BYTES)
    body = _HELLO.pack(_HELLO_MAGIC, _HELLO_VERSION, place.rank, place.world, channel.encode(), own)
    greeting.send(body + _proof(key, b"guest", nonce, body), within_s=CHALLENGE_S)
    answer = greeting.receive(within_s=CHALLENGE_S)
    proof, reply = answer[:_PROOF_BYTES], answer[_PROOF_BYTES:]
    if not hmac.compare_digest(proof, _proof(key, b"host", nonce, body + reply)):
        raise LaunchRefused(
            "rank 0 has another key", rank=place.rank, remedy="give every rank the same --key-file, and one run a port"
        )
    if reply:
        raise LaunchRefused(
            f"rank 0 refuses: {reply.decode(errors='replace')}",
            rank=place.rank,
            remedy="start as many ranks as --mesh says, each once, all by one launcher",
        )
    return SocketConnection(stream, peer=0)


def _proof(key: bytes, role: bytes, nonce: bytes, said: bytes) -> bytes:
    return hmac.digest(key, role + nonce + said, "sha256")


def _door(address: Address) -> socket.socket:
    if address.path is None:  # on every interface: a host's own name often leads to its loopback
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", address.port), family=family, dualstack_ipv6=both, backlog=CLIENTS_MOST)
    if answers(address.path):
        raise OSError("another run listens here")
    address.path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX)
    try:
        with short(address.path) as name:
            door.bind(name)
        door.listen(CLIENTS_MOST)
    except OSError:
        door.close()
        raise
    return door


def _dial(address: Address, within_s: float) -> socket.socket:
    if address.path is None:
        stream = socket.create_connection((address.host, address.port), timeout=within_s)
    else:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.settimeout(within_s)
            with short(address.path) as name:
                stream.connect(name)
        except OSError:
            stream.close()
            raise
    _set_up(stream)
    return stream


def _set_up(stream: socket.socket) -> None:
    """TCP: small frames leave at once, and a host that vanished is noticed, whether or not something was sent to it."""
    if stream.family == socket.AF_UNIX:
        return
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * KEEPALIVE_S * (1 + PROBES))


def _hung_up(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _reason(error: OSError) -> str:
    """The system's words, without the place, which an error of ours says itself."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
