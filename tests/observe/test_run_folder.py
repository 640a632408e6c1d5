"""What is noted of a run beside its recorder: whole or not there, bounded, and never a reason to end a stream."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from genlock.errors import InputOutputError, UsageError
from genlock.observe.rank_file import Moment, RankFile, read_rank_files
from genlock.observe.run_folder import (
    ASKED_MOST,
    PICTURES_MOST,
    RunNotes,
    leave_shared_folder,
    new_folder,
    shared_folder,
)
from genlock.observe.trace import Trace
from genlock.settings import Phase


def test_a_folder_is_new_or_empty(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert new_folder(tmp_path / "a" / "b")
    with pytest.raises(UsageError, match="the run's folder is not empty"):
        new_folder(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputOutputError):
        new_folder(tmp_path / "file")


def test_a_folder_that_ranks_share_has_nothing_of_an_earlier_run_and_goes_with_the_last_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for rank in range(4):  # an earlier and larger run, of which one rank is still there
        shared_folder(folder, rank=rank, ranks=4)
        (folder / f"recorder-rank{rank}.bin").touch()
    (folder / "run.json").touch()
    assert folder.stat().st_mode & 0o777 == 0o700

    def left() -> set[str]:
        return {path.name for path in folder.iterdir()}

    shared_folder(folder, rank=1, ranks=2)
    assert left() == {"recorder-rank0.bin", "run.json"}, "rank 0's own, which it clears itself"
    (folder / "recorder-rank1.bin").touch()
    shared_folder(folder, rank=0, ranks=2)
    assert left() == {"recorder-rank1.bin"}
    (folder / "chunk-000001.jpg").touch()
    (folder / ".rank0.json.17").touch()
    leave_shared_folder(folder, rank=0)
    assert left() == {"recorder-rank1.bin"}
    leave_shared_folder(folder, rank=1)
    assert not folder.exists()
    leave_shared_folder(folder, rank=1)


@pytest.mark.parametrize("trap", ["a link", "open to others", "another user's", "a file"])
def test_a_folder_that_somebody_else_made_first_is_refused(tmp_path: Path, trap: str) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret"
    secret.mkdir(mode=0o700)
    if trap == "a link":
        folder.symlink_to(secret)
    elif trap == "a file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o777 if trap == "open to others" else 0o700)
    if trap == "another user's":
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(folder, 12345, -1)
    with pytest.raises(InputOutputError, match=str(folder)):
        shared_folder(folder, rank=0, ranks=2)


def test_an_account_is_written_when_ready_when_warm_and_at_the_end(tmp_path: Path) -> None:
    moments = iter(float(second) for second in range(100))
    trace = Trace(clock=lambda: next(moments))
    account = RankFile(tmp_path, trace, rank=1, about={"model": "m"}, device_memory=lambda: {"cuda_reserved_peak": 7})
    trace.phase(Phase.LOAD)
    trace.phase(Phase.IDLE)
    account.write(Moment.READY)
    for chunk in range(3):
        trace.phase(Phase.CALL, call_id=chunk, chunk=chunk)
        with trace.span("denoise"):
            pass
        trace.phase(Phase.IDLE)
        held = read_rank_files(tmp_path)[1]
        assert [*held["memory_bytes"]] == (["ready", "warm"] if chunk > 1 else ["ready"]), "warm once two are over"
    account.write(Moment.EXIT)
    held = read_rank_files(tmp_path)[1]
    assert (held["rank"], held["model"], held["start_s"], held["calls"]) == (1, "m", {"load": 1.0}, {"denoise": 3})
    assert {moment: memory["cuda_reserved_peak"] for moment, memory in held["memory_bytes"].items()} == {
        "ready": 7,
        "warm": 7,
        "exit": 7,
    }
    assert "genlock.observe.rank_file" in held["modules"]


def test_a_stream_does_not_end_because_its_folder_is_gone(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    account, notes = RankFile(folder, Trace(), rank=0, about={}), RunNotes(folder, {})
    shutil.rmtree(folder)
    for moment in (Moment.WARM, Moment.EXIT):
        account.write(moment)
    notes.shown(chunk=0, at_s=0.0, words="w")
    notes.picture(0, b"jpeg")
    with pytest.raises(InputOutputError):
        account.write(Moment.READY)
    with pytest.raises(InputOutputError):
        RunNotes(folder, {})


def test_nor_because_something_else_is_in_its_place(tmp_path: Path) -> None:
    """What is there no more is not the only way in which a file cannot be removed."""
    folder = new_folder(tmp_path / "run")
    account, notes = RankFile(folder, Trace(), rank=0, about={}), RunNotes(folder, {})
    for chunk in range(PICTURES_MOST):
        notes.picture(chunk, b"jpeg")
    shutil.rmtree(folder)
    folder.touch()
    notes.picture(PICTURES_MOST, b"jpeg")
    notes.shown(chunk=0, at_s=0.0, words="w")
    account.write(Moment.EXIT)


def test_the_notes_of_a_long_run_are_bounded(tmp_path: Path) -> None:
    notes = RunNotes(tmp_path, {"fps": 16.0})
    for chunk in range(1000):
        if notes.wants(chunk):
            notes.picture(chunk, b"jpeg")
    kept = sorted(int(path.stem.removeprefix("chunk-")) for path in tmp_path.glob("chunk-*.jpg"))
    assert PICTURES_MOST / 2 <= len(kept) <= PICTURES_MOST
    assert kept == [*range(0, 1000, kept[1])], "evenly spread, the first among them"
    for number in range(ASKED_MOST + 5):
        notes.shown(chunk=number, at_s=0.0, words="w")
    held = json.loads((tmp_path / "run.json").read_text())
    assert (held["fps"], [each["chunk"] for each in held["asked"]]) == (16.0, [*range(5, ASKED_MOST + 5)])
    assert not [*tmp_path.glob(".*")], "nothing half-written stays"
