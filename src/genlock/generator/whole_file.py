"""A file that appears whole or not at all: written beside its place under another name, renamed at the end.

Knows nothing of what is written.
"""

from __future__ import annotations

import os
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
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _check_place(path)
        try:
            partial.touch()
            yield partial
            _flush(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputOutputError(f"cannot write: {error.strerror or error}", where=str(path)) from None


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
