"""What the tripwires cost: the same stream on two ranks, with all of them on and with all off, chunk by chunk in turn.

    python -m benchmarks.tripwires [--pairs N] [--seed N]

One run of the bundled model on this machine. In every pair of chunks one is made with the default tripwires and one
without, in random order; the costly checks come every fourth chunk instead of every sixteenth, so that enough of them
are seen, and are weighed as they come by default. Beside it each tripwire by itself: what its checks take in a chunk
(an average over its cadence), as a share of a chunk. Compared are processor seconds of rank 0's main thread, which
another program on the machine does not stretch, and seconds of the clock, which it does. Writes the kept figures, and
those that `genlock doctor` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import torch  # noqa: E402
from benchmarks.kept import RESULTS, keep, surroundings  # noqa: E402 - of this repository, which is on no path before

import genlock  # noqa: E402
from genlock.engine import columns, mesh_rank, phase_b, tp, worker  # noqa: E402
from genlock.engine.job import Job  # noqa: E402
from genlock.engine.session import session_job  # noqa: E402
from genlock.engine.supervisor import supervise  # noqa: E402
from genlock.fabric import collectives  # noqa: E402
from genlock.fabric.channel import receive  # noqa: E402
from genlock.generator.model import sums_of_pass  # noqa: E402
from genlock.generator.parallel import TEXT  # noqa: E402
from genlock.generator.slot_digests import SlotDigests  # noqa: E402
from genlock.generator.stream import announced_passes  # noqa: E402
from genlock.settings import Guard, Settings, launch, mesh_deadlines  # noqa: E402
from genlock.wire.prepare import check_payload, prepare  # noqa: E402
from genlock.wire.verdict import Verdict, compare  # noqa: E402

FELL_SHORT = 4
BAR = "the default tripwires cost less than 1% of a chunk"
BAR_SHARE = 0.01
OFTEN, DEFAULT = 4, Settings().check_every  # chunks between two rounds of the costly checks: here, and by default
SWITCHED = frozenset(Guard) - {Guard.GATES, Guard.EPOCH}  # from chunk to chunk
RARE = ("kv", "outputs")
WARM_CHUNKS = 8
REPEATS = 60
PROMPT = "a red balloon over the sea at noon"
SHOWN = Path(genlock.__file__).parent / "engine" / "tripwire_costs.json"


def is_off(chunk: int, seed: int) -> bool:
    """One chunk of each pair, the same on every rank."""
    return chunk >= WARM_CHUNKS and (chunk % 2 == 0) == (random.Random(seed * 10**6 + chunk // 2).random() < 0.5)


def measured_rank(seed: int) -> type[mesh_rank.MeshRank]:
    class Alternating(phase_b.PhaseB):
        def run(self, header: Any, *given: Any, **more: Any) -> Any:
            self.leave_off(SWITCHED if is_off(header.chunk_index, seed) else frozenset())
            return super().run(header, *given, **more)

    class Measured(mesh_rank.MeshRank):
        def load(self, job: Job) -> phase_b.PhaseB:
            made = super().load(job)
            alternating = Alternating.__new__(Alternating)
            alternating.__dict__.update(made.__dict__)
            return alternating

    return Measured


class Timers:
    """Seconds spent in functions, by name, of the chunk that goes on."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def around(self, name: str, place: Any, function: str) -> Iterator[None]:
        real = getattr(place, function)

        def timed(*given: Any, **more: Any) -> Any:
            began = time.thread_time()
            try:
                return real(*given, **more)
            finally:
                self.seconds[name] += time.thread_time() - began

        with patch.object(place, function, timed):
            yield

    def take(self) -> dict[str, float]:
        taken, self.seconds = dict(self.seconds), defaultdict(float)
        return taken


