"""The channel: any run of chunks is the same on every rank, and whatever goes wrong ends on all with the right name.

Real connections within one process, a rank a thread, a broadcast that fails silently. The model is a list: the frames
that were sent, the chunks that each rank took.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.fabric.conftest import LONG_S, beside, caught, kept
from tests.fabric.silent_backend import Died, Harm, SilentBackend
from tests.wire.conftest import POLICIES, ROWS, make

from genlock.errors import (
    CallCount,
    DigestMismatch,
    EnvelopeRefused,
    FrameRefused,
    GenlockError,
    LinkBroken,
    LinkTimeout,
    MeshDisagrees,
    OutOfStep,
    PeerRefused,
    RankSilent,
)
from genlock.fabric.channel import Chunk, Follower, Leader, Stop, cause, last_word
from genlock.fabric.connection import SocketConnection, pair
from genlock.settings import Deadlines, Phase
from genlock.wire.answer import Answer, Kind, pack_answer, unpack_answer
from genlock.wire.envelope import Envelope
from genlock.wire.header import seal
from genlock.wire.kinds import Action
from genlock.wire.lifecycle import State, begin, live, next_stamp
from genlock.wire.prepare import Announced, Prepared, prepare, prepare_notice, receive
from genlock.wire.result import Fault, fault_of
from genlock.wire.verdict import Verdict

PATIENT = Deadlines(answer_s=LONG_S)
SHARE = 4  # of a profile's examples for each way to end
HASTY = Deadlines(answer_s=1.0)  # for a silence that is meant to be noticed; everybody else has a second to answer


class Moment(Exception):
    """Stands for the end of a process: the rank does nothing more."""


@dataclass
class Worker:
    """One worker in a thread: takes chunks, gives verdicts, until something ends it. `outcome`: what that was."""

    rank: int
    follower: Follower
    connection: SocketConnection
    dies_at: Phase | None = None
    mute_at: Phase | None = None
    refuses: GenlockError | None = None  # at its own check
    fails: GenlockError | None = None  # in its work
    alters: dict[str, Any] = field(default_factory=dict)  # of its next verdict
    chunks: list[Chunk] = field(default_factory=list)
    phases: list[tuple[Phase, int, int]] = field(default_factory=list)
    outcome: Any = None
    released: threading.Event = field(default_factory=threading.Event)

    def on_phase(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
        self.phases.append((phase, call_id, chunk))
        if self.mute_at is phase:
            self.released.wait(LONG_S)
        if phase in (self.dies_at, self.mute_at):
            raise Moment

    def check(self, announced: Announced[Envelope]) -> None:
        if self.refuses is not None:
            raise self.refuses

    def run(self) -> None:
        self.outcome = caught(self.work)
        self.connection.close()  # as the end of a process does, whatever ended it

    def work(self) -> Stop:
        while not isinstance(chunk := self.follower.next(), Stop):
            self.chunks.append(chunk)
            if self.fails is not None:
                raise self.follower.fail(self.fails)
            self.follower.report(replace(verdict_of(chunk.header.call_id, self.follower.state), **self.alters))
        return chunk


def verdict_of(call_id: int, state: State) -> Verdict:
    return Verdict(
        call_id=call_id,
        prepared=call_id**7,
        observed_calls=3,
        ledger=call_id**9,
        end_abs=state.held.end_abs,
        end=state.held.end,
        inputs=True,
        outputs=call_id**11,
    )


class Mesh:
    """A leader in this thread and its workers in theirs."""

    def __init__(self, size: int, state: State, deadlines: Deadlines = PATIENT) -> None:
        self.backend = SilentBackend(size)
        self.sender = state
        self.phases: list[tuple[Phase, int, int]] = []
        ends = {rank: pair(rank) for rank in range(1, size)}
        ours = {rank: mine for rank, (mine, _) in ends.items()}
        self.leader = Leader(ours, self.backend.of(0), deadlines, on_phase=self.on_phase)
        self.workers: dict[int, Worker] = {}
        for rank, (_, theirs) in ends.items():
            worker = Worker(rank, None, theirs)  # type: ignore[arg-type]
            worker.follower = Follower(
                theirs,
                self.backend.of(rank),
                state,
                PATIENT,
                check=worker.check,
                on_phase=worker.on_phase,
                alone=size == 2,
            )
            self.workers[rank] = worker
        self.threads = [threading.Thread(target=worker.run, daemon=True) for worker in self.workers.values()]
        for thread in self.threads:
            thread.start()

    def on_phase(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
        self.phases.append((phase, call_id, chunk))

    def chunk(self, **more: Any) -> Prepared[Envelope]:
        """The next chunk, from its frame to its verdict."""
        prepared, sender = prepare(make(self.sender, **more), self.sender)
        self.leader.infer(prepared)
        self.sender = sender
        self.leader.verdict(verdict_of(prepared.header.call_id, sender))
        return prepared

    def join(self) -> dict[int, Any]:
        """Every worker's outcome, once all have ended by themselves."""
        for thread in self.threads:
            thread.join(LONG_S)
            assert not thread.is_alive()
        return {rank: worker.outcome for rank, worker in self.workers.items()}

    def close(self) -> None:
        """Rank 0 goes, and with it everybody."""
        self.leader.close()
        for worker in self.workers.values():
            worker.released.set()
        self.join()
        for worker in self.workers.values():
            worker.connection.close()


