"""Rank 0 as it must not be: what it does wrong, and what comes of it, beside workers that are as always.

    python -m genlock.drills.scenes NAME

Started like any command on a mesh: this process supervises, its ranks run the model that the settings name. Rank 0
prints a line of JSON for everything it saw (`Seen`); an error that ends the run ends it as it always does. Nothing of
the product is changed for it: a scene asks the engine for what it has to refuse.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import genlock
from genlock.engine.rounds import Alter, Made
from genlock.engine.session import Session, session_job
from genlock.engine.supervisor import supervise
from genlock.engine.worker import work
from genlock.errors import GenlockError
from genlock.observe.recorder import PHASE, read, recorder_path
from genlock.settings import Phase, Settings, from_environment, launch, mesh_deadlines
from genlock.wire.digest import tensor_digest
from genlock.wire.envelope import Envelope
from genlock.wire.lifecycle import deliverable
from genlock.wire.prepare import Prepared, prepare, prepare_result
from genlock.wire.result import Result, no_verdicts

PROMPT, OTHER_PROMPT = "a red boat at sea", "a blue car at night"
RANKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One thing that a scene saw. well: whether it is as it must be."""

    what: str
    well: bool


class Stage:
    """What a scene works with: the session, and the last chunk that was sent as it was sent."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self.session, self.engine, self.settings = session, session.engine, settings
        self.sent: list[tuple[Prepared[Envelope], Envelope]] = []
        make = self.engine.generation.make

        def keep(prepared: Prepared[Envelope], envelope: Envelope, *more: Any, **named: Any) -> Tensor:
            self.sent.append((prepared, envelope))
            return make(prepared, envelope, *more, **named)

        vars(self.engine.generation)["make"] = keep  # on this one object, in place of its class's method

    def good(self) -> tuple[Made, Seen]:
        """The next chunk, as always."""
        before = self.engine.sender
        made = self.engine.next_chunk()
        now = self.engine.sender
        well = (now.call_id, now.chunk_index) == (before.call_id + 1, before.chunk_index + 1)
        return made, Seen(what=f"chunk {now.chunk_index} is made next, as call {now.call_id}", well=well)

    def refused(self, what: str, alter: Alter, field: str) -> Seen:
        """A chunk that rank 0 itself must refuse: field by name; no frame is sent, no id used, no cache touched."""
        sender, frames, cache = self.engine.sender, self.frames_heard(), self.cache_digest()
        try:
            self.engine.next_chunk(alter=alter)
        except GenlockError as error:
            said, named = f"{error.code} names {error.field}", error.field
        except Exception as error:  # noqa: BLE001 - one that nobody foresaw must leave as little behind
            said, named = f"{type(error).__name__}: {error}", ""
        else:
            return Seen(what=f"{what}: was sent", well=False)
        wrong = [f"not {field}"] if named != field else []
        wrong += ["an id is used"] if self.engine.sender != sender else []
        wrong += ["a frame has reached a worker"] if self.frames_heard() != frames else []
        wrong += ["the cache has changed"] if self.cache_digest() != cache else []
        return Seen(what=f"{what}: {'; '.join([said, *wrong])}", well=not wrong)

    def frames_heard(self) -> int:
        """By the workers, so far."""
        folder = Path(self.settings.run_dir)
        noted = [entry for rank in range(1, RANKS) for entry in read(recorder_path(folder, rank))]
        return sum(entry.kind == PHASE and entry.text == Phase.ACCEPT for entry in noted)

    def cache_digest(self) -> tuple[int, ...]:
        cache = self.engine.stream.cache
        return tuple(tensor_digest(held) for held in (*cache.keys, *cache.values))


def anti_stranding(stage: Stage) -> Iterator[Seen]:
    """What cannot be sent is refused before anybody waits for it."""
    yield stage.good()[1]
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    yield stage.refused("a scalar that JSON cannot carry", lambda e: replace(e, seed=2**70), "seed")
    yield stage.refused("a tensor in a scalar's place", lambda e: replace(e, seed=torch.zeros(1)), "seed")  # type: ignore[arg-type]
    yield stage.refused(
        "a dtype that does not travel", lambda e: replace(e, noise=e.noise.to(torch.complex64)), "noise"
    )
    yield stage.refused("a nested tensor", lambda e: replace(e, context=nested), "context")
    yield stage.refused("a digest that fails", lambda e: _digested_badly(e, stage), "")
    yield stage.good()[1]


def _digested_badly(envelope: Envelope, stage: Stage) -> Envelope:
    def fails(payload: Tensor) -> int:  # noqa: ARG001 - a digest's argument
        raise RuntimeError("the digest fails, on purpose")

    prepare(envelope, stage.engine.sender, digest=fails)
    return envelope


def call_count(stage: Stage) -> Iterator[Seen]:
    """A number of calls that is not the plan's never leaves rank 0."""
    yield stage.good()[1]
    for more in (1, -1):
        yield stage.refused(
            f"expected calls {more:+d}",
            lambda e, more=more: replace(e, expected_generator_calls=e.expected_generator_calls + more),  # type: ignore[misc]
            "expected_generator_calls",
        )
    yield stage.good()[1]


