"""How a message is judged: exact types, bounded numbers, and who is to blame when two fields contradict each other.

Knows no message in particular. Everything here raises EnvelopeRefused naming one field, its value and the rule.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from genlock.errors import EnvelopeRefused

INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1
TEXT_MAX = 4096  # characters of a text field
LATENT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refuse(field: str, value: object, rule: str) -> EnvelopeRefused:
    """The one line of a refusal; the caller raises it."""
    return EnvelopeRefused(f"{field} is {value}: {rule}", field=field)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_type(field: str, value: Any, kind: type) -> None:
    """Exact types: True is no int here, 1 is no float."""
    if type(value) is not kind:
        raise refuse(field, f"{value!r:.60} ({type(value).__name__})", f"must be of type {kind.__name__}")


def check_int(field: str, value: Any, *, least: int = 0, most: int = INT64_MAX) -> None:
    check_type(field, value, int)
    if not least <= value <= most:
        raise refuse(field, value, f"must lie in {least}..{most}")


def check_float(field: str, value: Any, *, least: float = 0.0, most: float = math.inf) -> None:
    """A finite float in [least, most]."""
    check_type(field, value, float)
    if not (math.isfinite(value) and least <= value <= most):
        raise refuse(field, value, f"must be finite and lie in {least}..{most}")


def check_text(field: str, value: Any) -> None:
    check_type(field, value, str)
    if len(value) > TEXT_MAX or not value.isprintable():
        raise refuse(field, f"{value!r:.60}", f"must be one printable line of at most {TEXT_MAX} characters")


def check_tensor(field: str, value: Any, *, dims: str, dtypes: Sequence[torch.dtype]) -> None:
    """A plain strided tensor with one dimension per letter of `dims`."""
    if not isinstance(value, Tensor):
        raise refuse(field, f"{value!r:.60} ({type(value).__name__})", "must be a tensor")
    if value.is_nested or value.layout is not torch.strided or value.is_quantized:
        raise refuse(field, "a nested, sparse or quantised tensor", "must be a plain tensor")
    if value.dtype not in dtypes:
        raise refuse(field, dtype_name(value.dtype), f"must be {' or '.join(map(dtype_name, dtypes))}")
    if value.ndim != len(dims):
        raise refuse(field, list(value.shape), f"must have the dimensions [{', '.join(dims)}]")


def agree(quantity: str, witnesses: Sequence[tuple[str, Hashable]], *, prior: Hashable = None) -> Any:
    """The value that all witnesses of one quantity give; of several, the field in the minority is named.

    A message says most things more than once (a frame count is a number and the shape of two tensors), so that a
    single wrong field stands alone. A tie goes to `prior` if it is among the tied, else to the earlier witness.
    """
    first = witnesses[0][1]
    if all(value == first for _, value in witnesses):
        return first
    counts = Counter(value for _, value in witnesses)
    most = max(counts.values())
    tied = [value for value in counts if counts[value] == most]
    accepted = prior if prior in tied else tied[0]
    for field, value in witnesses:
        if value != accepted:
            others = ", ".join(name for name, other in witnesses if other == accepted)
            raise refuse(field, value, f"{quantity} is {accepted} by {others or 'the rules'}")
    return accepted
