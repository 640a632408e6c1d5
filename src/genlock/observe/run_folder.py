"""The folder of one run: made new, for this user alone, and holding nothing of another run. No torch."""

from __future__ import annotations

from pathlib import Path

from genlock.errors import InputOutputError, UsageError


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
