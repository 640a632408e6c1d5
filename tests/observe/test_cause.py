"""Records of causes and beacons: what is written is what is read, the first record stays, and damage is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.observe.beacon import GATES, MESSAGE_BYTES, Beacon, beacon_period_s, limit_s, read_up, up_bytes
from genlock.observe.cause import TEXT_MAX, Cause, Kind, cause_path, read_all
from genlock.settings import START_PHASES, Deadlines, Phase

ids = st.integers(min_value=-1, max_value=2**62)
causes = st.builds(
    Cause,
    rank=st.integers(min_value=0, max_value=99),
    seconds=st.floats(min_value=0, max_value=1e6),
    phase=st.sampled_from(Phase),
    call_id=ids,
    chunk=ids,
    op=ids,
    code=st.just("GL-RANK-01"),
    exit_code=st.integers(min_value=0, max_value=255),
    kind=st.sampled_from(Kind),
    text=st.text(max_size=200),
    remedy=st.text(max_size=200),
    names=st.integers(min_value=-1, max_value=99),
    in_collective=st.booleans(),
)
beacons = st.builds(Beacon, phase=st.sampled_from(Phase), call_id=ids, chunk=ids, op=ids, counter=ids)


@given(causes)
def test_a_cause_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, cause: Cause) -> None:
    folder = tmp_path_factory.mktemp("run")
    cause.write(folder)
    assert read_all(folder) == [cause]
    assert read_up(up_bytes(cause)) == cause
    assert list(folder.iterdir()) == [cause_path(folder, cause.rank)], "nothing else is left"


@given(beacons)
def test_a_beacon_is_read_as_it_was_sent(beacon: Beacon) -> None:
    assert read_up(beacon.to_bytes()) == beacon


@given(
    st.binary(max_size=60)
    | st.sampled_from([b"{}", b"[]", b"3", b'{"beacon": 3}', b'{"cause": {}}', b'{"beacon": {}}'])
)
def test_what_is_neither_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several makes, all of them a ValueError
        read_up(message)


@given(causes, causes)
def test_the_first_record_of_a_rank_stays(
    tmp_path_factory: pytest.TempPathFactory, first: Cause, second: Cause
) -> None:
    folder = tmp_path_factory.mktemp("run")
    first.write(folder)
    second.write(folder)
    assert first in read_all(folder)
    assert len(read_all(folder)) == len({first.rank, second.rank})


def test_a_long_text_is_cut_and_fits_one_message() -> None:
    (long,) = [Cause(**_PLAIN | {"text": "\N{SNOWMAN}" * 10 * TEXT_MAX, "remedy": "x" * 10 * TEXT_MAX})]
    assert len(up_bytes(long)) <= MESSAGE_BYTES
    assert len(long.to_bytes()) > TEXT_MAX


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    good = Cause(**_PLAIN)
    good.write(tmp_path)
    cause_path(tmp_path, 2).write_bytes(good.to_bytes()[:-20])
    cause_path(tmp_path, 3).write_bytes(b"[1]")
    assert read_all(tmp_path) == [good]


def test_beacons_come_often_enough_for_a_short_deadline() -> None:
    assert beacon_period_s(Deadlines(answer_s=20)) == 1.0
    assert beacon_period_s(Deadlines(answer_s=3)) == pytest.approx(0.3)
    assert beacon_period_s(Deadlines(answer_s=0.5)) == 0.1


def test_main_may_say_whom_it_waited_for_before_its_watchdog_ends_it() -> None:
    deadlines = Deadlines(answer_s=3)
    for phase in Phase:
        own_s, limit = deadlines.of(phase), limit_s(deadlines, phase)
        assert (own_s is None) == (limit is None)
        if own_s is not None and limit is not None:
            assert limit > own_s if phase in START_PHASES else limit == own_s
            assert phase not in GATES or limit > 2 * own_s
    assert limit_s(deadlines, Phase.CALL) == 3


_PLAIN = {
    "rank": 1,
    "seconds": 2.5,
    "phase": Phase.CALL,
    "call_id": 3,
    "chunk": 2,
    "op": 7,
    "code": "GL-RANK-01",
    "exit_code": 11,
    "kind": Kind.DIED,
    "text": "gone",
    "remedy": "look",
}
