"""First cause: the order of causality, as properties over everything that can be seen and written."""

from __future__ import annotations

import signal
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from genlock.engine.first_cause import LEVEL, Seen, first_cause, from_outside
from genlock.observe.cause import Cause, Kind
from genlock.settings import Phase

RANKS = 4
SIGNALS = [-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGTERM, -signal.SIGABRT]
WRITTEN = [Kind.TRIPWIRE, Kind.REFUSAL, Kind.DEFECT, Kind.BROKEN_PIPE, Kind.TIMEOUT]
CODES = {Kind.TRIPWIRE: 10, Kind.REFUSAL: 13, Kind.DEFECT: 1, Kind.BROKEN_PIPE: 11, Kind.TIMEOUT: 12}
phases = st.sampled_from([Phase.IDLE, Phase.ACCEPT, Phase.PAYLOAD, Phase.CALL, Phase.VERDICT])
small = st.integers(min_value=0, max_value=3)


@st.composite
def causes(draw: st.DrawFn, rank: int) -> Cause:
    kind = draw(st.sampled_from(WRITTEN))
    return Cause(
        rank=rank,
        seconds=draw(st.floats(min_value=0, max_value=9)),
        phase=draw(phases),
        call_id=draw(small),
        chunk=draw(small),
        op=draw(small),
        code=f"GL-{kind}",
        exit_code=CODES[kind],
        kind=kind,
        text=f"of rank {rank}",
        remedy="",
        names=draw(st.integers(min_value=-1, max_value=RANKS - 1)),
    )


def seen(rank: int, **what: object) -> Seen:
    at = {"phase": Phase.CALL, "call_id": 1, "chunk": 1, "op": 1, "returncode": None}
    return Seen(rank=rank, pid=100 + rank, **at | what)  # type: ignore[arg-type]


@st.composite
def sights(draw: st.DrawFn, rank: int) -> Seen:
    return seen(
        rank,
        returncode=draw(st.sampled_from([None, 0, 1, 11, *SIGNALS])),
        ours=draw(st.booleans()),
        stopped_s=draw(st.sampled_from([0.0, 0.0, 2.5])),
        still=draw(st.booleans()),
        phase=draw(phases),
        call_id=draw(small),
        chunk=draw(small),
        op=draw(small),
    )


@st.composite
def failures(draw: st.DrawFn) -> tuple[list[Seen], list[Cause]]:
    observations = [draw(sights(rank)) for rank in range(RANKS)]
    written = [draw(causes(rank)) for rank in range(RANKS) if draw(st.booleans())]
    return observations, written


def level(kind: Kind) -> int:
    """The order of the design, said again: 0 is most of a cause."""
    own, gone, pipe = (Kind.TRIPWIRE, Kind.REFUSAL), (Kind.DIED, Kind.SILENT), (Kind.BROKEN_PIPE, Kind.ABORT)
    order = [own, gone, (Kind.DEFECT,), pipe, (Kind.TIMEOUT,)]
    return next(place for place, kinds in enumerate(order) if kind in kinds)


def test_the_order_is_that_of_causality() -> None:
    assert {kind: level(kind) for kind in Kind} == LEVEL


@given(failures(), st.randoms())
def test_the_order_of_arrival_is_nothing(failure: tuple[list[Seen], list[Cause]], random: object) -> None:
    observations, written = failure
    found = first_cause(observations, written)
    random.shuffle(observations)  # type: ignore[attr-defined]
    random.shuffle(written)  # type: ignore[attr-defined]
    assert first_cause(observations, written) == found


@given(failures())
def test_when_the_records_were_written_is_nothing(failure: tuple[list[Seen], list[Cause]]) -> None:
    observations, written = failure
    other = [replace(cause, seconds=9.0 - cause.seconds) for cause in written]
    assert first_cause(observations, other) == first_cause(observations, written)


@given(failures())
def test_nothing_that_counts_for_more_is_passed_over(failure: tuple[list[Seen], list[Cause]]) -> None:
    observations, written = failure
    found = first_cause(observations, written)
    silent = [s for s in observations if s.rank not in {cause.rank for cause in written}]
    kinds = [cause.kind for cause in written] + [end.kind for s in silent if (end := from_outside(s)) is not None]
    assert (found is None) == (not kinds)
    if found is not None:
        best = min(map(level, kinds))
        # Broken pipes alone may all be answers to each other's records; then what they answer is told.
        assert level(found.kind) == best or best == level(Kind.BROKEN_PIPE)


