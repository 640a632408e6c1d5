"""A mesh, whole: real processes that load a model and make a video, and what becomes of the run whatever is done to it.

Bits: two runs of one mesh are equal, a mesh of one is the solo run, a mesh of two is close to it. Ends: whoever is
killed, stopped, asked to end, finds a frame wrong, or holds a changed value, the run ends in time, that rank is named,
and no process is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.ranks import Outcome, Ranks

from genlock.drills.runs import (
    GONE_BOUND_S,
    KILL_BOUND_S,
    LAST_CHUNK,
    SHORT,
    STOP_BOUND_S,
    VARIABLES,
    D,
    Run,
    fault,
    until,
)
from genlock.engine.recording import read_recording
from genlock.media.video import VideoWriter, read_video
from genlock.observe.recorder import COLLECTIVE, PHASE, Entry, read, recorder_path
from genlock.settings import Phase

pytestmark = pytest.mark.slow

PATIENT = {"GENLOCK_DEADLINE": "20"}  # where nothing is to be silent: a busy machine is no failure
CHUNKS = 30
TIMELINE = (
    *("--prompt", "a red boat at sea"),
    *("--prompt", "a blue car at night", "--at", "4"),
    *("--prompt", "a blue boat at noon", "--at", "12"),
    *("--transition", "2", "--cut-at", "8", "--cut-at", "17"),
)
CUTS, STREAM_S = 2, "21.9"  # 9 frames after each cut and at the start, 12 otherwise
FIRST_FRAMES, FRAMES = 9, 12
ENDLESS = ("--prompt", "a red boat at sea", "--seconds", "3600")
CLOSE = 1e-4  # a mesh of two sums in another order than one rank; the stream feeds on itself for 30 chunks

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, model_folder: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(*words: str, **options: Any) -> Run:
        runs.append(Run(tmp_path / f"run{len(runs)}", model_folder, *words, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


def well(run: Run) -> Run:
    assert run.ended() == 0, run.said
    assert not run.left()
    return run


# -- bits ------------------------------------------------------------------------------------------------------------


def test_a_stream_has_the_same_bits_in_every_run_of_a_mesh(start: Start, tmp_path: Path) -> None:
    def recorded(name: str, mesh: int) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        words = ["record", str(folder), *TIMELINE, "--seconds", STREAM_S]
        well(start(*words, mesh=mesh, **PATIENT))
        assert len(read_recording(folder).case("session").events) == CHUNKS
        return {
            file.name + name: tensor
            for file in folder.glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }

    one, again = recorded("one", 2), recorded("again", 2)
    assert differing(one, again) == []
    solo, alone = recorded("solo", 0), recorded("alone", 1)
    assert differing(solo, alone) == []
    assert one.keys() <= solo.keys(), "keys and values are recorded where they are whole"
    latents = [name for name in solo if name.endswith(".x0")]
    assert len(latents) == CHUNKS
    assert max(float((one[name] - solo[name]).abs().max()) for name in latents) <= CLOSE


def test_a_followed_video_has_the_same_frames_in_every_run_of_a_mesh(start: Start, tmp_path: Path) -> None:
    length = FIRST_FRAMES + 4 + (CHUNKS - 1) * FRAMES
    ramp = torch.arange(length).reshape(-1, 1, 1, 1) * 3 + torch.arange(32).reshape(1, -1, 1, 1) * 5
    with VideoWriter(tmp_path / "in.mp4", 48, 32, 16.0) as video:
        video.write((ramp % 256).to(torch.uint8).expand(length, 32, 48, 3).contiguous())

    def followed() -> torch.Tensor:
        words = ["generate", *TIMELINE[:10], "--transition", "2"]
        words += ["--input", str(tmp_path / "in.mp4"), "--strength", "0.6", "--seconds", "60"]
        return frames_of(well(start(*words, **PATIENT)).out)

    one, again = followed(), followed()
    assert len(one) >= length, "until the video ends"
    assert torch.equal(one, again)


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def frames_of(path: Path) -> torch.Tensor:
    """uint8 [T, H, W, 3]"""
    return torch.stack(list(read_video(path, height=32, width=48, fps=16.0)))


# -- asked to end ----------------------------------------------------------------------------------------------------


def test_an_interrupted_run_leaves_a_whole_video(start: Start) -> None:
    run = start("generate", *ENDLESS)
    run.wait_for(Phase.IDLE, 3)
    drains(run, signal.SIGINT)


def drains(run: Run, number: signal.Signals) -> None:
    run.process.send_signal(number)
    assert run.ended() == 0, run.said
    assert not run.left()
    assert run.said.startswith("genlock: finishing the chunk in flight")
    last = max(entry.chunk for entry in run.phases(1) if entry.text == Phase.VERDICT)
    assert len(frames_of(run.out)) == FIRST_FRAMES + last * FRAMES, "every chunk that was made is in the file"


def test_a_second_interrupt_ends_a_run_at_once(start: Start) -> None:
    run = start("generate", *ENDLESS, faults=fault("stop", Phase.DELIVER, 0, 3), **PATIENT)
    run.wait_for(Phase.DELIVER, 3)
    run.process.send_signal(signal.SIGTERM)
    until(lambda: "finishing the chunk in flight" in run.said)
    begun_s = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    assert run.ended() == 130, run.said
    assert run.ended_s - begun_s < GONE_BOUND_S
    assert not run.left()
    assert not run.out.exists()
    assert not list(run.folder.glob(".*")), "nothing half-written either"


# -- what the session's user does is not the mesh's failure ----------------------------------------------------------


def test_what_the_user_raises_ends_the_mesh_well(by_hand: ByHand) -> None:
    ended = by_hand(*SHORT, user="raises")
    assert [outcome.ended for outcome in ended] == [1, 0], by_hand.said(0) + by_hand.said(1)
    assert one_line(by_hand.said(0)).startswith("GL-00: a defect in genlock: ValueError: of the user's own")
    assert "GL-" not in by_hand.said(1)


@pytest.mark.parametrize("what", ["closes", str(2 * D + 1)])
def test_a_session_may_be_closed_twice_and_may_be_idle_for_longer_than_d(by_hand: ByHand, what: str) -> None:
    ended = by_hand(*SHORT, user=what)
    assert [outcome.ended for outcome in ended] == [0, 0], by_hand.said(0) + by_hand.said(1)
    assert len(frames_of(by_hand.out)) == FIRST_FRAMES + (1 if what == "closes" else LAST_CHUNK) * FRAMES


# -- defects: what is wrong on one rank is found, and that rank is named ---------------------------------------------


class ByHand:
    """Ranks that somebody else started, in processes that have the tensor library already."""

    def __init__(self, ranks: Ranks, folder: Path, model: Path) -> None:
        self._ranks, self.folder, self._model = ranks, folder, model
        self.out = folder / "out.mp4"

    def __call__(
        self, *words: str, size: int = 2, variables: dict[str, Any] | None = None, **given: Any
    ) -> list[Outcome]:
        """The words of `generate`, after the mesh."""
        given["words"] = ["generate", "--topology", "tp", "--out", str(self.out), *words]
        given["variables"] = {
            **VARIABLES,
            "GENLOCK_MODEL": str(self._model),
            "MASTER_PORT": free_port(),
            **(variables or {}),
        }
        given["of_rank"] = {rank: texts(own) for rank, own in given.get("of_rank", {}).items()}
        given["variables"] = texts(given["variables"])
        scenario = "tests.engine.mesh_scenarios:rank_of_command"
        return self._ranks(scenario, size=size, within_s=90.0, folder=str(self.folder), **given)

    def said(self, rank: int) -> str:
        return (self.folder / f"rank{rank}.txt").read_text(errors="replace")

    def entries(self, rank: int, kind: str, chunk: int) -> list[Entry]:
        entries = read(recorder_path(self.folder / "run", rank))
        return [entry for entry in entries if entry.kind == kind and entry.chunk == chunk]


@pytest.fixture
def by_hand(ranks: Ranks, tmp_path: Path, model_folder: Path) -> ByHand:
    return ByHand(ranks, tmp_path, model_folder)


def texts(variables: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
        return port


def one_line(text: str) -> str:
    """What was said of an error, which is one line, apart from what was said before it."""
    (line,) = [line for line in text.splitlines() if "GL-" in line]
    return line


def test_a_frame_that_a_worker_refuses_is_entered_by_nobody(by_hand: ByHand) -> None:
    ended = by_hand(*SHORT, variables={"GENLOCK_FAULTS": fault("refuse", Phase.ACCEPT, 1)})
    assert [outcome.ended for outcome in ended] == [10, 10], by_hand.said(0)
    assert "GL-MESH-02: rank 1: refuses: " in one_line(by_hand.said(0))
    assert "seed is refused" in one_line(by_hand.said(0))
    for rank in (0, 1):
        assert [entry.text for entry in by_hand.entries(rank, PHASE, LAST_CHUNK)] == [Phase.ACCEPT]
        assert not by_hand.entries(rank, COLLECTIVE, LAST_CHUNK)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["skip_call", "extra_call"])
def test_a_call_that_is_not_the_plans_is_refused_before_its_first_collective(
    by_hand: ByHand, kind: str, rank: int
) -> None:
    ended = by_hand(*SHORT, variables={"GENLOCK_FAULTS": fault(kind, Phase.CALL, rank)})
    assert [outcome.ended for outcome in ended] == [10, 10], by_hand.said(0) + by_hand.said(1)
    words = "pass 0 is denoise, the plan has recompute" if kind == "skip_call" else "pass 3 is cache_write"
    assert f"rank {rank}: GL-CALL-01: " in one_line(by_hand.said(rank))
    for each in (0, 1):
        assert words in one_line(by_hand.said(each))
        assert f" rank {rank}: pass" in one_line(by_hand.said(each)), "the odd rank is named by both"
        made = sum(entry.until_s is not None for entry in by_hand.entries(each, COLLECTIVE, LAST_CHUNK))
        whole = len(by_hand.entries(each, COLLECTIVE, LAST_CHUNK - 1))
        assert made == (1 if kind == "skip_call" else whole), "the payload's alone, or all that the plan has"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("kind", "column"), [("change_input", "inputs"), ("change_weight", "weights"), ("change_kv", "kv")]
)
def test_a_value_that_changed_on_one_rank_names_rank_and_column(
    by_hand: ByHand, kind: str, column: str, rank: int
) -> None:
    ended = by_hand(*SHORT, variables={"GENLOCK_FAULTS": fault(kind, Phase.CALL, rank)})
    assert [outcome.ended for outcome in ended] == [10, 10], by_hand.said(0) + by_hand.said(1)
    for each in (0, 1):
        assert "GL-MESH-03" in one_line(by_hand.said(each))
        assert f"rank {rank}: {column}: " in one_line(by_hand.said(each))
    assert not by_hand.out.exists(), "the chunk was not delivered"


@pytest.mark.parametrize(("kind", "column"), [("change_input", "inputs"), ("change_weight", "weights")])
def test_without_its_tripwire_a_changed_value_is_delivered_and_only_the_warnings_tell(
    start: Start, kind: str, column: str
) -> None:
    named = ", ".join(sorted([column, "outputs"]))
    off = {"GENLOCK_GUARDS_OFF": f"{column},outputs"}
    planted = fault(kind, Phase.CALL, 1)
    run = well(start("generate", *SHORT, faults=planted, **off, **PATIENT))
    assert run.said.splitlines() == [
        f"faults are planted on purpose (GENLOCK_FAULTS): {planted}",
        f"tripwires are off: {named}; nothing of this run is to be trusted",
    ]
    assert run.out.is_file()


def says_why(run: Run) -> None:
    """The run's folder is named, is there, and holds no key and no half-written account."""
    assert f"  where   {run.run_dir} (" in run.said
    assert run.run_dir.is_dir()
    assert not list(run.run_dir.glob(".cause*"))
    assert len([line for line in run.said.splitlines() if line.startswith("  what  ")]) == 1


