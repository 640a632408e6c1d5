"""Files that appear whole or not at all, and any video read at the size and rate that is wanted."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from genlock.errors import InputOutputError, UsageError, VideoUnreadable
from genlock.media.video import VideoWriter, contact_sheet, read_video


def clip(count: int, height: int = 48, width: int = 64) -> torch.Tensor:
    """Flat frames that grow brighter."""
    levels = torch.linspace(30, 220, count).to(torch.uint8)
    return levels.view(-1, 1, 1, 1).expand(count, height, width, 3).contiguous()


def test_what_was_written_is_an_h264_mp4_with_every_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    frames = clip(20)
    with VideoWriter(path, 64, 48, 16.0) as writer:
        writer.write(frames[:9])
        writer.write(frames[9:])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, float(stream.average_rate or 0)) == (64, 48, 16.0)
    back = torch.stack(list(read_video(path, height=48, width=64, fps=16.0)))
    assert back.shape == frames.shape
    assert (back.float() - frames.float()).abs().mean() < 3


def test_the_same_frames_give_the_same_file(tmp_path: Path) -> None:
    """Many times, for x264's own choice of routines gives another one in every third or so."""
    coarse = torch.randint(0, 80, (60, 16, 24, 3), generator=torch.Generator().manual_seed(1))
    frames = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2) + 2 * torch.arange(60).view(-1, 1, 1, 1)
    files = set()
    for _ in range(12):
        with VideoWriter(tmp_path / "out.mp4", 192, 128, 16.0) as writer:
            writer.write(frames.to(torch.uint8))
        files.add((tmp_path / "out.mp4").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize(("fps", "count"), [(16.0, 32), (8.0, 16), (32.0, 63)])
def test_time_and_size_are_resampled(tmp_path: Path, fps: float, count: int) -> None:
    path = tmp_path / "in.mp4"
    with VideoWriter(path, 64, 48, 16.0) as writer:
        writer.write(clip(32))
    frames = list(read_video(path, height=32, width=32, fps=fps))
    assert len(frames) == count
    assert frames[0].shape == (32, 32, 3)
    brightness = [float(frame.float().mean()) for frame in frames]
    assert brightness == sorted(brightness)


def test_leaving_by_an_error_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("what was there before")

    def fail() -> None:
        with VideoWriter(path, 64, 48, 16.0) as writer:
            writer.write(clip(9))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_text() == "what was there before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.mp4"]


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from genlock.errors import InputOutputError
from genlock.media.video import VideoWriter
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    with VideoWriter(Path(sys.argv[1]), 192, 128, 16.0) as writer:
        for _ in range(20):
            writer.write(torch.randint(0, 256, (12, 128, 192, 3), dtype=torch.uint8))
except InputOutputError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)  # the limit is set in the child alone
    path = tmp_path / "out.mp4"
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 5, run.stderr
    assert run.stdout.count("\n") == 1
    assert "out.mp4" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="no such folder"), VideoWriter(tmp_path / "no" / "x.mp4", 64, 48, 16.0):
        pass
    with pytest.raises(InputOutputError, match="folder, not a file"), VideoWriter(tmp_path, 64, 48, 16.0):
        pass


def test_a_video_without_a_frame_and_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputOutputError, match="no frame to write"), VideoWriter(tmp_path / "x.mp4", 64, 48, 16.0):
        pass
    for frames in (clip(2, height=32), clip(2).float()):
        with (
            pytest.raises(UsageError, match="for a video of 64x48"),
            VideoWriter(tmp_path / "x.mp4", 64, 48, 16.0) as writer,
        ):
            writer.write(frames)
    with pytest.raises(InputOutputError, match="is no file name"), VideoWriter(tmp_path / "x\0.mp4", 64, 48, 16.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_fetched(tmp_path: Path) -> None:
    visitors: list[socket.socket] = []

    def turn_away(server: socket.socket) -> None:
        while True:
            try:
                visitors.append(server.accept()[0])
            except OSError:  # the test is over
                return
            visitors[-1].close()  # a reader that came would otherwise wait for an answer

    with socket.create_server(("127.0.0.1", 0)) as server:
        door = threading.Thread(target=turn_away, args=(server,), daemon=True)
        door.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        playlist = tmp_path / "list.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
        for source in (playlist, Path(address), address):
            with pytest.raises(VideoUnreadable):
                list(read_video(source, height=32, width=32, fps=16.0))  # type: ignore[arg-type]
        server.shutdown(socket.SHUT_RDWR)
        door.join(timeout=10)
    assert not visitors


@pytest.mark.parametrize("name", ["a b.mp4", "caf\u00e9 #?%.mp4", "http:x.mp4", "-y.mp4"])
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, 64, 48, 16.0) as writer:
        writer.write(clip(3))
    assert len(list(read_video(tmp_path / name, height=48, width=64, fps=16.0))) == 3


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100])
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in.mp4"
    with pytest.raises(VideoUnreadable, match=r"in\.mp4"):
        list(read_video(path, height=32, width=32, fps=16.0))
    path.write_bytes(content)
    with pytest.raises(VideoUnreadable, match=r"in\.mp4"):
        list(read_video(path, height=32, width=32, fps=16.0))


def test_a_contact_sheet_has_every_picture_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    frames = [torch.full((16, 24, 3), level, dtype=torch.uint8) for level in (50, 100, 150, 200, 250)]
    contact_sheet(path, frames, columns=2, captions=[f"frame {n}" for n in range(5)])
    with Image.open(path) as sheet:
        assert sheet.size == (4 + 2 * 28, 4 + 3 * (16 + 14 + 4))
        assert sheet.getpixel((4 + 28 + 5, 4 + 34 + 5)) == (200, 200, 200)
    for pictures, captions in (([], []), (frames, ["one"])):
        with pytest.raises(UsageError, match="contact sheet"):
            contact_sheet(path, pictures, columns=2, captions=captions)
