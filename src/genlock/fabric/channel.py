"""How a chunk is agreed on and handed out, and how its verdicts come in: rank 0's half and a worker's.

    rank 0                      worker
    frame            ->         checks header, digest, schema, arithmetic, its own lifecycle, its model
                     <-         ACCEPT, or a fault: then rank 0 sends ERROR to all, and nobody waits in a broadcast
    GO (all accepted) ->        takes the chunk's state for its own
    payload broadcast ==        the commitment point: after it only the payload's digest, and the work, can fail
                     <-         verdict, or a fault
    LOOK (they disagree, ->     and it is nobody's in particular: looks at everything that it holds
    and nobody is odd) <-       verdict again

GO is why a refusal strands nobody: a worker that accepted cannot know whether the others did, and a broadcast cannot
be left again. Of two ranks the worker has no others, and its own ACCEPT is all that there is to wait for: there is no
GO. Everything but the broadcast goes over the control connections, which have deadlines and show the death
of a peer at once. Rank 0's deadline is the shorter one, so that the rank that can name the culprit speaks first.

Between chunks a worker waits for a frame without a deadline; whether rank 0 still lives is not this file's business.
Nothing here is repaired or repeated: what goes wrong is raised, and ends the run. What is raised is the cause where one
can be known: a collective that failed names no rank, but the workers' last words and closed connections do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from genlock.errors import (
    DigestMismatch,
    EnvelopeRefused,
    FrameRefused,
    GenlockError,
    LinkBroken,
    LinkTimeout,
    MeshDisagrees,
    OutOfStep,
    PeerRefused,
    RankDied,
    RankSilent,
)
from genlock.fabric.connection import FRAME_MOST, Connection, gather, send_all, tell_all
from genlock.settings import Deadlines, Phase
from genlock.wire.answer import Answer, Kind, error_class, error_of, is_answer, is_fault, pack_answer, unpack_answer
from genlock.wire.codec import describe
from genlock.wire.envelope import Envelope
from genlock.wire.events import Events
from genlock.wire.header import FRAME_BYTES_MAX, Header, Stamp, open_frame, seal
from genlock.wire.kinds import Action, Plan
from genlock.wire.lifecycle import State
from genlock.wire.prepare import FAULT, Announced, Prepared, Received, check_payload, receive
from genlock.wire.result import Fault, fault_of
from genlock.wire.verdict import Verdict, compare, compare_references, unpack

CAUSE_S = 0.3  # that rank 0 listens for last words, once something has failed that may be an echo
LAST_WORD_S = 0.2  # for an ERROR or a fault to be handed to the system, at each peer, when all is lost anyway
CONSEQUENCES = (RankDied, RankSilent)  # errors that may be another error's echo
UNREADABLE = (FrameRefused, DigestMismatch, EnvelopeRefused)
assert FRAME_BYTES_MAX <= FRAME_MOST

_NOTHING = Stamp(action=Action.NOOP, plan=Plan.V1_GENERATOR_ONLY, call_id=0, chunk_index=-1, cache_epoch=0)

T = TypeVar("T")
Failure = TypeVar("Failure", bound=GenlockError)


class Payloads(Protocol):
    """The one collective that is used here."""

    def broadcast_payload(self, payload: Tensor | None, numel: int) -> Tensor:
        """Rank 0's `payload`, uint8 [numel] in host memory, on every rank; the workers give None."""
        ...


