"""Answers: what is written is read, any damage is refused, and an error survives the way as a fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused, GenlockError, OutOfStep, RankSilent
from genlock.wire.answer import Answer, Kind, error_class, error_of, is_answer, is_fault, pack_answer, unpack_answer
from genlock.wire.digest import bytes_digest
from genlock.wire.result import Fault, fault_of


def classes(base: type[GenlockError] = GenlockError) -> list[type[GenlockError]]:
    return [base, *(each for sub in base.__subclasses__() for each in classes(sub))]


words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
ids = st.none() | st.integers(0, 2**40)
chunks = ids | st.just(-1)  # while warm
faults = st.builds(Fault, code=words, rank=st.integers(-1, 99), field=words | st.just(""), text=words)
answers = st.builds(
    lambda kind, call_id, fault: Answer(kind=kind, call_id=call_id, fault=fault if kind is Kind.FAULT else None),
    st.sampled_from(Kind),
    st.integers(-(2**63), 2**63 - 1),
    faults,
)


@given(answers)
def test_what_is_written_is_read(answer: Answer) -> None:
    data = pack_answer(answer)
    assert unpack_answer(data) == answer
    assert is_answer(data)
    assert is_fault(data) == (answer.kind is Kind.FAULT)


@given(answers, st.data())
def test_any_damage_is_refused(answer: Answer, data: st.DataObject) -> None:
    sent = bytearray(pack_answer(answer))
    if data.draw(st.booleans()):
        sent[data.draw(st.integers(0, len(sent) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del sent[data.draw(st.integers(0, len(sent) - 1)) :]
    with pytest.raises((FrameRefused, DigestMismatch)):
        unpack_answer(bytes(sent))


@pytest.mark.parametrize(("kind", "fault"), [(Kind.FAULT, None), (Kind.GO, Fault(code="X", rank=0, field="", text=""))])
def test_a_fault_belongs_to_one_kind(kind: Kind, fault: Fault | None) -> None:
    with pytest.raises(FrameRefused, match="fault"):
        Answer(kind=kind, call_id=1, fault=fault)


@given(
    kind=st.sampled_from(classes()),
    what=words,
    field=words | st.just(""),
    rank=ids,
    call_id=ids,
    chunk_index=chunks,
    remedy=words | st.just(""),
)
def test_an_error_survives_the_way(kind: type[GenlockError], **about: object) -> None:
    error = kind(**about)  # type: ignore[arg-type]
    came = error_of(fault_of(error, rank=-1))
    assert type(came) is kind
    assert str(came) == str(error)
    for name in ("what", "field", "rank", "call_id", "chunk_index", "remedy"):
        assert getattr(came, name) == getattr(error, name)


def test_a_remedy_of_two_clauses_stays_whole() -> None:
    came = error_of(fault_of(RankSilent("no progress"), rank=2))
    assert (came.what, came.remedy) == ("no progress", RankSilent.default_remedy)
    assert "; " in came.remedy


@pytest.mark.parametrize("place", [0, 4, 6])  # magic, version, kind
def test_an_answer_of_another_make_is_refused_though_its_digest_is_right(place: int) -> None:
    sent = bytearray(pack_answer(Answer(kind=Kind.GO, call_id=1)))
    sent[place] ^= 64
    sent[16:32] = bytes_digest(bytes(sent[:16])).to_bytes(16, "little")
    with pytest.raises(FrameRefused, match="no answer of version 1"):
        unpack_answer(bytes(sent))


def test_whoever_reports_is_the_rank_unless_it_names_another() -> None:
    assert error_of(fault_of(OutOfStep("a gap"), rank=3)).rank == 3
    assert error_of(fault_of(RankSilent("no progress", rank=2), rank=3)).rank == 2


def test_a_code_of_another_version_is_said() -> None:
    came = error_of(Fault(code="GL-NEW-99", rank=1, field="", text="GL-NEW-99: something new; do this"))
    assert type(came) is GenlockError
    assert str(came) == "GL-00: rank 1: GL-NEW-99: something new; do this"
    assert error_class("GL-NEW-99") is GenlockError


def test_a_fault_is_held_to_its_form_when_it_is_read() -> None:
    good = Answer(kind=Kind.FAULT, call_id=1, fault=Fault(code="X", rank=0, field="", text=""))
    object.__setattr__(good.fault, "rank", -2)
    with pytest.raises(EnvelopeRefused, match="rank"):
        unpack_answer(pack_answer(good))
