"""The door refuses before the back end, notes what it lets through, and says whose fault it was as far as it can."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fabric import mesh_scenarios
from tests.generator.conftest import TOY, randomised
from tests.ranks import Ranks

from genlock.errors import (
    CallCount,
    CollectiveRefused,
    DeviceUnavailable,
    GenlockError,
    LinkBroken,
    OutOfMemory,
    RankSilent,
)
from genlock.fabric import collectives
from genlock.fabric.collectives import Mesh, as_failure
from genlock.fabric.groups import Group
from genlock.fabric.ledger import Ledger
from genlock.generator.model import Generator, sums_of_pass
from genlock.generator.parallel import TEXT, Sum
from genlock.settings import Guard

HERE = "tests.fabric.mesh_scenarios:"
CPU = torch.device("cpu")
RANK = 3
SUM = Sum("sum_partial", "blocks.0.ffn.2", 4)


class Backend:
    """In place of torch's: counts what comes through."""

    def __init__(self) -> None:
        self.calls = 0

    def all_reduce(self, tensor: torch.Tensor, *, group: object) -> None:
        self.calls += 1

    def broadcast(self, tensor: torch.Tensor, *, group: object, group_src: int) -> None:
        assert group_src == 0
        self.calls += 1


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    fake = Backend()
    monkeypatch.setattr(collectives, "dist", fake)
    return fake


def door(rank: int = RANK, **options: Any) -> Mesh:
    group = Group(handle=None, rank=rank, size=4, backend="gloo")  # type: ignore[arg-type]
    return Mesh(group, device=CPU, **options)


def in_a_call(*sums: Sum, **options: Any) -> Mesh:
    mesh = door(**options)
    mesh.begin_chunk(["recompute", "denoise"])
    mesh.begin_call("recompute", sums or None)
    return mesh


def refused(action: Any, text: str, *, site: str, rank: int | None = RANK) -> None:
    with pytest.raises(CollectiveRefused, match=text) as caught:
        action()
    assert caught.value.code == "GL-COLL-01"
    assert caught.value.field == site
    assert caught.value.rank == rank


def from_a_thread(action: Any) -> Any:
    """`action` on another thread; raises here what it raised there."""

    def run() -> None:
        caught: list[BaseException] = []

        def body() -> None:
            try:
                action()
            except GenlockError as error:
                caught.append(error)

        thread = threading.Thread(target=body, name="other")
        thread.start()
        thread.join()
        if caught:
            raise caught[0]

    return run


def test_another_thread_is_refused_at_every_method(backend: Backend) -> None:
    mesh = in_a_call()
    tensor = torch.ones(4)
    for action, site in (
        (lambda: mesh.sum_partial(tensor, "a.o"), "a.o"),
        (lambda: mesh.sum_squares(tensor, "a.norm"), "a.norm"),
        (lambda: mesh.broadcast_payload(None, 1), "payload"),
        (lambda: mesh.begin_chunk([]), "begin_chunk"),
        (lambda: mesh.begin_call("denoise"), "begin_call"),
        (mesh.end_chunk, "end_chunk"),
    ):
        refused(from_a_thread(action), "thread 'other'", site=site)
    assert backend.calls == 0


def test_a_rank_outside_the_group_is_refused(backend: Backend) -> None:
    mesh = door(rank=-1)
    refused(lambda: mesh.begin_chunk(["denoise"]), "no member", site="begin_chunk", rank=None)
    refused(lambda: mesh.sum_partial(torch.ones(4), "a.o"), "no member", site="a.o", rank=None)
    refused(lambda: mesh.broadcast_payload(None, 4), "no member", site="payload", rank=None)
    assert backend.calls == 0


def test_layout_and_dtype_are_the_doors_to_fix(backend: Backend) -> None:
    mesh = in_a_call(dtype=torch.bfloat16)
    model, squares = torch.ones(4, 4, dtype=torch.bfloat16), torch.ones(4, 4)
    refused(lambda: mesh.sum_partial(model.t()[:2], "a.o"), "during recompute: not contiguous", site="a.o")
    refused(lambda: mesh.sum_squares(squares[:, ::2], "a.norm"), "not contiguous", site="a.norm")
    refused(lambda: mesh.sum_partial(squares, "a.o"), "float32, sum_partial takes torch.bfloat16", site="a.o")
    refused(lambda: mesh.sum_squares(model, "a.norm"), "bfloat16, sum_squares takes torch.float32", site="a.norm")
    assert backend.calls == mesh.collectives == 0
    assert mesh.sum_partial(model, "a.o") is model
    assert mesh.sum_squares(squares, "a.norm") is squares
    assert backend.calls == mesh.collectives == 2


