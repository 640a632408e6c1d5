"""The flight recorder: what was noted is there after the process has gone, however it went; damage costs one note."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import InputOutputError
from genlock.observe.recorder import HEAD_BYTES, SLOT_BYTES, Entry, Recorder, read

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
    recorder = Recorder(path, slots)
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
    recorder = Recorder(path, 8)
    for op in range(8):
        recorder.note("x", op=op)
    recorder.close()
    torn = bytearray(path.read_bytes())
    place = data.draw(st.integers(min_value=HEAD_BYTES + SLOT_BYTES, max_value=len(torn) - 1))
    torn[place] ^= data.draw(st.integers(min_value=1, max_value=255))
    path.write_bytes(torn[: data.draw(st.integers(min_value=place + 1, max_value=len(torn)))])
    hit = (place - HEAD_BYTES) // SLOT_BYTES - 1
    assert hit not in [entry.op for entry in read(path)]
    assert [entry.op for entry in read(path)][:hit] == list(range(hit))


def test_many_threads_note_at_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.bin", 1000)
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
        "for op in range(20): recorder.note('collective', call_id=3, op=op, text='blocks.0.o')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.bin")], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [entry.op for entry in read(tmp_path / "r.bin")] == list(range(4, 20))


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
