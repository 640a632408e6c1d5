"""Frames made wrong on purpose, and what a reader must say to each: the other half of a test of the wire.

A `Mutant` is one frame with one thing changed, together with the fields of which one must be named; none where the
change leaves a message that is as good as the first. What breaks a rule is known from how the mutant was made, and
never asked of the reader: this file knows the bytes of a frame by itself, and nothing of `genlock.wire`.
Digests stay as they were (whatever is changed must then be found), or are made anew, as by a sender with a defect.
`orders` are frames that are right one by one and come at the wrong time. No torch.
"""

from __future__ import annotations

import copy
import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import xxhash

# magic, wire version, action, plan, stream, call_id, chunk_index, cache_epoch, manifest bytes, payload bytes
_HEAD = struct.Struct("<4sHBBIqqqIQ")
_NAMES = (
    "magic",
    "wire_version",
    "action",
    "plan",
    "stream",
    "call_id",
    "chunk_index",
    "cache_epoch",
    "manifest_bytes",
    "payload_bytes",
)
_DIGEST = 16
_MANIFEST = _HEAD.size + 2 * _DIGEST
_IDS = ("call_id", "chunk_index", "cache_epoch")
_MOST = {"manifest_bytes": 64 * 1024, "payload_bytes": 1024**3}
_NOOP, _INFER, _SHUTDOWN, _ERROR, _RESULT = range(5)
_PLANS = 4
_ALIGNED = 64
_ITEM_BYTES = {"bfloat16": 2, "bool": 1, "float16": 2, "float32": 4, "int32": 4, "int64": 8, "uint8": 1}
_WORDS = {  # the values of a scalar that is a word
    "plan": ("v0_full_pipeline", "v1a_context_override", "v1b_latents_override", "v1_generator_only"),
    "cache_policy": ("rolling", "recompute"),
    "regime": ("R0a", "R0", "R1"),
    "recache": ("switch", "rebase"),
}
_SECONDS = ("wait_seconds", "payload_seconds", "generation_seconds")
_OFTEN = {"scalar": 6, "of_result": 3, "of_fault": 3, "shape": 3, "dtype": 2, "presence": 2, "payload": 2}
SEED_MOST = 2**64 - 1
LEGAL: frozenset[str] = frozenset()  # in place of the fields that must be named
ANY = frozenset(["*"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """maker: which mutator. names: of these fields one must be named; LEGAL: to be taken as it is; ANY: to be refused,
    and whatever is named."""

    maker: str
    frame: bytes
    payload: bytes
    names: frozenset[str]


class Parts:
    """A frame taken to pieces: `head` by name, `tree` (what the manifest says; None if there is none), `raw` in place
    of the tree once it is set, `payload`. `fixed`: fields of the head that are written as they stand."""

    def __init__(self, frame: bytes, payload: bytes) -> None:
        self.head = dict(zip(_NAMES, _HEAD.unpack_from(frame), strict=True))
        self.digests = frame[_HEAD.size : _HEAD.size + _DIGEST], frame[_HEAD.size + _DIGEST : _MANIFEST]
        self.raw: bytes | None = None if frame[_MANIFEST:] else b""
        self.tree: Any = json.loads(frame[_MANIFEST:]) if frame[_MANIFEST:] else None
        self.payload = bytearray(payload)
        there = {} if self.tree is None else {name: spec for name, spec in self.tensors.items() if spec is not None}
        self._held = {n: payload[spec["offset"] : spec["offset"] + _bytes_of(spec)] for n, spec in there.items()}
        self.payload_digest: bytes | None = None  # written as it stands
        self.fixed: set[str] = set()
        self.cut: int | None = None  # bytes of the frame that are sent

    @property
    def scalars(self) -> dict[str, Any]:
        scalars: dict[str, Any] = self.tree["scalars"]
        return scalars

    @property
    def tensors(self) -> dict[str, Any]:
        tensors: dict[str, Any] = self.tree["tensors"]
        return tensors

    def lay_out(self) -> None:
        """Places that follow from the shapes, and a payload of that size, as a sender that believes them makes it."""
        end, payload = 0, bytearray()
        for name in sorted(self.tensors):
            spec = self.tensors[name]
            if spec is not None:
                spec["offset"] = -(-end // _ALIGNED) * _ALIGNED
                end = spec["offset"] + _bytes_of(spec)
                payload += bytes(spec["offset"] - len(payload)) + self._held.get(name, b"")[: _bytes_of(spec)]
                payload += bytes(end - len(payload))
        self.payload = payload

    def bytes(self, *, anew: bool) -> tuple[bytes, bytes]:
        """Frame and payload. anew: with digests of what is now there."""
        manifest = dumped(self.tree) if self.raw is None else self.raw
        payload = bytes(self.payload)
        head = dict(self.head)
        payload_digest, manifest_digest = self.digests
        if anew:
            sizes = {"manifest_bytes": len(manifest), "payload_bytes": len(payload)}
            head |= {name: size for name, size in sizes.items() if name not in self.fixed}
            payload_digest = _digest(payload) if payload else payload_digest
        payload_digest = self.payload_digest or payload_digest
        prefix = _HEAD.pack(*(head[name] for name in _NAMES)) + payload_digest
        if anew:
            manifest_digest = _digest(prefix + manifest)
        return (prefix + manifest_digest + manifest)[: self.cut], payload


Mutator = Callable[[Parts, Random], frozenset[str] | None]  # None: this frame has nothing of the kind


def dumped(tree: Any) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> bytes:
    return int(xxhash.xxh3_128_intdigest(data)).to_bytes(_DIGEST, "little")


def mutant(frame: bytes, payload: bytes, rng: Random, *, anew: bool, maker: str | None = None) -> Mutant:
    """One change of this frame. anew: whether digests are made anew; if not, nothing of it is to be believed, and any
    field may be named. maker: which; drawn from those that fit the frame otherwise."""
    makers = makers_of(frame)
    drawn = [name for name in sorted(makers) for _ in range(_OFTEN.get(name, 1))]
    while True:
        name = maker or rng.choice(drawn)
        parts = Parts(frame, payload)
        names = makers[name](parts, rng)
        if names is None:
            continue
        changed, sent = parts.bytes(anew=anew)
        if (changed, sent) != (frame, payload):
            return Mutant(maker=name, frame=changed, payload=sent, names=names if anew else ANY)


def damaged(frame: bytes, payload: bytes, rng: Random) -> Mutant:
    """Frame or payload as a bad line leaves it: a bit turned, a run lost, doubled or overwritten; digests as they
    were."""
    sent = [bytearray(frame), bytearray(payload)]
    while sent == [frame, payload]:
        hit = rng.choice([part for part in sent if part])
        start = rng.randrange(len(hit))
        end = min(len(hit), start + rng.choice([1, 2, 8, 64]))
        how = rng.randrange(4)
        if how == 0:
            hit[start] ^= 1 << rng.randrange(8)
        elif how == 1:
            del hit[start:end]
        elif how == 2:
            hit[start:start] = hit[start:end]
        else:
            hit[start:end] = rng.randbytes(end - start)
    return Mutant(maker="damaged", frame=bytes(sent[0]), payload=bytes(sent[1]), names=ANY)


# -- the head ----------------------------------------------------------------------------------------------------------


def magic(parts: Parts, rng: Random) -> frozenset[str]:
    place = rng.randrange(4)
    wrong = bytearray(parts.head["magic"])
    wrong[place] ^= rng.randrange(1, 256)
    parts.head["magic"] = bytes(wrong)
    return frozenset(["magic"])


def version(parts: Parts, rng: Random) -> frozenset[str]:
    parts.head["wire_version"] = _another(rng, parts.head["wire_version"], range(2**16))
    return frozenset(["wire_version"])


def action(parts: Parts, rng: Random) -> frozenset[str]:
    """Another action, or one that nobody has: a frame with more or less than that action's."""
    was = parts.head["action"]
    now = parts.head["action"] = _another(rng, was, [*range(7), rng.randrange(7, 256)])
    if was in (_NOOP, _SHUTDOWN) and now in (_NOOP, _SHUTDOWN, _ERROR):
        return LEGAL  # a head alone is each of them
    if was in (_NOOP, _SHUTDOWN, _ERROR) and now == _INFER:
        return frozenset(["message" if was == _ERROR else "manifest"])  # it should be an envelope's
    return frozenset(["action"])


def plan(parts: Parts, rng: Random) -> frozenset[str]:
    known = _another(rng, parts.head["plan"], range(_PLANS))
    parts.head["plan"] = rng.choice([known, rng.randrange(_PLANS, 256)])
    obeyed = parts.head["action"] in (_SHUTDOWN, _ERROR) and parts.head["plan"] < _PLANS
    return LEGAL if obeyed else frozenset(["plan"])


def stream(parts: Parts, rng: Random) -> frozenset[str]:
    parts.head["stream"] = rng.randrange(1, 2**32)
    return frozenset(["stream"])


def ids(parts: Parts, rng: Random) -> frozenset[str]:
    name = rng.choice(_IDS)
    shift = rng.choice([1, -1, rng.randrange(2, 2**40), -rng.randrange(2, 2**40)])
    parts.head[name] += shift
    return LEGAL if parts.head["action"] in (_SHUTDOWN, _ERROR) else frozenset([name])


def sizes(parts: Parts, rng: Random) -> frozenset[str]:
    name = rng.choice(sorted(_MOST))
    now = len(dumped(parts.tree)) if name == "manifest_bytes" and parts.raw is None else parts.head[name]
    wrong = rng.choice([now + 1, max(0, now - 1), 0, _MOST[name], _MOST[name] + 1, rng.randrange(_MOST[name])])
    parts.head[name] = wrong if wrong != now else now + 64
    parts.fixed.add(name)
    more = name == "payload_bytes" and parts.head["action"] in (_NOOP, _SHUTDOWN, _ERROR) and wrong <= _MOST[name]
    return frozenset(["action"]) if more else frozenset([name])


def length(parts: Parts, rng: Random) -> frozenset[str]:
    """A frame cut off, or with bytes after its end."""
    whole = len(parts.bytes(anew=False)[0])
    if parts.raw is None and rng.random() < 0.3:
        parts.raw = dumped(parts.tree) + rng.randbytes(rng.randrange(1, 200))
        parts.head["manifest_bytes"] = len(dumped(parts.tree))
        parts.fixed.add("manifest_bytes")
        return frozenset(["manifest_bytes"])
    parts.cut = rng.randrange(whole)
    return frozenset(["frame"] if parts.cut < _MANIFEST else ["manifest_bytes"])


# -- the manifest ------------------------------------------------------------------------------------------------------


def no_json(parts: Parts, rng: Random) -> frozenset[str]:
    whole = dumped(parts.tree)
    parts.raw = rng.choice(
        [
            whole[: rng.randrange(1, len(whole))],
            whole + b"}",
            rng.randbytes(rng.randrange(1, 300)),
            b"[" * 30000,
            whole.replace(b":", b":NaN,", 1),
            b"\xff\xfe" + whole,
            b"7" * 5000,
            dumped(rng.choice([[], 1, None, "envelope", True])),
        ]
    )
    return frozenset(["manifest"])


def another_form(parts: Parts, rng: Random) -> frozenset[str]:
    """The same content in bytes that are not its form."""
    whole = dumped(parts.tree)
    parts.raw = rng.choice(
        [
            whole.replace(b":", b": ", 1),
            b" " + whole,
            whole + b"\n",
            json.dumps(dict(reversed(parts.tree.items())), separators=(",", ":")).encode(),
            whole.replace(b'"message"', b'"\\u006dessage"', 1),
            b'{"message":' + json.dumps(parts.tree["message"]).encode() + b"," + whole[1:],
            whole.decode().encode("utf-16"),
        ]
    )
    return frozenset(["manifest"])


def message(parts: Parts, rng: Random) -> frozenset[str]:
    parts.tree["message"] = _another(rng, parts.tree["message"], ["envelope", "result", "fault", "", 1, None, []])
    return frozenset(["message"])


def keys(parts: Parts, rng: Random) -> frozenset[str]:
    """One too many, one too few, one under another name, one in another place."""
    places = [parts.tree, parts.scalars, *([parts.tensors] if parts.tensors else [])]
    places += [spec for spec in parts.tensors.values() if spec is not None]
    place = rng.choice(places)
    name, new = rng.choice(sorted(place)), rng.choice(["zoom", "", "Seed", "é", "x" * 300, "\ud800"])
    value = place[name]
    if rng.random() < 0.5:
        place[new] = copy.deepcopy(value)
        if rng.random() < 0.5:
            return frozenset([new])
        del place[name]
        return frozenset([name, new])
    del place[name]
    if rng.random() < 0.5 and place is not parts.tree:
        parts.tree[name] = value
    return frozenset([name])


def containers(parts: Parts, rng: Random) -> frozenset[str]:
    name = rng.choice(["scalars", "tensors"])
    parts.tree[name] = rng.choice([[], None, 1, "x", sorted(parts.tree[name])])
    return frozenset([name])


def nested(parts: Parts, rng: Random) -> frozenset[str]:
    """A scalar that is none."""
    name = rng.choice(sorted(parts.scalars))
    parts.scalars[name] = rng.choice([[parts.scalars[name]], {"value": 1}, [], {}])
    inner = isinstance(parts.scalars[name], dict) and name == "fault" and parts.tree["message"] == "result"
    return frozenset(["value", "code", name]) if inner else frozenset([name])


def scalar(parts: Parts, rng: Random) -> frozenset[str]:
    """One value of an envelope that is another one."""
    name = rng.choice(sorted(parts.scalars))
    was = parts.scalars[name]
    now = parts.scalars[name] = _another(rng, was, _values(name, was, rng))
    if _is_free(name, now, parts.scalars):
        return LEGAL
    if name == "embeds_id" and type(now) is int and 0 <= now <= SEED_MOST and not parts.scalars["reset_cross"]:
        return frozenset(["reset_cross"])  # an id that changed without its reset: the cause before what follows
    if name == "regime" and now in _WORDS["regime"] and was in _WORDS["regime"] and parts.tensors["context"] is None:
        return frozenset([name, "context"])  # whether the mesh keeps its own: only R0 may come without
    return frozenset([name])


def _values(name: str, was: Any, rng: Random) -> list[Any]:
    if name in _WORDS:
        return [*_WORDS[name], None, "", was and was.upper(), 0]
    if isinstance(was, bool):
        return [not was, int(was), None, str(was)]
    if isinstance(was, float):
        return [rng.random(), 1.0, 0.0, -rng.random(), 1 + rng.random(), 1, None, "1.0", 1e-320, -0.0]
    if isinstance(was, int):
        shifts = [1, -1, rng.randrange(1, 2**20), 2**63, 2**70, -(2**70)]
        return [*[was + shift for shift in shifts], float(was), None, str(was), -1, True]
    return [None, 1, "a\nb", "", "x" * 5000, "\x00", [], True]


def _is_free(name: str, now: Any, scalars: dict[str, Any]) -> bool:
    """Whether nothing else of the message and of the stream says this value."""
    recompute = scalars["cache_policy"] == "recompute"
    if name == "seed":
        return type(now) is int and -SEED_MOST <= now <= SEED_MOST
    if name == "pad_sink":
        return type(now) is bool
    if name == "attention_bias":
        return type(now) is float and 0 < now <= 1 and recompute
    return name == "regime" and scalars["reset_kv"] and recompute and now in _WORDS["regime"]


def presence(parts: Parts, rng: Random) -> frozenset[str]:
    """A tensor that is not there, or one that should not be."""
    name = rng.choice(sorted(parts.tensors))
    frames = max(1, parts.scalars["window_frames"])
    there = {"dtype": "float32", "shape": [frames, *_latent(parts)], "offset": 0}
    parts.tensors[name] = None if parts.tensors[name] is not None else there
    if rng.random() < 0.7:
        parts.lay_out()
    return frozenset([name])


def dtype(parts: Parts, rng: Random) -> frozenset[str]:
    name, spec = _there(parts, rng)
    spec["dtype"] = _another(rng, spec["dtype"], [*_ITEM_BYTES, "float64", "", None, 1, ["float32"]])
    if spec["dtype"] in list(_ITEM_BYTES) and rng.random() < 0.7:
        parts.lay_out()
    return frozenset([name])


def shape(parts: Parts, rng: Random) -> frozenset[str]:
    name, spec = _there(parts, rng)
    sides = spec["shape"]
    dim = rng.randrange(len(sides))
    by_row = name == "embeds"
    wild = [-1, 2**40, 1.5, str(sides[dim]), None, True, [1], 10**30]
    how = rng.randrange(6)
    if how <= 2:
        sides[dim] = max(0, sides[dim] + rng.choice([1, -1, 7])) if sides[dim] else 1
    elif how == 3:
        sides[dim] = rng.choice(wild)
        return frozenset([name])
    elif how == 4:
        sides.insert(dim, rng.choice([1, 2]))
    else:
        sides.pop(dim)
    coherent = rng.random() < 0.7
    if coherent:
        parts.lay_out()
    if by_row and how <= 2:  # said by nothing else: its bytes are not those of its id, or the next one has no room
        return frozenset(["embeds", "embeds_id"] if coherent else ["embeds", "embeds_id", *_after(parts, name)])
    return frozenset([name])


def turned(parts: Parts, rng: Random) -> frozenset[str] | None:
    """A shape of as many elements."""
    name, spec = _there(parts, rng)
    sides = list(spec["shape"])
    rng.shuffle(sides)
    if sides == spec["shape"]:
        return None
    spec["shape"] = sides
    return frozenset(["embeds", "embeds_id"] if name == "embeds" else [name])


def offset(parts: Parts, rng: Random) -> frozenset[str]:
    name, spec = _there(parts, rng)
    spec["offset"] = _another(
        rng, spec["offset"], [spec["offset"] + 64, spec["offset"] + 1, -64, None, 0.0, "0", 2**62]
    )
    return frozenset([name])


def no_spec(parts: Parts, rng: Random) -> frozenset[str]:
    name = rng.choice(sorted(parts.tensors))
    parts.tensors[name] = rng.choice([[], "float32", 3, [1, 2], True])
    return frozenset([name])


# -- the payload -------------------------------------------------------------------------------------------------------


def payload_length(parts: Parts, rng: Random) -> frozenset[str] | None:
    if not parts.payload:
        return None
    parts.head["payload_bytes"] = len(parts.payload)
    parts.fixed.add("payload_bytes")
    cut = rng.randrange(len(parts.payload))
    parts.payload = parts.payload[:cut] if rng.random() < 0.5 else parts.payload + rng.randbytes(1 + cut % 200)
    return frozenset(["payload_bytes"])


def payload_digest(parts: Parts, rng: Random) -> frozenset[str] | None:
    if not parts.payload:
        return None
    parts.payload_digest = rng.randbytes(_DIGEST)
    return frozenset(["payload_digest"])


def payload(parts: Parts, rng: Random) -> frozenset[str] | None:
    """A byte of a tensor's content. Of most tensors any will do: what they hold is said nowhere else."""
    if not parts.payload:
        return None
    name, spec = _there(parts, rng)
    size = _bytes_of(spec)
    if not size:
        return None
    place = spec["offset"] + rng.randrange(size)
    parts.payload[place] ^= rng.randrange(1, 256)
    if name == "embeds":
        return frozenset(["embeds_id"])
    if name in ("timesteps", "sigmas"):
        values = struct.unpack_from(f"<{size // 4}f", parts.payload, spec["offset"])
        most = 1000.0 if name == "timesteps" else 1.0
        return LEGAL if all(0 <= value <= most for value in values) else frozenset([name])
    return LEGAL


# -- answers and faults ------------------------------------------------------------------------------------------------


def of_result(parts: Parts, rng: Random) -> frozenset[str]:
    """One value of a result that is another one."""
    name = rng.choice(sorted(parts.scalars))
    was = parts.scalars[name]
    now = parts.scalars[name] = _another(rng, was, _values(name, was, rng))
    if name == "fault" and was is not None:
        parts.scalars["fault"] = dict(was)
        return of_fault(parts, rng)
    if name in _SECONDS:
        return LEGAL if type(now) is float and now >= 0 else frozenset([name])
    if name in ("observed_generator_calls", "start_frame"):
        return LEGAL if type(now) is int and 0 <= now < 2**63 else frozenset([name])
    return frozenset([name])


def of_fault(parts: Parts, rng: Random) -> frozenset[str]:
    """One value of a fault that is another one."""
    fault = parts.scalars["fault"] if parts.tree["message"] == "result" else parts.scalars
    name = rng.choice(sorted(fault))
    was = fault[name]
    now = fault[name] = _another(rng, was, _values(name, was, rng))
    if type(now) is not type(was):
        return frozenset([name, "fault"] if isinstance(now, list) else [name])
    if name == "rank":
        return LEGAL if -1 <= now < 2**63 else frozenset([name])
    fits = now.isprintable() and len(now) <= (4096 if name == "text" else 256) and (now or name != "code")
    return LEGAL if fits else frozenset([name])


_OF_ANY: dict[str, Mutator] = {
    each.__name__: each for each in (magic, version, action, plan, stream, ids, sizes, length)
}
_OF_MANIFESTS: dict[str, Mutator] = {
    each.__name__: each for each in (no_json, another_form, message, keys, containers, nested)
}
_OF_TENSORS: dict[str, Mutator] = {each.__name__: each for each in (offset, no_spec, payload_length, payload_digest)}
_OF_ENVELOPES: dict[str, Mutator] = {each.__name__: each for each in (scalar, presence, dtype, shape, turned)}
_OF_ANYTHING_PACKED = {**_OF_ANY, **_OF_MANIFESTS, **_OF_TENSORS}
_BY_MESSAGE: dict[str | None, dict[str, Mutator]] = {
    None: _OF_ANY,
    "fault": {**_OF_ANY, **_OF_MANIFESTS, "of_fault": of_fault},
    "result": {**_OF_ANYTHING_PACKED, "payload": payload, "of_result": of_result},
    "envelope": {**_OF_ANYTHING_PACKED, "payload": payload, **_OF_ENVELOPES},
}


def makers_of(frame: bytes) -> dict[str, Mutator]:
    """The mutators that know this kind of frame, by name; of a message that is not described here those of its form."""
    tree = Parts(frame, b"").tree
    return _BY_MESSAGE.get(tree and tree["message"], _OF_ANYTHING_PACKED)


# -- the order ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Frames by their place in the right order. at: of the first in `frames` that does not follow."""

    maker: str
    frames: tuple[int, ...]
    at: int


def orders(count: int, rng: Random) -> list[Order]:
    """Each way of a wrong order once, over `count` frames (3 or more)."""
    right = tuple(range(count))
    one = rng.randrange(count - 1)
    later = rng.randrange(one + 1, count)
    return [
        Order(maker="duplicated", frames=(*right[: one + 1], one, *right[one + 1 :]), at=one + 1),
        Order(maker="skipped", frames=(*right[:one], *right[one + 1 :]), at=one),
        Order(maker="reordered", frames=(*right[:one], one + 1, one, *right[one + 2 :]), at=one),
        Order(maker="regressed", frames=(*right[: later + 1], one, *right[later + 1 :]), at=later + 1),
    ]


def restamped(frame: bytes, payload: bytes, *, after: bytes, right: int) -> Mutant | None:
    """A chunk that was right at another time, with the first `right` of its ids put right and digests made anew: the
    next of them is to be named. after: the live frame that it follows. None if that one is right, too."""
    parts, last = Parts(frame, payload), Parts(after, b"").head
    due = dict(zip(_IDS, (last["call_id"] + 1, last["chunk_index"] + 1, last["cache_epoch"]), strict=True))
    due["cache_epoch"] += parts.scalars["reset_kv"]
    wrong = [name for name in _IDS[right:] if parts.head[name] != due[name]]
    if not wrong:
        return None
    parts.head |= {name: due[name] for name in _IDS[:right]}
    return Mutant(maker="restamped", frame=parts.bytes(anew=True)[0], payload=payload, names=frozenset(wrong[:1]))


# -- of all of them ----------------------------------------------------------------------------------------------------


def _another(rng: Random, was: Any, values: Iterable[Any]) -> Any:
    """One of the values that is not `was`: True is no 1, and 1 no 1.0."""
    return rng.choice([value for value in values if (type(value), value) != (type(was), was)])


def _there(parts: Parts, rng: Random) -> tuple[str, dict[str, Any]]:
    name = rng.choice([name for name, spec in sorted(parts.tensors.items()) if spec is not None])
    return name, parts.tensors[name]


def _after(parts: Parts, name: str) -> list[str]:
    """Whose place does not follow any more once `name` has another size; without any, the payload's size."""
    later = [other for other in sorted(parts.tensors) if other > name and parts.tensors[other] is not None]
    return [*later[:1], "payload_bytes"]


def _bytes_of(spec: dict[str, Any]) -> int:
    size: int = math.prod(spec["shape"]) * _ITEM_BYTES[spec["dtype"]]
    return size


def _latent(parts: Parts) -> list[int]:
    sides: list[int] = parts.tensors["noise"]["shape"][1:]
    return sides