def test_nothing_passes_outside_a_plan(backend: Backend) -> None:
    mesh = door()
    for _ in range(2):
        refused(lambda: mesh.sum_partial(torch.ones(4), "a.o"), "no plan is in force", site="a.o")
        refused(lambda: mesh.begin_call("denoise"), "no plan is in force", site="begin_call")
        refused(mesh.end_chunk, "no chunk was begun", site="end_chunk")
        mesh.begin_chunk(["denoise"])
        refused(lambda: mesh.sum_partial(torch.ones(4), "a.o"), "no plan is in force", site="a.o")
        refused(lambda: mesh.broadcast_payload(None, 4), "is not ended", site="payload")
        mesh.begin_call("denoise")
        mesh.end_chunk()
    assert backend.calls == 0


def test_an_opening_is_a_plan_of_its_own(backend: Backend) -> None:
    mesh = door()
    with mesh.opened("probe"):
        mesh.sum_partial(torch.ones(4), "probe")
        refused(lambda: mesh.begin_chunk([]), "is not ended", site="begin_chunk")
        refused(lambda: mesh.opened("another").__enter__(), "is not ended", site="another")
    refused(lambda: mesh.sum_partial(torch.ones(4), "probe"), "no plan", site="probe")
    assert backend.calls == 1


def test_a_summand_that_is_not_finite_names_this_rank_and_site_in_strict_mode_only(backend: Backend) -> None:
    for value in (float("nan"), float("inf")):
        tensor = torch.tensor([1.0, value])
        strict = in_a_call(strict=True)
        refused(lambda m=strict, t=tensor: m.sum_partial(t, SUM.site), "not finite", site=SUM.site)
        assert backend.calls == 0
    in_a_call().sum_partial(tensor, "blocks.1.ffn.2")
    assert backend.calls == 1


def test_what_is_left_off_is_let_through_and_nothing_else(backend: Backend) -> None:
    off = {guard: in_a_call(SUM, guards_off=frozenset([guard])) for guard in Guard}
    wrong = torch.ones(3, 3).t()[:2]
    for guard, mesh in off.items():
        if guard is Guard.PLAN:
            from_a_thread(lambda m=mesh: m.sum_partial(wrong, "anywhere"))()
            continue
        refused(lambda m=mesh: m.sum_partial(wrong, SUM.site), "not contiguous", site=SUM.site)
        mesh.sum_partial(torch.ones(4), SUM.site)
        if guard is Guard.CALL_COUNT:
            mesh.begin_call("cache_write")
            mesh.end_chunk()
        else:
            with pytest.raises(CallCount, match="pass 1 is cache_write"):
                mesh.begin_call("cache_write")
    assert backend.calls == len(Guard)
    assert off[Guard.LEDGER].ledger == door().ledger, "as if nothing had been made"
    door(guards_off=frozenset([Guard.PLAN])).broadcast_payload(torch.ones(4), 3)


def test_only_the_sum_that_is_due_passes(backend: Backend) -> None:
    other = Sum("sum_squares", "blocks.1.norm", 2)
    for wrong in (
        lambda mesh: mesh.sum_partial(torch.ones(5), SUM.site),
        lambda mesh: mesh.sum_squares(torch.ones(4), SUM.site),
        lambda mesh: mesh.sum_partial(torch.ones(4), "blocks.1.ffn.2"),
        lambda mesh: mesh.sum_squares(torch.ones(2), other.site),
    ):
        mesh = in_a_call(SUM, other)
        with pytest.raises(CollectiveRefused, match=r"due is sum_partial of 4 elements at blocks\.0\.ffn\.2") as caught:
            wrong(mesh)
        assert caught.value.rank == RANK
    assert backend.calls == 0
    mesh = in_a_call(SUM, other)
    mesh.sum_partial(torch.ones(4), SUM.site)
    refused(lambda: mesh.begin_call("denoise"), "1 of 2 sums were made", site=other.site)
    refused(mesh.end_chunk, "1 of 2 sums were made", site=other.site)
    mesh = in_a_call(SUM)
    mesh.sum_partial(torch.ones(4), SUM.site)
    refused(lambda: mesh.sum_partial(torch.ones(4), SUM.site), "due is none", site=SUM.site)


def test_a_pass_that_the_plan_does_not_have_next_names_this_rank(backend: Backend) -> None:
    mesh = door()
    mesh.begin_chunk(["recompute", "denoise", "denoise"])
    with pytest.raises(CallCount, match="rank 3: pass 0 is denoise, the plan has recompute"):
        mesh.begin_call("denoise")
    mesh.begin_call("recompute")
    mesh.begin_call("denoise")
    with pytest.raises(CallCount, match="rank 3: 2 of 3 passes were made, denoise is missing"):
        mesh.end_chunk()
    mesh.begin_chunk(["denoise"])
    mesh.begin_call("denoise")
    with pytest.raises(CallCount, match="pass 1 is cache_write, the plan has none"):
        mesh.begin_call("cache_write")
    assert backend.calls == 0


