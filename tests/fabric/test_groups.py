"""Ranks meet in a file or at an address, within their time, on the back end that fits their devices."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest
import torch
from tests.ranks import Ranks

from genlock.errors import DeviceUnavailable
from genlock.fabric import groups
from genlock.fabric.groups import Group, backend_of, device_of, leave
from genlock.settings import NCCL_DEFAULTS, Launch, rank_environment

HERE = "tests.fabric.mesh_scenarios:"


def place(rank: int, world: int, **changes: Any) -> Launch:
    told = {"local_rank": rank, "local_world": world, **changes}
    return Launch(rank=rank, world=world, master_addr="", master_port=0, run_id="", supervised=None, **told)


@pytest.mark.parametrize(
    ("kind", "world", "local_world", "devices", "backend"),
    [
        ("cpu", 4, 4, 8, "gloo"),
        ("cuda", 4, 4, 4, "nccl"),
        ("cuda", 4, 4, 8, "nccl"),
        ("cuda", 2, 2, 1, "gloo"),  # they share a GPU, which NCCL refuses
        ("cuda", 8, 4, 4, "nccl"),  # two hosts
        ("cuda", 8, 0, 4, "gloo"),  # a launcher that does not say how many are on this host
    ],
)
def test_the_back_end_follows_from_who_has_a_device_of_its_own(
    kind: str, world: int, local_world: int, devices: int, backend: str
) -> None:
    said = [
        backend_of(place(rank, world, local_world=local_world), torch.device(kind), devices=devices)
        for rank in range(world)
    ]
    assert said == [backend] * world, "the same on every rank"


def test_ranks_take_devices_in_turn() -> None:
    assert device_of(place(1, 2), "cpu", devices=0) == torch.device("cpu")
    assert [device_of(place(rank, 4), "cuda", devices=2).index for rank in range(4)] == [0, 1, 0, 1]
    with pytest.raises(DeviceUnavailable, match="rank 1"):
        device_of(place(1, 2), "cuda", devices=0)


def test_a_device_is_taken_before_anything_is_formed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes first otherwise is on the first device, whoever's it is."""
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(groups.dist, "init_process_group", lambda backend, **_: done.append(backend))
    monkeypatch.setattr(groups, "_whole", lambda: None)
    device = device_of(place(1, 2), "cuda", devices=2)
    groups.form(place(1, 2), device=device, timeout_s=1.0)
    assert done == [torch.device("cuda", 1), "nccl"]


def test_a_group_that_cannot_be_taken_apart_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(groups.dist, "destroy_process_group", lambda: never.wait(60))
    begun_s = time.monotonic()
    assert not leave(Group(handle=None, rank=0, size=2, backend="gloo"), within_s=0.05)  # type: ignore[arg-type]
    assert time.monotonic() - begun_s < 10
    never.set()


def test_a_rank_that_is_no_member_has_nothing_to_leave() -> None:
    assert leave(Group(handle=None, rank=-1, size=2, backend="gloo"), within_s=0.0)  # type: ignore[arg-type]


def test_what_nccl_must_be_told_stands_behind_what_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = next(iter(NCCL_DEFAULTS.items()))
    monkeypatch.delenv(name, raising=False)
    assert rank_environment({"RANK": "1"})[name] == value
    assert rank_environment({"RANK": "1"})["RANK"] == "1"
    monkeypatch.setenv(name, "own")
    assert rank_environment({})[name] == "own"


@pytest.mark.slow
def test_ranks_meet_at_an_address_where_another_launcher_started_them(ranks: Ranks) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert [outcome.said for outcome in ranks(HERE + "met_at_an_address", size=2, port=port)] == [2.0, 2.0]


@pytest.mark.slow
def test_a_rank_that_waits_alone_says_so_in_time(ranks: Ranks) -> None:
    outcome = ranks(HERE + "alone", size=2)[1]
    assert outcome.said["code"] == "GL-LAUNCH-01"
    assert outcome.said["rank"] == 1
    assert "within 1 s" in outcome.said["text"]
    assert outcome.seconds < 12


@pytest.mark.slow
def test_a_group_is_taken_apart_in_time(ranks: Ranks) -> None:
    assert [outcome.said for outcome in ranks(HERE + "left", size=2)] == [True, True]
