"""The one hierarchy of errors: what happened, where, what to do, and the exit code.

Three kinds, told apart by what the reader can do about them:

* a *refusal* (exit 2, 3, 5): the caller can fix it. Raised early, before anything is written.
* a *tripwire* (exit 10 and above): ranks may disagree, or a promise inside genlock was broken. Stops the run.
* a *check* (exit 4): a replay or a check ran to its end and its answer is no.

Every class has a stable `code` and a default `remedy`; the message names the thing that was wrong and its value.
This module imports nothing of genlock and no torch.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a defect in genlock itself (please report it)",
    2: "usage: a flag or argument that makes no sense",
    3: "refused input: a prompt, a size, a checkpoint, a timeline",
    4: "a replay or a check ran and its answer is no",
    5: "input or output: a missing or unreadable file, a full disk",
    10: "tripwire: what was about to happen did not follow from what was agreed",
    11: "a rank died",
    12: "a rank stopped answering",
    13: "a start-up gate was not passed",
    14: "out of memory",
    15: "device",
    130: "interrupted",
}


class GenlockError(Exception):
    """Base of all errors that genlock raises on purpose.

    `what` names the thing and the value that was wrong; `where` the file, flag or field; `remedy` what to do.
    `rank`, `call_id`, `chunk_index` and `field` are set where they are known.
    """

    code: ClassVar[str] = "GL-00"
    exit_code: ClassVar[int] = 1
    default_remedy: ClassVar[str] = "report this with the output of `genlock doctor`"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        field: str = "",
        rank: int | None = None,
        call_id: int | None = None,
        chunk_index: int | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy or self.default_remedy
        self.field = field
        self.rank = rank
        self.call_id = call_id
        self.chunk_index = chunk_index

    def __str__(self) -> str:
        ids = [("rank", self.rank), ("call", self.call_id), ("chunk", self.chunk_index)]
        place = [self.where] if self.where else []
        place += [f"{name} {value}" for name, value in ids if value is not None]
        prefix = f"{', '.join(place)}: " if place else ""
        return f"{self.code}: {prefix}{self.what}; {self.remedy}"


# -- usage, exit 2 -----------------------------------------------------------------------------------------------


class UsageError(GenlockError):
    """A flag, an argument or a setting that makes no sense, alone or with the others."""

    code = "GL-USE-01"
    exit_code = 2
    default_remedy = "see `genlock --help`"


class SettingUnknown(UsageError):
    """An environment variable or a settings key that genlock does not know."""

    code = "GL-USE-02"
    default_remedy = "docs/reference/settings.md lists every setting"


# -- refused input, exit 3 ---------------------------------------------------------------------------------------


class RefusedInput(GenlockError):
    """Input that is understood and cannot be served."""

    code = "GL-IN-01"
    exit_code = 3
    default_remedy = "change the input"


class SizeRefused(RefusedInput):
    """Height or width that the model cannot make."""

    code = "GL-SIZE-01"
    default_remedy = "use a height and a width that are multiples of 16"


class PromptRefused(RefusedInput):
    """An empty prompt, or one beyond the model's length."""

    code = "GL-TEXT-01"
    default_remedy = "give a prompt of one or more words, within the model's length"


class TimelineRefused(RefusedInput):
    """Prompts, times, weights or transitions that cannot be put on one line of time."""

    code = "GL-TIME-01"
    default_remedy = "give times in seconds, in rising order, from 0 on"


class VideoInputRefused(RefusedInput):
    """Input frames or a strength that video-to-video cannot take."""

    code = "GL-VIDEO-01"
    default_remedy = "give RGB frames of 8 bits, and a strength above 0 and at most 1"


class MeshRefused(RefusedInput):
    """A mesh size that does not divide the model."""

    code = "GL-MESH-01"
    default_remedy = "choose a mesh size that divides the number of heads"


class CheckpointKeys(RefusedInput):
    """A checkpoint with a key that does not belong there, or without one that does."""

    code = "GL-CKPT-03"
    default_remedy = "check that the file belongs to this model and format"


class CheckpointShape(RefusedInput):
    """A tensor of another shape than the model's."""

    code = "GL-CKPT-04"
    default_remedy = "check that the checkpoint belongs to this preset"


class CheckpointDtype(RefusedInput):
    """A tensor that is not floating point."""

    code = "GL-CKPT-05"
    default_remedy = "convert the tensor to float16, bfloat16 or float32"


class CheckpointConfig(RefusedInput):
    """A checkpoint whose configuration is missing, unreadable or contradicts the preset."""

    code = "GL-CKPT-06"
    default_remedy = "name the preset the checkpoint belongs to with --model"


class VaeStepRefused(RefusedInput):
    """Pixel frames or latents that a VAE stream cannot take as its next step."""

    code = "GL-VAE-01"
    default_remedy = "start a stream with 1 + 4k pixel frames, go on with 4k, and keep size and batch"


# -- a check said no, exit 4 -------------------------------------------------------------------------------------


class ReplayFailed(GenlockError):
    """A replay ran to its end and differs from the recording by more than the tolerance."""

    code = "GL-REPLAY-01"
    exit_code = 4
    default_remedy = "the table above names the first chunk and tensor that differ"


class DrillFellShort(GenlockError):
    """A drill ran, and what came of the planted fault is not what must."""

    code = "GL-DRILL-01"
    exit_code = 4
    default_remedy = "run it again by its name with --keep FOLDER, and report that folder with `genlock doctor`"


# -- input and output, exit 5 ------------------------------------------------------------------------------------


