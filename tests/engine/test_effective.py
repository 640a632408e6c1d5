"""What a rank says at gate 2a of how it computes: whatever changes bits, as torch has it, and nothing that does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from genlock.engine.job import manifest
from genlock.engine.mesh_rank import effective
from genlock.engine.session import session_job
from genlock.settings import Parity, Settings, options
from genlock.wire.kinds import Plan

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PLAN = Plan.V1_GENERATOR_ONLY


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that torch would describe."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    tf32 = torch.backends.cudnn.allow_tf32
    yield
    torch.use_deterministic_algorithms(mode=False)
    torch.backends.cuda.enable_flash_sdp(enabled=True)
    torch.backends.cudnn.allow_tf32 = tf32


def deterministic() -> None:
    torch.use_deterministic_algorithms(mode=True)


def no_flash() -> None:
    torch.backends.cuda.enable_flash_sdp(enabled=False)


def no_cudnn_tf32() -> None:
    torch.backends.cudnn.allow_tf32 = False


@pytest.mark.parametrize(
    ("turn", "device", "key"),
    [
        (deterministic, CPU, "deterministic"),
        (no_flash, CPU, "attention"),
        (no_flash, CUDA, "attention"),
        (no_cudnn_tf32, CUDA, "cudnn.tf32"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_what_is_in_force_is_said_as_torch_has_it(turn: Callable[[], None], device: torch.device, key: str) -> None:
    before = effective(device, PLAN)
    turn()
    after = effective(device, PLAN)
    assert {name for name in before if before[name] != after[name]} == {key}


@pytest.mark.parametrize(
    ("owner", "name", "value", "key"),
    [
        (torch.cuda, "get_device_name", lambda _: "H100", "device.name"),
        (torch.cuda, "get_device_capability", lambda _: (8, 0), "device.capability"),
        (torch.version, "cuda", "12.9", "cuda"),
        (torch.backends.cudnn, "version", lambda: 91002, "cudnn"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_unlike_devices_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, value: object, key: str
) -> None:
    before = effective(CUDA, PLAN)
    monkeypatch.setattr(owner, name, value)
    after = effective(CUDA, PLAN)
    assert {each for each in before if before[each] != after[each]} == {key}


@pytest.mark.usefixtures("gpu")
def test_processors_are_compared_where_ranks_compute_on_them() -> None:
    assert effective(CPU, PLAN)["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert "cpu" not in effective(CUDA, PLAN), "beside the same GPUs they may differ"
    assert "cpu" in effective(CUDA, Plan.V0_FULL_PIPELINE), "every rank draws the noise"


def test_hosts_may_differ_in_cores_that_no_thread_uses(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    settings = Settings(model=str(model_folder), device="cpu", topology="tp", mesh=2, threads=1)
    jobs = [session_job(settings)]
    here = manifest(settings, jobs, size=2)
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    assert manifest(settings, jobs, size=2) == here
    assert here["threads"] == torch.get_num_threads()


def test_what_a_worker_makes_its_job_of_is_compared_at_gate_1(model_folder: Path) -> None:
    read: set[str] = set()

    class Told(Settings):
        def __getattribute__(self, name: str) -> object:
            read.add(name)
            return super().__getattribute__(name)

    told = Told(model=str(model_folder), device="cpu", topology="tp", mesh=2)
    read.clear()
    session_job(told)
    parity = {option.name: option.parity for option in options()}
    assert {"model", "regime", "topology"} <= read
    assert {parity[name] for name in read & parity.keys()} == {Parity.ALL_RANKS}