@given(failures())
def test_what_we_ended_or_what_goes_on_is_never_blamed_by_itself(failure: tuple[list[Seen], list[Cause]]) -> None:
    observations, _ = failure
    fine = [replace(s, stopped_s=0.0, still=False) for s in observations]
    fine = [s if s.ours or s.returncode in (None, 0) else replace(s, ours=True) for s in fine]
    assert first_cause(fine, []) is None


@given(st.data(), st.integers(min_value=0, max_value=RANKS - 1), st.sampled_from(SIGNALS[:3]))
def test_the_victim_of_a_kill_is_named_whatever_its_peers_write(data: st.DataObject, victim: int, number: int) -> None:
    """It writes no record; its peers write that they lost somebody, or waited in vain."""
    written = [
        data.draw(causes(rank).filter(lambda cause: cause.kind in (Kind.BROKEN_PIPE, Kind.TIMEOUT, Kind.DEFECT)))
        for rank in range(RANKS)
        if rank != victim
    ]
    observations = [seen(rank, returncode=number if rank == victim else 11) for rank in range(RANKS)]
    found = first_cause(observations, written)
    assert found is not None
    assert (found.rank, found.kind, found.exit_code) == (victim, Kind.DIED, 11)


@given(st.data(), st.integers(min_value=0, max_value=RANKS - 1), st.sampled_from(["stopped_s", "still", "overdue"]))
def test_the_rank_that_stands_still_is_named(data: st.DataObject, victim: int, how: str) -> None:
    written = [
        data.draw(causes(rank).filter(lambda cause: cause.kind in (Kind.BROKEN_PIPE, Kind.TIMEOUT)))
        for rank in range(RANKS)
        if rank != victim
    ]
    observations = [seen(rank, returncode=12) for rank in range(RANKS)]
    observations[victim] = seen(victim, **{how: 2.5})
    found = first_cause(observations, written)
    assert found is not None
    assert (found.rank, found.kind, found.exit_code) == (victim, Kind.SILENT, 12)


@given(st.data(), st.integers(min_value=0, max_value=RANKS - 1))
def test_a_tripwire_comes_before_a_kill(data: st.DataObject, teller: int) -> None:
    cause = replace(data.draw(causes(teller)), kind=Kind.TRIPWIRE, exit_code=10, names=-1)
    observations = [seen(rank, returncode=10 if rank == teller else -signal.SIGKILL) for rank in range(RANKS)]
    found = first_cause(observations, [cause])
    assert found is not None
    assert (found.rank, found.told_by, found.exit_code) == (teller, teller, 10)


@given(st.lists(st.tuples(small, small, small), min_size=2, max_size=RANKS, unique=True))
def test_of_ranks_that_waited_in_vain_the_one_that_got_least_far_is_named(places: list[tuple[int, int, int]]) -> None:
    """All stand in collectives of a plan, and the rest wait for the one that is behind."""
    written = [timeout(rank, *place) for rank, place in enumerate(places)]
    found = first_cause([], written)
    assert found is not None
    assert found.rank == min(range(len(places)), key=lambda rank: places[rank])


@given(small, small)
def test_a_rank_that_timeouts_do_not_see_is_found_by_its_last_beacon(chunk: int, op: int) -> None:
    """It hangs before a collective the others are in, and was ended with them: no record, only a place."""
    observations = [seen(0, returncode=12), seen(1, returncode=None, call_id=chunk + 1, chunk=chunk, op=op)]
    found = first_cause(observations, [timeout(0, chunk, chunk + 1, op + 1)])
    assert found is not None
    assert (found.rank, found.told_by, found.pid) == (1, 0, 101)


def test_a_rank_that_waits_for_a_frame_holds_nobody_up() -> None:
    observations = [
        seen(0, returncode=12, phase=Phase.VERDICT, call_id=5, chunk=5),
        seen(1, phase=Phase.IDLE, call_id=4, chunk=4),
        seen(2, phase=Phase.VERDICT, call_id=5, chunk=5),
    ]
    found = first_cause(observations, [replace(timeout(0, 5, 5, 1), phase=Phase.VERDICT, names=2)])
    assert found is not None
    assert found.rank == 2


