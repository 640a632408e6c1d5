"""Mixing prompt embeddings: several prompts in one chunk, and one prompt into another over several chunks.

Pure functions on padded embeddings, float32. Knows no text, no time and no cache.

    L  rows of a padded embedding (text_len)        D  width of a row (text_dim)

Semantics: daydreamlive/scope@68b0f95 (prompt blending), with its two degenerate cases made harmless: a token that
points the same or the opposite way in both embeddings is mixed linearly, and a blend that cancels out is not rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

# The tensor library is loaded by the functions that compute: a command line is read, and a mesh started, without it.
if TYPE_CHECKING:
    from torch import Tensor

NORM_FLOOR = 1e-8  # added to norms and sines before they divide
SAME_DIRECTION_RAD = 1e-4  # below this largest angle over all tokens a slerp is a lerp
SINE_FLOOR = 1e-3  # per token: below it arc and line agree to 2e-7, or the token turns right round and has no arc
SAME_EMBEDDING = 0.01  # Frobenius distance under which two embeddings are the same for a transition


class Method(StrEnum):
    LINEAR = "linear"
    SLERP = "slerp"


def normalized(weights: Sequence[float]) -> list[float]:
    """Weights with sum 1; equal shares where none is above 0."""
    total = math.fsum(weights)
    if all(weight <= 0 for weight in weights) or total <= 0:
        return [1 / len(weights)] * len(weights)
    return [weight / total for weight in weights]


def blend_prompts(embeddings: Sequence[Tensor], weights: Sequence[float], method: Method = Method.LINEAR) -> Tensor:
    """One embedding [L, D] out of several [L, D], by weight.

    Linear: the weighted sum, brought to the weighted mean of the norms (Frobenius, over all rows). Slerp: token by
    token, for exactly two prompts; any other number is mixed linearly. A single prompt is its own blend, untouched.
    """
    import torch  # noqa: PLC0415 - see above

    if len(embeddings) == 1:
        return embeddings[0]
    shares = normalized(weights)
    if method is Method.SLERP and len(embeddings) == 2:
        return slerp(embeddings[0], embeddings[1], shares[1])
    stacked = torch.stack([embedding * share for embedding, share in zip(embeddings, shares, strict=True)])
    mixed = stacked.sum(dim=0)
    norms = torch.stack([torch.linalg.vector_norm(embedding) for embedding in embeddings])
    wanted = (norms * torch.tensor(shares, dtype=norms.dtype, device=norms.device)).sum()
    found = torch.linalg.vector_norm(mixed)
    return torch.where(found > NORM_FLOOR, mixed * (wanted / found.clamp(min=NORM_FLOOR)), mixed)


def lerp(source: Tensor, target: Tensor, t: float) -> Tensor:
    """[L, D]: the straight line from `source` (t = 0) to `target` (t = 1), both ends exact."""
    return (1 - t) * source + t * target


def slerp(source: Tensor, target: Tensor, t: float) -> Tensor:
    """[L, D]: every token on the arc from its source to its target, lengths mixed along.

    Padding rows are zero in both and stay zero. If no token turns by more than `SAME_DIRECTION_RAD`: `lerp`.
    """
    import torch  # noqa: PLC0415 - see above

    length = (torch.linalg.vector_norm(source, dim=-1) + NORM_FLOOR) * (
        torch.linalg.vector_norm(target, dim=-1) + NORM_FLOOR
    )
    cosine = ((source * target).sum(dim=-1) / length).clamp(-1.0, 1.0)
    angle = torch.acos(cosine)
    if float(angle.max()) < SAME_DIRECTION_RAD:
        return lerp(source, target, t)
    sine = torch.sin(angle)
    curved = sine > SINE_FLOOR
    divisor = torch.where(curved, sine, torch.ones_like(sine)) + NORM_FLOOR
    first = torch.where(curved, torch.sin((1 - t) * angle) / divisor, torch.full_like(sine, 1 - t))
    second = torch.where(curved, torch.sin(t * angle) / divisor, torch.full_like(sine, t))
    return first[:, None] * source + second[:, None] * target


def between(source: Tensor, target: Tensor, t: float, method: Method) -> Tensor:
    """A point of a transition. At t = 0 and t = 1 it is `source` and `target` themselves, bit for bit."""
    if t <= 0:
        return source
    if t >= 1:
        return target
    return slerp(source, target, t) if method is Method.SLERP else lerp(source, target, t)


def is_same(source: Tensor, target: Tensor) -> bool:
    """Whether a transition from one to the other has nothing to do."""
    import torch  # noqa: PLC0415 - see above

    return float(torch.linalg.vector_norm(target - source)) < SAME_EMBEDDING
