"""The folder of one run: made new, for this user alone, holding nothing of another run; and what rank 0 notes in it.

What else is there: the recorder (`recorder.py`), account (`rank_file.py`) and cause of failure (`cause.py`) of each
rank. Knows no model and no picture's content. No torch.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genlock.errors import InputOutputError, UsageError
from genlock.observe.process import age_s

RUN_FILE, FAILURE_FILE = "run.json", "failure.json"  # of rank 0; of the supervisor, where the run failed
PICTURES_MOST, ASKED_MOST = 64, 200
VERSIONS_OF = ("genlock", "torch")


def new_folder(path: Path) -> Path:
    """The folder, absolute, made if need be. Raises UsageError for one that is not empty: what an earlier run left in
    it would be taken for this one's; InputOutputError for one that cannot be made."""
    path = path.absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty = not any(path.iterdir())
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be made", where=str(error.filename)) from None
    if not empty:
        raise UsageError("the run's folder is not empty", where=str(path), remedy="name a new one with GENLOCK_RUN_DIR")
    return path


def is_ours(folder: Path) -> bool:
    """A folder, no link, of this user, closed to others: nobody else can have put anything there."""
    try:
        seen = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & 0o077


def shared_folder(path: Path, *, rank: int, ranks: int) -> Path:
    """The folder, which each of a run's ranks names and the first of them makes, without what an earlier run left of
    this rank, or of one that there is not now. Raises InputOutputError for one that is somebody else's, or that cannot
    be made."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be made", where=str(path)) from None
    if not is_ours(path):
        raise InputOutputError(
            "somebody else's folder is in the way",
            where=str(path),
            remedy="name another with GENLOCK_RUN_DIR, or choose another TMPDIR",
        )
    _remove(path, [rank], least=ranks)
    return path


def leave_shared_folder(path: Path, *, rank: int) -> None:
    """Takes away what is this rank's, and the folder with the last rank's. Raises nothing."""
    with suppress(OSError):
        _remove(path, [rank])
        path.rmdir()


def _remove(folder: Path, ranks: Collection[int], *, least: int | None = None) -> None:
    """Every file of these ranks, and of all from `least` on. One that says no rank is rank 0's."""
    for path in folder.iterdir():
        named = re.search(r"rank(\d+)", path.name)
        rank = 0 if named is None else int(named[1])
        if rank in ranks or (least is not None and rank >= least):
            with suppress(OSError):
                path.unlink()


class RunNotes:
    """What rank 0 alone knows of a run, in its folder: `run.json`, and a small picture of each chunk's first frame.

    about: JSON values; when this process was started and the versions it runs are put before them. Both files are
    bounded: of a long run every second picture goes whenever there are too many, and of what was asked the newest is
    kept. Raises InputOutputError when it is made, not later: a stream does not end because nobody can write down how it
    goes.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder, self._about = folder, {"started": started(), "versions": versions(), **about}
        self._asked: list[dict[str, Any]] = []
        self._pictured: list[int] = []
        self._every = 1
        self._write()

    def shown(self, *, chunk: int, at_s: float, words: str) -> None:
        """A request took effect with this chunk, `at_s` seconds into the video."""
        self._asked = [*self._asked[1 - ASKED_MOST :], {"chunk": chunk, "at_s": at_s, "words": words}]
        with suppress(InputOutputError):
            self._write()

    def wants(self, chunk: int) -> bool:
        """Whether this chunk is to have a picture."""
        return chunk % self._every == 0

    def picture(self, chunk: int, jpeg: bytes) -> None:
        """Of a chunk that is wanted."""
        with suppress(InputOutputError):
            write_whole(self._place(chunk), jpeg)
        self._pictured.append(chunk)
        if len(self._pictured) > PICTURES_MOST:
            self._every *= 2
            for old in [number for number in self._pictured if not self.wants(number)]:
                with suppress(OSError):
                    self._place(old).unlink()
            self._pictured = [number for number in self._pictured if self.wants(number)]

    def _place(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.jpg"

    def _write(self) -> None:
        held = {**self._about, "asked": self._asked}
        write_whole(self.folder / RUN_FILE, (json.dumps(held, indent=1) + "\n").encode())


def started() -> str:
    """The time of day when this process was started, to the second."""
    return (datetime.now(UTC) - timedelta(seconds=age_s())).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """As installed; of what is not, nothing."""
    found = {}
    for name in VERSIONS_OF:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_whole(path: Path, content: bytes) -> None:
    """In place of what was there, at once. Raises InputOutputError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputOutputError(error.strerror or "cannot be written", where=str(path)) from None
