"""What each rung of the ladder costs a rank, in memory, start and frames a second, and whether the last one pays.

Every rung is the same command on a mesh of this machine, one after the other, round by round; each rank's figures are
those of its own file in the run's folder. The frames must be the same on every rung, or there is nothing to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from genlock.bench.machine import Machine, machine
from genlock.errors import UsageError
from genlock.observe.rank_file import Moment, read_rank_files
from genlock.observe.recorder import MARK, read, recorder_path
from genlock.observe.trace import DELIVERED
from genlock.wire.digest import bytes_digest
from genlock.wire.kinds import Plan

PROMPT = "a red balloon over the sea at noon"
WARM_CHUNKS = 2  # delivered before frames are counted
SAVED_BYTES, SAVED_SHARE = 11e9, 0.15
GATE = "a generator-only worker holds 11 GB or 15 % less than a full pipeline's at its most, and is ready sooner"

Generate = Callable[[Sequence[str]], None]  # `genlock generate` with these words; comes back after a good end alone


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCost:
    """One rank on one rung: medians over the rounds. memory_bytes: the most it ever held, resident, and on CUDA
    reserved besides. ready_s: from the start of its process. load_s: of that, its share of the model. calls: of
    encoders and generator by name, in one round."""

    rank: int
    memory_bytes: int
    device_bytes: int
    ready_s: float
    load_s: float
    calls: Mapping[str, int]

    @property
    def held_bytes(self) -> int:
        """What the gate looks at: the accelerator's memory where there is one."""
        return self.device_bytes or self.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """frames_per_s: delivered by rank 0, median over the rounds. video: digest of what was delivered."""

    plan: str
    frames_per_s: float
    video: str
    ranks: Sequence[RankCost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A generator-only worker beside one of a full pipeline; of several, the last rank's."""

    saved_bytes: int
    saved_share: float
    sooner_s: float
    same_frames: bool
    passed: bool
    bar: str = GATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    rungs: Sequence[Rung]
    gate: Gate
    model: str
    seconds: float
    mesh: int
    rounds: int
    machine: Machine


def ladder(generate: Generate, model: str, *, seconds: float, mesh: int, rounds: int) -> Ladder:
    """Every rung `rounds` times, in turn. Raises UsageError where there are too few chunks to count."""
    seen: dict[Plan, list[Rung]] = {plan: [] for plan in Plan}
    with TemporaryDirectory(prefix="genlock-ladder-") as folder:
        for number in range(rounds):
            for plan in Plan:
                place = Path(folder) / f"{number}-{plan}"
                place.mkdir()
                words = ["--model", model, "--mesh", str(mesh), "--seconds", f"{seconds:g}"]
                seen[plan].append(_one_run(generate, place, plan, words))
    rungs = [_together(each) for each in seen.values()]
    return Ladder(
        rungs=rungs,
        gate=judged(rungs),
        model=model,
        seconds=seconds,
        mesh=mesh,
        rounds=rounds,
        machine=machine(),
    )


def judged(rungs: Sequence[Rung]) -> Gate:
    """The gate, from a full pipeline's rung, the first, and the generator-only one, the last."""
    full, bare = (rung.ranks[-1] for rung in (rungs[0], rungs[-1]))
    saved = full.held_bytes - bare.held_bytes
    share, sooner_s = saved / full.held_bytes, full.ready_s - bare.ready_s
    return Gate(
        saved_bytes=saved,
        saved_share=share,
        sooner_s=sooner_s,
        same_frames=len({rung.video for rung in rungs}) == 1,
        passed=(saved >= SAVED_BYTES or share >= SAVED_SHARE) and sooner_s > 0,
    )


def as_json(result: Ladder, command: str) -> dict[str, object]:
    return {"command": command, **asdict(result)}


def _one_run(generate: Generate, folder: Path, plan: Plan, words: Sequence[str]) -> Rung:
    out, run_dir = folder / "out.mp4", folder / "run"
    own = ["--topology", "tp", "--plan", plan, "--run-dir", str(run_dir), "--prompt", PROMPT, "--out", str(out)]
    generate([*words, *own])
    return Rung(
        plan=plan,
        frames_per_s=_frames_per_s(run_dir),
        video=f"{bytes_digest(out.read_bytes()):032x}",
        ranks=[_cost(rank, held) for rank, held in read_rank_files(run_dir).items()],
    )


def _frames_per_s(run_dir: Path) -> float:
    marks = [note for note in read(recorder_path(run_dir, 0)) if (note.kind, note.text) == (MARK, DELIVERED)]
    counted = marks[WARM_CHUNKS:]
    if not counted:
        what = f"{len(marks)} chunks were delivered, of which the first {WARM_CHUNKS} are not counted"
        raise UsageError(what, where="--seconds", remedy="give more")
    return sum(note.op for note in counted) / (counted[-1].seconds - marks[WARM_CHUNKS - 1].seconds)


def _cost(rank: int, held: Mapping[str, object]) -> RankCost:
    memory, start, calls = (held[name] for name in ("memory_bytes", "start_s", "calls"))
    assert isinstance(memory, dict)  # as `observe.rank_file` writes it
    assert isinstance(start, dict)
    assert isinstance(calls, dict)
    at_end = memory[Moment.EXIT]
    return RankCost(
        rank=rank,
        memory_bytes=at_end["rss_peak"],
        device_bytes=at_end.get("cuda_reserved_peak", 0),
        ready_s=float(str(held["ready_s"])),
        load_s=start["load"],
        calls=calls,
    )


def _together(rounds: Sequence[Rung]) -> Rung:
    """Medians; frames that are not the same in every round have no digest in common."""
    first = rounds[0]
    by_rank = list(zip(*(rung.ranks for rung in rounds), strict=True))
    return Rung(
        plan=first.plan,
        frames_per_s=median(rung.frames_per_s for rung in rounds),
        video=" ".join(sorted({rung.video for rung in rounds})),
        ranks=[
            RankCost(
                rank=costs[0].rank,
                memory_bytes=int(median(cost.memory_bytes for cost in costs)),
                device_bytes=int(median(cost.device_bytes for cost in costs)),
                ready_s=median(cost.ready_s for cost in costs),
                load_s=median(cost.load_s for cost in costs),
                calls=costs[-1].calls,
            )
            for costs in by_rank
        ],
    )
