"""Rank 0 of a mesh: announces each chunk, generates its own share, and holds the verdict before anything is delivered.

F latent frames, C, h, w latent channels, rows, columns.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from genlock.engine.job import Job, ManifestValue
from genlock.engine.mesh_rank import MeshRank, memory_of
from genlock.engine.warm_up import begin_job, count, warm_envelope
from genlock.errors import EnvelopeRefused, GenlockError, UsageError
from genlock.fabric.channel import Leader
from genlock.generator.stream import OnCall, Stream
from genlock.observe.rank_file import Moment, RankFile
from genlock.settings import FaultKind, Guard, Phase, Settings, launch, warn_of_guards_off
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.kinds import Action
from genlock.wire.lifecycle import State, live
from genlock.wire.prepare import Prepared, prepare, prepare_notice

ORDERLY = (2, 3, 4, 5)  # exit codes of errors that are nobody's but rank 0's caller's
SLOWEST_SHARE = 3  # D is at least so many of the slowest generator call of warm-up


def rank_0(settings: Settings, jobs: Sequence[Job]) -> MeshRank:
    """This process as rank 0 of the mesh that a launcher started. Raises UsageError where it is not."""
    place = launch()
    if place is None or place.rank > 0:
        raise UsageError(
            "a session over a mesh is rank 0's, in a process that a launcher started",
            where="topology tp",
            remedy="run `genlock generate --topology tp`, or `torchrun -m genlock` with the same words",
        )
    warn_of_guards_off(settings)
    return MeshRank(place, settings, jobs)


class InLockstep:
    """Generates together with the workers; made once every rank has loaded and warmed up."""

    def __init__(self, rank: MeshRank, job: Job, *, last: bool = True) -> None:
        """last: of this rank's jobs; closing it then takes the mesh apart. What fails ends the process."""
        self._rank, self._job, self._last = rank, job, last
        self._ids = (-1, -1)
        try:
            self._phase_b = rank.load(job)
            self._leader = Leader(
                rank.workers,
                self._phase_b.door,
                rank.deadlines,
                on_phase=rank.enter,
                unheld=("observed_calls",) if Guard.CALL_COUNT in rank.guards_off else (),
            )
            self.lifecycle = self._warm_up(begin_job(job, rank.guards_off))
            rank.ready(job)
            rank.enter(Phase.LOAD_MEDIA)
        except BaseException as error:  # noqa: BLE001 - a rank that cannot start says why, and ends the others
            rank.fail(error)

    @property
    def stream(self) -> Stream:
        return self._phase_b.stream

    @property
    def notes(self) -> tuple[str, ...]:
        """The mesh, and of each rank what it read, holds and took to start."""
        rank = self._rank
        size, answer_s = rank.size, rank.deadlines.answer_s
        whole = f"mesh of {size} ranks over {rank.group.backend}, D = {answer_s:g} s; {rank.weights_note}"
        lines = {number: rank_note(number, {**rank.loaded[number], **said}) for number, said in rank.reports.items()}
        media = self.rank_file.trace.phases.get(Phase.LOAD_MEDIA)
        if media is not None:
            lines[0] += f"; words and pixels took {media.seconds:.1f} s more"
        return (whole, *lines.values())

    @property
    def rank_file(self) -> RankFile:
        return self._rank.rank_file

    @property
    def ranks(self) -> dict[int, dict[str, Any]]:
        """Of the workers what they said at gate 2b."""
        said = {
            rank: {
                "start_s": {
                    name.removesuffix("_s"): held[name] for name in ("launch_s", "start_s", "load_s", "warm-up_s")
                },
                "memory_bytes": {"ready": memory_of(held)},
            }
            for rank, held in self._rank.reports.items()
        }
        return {**said, 0: self.rank_file.values()}

    def ready(self) -> None:
        self.end_round()
        self.rank_file.write(Moment.READY)

    def make(
        self,
        prepared: Prepared[Envelope],
        envelope: Envelope,
        on_call: OnCall | None = None,
        *,
        travels: Prepared[Events] | None = None,
    ) -> Tensor:
        """Latents [F, C, h, w], once every rank has done and holds the same. travels: what the workers are sent, if it
        is not the envelope. Raises PeerRefused before the payload is sent; MeshDisagrees, CallCount, RankSilent,
        LinkBroken after it: the run is then over."""
        latents = self._run(prepared, envelope, on_call, travels=travels)
        self._enter(Phase.DELIVER)
        return latents

    def begin_round(self) -> None:
        self._enter(Phase.DELIVER)

    def end_round(self) -> None:
        self._enter(Phase.IDLE)

    @property
    def drain_asked(self) -> bool:
        return self._rank.watch.drain_asked

    def close(self, sender: State, error: BaseException | None = None) -> None:
        """SHUTDOWN to the workers, after a good end as after a refusal of rank 0's own; of another error this process
        ends here, with its record."""
        orderly = isinstance(error, GenlockError) and error.exit_code in ORDERLY
        if error is not None and not orderly:
            self._rank.fail(error)
        try:
            self._enter(Phase.DRAIN)
            self._leader.shutdown(prepare_notice(Action.SHUTDOWN, sender)[0])
            if self._last:
                self._rank.leave()
        except BaseException as failure:  # noqa: BLE001 - a worker that is gone now is no good end
            self._rank.fail(failure)

    def _enter(self, phase: Phase) -> None:
        call_id, chunk = self._ids
        self._rank.enter(phase, call_id=call_id, chunk=chunk)

    def _run(
        self,
        prepared: Prepared[Envelope],
        envelope: Envelope,
        on_call: OnCall | None = None,
        *,
        travels: Prepared[Events] | None = None,
    ) -> Tensor:
        header = prepared.header
        self._ids = (header.call_id, header.chunk_index)
        if FaultKind.REFUSE in self._rank.faults.at(0, Phase.ACCEPT, header.chunk_index):
            raise self._leader.tell(EnvelopeRefused("seed is refused: a fault planted on purpose", field="seed"))
        self._leader.infer(prepared if travels is None else travels)
        self._enter(Phase.CALL)
        faults = self._rank.faults.at(0, Phase.CALL, header.chunk_index)
        try:
            latents, verdict = self._phase_b.run(header, envelope, prepared.payload, faults=faults, on_call=on_call)
        except GenlockError as error:
            raise self._leader.tell(error) from error.__cause__
        self._enter(Phase.VERDICT)
        self._leader.verdict(verdict, look=self._phase_b.look)
        return latents

    def _graphs(self) -> int:
        census = self.stream.generator.census
        return 0 if census is None else len(census.graphs)

    def _warm_up(self, state: State) -> State:
        """Every shape once, by the way of all chunks; the state in which chunk 0 is due.

        Raises UsageError where D is less than three of the slowest chunk's share a call."""
        slowest_s = 0.0
        with self._rank.warming_up():
            for number in range(count(self._job)):
                prepared, state = prepare(warm_envelope(self._job, state, number), state)
                envelope, begun = prepared.unpack(), time.monotonic()
                graphs = self._graphs()
                self._run(prepared, envelope)
                if self._graphs() == graphs:  # what compiles takes as long as it takes, once
                    slowest_s = max(slowest_s, (time.monotonic() - begun) / envelope.expected_generator_calls)
        if SLOWEST_SHARE * slowest_s > self._rank.deadlines.answer_s:
            raise UsageError(
                f"a generator call took {slowest_s:.1f} s in warm-up; a deadline of "
                f"{self._rank.deadlines.answer_s:g} s leaves no room",
                where="GENLOCK_DEADLINE",
                remedy=f"set it to {SLOWEST_SHARE * slowest_s + 1:.0f} or more",
            )
        return live(state)


def rank_note(rank: int, said: Mapping[str, ManifestValue]) -> str:
    """One line of what a rank reported at gates 2a and 2b."""
    memory = memory_of(said)
    megabytes = {name: float(said[name]) / 1e6 for name in ("bytes_read", "bytes_total")}
    megabytes["held"] = (memory.get("cuda_reserved_peak") or memory.get("rss", 0)) / 1e6
    took_s = sum(float(said[name]) for name in ("launch_s", "start_s", "load_s", "warm-up_s"))
    return (
        f"rank {rank}: read {megabytes['bytes_read']:.1f} of {megabytes['bytes_total']:.1f} MB of weights, "
        f"holds {megabytes['held']:.0f} MB, ready after {took_s:.1f} s"
    )
