"""Contact sheets: frames side by side in one PNG, to be looked at before any figure is read.

Letters: R rows, N frames in a row, H, W pixels. Pixels are uint8, or floats in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

MARGIN = 2
TITLE = 12


def as_bytes(frames: Tensor) -> Tensor:
    """uint8 of frames in [-1, 1]; uint8 stays as it is."""
    if frames.dtype == torch.uint8:
        return frames
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def sheet(rows: Sequence[Tensor], path: Path, titles: Sequence[str] = ()) -> None:
    """Writes one PNG: each row a tensor [N, 3, H, W] (rows may differ in N), each under its title."""
    rows = [as_bytes(row).cpu() for row in rows]
    _, _, height, width = rows[0].shape
    across = max(len(row) for row in rows)
    step = height + MARGIN + (TITLE if titles else 0)
    canvas = Image.new("RGB", (across * (width + MARGIN), len(rows) * step), (24, 24, 24))
    draw = ImageDraw.Draw(canvas)
    for r, row in enumerate(rows):
        top = r * step
        if titles:
            draw.text((2, top), titles[r][:200], fill=(230, 230, 230))
            top += TITLE
        for n, frame in enumerate(row):
            canvas.paste(Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()), (n * (width + MARGIN), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Decibels per frame of two stacks [..., 3, H, W] in [-1, 1], shape [...]; identical frames give 100."""
    error = (a.float() - b.float()).square().mean(dim=(-3, -2, -1)) / 4
    return -10 * torch.log10(error.clamp_min(1e-10))
