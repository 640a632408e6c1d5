"""`genlock generate`: flags become one timeline, the session is asked, the file is whole or not there."""

from __future__ import annotations

import errno
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from genlock.errors import NotFinite
from genlock.generator.model_folder import FILES, write_model_folder
from genlock.generator.presets import PRESETS
from genlock.settings import Settings

pytest.importorskip("av")


def test_a_prompt_and_a_file_are_enough(desk, tmp_path: Path) -> None:
    video = tmp_path / "video.mp4"
    code, out, err = desk.run("generate", "--prompt", "a red balloon", "--out", video, "--seconds", 2)
    assert (code, err) == (0, "")
    (session,) = desk.sessions
    assert session.closed
    assert session.opened_with["settings"] == Settings()
    assert [request.prompts.prompts[0].text for request in session.asked] == ["a red balloon"]
    assert video.stat().st_size > 0
    assert "video.mp4: 2.1 s, 33 frames of 64x48 at 16 frames/s" in out


def test_times_are_rounded_up_to_a_chunk_and_that_is_said(desk, tmp_path: Path) -> None:
    words = ["--prompt", "a boat", "--prompt", "a red boat", "--at", 1, "--cut-at", 2, "--transition", 0.5]
    code, out, _ = desk.run("generate", *words, "--seconds", 4, "--out", tmp_path / "v.mp4")
    assert code == 0
    # chunks of 12 frames at 16 frames/s, the first of 9: 1 s = frame 16 -> frame 21; 2 s = frame 32 -> frame 33
    assert "at 0.00 s, chunk 0: a boat" in out
    assert "at 1.31 s, chunk 2 (asked for 1 s, rounded up to a chunk): a red boat" in out
    assert "at 2.06 s, chunk 3 (asked for 2 s, rounded up to a chunk): cut" in out
    change = desk.sessions[0].asked[1]
    assert (change.transition.seconds, change.cut) == (0.5, False)


def test_a_cut_at_a_prompts_time_is_that_prompts_cut(desk, tmp_path: Path) -> None:
    words = ["--prompt", "a boat", "--prompt", "a red boat", "--at", 1, "--cut-at", 1]
    assert desk.run("generate", *words, "--out", tmp_path / "v.mp4")[0] == 0
    assert [request.cut for request in desk.sessions[0].asked] == [False, True]


def test_the_summary_counts_in_plain_words(desk, tmp_path: Path) -> None:
    _, out, _ = desk.run("generate", "--prompt", "a boat", "--seconds", 3, "--out", tmp_path / "v.mp4")
    # half a second a chunk, 12 frames a chunk: 24 frames/s
    assert "steady state: 24.0 delivered frames/s, 1.50 times the 16 it plays at (chunks 2 to 4; " in out
    assert "the first frames came after 0.5 s" in out
    assert "a chunk's time, median: generator 300 ms, decode 200 ms, mp4 0 ms" in out


def test_a_stream_of_one_chunk_has_no_steady_state(desk, tmp_path: Path) -> None:
    code, out, _ = desk.run("generate", "--prompt", "a boat", "--seconds", 0.1, "--out", tmp_path / "v.mp4")
    assert code == 0
    assert "steady" not in out