@pytest.mark.parametrize(("kind", "rank", "code"), [("skip_call", 0, "GL-CALL-01"), ("change_weight", 1, "GL-MESH-03")])
def test_the_account_of_a_run_names_the_odd_rank(start: Start, kind: str, rank: int, code: str) -> None:
    run = start("generate", *SHORT, faults=fault(kind, Phase.CALL, rank))
    assert run.ended() == 10, run.said
    assert not run.left()
    assert run.named == rank, run.said
    assert code in run.said
    says_why(run)


# -- starts ----------------------------------------------------------------------------------------------------------


def test_ranks_started_by_hand_make_a_video(by_hand: ByHand) -> None:
    ended = by_hand(*SHORT, variables=PATIENT)
    assert [outcome.ended for outcome in ended] == [0, 0], by_hand.said(0) + by_hand.said(1)
    assert len(frames_of(by_hand.out)) == FIRST_FRAMES + LAST_CHUNK * FRAMES


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_folder_that_nobody_named_goes_unless_the_run_fails(by_hand: ByHand, ends: str) -> None:
    variables = {"GENLOCK_RUN_DIR": "auto", "MASTER_PORT": free_port()}
    name = f"genlock-run-{os.getuid()}-{variables['MASTER_PORT']}-none"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700)
    (folder / "recorder-rank7.bin").touch()  # of an earlier run
    try:
        faults = {"GENLOCK_FAULTS": fault("refuse", Phase.ACCEPT, 1)} if ends == "badly" else PATIENT
        ended = by_hand(*SHORT, variables={**variables, **faults})
        assert [outcome.ended for outcome in ended] == [0 if ends == "well" else 10] * 2, by_hand.said(0)
        left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    causes = {f"cause-rank{rank}.json" for rank in (0, 1)}
    assert left & {*causes, "recorder-rank7.bin"} == (set() if ends == "well" else causes)
    assert bool(left) == (ends == "badly")


