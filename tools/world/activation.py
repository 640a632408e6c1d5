"""Bias, skip, norm and SiLU in one pass over memory, each way: what a VAE spends its time on between convolutions.

Two forms of one function. `plain` is what it means, in torch; `Fused` is one Triton kernel forward and one back, for a
GPU. Both write the activation behind `PAST` frames of the caller's, where a causal convolution reads it.

Legend: B clips, c channels, T frames, h w rows and columns; all tensors lie channels-last in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genlock.media.vae_layers import CONTEXT as PAST
from genlock.media.vae_layers import LENGTH_FLOOR

AGREEMENT = 0.02  # relative, in bfloat16
Solid = torch.channels_last_3d
Activate = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(x, bias, skip, gamma, past) -> (sum, buffer): x [B, c, T, h, w] + bias [c] + skip like x; and silu(norm(sum)) *
gamma, behind `past` [B, c, PAST, h, w] (zeros if None), as [B, c, PAST + T, h, w]."""


def plain(
    x: Tensor, bias: Tensor | None, skip: Tensor | None, gamma: Tensor, past: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The function itself, in the steps of the package's own layers."""
    total = x if bias is None else x + bias.to(x.dtype).view(-1, 1, 1, 1)
    total = total if skip is None else total + skip
    wide = total.float()
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True).clamp_min(LENGTH_FLOOR)
    gain = (gamma.float() * gamma.shape[0] ** 0.5).view(-1, 1, 1, 1)
    active = F.silu((wide / length * gain).to(x.dtype))
    if past is None:
        past = active.new_zeros(*active.shape[:2], PAST, *active.shape[3:])
    return total, torch.cat((past.to(active.dtype), active), dim=2).contiguous(memory_format=Solid)


class Fused:
    """`plain` by two Triton kernels, made on first use."""

    def __init__(self, *, rows: int = 128) -> None:
        self.rows = rows
        self._kernels: tuple[Any, Any] | None = None

    def __call__(
        self, x: Tensor, bias: Tensor | None, skip: Tensor | None, gamma: Tensor, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self._kernels is None:
            from .activation_kernels import backward_kernel, forward_kernel  # noqa: PLC0415 - needs Triton

            self._kernels = (forward_kernel, backward_kernel)
        total, buffer = _FusedActivation.apply(x, bias, skip, gamma, past, self)
        return total, buffer

    def forward(
        self, x: Tensor, bias: Tensor | None, skip: Tensor | None, gamma: Tensor, past: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert self._kernels is not None
        x = x.contiguous(memory_format=Solid)
        skip = None if skip is None else skip.contiguous(memory_format=Solid)
        b, c, t, h, w = x.shape
        buffer = torch.empty((b, c, PAST + t, h, w), dtype=x.dtype, device=x.device, memory_format=Solid)
        if past is None:
            buffer[:, :, :PAST].zero_()
        else:
            buffer[:, :, :PAST].copy_(past)
        total = x if bias is None and skip is None else torch.empty_like(x)
        each = t * h * w
        self._kernels[0][(-(-b * each // self.rows),)](
            x,
            x if bias is None else bias,
            x if skip is None else skip,
            gamma,
            total,
            buffer,
            b * each,
            each,
            PAST * h * w,
            c**0.5,
            CHANNELS=c,
            WIDE=_power(c),
            ROWS=self.rows,
            BIAS=bias is not None,
            SKIP=skip is not None,
        )
        return total, buffer

    def backward(
        self, total: Tensor, gamma: Tensor, of_total: Tensor | None, of_buffer: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x (and skip), bias and gamma."""
        assert self._kernels is not None
        of_buffer = of_buffer.contiguous(memory_format=Solid)
        of_total = None if of_total is None else of_total.contiguous(memory_format=Solid)
        b, c, t, h, w = total.shape
        each = t * h * w
        blocks = -(-b * each // self.rows)
        gradient = torch.empty_like(total)
        parts = torch.empty(2, blocks, c, dtype=torch.float32, device=total.device)
        self._kernels[1][(blocks,)](
            total,
            gamma,
            of_buffer,
            total if of_total is None else of_total,
            gradient,
            parts,
            b * each,
            each,
            PAST * h * w,
            c**0.5,
            blocks * c,
            CHANNELS=c,
            WIDE=_power(c),
            ROWS=self.rows,
            MORE=of_total is not None,
        )
        of_gamma, of_bias = parts.sum(1).unbind(0)
        return gradient, of_bias, of_gamma


class _FusedActivation(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        skip: Tensor | None,
        gamma: Tensor,
        past: Tensor | None,
        fused: Fused,
    ) -> tuple[Tensor, Tensor]:
        total, buffer = fused.forward(x, bias, skip, gamma, past)
        ctx.fused, ctx.given = fused, (bias is not None, skip is not None)
        ctx.save_for_backward(total, gamma)
        ctx.set_materialize_grads(False)
        return total if total is not x else x.view_as(x), buffer

    @staticmethod
    def backward(ctx: Any, of_total: Tensor | None, of_buffer: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        total, gamma = ctx.saved_tensors
        assert of_buffer is not None
        gradient, of_bias, of_gamma = ctx.fused.backward(total, gamma, of_total, of_buffer)
        bias, skip = ctx.given
        return gradient, of_bias if bias else None, gradient if skip else None, of_gamma, None, None


@functools.cache
def best(device: torch.device) -> Activate:
    """The fused form where it runs and agrees with the plain one, else the plain one."""
    if device.type != "cuda":
        return plain
    fused = Fused()
    try:
        apart = difference(fused, device, torch.bfloat16)
    except Exception as fault:  # noqa: BLE001 - no Triton, or one that cannot: slower is still right
        print(f"plain activation: {(str(fault).splitlines() or [repr(fault)])[0][:200]}")
        return plain
    if apart > AGREEMENT:
        print(f"plain activation: the fused one is {apart:.3g} off")
        return plain
    return fused


def difference(activate: Activate, device: torch.device, dtype: torch.dtype, channels: int = 48) -> float:
    """How far a form is from `plain`, results and gradients, the worst of them relative to its size."""
    generator = torch.Generator(device).manual_seed(1)

    def draw(*size: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(kind)

    size = (2, channels, 3, 6, 10)
    given = [draw(*size), draw(channels, kind=torch.float32), draw(*size), draw(channels, kind=torch.float32)]
    given = [g.contiguous(memory_format=Solid) if g.ndim == len(size) else g for g in given]
    past, weight, more = draw(2, channels, PAST, 6, 10), draw(2, channels, 3 + PAST, 6, 10), draw(*size)
    found = []
    for form in (activate, plain):
        leaves = [g.clone().requires_grad_() for g in given]
        with torch.enable_grad():
            total, buffer = form(leaves[0], leaves[1], leaves[2], leaves[3], past)
            ((buffer * weight).float().sum() + (total * more).float().sum()).backward()
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        found.append([total.detach(), buffer.detach(), *gradients])
    mine, right = found
    apart = [float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(mine, right, strict=True)]
    return max(apart)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
