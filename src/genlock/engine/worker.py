"""A worker: a rank that is not rank 0. It waits for frames, generates its share, and reports; nothing else.

Under the plan v1_generator_only it loads its shard of the generator and imports no room of rank 0. Everything it needs
for a chunk is in the envelope.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from genlock.engine.job import Job
from genlock.engine.mesh_rank import MeshRank
from genlock.engine.phase_b import PhaseB
from genlock.engine.warm_up import begin_job, count
from genlock.errors import EnvelopeRefused, GenlockError
from genlock.fabric.channel import Follower, Stop
from genlock.settings import FaultKind, Launch, Phase, Settings
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.lifecycle import live
from genlock.wire.prepare import Announced


def work(place: Launch, settings: Settings, jobs: Sequence[Job]) -> NoReturn:
    """Every job's stream, one after the other. The process ends here: with 0 when rank 0 says that all is done.

    Each job is loaded, warmed up and served until rank 0's SHUTDOWN.
    """
    rank = MeshRank(place, settings, jobs)
    try:
        for job in jobs:
            serve(rank, job)
        rank.leave()
        rank.watch.finish()
    except BaseException as error:  # noqa: BLE001 - the one place where a worker's error of any kind ends it
        rank.fail(error)


def serve(rank: MeshRank, job: Job) -> None:
    """One job, to its SHUTDOWN."""
    phase_b = rank.load(job)
    assert rank.leader is not None  # only rank 0 has none

    def check(chunk: Announced[Envelope]) -> None:
        check_model(chunk.shapes, job.config)
        if FaultKind.REFUSE in rank.faults.at(rank.rank, Phase.ACCEPT, chunk.header.chunk_index):
            raise EnvelopeRefused("seed is refused: a fault planted on purpose", field="seed")

    follower = Follower(
        rank.leader,
        phase_b.door,
        begin_job(job, rank.guards_off),
        rank.deadlines,
        check=check,
        look=phase_b.look,
        on_phase=rank.enter,
    )
    with rank.warming_up():
        for _ in range(count(job)):
            one_chunk(rank, follower, phase_b)
    rank.ready(job)
    follower.state = live(follower.state)
    while one_chunk(rank, follower, phase_b):
        pass


def one_chunk(rank: MeshRank, follower: Follower, phase_b: PhaseB) -> bool:
    """The next frame's work; False when rank 0 says that the job is over."""
    work = follower.next()
    if isinstance(work, Stop):
        return False
    header = work.header
    rank.enter(Phase.CALL, call_id=header.call_id, chunk=header.chunk_index)
    faults = rank.faults.at(rank.rank, Phase.CALL, header.chunk_index)
    try:
        _, verdict = phase_b.run(header, work.envelope, work.payload, faults=faults)
    except GenlockError as error:
        raise follower.fail(error) from error.__cause__
    rank.enter(Phase.VERDICT, call_id=header.call_id, chunk=header.chunk_index)
    follower.report(verdict)
    return True
