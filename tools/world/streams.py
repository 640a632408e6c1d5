"""Streams that are judged: each is asked for through the package's front door, cut into windows and named.

A record is what one stream gave, as plain JSON: what was asked, what the evaluator names in the generated windows and
in the renderer's pictures of the same moments, and how the subject moves by its colour alone. bars.py reads them.

Legend: T pixel frames, H W pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .footage import as_pixels
from .judge import Evaluator
from .questions import Prompt, Question
from .render import render
from .scene import Factors, Script
from .sheets import psnr
from .takes import CHUNK_PIXELS, FACTOR_NAMES, first_pixel
from .track import tracked_motion

STEADY = (32, 42, 52)  # windows of a chunk's frames that cover seconds 2 to 4
STEADY_CHUNKS = 6
AFTER_CHUNKS = 2
MINUTE_CHUNKS = 80

OpenSession = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What streams are judged with. size: (height, width). model: a folder's path."""

    model: str
    open_session: OpenSession
    judge: Evaluator
    size: tuple[int, int]
    device: str

    def stream(self, seed: int, *, model: str | None = None, regime: str | None = None) -> Any:
        return self.open_session(model or self.model, seed=seed, device=self.device, regime=regime)

    def name(self, frames: Tensor) -> list[str]:
        """The values seen in frames uint8 [T, 3, H, W]."""
        with torch.no_grad():
            logits = self.judge.logits(as_pixels(frames.to(self.device))[None])
        return [self.judge.values[name][int(logits[name].argmax())] for name in FACTOR_NAMES]

    def drawn(self, script: Script, first: int, frames: int) -> Tensor:
        """What the renderer shows, uint8 [T, 3, H, W]."""
        return render([script], first_frame=first, frames=frames, height=self.size[0], width=self.size[1])[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Frames of one moment, as generated and as rendered, and the scene that was asked for."""

    moment: str
    scene: Factors
    made: Tensor
    drawn: Tensor


def judged(bench: Bench, windows: Sequence[Window]) -> dict[str, Any]:
    """What is seen in each window and what should be, by moment."""
    record: dict[str, Any] = {key: {} for key in ("asked", "named", "rendered", "tracked", "tracked_rendered")}
    for window in windows:
        record["asked"][window.moment] = [getattr(window.scene, name) for name in FACTOR_NAMES]
        for key, frames in (("named", window.made), ("rendered", window.drawn)):
            record[key].setdefault(window.moment, []).append(bench.name(frames))
        if window.moment == "steady":
            both = as_pixels(torch.stack((window.made, window.drawn)))
            for key, seen in zip(
                ("tracked", "tracked_rendered"), tracked_motion(both, [window.scene] * 2), strict=True
            ):
                record[key].setdefault(window.moment, []).append(seen)
    return record


def take(chunks: Iterator[Any], count: int) -> Tensor:
    """The next chunks' frames, uint8 [T, 3, H, W]."""
    return torch.cat([next(chunks).frames for _ in range(count)]).permute(0, 3, 1, 2)


def steady_windows(bench: Bench, prompt: Prompt, made: Tensor) -> list[Window]:
    script = Script(scenes=((0, prompt.scene),))
    return [
        Window(
            moment="steady",
            scene=prompt.scene,
            made=made[start : start + CHUNK_PIXELS],
            drawn=bench.drawn(script, start, CHUNK_PIXELS),
        )
        for start in STEADY
    ]


def ask_question(bench: Bench, question: Question) -> dict[str, Any]:
    """One stream: the first prompt, its change, the cut."""
    with bench.stream(question.number) as session:
        chunks = session.stream()
        session.prompt(question.first.text)
        begun = time.perf_counter()
        made = take(chunks, STEADY_CHUNKS)
        chunk_s = (time.perf_counter() - begun) / STEADY_CHUNKS
        session.prompt(question.second.text)
        after = take(chunks, AFTER_CHUNKS)
        session.cut(question.third.text)
        cut = take(chunks, 1)
    change = first_pixel(STEADY_CHUNKS)
    turned = Script(scenes=((0, question.first.scene), (change, question.second.scene)))
    windows = [
        *steady_windows(bench, question.first, made),
        Window(
            moment="after",
            scene=question.second.scene,
            made=after[-CHUNK_PIXELS:],
            drawn=bench.drawn(turned, change + CHUNK_PIXELS, CHUNK_PIXELS),
        ),
        Window(
            moment="cut",
            scene=question.third.scene,
            made=cut,
            drawn=bench.drawn(Script(scenes=((0, question.third.scene),)), 0, len(cut)),
        ),
    ]
    looks = {**looks_of(bench, question.first, made), "chunk_s": chunk_s}
    return {"changed": question.changed, **judged(bench, windows), "looks": looks}


def looks_of(bench: Bench, prompt: Prompt, made: Tensor) -> dict[str, float]:
    """How near the renderer, how sharp, and how large the steps at chunk borders are beside the others (per cent)."""
    start, end = STEADY[0], STEADY[-1] + CHUNK_PIXELS
    shown = as_pixels(made[start:end])
    drawn = as_pixels(bench.drawn(Script(scenes=((0, prompt.scene),)), start, end - start))
    return {
        "psnr": float(psnr(shown, drawn).mean()),
        "edges": 100.0 * _edges(shown) / max(_edges(drawn), 1e-9),
        "border": _border(shown, start),
        "border_rendered": _border(drawn, start),
    }


def _edges(frames: Tensor) -> float:
    return float(frames.diff(dim=-1).abs().mean() + frames.diff(dim=-2).abs().mean())


def _border(frames: Tensor, start: int) -> float:
    """Mean step from frame to frame where chunks meet, per cent of the mean step elsewhere."""
    steps = frames.diff(dim=0).abs().mean((1, 2, 3))
    at = [first_pixel(chunk) - 1 - start for chunk in range(STEADY_CHUNKS)]
    at = [border for border in at if 0 <= border < len(steps)]
    inside = [n for n in range(len(steps)) if n not in at]
    return 100.0 * float(steps[at].mean() / steps[inside].mean().clamp_min(1e-9))


def ask_minute(bench: Bench, question: Question) -> dict[str, Any]:
    """The first prompt for 80 chunks: seconds 2 to 4, the last two seconds, and how the mean colour moved."""
    kept: deque[Tensor] = deque(maxlen=STEADY_CHUNKS)
    with bench.stream(question.number) as session:
        chunks = session.stream()
        session.prompt(question.first.text)
        made = take(chunks, STEADY_CHUNKS)
        for _ in range(STEADY_CHUNKS, MINUTE_CHUNKS):
            kept.append(take(chunks, 1))
    late = torch.cat(list(kept))
    end = first_pixel(MINUTE_CHUNKS)
    script = Script(scenes=((0, question.first.scene),))
    length = STEADY[-1] + CHUNK_PIXELS - STEADY[0]
    windows = steady_windows(bench, question.first, made)
    for back in (length - (start - STEADY[0]) for start in STEADY):
        windows.append(
            Window(
                moment="late",
                scene=question.first.scene,
                made=late[len(late) - back : len(late) - back + CHUNK_PIXELS],
                drawn=bench.drawn(script, end - back, CHUNK_PIXELS),
            )
        )
    shift = {
        moment: torch.stack([_mean_colour(w.made) - _mean_colour(w.drawn) for w in windows if w.moment == moment])
        for moment in ("steady", "late")
    }
    drift = shift["late"].mean(0) - shift["steady"].mean(0)
    return {**judged(bench, windows), "drift": drift.tolist()}


def _mean_colour(frames: Tensor) -> Tensor:
    """Mean of each channel in 0..1."""
    return frames.float().mean((0, 2, 3)) / 255.0


def ask_otherwise(bench: Bench, question: Question, *, model: str | None, regime: str | None) -> dict[str, Any]:
    """The first prompt's seconds 2 to 4 under another regime or policy."""
    with bench.stream(question.number, model=model, regime=regime) as session:
        chunks = session.stream()
        session.prompt(question.first.text)
        made = take(chunks, STEADY_CHUNKS)
    return judged(bench, steady_windows(bench, question.first, made))
