"""A file that appears whole or not at all: written beside its place under another name, renamed at the end.

Knows nothing of what is written.
"""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genlock.errors import InputOutputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on leaving, it becomes `path`. On any error nothing of it is left.

    Raises InputOutputError for a missing or read-only folder, a folder in the file's place, and for any OSError (a
    full disk) inside the block.
    """
    path = Path(path)
    partial = _partial(path, str(os.getpid()))
    try:
        _check_place(path)
        sweep(path)
        try:
            partial.touch()
            yield partial
            _flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputOutputError(f"cannot write: {error.strerror or error}", where=str(path)) from None


def sweep(path: Path) -> None:
    """Removes what processes of this host that were killed have left of `path`. Raises OSError."""
    for left in path.parent.glob(_partial(Path(glob.escape(path.name)), "*").name):
        pid = left.suffixes[-2].removeprefix(".")
        if pid.isdecimal() and not _lives(int(pid)):
            left.unlink(missing_ok=True)


def _partial(path: Path, pid: str) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}.{pid}.partial")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _check_place(path: Path) -> None:
    if "\0" in str(path):
        raise InputOutputError(f"{str(path)!r} is no file name", remedy="give a name without a null character")
    if not path.parent.is_dir():
        raise InputOutputError("no such folder", where=str(path.parent), remedy="create the folder first")
    if path.is_dir():
        raise InputOutputError("is a folder, not a file", where=str(path), remedy="give a file name")
    if path.exists() and not path.is_file():
        raise InputOutputError("is not a regular file", where=str(path), remedy="give the name of an ordinary file")


def _flush(partial: Path) -> None:
    """Bytes reach the disk before the name does, so that a power cut cannot leave a named, empty file."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
