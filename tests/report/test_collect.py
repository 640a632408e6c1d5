"""The arithmetic of a report on spans made up: each instant belongs to one part, and a page stays small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import InputOutputError
from genlock.observe.recorder import MARK, PHASE, SPAN, Entry, Recorder, recorder_path
from genlock.observe.run_folder import PICTURES_MOST, RunNotes
from genlock.observe.timeline import chrome_trace, read_timeline
from genlock.observe.trace import DELIVERED, GENERATE, VAE_DECODE
from genlock.report.collect import CHUNKS_MOST, FIRST_CHUNKS, SPANS_MOST, collect
from genlock.report.page import report_page
from genlock.report.parts import chunk_times, fits, own_time
from genlock.settings import Phase

PAGE_MOST = 400_000  # bytes, without pictures


def entry(kind: str, text: str, began_s: float, until_s: float, chunk: int = 0, op: int = -1) -> Entry:
    return Entry(number=1, seconds=began_s, until_s=until_s, call_id=1, chunk=chunk, op=op, kind=kind, text=text)


@st.composite
def nested(draw: st.DrawFn) -> list[Entry]:
    """Spans as one thread makes them: inside each other or apart."""
    made: list[Entry] = []
    open_: list[tuple[int, str]] = []
    for moment in range(draw(st.integers(min_value=0, max_value=30))):
        if open_ and draw(st.booleans()):
            began, name = open_.pop()
            made.append(entry(SPAN, name, float(began), float(moment)))
        else:
            open_.append((moment, draw(st.sampled_from(["a", "b", "c"]))))
    return made


@given(nested())
def test_each_instant_belongs_to_the_innermost_span(spans: list[Entry]) -> None:
    pieces = own_time(spans)
    for instant in range(30):
        middle = instant + 0.5
        around = [s for s in spans if s.until_s is not None and s.seconds < middle < s.until_s]
        found = [name for began_s, until_s, name in pieces if began_s < middle < until_s]
        assert found == ([max(around, key=lambda span: span.seconds).text] if around else [])


def stream(chunks: int, generate_s: float, decode_s: float, hidden_s: float) -> list[Entry]:
    """A stream whose decode takes `decode_s`, of which the next generation hides `hidden_s`."""
    made, now_s = [], 0.0
    for chunk in range(chunks):
        made.append(entry(SPAN, GENERATE, now_s, now_s + generate_s, chunk))
        done_s = now_s + generate_s + decode_s - hidden_s
        if hidden_s < decode_s:
            made.append(entry(SPAN, VAE_DECODE, now_s + generate_s, done_s, chunk))
        made.append(entry(MARK, DELIVERED, done_s, done_s, chunk, op=12))
        now_s = done_s
    return made


def test_the_arithmetic_that_fits_comes_first() -> None:
    alone = fits(chunk_times(stream(8, generate_s=0.4, decode_s=0.3, hidden_s=0.0)))
    assert (alone[0].formula, round(alone[0].says_ms), round(alone[0].off, 6)) == ("G + V + E", 700, 0)
    hidden = fits(chunk_times(stream(8, generate_s=0.4, decode_s=0.3, hidden_s=0.3)))
    assert all(round(fit.says_ms) == 400 for fit in hidden)
    assert fits([]) == []


def recorded(folder: Path, rank: int, spans: list[Entry]) -> None:
    recorder = Recorder(recorder_path(folder, rank), 8, spans=64)
    for each in spans:
        ids = {"call_id": each.call_id, "chunk": each.chunk, "op": each.op}
        span = recorder.begin(each.kind, began_s=each.seconds, text=each.text, **ids)
        if each.until_s is not None:
            recorder.end(span, each.until_s)
    recorder.close()


def test_the_span_of_a_stopped_rank_goes_on_to_the_end_of_the_run(tmp_path: Path) -> None:
    """Not to its own last note, which is where that span begins: nothing would be seen of it."""
    recorded(tmp_path, 0, [entry(PHASE, Phase.LAUNCH, 5.0, 6.0), entry(PHASE, Phase.CALL, 11.0, 20.0)])
    stopped = replace(entry(PHASE, Phase.CALL, 11.0, 0.0), until_s=None)
    recorded(tmp_path, 1, [entry(PHASE, Phase.LAUNCH, 5.0, 6.0), stopped])
    held = collect(tmp_path)
    drawn = [(began, length) for rank, *_, began, length, _, _, _, ended in held["spans"] if rank == 1 and not ended]
    assert drawn == [(6_000_000, 9_000_000)]
    assert [rank["seen_s"] for rank in held["ranks"]] == [15.0, 6.0]
    traced = [e for e in chrome_trace(read_timeline(tmp_path))["traceEvents"] if "never ended" in e["args"]]
    assert [(event["pid"], event["ts"], event["dur"]) for event in traced] == [(1, 6e6, 9e6)]


@pytest.mark.parametrize(
    ("chunks", "counts"),
    [
        (1, {"periods": 0, "steady": False, "longest_ms": None, "timed_chunks": 0, "late_chunks": None}),
        (2, {"periods": 1, "steady": False, "longest_ms": None, "timed_chunks": 1, "late_chunks": 1}),
        (4, {"periods": 2, "steady": True, "longest_ms": 1000.0, "timed_chunks": 3, "late_chunks": 3}),
    ],
)
def test_a_figure_of_one_period_is_not_said_twice(tmp_path: Path, chunks: int, counts: dict[str, object]) -> None:
    figures = collect(long_run(tmp_path, chunks))["figures"]
    assert {name: figures[name] for name in counts} == counts
    assert figures["period_p95_ms"] is None, "of so few it would be the longest"


def long_run(folder: Path, chunks: int) -> Path:
    recorder = Recorder(recorder_path(folder, 0), 8, spans=16384)
    notes = RunNotes(folder, {"model": "m", "fps": 16.0})
    for chunk in range(chunks):
        began_s = 10.0 + chunk
        for text in (Phase.ACCEPT, Phase.PAYLOAD, Phase.CALL, Phase.VERDICT):
            recorder.end(recorder.begin(PHASE, began_s=began_s, call_id=chunk, chunk=chunk, text=text), began_s + 0.2)
        for _ in range(6):
            span = recorder.begin(SPAN, began_s=began_s, call_id=chunk, chunk=chunk, text="denoise")
            recorder.end(span, began_s + 0.1)
        done = recorder.begin(MARK, began_s=began_s + 0.5, call_id=chunk, chunk=chunk, op=12, text=DELIVERED)
        recorder.end(done, began_s + 0.5)
        if notes.wants(chunk):
            notes.picture(chunk, b"\xff\xd8 no picture")
    recorder.close()
    return folder


def test_the_page_of_a_long_run_stays_small(tmp_path: Path) -> None:
    held = collect(long_run(tmp_path, 1200))
    assert len(held["spans"]) <= SPANS_MOST
    assert held["spans_left_out"] > 0
    shown = {span[7] for span in held["spans"]}
    assert {*range(FIRST_CHUNKS)} | {1199} <= shown
    assert len(held["chunks"]) == CHUNKS_MOST
    assert (held["chunks_left_out"], held["chunks_lost"], held["ended"]) == (1200 - CHUNKS_MOST, 0, False)
    assert held["figures"]["frames"] == 12 * 1200
    assert held["figures"]["period_p95_ms"] == pytest.approx(1000)
    assert PICTURES_MOST / 2 <= len(held["pictures"]) <= PICTURES_MOST
    assert len(report_page([{**held, "pictures": {}}])) < PAGE_MOST


def test_words_of_a_run_are_data_and_never_markup(tmp_path: Path) -> None:
    folder = long_run(tmp_path / "</title><b>", 3) if (tmp_path / "</title><b>").mkdir(parents=True) is None else None
    assert folder is not None
    RunNotes(folder, {"model": "</script><script>alert(1)</script>"}).shown(chunk=0, at_s=0.0, words="<!-- & </script>")
    page = report_page([collect(folder)])
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b>" not in page
    data = page.split('type="application/json">')[1].split("</script>")[0]
    assert json.loads(data)[0]["about"]["model"] == "</script><script>alert(1)</script>"


def test_what_is_missing_or_damaged_is_left_out(tmp_path: Path) -> None:
    long_run(tmp_path, 3)
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "rank0.json").write_text("[]")
    (tmp_path / "failure.json").write_bytes(b"\xff")
    held = collect(tmp_path)
    assert (held["about"], held["failure"], held["asked"], held["figures"]["chunks"]) == ({}, None, [], 3)
    assert report_page([held])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputOutputError, match="no flight recorder is here"):
        collect(tmp_path / "none")
