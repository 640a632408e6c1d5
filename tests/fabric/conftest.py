"""Places, ranks in threads, and connections of every kind, for the tests of what crosses between ranks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import pytest

from genlock.fabric.address import SOCKET, Address
from genlock.fabric.connection import Connection, Listener, connect, listen, pair
from genlock.settings import Launch

KEY = bytes(range(32))
LONG_S = 20.0  # a deadline that a right run never comes near
SHORT_S = 0.2  # a deadline that is meant to pass


class Closable(Protocol):
    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Closable)
_kept: list[Closable] = []


def kept(thing: Kept) -> Kept:
    """Closed when the test is over."""
    _kept.append(thing)
    return thing


@pytest.fixture(autouse=True)
def _close_what_was_kept() -> Iterator[None]:
    yield
    while _kept:
        _kept.pop().close()


def place(rank: int = 0, world: int = 2, **more: Any) -> Launch:
    values: dict[str, Any] = {
        "rank": rank,
        "world": world,
        "local_rank": rank,
        "local_world": world,
        "master_addr": "127.0.0.1",
        "master_port": 29500,
        "run_id": "tests",
        "supervised": None,
    }
    return Launch(**{**values, **more})


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def unix_address() -> Iterator[Address]:
    with TemporaryDirectory() as folder:
        yield Address(path=Path(folder) / SOCKET)


@contextmanager
def tcp_address() -> Iterator[Address]:
    yield Address(host="127.0.0.1", port=free_port())


ADDRESSES = {"unix": unix_address, "tcp": tcp_address}
Pair = tuple[Connection, Connection]


@contextmanager
def joined(kind: str) -> Iterator[Pair]:
    """Rank 0's end and rank 1's, as the kind joins them."""
    if kind == "in_memory":
        ends: Pair = pair()
    else:
        with ADDRESSES[kind]() as address, closing(listen(place(), address, KEY)) as door:
            came = together({0: lambda: all_of(door), 1: lambda: guest(address)})
            ends = came[0][1], came[1]
    with closing(ends[0]), closing(ends[1]):
        yield ends


def guest(address: Address, rank: int = 1, world: int = 2, **more: Any) -> Connection:
    return kept(connect(place(rank, world), address, **{"key": KEY, "within_s": LONG_S, **more}))


def all_of(door: Listener, **more: Any) -> dict[int, Connection]:
    came = door.accept_all(**{"within_s": LONG_S, **more})
    return {rank: kept(connection) for rank, connection in came.items()}


def together(ranks: Mapping[int, Callable[[], Any]]) -> dict[int, Any]:
    """What each rank's function returns or raises, each in a thread of its own, within a bound."""
    with ThreadPoolExecutor(max_workers=len(ranks)) as pool:
        running = {rank: pool.submit(caught, function) for rank, function in ranks.items()}
        return {rank: future.result(timeout=2 * LONG_S) for rank, future in running.items()}


def caught(function: Callable[[], Any]) -> Any:
    """What it returns, or the exception that it raises."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error


@contextmanager
def beside(function: Callable[[], Any]) -> Iterator[threading.Thread]:
    """A function in a thread while the context lasts, and until it returns, within a bound."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    yield thread
    thread.join(2 * LONG_S)
    assert not thread.is_alive()
