"""Recorders side by side: the first difference is found by place, whatever the rings have lost and whenever it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import InputOutputError
from genlock.observe.merge import NOTHING, merge, merged_text, read_run
from genlock.observe.recorder import BEACON, COLLECTIVE, FAILURE, Entry, Recorder, recorder_path

SITES = ("q", "o", "ffn")


def run(calls: int, ops: int) -> list[Entry]:
    """What a rank notes in a run of `calls` calls of `ops` collectives, with a beacon and other notes between."""
    entries: list[Entry] = []
    for call_id in range(calls):
        entries.append(note("phase", call_id, 0, "generator call"))
        entries += [note(COLLECTIVE, call_id, op, SITES[op % 3]) for op in range(1, ops + 1)]
    return entries


def note(kind: str, call_id: int, op: int, text: str, *, seconds: float = 1.0, ended: bool = True) -> Entry:
    until_s = seconds + 0.5 if ended and kind == COLLECTIVE else None
    return Entry(
        number=1, seconds=seconds, call_id=call_id, chunk=call_id, op=op, kind=kind, text=text, until_s=until_s
    )


sizes = st.integers(min_value=1, max_value=4)


@given(sizes, sizes, st.integers(min_value=1, max_value=4), st.data())
def test_equal_ranks_have_no_difference_whatever_their_rings_lost(
    calls: int, ops: int, ranks: int, data: st.DataObject
) -> None:
    whole = run(calls, ops)
    held = {rank: whole[data.draw(st.integers(min_value=0, max_value=len(whole) - 1)) :] for rank in range(ranks)}
    merged = merge(held)
    assert merged.place is None
    assert merged.compared <= calls * ops
    assert set(merged.last.values()) == {whole[-1]}


@given(sizes, sizes, st.data())
def test_the_first_difference_is_found(calls: int, ops: int, data: st.DataObject) -> None:
    places = [(call_id, op) for call_id in range(calls) for op in range(1, ops + 1)]
    wrong = data.draw(st.sampled_from(places))
    odd = data.draw(st.integers(min_value=0, max_value=2))
    held = {rank: run(calls, ops) for rank in range(3)}
    held[odd] = [
        note(e.kind, e.call_id, e.op, "other" if e.kind == COLLECTIVE and (e.call_id, e.op) >= wrong else e.text)
        for e in held[odd]
    ]
    merged = merge(held)
    assert merged.place == wrong
    assert [rank for rank, did in merged.did.items() if did == "other"] == [odd]
    assert merged.compared == places.index(wrong)


@given(sizes, sizes, st.data())
def test_a_rank_that_ended_early_did_nothing_there(calls: int, ops: int, data: st.DataObject) -> None:
    whole = run(calls, ops)
    cut = data.draw(st.integers(min_value=0, max_value=len(whole) - 1))
    merged = merge({0: whole, 1: whole[:cut]})
    left = [(e.call_id, e.op) for e in whole[cut:] if e.kind == COLLECTIVE]
    assert merged.place == left[0]
    assert merged.did[1] == NOTHING
    assert merged.last[1] == (whole[cut - 1] if cut else None)


def test_where_all_stand_in_one_collective_that_is_said() -> None:
    inside = note(COLLECTIVE, 1, 3, "ffn", ended=False)
    merged = merge({0: [*run(2, 2), inside, note(FAILURE, 1, 2, "GL-LINK-01")], 1: [*run(2, 2), inside]})
    assert (merged.place, merged.compared) == ((1, 3), 4)
    text = merged_text(merged)
    assert "all stand at call 1, collective 3, after 4 that are the same:" in text
    assert text.endswith("collective  call 1 chunk 1 op 3       ffn, entered and not finished")


def test_the_text_says_where_and_what_each_did_last() -> None:
    held = {0: run(2, 2), 1: [*run(2, 1), note(FAILURE, 1, 1, "GL-MEM-01 out of memory", seconds=0.25)]}
    held[0].append(Entry(number=0, seconds=9.0, call_id=1, chunk=1, op=2, kind=BEACON, text="idle"))
    text = merged_text(merge(held))
    assert "first difference at call 0, collective 2, after 1 that are the same:" in text
    assert "  rank 1  nothing" in text
    assert "-0.750 s  failure     call 1 chunk 1 op 1       GL-MEM-01 out of memory" in text
    assert "+0.000 s  collective  call 1 chunk 1 op 2       ffn" in text


def test_a_run_is_read_by_rank(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="no flight recorder is here"):
        read_run(tmp_path)
    for rank in (10, 2):
        recorder = Recorder(recorder_path(tmp_path, rank), 8)
        recorder.note(COLLECTIVE, call_id=1, op=rank)
        recorder.close()
    assert [(rank, entries[0].op) for rank, entries in read_run(tmp_path).items()] == [(2, 2), (10, 10)]
