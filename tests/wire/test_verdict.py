"""Verdicts: what is written is read, nothing else is, and whoever is odd is named."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from genlock.errors import EnvelopeRefused, FrameRefused, MeshDisagrees
from genlock.wire.verdict import DIGEST_MOST, PLANNED, REFERENCE, VERDICT_BYTES, Verdict, compare, unpack

COLUMNS = [field.name for field in fields(Verdict)]
RIGHT = Verdict(
    call_id=7,
    prepared=2**126 + 5,
    observed_calls=5,
    ledger=2**127 + 3,
    end_abs=21,
    end=9,
    inputs=True,
    weights=True,
    kv=True,
    outputs=2**99,
)

digests = st.integers(0, DIGEST_MOST)
flags = st.sampled_from((None, True, False))
verdicts = st.builds(
    Verdict,
    **{name: st.integers(0, 2**63 - 1) for name in PLANNED if name not in ("prepared", "ledger")},
    prepared=digests,
    ledger=digests,
    **dict.fromkeys(REFERENCE, flags),
    outputs=st.none() | digests,
)
good = verdicts.map(lambda v: replace(v, **{name: None if getattr(v, name) is None else True for name in REFERENCE}))


def another(column: str, value: Any) -> Any:
    """A value that the column may have and that is not this one."""
    if column in REFERENCE:
        return value is False
    if column == "outputs":
        return 1 if value is None else value ^ 1
    return value ^ 1


@given(verdicts)
def test_what_is_written_is_read(verdict: Verdict) -> None:
    record = verdict.pack()
    assert len(record) == VERDICT_BYTES
    assert unpack(record) == verdict


@given(verdicts, st.sampled_from(COLUMNS))
def test_every_field_is_in_the_record(verdict: Verdict, column: str) -> None:
    other = replace(verdict, **{column: another(column, getattr(verdict, column))})
    assert other.pack() != verdict.pack()
    assert unpack(other.pack()) == other


def test_a_column_that_is_not_held_to_is_let_through_alone() -> None:
    other = replace(RIGHT, observed_calls=RIGHT.observed_calls + 1)
    compare(RIGHT, {1: other}, unheld=["observed_calls"])
    with pytest.raises(MeshDisagrees, match=r"rank 1.*ledger"):
        compare(RIGHT, {1: replace(other, ledger=0)}, unheld=["observed_calls"])


@given(st.data())
def test_a_flipped_bit_is_another_verdict_or_none(data: st.DataObject) -> None:
    verdict = data.draw(verdicts)
    record = bytearray(verdict.pack())
    record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = unpack(bytes(record))
    except (FrameRefused, EnvelopeRefused):
        return
    assert read != verdict


OTHER_VERSION = RIGHT.pack()[:4] + b"\x7f\x00" + RIGHT.pack()[6:]


@pytest.mark.parametrize("record", [b"", bytes(VERDICT_BYTES), OTHER_VERSION, RIGHT.pack()[:-1], RIGHT.pack() + b"\0"])
def test_what_is_no_verdict_is_refused(record: bytes) -> None:
    with pytest.raises(FrameRefused, match="verdict"):
        unpack(record)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", ["1", 1.5, -1, 2**200])
def test_a_field_out_of_its_form_is_named(column: str, value: object) -> None:
    with pytest.raises(EnvelopeRefused) as refusal:
        replace(RIGHT, **{column: value})
    assert refusal.value.field == column


@given(good, st.integers(1, 8))
def test_equal_ranks_agree(verdict: Verdict, size: int) -> None:
    compare(verdict, dict.fromkeys(range(1, size), verdict))


@given(good, st.sampled_from(COLUMNS), st.integers(3, 8), st.data())
def test_the_one_rank_that_differs_is_named(verdict: Verdict, column: str, size: int, data: st.DataObject) -> None:
    """From three ranks up, whichever rank it is, rank 0 too."""
    odd = data.draw(st.integers(0, size - 1))
    ranks = dict.fromkeys(range(size), verdict)
    ranks[odd] = replace(verdict, **{column: another(column, getattr(verdict, column))})
    with pytest.raises(MeshDisagrees) as end:
        compare(ranks.pop(0), ranks)
    assert (end.value.field, end.value.rank, end.value.exit_code) == (column, odd, 10)
    assert str(end.value).startswith(f"GL-MESH-03: rank {odd}, ")


@given(good, st.sampled_from(COLUMNS))
def test_of_two_ranks_the_worker_is_named_where_there_is_a_reference(verdict: Verdict, column: str) -> None:
    other = replace(verdict, **{column: another(column, getattr(verdict, column))})
    assume(column != "outputs" or verdict.outputs is None)  # whether it was looked at does follow from the plan
    with pytest.raises(MeshDisagrees) as end:
        compare(verdict, {1: other})
    assert (end.value.field, end.value.rank) == (column, 1)


@given(good, digests, digests)
def test_of_two_outputs_none_is_named_and_the_next_step_is_said(verdict: Verdict, ours: int, theirs: int) -> None:
    assume(ours != theirs)
    with pytest.raises(MeshDisagrees) as end:
        compare(replace(verdict, outputs=ours), {1: replace(verdict, outputs=theirs)})
    assert (end.value.field, end.value.rank) == ("outputs", None)
    for said in (f"{ours:032x} on rank 0", f"{theirs:032x} on rank 1", "no rank is in the minority", "weights"):
        assert said in str(end.value)


@given(good, st.lists(st.integers(0, 2), min_size=2, max_size=8))
def test_of_outputs_whoever_is_not_in_the_majority_is_named(verdict: Verdict, outputs: list[int]) -> None:
    assume(len(set(outputs)) > 1)
    counts = Counter(outputs).most_common()
    majority = counts[0][0] if counts[0][1] > counts[1][1] else None
    odd = None if majority is None else next(rank for rank, value in enumerate(outputs) if value != majority)
    ranks = {rank: replace(verdict, outputs=value) for rank, value in enumerate(outputs)}
    with pytest.raises(MeshDisagrees) as end:
        compare(ranks.pop(0), ranks)
    assert end.value.rank == odd


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("column", [*REFERENCE, "outputs"])
def test_a_rank_that_looks_in_another_chunk_than_the_others_has_lost_count(column: str, odd: int) -> None:
    looked = replace(RIGHT, **dict.fromkeys(REFERENCE, True))
    ranks = {rank: replace(looked, **{column: None}) if rank == odd else looked for rank in range(3)}
    with pytest.raises(MeshDisagrees, match=rf"{column} \(was it looked at\)") as end:
        compare(ranks.pop(0), ranks)
    assert (end.value.field, end.value.rank) == (column, odd)


def test_a_cause_is_named_before_what_follows_from_it() -> None:
    """One changed weight leaves everybody's latents wrong and equal; its own reference tells whose it is."""
    changed = replace(RIGHT, weights=False, kv=False, ledger=1, outputs=5)
    with pytest.raises(MeshDisagrees, match=r"rank 2.*: weights: its weights are no longer what was loaded") as end:
        compare(RIGHT, {1: replace(RIGHT, outputs=4), 2: changed})
    assert (end.value.field, end.value.rank) == ("weights", 2)


def test_all_ranks_that_found_themselves_wrong_are_named() -> None:
    wrong = replace(RIGHT, kv=False)
    with pytest.raises(MeshDisagrees, match="kv: ranks 0, 2: its keys and values changed without a write"):
        compare(wrong, {1: RIGHT, 2: wrong})
