"""Recorders of a mesh in which one rank did something else at one place, and the place that a merge finds: for the test
and the benchmark.

    planted = plant(folder, seed)
    found(planted)      a sentence about what is wrong; "" if the place and what each rank did there are right

The rings are written as ranks write them: phases as spans, each collective when it is entered and when it is done, a
beacon now and then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from genlock.observe.merge import INSIDE, NOTHING, Place, merge, read_run
from genlock.observe.recorder import COLLECTIVE, FAILURE, Recorder, recorder_path
from genlock.observe.trace import Trace
from genlock.settings import Phase

KINDS = ("operation", "numel", "site", "missing", "extra", "swapped", "skipped pass", "killed inside", "killed before")
Ops = dict[Place, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One case. did: what each rank did at `place`, as it must be read."""

    kind: str
    folder: Path
    ranks: int
    odd: int
    place: Place
    did: Mapping[int, str]


def plant(folder: Path, seed: int) -> Planted:
    """Writes the recorders of 2 to 4 ranks, with one difference."""
    rng = Random(seed)
    kind, ranks = KINDS[seed % len(KINDS)], rng.randint(2, 4)
    odd, calls, layers, steps = rng.randrange(ranks), rng.randint(2, 7), rng.randint(1, 4), rng.randint(1, 4)
    passes = ["recompute 1", *[f"denoise {2 + step}" for step in range(steps)]]
    call_id = rng.randrange(calls)
    right = {call: chunk(passes, layers) for call in range(calls)}
    wrong, op = differing(kind, right[call_id], passes, layers, rng)
    alive = {rank: dict(right) for rank in range(ranks)}
    alive[odd][call_id] = wrong
    killed = kind.startswith("killed")
    # When one is gone the others stand in what it left out; sometimes the one it died in was done on their side.
    further = killed and rng.random() < 0.5 and op < len(right[call_id])
    stand = op + further
    folder.mkdir(parents=True, exist_ok=True)
    most = len(right[call_id])
    for rank in range(ranks):
        # A ring that has lost what is long past, if it likes, but not the place itself.
        slots = rng.choice([4096, most * max(1, calls - call_id) + 3])
        recorder = Recorder(recorder_path(folder, rank), slots, spans=64)
        trace = Trace(recorder)
        for call in range(calls if not killed else call_id + 1):
            last = killed and call == call_id
            ends = None if not last else (op if rank == odd else stand)
            write(recorder, trace, call, alive[rank][call], inside=ends, comes=kind != "killed before" or rank != odd)
        if killed and rank != odd:
            recorder.note(FAILURE, call_id=call_id, chunk=call_id, op=stand - 1, text="GL-LINK-01 it is gone")
        recorder.beacon(call_id=calls, chunk=calls, op=rng.randrange(9), text=Phase.IDLE)
        recorder.close()
    there = dict(enumerate(right[call_id], start=1))
    here = dict(enumerate(wrong, start=1))
    others, own = there.get(op, NOTHING), here.get(op, NOTHING)
    if killed:
        own = f"{others}{INSIDE}" if kind == "killed inside" else NOTHING
        others = others if further else f"{others}{INSIDE}"
    did = {rank: own if rank == odd else others for rank in range(ranks)}
    return Planted(kind=kind, folder=folder, ranks=ranks, odd=odd, place=(call_id, op), did=did)


def chunk(passes: list[str], layers: int) -> list[str]:
    """The collectives of a chunk, in order, as the door names them."""
    sites = [(f"blocks.{layer}.{site}", numel) for layer in range(layers) for site, numel in SITES]
    sums = [f"{each}: {SUMS[site.endswith('norm')]} {numel} {site}" for each in passes for site, numel in sites]
    return ["payload: broadcast 4096", *sums]


SITES = (("self_attn.norm", 18), ("self_attn.o", 864), ("cross_attn.norm", 18), ("cross_attn.o", 864), ("ffn.2", 864))
SUMS = ("sum_partial", "sum_squares")


def differing(kind: str, right: list[str], passes: list[str], layers: int, rng: Random) -> tuple[list[str], int]:
    """What the odd rank does in place of `right`, and the first place of it that differs, from 1."""
    at = rng.randrange(1, len(right) - 1)
    head, _, rest = right[at].partition(": ")
    operation, numel, site = rest.split()
    if kind == "operation":
        other = SUMS[operation == SUMS[0]]
        return [*right[:at], f"{head}: {other} {numel} {site}", *right[at + 1 :]], at + 1
    if kind == "numel":
        return [*right[:at], f"{head}: {operation} {int(numel) + rng.choice([-1, 1])} {site}", *right[at + 1 :]], at + 1
    if kind == "site":
        return [*right[:at], f"{head}: {operation} {numel} {site}.lora", *right[at + 1 :]], at + 1
    if kind == "missing":
        at = rng.choice([at, len(right) - 1])
        return [*right[:at], *right[at + 1 :]], at + 1
    if kind == "extra":
        at = rng.choice([at, len(right)])
        return [*right[:at], f"{head}: sum_partial 864 blocks.0.debug", *right[at:]], at + 1
    if kind == "swapped":
        return [*right[:at], right[at + 1], right[at], *right[at + 2 :]], at + 1
    if kind == "skipped pass":
        gone = rng.randrange(len(passes))
        shifted = [f"{name.split()[0]} {number}" for number, name in enumerate(passes[:gone] + passes[gone + 1 :], 1)]
        wrong = chunk(shifted, layers)
        differs = [n for n, each in enumerate(right, 1) if n > len(wrong) or wrong[n - 1] != each]
        return wrong, differs[0]
    return right, at + 1


def write(recorder: Recorder, trace: Trace, call: int, ops: list[str], *, inside: int | None, comes: bool) -> None:
    """One chunk. inside: the collective that the rank does not finish, from 1; comes: whether it enters it."""
    trace.phase(Phase.PAYLOAD, call_id=call, chunk=call)
    for op, text in enumerate(ops, start=1):
        if op == 2:
            trace.phase(Phase.CALL, call_id=call, chunk=call, op=1)
        if op == inside:
            if comes:
                recorder.note(COLLECTIVE, call_id=call, chunk=call, op=op, text=text)
            return
        recorder.end(recorder.note(COLLECTIVE, call_id=call, chunk=call, op=op, text=text), time.monotonic())
        recorder.beacon(call_id=call, chunk=call, op=op, text=Phase.CALL)
    trace.phase(Phase.VERDICT, call_id=call, chunk=call)


def found(planted: Planted) -> str:
    """What is wrong with what the merge says of a case."""
    merged = merge(read_run(planted.folder))
    if merged.place != planted.place:
        return f"place {merged.place}, planted was {planted.place}"
    return "" if merged.did == planted.did else f"did {dict(merged.did)}, planted was {dict(planted.did)}"
