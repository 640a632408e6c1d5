"""Video files and contact sheets: frames in, an mp4 or a PNG out, and frames of any video a player can play.

T frames, H, W pixel rows and columns; frames are uint8 RGB [T, H, W, 3]. A file appears whole or not at all. Knows no
model and no timeline.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from genlock.errors import InputOutputError, UsageError, VideoUnreadable
from genlock.generator.whole_file import whole_file

CODEC = "libx264"
# The same frames give the same file: x264's fastest routines, which this option leaves out, give another one each time.
OPTIONS = {"crf": "17", "preset": "veryfast", "x264-params": "cpu-independent=1"}
CONTAINER = {"movflags": "+faststart"}
LOCAL = {"protocol_whitelist": "file"}  # a playlist must not fetch anything
CAPTION_ROWS = 14  # pixels under a picture
MARGIN = 4
SAME_TIME_S = 1e-6
BACKGROUND, INK = (18, 18, 18), (230, 230, 230)


class VideoWriter:
    """An H.264 mp4, yuv420p. Use as a context manager: leaving it by an exception leaves no file.

    Raises InputOutputError for a path that cannot be written, a disk that fills up, and a video without a frame.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        self._path, self._width, self._height = Path(path), width, height
        self._rate = Fraction(fps).limit_denominator(1001)
        self._open = ExitStack()
        self._frames = 0

    def __enter__(self) -> Self:
        partial = self._open.enter_context(whole_file(self._path))
        try:
            self._container = av.open(str(partial), "w", format="mp4", options=CONTAINER)
            self._stream = self._container.add_stream(CODEC, rate=self._rate, options=OPTIONS)
        except (av.FFmpegError, OSError) as error:
            self._open.close()
            raise InputOutputError(f"cannot be written ({_reason(error)})", where=str(self._path)) from error
        self._stream.width, self._stream.height, self._stream.pix_fmt = self._width, self._height, "yuv420p"
        return self

    def write(self, frames: Tensor) -> None:
        """frames: uint8 [T, H, W, 3] on the CPU. Raises UsageError for frames of another kind."""
        if frames.dtype != torch.uint8 or tuple(frames.shape[1:]) != (self._height, self._width, 3):
            raise UsageError(
                f"{frames.dtype} frames {list(frames.shape)} for a video of {self._width}x{self._height}",
                where=str(self._path),
                remedy="give uint8 [T, H, W, 3]",
            )
        self._frames += len(frames)
        try:
            for picture in frames.numpy():
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise InputOutputError(f"cannot be written ({_reason(error)})", where=str(self._path)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        refused: InputOutputError | None = None
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
        except (av.FFmpegError, OSError) as failure:
            refused = InputOutputError(f"cannot be written ({_reason(failure)})", where=str(self._path))
        if kind is None and refused is None and not self._frames:
            refused = InputOutputError("no frame to write", where=str(self._path), remedy="ask for one chunk or more")
        if kind is not None or refused is None:
            self._open.__exit__(kind, error, trace)
            return
        self._open.__exit__(type(refused), refused, None)
        raise refused


def read_video(path: Path, *, height: int, width: int, fps: float) -> Iterator[Tensor]:
    """Frames uint8 [H, W, 3] of a video file, resampled in time to `fps` (nearest earlier frame), read as needed.

    Raises VideoUnreadable for a file that is missing, is no video, or breaks off. Never fetches anything.
    """
    if not Path(path).exists():
        raise VideoUnreadable("no such file", where=str(path))
    try:
        with av.open(f"file:{path}", options=LOCAL) as container:
            if not container.streams.video:
                raise VideoUnreadable("holds no video", where=str(path))
            yield from _resampled(container, fps, height, width, where=str(path))
    except (av.FFmpegError, OSError) as error:
        raise VideoUnreadable(f"cannot be read ({_reason(error)})", where=str(path)) from error


def _resampled(
    container: av.container.InputContainer, fps: float, height: int, width: int, *, where: str
) -> Iterator[Tensor]:
    delivered, seconds = 0, 0.0
    began: float | None = None
    held: Tensor | None = None
    for frame in container.decode(video=0):
        seconds = float(frame.time or 0.0)
        began = seconds if began is None else began
        while held is not None and delivered / fps < seconds - began - SAME_TIME_S:
            yield held
            delivered += 1
        rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        held = torch.from_numpy(rgb.to_ndarray())
    if held is None or began is None:
        raise VideoUnreadable("holds no frame", where=where)
    if delivered / fps <= seconds - began + SAME_TIME_S:
        yield held


def contact_sheet(path: Path, frames: Sequence[Tensor], *, columns: int, captions: Sequence[str] = ()) -> None:
    """A PNG of pictures uint8 [H, W, 3], `columns` a row, each over its caption.

    Raises InputOutputError, and UsageError for no picture or another number of captions.
    """
    if not frames or (captions and len(captions) != len(frames)):
        raise UsageError(f"a contact sheet of {len(frames)} pictures and {len(captions)} captions", where=str(path))
    height, width = frames[0].shape[:2]
    cell_height = height + (CAPTION_ROWS if captions else 0) + MARGIN
    rows = -(-len(frames) // columns)
    size = (MARGIN + columns * (width + MARGIN), MARGIN + rows * cell_height)
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, frame in enumerate(frames):
        left, top = MARGIN + (number % columns) * (width + MARGIN), MARGIN + (number // columns) * cell_height
        canvas.paste(Image.fromarray(frame.numpy()), (left, top))
        if captions:
            draw.text((left + 1, top + height + 1), captions[number], fill=INK)
    with whole_file(Path(path)) as partial:
        canvas.save(partial, format="PNG")


def small_jpeg(frame: Tensor, width: int = 160) -> bytes:
    """A picture uint8 [H, W, 3] as a JPEG file's bytes, at most so many pixels wide."""
    picture = Image.fromarray(frame.numpy())
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)))
    made = io.BytesIO()
    picture.save(made, format="JPEG", quality=80)
    return made.getvalue()


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).lower()