def test_a_folder_in_the_way_is_one_line(by_hand: ByHand, tmp_path: Path) -> None:
    port = free_port()
    folder = Path(tempfile.gettempdir()) / f"genlock-run-{os.getuid()}-{port}-none"
    folder.symlink_to(tmp_path)
    try:
        ended = by_hand(*SHORT, variables={"GENLOCK_RUN_DIR": "auto", "MASTER_PORT": port})
    finally:
        folder.unlink()
    assert [outcome.ended for outcome in ended] == [5, 5]
    for rank in (0, 1):
        assert by_hand.said(rank).startswith(f"GL-IO-01: {folder}: somebody else's folder is in the way; ")
    assert not list(tmp_path.glob("*-rank*.*"))


def test_ranks_on_several_hosts_make_a_video(by_hand: ByHand, tmp_path: Path) -> None:
    ended = by_hand(*SHORT, variables={**PATIENT, **several_hosts(tmp_path)})
    assert [outcome.ended for outcome in ended] == [0, 0], by_hand.said(0) + by_hand.said(1)
    assert len(frames_of(by_hand.out)) == FIRST_FRAMES + LAST_CHUNK * FRAMES


def several_hosts(folder: Path) -> dict[str, Any]:
    """On this one: what ranks see that have no other rank beside them."""
    return {
        "LOCAL_WORLD_SIZE": 1,
        "LOCAL_RANK": 0,
        "GENLOCK_KEY_FILE": key_file(folder / "key"),
        "GENLOCK_CONTROL_PORT": free_port(),
    }


