"""The door on GPUs: NCCL where every rank has its own, gloo where they share; skipped on a machine without two.

Run it there with `pytest tests/fabric/test_collectives_cuda.py`.
"""

from __future__ import annotations

import pytest
import torch
from tests.ranks import Ranks

HERE = "tests.fabric.mesh_scenarios:"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
SIZES = pytest.mark.parametrize(("size", "backend"), [(2, "nccl"), (4, "gloo")], ids=["own", "shared"])


@SIZES
def test_a_payload_comes_whole_into_host_memory(ranks: Ranks, size: int, backend: str) -> None:
    for outcome in ranks(HERE + "payloads", size=size, within_s=90, numel=2_000_001, device="cuda"):
        assert outcome.said is not None, outcome
        assert outcome.said["equal"]
        assert outcome.said["on"] == "cpu"


@SIZES
def test_sums_are_made_in_place_on_the_device(ranks: Ranks, size: int, backend: str) -> None:
    total = sum(1.5 + rank for rank in range(size))
    for outcome in ranks(HERE + "sums", size=size, within_s=90, device="cuda"):
        assert outcome.said is not None, outcome
        assert outcome.said["partial"] == [[total] * 3] * 2
        assert outcome.said["in_place"]


@SIZES
def test_every_rank_holds_the_same_bits_in_every_run(ranks: Ranks, size: int, backend: str) -> None:
    runs = [ranks(HERE + "two_chunks", size=size, within_s=90, device="cuda") for _ in range(2)]
    first = runs[0][0]
    assert first.said is not None, first
    assert first.said["backend"] == backend
    assert all(outcome.said == first.said for run in runs for outcome in run)
    alone = ranks(HERE + "two_chunks", size=1, within_s=90, device="cuda")[0].said
    for made, expected in zip(first.said["latents"], alone["latents"], strict=True):
        one, mesh = torch.tensor(expected), torch.tensor(made)
        assert (one - mesh).abs().max() <= 1e-4 * one.abs().max()


def test_a_sharded_block_compiles_whole(ranks: Ranks) -> None:
    for outcome in ranks(HERE + "compiled_block", size=2, within_s=120, device="cuda"):
        assert outcome.said == {"equal": True, "eager": 5, "compiled": 0}, outcome


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_rank_that_ends_is_never_success(ranks: Ranks, how: str) -> None:
    """NCCL may say so late: a sum waits on the device. What bounds it is the rank's own watch, which is not here."""
    outcome = ranks(HERE + "peer_ends", size=2, within_s=15, how=how, at="sum", device="cuda", timeout_s=4)[0]
    if outcome.ended == 0:
        assert outcome.said["code"] in ("GL-LINK-01", "GL-RANK-02"), outcome
    else:
        assert outcome.said is None, outcome


def test_digests_are_the_same_numbers_on_a_device(ranks: Ranks) -> None:
    outcome = ranks(HERE + "device_digests", size=1, within_s=60)[0]
    assert outcome.said == {"equal": True, "quiet": True, "found": [1, 2]}, outcome
