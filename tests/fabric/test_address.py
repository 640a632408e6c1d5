"""Where ranks meet: by supervisor, on one host, between hosts; and every way in which there is no such place."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.fabric.conftest import LONG_S, SHORT_S, all_of, kept, place, together

from genlock.errors import GateMissed, LaunchRefused
from genlock.fabric.address import KEY, KEY_BYTES, SOCKET, Address, address_of, answers, read_key, short
from genlock.fabric.connection import Connection, connect, listen
from genlock.settings import Launch, Settings, Supervised


@pytest.fixture(autouse=True)
def meeting_ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary things, for this test alone."""
    ground = tmp_path / "tmp"
    ground.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(ground))
    return ground


def piped(key: bytes) -> int:
    reader, writer = os.pipe()
    with open(writer, "wb") as pipe:
        pipe.write(key)
    return reader


def supervised(folder: Path, key: bytes, rank: int = 0) -> Launch:
    return place(rank, supervised=Supervised(beacon_fd=-1, key_fd=piped(key), run_dir=str(folder)))


def key_file(folder: Path, key: bytes = b"0123456789abcdef", mode: int = 0o400) -> Settings:
    path = folder / "the.key"
    path.write_bytes(key)
    path.chmod(mode)
    return Settings(key_file=str(path))


def meet(here: Launch, there: Launch, settings: Settings | None = None) -> Any:
    """Rank 0 and rank 1, each from its own place to a frame of the other's."""
    options = settings or Settings()

    def rank_0() -> bytes:
        with closing(listen(here, *address_of(here, options))) as door:
            connection = all_of(door)[1]
        connection.send(b"from 0", within_s=LONG_S)
        return connection.receive(within_s=LONG_S)

    def rank_1() -> bytes:
        address, key = address_of(there, options, within_s=LONG_S)
        connection: Connection = kept(connect(there, address, key, within_s=LONG_S))
        connection.send(b"from 1", within_s=LONG_S)
        return connection.receive(within_s=LONG_S)

    return together({1: rank_1, 0: rank_0})


def test_ranks_of_one_supervisor_meet_in_the_run_s_folder(tmp_path: Path) -> None:
    key = os.urandom(KEY_BYTES)
    assert meet(supervised(tmp_path, key), supervised(tmp_path, key, 1)) == {0: b"from 1", 1: b"from 0"}


def test_a_supervisor_s_key_is_read_once_and_its_descriptor_is_gone(tmp_path: Path) -> None:
    """A child of a rank cannot read it again."""
    launch = supervised(tmp_path, bytes(KEY_BYTES))
    assert address_of(launch, Settings()) == (Address(path=tmp_path / SOCKET), bytes(KEY_BYTES))
    with pytest.raises(LaunchRefused, match=r"GL-LAUNCH-01: GENLOCK_KEY_FD: .*start ranks by `genlock`"):
        address_of(launch, Settings())


def test_a_supervisor_s_pipe_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchRefused, match="a key of 0 bytes, the least is 16"):
        address_of(supervised(tmp_path, b""), Settings())


def test_ranks_of_one_host_find_each_other_whoever_comes_first(meeting_ground: Path) -> None:
    assert meet(place(0), place(1)) == {0: b"from 1", 1: b"from 0"}
    assert list(meeting_ground.iterdir()) == [], "rank 0 removes what it made"


