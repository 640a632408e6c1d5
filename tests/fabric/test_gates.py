"""Gates: all pass with the same manifest, or none does and every rank shows the same table."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fabric.conftest import LONG_S, kept, together

from genlock.errors import (
    CheckpointMissing,
    FrameRefused,
    GateMissed,
    GateRefused,
    GenlockError,
    LinkBroken,
    LinkTimeout,
)
from genlock.fabric.channel import last_word
from genlock.fabric.connection import Connection, pair
from genlock.fabric.gates import (
    ABSENT,
    ROWS_MOST,
    Difference,
    GateGuest,
    GateKeeper,
    Manifest,
    differences,
    odd_rank,
    refusal,
    table,
)

SOON_S = 0.5
keys = st.text(st.characters(codec="ascii", categories=("L",)), min_size=1, max_size=6).filter(
    lambda key: key != "gate"
)
values = st.text(max_size=6) | st.integers() | st.floats(allow_nan=False) | st.booleans()
manifests = st.dictionaries(keys, values, min_size=1, max_size=8)


def another(value: Any) -> Any:
    """As near as can be: the number as text, true for 1."""
    if type(value) is int:
        return float(value) if abs(value) < 2**50 else value + 1
    return bool(value) if isinstance(value, float) else f"{value}"[:-1] + "~" if type(value) is str else str(value)


# -- the comparison ----------------------------------------------------------------------------------------------


@given(manifests, st.integers(1, 9))
def test_equal_manifests_have_no_differences(manifest: Manifest, size: int) -> None:
    assert differences(dict.fromkeys(range(size), manifest)) == []


@given(manifests, st.integers(2, 9), st.booleans(), st.data())
def test_any_single_difference_is_found_with_key_values_and_ranks(
    manifest: dict[str, Any], size: int, gone: bool, data: st.DataObject
) -> None:
    odd, key = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(sorted(manifest)))
    changed = {name: value for name, value in manifest.items() if name != key or not gone}
    if not gone:
        changed[key] = another(manifest[key])
    ranks = {rank: changed if rank == odd else manifest for rank in range(size)}
    (found,) = differences(ranks)
    shown = ABSENT if gone else json.dumps(changed[key])
    others = tuple(rank for rank in range(size) if rank != odd)
    assert found.key == key
    assert dict(found.values) == {shown: (odd,), json.dumps(manifest[key]): others}
    assert odd_rank([found]) == (odd if size > 2 else None)
    assert key in table([found])


@given(st.dictionaries(st.integers(0, 5), manifests, min_size=1))
def test_every_difference_is_found_and_nothing_else(ranks: dict[int, Manifest]) -> None:
    found = {difference.key: difference for difference in differences(ranks)}
    for key in {key for manifest in ranks.values() for key in manifest}:
        said = [json.dumps(m[key]) if key in m else ABSENT for m in ranks.values()]
        assert (key in found) == (len(set(said)) > 1)
        if key in found:
            groups = found[key].values
            assert sorted(rank for _, members in groups for rank in members) == sorted(ranks)
            assert {value for value, _ in groups} == set(said)


def test_no_rank_is_odd_unless_it_is_so_in_everything() -> None:
    one = Difference(key="a", values=(("1", (0, 1)), ("2", (2,))))
    other = Difference(key="b", values=(("1", (0, 2)), ("2", (1,))))
    split = Difference(key="c", values=(("1", (0, 1)), ("2", (2, 3))))
    assert odd_rank([one, one]) == 2
    assert [odd_rank(found) for found in ([], [one, other], [split], [one, split])] == [None] * 4


def test_the_table_is_read_by_people() -> None:
    found = differences({0: {"threads": 2, "torch": "2.13"}, 1: {"threads": 2}, 2: {"threads": 4, "torch": "2.13"}})
    assert str(refusal("gate 1", found, keys=2)) == (
        "GL-GATE-01: gate 1: the ranks are not the same:\n"
        "  key      value        ranks\n"
        "  threads  2            0, 1\n"
        "  threads  4            2\n"
        '  torch    "2.13"       0, 2\n'
        "  torch    (not there)  1\n"
        "2 of 2 values differ; make the named values equal on every rank, and start again"
    )


def test_a_table_has_a_length() -> None:
    found = differences({0: {f"key{number}": "x" * 500 for number in range(99)}, 1: {}})
    lines = table(found).splitlines()
    assert len(lines) == ROWS_MOST + 2
    assert lines[-1] == f"  and {2 * 99 - ROWS_MOST} more rows"
    assert max(map(len, lines)) < 120


# -- at the gate -------------------------------------------------------------------------------------------------


class Start:
    """A rank 0 and its workers, before a gate."""

    def __init__(self, size: int, **more: Any) -> None:
        ends = {rank: pair(rank) for rank in range(1, size)}
        self.ours: dict[int, Connection] = {rank: kept(ours) for rank, (ours, _) in ends.items()}
        self.theirs: dict[int, Connection] = {rank: kept(theirs) for rank, (_, theirs) in ends.items()}
        self.keeper = GateKeeper(self.ours, **more)
        self.guests = {rank: GateGuest(theirs) for rank, theirs in self.theirs.items()}

    def hold(
        self, ranks: dict[int, Manifest], *, within_s: float = LONG_S, names: dict[int, str] | None = None
    ) -> dict[int, Any]:
        """What every rank of `ranks` gets or raises; its report is its rank."""

        def of(rank: int) -> Any:
            name = (names or {}).get(rank, "gate 1")
            about: dict[str, Any] = {"within_s": within_s, "report": {"rank": rank}}
            if rank == 0:
                return self.keeper.hold(name, ranks[0], **about)
            return self.guests[rank].pass_(name, ranks[rank], **about)

        return together({rank: lambda rank=rank: of(rank) for rank in ranks})  # type: ignore[misc]


@given(manifests, st.integers(1, 4), st.data())
def test_all_pass_one_gate_after_another_until_one_rank_differs(
    manifest: dict[str, Any], size: int, data: st.DataObject
) -> None:
    gates = data.draw(st.integers(1, 3))
    odd, key = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from(sorted(manifest)))
    start = Start(size)
    try:
        for _ in range(gates):
            came = start.hold(dict.fromkeys(range(size), manifest))
            assert came.pop(0) == {rank: {**manifest, "gate": "gate 1", "rank": rank} for rank in range(size)}
            assert set(came.values()) <= {None}
        if size > 1:
            ranks = dict.fromkeys(range(size), manifest)
            ranks[odd] = {**manifest, key: another(manifest[key])}
            came = start.hold(ranks)
            assert {type(outcome) for outcome in came.values()} == {GateRefused}
            assert len({str(outcome) for outcome in came.values()}) == 1, "every rank shows the same table"
            said = came[0]
            assert (said.field, said.rank, said.exit_code) == (key, odd if size > 2 else None, 13)
            assert f"1 of {len(manifest)} values differs" in str(said)
            assert {outcome.rank for outcome in came.values()} == {said.rank}
    finally:
        for end in (*start.ours.values(), *start.theirs.values()):
            end.close()


def test_a_report_is_collected_and_not_compared() -> None:
    came = Start(2).hold({0: {"a": 1}, 1: {"a": 1}})
    assert came == {0: {0: {"gate": "gate 1", "a": 1, "rank": 0}, 1: {"gate": "gate 1", "a": 1, "rank": 1}}, 1: None}


def test_what_is_not_compared_passes_and_the_rest_does_not() -> None:
    ranks = {0: {"a": 1, "b": 1}, 1: {"a": 2, "b": 1}}
    assert isinstance(Start(2, only=["b"]).hold(ranks)[0], dict)
    assert Start(2, only=["a"]).hold(ranks)[1].field == "a"
    assert Start(2, only=[]).hold(ranks, names={1: "gate 2a"})[0].field == "gate"


def test_a_rank_at_another_gate_is_in_the_table() -> None:
    came = Start(3).hold({0: {}, 1: {}, 2: {}}, names={2: "gate 2a"})
    assert '  gate  "gate 2a"  2' in str(came[0])
    assert came[0].rank == 2
    assert {str(outcome) for outcome in came.values()} == {str(came[0])}


def test_ranks_that_do_not_come_are_named_with_the_phase_they_had_reached() -> None:
    start = Start(4, phases={1: "load", 3: "rendezvous"}.__getitem__)
    came = start.hold({0: {}, 2: {}}, within_s=SOON_S)
    said = "gate 1: ranks 1 (load), 3 (rendezvous) did not come within 0.5 s; look at what the named ranks printed"
    for rank in (0, 2):
        assert isinstance(came[rank], GateMissed)
        assert said in str(came[rank])
        assert (came[rank].rank, came[rank].exit_code) == (1, 13)


def test_a_rank_0_that_does_not_come_is_named() -> None:
    began = time.monotonic()
    came = Start(2).hold({1: {}}, within_s=SOON_S)
    assert isinstance(came[1], GateMissed)
    assert came[1].rank == 0
    assert 2 * SOON_S <= time.monotonic() - began < 2 * SOON_S + 2


def test_a_worker_that_comes_early_waits_for_a_rank_0_that_comes_late() -> None:
    start = Start(3)

    def late() -> Any:
        time.sleep(SOON_S / 2)
        return start.keeper.hold("gate 1", {}, within_s=SOON_S)

    early = lambda: start.guests[1].pass_("gate 1", {}, within_s=SOON_S)  # noqa: E731
    came = together({0: late, 1: early})
    assert isinstance(came[0], GateMissed)
    assert str(came[1]) == str(came[0])
    assert came[1].rank == 2


@pytest.mark.parametrize("rank", [1, 2])
def test_a_rank_that_dies_before_the_gate_ends_the_wait_at_once(rank: int) -> None:
    start = Start(3)
    start.theirs[rank].close()
    began = time.monotonic()
    came = start.hold({other: {} for other in (0, 1, 2) if other != rank})
    assert time.monotonic() - began < 2
    for outcome in came.values():
        assert isinstance(outcome, LinkBroken)
        assert outcome.rank == rank


def test_a_rank_0_that_dies_is_noticed_by_those_who_wait() -> None:
    start = Start(2)
    start.ours[1].close()
    (outcome,) = start.hold({1: {}}).values()
    assert isinstance(outcome, LinkBroken)
    assert outcome.rank == 0


def test_a_rank_that_cannot_come_says_why_in_place_of_its_manifest() -> None:
    """Everybody ends with its error, and its exit code, not with a deadline."""
    start = Start(3)
    last_word(start.theirs[1], CheckpointMissing("no checkpoint here"))
    came = start.hold({0: {}, 2: {}})
    for outcome in came.values():
        assert isinstance(outcome, CheckpointMissing)
        assert str(outcome) == "GL-CKPT-01: rank 1: no checkpoint here; check the path given to --model"


def test_a_rank_that_cannot_come_is_not_waited_out() -> None:
    """The others may be waiting for it, and would only be named in its place."""
    start = Start(3)
    last_word(start.theirs[1], CheckpointMissing("no checkpoint here"))
    began = time.monotonic()
    (outcome,) = start.hold({0: {}}).values()
    assert time.monotonic() - began < 2
    assert isinstance(outcome, CheckpointMissing)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"garbage",
        b"[]",
        b"{}",
        b'{"manifest":{}}',
        b'{"manifest":{"a":[1]},"report":{}}',
        b'{"manifest":[],"report":{}}',
        b'{"manifest":{"a":null},"report":{}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_is_refused_and_its_sender_named(frame: bytes) -> None:
    start = Start(3)
    start.theirs[1].send(frame, within_s=LONG_S)
    came = start.hold({0: {}, 2: {}})
    for outcome in came.values():
        assert isinstance(outcome, FrameRefused)
        assert outcome.rank == 1


@pytest.mark.parametrize("word", [b"garbage", b'{"pass":"gate 2a"}', b'{"pass":1}', b'{"code":"GL-00"}'])
def test_a_word_that_is_none_of_rank_0_s_is_refused(word: bytes) -> None:
    start = Start(2)
    start.ours[1].send(word, within_s=LONG_S)
    (outcome,) = start.hold({1: {}}).values()
    assert isinstance(outcome, FrameRefused)


def test_a_manifest_that_cannot_be_sent_is_refused_by_its_own_rank() -> None:
    came = Start(2).hold({1: {str(number): "x" * 4000 for number in range(300)}})
    assert isinstance(came[1], FrameRefused)


@pytest.mark.parametrize(
    "error", [GateRefused("a\nb", field="x", rank=3), LinkTimeout("late", where="gate", remedy="?")]
)
def test_an_error_is_the_same_on_every_rank(error: GenlockError) -> None:
    start = Start(2)
    last_word(start.theirs[1], error)
    came = start.hold({0: {}})
    heard = GateGuest(start.theirs[1])
    (outcome,) = together({1: lambda: heard.pass_("gate 1", {}, within_s=LONG_S)}).values()
    assert type(outcome) is type(error)
    assert str(outcome) == str(came[0])
