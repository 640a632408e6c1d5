"""Where rank 0 and the workers of one run meet, and the key that lets them in; the same answer on every rank.

- Started by genlock's supervisor: a Unix socket in the run's folder, the key read once from an inherited pipe.
- Another launcher, one host: a folder of mode 0700 named after user, MASTER_PORT and the launcher's run id, with the
  socket and a key file of mode 0600, which rank 0 makes and the others wait for.
- Several hosts: TCP at MASTER_ADDR, the key from a file that the operator put on every host.

The key is never in an argument, a variable or a log. Knows no connection beyond whether somebody answers a socket.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from genlock.errors import GateMissed, LaunchRefused
from genlock.observe.run_folder import is_ours
from genlock.settings import Deadlines, Launch, Settings, Supervised

SOCKET, KEY = "control.sock", "key"
KEY_BYTES = 32
KEY_BYTES_LEAST, KEY_BYTES_MOST = 16, 4096
PATH_BYTES_MOST = 107  # of a Unix socket
RETRY_S = 0.05
MAKE_A_KEY = "make one with `openssl rand -hex 32`, mode 0400, the same on every host, and name it with --key-file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A Unix socket's path, or a host and a port. folder: what rank 0 made for the meeting alone, and removes."""

    path: Path | None = None
    host: str = ""
    port: int = 0
    folder: Path | None = None

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"{self.host}:{self.port}"

    def remove(self) -> None:
        """Takes away the socket, and the folder if it was made for it. Raises nothing."""
        with contextlib.suppress(OSError):
            if self.path is not None:
                self.path.unlink(missing_ok=True)
            if self.folder is not None:
                (self.folder / KEY).unlink(missing_ok=True)
                self.folder.rmdir()


def address_of(place: Launch, settings: Settings, *, within_s: float | None = None) -> tuple[Address, bytes]:
    """The meeting place and the key. A worker that must wait for rank 0 to make them waits `within_s`, by default gate
    1's deadline. Raises LaunchRefused for what cannot work, GateMissed if rank 0 made nothing in time."""
    wait_s = Deadlines(answer_s=settings.deadline).gate_s if within_s is None else within_s
    if place.supervised is not None:
        return _of_supervisor(place.supervised)
    if place.one_host:
        return _on_one_host(place, settings, wait_s)
    return _between_hosts(place, settings)


def answers(path: Path) -> bool:
    """Whether a process listens at this Unix socket. It sees a client that leaves at once."""
    try:
        with socket.socket(socket.AF_UNIX) as probe, short(path) as name:
            probe.settimeout(1.0)
            probe.connect(name)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a Unix socket's path that is short enough to bind or to connect to, while the context lasts.
    Raises OSError."""
    if len(os.fsencode(path)) <= PATH_BYTES_MOST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _of_supervisor(supervised: Supervised) -> tuple[Address, bytes]:
    try:
        with open(supervised.key_fd, "rb") as pipe:
            key = pipe.read(KEY_BYTES_MOST)
    except OSError as error:
        raise LaunchRefused(
            f"the supervisor's key cannot be read: {error.strerror}",
            where="GENLOCK_KEY_FD",
            remedy="the key can be read once; start ranks by `genlock`, not by hand",
        ) from None
    return Address(path=Path(supervised.run_dir) / SOCKET), _checked(key, where="GENLOCK_KEY_FD")


def _on_one_host(place: Launch, settings: Settings, within_s: float) -> tuple[Address, bytes]:
    name = f"genlock-{os.getuid()}-{place.master_port}-{xxhash.xxh3_64_hexdigest(place.run_id.encode())}"
    folder = Path(tempfile.gettempdir()) / name
    address = Address(path=folder / SOCKET, folder=folder)
    given = None if settings.key_file == "auto" else read_key(Path(settings.key_file))
    if place.rank == 0:
        return address, _made(folder, given)
    until = time.monotonic() + within_s
    while not (is_ours(folder) and answers(folder / SOCKET)):  # a folder left by an earlier run: nobody answers there
        if time.monotonic() >= until:
            raise GateMissed(
                f"rank 0 made no meeting place within {within_s:g} s",
                where=str(folder),
                remedy="ranks of one host need the same user, TMPDIR, MASTER_PORT and run id; or look at rank 0",
                rank=0,
            )
        time.sleep(RETRY_S)
    return address, given or read_key(folder / KEY)


def _made(folder: Path, given: bytes | None) -> bytes:
    """Rank 0's: a fresh folder, without what an earlier run left, and the key in it unless the operator gave one."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not is_ours(folder):
            raise LaunchRefused(
                "somebody else's folder is in the way", where=str(folder), remedy="remove it, or choose another TMPDIR"
            )
        if answers(folder / SOCKET):
            raise LaunchRefused(
                "another run meets here", where=str(folder), remedy="give each run its own MASTER_PORT or run id"
            )
        for left in (SOCKET, KEY):
            (folder / left).unlink(missing_ok=True)
        if given is not None:
            return given
        key = secrets.token_hex(KEY_BYTES).encode()
        with open(os.open(folder / KEY, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(key)
    except OSError as error:
        raise LaunchRefused(
            f"no meeting place can be made: {error.strerror}", where=str(folder), remedy="choose another TMPDIR"
        ) from None
    return key


def _between_hosts(place: Launch, settings: Settings) -> tuple[Address, bytes]:
    if settings.key_file == "auto":
        raise LaunchRefused(
            f"{place.world} ranks on several hosts and no key file", where="--key-file", remedy=MAKE_A_KEY
        )
    port = settings.control_port or place.master_port + 1
    if not place.master_addr or not 1 < port < 2**16:
        raise LaunchRefused(
            f"no address for rank 0's control connections: MASTER_ADDR is {place.master_addr!r}, the port {port}",
            where="environment",
            remedy="set MASTER_ADDR and MASTER_PORT, or GENLOCK_CONTROL_PORT",
        )
    return Address(host=place.master_addr, port=port), read_key(Path(settings.key_file))


def read_key(path: Path) -> bytes:
    """The key in a file, without white space around it. Raises LaunchRefused."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES_MOST).strip()
    except OSError as error:
        raise LaunchRefused(f"the key cannot be read: {error.strerror}", where=str(path), remedy=MAKE_A_KEY) from None
    if mode & 0o007:
        raise LaunchRefused("everybody on this host can read the key", where=str(path), remedy="chmod 400 it")
    return _checked(key, where=str(path))


def _checked(key: bytes, *, where: str) -> bytes:
    if len(key) < KEY_BYTES_LEAST:
        raise LaunchRefused(
            f"a key of {len(key)} bytes, the least is {KEY_BYTES_LEAST}", where=where, remedy=MAKE_A_KEY
        )
    return key
