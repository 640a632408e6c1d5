"""The flight recorder: what was noted is there after the process has gone, however it went; damage costs one note."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import InputOutputError
from genlock.observe.recorder import HEAD_BYTES, SLOT_BYTES, SPAN, UNTIL_AT, Entry, Open, Recorder, read, read_writer

ids = st.integers(min_value=-1, max_value=2**40)
notes = st.lists(
    st.tuples(st.sampled_from(["phase", "collective", "x"]), ids, ids, ids, st.text(max_size=80)), max_size=40
)


def held(entry: Entry) -> tuple[str, int, int, int, str]:
    return entry.kind, entry.call_id, entry.chunk, entry.op, entry.text


@given(notes, st.integers(min_value=1, max_value=20))
def test_the_last_notes_are_kept_in_order(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, int, int, int, str]], slots: int
) -> None:
    path = tmp_path_factory.mktemp("recorder") / "r.bin"
    recorder = Recorder(path, slots, spans=4)
    for kind, call_id, chunk, op, text in made:
        recorder.note(kind, call_id=call_id, chunk=chunk, op=op, text=text)
    recorder.beacon(call_id=7, chunk=3, op=1, text="idle")
    recorder.close()
    *kept, beacon = read(path)
    shortened = [(k, c, n, o, t.encode()[:68].decode(errors="ignore").rstrip("\0")) for k, c, n, o, t in made]
    assert [held(entry) for entry in kept] == shortened[-slots:]
    assert [entry.number for entry in kept] == list(range(1, len(made) + 1))[-slots:]
    assert held(beacon) == ("beacon", 7, 3, 1, "idle")
    assert [e.seconds for e in kept] == sorted(e.seconds for e in kept)


@given(st.data())
def test_damage_costs_the_notes_that_it_hits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("recorder") / "r.bin"
    recorder = Recorder(path, 8, spans=4)
    for op in range(8):
        recorder.note("x", op=op)
    recorder.close()
    torn = bytearray(path.read_bytes())
    end = HEAD_BYTES + 9 * SLOT_BYTES  # of the notes; spans come after them
    place = data.draw(st.integers(min_value=HEAD_BYTES + SLOT_BYTES, max_value=end - 1))
    torn[place] ^= data.draw(st.integers(min_value=1, max_value=255))
    path.write_bytes(torn[: data.draw(st.integers(min_value=place + 1, max_value=len(torn)))])
    hit, within = divmod(place - HEAD_BYTES, SLOT_BYTES)
    kept = [entry.op for entry in read(path)]
    assert within >= UNTIL_AT or hit - 1 not in kept, "what is covered by the checksum"
    assert kept[: hit - 1] == list(range(hit - 1))


def test_many_threads_note_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.bin", 1000, spans=4)
    writers = [
        threading.Thread(target=lambda who=who: [recorder.note("x", call_id=who, op=op) for op in range(100)])
        for who in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = read(tmp_path / "r.bin")
    assert {(entry.call_id, entry.op) for entry in entries} == {(who, op) for who in range(8) for op in range(100)}
    recorder.close()


def test_a_killed_process_leaves_its_notes(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from genlock.observe.recorder import Recorder\n"
        "recorder = Recorder(Path(sys.argv[1]), 16)\n"
        "for op in range(20): inside = recorder.note('collective', call_id=3, op=op, text='blocks.0.o')\n"
        "recorder.end((inside[0] - 1, inside[1] - 1), 5.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.bin")], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [entry.op for entry in read(tmp_path / "r.bin")] == list(range(4, 20))
    assert [entry.op for entry in read(tmp_path / "r.bin") if entry.until_s == 5.0] == [18], "the last was not finished"


@given(st.lists(st.sampled_from(["begin", "end", "note"]), max_size=40), st.integers(min_value=1, max_value=6))
def test_spans_have_a_ring_of_their_own_and_keep_their_ends(
    tmp_path_factory: pytest.TempPathFactory, acts: list[str], slots: int
) -> None:
    path = tmp_path_factory.mktemp("recorder") / "r.bin"
    recorder = Recorder(path, 2, spans=slots)
    begun: list[tuple[float, float | None]] = []  # beginning and end, as they should be read
    handles: list[Open] = []
    for moment, act in enumerate(acts):
        if act == "begin":
            handles.append(recorder.begin(SPAN, began_s=float(moment), chunk=moment, text="plan"))
            begun.append((float(moment), None))
        elif act == "end" and (still := [n for n, (_, until_s) in enumerate(begun) if until_s is None]):
            number = still[moment % len(still)]  # any that is open, also one whose slot a later one has taken
            recorder.end(handles[number], float(moment))
            begun[number] = begun[number][0], float(moment)
        else:
            recorder.note("collective", op=moment)
    recorder.close()
    spans = [entry for entry in read(path) if entry.kind == SPAN]
    assert [(entry.seconds, entry.until_s) for entry in spans] == begun[-slots:]
    assert [entry.chunk for entry in spans] == [int(entry.seconds) for entry in spans]


def test_a_killed_process_leaves_the_span_it_was_in(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from genlock.observe.recorder import Recorder; from genlock.observe.trace import Trace\n"
        "from genlock.settings import Phase\n"
        "trace = Trace(Recorder(Path(sys.argv[1])))\n"
        "trace.phase(Phase.CALL, call_id=7, chunk=3)\n"
        "with trace.span('denoise'): pass\n"
        "trace.span('denoise').__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "r.bin"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    spans = [(entry.text, entry.call_id, entry.chunk, entry.until_s is None) for entry in read(path)]
    assert spans == [("generator call", 7, 3, True), ("denoise", 7, 3, False), ("denoise", 7, 3, True)]
    writer = read_writer(path)
    assert writer.pid != os.getpid()
    assert writer.host == socket.gethostname()[:40]
    assert abs(writer.wall_offset_s + read(path)[0].seconds - path.stat().st_mtime) < 120, "the time of day"


def test_what_is_no_recorder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="No such file"):
        read(tmp_path / "none.bin")
    (tmp_path / "other.bin").write_bytes(b"x" * 4096)
    with pytest.raises(InputOutputError, match="not a flight recorder"):
        read(tmp_path / "other.bin")
    with pytest.raises(InputOutputError, match="no flight recorder: No such file"):
        Recorder(tmp_path / "no" / "r.bin", 4)


def test_a_full_disk_is_found_before_the_first_note(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from genlock.observe.recorder import Recorder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "Recorder(Path(sys.argv[1]), 4096)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "r.bin")], timeout=60, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert "GL-IO-01" in ended.stderr
