"""What the messages of gloo, NCCL and the system mean: a rank that is gone, or one that did not come. No torch.

None of them says which rank it was; whoever watches the ranks does. A message may speak of both (an operation that ran
out of time and was then aborted): the time is the cause.
"""

from __future__ import annotations

from genlock.errors import LinkBroken, RankSilent

_SILENT = ("timed out", "timeout")
_GONE = (
    "closed by peer",
    "reset by peer",
    "connection closed",
    "connection reset",
    "connection refused",
    "socket closed",
    "broken pipe",
    "remote process",
    "aborted",
)


def meaning(text: str) -> type[RankSilent | LinkBroken] | None:
    """The error that a message stands for; None if it speaks of neither."""
    words = text.lower()
    if any(word in words for word in _SILENT):
        return RankSilent
    return LinkBroken if any(word in words for word in _GONE) else None
