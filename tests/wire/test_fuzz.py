"""A small, seeded sample of wrong frames in every run of the tests; `benchmarks/fuzz_wire` makes ten thousand.

And what the fuzz is worth: a reader that leaves out one of its checks is found by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.wire.fuzz import Tally, every_maker, fuzz

from genlock.drills.mutations import dumped
from genlock.wire import codec, header, lifecycle, prepare

SAMPLE = 800


def test_no_wrong_frame_is_taken_and_the_first_wrong_field_is_named() -> None:
    tally = fuzz(seed=11, count=SAMPLE)
    assert tally.fell_short() == []
    assert every_maker() <= tally.made.keys(), "each way of being wrong is tried"
    assert tally.made.total() >= SAMPLE
    assert min(tally.legal.total(), tally.left.total(), tally.named.total()) > 0
    assert len(tally.fields) > 30, "all over the frame"


def left_out(*_: Any, **__: Any) -> None:
    """In place of a check."""


class Fitting(bytes):
    """Whatever it is held against, it fits."""

    def __eq__(self, _: object) -> bool:
        return True

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def any_digest(_: Any) -> Fitting:
    return Fitting()


def any_form(content: Any) -> bytes:
    return Fitting(dumped(content))


@pytest.mark.parametrize(
    ("module", "check", "instead", "shown"),
    [
        (prepare, "_check_contents", left_out, "embeds_id"),
        (prepare, "tensor_digest", any_digest, "payload"),
        (header, "bytes_digest", any_digest, "digests left"),
        (header, "_check_sizes", left_out, "payload_bytes"),
        (lifecycle, "_compare_stamp", left_out, "call_id"),
        (lifecycle, "DERIVED", (), "scalar: it was taken"),
        (codec, "_keys", left_out, "keys"),
        (codec, "_dump", any_form, "another_form"),
    ],
)
def test_a_reader_without_one_of_its_checks_is_found(
    monkeypatch: pytest.MonkeyPatch, module: Any, check: str, instead: Callable[..., Any], shown: str
) -> None:
    fuzz(seed=12, count=1)  # the right frames are made by a sound sender
    monkeypatch.setattr(module, check, instead)
    tally: Tally = fuzz(seed=12, count=SAMPLE)
    assert any(shown in each for each in [*tally.fell_short(), *tally.misnamed])