def test_a_broken_pipe_to_a_rank_that_says_why_it_left_is_no_cause() -> None:
    waited = replace(timeout(0, 3, 4, 7), names=1)
    lost = replace(timeout(1, 3, 4, 6), kind=Kind.BROKEN_PIPE, names=0, exit_code=11)
    found = first_cause([seen(0, returncode=12), seen(1, returncode=11)], [waited, lost])
    assert found is not None
    assert (found.rank, found.told_by, found.kind) == (1, 0, Kind.TIMEOUT)


@given(small)
def test_an_abort_without_a_record_counts_like_a_broken_pipe(chunk: int) -> None:
    """Then the earlier chunk decides."""
    assume(chunk != 1)
    lost = replace(timeout(1, chunk, 1, 1), kind=Kind.BROKEN_PIPE, names=2)
    found = first_cause([seen(0, returncode=-signal.SIGABRT), seen(1, returncode=11)], [lost])
    assert found is not None
    assert found.kind is (Kind.ABORT if chunk > 1 else Kind.BROKEN_PIPE)


@given(st.sampled_from([-1, 0, 2]), small)
def test_a_broken_pipe_that_an_abort_explains_comes_after_it(names: int, chunk: int) -> None:
    lost = [
        replace(timeout(1, chunk, chunk, 1), kind=Kind.BROKEN_PIPE, names=names),
        replace(timeout(2, chunk, chunk, 1), kind=Kind.BROKEN_PIPE, names=0),
    ]
    found = first_cause([seen(0, returncode=-signal.SIGABRT)], lost)
    assert found is not None
    assert (found.rank, found.kind, found.exit_code) == (0, Kind.ABORT, 11)


@given(small, small, st.permutations(range(3)), st.sampled_from(["no record", "lost a peer", "own deadline"]))
def test_the_rank_that_did_not_come_to_a_collective_is_named(chunk: int, op: int, ranks: list[int], end: str) -> None:
    """Two ranks are in it. One of them gives up, the other loses it; the backend can tell neither of them of whom."""
    gave_up, lost_it, away = ranks
    written = [timeout(gave_up, chunk, chunk, op), replace(timeout(lost_it, chunk, chunk, op), kind=Kind.BROKEN_PIPE)]
    if end == "lost a peer":
        written.append(replace(timeout(away, chunk, chunk, op), kind=Kind.BROKEN_PIPE, names=gave_up))
    if end == "own deadline":
        written.append(replace(timeout(away, chunk, chunk, op), names=away))
    observations = [seen(rank, returncode=12, chunk=chunk, call_id=chunk, op=op) for rank in (gave_up, lost_it)]
    observations.append(seen(away, chunk=chunk, call_id=chunk, op=op))
    found = first_cause(observations, written)
    assert found is not None
    assert (found.rank, found.kind, found.exit_code) == (away, Kind.TIMEOUT, 12)


@given(small, st.permutations(range(4)))
def test_waiting_in_a_collective_clears_a_rank_whatever_its_record_names(op: int, ranks: list[int]) -> None:
    """One gives up, one is ended by its own watchdog, one loses its connection to the first: all while they wait."""
    gave_up, own, lost_it, away = ranks
    written = [
        timeout(gave_up, 1, 1, op),
        replace(timeout(own, 1, 1, op), in_collective=True),
        replace(timeout(lost_it, 1, 1, op), kind=Kind.BROKEN_PIPE, names=gave_up, in_collective=True),
        replace(timeout(away, 1, 1, op), kind=Kind.BROKEN_PIPE, names=gave_up),
    ]
    found = first_cause([], written)
    assert found is not None
    assert found.rank == away


def test_a_link_that_is_cut_is_told_by_its_two_ends() -> None:
    """Each names the other; a third waits in vain for both."""
    lost = [replace(timeout(rank, 3, 3, 1), kind=Kind.BROKEN_PIPE, exit_code=11, names=1 - rank) for rank in (0, 1)]
    found = first_cause([], [*lost, timeout(2, 3, 3, 1)])
    assert found is not None
    assert (found.kind, found.told_by, found.rank) == (Kind.BROKEN_PIPE, 0, 1)


def timeout(rank: int, chunk: int, call_id: int, op: int) -> Cause:
    return Cause(
        rank=rank,
        seconds=1.0,
        phase=Phase.CALL,
        call_id=call_id,
        chunk=chunk,
        op=op,
        code="GL-RANK-02",
        exit_code=12,
        kind=Kind.TIMEOUT,
        text="no progress",
        remedy="",
    )
