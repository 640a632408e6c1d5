"""Bytes and back: every tensor bit for bit, one form for one message, and unknown things refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.conftest import CASES, Case, make, unchecked
from torch import Tensor

from genlock.errors import DigestMismatch, EnvelopeRefused, FrameRefused, GenlockError
from genlock.wire.codec import (
    ALIGNMENT_BYTES,
    DTYPES,
    Schema,
    build,
    describe,
    lay_out,
    pack,
    read_manifest,
    unpack,
)
from genlock.wire.digest import bytes_digest, embeds_id, tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.header import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PAYLOAD_BYTES,
    WIRE_VERSION,
    open_frame,
    seal,
)
from genlock.wire.kinds import Action
from genlock.wire.lifecycle import State, next_stamp
from genlock.wire.prepare import ENVELOPE, FAULT, check_payload, prepare, prepare_notice, receive
from genlock.wire.result import Fault

CASE = CASES["steady"]


def content(case: Case = CASE) -> dict[str, Any]:
    return json.loads(describe(ENVELOPE, case.envelope)[1])


def canonical(manifest: Any) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any bits of any allowed dtype, laid out in any order of dimensions."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if dtype == "bool":
        tensor = torch.randint(0, 2, shape, generator=seed, dtype=torch.bool)
    else:
        size = [*shape, DTYPES[dtype].itemsize]
        tensor = torch.randint(0, 256, size, generator=seed, dtype=torch.uint8).view(DTYPES[dtype]).reshape(shape)
    return tensor.permute(draw(st.permutations(range(len(shape)))))


@given(st.dictionaries(st.sampled_from("abcdefg"), st.none() | tensors()))
def test_tensors_come_back_bit_for_bit(sent: dict[str, Tensor | None]) -> None:
    specs, size = lay_out(sent)
    payload = pack(specs, size, sent)
    back = unpack(specs, payload)
    assert payload.shape == (size,)
    assert list(back) == sorted(sent)
    assert all(same(back[name], sent[name]) for name in sent)
    assert all(spec is None or spec.offset % ALIGNMENT_BYTES == 0 for spec in specs.values())
    assert torch.equal(payload, pack(specs, size, sent)), "the gaps between tensors are part of what is digested"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_envelope_comes_back_as_it_was(name: str, dtype: torch.dtype) -> None:
    state, words = CASES[name].state, 1
    envelope = make(state, words=words, regime=CASES[name].envelope.regime, dtype=dtype)
    prepared, _ = prepare(envelope, state)
    received = receive(prepared.frame, state)
    assert received.chunk is not None
    for back in (prepared.unpack(), check_payload(received.chunk, prepared.payload.clone())):
        for field in (*ENVELOPE.scalar_names(), *ENVELOPE.tensors):
            ours, theirs = getattr(envelope, field), getattr(back, field)
            assert type(ours) is type(theirs)
            assert same(ours, theirs) if isinstance(ours, Tensor) else ours == theirs


@given(st.floats(min_value=0, max_value=1, exclude_min=True))
def test_a_float_comes_back_as_it_was(bias: float) -> None:
    envelope = replace(CASE.envelope, attention_bias=bias)
    manifest, data, sent = describe(ENVELOPE, envelope)
    back, shapes = read_manifest(ENVELOPE, data)
    assert build(ENVELOPE, back.scalars, sent).attention_bias == shapes.attention_bias == bias
    assert manifest == back


def test_what_the_sender_changes_later_does_not_change_what_was_prepared() -> None:
    envelope = make(CASE.state)
    prepared, _ = prepare(envelope, CASE.state)
    frame, payload = prepared.frame, prepared.payload.clone()
    for name in ENVELOPE.tensors:
        getattr(envelope, name).fill_(7)
    assert prepared.frame == frame
    assert torch.equal(prepared.payload, payload)
    assert not any(getattr(prepared.unpack(), name).eq(7).any() for name in ENVELOPE.tensors)
    check_payload(prepared.announced, prepared.payload)


def at(*path: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def find(manifest: dict[str, Any]) -> dict[str, Any]:
        for key in path:
            manifest = manifest[key]
        return manifest

    return find


MANIFESTS = [
    (at(), "message", "result", "message"),
    (at(), "version", 2, "version"),
    (at("scalars"), "pixels", None, "pixels"),
    (at("scalars"), "seed", ..., "seed"),
    (at("scalars"), "plan", "v9", "plan"),
    (at("scalars"), "regime", "R7", "regime"),
    (at("scalars"), "regime", ["R0"], "regime"),
    (at("scalars"), "seed", {"value": 1}, "seed"),
    (at("scalars"), "height", 16.0, "height"),
    (at("scalars"), "reset_kv", 0, "reset_kv"),
    (at("tensors"), "pixels", None, "pixels"),
    (at("tensors"), "noise", ..., "noise"),
    (at("tensors"), "noise", [1], "noise"),
    (at("tensors", "noise"), "dtype", "float64", "noise"),
    (at("tensors", "noise"), "dtype", "object", "noise"),
    (at("tensors", "noise"), "shape", [3, 16, 2, -2], "noise"),
    (at("tensors", "noise"), "shape", [3, 16, 2, 2.0], "noise"),
    (at("tensors", "noise"), "shape", [0, 2**40], "noise"),
    (at("tensors", "noise"), "shape", [1] * 9, "noise"),
    (at("tensors", "noise"), "shape", "3", "noise"),
    (at("tensors", "noise"), "offset", 0, "noise"),
    (at("tensors", "noise"), "offset", None, "noise"),
    (at("tensors", "context"), "offset", 0.0, "context"),
    (at("tensors", "noise"), "stride", [1], "stride"),
    (at("tensors", "noise"), "shape", ..., "shape"),
]


@pytest.mark.parametrize(("place", "key", "value", "field"), MANIFESTS)
def test_a_manifest_is_refused_by_name(
    place: Callable[[dict[str, Any]], dict[str, Any]], key: str, value: Any, field: str
) -> None:
    manifest = content()
    if value is ...:
        del place(manifest)[key]
    else:
        place(manifest)[key] = value
    with pytest.raises(GenlockError) as refusal:
        read(canonical(manifest))
    assert refusal.value.field == field, str(refusal.value)


def read(data: bytes) -> Envelope:
    return read_manifest(ENVELOPE, data)[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 50_000,
        b'{"message":NaN}',
        b'{"message":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(FrameRefused) as refusal:
        read_manifest(ENVELOPE, data)
    assert refusal.value.field == "manifest"


def test_a_manifest_beyond_the_limit_is_not_even_parsed() -> None:
    with pytest.raises(FrameRefused, match="the most is"):
        read_manifest(ENVELOPE, canonical({"a": "x" * MAX_MANIFEST_BYTES}))


def test_what_was_written_is_read_back_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(schema: Schema[Any], message: Any) -> Any:
        manifest, data, sent = describe(schema, message)
        return manifest, data.replace(b'"seed":3', b'"seed":4'), sent

    monkeypatch.setattr("genlock.wire.prepare.describe", defective)
    with pytest.raises(FrameRefused, match="does not read back"):
        prepare(CASE.envelope, CASE.state)


def test_one_message_has_one_manifest() -> None:
    manifest = canonical(content())
    assert manifest == describe(ENVELOPE, CASE.envelope)[1]
    for other in (
        json.dumps(content(), sort_keys=True).encode(),
        manifest.replace(b'"seed":3', b'"seed":3,"seed":3'),
        manifest.replace(b'"attention_bias":1.0', b'"attention_bias":1.00'),
        manifest + b"\n",
    ):
        assert other != manifest
        with pytest.raises(FrameRefused, match="canonical"):
            read_manifest(ENVELOPE, other)


@dataclass(frozen=True)
class Odd:
    """A message of anything."""

    value: Any
    tensor: Tensor | None = None


@pytest.mark.parametrize("value", [float("inf"), float("nan"), [1], {"a": 1}, b"x", object(), torch.zeros(1), 1j])
def test_a_scalar_that_json_cannot_carry_is_named(value: Any) -> None:
    with pytest.raises(EnvelopeRefused, match="value is"):
        describe(Schema(name="odd", kind=Odd, tensors=("tensor",)), Odd(value))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.complex64])
def test_a_dtype_that_does_not_travel_is_named(dtype: torch.dtype) -> None:
    with pytest.raises(EnvelopeRefused, match="tensor is torch"):
        describe(Schema(name="odd", kind=Odd, tensors=("tensor",)), Odd(1, torch.zeros(1, dtype=dtype)))


@pytest.mark.slow
def test_a_nested_tensor_is_named() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(1, 4), torch.zeros(2, 4)], layout=torch.jagged)
    with pytest.raises(EnvelopeRefused, match="embeds is a nested"):
        replace(CASE.envelope, embeds=nested)


def test_a_tensor_elsewhere_than_in_host_memory_is_named() -> None:
    with pytest.raises(EnvelopeRefused, match="noise is on meta"):
        prepare(replace(CASE.envelope, noise=CASE.envelope.noise.to("meta")), CASE.state)


def test_a_payload_beyond_the_limit_is_refused_before_it_is_allocated() -> None:
    huge = torch.zeros(1).expand(MAX_PAYLOAD_BYTES // 4 + 1)
    with pytest.raises(EnvelopeRefused, match="payload would reach"):
        lay_out({"huge": huge})


def test_a_failing_digest_leaves_no_frame_and_the_next_chunk_runs() -> None:
    def failing(payload: Tensor) -> int:
        raise DigestMismatch("the digest did not come", field="payload_digest")

    with pytest.raises(DigestMismatch):
        prepare(CASE.envelope, CASE.state, digest=failing)
    prepared, _ = prepare(CASE.envelope, CASE.state)
    assert receive(prepared.frame, CASE.state).header.call_id == CASE.state.call_id + 1


def refused(frame: bytes, state: State) -> GenlockError:
    with pytest.raises(GenlockError) as refusal:
        receive(frame, state)
    return refusal.value


SOME_FAULT = Fault(code="GL-WIRE-02", rank=3, field="call_id", text="call_id is 3, expected 4")
FRAMES = {
    "infer": prepare(CASE.envelope, CASE.state)[0].frame,
    "noop": prepare_notice(Action.NOOP, CASE.state)[0],
    "shutdown": prepare_notice(Action.SHUTDOWN, CASE.state)[0],
    "error": prepare_notice(Action.ERROR, CASE.state, fault=SOME_FAULT)[0],
}


@pytest.mark.parametrize("name", FRAMES)
def test_any_changed_bit_of_a_frame_is_refused(name: str) -> None:
    frame = FRAMES[name]
    assert len(frame) <= FRAME_BYTES_MAX
    for index in range(len(frame)):
        for bit in range(8):
            changed = bytearray(frame)
            changed[index] ^= 1 << bit
            error = refused(bytes(changed), CASE.state)
            assert isinstance(error, DigestMismatch | FrameRefused), f"byte {index}, bit {bit}: {error}"
            assert isinstance(error, DigestMismatch) or index < HEADER_BYTES


@pytest.mark.parametrize("action", [Action.NOOP, Action.SHUTDOWN])
def test_a_notice_carries_nothing(action: Action) -> None:
    fault = describe(FAULT, Fault(code="GL-00", rank=0, field="", text=""))[1]
    stamp = next_stamp(CASE.state, action)
    for frame in (seal(stamp, fault)[1], seal(stamp, b"", payload_bytes=64)[1]):
        assert refused(frame, CASE.state).field == "action"


def test_a_frame_of_another_length_is_refused() -> None:
    frame = prepare(CASE.envelope, CASE.state)[0].frame
    assert refused(frame[: HEADER_BYTES - 1], CASE.state).field == "frame"
    assert refused(frame[:-1], CASE.state).field == "manifest_bytes"
    assert refused(frame + b" ", CASE.state).field == "manifest_bytes"


@pytest.mark.parametrize(
    ("offset", "field"), [(0, "magic"), (4, "wire_version"), (6, "action"), (7, "plan"), (8, "stream")]
)
def test_a_header_names_what_it_does_not_know(offset: int, field: str) -> None:
    frame = bytearray(prepare_notice(Action.NOOP, CASE.state)[0])
    frame[offset] = 0x7F
    error = refused(bytes(frame), CASE.state)
    assert isinstance(error, FrameRefused)
    assert error.field == field
    assert "known here" in str(error)
    assert WIRE_VERSION < 0x7F


def test_sizes_are_bounded_in_both_directions() -> None:
    stamp = next_stamp(CASE.state, Action.NOOP)
    with pytest.raises(FrameRefused, match="payload_bytes"):
        seal(stamp, b"", payload_bytes=MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(FrameRefused, match="manifest_bytes"):
        seal(stamp, b" " * (MAX_MANIFEST_BYTES + 1))
    frame = bytearray(seal(stamp, b"")[1])
    frame[40:44] = b"\xff" * 4  # the length of a manifest that no reader would allocate
    with pytest.raises(FrameRefused) as refusal:
        open_frame(bytes(frame))
    assert refusal.value.field in ("manifest_bytes", "payload_bytes")


def test_a_header_that_announces_another_size_is_refused() -> None:
    prepared, _ = prepare(CASE.envelope, CASE.state)
    data = prepared.frame[HEADER_BYTES:]
    frame = seal(prepared.header, data, payload_bytes=prepared.header.payload_bytes + 64)[1]
    assert refused(frame, CASE.state).field == "payload_bytes"


@given(st.data())
def test_any_changed_byte_of_a_payload_is_refused(data: st.DataObject) -> None:
    prepared, _ = prepare(CASE.envelope, CASE.state)
    payload = prepared.payload.clone()
    index = data.draw(st.integers(0, payload.numel() - 1))
    payload[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DigestMismatch) as refusal:
        check_payload(prepared.announced, payload)
    assert refusal.value.field == "payload_digest"


def test_a_payload_of_another_size_or_dtype_is_refused() -> None:
    prepared, _ = prepare(CASE.envelope, CASE.state)
    for payload in (prepared.payload[:-1], prepared.payload.to(torch.int32), prepared.payload.unsqueeze(0)):
        with pytest.raises(DigestMismatch, match="size"):
            check_payload(prepared.announced, payload)


def test_an_embedding_that_is_not_its_id_is_found_when_it_arrives() -> None:
    """A sender that digests what it sends and lies about what it is."""
    lying = unchecked(CASE.envelope, embeds=CASE.envelope.embeds + 1)
    manifest, data, sent = describe(ENVELOPE, lying)
    payload = pack(manifest.specs, manifest.payload_bytes, sent)
    stamp = next_stamp(CASE.state, Action.INFER)
    frame = seal(stamp, data, payload_bytes=manifest.payload_bytes, payload_digest=tensor_digest(payload))[1]
    chunk = receive(frame, CASE.state).chunk
    assert chunk is not None
    with pytest.raises(EnvelopeRefused) as refusal:
        check_payload(chunk, payload)
    assert refusal.value.field == "embeds_id"


def test_before_the_payload_comes_shapes_are_known_and_nothing_is_allocated() -> None:
    chunk = receive(prepare(CASE.envelope, CASE.state)[0].frame, CASE.state).chunk
    assert chunk is not None
    assert {getattr(chunk.shapes, name).device.type for name in ENVELOPE.tensors} == {"meta"}
    assert chunk.shapes.noise.shape == CASE.envelope.noise.shape


def test_an_id_is_of_dtype_shape_and_bytes() -> None:
    embeds = torch.zeros(2, 4)
    others = [embeds.to(torch.int32), torch.zeros(4, 2), embeds + 1, embeds[:1]]
    assert len({embeds_id(each) for each in [embeds, *others]}) == 5
    assert embeds_id(torch.zeros(4, 2).t()) == embeds_id(embeds)
    assert embeds_id(embeds) < 2**64


def test_digests_are_xxh3() -> None:
    assert bytes_digest(b"") == 0x99AA06D3014798D86001C324468D497F
    assert tensor_digest(torch.frombuffer(bytearray(b"genlock"), dtype=torch.uint8)) == bytes_digest(b"genlock")