def key_file(path: Path, key: str = "0123456789abcdef" * 4) -> str:
    path.write_text(key)
    path.chmod(0o400)
    return str(path)


def test_a_mesh_that_does_not_divide_the_model_is_refused_in_one_line(start: Start) -> None:
    run = start("generate", *SHORT, mesh=3)
    assert run.ended() == 3, run.said
    assert "GL-MESH-01" in one_line(run.said)
    assert not run.left()


def test_another_mesh_than_was_launched_is_refused(by_hand: ByHand) -> None:
    ended = by_hand(*SHORT, "--mesh", "4")
    assert [outcome.ended for outcome in ended] == [2, 2]
    assert "a mesh of 4 and 2 ranks launched" in one_line(by_hand.said(0))


GATE_S = 2.0


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("hosts", ["one host", "several hosts"])
def test_a_rank_that_does_not_come_is_named(by_hand: ByHand, tmp_path: Path, absent: int, hosts: str) -> None:
    variables = several_hosts(tmp_path) if hosts == "several hosts" else {}
    ended = by_hand(*SHORT, variables=variables, absent=absent, gate_s=GATE_S)
    there = 1 - absent
    assert ended[there].ended == 13, by_hand.said(there)
    assert "GL-GATE-02" in one_line(by_hand.said(there))
    assert f"rank {absent}" in one_line(by_hand.said(there))


