"""How a message becomes bytes and back: a canonical JSON manifest, and all tensors in one buffer.

A `Schema` says which fields of a message are tensors, enums or flat records; the rest are scalars. Canonical means that
one message has one manifest: sorted keys, no spaces, floats in the shortest form that reads back the same (Python's
own), offsets that follow from the shapes. A reader makes the manifest again and compares. No pickle, and no tensor
inside a scalar. Knows no lifecycle and no digest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from genlock.errors import EnvelopeRefused, FrameRefused
from genlock.wire.header import MAX_MANIFEST_BYTES, MAX_PAYLOAD_BYTES

ALIGNMENT_BYTES = 64
MAX_DIMS = 8
DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "bool": torch.bool,
    "float16": torch.float16,
    "float32": torch.float32,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SCALARS = (bool, int, float, str, type(None))

Scalar = bool | int | float | str | None
Record = Mapping[str, Scalar]
Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where a tensor lies in the payload, in bytes, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Specs = Mapping[str, TensorSpec | None]


@dataclass(frozen=True, slots=True)
class Schema(Generic[Message]):
    """A message on the wire. `kind` is a dataclass whose constructor checks its fields; a field in none of the lists
    is a scalar. records: fields that are dataclasses of scalars. Any of them may be none if `kind` lets it."""

    name: str
    kind: type[Message]
    tensors: tuple[str, ...] = ()
    enums: tuple[tuple[str, type[StrEnum]], ...] = ()
    records: tuple[tuple[str, type[Any]], ...] = ()

    def scalar_names(self) -> list[str]:
        return [field.name for field in fields(self.kind) if field.name not in self.tensors]  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says: scalars and records by field, and every tensor's place or none."""

    scalars: Mapping[str, Scalar | Record]
    specs: Specs
    payload_bytes: int


