"""A file that appears whole or not at all, also after the process that wrote it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from genlock.generator.whole_file import sweep, whole_file

WRITER = (
    "import sys, time\nfrom pathlib import Path\nfrom genlock.generator.whole_file import whole_file\n"
    "with whole_file(Path(sys.argv[1])) as partial:\n"
    "    partial.write_text('half')\n    print('begun', flush=True)\n    time.sleep(60)"
)


def begun(path: Path) -> subprocess.Popen[str]:
    """A process that is half through with `path`."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a [1].mp4"  # which is a pattern, too
    process = begun(path)
    try:
        sweep(path)
        assert len(list(tmp_path.iterdir())) == 1, "its writer lives"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        with whole_file(path) as partial:
            partial.write_text("whole")
            assert list(tmp_path.iterdir()) == [partial]
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("a [1].mp4", "whole")]