def test_a_worker_that_cannot_read_its_share_says_so_and_is_named(
    by_hand: ByHand, model_folder: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(model_folder, tmp_path / "model-of-rank-1")
    ended = by_hand(*SHORT, of_rank={"1": {"GENLOCK_MODEL": own}}, unreadable=1)
    assert ended[1].ended == 5, by_hand.said(1)
    assert str(own / "generator.safetensors") in one_line(by_hand.said(1))
    assert ended[0].ended in (5, 11)
    assert "rank 1" in one_line(by_hand.said(0))


@pytest.mark.parametrize("when", ["load", "-1", str(LAST_CHUNK)])
def test_a_worker_whose_memory_ends_says_so_and_is_named(by_hand: ByHand, when: str) -> None:
    ended = by_hand(*SHORT, no_memory=when)
    assert [outcome.ended for outcome in ended] == [14, 14], by_hand.said(0) + by_hand.said(1)
    for each in (0, 1):
        assert "GL-MEM-01: " in one_line(by_hand.said(each))
        assert "Tried to allocate 9 GiB" in one_line(by_hand.said(each))
    assert "GL-MEM-01: rank 1: " in one_line(by_hand.said(0))


def test_a_wrong_key_lets_nobody_in(by_hand: ByHand, tmp_path: Path) -> None:
    other = key_file(tmp_path / "other", "fedcba9876543210" * 4)
    ended = by_hand(
        *SHORT, variables=several_hosts(tmp_path), of_rank={"1": {"GENLOCK_KEY_FILE": other}}, gate_s=4 * GATE_S
    )
    assert [outcome.ended for outcome in ended] == [13, 13]
    assert "rank 1" in one_line(by_hand.said(0))
    assert "rank 0 has another key" in one_line(by_hand.said(1))


def test_several_hosts_need_a_key(by_hand: ByHand, tmp_path: Path) -> None:
    ended = by_hand(*SHORT, variables=several_hosts(tmp_path) | {"GENLOCK_KEY_FILE": tmp_path / "none"})
    assert [outcome.ended for outcome in ended] == [13, 13]
    assert "GL-LAUNCH-01" in one_line(by_hand.said(0))
    assert str(tmp_path / "none") in one_line(by_hand.said(0))


def test_a_port_in_use_is_one_line(by_hand: ByHand, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        variables = several_hosts(tmp_path) | {"GENLOCK_CONTROL_PORT": port}
        ended = by_hand(*SHORT, variables=variables, absent=1, gate_s=GATE_S)
    assert ended[0].ended == 13
    assert "GL-LAUNCH-01" in one_line(by_hand.said(0))
    assert str(port) in one_line(by_hand.said(0))


# -- another launcher ------------------------------------------------------------------------------------------------

LAUNCHER_S = 45.0  # torchrun asks the other ranks to end, kills them 30 s later, and needs a while for itself


def launched(start: Start, **options: Any) -> Run:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return start("generate", *SHORT, mesh=2, launcher=launcher, **options)


def test_under_another_launcher_the_ranks_make_a_video(start: Start) -> None:
    run = well(launched(start, **PATIENT))
    assert len(frames_of(run.out)) == FIRST_FRAMES + LAST_CHUNK * FRAMES


@pytest.mark.parametrize(("kind", "victim", "bound_s"), [("kill", 1, KILL_BOUND_S), ("stop", 0, STOP_BOUND_S)])
def test_under_another_launcher_the_other_ranks_end_by_themselves(
    start: Start, kind: str, victim: int, bound_s: float
) -> None:
    run = launched(start, faults=fault(kind, Phase.CALL, victim))
    run.wait_for(Phase.CALL, LAST_CHUNK, rank=victim)
    other = 1 - victim
    until(lambda: run.rank_pid(other) is None)
    gone_s = time.monotonic()
    struck_s = run.phases(victim)[-1].seconds
    assert gone_s - struck_s < bound_s
    assert run.ended() != 0
    assert run.ended_s - gone_s < LAUNCHER_S
    assert not run.left()
    assert f"rank {other}: GL-" in run.said
    assert f"rank {victim}" in one_line("\n".join(line for line in run.said.splitlines() if line.startswith("rank ")))