def lay_out(tensors: Mapping[str, Tensor | None]) -> tuple[Specs, int]:
    """A place for every tensor, by name, each at a multiple of 64 bytes; and the bytes of all."""
    shapes = {name: None if t is None else (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    for name, t in tensors.items():
        if t is not None and t.dtype not in _NAMES:
            raise EnvelopeRefused(f"{name} is {t.dtype}: must be one of {', '.join(DTYPES)}", field=name)
    return _places(shapes)


def describe(schema: Schema[Message], message: Message) -> tuple[Manifest, bytes, Mapping[str, Tensor | None]]:
    """A message's manifest, its bytes, and the tensors it speaks of. Raises EnvelopeRefused naming the field."""
    tensors = {name: getattr(message, name) for name in schema.tensors}
    scalars = {name: _plain(schema, name, getattr(message, name)) for name in schema.scalar_names()}
    specs, payload_bytes = lay_out(tensors)
    return Manifest(scalars, specs, payload_bytes), _canonical(schema, scalars, specs), tensors


def pack(specs: Specs, payload_bytes: int, tensors: Mapping[str, Tensor | None]) -> Tensor:
    """All tensors in one uint8 buffer in host memory; the gaps are zero."""
    payload = torch.empty(payload_bytes, dtype=torch.uint8)
    end = 0
    for name, spec in specs.items():  # in the order of their offsets
        tensor = tensors[name]
        if spec is not None and tensor is not None:
            if spec.offset > end:
                payload[end : spec.offset].zero_()
            _view(spec, payload).copy_(tensor.detach())
            end = spec.offset + spec.size
    return payload


def unpack(specs: Specs, payload: Tensor) -> dict[str, Tensor | None]:
    """Views of a uint8 payload, on whatever device it lies."""
    return {name: None if spec is None else _view(spec, payload) for name, spec in specs.items()}


def _shapes_only(specs: Specs) -> dict[str, Tensor | None]:
    """Tensors without bytes, on the meta device: what a manifest alone can be checked with."""
    return {
        name: None if spec is None else torch.empty(spec.shape, dtype=spec.dtype, device="meta")
        for name, spec in specs.items()
    }


def build(
    schema: Schema[Message], scalars: Mapping[str, Scalar | Record], tensors: Mapping[str, Tensor | None]
) -> Message:
    """The message of a manifest's scalars. Raises what its constructor raises."""
    values: dict[str, Any] = dict(scalars)
    for name, enum in schema.enums:
        if values[name] is not None:
            values[name] = _enum(name, enum, values[name])
    for name, record in schema.records:
        if values[name] is not None:
            values[name] = record(**values[name])
    return schema.kind(**values, **tensors)


def read_manifest(schema: Schema[Message], data: bytes) -> tuple[Manifest, Message]:
    """A manifest, checked against its schema, and its message, tensors without bytes.

    Raises FrameRefused naming what is unknown, missing, not canonical or not in its place, and what the message's
    constructor raises. Places are judged last: a wrong shape moves all that lie behind it, and only the other fields
    know whose it is.
    """
    scalars, said = _parse(schema, data)
    message = build(schema, scalars, _shapes_only(said))
    specs, payload_bytes = _places(
        {name: None if spec is None else (spec.dtype, spec.shape) for name, spec in said.items()}
    )
    for name, spec in said.items():
        if spec != specs[name]:
            raise FrameRefused(f"{name}: offset is {spec and spec.offset}, not where it follows", field=name)
    return Manifest(scalars, specs, payload_bytes), message


def _parse(schema: Schema[Any], data: bytes) -> tuple[Mapping[str, Scalar | Record], Specs]:
    if len(data) > MAX_MANIFEST_BYTES:
        raise FrameRefused(f"a manifest of {len(data)} bytes, the most is {MAX_MANIFEST_BYTES}", field="manifest")
    try:
        content = json.loads(data)
        again = _dump(content)
    except (ValueError, RecursionError, UnicodeError):
        raise FrameRefused("the manifest is not JSON", field="manifest") from None
    if again != data:
        raise FrameRefused("the manifest is not in canonical form", field="manifest")
    _keys("manifest", content, ["message", "scalars", "tensors"])
    if content["message"] != schema.name:
        what = f"message is {content['message']!r:.40}, expected {schema.name!r}"
        raise FrameRefused(what, field="message")
    _keys("scalars", content["scalars"], schema.scalar_names())
    _keys("tensors", content["tensors"], schema.tensors)
    records = dict(schema.records)
    scalars = {name: _read_plain(name, records.get(name), value) for name, value in content["scalars"].items()}
    said = {name: _read_spec(name, value) for name, value in content["tensors"].items()}
    return scalars, said


def _places(shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]] | None]) -> tuple[Specs, int]:
    specs: dict[str, TensorSpec | None] = {}
    end = 0
    for name in sorted(shapes):
        shape = shapes[name]
        if shape is None:
            specs[name] = None
            continue
        spec = specs[name] = TensorSpec(*shape, offset=-(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
        end = spec.offset + spec.size
        if end > MAX_PAYLOAD_BYTES:
            what = f"{name}: the payload would reach {end} bytes, the most is {MAX_PAYLOAD_BYTES}"
            raise EnvelopeRefused(what, field=name)
    return specs, end


def _view(spec: TensorSpec, payload: Tensor) -> Tensor:
    return payload[spec.offset : spec.offset + spec.size].view(spec.dtype).view(spec.shape)


def _scalar(name: str, value: Any) -> Scalar:
    if isinstance(value, StrEnum):
        return value.value
    if type(value) not in _SCALARS or (type(value) is float and not math.isfinite(value)):
        rule = "must be a bool, int, finite float, str or none"
        raise EnvelopeRefused(f"{name} is {value!r:.60} ({type(value).__name__}): {rule}", field=name)
    return value  # type: ignore[no-any-return]


def _plain(schema: Schema[Any], name: str, value: Any) -> Scalar | Record:
    """A scalar, or a record's fields."""
    record = dict(schema.records).get(name)
    if record is None or value is None:
        return _scalar(name, value)
    return {part.name: _scalar(name, getattr(value, part.name)) for part in fields(record)}


def _read_plain(name: str, record: type[Any] | None, value: Any) -> Scalar | Record:
    if record is None or value is None:
        return _scalar(name, value)
    _keys(name, value, [part.name for part in fields(record)])
    return {key: _scalar(name, part) for key, part in value.items()}


def _enum(name: str, enum: type[StrEnum], value: Scalar) -> StrEnum:
    known = [member.value for member in enum]
    if value not in known:
        raise FrameRefused(f"{name} is {value!r:.40}, known here: {', '.join(known)}", field=name)
    return enum(value)


def _canonical(schema: Schema[Any], scalars: Mapping[str, Scalar | Record], specs: Specs) -> bytes:
    tensors = {
        name: spec and {"dtype": _NAMES[spec.dtype], "offset": spec.offset, "shape": list(spec.shape)}
        for name, spec in specs.items()
    }
    return _dump({"message": schema.name, "scalars": scalars, "tensors": tensors})


def _dump(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _keys(place: str, content: Any, wanted: list[str] | tuple[str, ...]) -> None:
    if type(content) is not dict:
        raise FrameRefused(f"{place} is no object", field=place)
    for key in sorted(content.keys() ^ set(wanted)):
        what = "unknown" if key in content else "missing"
        raise FrameRefused(f"{what} key {key!r:.60} in {place}", field=key)


def _read_spec(name: str, value: Any) -> TensorSpec | None:
    if value is None:
        return None
    _keys(name, value, ["dtype", "offset", "shape"])
    dtype, offset, shape = value["dtype"], value["offset"], value["shape"]
    if type(dtype) is not str or dtype not in DTYPES:
        raise FrameRefused(f"{name}: dtype is {dtype!r:.40}, known here: {', '.join(DTYPES)}", field=name)
    plain = type(shape) is list and len(shape) <= MAX_DIMS and all(type(size) is int and size >= 0 for size in shape)
    if not plain or math.prod(max(size, 1) for size in shape) > MAX_PAYLOAD_BYTES:
        raise FrameRefused(f"{name}: shape is {shape!r:.60}", field=name)
    if type(offset) is not int:
        raise FrameRefused(f"{name}: offset is {offset!r:.40}", field=name)
    return TensorSpec(DTYPES[dtype], tuple(shape), offset)