def test_a_payload_is_what_was_announced_or_refused(backend: Backend) -> None:
    leader, worker = door(rank=0), door(rank=1)
    good = torch.zeros(8, dtype=torch.uint8)
    for wrong in (torch.zeros(7, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.uint8), torch.zeros(8)):
        refused(lambda w=wrong: leader.broadcast_payload(w, 8), r"announced was uint8 \[8\]", site="payload", rank=0)
    strided = torch.zeros(16, dtype=torch.uint8)[::2]
    refused(lambda: leader.broadcast_payload(strided, 8), "not contiguous", site="payload", rank=0)
    refused(lambda: leader.broadcast_payload(None, 8), "rank 0 gives it", site="payload", rank=0)
    refused(lambda: worker.broadcast_payload(good, 8), "no other rank", site="payload", rank=1)
    assert backend.calls == 0
    assert leader.broadcast_payload(good, 8) is good
    assert worker.broadcast_payload(None, 8).shape == (8,)
    assert backend.calls == 2


class Door(RuleBasedStateMachine):
    """Any order of openings, passes and sums, held against a list-simple model."""

    @initialize(plan=st.lists(st.sampled_from(["a", "b"]), max_size=4))
    def make(self, plan: list[str]) -> None:
        self.plan = plan
        self.mesh = door()
        self.backend = Backend()
        self.begun: list[str] | None = None  # passes of the chunk that is open
        self.sums = 0

    def expect(self, allowed: bool, error: type[GenlockError], action: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collectives, "dist", self.backend)
            if allowed:
                action()
                return
            with pytest.raises(error):
                action()

    @rule()
    def begin_chunk(self) -> None:
        allowed = self.begun is None
        self.expect(allowed, CollectiveRefused, lambda: self.mesh.begin_chunk(self.plan))
        if allowed:
            self.begun = []

    @rule(name=st.sampled_from(["a", "b"]))
    def begin_call(self, name: str) -> None:
        if self.begun is None:
            self.expect(False, CollectiveRefused, lambda: self.mesh.begin_call(name))
            return
        allowed = self.plan[len(self.begun) : len(self.begun) + 1] == [name]
        self.expect(allowed, CallCount, lambda: self.mesh.begin_call(name))
        if allowed:
            self.begun.append(name)

    @rule()
    def add_up(self) -> None:
        allowed = bool(self.begun)
        self.expect(allowed, CollectiveRefused, lambda: self.mesh.sum_partial(torch.ones(1), "s"))
        self.sums += allowed

    @rule()
    def payload(self) -> None:
        allowed = self.begun is None
        self.expect(allowed, CollectiveRefused, lambda: self.mesh.broadcast_payload(None, 1))
        self.sums += allowed

    @precondition(lambda self: self.begun is not None)
    @rule()
    def end_chunk(self) -> None:
        self.expect(self.begun == self.plan, CallCount, self.mesh.end_chunk)
        self.begun = None

    @invariant()
    def nothing_else_came_through(self) -> None:
        if hasattr(self, "backend"):
            assert self.backend.calls == self.sums


TestDoor = Door.TestCase

entries = st.tuples(
    st.sampled_from(["sum_partial", "sum_squares"]),
    st.sampled_from(["blocks.0.ffn.2", "blocks.1.ffn.2", "blocks.0.self_attn.o"]),
    st.integers(1, 3),
    st.sampled_from([torch.float32, torch.bfloat16]),
)


def ledger(listed: list[tuple[str, str, int, torch.dtype]]) -> int:
    made = Ledger()
    for entry in listed:
        made.note(*entry)
    return made.digest


@given(st.lists(entries, max_size=8), st.lists(entries, max_size=8))
def test_two_ledgers_are_equal_exactly_if_their_entries_are(one: list[Any], other: list[Any]) -> None:
    assert (ledger(one) == ledger(other)) == (one == other)


@given(st.lists(entries, min_size=1, max_size=8), st.data())
def test_a_ledger_shows_what_was_left_out_or_swapped(listed: list[Any], data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(listed) - 1))
    assert ledger(listed[:where] + listed[where + 1 :]) != ledger(listed)
    shuffled = data.draw(st.permutations(listed))
    assert (ledger(shuffled) == ledger(listed)) == (shuffled == listed)


