"""A worker: a rank that is not rank 0. It waits for frames, generates its share, and reports; nothing else.

Under the plan v1_generator_only it loads its shard of the generator and imports no room of rank 0. Everything it needs
for a chunk is in the envelope. Under the plans below it has a part of stage 0 as well, prepares its own envelope from
the events that travel in place of one, and computes from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

from torch import Tensor

from genlock.engine.job import Job
from genlock.engine.mesh_rank import MeshRank
from genlock.engine.own_stage0 import Preparing
from genlock.engine.phase_b import PhaseB
from genlock.engine.warm_up import begin_job, count
from genlock.errors import EnvelopeRefused, GenlockError, MeshDisagrees
from genlock.fabric.channel import Follower, Stop
from genlock.fabric.liveness import told_as
from genlock.settings import FaultKind, Launch, Phase, Settings
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.events import Events
from genlock.wire.header import Header
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
    rank.enter(Phase.LOAD)
    own = None if job.stage0 is None else Preparing(replace(job, device=rank.device), rank.trace.span)
    phase_b = rank.load(job)
    assert rank.leader is not None  # only rank 0 has none

    def check(chunk: Announced[Envelope] | Announced[Events]) -> None:
        if isinstance(chunk.shapes, Envelope):
            check_model(chunk.shapes, job.config)
        else:
            check_events(chunk.shapes, job, shadow=rank.settings.bring_up)
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
        alone=rank.size == 2,
    )
    with rank.warming_up():
        for _ in range(count(job)):
            one_chunk(rank, follower, phase_b)
    rank.ready(job)
    follower.state = live(follower.state)
    if own is not None:
        own.begin(follower.state)
    with told(follower):
        while one_chunk(rank, follower, phase_b, own):
            pass


@contextmanager
def told(follower: Follower) -> Iterator[None]:
    """What is no error of ours, as the end of memory, is told to rank 0 too. Those of ours are where they are raised,
    and while starting all are by the rank's own end."""
    try:
        yield
    except GenlockError:
        raise
    except Exception as error:
        last = told_as(error)[0]
        ended = follower.fail(last)
        if ended is last:
            raise
        raise ended from error


def check_events(events: Events, job: Job, *, shadow: bool) -> None:
    """Raises EnvelopeRefused for what does not fit the job, or the mode that all ranks are in."""
    if (events.shadow_frame is not None) != shadow:
        raise EnvelopeRefused("shadow_frame travels in bring-up mode, and only then", field="shadow_frame")
    for name in ("noise", "context"):
        tensor: Tensor | None = getattr(events, name)
        if tensor is not None and (tensor.dtype, tensor.shape[1]) != (job.dtype, job.config.latent_channels):
            what = f"{name} is {tensor.dtype} of {tensor.shape[1]} channels"
            raise EnvelopeRefused(f"{what}, the model has {job.dtype} of {job.config.latent_channels}", field=name)


def one_chunk(rank: MeshRank, follower: Follower, phase_b: PhaseB, own: Preparing | None = None) -> bool:
    """The next frame's work; False when rank 0 says that the job is over. own: what makes an envelope of events."""
    work = follower.next()
    if isinstance(work, Stop):
        return False
    header = work.header
    rank.enter(Phase.CALL, call_id=header.call_id, chunk=header.chunk_index)
    faults = rank.faults.at(rank.rank, Phase.CALL, header.chunk_index)
    try:
        if isinstance(work.message, Envelope):
            latents, verdict = phase_b.run(header, work.message, work.payload, faults=faults)
        else:
            assert own is not None  # a rank that is sent events has what prepares them
            prepared = own.prepare(work.message, faults)
            latents, verdict = phase_b.run(prepared.header, prepared.unpack(), prepared.payload, faults=faults)
    except GenlockError as error:
        raise follower.fail(_of(rank, header, error)) from error.__cause__
    rank.enter(Phase.VERDICT, call_id=header.call_id, chunk=header.chunk_index)
    follower.report(verdict)
    if own is not None:
        rank.enter(Phase.DELIVER, call_id=header.call_id, chunk=header.chunk_index)
        try:
            own.absorb(latents)
        except GenlockError as error:
            raise follower.fail(error) from error.__cause__
    return True


def _of(rank: MeshRank, header: Header, error: GenlockError) -> GenlockError:
    """The error; a disagreement that this rank found by itself is about itself."""
    if isinstance(error, MeshDisagrees) and error.rank is None:
        error.rank, error.call_id, error.chunk_index = rank.rank, header.call_id, header.chunk_index
    return error