def start(policy: str = "recompute") -> State:
    return begin(POLICIES[policy], max_rope_positions=ROWS)


@pytest.fixture
def mesh() -> Any:
    made: list[Mesh] = []

    def of(size: int = 3, deadlines: Deadlines = PATIENT, state: State | None = None) -> Mesh:
        made.append(Mesh(size, state or start(), deadlines))
        return made[-1]

    yield of
    for each in made:
        each.close()


ENDS: list[str] = []
End = TypeVar("End", bound=Callable[..., None])


def ending(way: End) -> End:
    """A way for a run to end."""
    ENDS.append(way.__name__)
    return way


class Runs(RuleBasedStateMachine):
    """Right chunks, then one thing that goes wrong. seen: how many runs came to it."""

    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self, end: str) -> None:
        super().__init__()
        self.end = end

    @initialize(
        size=st.integers(2, 4), policy=st.sampled_from(sorted(POLICIES)), warm=st.booleans(), good=st.integers(1, 3)
    )
    def start(self, size: int, policy: str, good: int, *, warm: bool) -> None:
        """good: frames before something may go wrong."""
        state = begin(POLICIES[policy], max_rope_positions=ROWS, warm=warm)
        self.size, self.warm, self.good, self.mesh = size, warm, good, Mesh(size, state)
        self.sent: list[Prepared[Envelope]] = []
        self.frames: list[bytes] = []
        self.ended = False

    def teardown(self) -> None:
        self.seen[self.end] += self.ended
        self.mesh.close()

    running = precondition(lambda self: not self.ended)

    @running
    @rule(words=st.integers(1, 2), frames=st.sampled_from((3, 2)), cut=st.booleans())
    def infer(self, words: int, frames: int, *, cut: bool) -> None:
        try:
            prepare(make(self.mesh.sender, words=words, num_frames=frames, cut=cut), self.mesh.sender)
        except GenlockError:  # this policy cannot hold it: nothing was sent
            return
        self.mesh.backend.entered.clear()
        prepared = self.mesh.chunk(words=words, num_frames=frames, cut=cut)
        self.sent.append(prepared)
        self.frames.append(prepared.frame)
        assert sorted(self.mesh.backend.entered) == list(range(self.size))

    @running
    @rule()
    def noop(self) -> None:
        frame, self.mesh.sender = prepare_notice(Action.NOOP, self.mesh.sender)
        self.mesh.leader.noop(frame)
        self.frames.append(frame)

    @precondition(lambda self: not self.ended and self.warm)
    @rule()
    def go_live(self) -> None:
        frame, self.mesh.sender = prepare_notice(Action.NOOP, self.mesh.sender)
        self.mesh.leader.noop(frame)  # answered by all: nobody is in the middle of a chunk
        self.frames.append(frame)
        self.warm, self.mesh.sender = False, live(self.mesh.sender)
        for worker in self.mesh.workers.values():
            worker.follower.state = live(worker.follower.state)

    @invariant()
    def every_rank_holds_the_same(self) -> None:
        """A worker has taken every chunk that was given out, whole, and stands where the sender does."""
        if self.ended:
            return
        for worker in self.mesh.workers.values():
            assert worker.outcome is None
            assert worker.follower.state == self.mesh.sender
            assert len(worker.chunks) == len(self.sent)
            for chunk, prepared in zip(worker.chunks[-1:], self.sent[-1:], strict=True):
                assert chunk.header == prepared.header
                assert chunk.payload.equal(prepared.payload)
                assert chunk.message.noise.equal(prepared.unpack().noise)

    # -- what ends a run --

    @precondition(lambda self: self.sent and len(self.frames) >= self.good)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if not self.ended:
            getattr(self, self.end)(data)

    def ends(
        self, act: Callable[[], Any], kind: type[GenlockError], *, rank: int | None, name: str | None
    ) -> GenlockError:
        """Rank 0 raises this, and every worker ends. rank: -1 is any worker, where all find the same."""
        self.ended = True
        with pytest.raises(kind) as end:
            act()
        assert type(end.value) is kind
        assert end.value.field == name or (name is None and end.value.field)
        assert end.value.rank == rank or (rank == -1 and end.value.rank in self.mesh.workers)
        self.outcomes = self.mesh.join()
        return end.value

    def next_chunk(self) -> Prepared[Envelope]:
        return prepare(make(self.mesh.sender, cut=True), self.mesh.sender)[0]

    def nobody_enters(self, act: Callable[[], Any], kind: type[GenlockError], **about: Any) -> GenlockError:
        self.mesh.backend.entered.clear()
        before = {rank: worker.follower.state for rank, worker in self.mesh.workers.items()}
        end = self.ends(act, kind, **about)
        assert not self.mesh.backend.entered
        assert before == {rank: worker.follower.state for rank, worker in self.mesh.workers.items()}
        assert all(len(worker.chunks) == len(self.sent) for worker in self.mesh.workers.values())
        return end

    @ending
    def one_refuses(self, data: st.DataObject) -> None:
        """The others, who have accepted, hear of it; nobody is left in the broadcast."""
        rank = data.draw(st.integers(1, self.size - 1))
        own = self.mesh.workers[rank].refuses = EnvelopeRefused("width is 32: too much", field="width")
        prepared = self.next_chunk()
        end = self.nobody_enters(lambda: self.mesh.leader.infer(prepared), PeerRefused, rank=rank, name="width")
        assert str(end).startswith(f"GL-MESH-02: rank {rank}, call {prepared.header.call_id}, chunk ")
        assert "refuses: GL-WIRE-01: width is 32: too much; the named rank and field differ" in str(end)
        assert self.outcomes.pop(rank) is own
        assert {str(outcome) for outcome in self.outcomes.values()} <= {str(end)}

    @ending
    def a_frame_comes_again(self, data: st.DataObject) -> None:
        """A duplicate, or one from before, never touches anything."""
        prepared = data.draw(st.sampled_from(self.sent))
        end = self.nobody_enters(lambda: self.mesh.leader.infer(prepared), PeerRefused, rank=-1, name="call_id")
        assert "a duplicate, or older" in str(end)

    @ending
    def a_frame_is_skipped(self, data: st.DataObject) -> None:
        state = self.mesh.sender
        for _ in range(data.draw(st.integers(1, 3))):
            _, state = prepare_notice(Action.NOOP, state)
        prepared, _ = prepare(make(state, cut=True), state)
        end = self.nobody_enters(lambda: self.mesh.leader.infer(prepared), PeerRefused, rank=-1, name="call_id")
        assert "(a gap)" in str(end)

    @ending
    def a_frame_is_changed_on_the_way(self, data: st.DataObject) -> None:
        prepared = self.next_chunk()
        frame = bytearray(prepared.frame)
        frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        changed = replace(prepared, frame=bytes(frame))
        self.nobody_enters(lambda: self.mesh.leader.infer(changed), PeerRefused, rank=-1, name=None)
        assert all(isinstance(outcome, FrameRefused | DigestMismatch) for outcome in self.outcomes.values())

    @ending
    def the_broadcast_lies(self, data: st.DataObject) -> None:
        """No error anywhere in the backend; the digest finds it, and the rank is named."""
        rank, harm = data.draw(st.integers(1, self.size - 1)), data.draw(st.sampled_from(Harm))
        self.mesh.backend.harm = {rank: harm}
        name = "payload_bytes" if harm in (Harm.SHORT, Harm.WORDS) else "payload_digest"
        self.ends(lambda: self.mesh.chunk(cut=True), DigestMismatch, rank=rank, name=name)
        assert len(self.mesh.workers[rank].chunks) == len(self.sent)
        assert isinstance(self.outcomes[rank], DigestMismatch)

    @ending
    def the_broadcast_fails_on_one(self, data: st.DataObject) -> None:
        """The others have what was sent; whoever only says that it waited in vain is not to blame, nor is rank 0."""
        self.mesh.backend.late = {data.draw(st.integers(0, self.size - 1))}
        end = self.ends(lambda: self.mesh.chunk(cut=True), RankSilent, rank=None, name="")
        assert {str(outcome) for outcome in self.outcomes.values()} == {str(end)}

    @ending
    def one_fails_at_its_work(self, data: st.DataObject) -> None:
        """In place of its verdict it says why; the class, and so the exit code, is its own."""
        rank = data.draw(st.integers(1, self.size - 1))
        self.mesh.workers[rank].fails = CallCount("5 of 6 generator calls were made")
        end = self.ends(lambda: self.mesh.chunk(cut=True), CallCount, rank=rank, name="")
        assert "5 of 6 generator calls were made" in str(end)
        others = [outcome for worker, outcome in self.outcomes.items() if worker != rank]
        assert all(type(outcome) is CallCount and outcome.rank == rank for outcome in others)

    @ending
    def one_differs(self, data: st.DataObject) -> None:
        rank = data.draw(st.integers(1, self.size - 1))
        column = data.draw(st.sampled_from(("ledger", "end", "observed_calls")))
        self.mesh.workers[rank].alters = {column: 77}
        end = self.ends(lambda: self.mesh.chunk(cut=True), MeshDisagrees, rank=rank, name=column)
        assert {str(outcome) for outcome in self.outcomes.values()} == {str(end)}

    def dies(self, rank: int) -> None:
        """Rank 0 names the victim, and so does everybody who is left."""
        end = self.ends(lambda: self.mesh.chunk(cut=True), LinkBroken, rank=rank, name="")
        assert isinstance(self.outcomes.pop(rank), Moment | Died)
        assert {str(outcome) for outcome in self.outcomes.values()} <= {str(end)}

    @ending
    def one_dies_before_it_answers(self, data: st.DataObject) -> None:
        rank = data.draw(st.integers(1, self.size - 1))
        self.mesh.workers[rank].dies_at = Phase.ACCEPT
        self.dies(rank)

    @ending
    def one_dies_inside_the_broadcast(self, data: st.DataObject) -> None:
        """The backend tells its peers that it failed, and not because of whom."""
        rank = data.draw(st.integers(1, self.size - 1))
        self.mesh.backend.dies_inside = {rank}
        self.dies(rank)

    @ending
    def one_dies_before_its_verdict(self, data: st.DataObject) -> None:
        rank = data.draw(st.integers(1, self.size - 1))
        self.mesh.workers[rank].dies_at = Phase.VERDICT
        self.dies(rank)

    @ending
    def one_fails_and_the_others_only_see_that_it_is_gone(self, data: st.DataObject) -> None:
        """The echo of a failure in the collectives is not taken for its cause, whoever is heard first."""
        rank = data.draw(st.integers(1, self.size - 1))
        for number, worker in self.mesh.workers.items():
            own = CallCount("one too many") if number == rank else LinkBroken("another rank left the collective")
            worker.fails = own
        end = self.ends(lambda: self.mesh.chunk(cut=True), CallCount, rank=rank, name="")
        assert {type(outcome) for outcome in self.outcomes.values()} == {CallCount}
        assert {str(outcome) for number, outcome in self.outcomes.items() if number != rank} <= {str(end)}

    @ending
    def shut_down(self, data: st.DataObject) -> None:
        frame, _ = prepare_notice(Action.SHUTDOWN, self.mesh.sender)
        self.mesh.leader.shutdown(frame)
        self.ended = True
        assert all(isinstance(outcome, Stop) for outcome in self.mesh.join().values())

    @ending
    def rank_0_gives_up(self, data: st.DataObject) -> None:
        self.ended = True
        fault = Fault(code="GL-IO-01", rank=0, field="", text="GL-IO-01: rank 0: the disk is full; free some")
        self.mesh.leader.error(prepare_notice(Action.ERROR, self.mesh.sender, fault=fault)[0])
        for outcome in self.mesh.join().values():
            assert (str(outcome), outcome.exit_code) == ("GL-IO-01: rank 0: the disk is full; free some", 5)

    @ending
    def rank_0_is_gone(self, data: st.DataObject) -> None:
        self.ended = True
        self.mesh.leader.close()
        for outcome in self.mesh.join().values():
            assert isinstance(outcome, LinkBroken)
            assert outcome.rank == 0