def test_a_ledger_knows_which_pass_an_entry_belongs_to() -> None:
    digests = set()
    for split in range(3):
        made = Ledger()
        made.open("denoise")
        for index in range(2):
            if index == split:
                made.open("denoise")
            made.note("sum_partial", "a", 1, torch.float32)
        digests.add(made.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[/a/b.cc:1] Connection closed by peer [127.0.0.1]:2. This is typically caused by ...", LinkBroken),
        ("[/a/b.cc:1] Read error [127.0.0.1]:6: Connection reset by peer", LinkBroken),
        ("writev: Broken pipe", LinkBroken),
        ("[/a/b.cc:78] Timed out waiting 1500ms for recv operation to complete", RankSilent),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=ALLREDUCE)", RankSilent),
        ("Application timeout caused pair closure", RankSilent),
        ("NCCL communicator was aborted on rank 0. Reason: Watchdog caught collective operation timeout", RankSilent),
        ("NCCL error: remote process exited or there was a network error", LinkBroken),
        ("CUDA error: an illegal memory access was encountered", DeviceUnavailable),
        ("something new", LinkBroken),
    ],
)
def test_what_a_back_end_says_becomes_one_of_ours_and_names_no_rank(text: str, kind: type[GenlockError]) -> None:
    error = as_failure(RuntimeError(text), where="on rank 1 at a.o")
    assert type(error) is kind
    assert error.rank is None
    assert "on rank 1 at a.o" in str(error)
    assert "/a/b" not in str(error)
    assert "typically" not in str(error)


def test_memory_that_runs_out_in_a_collective_is_that() -> None:
    assert type(as_failure(torch.OutOfMemoryError("CUDA out of memory"), where="")) is OutOfMemory


# -- on real processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_payload_comes_whole_to_every_rank(ranks: Ranks) -> None:
    said = [outcome.said for outcome in ranks(HERE + "payloads", size=3, numel=300_001)]
    assert said == [{"equal": True, "same": rank == 0, "on": "cpu", "ticks": ["payload"]} for rank in range(3)]


@pytest.mark.slow
def test_sums_are_made_in_place_in_the_dtype_of_their_name(ranks: Ranks) -> None:
    for outcome in ranks(HERE + "sums", size=2):
        assert outcome.said["partial"] == [[4.0] * 3] * 2
        assert outcome.said["squares"] == pytest.approx([0.2] * 4)
        assert outcome.said["in_place"]
        assert outcome.said["count"] == 2


@pytest.mark.slow
def test_two_swapped_sums_show_in_the_ledger_of_that_chunk_alone(ranks: Ranks) -> None:
    one, other = (outcome.said for outcome in ranks(HERE + "swapped", size=2))
    assert one[0] != other[0]
    assert one[1] == other[1]


@pytest.mark.slow
def test_a_mesh_makes_what_one_rank_makes_and_the_same_bits_every_time(ranks: Ranks) -> None:
    stream = mesh_scenarios.stream_of(randomised(Generator(TOY), seed=1))
    alone = [stream.run(chunk) for chunk in mesh_scenarios.chunks()]
    runs = [[outcome.said for outcome in ranks(HERE + "two_chunks", size=size)] for size in (2, 2, 4)]
    assert runs[0] == runs[1]
    for run in runs:
        assert all(said == run[0] for said in run), "every rank holds the same latents and the same ledger"
        for made, expected in zip(run[0]["latents"], alone, strict=True):
            made_tensor = torch.tensor(made)
            assert (made_tensor - expected).abs().max() <= 2e-5 * expected.abs().max()
    passes = [mesh_scenarios.announced_passes(chunk) for chunk in mesh_scenarios.chunks()]
    counts = [sum(len(sums_of_pass(TOY, name, 3, 6)) for name in chunk) for chunk in passes]
    assert [count for _, count in runs[0][0]["ledgers"]] == counts
    assert passes[0][0] == TEXT


@pytest.mark.slow
def test_a_sharded_block_compiles_whole_and_to_the_same_bits(ranks: Ranks) -> None:
    for outcome in ranks(HERE + "compiled_block", size=2, within_s=100):
        assert outcome.said == {"equal": True, "eager": 5, "compiled": 0}, outcome


@pytest.mark.slow
@pytest.mark.parametrize("at", ["payload", "sum"])
@pytest.mark.parametrize(("how", "code"), [("kill", "GL-LINK-01"), ("stop", "GL-RANK-02")])
def test_a_rank_that_ends_is_one_of_our_errors_to_the_others(ranks: Ranks, how: str, at: str, code: str) -> None:
    outcome = ranks(HERE + "peer_ends", size=2, how=how, at=at)[0]
    assert outcome.said["code"] == code
    assert outcome.said["rank"] is None
    assert ("payload" if at == "payload" else "blocks.0.ffn.2 during denoise") in outcome.said["text"]


@pytest.mark.slow
def test_a_rank_that_leaves_out_a_call_names_itself(ranks: Ranks) -> None:
    other, odd = (outcome.said for outcome in ranks(HERE + "another_count", size=2))
    assert odd["code"] == "GL-CALL-01"
    assert odd["rank"] == 1
    assert "pass 0 is denoise, the plan has recompute" in odd["text"]
    assert other["code"] == "GL-LINK-01"
    assert other["rank"] is None
