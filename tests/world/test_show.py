"""The pictures to be looked at: every row there, frames under their numbers, a loop that is small enough."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tools.world import show


class FlatSession:
    """Grey pictures, a level a chunk; remembers what it was asked."""

    asked: list[tuple[str, str, float]]

    def __init__(self, asked: list[tuple[str, str, float]]) -> None:
        self.asked = asked

    def __enter__(self) -> FlatSession:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def prompt(self, text: str, *, transition: float = 0.0) -> None:
        self.asked.append(("prompt", text, transition))

    def cut(self, text: str) -> None:
        self.asked.append(("cut", text, 0.0))

    def stream(self) -> Any:
        number = 0
        while True:
            count = 12 if number else 9
            yield SimpleNamespace(frames=torch.full((count, 16, 24, 3), 10 * number % 256, dtype=torch.uint8))
            number += 1


def test_four_sheets_and_a_loop(tmp_path: Path) -> None:
    asked: list[tuple[str, str, float]] = []
    show.main(["--out", str(tmp_path), "--questions", "2"], open_session=lambda *_, **__: FlatSession(asked))
    with Image.open(tmp_path / "prompts.webp") as prompts, Image.open(tmp_path / "changes.webp") as changes:
        assert prompts.width == len(show.MOMENTS) * (24 + show.MARGIN)
        assert changes.height == 3 * (16 + 2 * show.LINE + show.MARGIN)
    with Image.open(tmp_path / "openings.webp") as openings, Image.open(tmp_path / "minute.webp") as minute:
        assert openings.height == len(show.OPENINGS) * (16 + 2 * show.LINE + show.MARGIN)
        assert minute.width == 2 * len(show.SECOND) * (24 + show.MARGIN)
    with Image.open(tmp_path / "loop.webp") as loop:
        # Frames that are alike are kept once, for longer.
        assert loop.n_frames == (len(show.STORY) + 1) * show.STORY_CHUNKS
        assert loop.size == (48, 32)
    assert [text for _, text, _ in asked[2:8]] == list(show.OPENINGS)
    kinds = [(kind, transition) for kind, _, transition in asked[8:14]]
    assert kinds == [("prompt", 0.0), ("prompt", 0.0), ("prompt", 0.0), ("prompt", 2.0), ("prompt", 0.0), ("cut", 0.0)]
    assert [text for _, text, _ in asked[14:]] == [*show.MINUTE, *show.STORY, show.STORY[0]]


def test_a_loop_that_cannot_be_small_enough_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "LOOP_BYTES", 10)
    with pytest.raises(ValueError, match="do not fit 10 bytes"):
        show.write_loop([Image.new("RGB", (16, 16))] * 2, tmp_path / "loop.webp")