def test_a_sheet_has_its_moments(desk, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["--prompt", "a boat", "--seconds", 4, "--out", tmp_path / "v.mp4", "--sheet", sheet]
    _, out, _ = desk.run("generate", *words)
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert "12 moments" in out


def test_flags_go_before_the_environment_and_the_environment_before_defaults(
    desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENLOCK_DEVICE", "cuda")
    monkeypatch.setenv("GENLOCK_THREADS", "1")
    words = ["--prompt", "a boat", "--device", "cpu", "--regime", "R0", "--seed", 7, "--height", 48, "--steps", 2]
    desk.run("generate", *words, "--out", tmp_path / "v.mp4")
    opened = desk.sessions[0].opened_with
    assert opened["settings"] == Settings(device="cpu", threads=1, regime="R0")
    assert (opened["seed"], opened["height"], opened["width"], opened["steps"]) == (7, 48, None, 2)


@pytest.mark.parametrize(
    ("faults", "topology", "line"),
    [
        ("kill:rank=1,phase=load", "solo", "GENLOCK_FAULTS: this run has no mesh to plant a fault in; unset it"),
        ("kil:rank=1,phase=load", "solo", "GENLOCK_FAULTS: 'kil:rank=1,phase=load' is not a fault"),
        ("kill:rank=2,phase=load", "tp", "GENLOCK_FAULTS: a mesh of 2 has no rank 2 to plant a fault in"),
    ],
)
def test_a_fault_that_cannot_strike_is_one_line_before_any_rank_is_started(
    desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: str, topology: str, line: str
) -> None:
    monkeypatch.setenv("GENLOCK_FAULTS", faults)
    words = ["--prompt", "a boat", "--topology", topology, "--out", tmp_path / "v.mp4"]
    code, said = desk.refuses("generate", *words)
    assert code == 2
    assert line in said


def test_unknown_words_are_a_warning(desk, tmp_path: Path) -> None:
    code, _, err = desk.run("generate", "--prompt", "red zebra boat", "--out", tmp_path / "v.mp4")
    assert code == 0
    assert err == "warning: the model does not know zebra; `genlock generate --list-words` prints what it knows\n"


def said_of(folder: Path, **told: Any) -> Path:
    """A model folder that nobody could run, but that says what it knows."""
    for name in FILES.values():
        (folder / name).touch()
    write_model_folder(folder, PRESETS["krea-14b"], **told)
    return folder


def test_what_the_model_can_be_told_is_listed_by_kind(desk, tmp_path: Path) -> None:
    phrases = {"subjects": ["boat", "sailing boat"], "lights": ["at noon"]}
    folder = said_of(tmp_path, words=["at", "boat"], phrases=phrases, example="a boat at noon")
    code, out, _ = desk.run("generate", "--list-words", "--model", folder)
    assert code == 0
    assert out == (
        "subjects: boat, sailing boat\nlights: at noon\n\n"
        'for example: genlock generate --prompt "a boat at noon" --out video.mp4\n'
    )
    assert desk.sessions == []  # nothing heavy is loaded for it


def test_words_without_kinds_are_listed_one_a_line(desk, tmp_path: Path) -> None:
    code, out, _ = desk.run("generate", "--list-words", "--model", said_of(tmp_path, words=["at", "boat"]))
    assert (code, out) == (0, "at\nboat\n")


def test_a_model_that_knows_parts_of_words_takes_any(desk, tmp_path: Path) -> None:
    code, out, _ = desk.run("generate", "--list-words", "--model", said_of(tmp_path))
    assert (code, out) == (0, "this model has no list of words: any word will do\n")


def test_the_bundled_model_says_what_it_can_be_told(desk) -> None:
    code, out, _ = desk.run("generate", "--list-words")
    assert code == 0
    assert "balloon" in out


def test_a_timeline_file_is_served(desk, tmp_path: Path) -> None:
    events = [{"at": 0, "prompt": "a boat"}, {"at": 1, "prompts": [{"text": "sea", "weight": 2}, {"text": "night"}]}]
    story = tmp_path / "story.json"
    story.write_text(json.dumps({"version": 1, "events": events}))
    code, out, _ = desk.run("generate", "--timeline", story, "--out", tmp_path / "v.mp4")
    assert code == 0
    assert "2 x sea + night" in out


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--out", "v.mp4"], 2, r"--prompt: nothing to show; add --prompt"),
        (["--prompt", "a"], 2, "--out: no file to write; add --out video.mp4"),
        (["--prompt", "", "--out", "v.mp4"], 3, "GL-TEXT-01: the prompt is empty"),
        (["--prompt", "a", "--prompt", "b", "--out", "v.mp4"], 2, "--at: 2 prompts and 0 times; give one --at"),
        (["--prompt", "a", "--at", "2", "--out", "v.mp4"], 3, "--at: no prompt before 2 s"),
        (["--prompt", "a", "--prompt", "b", "--at", "-1", "--out", "v.mp4"], 3, "GL-TIME-01: time -1.0 s"),
        (["--prompt", "a", "--prompt", "b", "--at", "nan", "--out", "v.mp4"], 3, "GL-TIME-01: time nan s"),
        (["--prompt", "a", "--transition", "-1", "--out", "v.mp4"], 3, "GL-TIME-01: a transition of -1.0"),
        (["--prompt", "a", "--strength", "0.5", "--out", "v.mp4"], 2, "--strength: nothing to change; add --input"),
        (
            ["--prompt", "a", "--input", "no.mp4", "--strength", "0", "--out", "v.mp4"],
            2,
            "0.0 is not in the range 0<x<=1",
        ),
        (["--prompt", "a", "--input", "no.mp4", "--out", "v.mp4"], 5, "GL-IO-02: no.mp4: there is no such file"),
        (["--prompt", "a", "--height", "0", "--out", "v.mp4"], 2, "'--height': 0 is not in the range x>=1"),
        (["--prompt", "a", "--seed", "-1", "--out", "v.mp4"], 2, "'--seed': -1 is not in the range"),
        (["--prompt", "a", "--seconds", "0", "--out", "v.mp4"], 2, "--seconds: a video of 0 seconds"),
        (["--prompt", "a", "--seconds", "inf", "--out", "v.mp4"], 2, "--seconds: a video of inf seconds"),
        (["--prompt", "a", "--out", "nowhere/v.mp4"], 5, "nowhere: there is no such folder; make the folder first"),
        (["--prompt", "a", "--out", "."], 5, ".: is a folder"),
        (["--timeline", "none.json", "--out", "v.mp4"], 5, "none.json: cannot be read (no such file or directory)"),
        (["--timeline", "t.json", "--prompt", "a", "--out", "v.mp4"], 2, "a timeline file has its own prompts"),
        (["--prompt", "a", "--device", "gpu", "--out", "v.mp4"], 2, "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
    ],
)
def test_bad_flags_are_one_line_before_any_model_loads(
    desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found, said = desk.refuses("generate", *words)
    assert line in said
    assert found == code
    assert not list(tmp_path.iterdir())


def test_prompts_out_of_order_are_refused_as_they_were_written(desk, tmp_path: Path) -> None:
    words = ["--prompt", "a", "--prompt", "b", "--prompt", "c", "--at", 3, "--at", 2]
    code, line = desk.refuses("generate", *words, "--out", tmp_path / "v.mp4")
    assert code == 3
    assert "time 2.0 s comes after 3.0 s" in line


def test_a_change_after_the_end_is_refused_and_nothing_is_written(desk, tmp_path: Path) -> None:
    words = ["--prompt", "a", "--prompt", "b", "--at", 9, "--seconds", 5]
    code, _, err = desk.run("generate", *words, "--out", tmp_path / "v.mp4")
    assert code == 3
    assert "after the end of the video; give a larger --seconds" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NotFinite("a NaN in the latents", chunk_index=2), 10, "GL-NUM-01: chunk 2: a NaN in the latents"),
        (OSError(errno.ENOSPC, "No space left on device", "v.mp4"), 5, "v.mp4: cannot"),
        (MemoryError("9 GiB"), 14, "GL-MEM-01: 9 GiB; use a smaller size"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("x"), 1, "GL-00: a defect in genlock: ZeroDivisionError: x; run it again with --debug"),
    ],
)
def test_a_failure_half_way_is_one_line_and_leaves_no_file(
    desk, tmp_path: Path, error: BaseException, code: int, line: str
) -> None:
    desk.fails_at, desk.error = 2, error
    found, _, err = desk.run("generate", "--prompt", "sea", "--out", tmp_path / "v.mp4", "--sheet", tmp_path / "s.png")
    assert found == code
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert desk.sessions[0].closed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "other"), [("--sheet", "--out"), ("--out", "--input")])
def test_no_file_is_written_over_another(desk, tmp_path: Path, flag: str, other: str) -> None:
    files = {"--input": tmp_path / "in.mp4", "--out": tmp_path / "out.mp4", "--sheet": tmp_path / "sheet.png"}
    files["--input"].touch()
    files[flag] = tmp_path / ".." / tmp_path.name / files[other].name
    code, line = desk.refuses("generate", "--prompt", "sea", *(word for pair in files.items() for word in pair))
    assert (code, line) == (2, f"GL-USE-01: {flag}: the same file as {other}; give each a name of its own")


