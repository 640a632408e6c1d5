"""What rank 0 tells of the others' start: each figure under the name that it has on the rank that said it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from genlock.engine.mesh_rank import MeshRank
from genlock.engine.tp import InLockstep, rank_note
from genlock.observe.rank_file import RankFile
from genlock.observe.trace import Trace

ON_CPU = {"rss": 300_000_000, "rss_peak": 400_000_000}
ON_GPU = {
    **ON_CPU,
    "cuda_allocated": 1_000_000_000,
    "cuda_reserved": 2_000_000_000,
    "cuda_reserved_peak": 3_000_000_000,
}
START = {"launch_s": 1.0, "start_s": 2.0, "load_s": 3.0, "warm-up_s": 4.0}
READ = {"bytes_read": 5_000_000, "bytes_total": 10_000_000}


@pytest.mark.parametrize(("held", "megabytes"), [(ON_CPU, 300), (ON_GPU, 3000)])
def test_a_workers_memory_keeps_its_kinds(
    monkeypatch: pytest.MonkeyPatch, held: dict[str, int], megabytes: int
) -> None:
    monkeypatch.setattr("genlock.observe.rank_file.memory_bytes", lambda: ON_CPU)
    device = {kind: count for kind, count in held.items() if kind not in ON_CPU}
    reports: dict[str, Any] = {}

    def gate(name: str, own: dict[str, Any], report: dict[str, Any]) -> dict[int, dict[str, Any]]:
        reports.update(own | report)
        return {1: reports}

    worker: Any = MeshRank.__new__(MeshRank)  # as far as it gets without others
    worker.rank, worker.census, worker.gate = 0, None, gate
    worker.rank_file = RankFile(None, Trace(), rank=1, about={}, device_memory=lambda: device)
    worker.watch = SimpleNamespace(enter=lambda phase: None)
    worker.seconds, worker._clock = dict(START), 0.0
    worker.deadlines, worker.group = SimpleNamespace(group_s=1.0), None
    worker.guards_off = frozenset()
    monkeypatch.setattr("genlock.fabric.groups.shorten", lambda group, timeout_s: None)
    worker.ready(SimpleNamespace(compile="off", warm=False))

    rank_0: Any = InLockstep.__new__(InLockstep)
    rank_0._rank = SimpleNamespace(
        reports={1: {**reports, **START}}, rank_file=RankFile(None, Trace(), rank=0, about={})
    )
    assert rank_0.ranks[1]["memory_bytes"] == {"ready": held}
    assert f"holds {megabytes} MB, ready after 10.0 s" in rank_note(1, {**READ, **reports, **START})