class OnPhase(Protocol):
    """Told as a rank enters a phase, with the ids of the frame it is about: -1 where there is none yet."""

    def __call__(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None: ...


Look = Callable[[], Verdict]  # well within a verdict's deadline


def untold(phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
    """An OnPhase that nobody listens to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """An accepted chunk, its bytes checked. message: which of the two, the plan says. payload: uint8 [payload_bytes] in
    host memory, which it views."""

    header: Header
    message: Envelope | Events
    payload: Tensor


@dataclass(frozen=True, slots=True)
class Stop:
    """Rank 0 has said SHUTDOWN."""


class Leader:
    """Rank 0's half. Owns the workers' connections, by rank; there may be none.

    Whatever `infer`, `noop` and `verdict` raise has been through `tell`.
    """

    def __init__(
        self,
        workers: Mapping[int, Connection],
        payloads: Payloads,
        deadlines: Deadlines,
        *,
        on_phase: OnPhase = untold,
        unheld: Collection[str] = (),
    ) -> None:
        """unheld: columns of the verdict that are not compared."""
        self._workers, self._payloads, self._on_phase, self._unheld = workers, payloads, on_phase, unheld
        self._answer_s = deadlines.verdict_s
        self._last: Stamp = _NOTHING  # of the frame that was sent last
        self._last_words: dict[int, Fault] = {}

    def infer(self, prepared: Prepared[Envelope] | Prepared[Events]) -> None:
        """Announces a chunk, and hands it out once every worker has accepted it.

        Raises PeerRefused if a worker refuses, with its rank and field, its own code in the text; LinkBroken or
        LinkTimeout naming a worker that is gone or silent; OutOfStep for an answer to something else. Nobody is in the
        broadcast then. And what the broadcast can raise.
        """
        header = prepared.header
        self._enter(Phase.ACCEPT, header)
        with self._told_to_all():
            self._ask(prepared.frame, Kind.ACCEPT)
            if len(self._workers) > 1:
                go = pack_answer(Answer(kind=Kind.GO, call_id=header.call_id))
                send_all(self._workers, go, within_s=self._answer_s)
            self._enter(Phase.PAYLOAD, header)
            self._payloads.broadcast_payload(prepared.payload, header.payload_bytes)

    def noop(self, frame: bytes) -> None:
        """Sends a NOOP and waits for every worker's answer. Errors as of `infer`."""
        self._enter(Phase.ACCEPT, open_frame(frame)[0])
        with self._told_to_all():
            self._ask(frame, Kind.ALIVE)

    def verdict(self, own: Verdict, *, look: Look | None = None) -> None:
        """Holds every worker's record of the last chunk against rank 0's own.

        look: if outputs differ and no rank is odd, every rank looks at all that it holds, and rank 0 does so by this.
        Raises MeshDisagrees naming rank and column; a worker's own error, with its rank, if it failed instead;
        LinkBroken or LinkTimeout naming one whose record does not come.
        """
        self._enter(Phase.VERDICT, self._last)
        with self._told_to_all():
            try:
                compare(own, self._verdicts(), unheld=self._unheld)
            except MeshDisagrees as tie:
                if tie.rank is not None or look is None:
                    raise
                self._look_again(look)
                raise MeshDisagrees(
                    f"{tie.what}: each rank's are as that rank's references say",
                    field=tie.field,
                    call_id=tie.call_id,
                ) from None

    def shutdown(self, frame: bytes) -> None:
        """Lets every worker leave. Raises LinkBroken or LinkTimeout of the first that cannot be told, once the others
        have been."""
        self._enter(Phase.DRAIN, open_frame(frame)[0])
        failed: LinkBroken | LinkTimeout | None = None
        for rank in sorted(self._workers):
            try:
                self._workers[rank].send(frame, within_s=self._answer_s)
            except (LinkBroken, LinkTimeout) as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def error(self, frame: bytes) -> None:
        """Ends the run on every worker that can still hear it. Raises nothing."""
        tell_all(self._workers, frame, within_s=LAST_WORD_S)

    def tell(self, error: GenlockError) -> GenlockError:
        """What rank 0 ends with because of `error`, also of one from outside of this class: told to every worker that
        can still hear it, and returned to be raised. It is another one where `error` only says that ranks are gone or
        silent, and a worker has said or shown why; that is listened for, for CAUSE_S. Raises nothing.
        """
        if isinstance(error, CONSEQUENCES):
            error = _about(cause(self._last_words, self._listen(), otherwise=error), self._last)
        unnamed = isinstance(error, (*CONSEQUENCES, MeshDisagrees))  # and not rank 0's own, then
        self.error(_error_frame(self._last, fault_of(error, rank=-1 if unnamed else 0)))
        return error

    def close(self) -> None:
        for connection in self._workers.values():
            connection.close()

    def _enter(self, phase: Phase, stamp: Stamp) -> None:
        self._last = stamp
        self._on_phase(phase, call_id=stamp.call_id, chunk=stamp.chunk_index)

    @contextlib.contextmanager
    def _told_to_all(self) -> Iterator[None]:
        try:
            yield
        except GenlockError as error:
            told = self.tell(error)
            if told is error:
                raise
            raise told from error

    def _ask(self, frame: bytes, wanted: Kind) -> None:
        """Sends a frame to all, and takes one answer of the wanted kind from each."""
        send_all(self._workers, frame, within_s=self._answer_s)
        for rank, data in self._collect(_refused).items():
            answer = _of_rank(rank, unpack_answer, data)
            if (answer.kind, answer.call_id) != (wanted, self._last.call_id):
                what = f"answers {answer.kind.name} to call {answer.call_id}, not {wanted.name}"
                raise _about(OutOfStep(what, field="answer", rank=rank), self._last)

    def _look_again(self, look: Look) -> None:
        ask = pack_answer(Answer(kind=Kind.LOOK, call_id=self._last.call_id))
        send_all(self._workers, ask, within_s=self._answer_s)
        compare_references(look(), self._verdicts())

    def _verdicts(self) -> dict[int, Verdict]:
        return {rank: _of_rank(rank, unpack, record) for rank, record in self._collect(_failed).items()}

    def _collect(self, as_error: Callable[[int, Fault], GenlockError]) -> dict[int, bytes]:
        """What each worker says next. A last word ends the wait, for the others may be waiting in a collective for a
        rank that is about to exit; it goes before whoever is gone or silent."""
        said, missing = gather(self._workers, within_s=self._answer_s, ends=is_fault)
        self._note_last_words(said)
        if self._last_words:
            rank = min(self._last_words, key=lambda rank: (_is_consequence(self._last_words[rank]), rank))
            raise _about(as_error(rank, self._last_words[rank]), self._last)
        if missing is not None:
            raise _about(missing, self._last)
        return said

    def _listen(self) -> set[int]:
        """Takes in last words until one is a cause, all have ended, or CAUSE_S is over. Returns the ranks that are
        gone."""
        until, gone = time.monotonic() + CAUSE_S, set[int]()
        while all(map(_is_consequence, self._last_words.values())):
            left = {rank: self._workers[rank] for rank in self._workers.keys() - gone - self._last_words.keys()}
            said, missing = gather(left, within_s=max(until - time.monotonic(), 0.0), ends=is_fault)
            with contextlib.suppress(*UNREADABLE):  # it was a last word, if no clear one
                self._note_last_words(said)
            if isinstance(missing, LinkBroken) and missing.rank is not None:
                gone.add(missing.rank)
            elif missing is not None or not left:
                break
        return gone

    def _note_last_words(self, said: Mapping[int, bytes]) -> None:
        for rank in sorted(said):
            if is_fault(said[rank]):
                fault = _of_rank(rank, unpack_answer, said[rank]).fault
                assert fault is not None  # `Answer` sees to it
                self._last_words[rank] = fault


class Follower:
    """A worker's half. `state`: its receiving copy of the lifecycle; whoever ends warm-up puts `live(state)` there.

    check: what else a chunk must satisfy before it is accepted, by its shapes (its model); raises a GenlockError. look:
    the last chunk's verdict once more, with everything that this rank has a reference for looked at. alone: it is rank
    0's only worker.
    """

    def __init__(
        self,
        leader: Connection,
        payloads: Payloads,
        state: State,
        deadlines: Deadlines,
        *,
        check: Callable[[Announced[Envelope] | Announced[Events]], None],
        look: Look | None = None,
        on_phase: OnPhase = untold,
        alone: bool = False,
    ) -> None:
        self.state = state
        self._look, self._alone = look, alone
        self._leader, self._payloads, self._check, self._on_phase = leader, payloads, check, on_phase
        self._say_s, self._go_s = deadlines.verdict_s, deadlines.group_s
        self._last: Stamp = _NOTHING  # of the chunk that was accepted last

    def next(self) -> Chunk | Stop:
        """The next chunk, accepted by all ranks; Stop at SHUTDOWN. NOOPs and a LOOK are answered on the way.

        Raises what is wrong with a frame, after rank 0 was told; what an ERROR says, as rank 0 raised it; LinkBroken if
        rank 0 is gone; LinkTimeout if it neither gives nor takes back its GO; DigestMismatch for a payload that is not
        the announced one.
        """
        while True:
            self._on_phase(Phase.IDLE)
            frame = self._leader.receive(within_s=None)
            if is_answer(frame):
                self._look_again(frame)
                continue
            with self._told_to_leader():
                received = self._read(frame)
            if received.header.action is Action.ERROR:
                raise _end(received)
            if received.header.action is Action.SHUTDOWN:
                self.state = received.state
                return Stop()
            if received.chunk is not None:
                return self._take(received, received.chunk)
            self.state = received.state
            self._say(Kind.ALIVE, received.header)

    def report(self, verdict: Verdict) -> None:
        """What this rank did and holds after the last chunk. Raises LinkBroken, LinkTimeout."""
        self._on_phase(Phase.VERDICT, call_id=verdict.call_id, chunk=self._last.chunk_index)
        self._leader.send(verdict.pack(), within_s=self._say_s)

    def fail(self, error: GenlockError) -> GenlockError:
        """What this rank ends with because of `error`: told to rank 0 in place of the verdict or of another answer, and
        returned to be raised. It is rank 0's own word where `error` only says that ranks are gone or silent and rank 0
        soon says which. Raises nothing.
        """
        last_word(self._leader, error, call_id=self.state.call_id)
        if not isinstance(error, CONSEQUENCES):
            return error
        try:
            received = receive(self._leader.receive(within_s=2 * CAUSE_S), self.state)
        except LinkBroken as gone:
            return error if error.rank is not None else _about(gone, self._last)
        except GenlockError:
            return error
        return _end(received) if received.header.action is Action.ERROR else error

    def _look_again(self, frame: bytes) -> None:
        with self._told_to_leader():
            asked = unpack_answer(frame)
            if (asked.kind, asked.call_id) != (Kind.LOOK, self._last.call_id) or self._look is None:
                what = f"{asked.kind.name} to call {asked.call_id} in place of a frame"
                raise _about(OutOfStep(what, field="action"), self._last)
            self.report(self._look())

    def _read(self, frame: bytes) -> Received:
        header, _ = open_frame(frame)
        if header.action is Action.INFER:
            self._on_phase(Phase.ACCEPT, call_id=header.call_id, chunk=header.chunk_index)
        received = receive(frame, self.state)
        if received.chunk is not None:
            self._check(received.chunk)
        return received

    def _take(self, received: Received, announced: Announced[Any]) -> Chunk:
        header = received.header
        self._say(Kind.ACCEPT, header)
        with self._told_to_leader():
            ended = None if self._alone else self._await_go(header)
        if ended is not None:
            raise ended
        self.state, self._last = received.state, header
        self._on_phase(Phase.PAYLOAD, call_id=header.call_id, chunk=header.chunk_index)
        with self._told_to_leader():
            payload = self._payloads.broadcast_payload(None, header.payload_bytes)
            message = check_payload(announced, payload)
        return Chunk(header=header, message=message, payload=payload)

    def _await_go(self, header: Header) -> GenlockError | None:
        """None at GO; at an ERROR what it says. Raises OutOfStep for anything else."""
        data = self._leader.receive(within_s=self._go_s)
        if is_answer(data):
            answer = unpack_answer(data)
            if (answer.kind, answer.call_id) == (Kind.GO, header.call_id):
                return None
            came = f"{answer.kind.name} to call {answer.call_id}"
        else:
            received = receive(data, self.state)
            if received.header.action is Action.ERROR:
                return _end(received)
            came = received.header.action.name
        what = f"{came} in place of GO or ERROR"
        raise _about(OutOfStep(what, field="action"), header)

    def _say(self, kind: Kind, header: Header) -> None:
        self._leader.send(pack_answer(Answer(kind=kind, call_id=header.call_id)), within_s=self._say_s)

    @contextlib.contextmanager
    def _told_to_leader(self) -> Iterator[None]:
        try:
            yield
        except GenlockError as error:
            ended = self.fail(error)
            if ended is error:
                raise
            raise ended from error


def cause(last_words: Mapping[int, Fault], gone: Collection[int], *, otherwise: GenlockError) -> GenlockError:
    """Why a run ended, from what the workers said at last and who is gone: what somebody found wrong; else who left
    without a word, for those who were left alone had one; else whom a worker names; else `otherwise`."""
    for rank in sorted(last_words):
        if not _is_consequence(last_words[rank]):
            return _failed(rank, last_words[rank])
    wordless = sorted(set(gone) - last_words.keys())
    if otherwise.rank in wordless:
        return otherwise
    if wordless:
        return LinkBroken("it closed its connection without a word", rank=wordless[0])
    named = [rank for rank in sorted(last_words) if last_words[rank].rank >= 0]
    return _failed(named[0], last_words[named[0]]) if named and otherwise.rank is None else otherwise


def last_word(leader: Connection, error: GenlockError, *, call_id: int = 0) -> None:
    """A worker's fault, handed to the system if that is possible at once. Raises nothing."""
    answer = Answer(kind=Kind.FAULT, call_id=call_id, fault=fault_of(error, rank=-1))
    tell_all({0: leader}, pack_answer(answer), within_s=LAST_WORD_S)


def _refused(rank: int, fault: Fault) -> PeerRefused:
    text = fault.text.removesuffix(f"; {error_class(fault.code).default_remedy}")
    return PeerRefused(f"refuses: {text}", field=fault.field, rank=rank)


def _failed(rank: int, fault: Fault) -> GenlockError:
    """The worker's own error. It may name another rank, or none: one that it waited for."""
    named = fault.rank >= 0 or _is_consequence(fault)
    return error_of(fault if named else replace(fault, rank=rank))


def _is_consequence(fault: Fault) -> bool:
    return issubclass(error_class(fault.code), CONSEQUENCES)


def _about(error: Failure, stamp: Stamp) -> Failure:
    """The error, with the ids of the frame it is about."""
    error.call_id, error.chunk_index = stamp.call_id, stamp.chunk_index
    return error


def _end(received: Received) -> GenlockError:
    if received.fault is None:
        return PeerRefused("rank 0 ended the run without saying why", rank=0)
    return error_of(received.fault)


def _error_frame(last: Stamp, fault: Fault) -> bytes:
    """An ERROR is obeyed whatever its ids; they say what it is about."""
    stamp = Stamp(
        action=Action.ERROR,
        plan=last.plan,
        call_id=last.call_id + 1,
        chunk_index=last.chunk_index,
        cache_epoch=last.cache_epoch,
    )
    return seal(stamp, describe(FAULT, fault)[1])[1]


def _of_rank(rank: int, read: Callable[[bytes], T], data: bytes) -> T:
    """What a worker sent, read; an error in it names the worker."""
    try:
        return read(data)
    except GenlockError as error:
        error.rank = rank
        raise
