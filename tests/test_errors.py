"""The hierarchy of errors: one line that says what, where and what to do."""

from __future__ import annotations

import pytest

from genlock.errors import EXIT_CODES, GenlockError, OutOfStep, PromptRefused, SizeRefused


def test_the_line_names_the_thing_then_the_remedy() -> None:
    error = SizeRefused("100x100 pixels: both sides must be multiples of 16", where="--width")
    assert str(error) == (
        "GL-SIZE-01: --width: 100x100 pixels: both sides must be multiples of 16; "
        "use a height and a width that are multiples of 16"
    )


def test_a_remedy_of_the_moment_goes_before_the_general_one() -> None:
    assert (
        str(PromptRefused("an empty prompt", remedy="say what to show"))
        == "GL-TEXT-01: an empty prompt; say what to show"
    )


def test_ids_are_said_where_they_are_known() -> None:
    error = OutOfStep("expected call 8, received 7", rank=0, call_id=7, chunk_index=0, field="call_id")
    assert "rank 0, call 7, chunk 0: expected call 8" in str(error)
    assert (error.rank, error.call_id, error.chunk_index, error.field) == (0, 7, 0, "call_id")


def test_an_unexpected_error_is_a_defect_and_says_how_to_report_it() -> None:
    assert GenlockError.exit_code == 1
    assert "genlock doctor" in str(GenlockError("out of ideas"))


def every_exit_code(base: type[GenlockError] = GenlockError) -> set[int]:
    return {base.exit_code}.union(*(every_exit_code(sub) for sub in base.__subclasses__()))


def test_exit_codes_are_one_table() -> None:
    assert every_exit_code() <= set(EXIT_CODES)
    assert all(EXIT_CODES.values())


def test_errors_can_be_caught_by_what_the_caller_can_do() -> None:
    with pytest.raises(GenlockError, match="GL-SIZE-01"):
        raise SizeRefused("0x0 pixels")
