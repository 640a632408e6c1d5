"""The answer to one envelope, from mesh rank 0 to stage 0: latents, or who refused and why. Exactly one per INFER.

Letters: F latent frames of the chunk, C latent channels, h w latent rows and columns, R records, B bytes of one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genlock.errors import GenlockError
from genlock.wire.envelope import Envelope
from genlock.wire.rules import (
    LATENT_DTYPES,
    TEXT_MAX,
    agree,
    check_float,
    check_int,
    check_tensor,
    check_text,
    check_type,
    refuse,
)

NAME_MAX = 256  # characters of a fault's code and field: with the longest text, in any script, it still fits a manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Who failed, with which code, over which field (may be empty), in one line. Rank -1: not known.

    Whatever can be made can be sent: a refusal that does not fit its frame would be a refusal that nobody hears.
    """

    code: str
    rank: int
    field: str
    text: str

    def __post_init__(self) -> None:
        for name in ("code", "field", "text"):
            check_text(name, getattr(self, name))
        for name in ("code", "field"):
            if len(getattr(self, name)) > NAME_MAX:
                raise refuse(name, f"{getattr(self, name)!r:.60}", f"must have at most {NAME_MAX} characters")
        check_int("rank", self.rank, least=-1)
        if not self.code:
            raise refuse("code", repr(self.code), "a fault has a code")


def fault_of(error: GenlockError, *, rank: int) -> Fault:
    """An error as it travels: one printable line, cut to what a message holds."""
    named = rank if error.rank is None else error.rank
    return Fault(code=error.code, rank=named, field=_one_line(error.field)[:NAME_MAX], text=_one_line(str(error)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """What a chunk came to. Raises EnvelopeRefused naming field, value and rule.

    ok: latents are there and no fault; otherwise the reverse. call_id, chunk_index, cache_epoch: echoed.
    latents: [F, C, h, w]. observed_generator_calls: made by mesh rank 0. start_frame: rotary position of the next
    chunk, as the mesh has it. wait_seconds (for the frame), payload_seconds, generation_seconds: durations, never
    clocks. verdicts: uint8 [R, B], the workers' fixed-size records as the leader received them; R = 0 where rank 0
    has them itself.
    """

    ok: bool
    fault: Fault | None
    call_id: int
    chunk_index: int
    cache_epoch: int
    latents: Tensor | None
    observed_generator_calls: int
    start_frame: int
    wait_seconds: float
    payload_seconds: float
    generation_seconds: float
    verdicts: Tensor

    def __post_init__(self) -> None:
        check_type("ok", self.ok, bool)
        if self.fault is not None:
            check_type("fault", self.fault, Fault)
        agree(
            "that it is ok",
            [("ok", self.ok), ("fault", self.fault is None), ("latents", self.latents is not None)],
        )
        check_int("call_id", self.call_id)
        check_int("chunk_index", self.chunk_index, least=-1)
        for name in ("cache_epoch", "observed_generator_calls", "start_frame"):
            check_int(name, getattr(self, name))
        for name in ("wait_seconds", "payload_seconds", "generation_seconds"):
            check_float(name, getattr(self, name))
        if self.latents is not None:
            check_tensor("latents", self.latents, dims="FChw", dtypes=LATENT_DTYPES)
        check_tensor("verdicts", self.verdicts, dims="RB", dtypes=(torch.uint8,))


def no_verdicts() -> Tensor:
    """`verdicts` of a result whose records travel by another way."""
    return torch.zeros(0, 0, dtype=torch.uint8)


def check_answer(result: Result, envelope: Envelope) -> None:
    """Raises EnvelopeRefused unless a good result answers this envelope: calls, shape, dtype."""
    if result.latents is None:
        return
    calls = envelope.expected_generator_calls
    if result.observed_generator_calls != calls:
        raise refuse("observed_generator_calls", result.observed_generator_calls, f"the envelope expects {calls}")
    if result.latents.shape != envelope.noise.shape:
        raise refuse("latents", list(result.latents.shape), f"the envelope asks for {list(envelope.noise.shape)}")
    if result.latents.dtype != envelope.noise.dtype:
        raise refuse("latents", result.latents.dtype, f"the envelope asks for {envelope.noise.dtype}")


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:TEXT_MAX]