def of_the_ranks(pairs: int, seed: int, out: Path) -> None:
    """This rank's part. Rank 0 writes what it saw; a worker never comes back."""
    place = launch()
    assert place is not None
    settings = Settings(topology="tp", mesh=2, threads=1, check_every=OFTEN)
    Measured = measured_rank(seed)
    if place.rank:
        with patch.object(worker, "MeshRank", Measured):
            worker.work(place, settings, [session_job(settings)])
    timers = Timers()
    watched = [
        ("inputs", columns, "tensor_digest"),
        ("weights", columns.Columns, "_as_loaded"),
        ("outputs", phase_b, "tensor_digest"),
        ("finite", phase_b, "check_finite"),
        *[("kv", SlotDigests, name) for name in ("made_text", "before", "end_chunk", "changed")],
    ]
    with ExitStack() as stack:
        stack.enter_context(patch.object(tp, "MeshRank", Measured))
        session = stack.enter_context(genlock.open("bundled", settings=settings))
        for row in watched:
            stack.enter_context(timers.around(*row))
        session.prompt(PROMPT)
        chunks = []
        for number in range(WARM_CHUNKS + 2 * pairs):
            begun, worked = time.perf_counter(), time.thread_time()
            session.engine.next_chunk()
            chunks.append(
                {
                    "off": is_off(number, seed),
                    "due": session.engine.sender.call_id % OFTEN == 0,
                    "clock": time.perf_counter() - begun,
                    "processor": time.thread_time() - worked,
                    "checks": timers.take(),
                }
            )
        alone = by_themselves(session)
    out.write_text(json.dumps({"chunks": chunks[WARM_CHUNKS:], "by_themselves": alone}))


def least_of(action: Callable[[], object]) -> float:
    """Processor seconds, where nothing else is in the way."""
    return min(seconds_of(action) for _ in range(REPEATS))


def seconds_of(action: Callable[[], object]) -> float:
    begun = time.thread_time()
    action()
    return time.thread_time() - begun


@torch.inference_mode()
def by_themselves(session: Any) -> dict[str, float]:
    """Seconds a chunk of what is not a function of its own: the door's checks, by making a chunk's collectives with
    nothing behind the door; a frame's checks, on its sender and on a receiver."""
    engine = session.engine
    planned = engine.planner.plan(engine.sender)
    engine.planner.drop()
    state, envelope = engine.sender, planned.envelope
    prepared = prepare(envelope, state)[0]
    announced = receive(prepared.frame, state).chunk
    assert announced is not None
    header = prepared.header
    config, tokens = engine.stream.generator.config, engine.stream.cache.tokens
    passes = [(each, sums_of_pass(config, each, 3, tokens)) for each in announced_passes(envelope) if each != TEXT]
    held = {sum_: torch.zeros(sum_.numel) for _, sums in passes for sum_ in sums}

    door = engine.generation._phase_b.door

    def chunk() -> None:
        door.begin_chunk([name for name, _ in passes])
        for name, sums in passes:
            door.begin_call(name, sums)
            for each in sums:
                getattr(door, each.operation)(held[each], each.site)
        door.end_chunk()

    def without(*guards_off: Guard) -> float:
        door.leave_off(frozenset(guards_off))
        return seconds_of(chunk)

    class Nothing:
        @staticmethod
        def all_reduce(tensor: object, *, group: object) -> None:
            """No other rank."""

    with patch.object(collectives, "dist", Nothing):
        door_of = (Guard.PLAN, Guard.LEDGER, Guard.CALL_COUNT)
        turns = [(without(), *(without(guard) for guard in door_of)) for _ in range(REPEATS)]
    whole, *less = (min(taken) for taken in zip(*turns, strict=True))
    verdict = Verdict(
        call_id=1, prepared=1, observed_calls=5, ledger=1, end_abs=9, end=6, inputs=True, weights=True, kv=True
    )
    return {
        **{str(guard): whole - seconds for guard, seconds in zip(door_of, less, strict=True)},
        "prepare": least_of(lambda: prepare(envelope, state)),
        "frame": least_of(lambda: receive(prepared.frame, state)),
        "payload": least_of(lambda: check_payload(announced, prepared.payload)),
        "epoch": least_of(lambda: engine.sender.epoch_held and header.cache_epoch != state.cache_epoch),
        "verdict": least_of(lambda: compare(verdict, {1: verdict})),
    }


def judged(seen: dict[str, Any]) -> dict[str, Any]:
    """What a chunk takes both ways, the difference within pairs, and each tripwire's share of a chunk."""
    chunks = seen["chunks"]
    on, off = ([chunk for chunk in chunks if chunk["off"] is how] for how in (False, True))
    without_s = statistics.median([chunk["processor"] for chunk in off])
    pairs = [sorted(pair, key=lambda chunk: chunk["off"]) for pair in zip(chunks[::2], chunks[1::2], strict=True)]
    compared = {clock: of_pairs(pairs, clock) for clock in ("processor", "clock")}
    each = {}
    for name in sorted({name for chunk in on for name in chunk["checks"]}):
        taken = [(chunk["due"], chunk["checks"].get(name, 0.0)) for chunk in on]
        each[name] = as_by_default(taken) if name in RARE else statistics.median([seconds for _, seconds in taken])
    each |= seen["by_themselves"]
    shares = {name: round(max(0.0, seconds) / without_s, 6) for name, seconds in sorted(each.items())}
    return {
        "cost_share": compared["processor"]["cost_share"],
        "compared": compared,
        "sum_of_shares": round(sum(shares.values()), 5),  # those that nothing turns off, and packing, among them
        "each_ms": {name: ms(seconds) for name, seconds in sorted(each.items())},
        "each_share": shares,
        "pairs": len(pairs),
        "pairs_with_costly_checks": sum(with_["due"] for with_, _ in pairs),
    }


