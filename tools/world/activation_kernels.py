"""The Triton kernels behind `activation.Fused`. A program works on ROWS pixels, all their channels at once.

The activation of pixel row p of clip p // each lies `past` rows further for its own clip and for each before it.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

FLOOR = tl.constexpr(1e-12)


@triton.jit
def forward_kernel(
    x_ptr,
    bias_ptr,
    skip_ptr,
    gamma_ptr,
    total_ptr,
    buffer_ptr,
    count,
    each,
    past,
    root,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BIAS: tl.constexpr,
    SKIP: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDE)
    inside = (row < count)[:, None] & (channel < CHANNELS)[None, :]
    at = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    total = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)[None, :]
    if SKIP:
        total += tl.load(skip_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if BIAS or SKIP:
        total = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, total, mask=inside)
        total = total.to(tl.float32)
    total = tl.where(inside, total, 0.0)
    length = tl.maximum(tl.sqrt(tl.sum(total * total, axis=1)), FLOOR)
    gain = tl.load(gamma_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32) * root
    value = total / length[:, None] * gain[None, :]
    active = value / (1.0 + tl.exp(-value))
    further = (row // each + 1) * past
    out = at + further.to(tl.int64)[:, None] * CHANNELS
    tl.store(buffer_ptr + out, active.to(buffer_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    total_ptr,
    gamma_ptr,
    of_buffer_ptr,
    of_total_ptr,
    gradient_ptr,
    parts_ptr,
    count,
    each,
    past,
    root,
    part,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    MORE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, WIDE)
    inside = (row < count)[:, None] & (channel < CHANNELS)[None, :]
    at = row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    further = (row // each + 1) * past
    out = at + further.to(tl.int64)[:, None] * CHANNELS
    total = tl.load(total_ptr + at, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(of_buffer_ptr + out, mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(total * total, axis=1)), FLOOR)
    gain = tl.load(gamma_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32) * root
    unit = total / length[:, None]
    value = unit * gain[None, :]
    gate = 1.0 / (1.0 + tl.exp(-value))
    of_value = given * (gate + value * gate * (1.0 - gate))
    of_unit = of_value * gain[None, :]
    along = tl.sum(of_unit * unit, axis=1)
    gradient = (of_unit - unit * along[:, None]) / length[:, None]
    if MORE:
        gradient += tl.load(of_total_ptr + at, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.where(inside, gradient, 0.0)
    tl.store(gradient_ptr + at, gradient.to(gradient_ptr.dtype.element_ty), mask=inside)
    where = tl.program_id(0) * CHANNELS + channel
    tl.store(parts_ptr + where, tl.sum(of_value * unit, axis=0) * root, mask=channel < CHANNELS)
    tl.store(parts_ptr + part + where, tl.sum(gradient, axis=0), mask=channel < CHANNELS)