def test_only_this_user_can_come_near_the_key(meeting_ground: Path) -> None:
    address, key = address_of(place(0), Settings())
    assert address.folder is not None
    assert stat.S_IMODE(address.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((address.folder / KEY).stat().st_mode) == 0o600
    assert len(key) >= KEY_BYTES
    assert key != address_of(place(0), Settings())[1], "a new one each time"


def test_runs_beside_each_other_meet_apart() -> None:
    others = [place(0, master_port=29501), place(0, run_id="another"), place(0)]
    assert len({str(address_of(launch, Settings())[0]) for launch in others}) == len(others)


def test_what_a_killed_run_left_leads_nobody_astray(meeting_ground: Path) -> None:
    """Folder, key and socket are still there; nobody answers. A worker must not take the old key."""
    address, _ = address_of(place(0), Settings())
    assert address.path is not None
    with closing(socket.socket(socket.AF_UNIX)) as dead, short(address.path) as name:
        dead.bind(name)
        dead.listen()
    with pytest.raises(GateMissed):
        address_of(place(1), Settings(), within_s=SHORT_S)
    assert meet(place(0), place(1)) == {0: b"from 1", 1: b"from 0"}


def test_a_live_run_is_not_disturbed() -> None:
    address, key = address_of(place(0), Settings())
    with closing(listen(place(0), address, key)) as door:
        assert address.folder is not None
        with pytest.raises(LaunchRefused, match="another run meets here; give each run its own MASTER_PORT or run id"):
            address_of(place(0), Settings())
        assert read_key(address.folder / KEY) == key
        came = together({0: lambda: all_of(door), 1: lambda: kept(connect(place(1), address, key, within_s=LONG_S))})
        assert list(came[0]) == [1]


def test_a_worker_that_waits_in_vain_names_rank_0() -> None:
    began = time.monotonic()
    with pytest.raises(GateMissed, match=r"rank 0 made no meeting place within 0\.2 s; ranks of one host need") as end:
        address_of(place(1), Settings(), within_s=SHORT_S)
    assert end.value.rank == 0
    assert SHORT_S <= time.monotonic() - began < SHORT_S + 2


@pytest.mark.parametrize("trap", ["open", "link", "file"])
def test_a_place_that_others_could_have_made_is_not_entered(meeting_ground: Path, tmp_path: Path, trap: str) -> None:
    address, _ = address_of(place(0), Settings())
    assert address.folder is not None
    (address.folder / KEY).unlink()
    address.folder.rmdir()
    if trap == "open":
        address.folder.mkdir()
        address.folder.chmod(0o777)
    elif trap == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        address.folder.symlink_to(tmp_path / "elsewhere")
    else:
        address.folder.write_bytes(b"")
    with pytest.raises(LaunchRefused, match="TMPDIR"):
        address_of(place(0), Settings())
    with pytest.raises(GateMissed):
        address_of(place(1), Settings(), within_s=SHORT_S)


def test_a_worker_takes_no_key_from_a_folder_that_is_open_to_others() -> None:
    """Even if somebody answers there: it may be somebody else."""
    address, _ = address_of(place(0), Settings())
    assert address.folder is not None
    assert address.path is not None
    address.folder.chmod(0o755)
    with closing(socket.socket(socket.AF_UNIX)) as other, short(address.path) as name:
        other.bind(name)
        other.listen()
        with pytest.raises(GateMissed):
            address_of(place(1), Settings(), within_s=SHORT_S)
        address.folder.chmod(0o700)
        address_of(place(1), Settings(), within_s=LONG_S)


def test_no_meeting_place_where_nothing_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    with pytest.raises(LaunchRefused, match="no meeting place can be made: No such file or directory"):
        address_of(place(0), Settings())


def test_a_given_key_serves_on_one_host_too(tmp_path: Path, meeting_ground: Path) -> None:
    settings = key_file(tmp_path)
    assert meet(place(0), place(1), settings) == {0: b"from 1", 1: b"from 0"}
    address, key = address_of(place(0), settings)
    assert key == b"0123456789abcdef"
    assert address.folder is not None
    assert not (address.folder / KEY).exists()


# -- several hosts -----------------------------------------------------------------------------------------------


def apart(rank: int, **more: Any) -> Launch:
    return place(rank, local_rank=0, local_world=1, **more)


def test_hosts_meet_at_the_master_s_address_and_the_next_port(tmp_path: Path) -> None:
    settings = key_file(tmp_path)
    assert address_of(apart(0), settings)[0] == Address(host="127.0.0.1", port=29501)
    with closing(socket.create_server(("", 0))) as server:
        port = int(server.getsockname()[1])
    options = Settings(key_file=settings.key_file, control_port=port)
    assert str(address_of(apart(1), options)[0]) == f"127.0.0.1:{port}"
    assert meet(apart(0), apart(1), options) == {0: b"from 1", 1: b"from 0"}


def test_hosts_without_a_key_are_told_how_to_make_one() -> None:
    with pytest.raises(LaunchRefused) as end:
        address_of(apart(1), Settings())
    assert str(end.value) == (
        "GL-LAUNCH-01: --key-file: 2 ranks on several hosts and no key file; make one with `openssl rand -hex 32`, "
        "mode 0400, the same on every host, and name it with --key-file"
    )


@pytest.mark.parametrize("more", [{"master_addr": ""}, {"master_port": 0}, {"master_port": 65535}])
def test_hosts_without_an_address_are_told_what_to_set(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(LaunchRefused, match="no address for rank 0's control connections: MASTER_ADDR is "):
        address_of(apart(1, **more), key_file(tmp_path))


def test_a_key_file_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_key(Path(key_file(tmp_path, b" 0123456789abcdef\r\n").key_file)) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("key", "mode", "said"),
    [
        (b"short\n", 0o400, "a key of 5 bytes, the least is 16"),
        (b"0123456789abcdef", 0o444, "everybody on this host can read the key; chmod 400 it"),
        (None, 0, "the key cannot be read: No such file or directory"),
    ],
)
def test_a_key_file_that_cannot_serve_is_one_line(tmp_path: Path, key: bytes | None, mode: int, said: str) -> None:
    settings = Settings(key_file=str(tmp_path / "absent")) if key is None else key_file(tmp_path, key, mode)
    with pytest.raises(LaunchRefused) as end:
        address_of(apart(0), settings)
    assert said in str(end.value)
    assert "\n" not in str(end.value)


def test_removing_twice_is_no_error(tmp_path: Path) -> None:
    address, _ = address_of(place(0), Settings())
    address.remove()
    address.remove()
    Address(host="127.0.0.1", port=1).remove()
    assert address.path is not None
    assert not answers(address.path)
    assert not answers(tmp_path / ("a" * 200) / "nowhere")
