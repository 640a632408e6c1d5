"""Two hosts on this one: network namespaces with a line between them that can be cut, one direction or both.

Needs root and `ip`. A rank in each namespace, started by nobody's supervisor, as on hosts of their own. A direction is
cut by giving its sender a wrong hardware address for the other side: packets leave and nobody takes them, which is what
a broken switch looks like. Rules of its sender refuse it, or lose the control connections alone or all but them. Knows
no drill.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from genlock.drills.runs import Apart, free_port

NETWORK = "10.213.77"
NOBODY = "02:00:00:00:00:99"
KEY = "0123456789abcdef" * 4


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


@cache
def can_make_hosts() -> str:
    """Why this machine cannot, "" where it can."""
    if os.geteuid() or shutil.which("ip") is None:
        return "needs root and network namespaces (`ip netns`)"
    name = f"gl-try-{os.getpid()}"
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
        finally:
            ip("netns", "del", name)
    except (subprocess.SubprocessError, OSError) as error:
        said = getattr(error, "stderr", None) or b""
        return f"no network namespaces here: {said.decode(errors='replace').strip() or error}"
    return ""


class TwoHosts(Apart):
    """Rank 0 and rank 1, each in a namespace of its own. Words, options: as of `Run`."""

    def __init__(self, folder: Path, *words: Path | str, **options: Any) -> None:
        self._name = f"gl-{os.getpid()}-{secrets.token_hex(3)}"
        self._made = False
        self._port = str(free_port())
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "key"
        key.write_text(KEY)
        key.chmod(0o400)
        try:
            self._make()
            shared = {
                "MASTER_ADDR": address(0),
                "LOCAL_WORLD_SIZE": "1",
                "LOCAL_RANK": "0",
                "GENLOCK_KEY_FILE": str(key),
                "GENLOCK_CONTROL_PORT": self._port,
                "GLOO_SOCKET_IFNAME": "line",
            }
            super().__init__(folder, *words, of_rank={0: shared, 1: shared}, **options)
        except BaseException:
            self._unmake()
            raise

    def cut(self, sender: int) -> None:
        """Nothing that this rank's host sends arrives any more."""
        ip(
            "-n",
            self._host(sender),
            "neigh",
            "replace",
            address(1 - sender),
            "lladdr",
            NOBODY,
            "dev",
            "line",
            "nud",
            "permanent",
        )

    def refuse(self, sender: int) -> None:
        """The other host is out of reach for this rank's, and it is told so."""
        self._rule(sender, "to", address(1 - sender), "unreachable")

    def lose_control(self) -> None:
        """Nothing arrives any more on the control connections, in either direction; collectives go through."""
        for rank in (0, 1):
            self._rule(rank, *self._control(rank), "blackhole")

    def lose_mesh(self) -> None:
        """Nothing arrives any more but what the control connections carry."""
        for rank in (0, 1):
            self._rule(rank, "to", address(1 - rank), "blackhole")
            self._rule(rank, *self._control(rank), "lookup", "main")  # a later rule comes first

    def mend(self, sender: int) -> None:
        ip("-n", self._host(sender), "neigh", "del", address(1 - sender), "dev", "line")

    def take_down(self, rank: int) -> None:
        """The line's end at this rank's host."""
        ip("-n", self._host(rank), "link", "set", "line", "down")

    def end(self) -> None:
        super().end()
        self._unmake()

    def _start(self, command: Sequence[str], variables: Any) -> subprocess.Popen[bytes]:
        host = self._host(int(variables["RANK"]))
        return super()._start(["ip", "netns", "exec", host, *command], variables)

    def _rule(self, rank: int, *words: str) -> None:
        """Of what this rank's host sends: which packets, and what becomes of them."""
        ip("-n", self._host(rank), "rule", "add", *words)

    def _control(self, rank: int) -> tuple[str, ...]:
        return ("ipproto", "tcp", "dport" if rank else "sport", self._port)

    def _host(self, rank: int) -> str:
        return f"{self._name}-{rank}"

    def _make(self) -> None:
        self._made = True
        for rank in (0, 1):
            ip("netns", "add", self._host(rank))
        ends = [self._host(rank) for rank in (0, 1)]
        ip("link", "add", "line", "netns", ends[0], "type", "veth", "peer", "name", "line", "netns", ends[1])
        for rank, host in enumerate(ends):
            ip("-n", host, "addr", "add", f"{address(rank)}/24", "dev", "line")
            ip("-n", host, "link", "set", "line", "up")
            ip("-n", host, "link", "set", "lo", "up")

    def _unmake(self) -> None:
        if self._made:
            self._made = False
            for rank in (0, 1):
                subprocess.run(["ip", "netns", "del", self._host(rank)], check=False, capture_output=True, timeout=10)


def address(rank: int) -> str:
    return f"{NETWORK}.{rank + 1}"