@pytest.mark.parametrize("end", ENDS)
def test_a_run_is_the_same_on_every_rank_and_ends_with_the_right_name(end: str) -> None:
    examples = max(settings().max_examples // SHARE, 2)
    run_state_machine_as_test(lambda: Runs(end), settings=settings(max_examples=examples, stateful_step_count=20))
    assert Runs.seen[end] > 1, "a search worth its name comes to the end it is for, and not only in its simplest case"


@pytest.mark.parametrize("harm", Harm)
def test_whatever_the_broadcast_hands_over_in_place_of_the_payload_is_found(mesh: Any, harm: Harm) -> None:
    run = mesh(3)
    run.chunk()
    run.backend.harm = {2: harm}
    with pytest.raises(DigestMismatch) as end:
        run.chunk()
    assert (end.value.rank, end.value.call_id) == (2, 2)
    run.join()
    assert [len(worker.chunks) for worker in run.workers.values()] == [2, 1], "it computes nothing with it"


# -- silence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("phase", [Phase.ACCEPT, Phase.VERDICT])
def test_a_silent_worker_ends_the_run_at_the_deadline_and_is_named(mesh: Any, rank: int, phase: Phase) -> None:
    run = mesh(3, HASTY)
    run.chunk()
    run.workers[rank].mute_at = phase
    run.backend.entered.clear()
    began = time.monotonic()
    with pytest.raises(LinkTimeout) as end:
        run.chunk()
    assert HASTY.verdict_s <= time.monotonic() - began < HASTY.verdict_s + 2
    assert f"rank {rank}, call 2, chunk 1: it sent no frame within 0.8 s; look at the rank that did not come" in str(
        end.value
    )
    assert (end.value.rank, end.value.exit_code) == (rank, 12)
    assert bool(run.backend.entered) == (phase is Phase.VERDICT)  # before that, nobody was let into the broadcast
    other = run.workers[3 - rank]
    run.threads[other.rank - 1].join(LONG_S)
    assert str(other.outcome) == str(end.value)  # and the other one has heard who it is


def test_all_silent_workers_are_named(mesh: Any) -> None:
    run = mesh(4, HASTY)
    for rank in (1, 3):
        run.workers[rank].mute_at = Phase.ACCEPT
    with pytest.raises(LinkTimeout, match=r"ranks 1, 3 sent no frame within 0\.8 s") as end:
        run.chunk()
    assert end.value.rank is None  # one of them may be waiting for the other


def test_a_noop_that_is_not_answered_is_a_silence() -> None:
    ours, _ = map(kept, pair(2))
    with pytest.raises(LinkTimeout) as end:
        Leader({2: ours}, SilentBackend(2).of(0), HASTY).noop(prepare_notice(Action.NOOP, start())[0])
    assert (end.value.rank, end.value.call_id) == (2, 1)


def test_a_worker_gives_up_on_a_leader_that_neither_gives_go_nor_takes_it_back() -> None:
    """Later than the leader would give up on a worker, so that it is the last to speak, not the first."""
    assert HASTY.verdict_s < HASTY.group_s
    follower, leader, state = follower_and_leader(HASTY)
    leader.send(prepare(make(state), state)[0].frame, within_s=LONG_S)
    began = time.monotonic()
    with pytest.raises(LinkTimeout) as end:
        follower.next()
    assert HASTY.group_s <= time.monotonic() - began < HASTY.group_s + 3
    assert end.value.rank == 0
    assert follower.state == state


# -- a worker by itself ------------------------------------------------------------------------------------------


def follower_and_leader(deadlines: Deadlines = PATIENT, **more: Any) -> tuple[Follower, SocketConnection, State]:
    """A worker, the other end of its connection, and the state both begin with."""
    leader, mine = map(kept, pair())
    state = start()
    backend = SilentBackend(1)
    return Follower(mine, backend.of(1), state, deadlines, check=lambda _: None, **more), leader, state


def spoken(connection: SocketConnection) -> Answer:
    return unpack_answer(connection.receive(within_s=LONG_S))


def go(call_id: int, kind: Kind = Kind.GO) -> bytes:
    return pack_answer(Answer(kind=kind, call_id=call_id))


def instead_of_go() -> dict[str, bytes]:
    state = prepare(make(start()), start())[1]
    return {
        "go to another call": go(7),
        "an answer that is none of rank 0's": go(1, Kind.ACCEPT),
        "the next frame": prepare(make(state), state)[0].frame,
        "a noop": prepare_notice(Action.NOOP, state)[0],
        "a shutdown": prepare_notice(Action.SHUTDOWN, state)[0],
        "garbage": b"garbage",
    }


@pytest.mark.parametrize("instead", instead_of_go())
def test_a_worker_enters_no_broadcast_without_its_go(instead: str) -> None:
    follower, leader, state = follower_and_leader()
    leader.send(prepare(make(state), state)[0].frame, within_s=LONG_S)
    leader.send(instead_of_go()[instead], within_s=LONG_S)
    with pytest.raises((OutOfStep, FrameRefused)) as end:
        follower.next()
    assert spoken(leader) == Answer(kind=Kind.ACCEPT, call_id=1)
    said = spoken(leader)
    assert said.fault is not None
    assert said.fault.code == end.value.code
    assert follower.state == state


def test_an_only_worker_is_given_no_go() -> None:
    leader, mine = map(kept, pair())
    state, backend = start(), SilentBackend(2)
    follower = Follower(mine, backend.of(1), state, PATIENT, check=lambda _: None, alone=True)
    prepared, after = prepare(make(state), state)
    with beside(follower.next):
        Leader({1: leader}, backend.of(0), PATIENT).infer(prepared)
    assert follower.state == after
    with pytest.raises(LinkTimeout):
        mine.receive(within_s=0.1)


def test_what_a_worker_refuses_it_says_with_field_and_code() -> None:
    follower, leader, state = follower_and_leader()
    late = prepare_notice(Action.NOOP, prepare_notice(Action.NOOP, state)[1])[0]
    leader.send(late, within_s=LONG_S)
    with pytest.raises(OutOfStep):
        follower.next()
    fault = spoken(leader).fault
    assert fault is not None
    assert (fault.code, fault.field, fault.rank) == ("GL-WIRE-02", "call_id", -1)
    assert "call_id is 2, expected 1 (a gap)" in fault.text


def test_a_refusal_is_not_lost_with_the_worker_that_leaves_at_once() -> None:
    follower, leader, state = follower_and_leader()
    follower._leader.send(b"", within_s=LONG_S)
    assert leader.receive(within_s=LONG_S) == b""
    leader.send(b"garbage", within_s=LONG_S)
    with pytest.raises(FrameRefused):
        follower.next()
    follower._leader.close()
    run = Leader({1: leader}, SilentBackend(2).of(0), PATIENT)
    with pytest.raises(FrameRefused, match="rank 1, call 0, chunk -1: a frame of 7 bytes is shorter"):
        run.verdict(verdict_of(0, state))


def test_an_error_without_a_reason_is_still_an_end() -> None:
    follower, leader, state = follower_and_leader()
    stamp = next_stamp(state, Action.ERROR)
    leader.send(seal(stamp, b"")[1], within_s=LONG_S)
    with pytest.raises(PeerRefused, match="rank 0 ended the run without saying why"):
        follower.next()


def test_a_worker_that_was_left_alone_learns_that_rank_0_is_gone() -> None:
    """The collective only said that somebody is."""
    follower, leader, _ = follower_and_leader()
    leader.close()
    end = follower.fail(LinkBroken("another rank left the collective"))
    assert (type(end), end.rank) == (LinkBroken, 0)
    known = LinkBroken("it is gone", rank=2)
    assert follower.fail(known) is known


def test_last_words_to_somebody_who_is_gone_are_no_error() -> None:
    follower, leader, _ = follower_and_leader()
    leader.close()
    follower.fail(CallCount("one too many"))
    last_word(follower._leader, CallCount("one too many"))


# -- causes ------------------------------------------------------------------------------------------------------

GONE = LinkBroken("another rank left the collective")
ODD = CallCount("one too many")


@pytest.mark.parametrize(
    ("words", "gone", "otherwise", "rank", "kind"),
    [
        ({}, (), GONE, None, LinkBroken),  # nothing is known
        ({1: GONE, 2: GONE}, (), GONE, None, LinkBroken),  # echoes alone name nobody, and not those who report them
        ({1: GONE}, (2,), GONE, 2, LinkBroken),  # who is left alone says so, who was killed does not
        ({1: GONE}, (1, 2), GONE, 2, LinkBroken),
        ({}, (3, 2), GONE, 2, LinkBroken),
        ({}, (2, 3), LinkBroken("it closed", rank=3), 3, LinkBroken),  # what was seen first
        ({2: ODD}, (1,), GONE, 2, CallCount),  # a rank that found something wrong beats one that only left
        ({1: GONE, 3: ODD, 2: ODD}, (), GONE, 2, CallCount),
        ({1: RankSilent("no progress", rank=3)}, (), RankSilent("late"), 3, RankSilent),
        ({1: RankSilent("no progress", rank=3)}, (), LinkTimeout("late", rank=2), 2, LinkTimeout),
    ],
)
def test_the_cause_is_told_from_its_echoes(
    words: dict[int, GenlockError], gone: tuple[int, ...], otherwise: GenlockError, rank: int | None, kind: type
) -> None:
    end = cause({n: fault_of(word, rank=-1) for n, word in words.items()}, gone, otherwise=otherwise)
    assert (end.rank, type(end)) == (rank, kind)


def test_what_fails_outside_the_channel_ends_with_its_cause_on_every_rank(mesh: Any) -> None:
    """As when rank 0's own part of the work fails because a worker left it."""
    run = mesh(3)
    run.workers[2].fails = ODD
    prepared, _ = prepare(make(run.sender), run.sender)
    run.leader.infer(prepared)
    end = run.leader.tell(GONE)
    assert str(end).startswith("GL-CALL-01: rank 2, call 1, chunk 0: one too many")
    assert str(run.join()[1]) == str(end)


def test_a_last_word_is_not_waited_out(mesh: Any) -> None:
    """The silent one may be in a collective with the rank that has failed."""
    run = mesh(3)
    run.workers[1].fails, run.workers[2].mute_at = ODD, Phase.VERDICT
    began = time.monotonic()
    with pytest.raises(CallCount) as end:
        run.chunk()
    assert end.value.rank == 1
    assert time.monotonic() - began < PATIENT.verdict_s / 2


def test_what_is_rank_0_s_own_finding_is_told_at_once(mesh: Any) -> None:
    run = mesh(2)
    assert run.leader.tell(ODD) is ODD
    assert str(run.join()[1]) == "GL-CALL-01: rank 0: one too many; report this with the output of `genlock doctor`"


def test_nobody_is_named_to_the_workers_where_rank_0_can_name_nobody(mesh: Any) -> None:
    run = mesh(2)
    run.workers[1].alters = {"outputs": 5}
    with pytest.raises(MeshDisagrees) as end:
        run.chunk()
    assert (end.value.rank, end.value.field) == (None, "outputs")
    assert run.join()[1].rank is None
    assert str(run.workers[1].outcome) == str(end.value)


def second_look(run: Mesh, of_rank: dict[int, dict[str, Any]]) -> MeshDisagrees:
    """What a tie of the outputs ends in, when each rank then looks at all that it holds and finds this."""
    right = {"weights": True, "kv": True}

    def look(rank: int) -> Verdict:
        return replace(verdict_of(1, start()), **{**right, **of_rank.get(rank, {})})

    run.workers[1].alters = {"outputs": 5}
    for rank, worker in run.workers.items():
        worker.follower._look = lambda rank=rank: look(rank)
    prepared, after = prepare(make(run.sender), run.sender)
    run.leader.infer(prepared)
    with pytest.raises(MeshDisagrees) as end:
        run.leader.verdict(verdict_of(1, after), look=lambda: look(0))
    assert str(run.join()[1]) == str(end.value)
    return end.value


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("column", ["weights", "kv"])
def test_a_tie_is_settled_by_a_second_look(mesh: Any, rank: int, column: str) -> None:
    """Two ranks that differ are each other's only witness, until one finds its own weights changed."""
    end = second_look(mesh(2), {rank: {column: False}})
    assert (end.rank, end.field) == (rank, column)


def test_a_tie_that_stays_one_says_so(mesh: Any) -> None:
    end = second_look(mesh(2), {})
    assert (end.rank, end.field) == (None, "outputs")
    assert "check weights, keys and values of each: each rank's are as that rank's references say" in str(end)


def test_a_worker_that_cannot_look_again_says_so() -> None:
    follower, leader, _ = follower_and_leader()
    leader.send(go(0, Kind.LOOK), within_s=LONG_S)
    with pytest.raises(OutOfStep, match="LOOK to call 0 in place of a frame"):
        follower.next()
    fault = spoken(leader).fault
    assert fault is not None
    assert fault.field == "action"


def test_garbage_as_a_last_word_is_no_obstacle() -> None:
    ours, theirs = map(kept, pair(1))
    theirs.send(pack_answer(Answer(kind=Kind.FAULT, call_id=1, fault=fault_of(ODD, rank=1)))[:-1], within_s=LONG_S)
    theirs.close()
    end = Leader({1: ours}, SilentBackend(2).of(0), PATIENT).tell(GONE)
    assert (type(end), end.rank) == (LinkBroken, 1)


# -- rank 0 by itself --------------------------------------------------------------------------------------------


def test_a_leader_without_workers_asks_nobody() -> None:
    backend, state = SilentBackend(1), start()
    leader = Leader({}, backend.of(0), PATIENT)
    prepared, after = prepare(make(state), state)
    leader.infer(prepared)
    leader.verdict(verdict_of(1, after))
    leader.shutdown(prepare_notice(Action.SHUTDOWN, after)[0])
    assert backend.entered == [0]


@pytest.mark.parametrize("answer", [go(2, Kind.ACCEPT), go(1, Kind.ALIVE), go(1)])
def test_an_answer_to_something_else_names_the_worker(answer: bytes) -> None:
    ours, theirs = map(kept, pair(3))
    state = start()
    theirs.send(answer, within_s=LONG_S)
    backend = SilentBackend(2)
    with pytest.raises(OutOfStep, match="not ACCEPT") as end:
        Leader({3: ours}, backend.of(0), PATIENT).infer(prepare(make(state), state)[0])
    assert (end.value.rank, end.value.call_id, end.value.field) == (3, 1, "answer")
    assert not backend.entered


@pytest.mark.parametrize("record", [b"no verdict", go(1, Kind.ACCEPT)])
def test_a_verdict_that_cannot_be_read_names_the_worker(record: bytes) -> None:
    ours, theirs = map(kept, pair(3))
    theirs.send(record, within_s=LONG_S)
    with pytest.raises(FrameRefused, match="a verdict of") as end:
        Leader({3: ours}, SilentBackend(2).of(0), PATIENT).verdict(verdict_of(0, start()))
    assert end.value.rank == 3
    assert receive(theirs.receive(within_s=LONG_S), start()).fault == fault_of(end.value, rank=0)


def test_shutdown_reaches_the_living_before_the_dead_are_named() -> None:
    ends = {rank: tuple(map(kept, pair(rank))) for rank in (1, 2)}
    ends[1][1].close()
    frame, _ = prepare_notice(Action.SHUTDOWN, start())
    with pytest.raises(LinkBroken) as end:
        Leader({rank: ours for rank, (ours, _) in ends.items()}, SilentBackend(3).of(0), PATIENT).shutdown(frame)
    assert end.value.rank == 1
    assert ends[2][1].receive(within_s=LONG_S) == frame


def test_every_phase_is_told_with_the_ids_it_is_about(mesh: Any) -> None:
    run = mesh(2)
    run.chunk()
    run.chunk()
    run.leader.shutdown(prepare_notice(Action.SHUTDOWN, run.sender)[0])
    run.join()
    chunk = [(Phase.ACCEPT, 1, 0), (Phase.PAYLOAD, 1, 0), (Phase.VERDICT, 1, 0)]
    again = [(phase, 2, 1) for phase, _, _ in chunk]
    idle = [(Phase.IDLE, -1, -1)]
    assert run.phases == [*chunk, *again, (Phase.DRAIN, 3, 1)]
    assert run.workers[1].phases == [*idle, *chunk, *idle, *again, *idle]