def missing_context(stage: Stage) -> Iterator[Seen]:
    """A pass without its context, and a context without its pass."""
    yield stage.good()[1]
    yield stage.refused("do_recompute without context", lambda e: replace(e, context=None), "context")
    stale = stage.sent[-1][1]
    yield stage.good()[1]
    kept = stage.sent[-1][1].context
    assert stale.context is None  # the first chunk has none to recompute from
    assert kept is not None
    stage.session.cut()
    yield stage.refused("the context of the chunk before, after a cut", lambda e: replace(e, context=kept), "context")
    yield stage.good()[1]


def duplicate(stage: Stage) -> Iterator[Seen]:
    yield stage.good()[1]
    stage.engine.generation.make(*stage.sent[-1])


def regress(stage: Stage) -> Iterator[Seen]:
    for _ in range(3):
        yield stage.good()[1]
    stage.engine.generation.make(*stage.sent[-3])


def skip(stage: Stage) -> Iterator[Seen]:
    """The next frame but one, which is also what a reordered pair begins with."""
    yield stage.good()[1]
    engine = stage.engine
    planned = engine.planner.plan(engine.sender)
    ahead, _ = prepare(planned.envelope, replace(engine.sender, call_id=engine.sender.call_id + 1))
    engine.generation.make(ahead, ahead.unpack())


def stale_epoch(stage: Stage) -> Iterator[Seen]:
    """Results that are held back until after a hard cut, and after two in a row: dropped, counted, never decoded."""
    late: list[Prepared[Result]] = []
    dropped = 0
    made, seen = stage.good()
    yield seen
    for cuts in (1, 2):
        late.append(_result(stage, made))
        for _ in range(cuts):
            stage.session.cut(OTHER_PROMPT)
            made, seen = stage.good()
            yield seen
        due = _result(stage, made).header
        for header in (*(result.header for result in late), due):
            taken = deliverable(header, expected=due, cache_epoch=stage.engine.sender.cache_epoch)
            dropped += not taken
            verb = "taken" if taken else "dropped"
            what = f"{cuts} cuts in a row: a result of epoch {header.cache_epoch} is {verb} in {due.cache_epoch}"
            yield Seen(what=what, well=taken == (header is due))
    yield Seen(what=f"{dropped} were dropped and counted", well=dropped == 3)
    yield stage.good()[1]


def stale_shown(stage: Stage) -> Iterator[Seen]:
    """The same with nobody looking at the epoch: whatever result comes next is decoded as what was asked for."""
    made, seen = stage.good()
    yield seen
    late = _result(stage, made).unpack().latents
    stage.session.cut(OTHER_PROMPT)
    made, seen = stage.good()
    yield seen
    assert late is not None
    assert stage.engine.vae is not None
    assert made.pixels is not None
    shown = stage.engine.vae.decode_chunk(None, late.float().unsqueeze(0))[0].squeeze(0).clamp(-1.0, 1.0)
    off = float((shown - made.pixels).abs().mean()) * 127.5
    what = f"the first pictures after the cut are those of the old prompt: {off:.1f} of 255 from what they should be"
    yield Seen(what=what, well=off == 0.0)


def _result(stage: Stage, made: Made) -> Prepared[Result]:
    now = stage.engine.sender
    result = Result(
        ok=True,
        fault=None,
        call_id=now.call_id,
        chunk_index=now.chunk_index,
        cache_epoch=now.cache_epoch,
        latents=made.latents,
        observed_generator_calls=made.envelope.expected_generator_calls,
        start_frame=now.rope_start,
        wait_seconds=0.0,
        payload_seconds=0.0,
        generation_seconds=made.seconds["generator"],
        verdicts=no_verdicts(),
    )
    return prepare_result(result, plan=made.envelope.plan)


def stranded(stage: Stage) -> Iterator[Seen]:
    """What anti-stranding is for: rank 0 announces a chunk, fails while it packs, and goes on as if nothing were."""
    yield stage.good()[1]
    engine = stage.engine
    planned = engine.planner.plan(engine.sender)
    prepared, _ = prepare(planned.envelope, engine.sender)
    with suppress(GenlockError):
        engine.generation.make(replace(prepared, payload=prepared.payload[:-1]), planned.envelope)
    yield Seen(what="rank 0 has failed after its GO, and said nothing", well=True)
    time.sleep(60 * 60)


SCENES: dict[str, Callable[[Stage], Iterator[Seen]]] = {
    "anti-stranding": anti_stranding,
    "call-count": call_count,
    "missing-context": missing_context,
    "duplicate": duplicate,
    "regress": regress,
    "skip": skip,
    "stale-epoch": stale_epoch,
    "stale-shown": stale_shown,
    "stranded": stranded,
}


def main(name: str) -> int:
    settings = replace(from_environment(), topology="tp", mesh=RANKS)
    place = launch()
    if place is None:
        command = [sys.executable, "-m", "genlock.drills.scenes", name]
        return supervise(command, mesh=RANKS, deadlines=mesh_deadlines(settings), run_dir=Path(settings.run_dir))
    if place.rank:
        work(place, settings, [session_job(settings)])
    with genlock.open(settings=settings) as session:
        session.prompt(PROMPT)
        for seen in SCENES[name](Stage(session, settings)):
            click.echo(json.dumps(asdict(seen)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
