"""Answers: exactly one of latents and a fault, echoed ids, and the rules of an envelope."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.wire.conftest import CASES

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused, GenlockError, OutOfStep
from genlock.wire.header import HEADER_BYTES, seal
from genlock.wire.kinds import Action, Plan
from genlock.wire.prepare import check_payload, prepare, prepare_notice, prepare_result, receive, receive_result
from genlock.wire.result import NAME_MAX, Fault, Result, check_answer, fault_of, no_verdicts
from genlock.wire.rules import INT64_MAX, TEXT_MAX

CASE = CASES["steady"]
GOOD = Result(
    ok=True,
    fault=None,
    call_id=5,
    chunk_index=3,
    cache_epoch=2,
    latents=torch.arange(192.0).reshape(3, 16, 2, 2),
    observed_generator_calls=4,
    start_frame=3,
    wait_seconds=0.25,
    payload_seconds=0.001,
    generation_seconds=0.1,
    verdicts=torch.arange(96, dtype=torch.uint8).reshape(2, 48),
)
FAULT = Fault(code="GL-WIRE-02", rank=1, field="call_id", text="call_id is 4, expected 5")
BAD = replace(GOOD, ok=False, fault=FAULT, latents=None, verdicts=no_verdicts())
PLAN = Plan.V1_GENERATOR_ONLY


@pytest.mark.parametrize("result", [GOOD, BAD, replace(GOOD, latents=torch.zeros(4, 16, 2, 2, dtype=torch.bfloat16))])
def test_an_answer_comes_back_as_it_was(result: Result) -> None:
    prepared = prepare_result(result, plan=PLAN)
    announced = receive_result(prepared.frame)
    for back in (prepared.unpack(), check_payload(announced, prepared.payload.clone())):
        for name in Result.__slots__:
            ours, theirs = getattr(result, name), getattr(back, name)
            assert type(ours) is type(theirs)
            if isinstance(ours, torch.Tensor):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
            else:
                assert ours == theirs


@pytest.mark.parametrize(
    ("result", "field", "value"),
    [
        (GOOD, "fault", FAULT),
        (BAD, "fault", None),
        (BAD, "fault", "broken"),
        (GOOD, "latents", None),
        (BAD, "latents", GOOD.latents),
        (GOOD, "latents", torch.zeros(3, 16, 2)),
        (GOOD, "latents", torch.zeros(3, 16, 2, 2, dtype=torch.float64)),
        (GOOD, "ok", 1),
        (GOOD, "ok", False),
        (BAD, "ok", True),
        (GOOD, "call_id", -1),
        (GOOD, "call_id", 1.0),
        (GOOD, "chunk_index", -2),
        (GOOD, "cache_epoch", True),
        (GOOD, "observed_generator_calls", None),
        (GOOD, "start_frame", -1),
        (GOOD, "wait_seconds", -0.1),
        (GOOD, "payload_seconds", 1),
        (GOOD, "generation_seconds", float("inf")),
        (GOOD, "verdicts", None),
        (GOOD, "verdicts", torch.zeros(2, 48)),
    ],
)
def test_a_wrong_field_is_named(result: Result, field: str, value: Any) -> None:
    with pytest.raises(EnvelopeRefused) as refusal:
        replace(result, **{field: value})
    assert refusal.value.field == field


@pytest.mark.parametrize("field", ["call_id", "chunk_index", "cache_epoch"])
def test_header_and_answer_say_the_same(field: str) -> None:
    prepared = prepare_result(GOOD, plan=PLAN)
    header = replace(prepared.header, **{field: getattr(prepared.header, field) + 1})
    frame = seal(
        header,
        prepared.frame[HEADER_BYTES:],
        payload_bytes=header.payload_bytes,
        payload_digest=header.payload_digest,
    )[1]
    with pytest.raises(EnvelopeRefused) as refusal:
        receive_result(frame)
    assert refusal.value.field == field


@pytest.mark.parametrize("result", [GOOD, BAD], ids=["good", "bad"])
def test_any_changed_byte_of_an_answer_is_refused(result: Result) -> None:
    prepared = prepare_result(result, plan=PLAN)
    for index in range(len(prepared.frame)):
        changed = bytearray(prepared.frame)
        changed[index] ^= 0x10
        with pytest.raises((DigestMismatch, FrameRefused)):
            receive_result(bytes(changed))
    for index in range(len(prepared.payload)):
        payload = prepared.payload.clone()
        payload[index] ^= 0x10
        with pytest.raises(DigestMismatch):
            check_payload(prepared.announced, payload)


def test_latents_resized_after_they_were_checked_are_found() -> None:
    result = replace(GOOD, latents=torch.zeros(3, 16, 2, 2))
    assert result.latents is not None
    result.latents.resize_(3, 64)
    with pytest.raises(EnvelopeRefused, match="latents"):
        prepare_result(result, plan=PLAN)


def test_an_answer_is_no_order_and_an_order_no_answer() -> None:
    with pytest.raises(GenlockError) as refusal:
        receive(prepare_result(GOOD, plan=PLAN).frame, CASE.state)
    assert refusal.value.field == "action"
    with pytest.raises(FrameRefused) as other:
        receive_result(prepare(CASE.envelope, CASE.state)[0].frame)
    assert other.value.field == "action"


def test_an_answer_is_to_its_envelope() -> None:
    envelope = CASE.envelope
    result = replace(GOOD, latents=torch.zeros_like(envelope.noise), observed_generator_calls=4)
    check_answer(result, envelope)
    check_answer(BAD, envelope)
    for field, value in (
        ("observed_generator_calls", 5),
        ("latents", torch.zeros(4, 16, 2, 2)),
        ("latents", envelope.noise.half()),
    ):
        with pytest.raises(EnvelopeRefused) as refusal:
            check_answer(replace(result, **{field: value}), envelope)
        assert refusal.value.field == field


def test_an_error_travels_as_one_line() -> None:
    error = OutOfStep("call_id is 4,\nexpected 5 " + "x" * TEXT_MAX, field="call_id", call_id=4, remedy="go home")
    fault = fault_of(error, rank=2)
    assert (fault.code, fault.rank, fault.field) == ("GL-WIRE-02", 2, "call_id")
    assert fault.text.startswith("GL-WIRE-02: call 4: call_id is 4, expected 5")
    assert len(fault.text) == TEXT_MAX
    assert fault_of(OutOfStep("late", rank=3), rank=2).rank == 3
    back = prepare_result(replace(BAD, fault=fault), plan=PLAN).unpack()
    assert back.fault == fault


def test_the_longest_error_in_any_script_still_fits_its_frame() -> None:
    """A character outside the basic plane takes twelve bytes of a manifest."""
    wide = "\N{FILM FRAMES}" * (2 * TEXT_MAX)
    fault = fault_of(FrameRefused(wide, field=wide, remedy=wide), rank=0)
    assert (len(fault.text), len(fault.field)) == (TEXT_MAX, NAME_MAX)
    longest = replace(fault, code=fault.field, rank=INT64_MAX)
    frame, _ = prepare_notice(Action.ERROR, CASE.state, fault=longest)
    assert receive(frame, CASE.state).fault == longest
    answer = replace(BAD, fault=longest, call_id=INT64_MAX, start_frame=INT64_MAX, wait_seconds=1.7976931348623157e308)
    assert prepare_result(answer, plan=PLAN).unpack().fault == longest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", ""),
        ("code", "x" * (NAME_MAX + 1)),
        ("field", "x" * (NAME_MAX + 1)),
        ("text", "a\nb"),
        ("text", "x" * 5000),
        ("rank", -2),
    ],
)
def test_a_fault_is_one_line_with_a_code(field: str, value: Any) -> None:
    with pytest.raises(EnvelopeRefused) as refusal:
        replace(FAULT, **{field: value})
    assert refusal.value.field == field
