"""Noise levels: the sigma table of flow matching with a time shift, step lists, and the two formulas of a step.

Legend: B batch, F latent frames, C channels, H W latent rows and columns; n steps.
The step lists are numbers of the 0..1000 scale. *Raw* numbers are given to the model as they are; *warped* ones are
first looked up in the shifted table (Self-Forcing, LongLive, Krea). Sigma is looked up by the nearest table entry, so
that sigma(0) is the table's last value and not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from genlock.errors import UsageError

TABLE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """The table for one shift: sigma_i = shift s_i / (1 + (shift - 1) s_i), s_i = 1 - i / 1000, T_i = 1000 sigma_i.

    (Flow matching with a shifted schedule: Esser et al., "Scaling Rectified Flow Transformers", section 5.3.2.)
    """

    shift: float
    sigmas: Tensor = field(init=False, repr=False, compare=False)  # float32 [1000], falling
    timesteps: Tensor = field(init=False, repr=False, compare=False)  # float32 [1000], 1000 * sigmas

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UsageError(f"a schedule shift of {self.shift} is not positive")
        s = torch.linspace(1.0, 0.0, TABLE_ROWS + 1)[:-1]
        sigmas = self.shift * s / (1 + (self.shift - 1) * s)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "timesteps", sigmas * TABLE_ROWS)

    def warp(self, step: int) -> float:
        """The time step that list entry `step` (0..1000) stands for; 0 stays 0."""
        if not 0 <= step <= TABLE_ROWS:
            raise UsageError(f"step {step} is outside 0..{TABLE_ROWS}", where="--steps")
        return 0.0 if step == 0 else float(self.timesteps[TABLE_ROWS - step])

    def sigma(self, timestep: float) -> float:
        """Noise level at any time step: that of the nearest table entry, ties to the earlier one."""
        distance = (self.timesteps.double() - timestep).abs()
        return float(self.sigmas[int(distance.argmin())])

    def resolve(self, steps: Sequence[int | float], *, warped: bool) -> tuple[Tensor, Tensor]:
        """(timesteps, sigmas), float32 [n] each, as the envelope carries them."""
        if not steps:
            raise UsageError("a schedule needs at least one step", where="--steps")
        times = [self.warp(int(step)) if warped else float(step) for step in steps]
        return torch.tensor(times, dtype=torch.float32), torch.tensor([self.sigma(t) for t in times])


def clean_estimate(z: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """x0 = z - sigma * flow, in float64, in flow's dtype. z, flow: [B, F, C, H, W]; sigma: float32 scalar tensor."""
    return (z.double() - sigma.double() * flow.double()).to(flow.dtype)


def add_noise(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) x0 + sigma noise, in float32, in noise's dtype. Shapes equal; sigma: float32 scalar tensor."""
    return ((1 - sigma) * x0.float() + sigma * noise.float()).to(noise.dtype)
