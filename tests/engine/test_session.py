"""A whole session on a toy model: what is delivered, when it changes, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import genlock
from genlock.errors import (
    CheckpointKeys,
    CheckpointMissing,
    CheckpointUnreadable,
    DeviceUnavailable,
    NotFinite,
    PromptRefused,
    SizeRefused,
    TimelineRefused,
    UsageError,
    VideoUnreadable,
)
from genlock.media.video import VideoWriter

RED, BLUE = "a red boat at sea", "a blue car at night"


def frames_of(folder: Path, seconds: float = 3.0, **options: Any) -> torch.Tensor:
    with genlock.open(str(folder), device="cpu", **options) as session:
        session.prompt(RED)
        return torch.cat([chunk.frames for chunk in session.stream(seconds=seconds)])


def test_a_stream_is_whole_chunks_of_bytes(model_folder: Path) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt(RED)
        chunks = list(session.stream(seconds=2.0))
    assert [tuple(chunk.frames.shape) for chunk in chunks] == [(9, 32, 48, 3), (12, 32, 48, 3), (12, 32, 48, 3)]
    assert [chunk.start_frame for chunk in chunks] == [0, 9, 21]
    assert all(chunk.frames.dtype == torch.uint8 for chunk in chunks)
    assert {"plan", "generator", "decode"} == set(chunks[0].timings)


def test_the_same_seed_and_prompts_give_the_same_bytes_and_another_seed_others(model_folder: Path) -> None:
    first = frames_of(model_folder)
    assert torch.equal(first, frames_of(model_folder))
    assert not torch.equal(first, frames_of(model_folder, seed=43))


@pytest.mark.parametrize("regime", ["R0a", "R0", "R1"])
def test_pixels_are_decoded_one_latent_at_a_time_in_every_regime(
    model_folder: Path, regime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split is what makes pixels bit-equal wherever the decoder runs."""
    with genlock.open(str(model_folder), device="cpu", regime=regime) as session:
        steps: list[int] = []
        decoder = session.engine.vae.decoder  # type: ignore[union-attr]
        handle = decoder.register_forward_pre_hook(lambda _, inputs: steps.append(inputs[0].shape[0]))
        session.prompt(RED)
        list(session.stream(seconds=2.0))
        handle.remove()
    assert steps == [1] * 9  # three chunks of three latents


def test_regimes_differ_only_once_there_is_a_past(model_folder: Path) -> None:
    exact, latents = (frames_of(model_folder, regime=regime) for regime in ("R0a", "R0"))
    assert torch.equal(exact[:21], latents[:21])  # the first context is the true first frames in both
    assert not torch.equal(exact[21:], latents[21:])


def test_a_prompt_takes_effect_at_its_chunk_and_not_before(model_folder: Path) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt(RED)
        placed = session.prompt(BLUE, at=1.0)
        changed = torch.cat([chunk.frames for chunk in session.stream(seconds=3.0)])
    assert (placed.pixel_frame, placed.chunk_index) == (21, 2)
    plain = frames_of(model_folder)
    assert torch.equal(plain[:21], changed[:21])
    assert not torch.equal(plain[21:33], changed[21:33])


def test_a_cut_starts_the_stream_anew(model_folder: Path) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt(BLUE)
        session.cut(RED, at=1.0)
        chunks = list(session.stream(seconds=3.0))
    assert [len(chunk.frames) for chunk in chunks] == [9, 12, 9, 12, 12]
    after = torch.cat([chunk.frames for chunk in chunks[2:]])
    assert torch.equal(after, frames_of(model_folder)[: len(after)])  # nothing of the old stream is left


def test_a_live_request_meets_the_next_chunk(model_folder: Path) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt(RED)
        stream = session.stream()
        next(stream)
        assert session.prompt([(RED, 0.5), (BLUE, 0.5)]).chunk_index == 1
        assert len(next(stream).frames) == 12


def test_video_to_video_follows_its_input_and_ends_with_it(model_folder: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    picture = torch.randint(0, 256, (26, 48, 64, 3), dtype=torch.uint8)
    with VideoWriter(film, 64, 48, 16) as writer:
        writer.write(picture)
    with genlock.open(str(model_folder), device="cpu", input_video=film, strength=0.6) as session:
        session.prompt(RED)
        chunks = list(session.stream(seconds=10.0))
    assert [len(chunk.frames) for chunk in chunks] == [13, 12, 12]  # 26 input frames: 12, 12 and a broken-off chunk


def damaged(model_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(model_folder, folder)
    return folder


def test_a_checkpoint_with_a_missing_tensor_is_refused_by_its_name(model_folder: Path, tmp_path: Path) -> None:
    folder = damaged(model_folder, tmp_path)
    file = folder / "vae.safetensors"
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors.pop("decoder.conv1.weight")
    save_file(tensors, file, metadata)
    with pytest.raises(CheckpointKeys, match=r"decoder\.conv1\.weight"):
        genlock.open(str(folder), device="cpu")


def test_a_truncated_checkpoint_and_a_missing_file_are_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = damaged(model_folder, tmp_path)
    file = folder / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointUnreadable, match=r"generator\.safetensors"):
        genlock.open(str(folder), device="cpu")
    file.unlink()
    with pytest.raises(CheckpointMissing, match="no generator here"):
        genlock.open(str(folder), device="cpu")


def test_weights_that_make_no_numbers_are_a_tripwire(model_folder: Path, tmp_path: Path) -> None:
    folder = damaged(model_folder, tmp_path)
    with genlock.open(str(folder), device="cpu") as session:
        with torch.no_grad():
            session.engine.stream.generator.head.head.bias.fill_(float("nan"))
        session.prompt(RED)
        with pytest.raises(NotFinite, match=r"chunk 0.*not finite"):
            next(session.stream())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"height": 33}, SizeRefused, "48x33"),
        ({"steps": 0}, UsageError, "0 denoise steps"),
        ({"input_video": "/nowhere.mp4"}, VideoUnreadable, "nowhere"),
        ({"strength": 2.0}, TimelineRefused, "strength"),
        ({"strength": 0.0}, TimelineRefused, "strength"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    model_folder: Path, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    def run() -> None:
        with genlock.open(str(model_folder), device="cpu", **options) as session:
            session.prompt(RED)
            next(session.stream())

    with pytest.raises(error, match=words):
        run()


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"no model\.json"):
        genlock.open(str(tmp_path))
    with pytest.raises(UsageError, match="comes without weights"):
        genlock.open("krea-14b")
    with pytest.raises(UsageError, match="did you mean krea-14b"):
        genlock.open("krea-14")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused(model_folder: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="no CUDA device"):
        genlock.open(str(model_folder), device="cuda")


@pytest.mark.parametrize("text", ["", "   ", "a red boat at sea at night at noon at sea at night"])
def test_a_prompt_without_words_or_beyond_the_length_is_refused_and_nothing_is_lost(
    model_folder: Path, text: str
) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        session.prompt(RED)
        with pytest.raises(PromptRefused):
            session.prompt(text, at=0.5)
        assert len(next(session.stream()).frames) == 9


def test_words_outside_the_vocabulary_are_named(model_folder: Path) -> None:
    with genlock.open(str(model_folder), device="cpu") as session:
        assert session.unknown_words("a purple boat, at SEA") == ["purple"]
        assert "boat" in session.words