class InputOutputError(GenlockError):
    """A file that cannot be written or read."""

    code = "GL-IO-01"
    exit_code = 5
    default_remedy = "check the path, the permissions and the free space"


class VideoUnreadable(InputOutputError):
    """A video file that PyAV cannot open or decode."""

    code = "GL-IO-02"
    default_remedy = "give a file that ffmpeg can play"


class RecordingUnreadable(InputOutputError):
    """A folder that is not a recording of the replay schema."""

    code = "GL-IO-03"
    default_remedy = "give a folder written by `genlock record`, with its index.json"


class CheckpointMissing(InputOutputError):
    """A checkpoint file, shard or index that is not there."""

    code = "GL-CKPT-01"
    default_remedy = "check the path given to --model"


class CheckpointUnreadable(InputOutputError):
    """A checkpoint that is cut short, damaged, or asks for more than plain tensors when it is read."""

    code = "GL-CKPT-02"
    default_remedy = "fetch the file again, from a source you trust"


# -- tripwires, exit 10 and above --------------------------------------------------------------------------------


class Tripwire(GenlockError):
    """What was about to happen does not follow from what was agreed."""

    code = "GL-TRIP-01"
    exit_code = 10


class EnvelopeRefused(Tripwire):
    """A field of an envelope or a result breaks its rule: type, arithmetic, presence, shape or dtype."""

    code = "GL-WIRE-01"


class OutOfStep(Tripwire):
    """A frame that does not follow from the receiver's own state; `field` is the first that differs."""

    code = "GL-WIRE-02"


class DigestMismatch(Tripwire):
    """Bytes that are not the bytes that were announced."""

    code = "GL-WIRE-03"


class FrameRefused(Tripwire):
    """A header or a manifest that cannot be read: magic, version, action, plan, dtype or key unknown."""

    code = "GL-WIRE-04"


class CallCount(Tripwire):
    """More, fewer or other generator calls than the envelope's plan."""

    code = "GL-CALL-01"


class CacheRefused(Tripwire):
    """A generator call that the cache cannot hold, or that reads what was never written."""

    code = "GL-CACHE-01"


class NotFinite(Tripwire):
    """Latents with a NaN or an infinity."""

    code = "GL-NUM-01"
    default_remedy = "check the checkpoint and the precision; float32 tells weights from rounding"


class CollectiveRefused(Tripwire):
    """A collective that the plan does not foresee: no plan in force, another thread, shape, dtype or layout."""

    code = "GL-COLL-01"


class PeerRefused(Tripwire):
    """A rank of the mesh found a frame wrong; nobody has entered the broadcast."""

    code = "GL-MESH-02"
    default_remedy = "the named rank and field differ from what rank 0 sent: compare versions and settings of that host"


class MeshDisagrees(Tripwire):
    """Ranks that should have done and hold the same did not; the column says in what."""

    code = "GL-MESH-03"
    default_remedy = "do not use this chunk; look at the named rank first (memory, weights, versions)"


# -- ranks that are gone or silent, exit 11 and 12 ---------------------------------------------------------------


class RankDied(GenlockError):
    """A rank's process ended before its work did."""

    code = "GL-RANK-01"
    exit_code = 11
    default_remedy = "look at what that rank printed last, and at the system's log for its process"


class LinkBroken(RankDied):
    """The other side of a control connection is gone, or what came over it cannot be read."""

    code = "GL-LINK-01"


class RankSilent(GenlockError):
    """A rank is stopped, or has not moved on for longer than its phase may last."""

    code = "GL-RANK-02"
    exit_code = 12
    default_remedy = (
        "look at the rank that did not come (`genlock recorder merge`); a larger GENLOCK_DEADLINE only waits longer"
    )


class LinkTimeout(RankSilent):
    """A frame could not be sent or did not come within its time. The connection cannot be used any more."""

    code = "GL-LINK-02"


# -- start-up, exit 13 -------------------------------------------------------------------------------------------


class GateRefused(GenlockError):
    """Ranks that differ in something that must be equal, or a rank that did not come; the table says which."""

    code = "GL-GATE-01"
    exit_code = 13
    default_remedy = "make the named values equal on every rank, and start again"


class GateMissed(GateRefused):
    """Ranks that did not reach a gate within its time."""

    code = "GL-GATE-02"
    default_remedy = "look at what the named ranks printed; start as many ranks as --mesh says"


class PlanRefused(GateRefused):
    """A plan whose workers lack something that they must load, or have loaded something that they must not."""

    code = "GL-PLAN-01"
    default_remedy = "choose a plan further up the ladder with --plan: it asks less of a worker"


class GraphRefused(GateRefused):
    """A block that cannot be compiled whole, or is compiled once more when the ranks have compared their graphs."""

    code = "GL-GRAPH-01"
    default_remedy = "run with GENLOCK_COMPILE=off, and report this with the output of `genlock doctor`"


class LaunchRefused(GenlockError):
    """Ranks that cannot be started or cannot find each other: a port in use, a key file missing, a wrong key."""

    code = "GL-LAUNCH-01"
    exit_code = 13
    default_remedy = "choose another port with MASTER_PORT or GENLOCK_CONTROL_PORT"


class OutOfMemory(GenlockError):
    """The device's or the machine's memory did not suffice."""

    code = "GL-MEM-01"
    exit_code = 14
    default_remedy = "use a smaller size, a smaller model or a larger device"


class DeviceUnavailable(GenlockError):
    """The device asked for is not there or does not work."""

    code = "GL-DEV-01"
    exit_code = 15
    default_remedy = "run `genlock doctor` to see the devices of this machine"
