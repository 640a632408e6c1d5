"""What the shipped model makes, to be looked at before any figure is read: four sheets and a loop.

    make pictures
    python -m tools.world.show --out out/pictures --model out/full/model

prompts.webp: twelve questions of the evaluation, eight moments each. openings.webp: first prompts that leave something
open. changes.webp: a prompt change, a transition and a hard cut, frame by frame around it, with the frames' numbers.
minute.webp: the first second of a minute, and the last. loop.webp: one stream whose prompt goes on changing.

Legend: T frames, H W pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

import genlock
from genlock.engine.session import BUNDLED_FOLDER

from .questions import questions
from .scene import FRAMES_PER_SECOND, FULL_WORLD
from .streams import MINUTE_CHUNKS, OpenSession, take
from .takes import first_pixel

MOMENTS = (2, 10, 18, 26, 34, 42, 50, 62)
CHUNKS = 6
AROUND = {  # frames shown, counted from where the change takes effect
    "a prompt change": (-6, -1, 0, 2, 4, 6, 9, 14, 20),
    "a transition of 2 s": (-6, -1, 6, 12, 18, 24, 30, 36, 44),
    "a hard cut": (-6, -1, 0, 1, 2, 5, 9, 14, 20),
}
BEFORE, AFTER = 4, 4  # chunks shown of a change
CHANGED = (
    "a red balloon floats over the sea at noon in clear weather",
    "a blue whale floats over the mountains at sunset in the snow",
)
QUALITY = 88
MARGIN, LINE = 3, 13
GROUND, INK = (24, 24, 24), (230, 230, 230)
OPENINGS = (
    "a boat",
    "a bird",
    "a red balloon over the sea at noon",
    "a green car at night",
    "a pink whale in the snow",
    "a rocket bounces over the city",
)
OPENING_MOMENTS = (0, 2, 4, 8, 14, 20)
MINUTE = (
    "a red balloon floats over the sea at noon in clear weather",
    "a blue whale drifts left over the mountains at sunset in the snow",
    "a yellow plane bounces over the city at night in the rain",
)
SECOND = (0, 5, 10, 15)  # frames shown of one
STORY = (
    "a red balloon floats over the sea at noon in clear weather",
    "a red balloon floats over the sea at sunset in clear weather",
    "a red balloon floats over the mountains at sunset in clear weather",
    "a yellow balloon floats over the mountains at night in the snow",
    "a blue whale floats over the city at night in the snow",
)
STORY_CHUNKS = 3  # of each prompt
LOOP_SCALE = 2
LOOP_BYTES = 3_000_000


def numbered(rows: Sequence[tuple[str, Tensor, Sequence[int]]]) -> Image.Image:
    """One picture: for each row a title, its frames uint8 [T, 3, H, W], and a number under every frame."""
    height, width = rows[0][1].shape[-2:]
    across = max(len(frames) for _, frames, _ in rows)
    step = height + 2 * LINE + MARGIN
    canvas = Image.new("RGB", (across * (width + MARGIN), len(rows) * step), GROUND)
    draw = ImageDraw.Draw(canvas)
    for row, (title, frames, numbers) in enumerate(rows):
        top = row * step
        draw.text((2, top), title, fill=INK)
        for column, (frame, number) in enumerate(zip(frames, numbers, strict=True)):
            left = column * (width + MARGIN)
            canvas.paste(picture(frame), (left, top + LINE))
            draw.text((left + 2, top + LINE + height), str(number), fill=INK)
    return canvas


def picture(frame: Tensor) -> Image.Image:
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def prompts(open_session: OpenSession, model: str, count: int) -> Image.Image:
    rows = []
    for question in questions(count, FULL_WORLD):
        with open_session(model, seed=question.number) as session:
            chunks = session.stream()
            session.prompt(question.first.text)
            rows.append((question.first.text, take(chunks, CHUNKS)[list(MOMENTS)], MOMENTS))
    return numbered(rows)


def openings(open_session: OpenSession, model: str) -> Image.Image:
    rows = []
    for text in OPENINGS:
        with open_session(model, seed=3) as session:
            chunks = session.stream()
            session.prompt(text)
            rows.append((text, take(chunks, 2)[list(OPENING_MOMENTS)], OPENING_MOMENTS))
    return numbered(rows)


def minute(open_session: OpenSession, model: str) -> Image.Image:
    """Streams of a minute under one prompt each: of their first second and their last, a few frames side by side."""
    total = first_pixel(MINUTE_CHUNKS)
    moments = [*SECOND, *(total - FRAMES_PER_SECOND + moment for moment in SECOND)]
    rows = []
    for text in MINUTE:
        shown: dict[int, Tensor] = {}
        with open_session(model, seed=5) as session:
            chunks = session.stream()
            session.prompt(text)
            for chunk in range(MINUTE_CHUNKS):
                first = first_pixel(chunk)
                shown |= {first + n: frame for n, frame in enumerate(take(chunks, 1)) if first + n in moments}
        rows.append((f"{text}: first second, last second", torch.stack([shown[n] for n in moments]), moments))
    return numbered(rows)


def changes(open_session: OpenSession, model: str) -> Image.Image:
    """The same two prompts three times: changed at once, over two seconds, and cut."""
    first, second = CHANGED
    at = first_pixel(BEFORE)
    rows = []
    for name, around in AROUND.items():
        with open_session(model, seed=1) as session:
            chunks = session.stream()
            session.prompt(first)
            shown = [take(chunks, BEFORE)]
            if name == "a hard cut":
                session.cut(second)
            else:
                session.prompt(second, transition=2.0 if "transition" in name else 0.0)
            shown.append(take(chunks, AFTER))
        numbers = [at + offset for offset in around]
        rows.append((f"{name} at frame {at}: {first} -> {second}", torch.cat(shown)[numbers], numbers))
    return numbered(rows)


def loop(open_session: OpenSession, model: str) -> list[Image.Image]:
    """A stream through all the prompts and back to the first."""
    made = []
    with open_session(model, seed=7) as session:
        chunks = session.stream()
        for text in (*STORY, STORY[0]):
            session.prompt(text)
            made.append(take(chunks, STORY_CHUNKS))
    frames = torch.cat(made)
    size = (LOOP_SCALE * frames.shape[-1], LOOP_SCALE * frames.shape[-2])
    return [picture(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]


def write_loop(pictures: Sequence[Image.Image], path: Path, *, fps: float = 16.0) -> int:
    """An endless WebP, as good as fits LOOP_BYTES; returns its quality. Raises ValueError if none fits."""
    for quality in (80, 65, 50, 35, 20):
        pictures[0].save(
            path,
            save_all=True,
            append_images=list(pictures[1:]),
            duration=round(1000 / fps),
            loop=0,
            quality=quality,
            method=4,
        )
        if path.stat().st_size <= LOOP_BYTES:
            return quality
    raise ValueError(f"{len(pictures)} frames do not fit {LOOP_BYTES} bytes")


def main(argv: list[str] | None = None, *, open_session: OpenSession = genlock.open) -> None:
    parser = argparse.ArgumentParser(prog="tools.world.show", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(BUNDLED_FOLDER), help="a model folder; default: the shipped one")
    parser.add_argument("--out", required=True, type=Path, help="folder for the pictures")
    parser.add_argument("--questions", type=int, default=12, help="rows of prompts.webp")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    sheets = {
        "prompts.webp": prompts(open_session, options.model, options.questions),
        "openings.webp": openings(open_session, options.model),
        "changes.webp": changes(open_session, options.model),
        "minute.webp": minute(open_session, options.model),
    }
    for name, sheet in sheets.items():
        sheet.save(options.out / name, quality=QUALITY, method=6)
    quality = write_loop(loop(open_session, options.model), options.out / "loop.webp")
    for path in sorted(options.out.iterdir()):
        print(f"{path}: {path.stat().st_size:,} bytes")
    print(f"the loop's quality: {quality}")


if __name__ == "__main__":
    main()
