"""A rank of a command, as another launcher or a hand would start it: a scenario for `tests.ranks`."""

from __future__ import annotations

import functools
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.ranks import Here


def rank_of_command(here: Here) -> None:
    """Ends with the command's exit code. What it prints goes to rankN.txt of the given folder.

    given: words of the command line; folder; variables of the environment, and those of single ranks by rank;
    absent, a rank that does not come; user, what the session's user does after the second chunk; gate_s, of a
    shorter start-up gate; unreadable, a rank that loses its weights once the gate before is passed.
    """
    given = here.given
    if here.rank == given.get("absent"):
        os._exit(0)
    place = {
        "RANK": here.rank,
        "WORLD_SIZE": here.size,
        "LOCAL_RANK": here.rank,
        "LOCAL_WORLD_SIZE": here.size,
        "MASTER_ADDR": "127.0.0.1",
        "GENLOCK_RUN_DIR": str(Path(given["folder"]) / "run"),
    }
    for name in [name for name in os.environ if name.startswith("GENLOCK_")]:
        del os.environ[name]
    own = given.get("of_rank", {}).get(str(here.rank), {})
    os.environ.update({name: str(value) for name, value in {**place, **given["variables"], **own}.items()})
    output = os.open(Path(given["folder"]) / f"rank{here.rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if "gate_s" in given:
        shorten_gates(given["gate_s"])
    if given.get("unreadable") == here.rank:
        lose_weights()
    if here.rank == 1 and "no_memory" in given:
        lose_memory(given["no_memory"])
    from genlock.cli.main import Surroundings, main

    def open_session(*words: Any, **options: Any) -> Any:
        import genlock

        session = genlock.open(*words, **options)
        if "user" in given:
            session.stream = used(session, given["user"])
        return session

    surroundings = Surroundings(open_session=open_session, clock=time.perf_counter, started_s=time.perf_counter())
    code = main(given["words"], surroundings)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def used(session: Any, what: str) -> Any:
    """A session's `stream` for a user who raises something, closes the session, or takes SECONDS over a chunk."""
    whole = session.stream

    def stream(**options: Any) -> Any:
        for chunk in whole(**options):
            yield chunk
            if chunk.index != 1:
                continue
            if what == "raises":
                raise ValueError("of the user's own")
            if what == "closes":
                session.close()
                return
            time.sleep(float(what))

    return stream


def shorten_gates(seconds: float) -> None:
    """A minute is too long to wait for in a test."""
    from genlock.engine import mesh_rank
    from genlock.fabric import address

    whole = mesh_rank.mesh_deadlines
    mesh_rank.mesh_deadlines = lambda settings: replace(whole(settings), gate_s=seconds)
    address.Deadlines = functools.partial(address.Deadlines, gate_s=seconds)  # type: ignore[misc, assignment]


def lose_weights() -> None:
    from genlock.engine import mesh_rank

    load = mesh_rank.load_stream

    def cut_short(job: Any, *words: Any, **options: Any) -> Any:
        os.truncate(job.weights, job.weights.stat().st_size // 2)
        return load(job, *words, **options)

    mesh_rank.load_stream = cut_short


def lose_memory(when: str) -> None:
    """Of rank 1, `given` as no_memory: in "load", or in a chunk. The system is not asked, whose answer depends on the
    machine."""
    import torch

    from genlock.engine import mesh_rank
    from genlock.engine.phase_b import PhaseB

    def no_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("Tried to allocate 9 GiB")

    if when == "load":
        mesh_rank.load_stream = no_memory
        return
    run = PhaseB.run

    def until_then(self: PhaseB, header: Any, *words: Any, **options: Any) -> Any:
        return (no_memory if header.chunk_index == int(when) else run)(self, header, *words, **options)

    PhaseB.run = until_then  # type: ignore[method-assign]
