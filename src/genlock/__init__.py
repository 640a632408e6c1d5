"""Genlock: live video from prompts, by a generator that may be sharded over many ranks kept in lockstep.

    import genlock

    with genlock.open(seed=7) as session:
        session.prompt("a red balloon over the sea at noon")
        session.prompt("a red balloon over the sea at night", at=4.0, transition=1.0)
        for chunk in session.stream(seconds=8.0):
            show(chunk.frames)  # uint8 [T, height, width, 3]

The public names are resolved on first use, so that importing the package costs nothing: torch and the models load when
a session is opened, and a worker that never opens one never loads them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genlock.engine.session import Chunk, Session, open
    from genlock.errors import GenlockError

__version__ = "0.1.0"
__all__ = ["Chunk", "GenlockError", "Session", "__version__", "open"]

_HOMES = {
    "Chunk": "genlock.engine.session",
    "GenlockError": "genlock.errors",
    "Session": "genlock.engine.session",
    "open": "genlock.engine.session",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'genlock' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # found once; the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