def test_a_mesh_needs_a_topology(desk, tmp_path: Path) -> None:
    code, line = desk.refuses("generate", "--prompt", "sea", "--mesh", 2, "--out", tmp_path / "v.mp4")
    assert (code, line) == (2, "GL-USE-01: --mesh: a mesh of 2 and a topology of one; add --topology tp")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_finishes_the_chunk_in_flight(desk, tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    desk.interrupts = {3: number}
    code, out, _ = desk.run("generate", "--prompt", "sea", "--seconds", 60, "--out", tmp_path / "v.mp4")
    assert code == 0
    assert "33 frames" in out, "9 of the first chunk, 12 of each other"
    assert (tmp_path / "v.mp4").stat().st_size
    assert signal.getsignal(number) is before


def test_asked_twice_it_ends_at_once(desk, tmp_path: Path) -> None:
    desk.kind = type("Slow", (desk.kind,), {"drain": lambda _: None})  # its chunk in flight does not end
    desk.interrupts = {2: signal.SIGTERM, 3: signal.SIGHUP}
    code, _, err = desk.run("generate", "--prompt", "sea", "--seconds", 60, "--out", tmp_path / "v.mp4")
    assert (code, err.strip()) == (130, "interrupted")
    assert not list(tmp_path.iterdir())


def test_the_traceback_is_there_for_who_asks(desk, tmp_path: Path) -> None:
    desk.fails_at, desk.error = 0, ZeroDivisionError("x")
    _, _, err = desk.run("generate", "--prompt", "sea", "--out", tmp_path / "v.mp4", "--debug")
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("GL-00: ")