def of_pairs(pairs: list[list[dict[str, Any]]], clock: str) -> dict[str, Any]:
    """A chunk with and without, by one clock, and what the difference within pairs is of a chunk: its median and where
    90 of 100 draws of as many pairs lie."""
    with_s, without_s = (statistics.median([pair[which][clock] for pair in pairs]) for which in (0, 1))
    added = [(pair[0]["due"], pair[0][clock] - pair[1][clock]) for pair in pairs]
    rng = random.Random(1)
    drawn = sorted(as_by_default(rng.choices(added, k=len(added))) for _ in range(2000))
    return {
        "with_ms": ms(with_s),
        "without_ms": ms(without_s),
        "cost_share": round(as_by_default(added) / without_s, 5),
        "90_in_100": [round(drawn[at] / without_s, 5) for at in (100, 1899)],
    }


def as_by_default(taken: list[tuple[bool, float]]) -> float:
    """Seconds a chunk, where the costly checks come as often as by default. taken: whether they came, and seconds."""
    plain, due = ([seconds for came, seconds in taken if came is how] for how in (False, True))
    usual = statistics.median(plain)
    return usual + (statistics.median(due) - usual) / DEFAULT if due else usual


def ms(seconds: float) -> float:
    return round(1e3 * seconds, 4)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "tripwires.json")
    parser.add_argument("--seen", type=Path, default=None, help="of a rank: where it writes")
    asked = parser.parse_args(words)
    if asked.seen is not None:
        of_the_ranks(asked.pairs, asked.seed, asked.seen)
        return 0
    about = surroundings("tripwires", words, "src")
    load_before, before = os.getloadavg()[0], jiffies()
    seen = asked.out.with_suffix(".seen")
    command = [sys.executable, "-m", "benchmarks.tripwires", *words, "--seen", str(seen)]
    code = supervise(command, mesh=2, deadlines=mesh_deadlines(Settings()), run_dir=None)
    if code:
        return code
    found = judged(json.loads(seen.read_text()))
    seen.unlink()
    result = {
        **about,
        "load_average": {"before": round(load_before, 1), "after": round(os.getloadavg()[0], 1)},
        "stolen_share": round(stolen_since(before), 4),
        "bar": BAR,
        # The comparison must not contradict what the tripwires take by themselves; on a busy machine it says no more.
        "ok": found["sum_of_shares"] < BAR_SHARE and found["compared"]["processor"]["90_in_100"][0] < BAR_SHARE,
        "shown_by_comparison": found["compared"]["processor"]["90_in_100"][1] < BAR_SHARE,
        **found,
    }
    keep(asked.out, result)
    if asked.out.parent == RESULTS:
        keep(SHOWN, {"of": result["hardware"]["cpu"], "share_of_a_chunk": found["each_share"]})
    for clock, both in found["compared"].items():
        print(f"a chunk by the {clock}: with {both['with_ms']} ms, without {both['without_ms']} ms")
    low, high = (f"{100 * end:.2f}" for end in found["compared"]["processor"]["90_in_100"])
    share, own = (f"{100 * found[name]:.2f}%" for name in ("cost_share", "sum_of_shares"))
    print(f"cost {share} of a chunk (90 in 100: {low} to {high}%); their own times add up to {own}")
    for name, share in sorted(found["each_share"].items(), key=lambda pair: -pair[1]):
        print(f"  {name:12} {found['each_ms'][name]:9.4f} ms  {100 * share:7.4f}%")
    return 0 if result["ok"] else FELL_SHORT


def jiffies() -> list[int]:
    return [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]


def stolen_since(before: list[int]) -> float:
    """Of the processors' time, the share that the host gave to others."""
    spent = [now - then for now, then in zip(jiffies(), before, strict=True)]
    return spent[7] / max(1, sum(spent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
