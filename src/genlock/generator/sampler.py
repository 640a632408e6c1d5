"""One chunk as counted generator calls: the plan of a chunk, and the loop that is the sampler.

Legend: B batch, F latent frames, C channels, H W latent rows and columns, n steps.
The plan is derived from what the envelope says and from nothing else; the stream asks it before every call, so that a
call too many, too few or of another kind is refused before it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from torch import Tensor

from genlock.errors import CallCount
from genlock.generator.schedule import add_noise


class Call(StrEnum):
    """Kinds of generator calls, in the order in which a chunk makes them."""

    RECOMPUTE = "recompute"
    RECACHE = "recache"
    DENOISE = "denoise"
    CACHE_WRITE = "cache_write"


def planned_calls(*, do_recompute: bool, recache: bool, steps: int, do_cache_write: bool) -> list[Call]:
    """The calls of one chunk, in order."""
    return [
        *([Call.RECOMPUTE] if do_recompute else []),
        *([Call.RECACHE] if recache else []),
        *([Call.DENOISE] * steps),
        *([Call.CACHE_WRITE] if do_cache_write else []),
    ]


class CallCounter:
    """Holds a chunk's plan against the calls that are made."""

    def __init__(self, plan: Sequence[Call], expected: int) -> None:
        if len(plan) != expected:
            raise CallCount(f"the plan has {len(plan)} generator calls, the envelope expects {expected}")
        self.plan = tuple(plan)
        self.observed = 0

    def begin(self, call: Call) -> None:
        """Raises CallCount unless `call` is the plan's next one."""
        due = self.plan[self.observed] if self.observed < len(self.plan) else "none"
        if call != due:
            raise CallCount(f"generator call {self.observed} is {call}, the plan has {due}")
        self.observed += 1

    def finish(self) -> int:
        """The number of calls made. Raises CallCount if one is missing."""
        if self.observed != len(self.plan):
            raise CallCount(f"{self.observed} of {len(self.plan)} generator calls were made")
        return self.observed


def sample_chunk(
    denoise: Callable[[Tensor, int], Tensor],
    z: Tensor,
    sigmas: Sequence[Tensor],
    step_noise: Sequence[Tensor],
) -> Tensor:
    """The clean latents of a chunk, from its noise.

    denoise(z, s): the clean estimate x0 of step s. z: [B, F, C, H, W] at sigmas[0]; sigmas: n float32 scalar tensors;
    step_noise: n - 1 tensors like z, one for every later step (self-forcing's sampler, Huang et al. 2025, algorithm 1).
    """
    x0 = denoise(z, 0)
    for step, (sigma, noise) in enumerate(zip(sigmas[1:], step_noise, strict=True), start=1):
        x0 = denoise(add_noise(x0, noise, sigma), step)
    return x0
