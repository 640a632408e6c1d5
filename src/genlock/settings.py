"""Every option of the run time, once: name, type, unit, default, meaning, and which ranks must agree on it.

The only place where the environment is read. A setting `threads` is the variable GENLOCK_THREADS, which the command
line reads below its flags; `genlock.open` is handed a `Settings`, or takes the defaults. `Settings` is frozen: nothing
changes while a session runs.
This module knows nothing of models, devices or files; values are checked for form, not for existence. No torch.
"""

from __future__ import annotations

import ctypes
import difflib
import logging
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any

from genlock.errors import SettingUnknown, UsageError

PREFIX = "GENLOCK_"

# Variables of this prefix that are no settings of a run: name -> what reads it.
READ_ELSEWHERE = {
    "GENLOCK_GOLDEN": "tests: the folder that holds the recorded tensors",
    "GENLOCK_BEACON_FD": "a rank: where its beacons go, from its supervisor",
    "GENLOCK_KEY_FD": "a rank: where the key of this run can be read once, from its supervisor",
}

BRING_UP_DEADLINE_S = 8
LARGEST_PORT = 65535
# glibc's mallopt: from which size a block is mapped by itself, and how much free memory is kept at the end of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAPPED_FROM_BYTES, KEPT_BYTES = 32 * 1024**2, 256 * 1024**2
SPIN_TURNS = "4000"  # of an idle thread of the tensor library before it sleeps

# Of torch's NCCL back end, for ranks: on a timeout end the process without cleaning up first, and do not wait a minute
# for a dump before. A launcher's or a user's own values go before these.
NCCL_DEFAULTS = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "500",
}

Value = str | int | bool

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class Parity(StrEnum):
    """Who must hold the same value."""

    ALL_RANKS = "all ranks"  # a difference ends the start, with a table
    RANK_0 = "rank 0"  # read on rank 0 alone; what follows from it travels in the envelope
    EACH_RANK = "each rank"  # a matter of one host; may differ


def _option(
    doc: str,
    *,
    default: Value,
    parity: Parity,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: int = 0,
) -> Any:
    """A dataclass field that carries its own documentation."""
    about = {"doc": doc, "parity": parity, "unit": unit, "choices": choices, "minimum": minimum}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is told beside its prompts. Raises UsageError naming the setting for a value out of its form."""

    model: str = _option(
        default="bundled",
        doc="the model to run: `bundled`, or the path of a model folder",
        parity=Parity.ALL_RANKS,
        unit="name or path",
    )
    device: str = _option(
        default="auto",
        doc="where the model runs; `auto` is CUDA where it works, otherwise the CPU",
        parity=Parity.ALL_RANKS,
        choices=("auto", "cpu", "cuda"),
    )
    dtype: str = _option(
        default="auto",
        doc="precision of the generator; `auto` is float32 on the CPU and bfloat16 on CUDA",
        parity=Parity.ALL_RANKS,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    threads: int = _option(
        default=0,
        doc="CPU threads of the tensor library; 0 leaves its own choice",
        parity=Parity.ALL_RANKS,
        unit="threads",
    )
    regime: str = _option(
        default="auto",
        doc="what the cache is rebuilt from before a chunk: `R0a` exact, `R0` latents only, `R1` never; "
        "`auto` is the model's own",
        parity=Parity.ALL_RANKS,
        choices=("auto", "R0a", "R0", "R1"),
    )
    strict: bool = _option(
        default=True,
        doc="check every chunk's latents for NaN and infinity, which waits for the device once a chunk",
        parity=Parity.ALL_RANKS,
    )
    text_cache: int = _option(
        default=64,
        doc="prompts whose embeddings are kept, the least recently used going first",
        parity=Parity.RANK_0,
        unit="prompts",
        minimum=1,
    )
    topology: str = _option(
        default="solo",
        doc="who runs what: `solo` is one rank; `tp` shares the generator out over a mesh of ranks",
        parity=Parity.ALL_RANKS,
        choices=("solo", "tp"),
    )
    mesh: int = _option(
        default=0,
        doc="ranks that share the generator; divides its heads; 0 is as many as were launched, or 2",
        parity=Parity.ALL_RANKS,
        unit="ranks",
    )
    plan: str = _option(
        default="v1_generator_only",
        doc="how much of a chunk every worker of a mesh prepares by itself: everything (`v0_full_pipeline`), all but "
        "the context, all but context and noise, or nothing (`v1_generator_only`)",
        parity=Parity.ALL_RANKS,
        choices=("v0_full_pipeline", "v1a_context_override", "v1b_latents_override", "v1_generator_only"),
    )
    deadline: int = _option(
        default=20,
        doc="how long a rank of a mesh may keep the others waiting in one phase of a chunk before the run ends",
        parity=Parity.ALL_RANKS,
        unit="seconds",
        minimum=2,
    )
    bring_up: bool = _option(
        default=False,
        doc="every check of a mesh at every chunk, whatever it costs; for a new machine or a hunt",
        parity=Parity.ALL_RANKS,
    )
    check_every: int = _option(
        default=16,
        doc="chunks between two rounds of the costly checks (keys and values, outputs; of weights one block a chunk is "
        "looked at, all of them where this is 1)",
        parity=Parity.ALL_RANKS,
        unit="chunks",
        minimum=1,
    )
    compile: str = _option(
        default="off",
        doc="whether the generator's blocks are compiled, and by which of torch's back ends: `inductor` is fast, "
        "`aot_eager` has the bits of `off`",
        parity=Parity.ALL_RANKS,
        choices=("off", "aot_eager", "inductor"),
    )
    control_port: int = _option(
        default=0,
        doc="TCP port of the control connections where ranks are on several hosts; 0 is MASTER_PORT + 1",
        parity=Parity.EACH_RANK,
        unit="port",
    )
    key_file: str = _option(
        default="auto",
        doc="file with the key of the control connections, the same on every host; `auto` makes one where all ranks "
        "are on one host",
        parity=Parity.EACH_RANK,
        unit="path",
    )
    run_dir: str = _option(
        default="auto",
        doc="new or empty folder for what a run notes of itself; `auto` is none for one rank alone, and for a mesh one "
        "that goes unless the run fails",
        parity=Parity.EACH_RANK,
        unit="path",
    )
    metrics_port: str = _option(
        default="none",
        doc="port of this machine's own address at which rank 0 answers with metrics for Prometheus; `0` takes any "
        "that is free and says which",
        parity=Parity.EACH_RANK,
        unit="port",
    )
    log_format: str = _option(
        default="text",
        doc="`json`: every rank also writes a line of JSON for each event to its stderr",
        parity=Parity.EACH_RANK,
        choices=("text", "json"),
    )
    profile: str = _option(
        default="none",
        doc="chunks in which torch's profiler runs on this rank, `7` or `7-9`; it writes into the run's folder",
        parity=Parity.EACH_RANK,
        unit="chunk or range of chunks",
    )
    faults: str = _option(
        default="none",
        doc="faults planted on purpose, for drills: `none`, or a list as `kill:rank=1,phase=payload,chunk=2`",
        parity=Parity.ALL_RANKS,
        unit="list",
    )
    guards_off: str = _option(
        default="none",
        doc="tripwires left off on purpose, for drills and for measuring what they cost: `none`, or a list as "
        "`weights,kv`; such a run says so, and is not to be trusted",
        parity=Parity.ALL_RANKS,
        unit="list",
    )

    def __post_init__(self) -> None:
        for option in options():
            option.check(getattr(self, option.name))


class Phase(StrEnum):
    """Where a rank is, from its start to its end: what a beacon says, and what a deadline belongs to."""

    LAUNCH = "launch"
    GATE_1 = "gate 1"
    RENDEZVOUS = "rendezvous"
    LOAD = "load"
    GATE_2A = "gate 2a"
    WARM_UP = "warm-up"
    GATE_2B = "gate 2b"
    LOAD_MEDIA = "load media"  # rank 0: what it has beside the generator
    IDLE = "idle"  # waiting for a frame, or for somebody to ask for one: no deadline
    ACCEPT = "accept"  # a frame is announced and answered, before anything is committed
    PAYLOAD = "payload"
    CALL = "generator call"
    VERDICT = "verdict"
    DELIVER = "deliver"  # decoding, writing: rank 0; a worker decodes where its plan has it make its own context
    DRAIN = "drain"
    EXIT = "exit"


START_PHASES = (
    Phase.LAUNCH,
    Phase.GATE_1,
    Phase.RENDEZVOUS,
    Phase.LOAD,
    Phase.GATE_2A,
    Phase.WARM_UP,
    Phase.GATE_2B,
    Phase.LOAD_MEDIA,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long each phase may last, in seconds, all in one place. D is `answer_s`: `settings.deadline`.

    A rank's own watchdog ends it when its phase is over time; the supervisor ends a rank that is stopped for D, or
    that its own watchdog did not end `grace_s` after its time. verdict_s < group_s < supervisor_s, so that the rank
    that can say most speaks first.
    """

    answer_s: float
    launch_s: float = 120.0  # from the start of the process to gate 1: Python, torch
    gate_s: float = 60.0
    rendezvous_s: float = 60.0
    load_s: float = 600.0
    warm_up_s: float = 600.0
    deliver_s: float = 60.0
    records_s: float = 1.0  # the supervisor's wait for the causes of failure after the first exit
    grace_s: float = 1.0

    @property
    def verdict_s(self) -> float:
        return 0.8 * self.answer_s

    @property
    def group_s(self) -> float:
        """Of torch's process group, once it is started: until then it is as long as a load or a warm-up may take."""
        return 0.9 * self.answer_s

    @property
    def supervisor_s(self) -> float:
        return self.answer_s

    @property
    def exit_s(self) -> float:
        return min(self.answer_s, 10.0)

    def __post_init__(self) -> None:
        if not 0 < self.verdict_s < self.group_s < self.supervisor_s + self.grace_s:
            raise UsageError(f"a deadline of {self.answer_s:g} seconds", where="GENLOCK_DEADLINE")

    def of(self, phase: Phase) -> float | None:
        """Seconds a rank may spend in a phase without a sign of progress; None is for ever."""
        return {
            Phase.LAUNCH: self.launch_s,
            Phase.GATE_1: self.gate_s,
            Phase.RENDEZVOUS: self.rendezvous_s,
            Phase.LOAD: self.load_s,
            Phase.GATE_2A: max(self.gate_s, self.load_s),
            Phase.WARM_UP: self.warm_up_s,
            Phase.GATE_2B: max(self.gate_s, self.warm_up_s),
            Phase.LOAD_MEDIA: self.load_s,
            Phase.IDLE: None,
            Phase.ACCEPT: self.answer_s,
            Phase.PAYLOAD: self.answer_s,
            Phase.CALL: self.answer_s,
            Phase.VERDICT: self.answer_s,
            Phase.DELIVER: self.deliver_s,
            Phase.DRAIN: self.answer_s,
            Phase.EXIT: self.exit_s,
        }[phase]


def mesh_deadlines(settings: Settings) -> Deadlines:
    """D as set; in bring-up mode at most 8 s."""
    return Deadlines(answer_s=min(settings.deadline, BRING_UP_DEADLINE_S if settings.bring_up else settings.deadline))


class FaultKind(StrEnum):
    """What a drill can do to a rank, at a named moment."""

    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP
    REFUSE = "refuse"  # finds a good frame wrong
    SKIP_CALL = "skip_call"  # leaves out a generator call
    EXTRA_CALL = "extra_call"
    CHANGE_INPUT = "change_input"  # one value, after receipt
    CHANGE_WEIGHT = "change_weight"
    CHANGE_KV = "change_kv"
    CHANGE_NOISE = "change_noise"  # one value of what a worker prepares by itself
    CHANGE_ANCHOR = "change_anchor"  # the same, of its context's first frame
    SUM_UNPLANNED = "sum_unplanned"  # a collective that no pass has asked for
    SUM_OTHER_THREAD = "sum_other_thread"
    SUM_OTHER_GROUP = "sum_other_group"  # one that this rank is no member of
    SUM_STRIDED = "sum_strided"
    SUM_OTHER_SHAPE = "sum_other_shape"
    SUMS_SWAPPED = "sums_swapped"  # two of one shape, in the other order
    GRAPH_BREAK = "graph_break"  # a block that no compiler takes whole
    OTHER_GRAPH = "other_graph"  # one that is compiled otherwise than the others
    OTHER_BACKEND = "other_backend"  # computes in another way than was asked for
    NO_MEMORY = "no_memory"  # no more than it has now
    NO_FILES = "no_files"  # no more open than now


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedFault:
    """One fault. chunk: the chunk in which it strikes (-1: while starting or warm); ignored by start-up phases."""

    kind: FaultKind
    rank: int
    phase: Phase
    chunk: int = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults planted on purpose; none in a normal run. Equal on all ranks, and part of gate 1's manifest."""

    planted: tuple[PlantedFault, ...] = ()

    def at(self, rank: int, phase: Phase, chunk: int = 0) -> tuple[FaultKind, ...]:
        """What strikes `rank` as it enters `phase` in `chunk`."""
        return tuple(
            fault.kind
            for fault in self.planted
            if fault.rank == rank and fault.phase is phase and (phase in START_PHASES or fault.chunk == chunk)
        )


def profiled_from(text: str) -> range | None:
    """The chunks of `profile`; None for none. Raises UsageError naming the setting."""
    if text == "none":
        return None
    first, dash, last = text.partition("-")
    try:
        chunks = range(int(first), int(last if dash else first) + 1)
    except ValueError:
        chunks = range(0)
    if not chunks or chunks.start < 0:
        raise UsageError(f"{text!r} is no range of chunks", where="GENLOCK_PROFILE", remedy="write it as 7 or 7-9")
    return chunks


def profiled(settings: Settings) -> range | None:
    """The chunks that are profiled, None for none. Raises UsageError, also where there is nowhere to write."""
    chunks = profiled_from(settings.profile)
    if chunks is not None and settings.run_dir == "auto":
        raise UsageError(
            "nowhere to write what a profile sees", where="GENLOCK_PROFILE", remedy="name a folder with --run-dir"
        )
    return chunks


def metrics_port_from(text: str) -> int | None:
    """The port of `metrics_port`, None for none. Raises UsageError naming the setting."""
    if text == "none":
        return None
    if not (text.isascii() and text.isdecimal() and int(text) <= LARGEST_PORT):
        raise UsageError(f"{text!r} is no port", where="GENLOCK_METRICS_PORT", remedy="use 0 to 65535, or none")
    return int(text)


def faults_from(text: str) -> Faults:
    """`none`, or faults split by `;`: `kill:rank=1,phase=payload,chunk=2`. Raises UsageError naming the setting."""
    if text == "none":
        return Faults()
    return Faults(tuple(_planted(part.strip()) for part in text.split(";")))


def _planted(text: str) -> PlantedFault:
    kind, _, rest = text.partition(":")
    values = dict(pair.partition("=")[::2] for pair in rest.split(","))
    try:
        if not {"rank", "phase"} <= set(values) <= {"rank", "phase", "chunk"}:
            raise ValueError(text)
        return PlantedFault(
            kind=FaultKind(kind),
            rank=int(values["rank"]),
            phase=Phase(values["phase"]),
            chunk=int(values.get("chunk", "0")),
        )
    except ValueError:
        raise UsageError(
            f"{text!r} is not a fault", where="GENLOCK_FAULTS", remedy="write it as kill:rank=1,phase=payload,chunk=2"
        ) from None


def planted_faults(settings: Settings, ranks: int) -> Faults:
    """Those of a run on a mesh of so many ranks, 0 where there is none. Raises UsageError as `faults_from`, and for a
    fault that no rank would strike."""
    faults = faults_from(settings.faults)
    for fault in faults.planted:
        if not 0 <= fault.rank < ranks:
            there = f"a mesh of {ranks} has no rank {fault.rank}" if ranks else "this run has no mesh"
            raise UsageError(
                f"{there} to plant a fault in", where="GENLOCK_FAULTS", remedy="unset it, unless this is a drill"
            )
    return faults


def warn_of_faults(settings: Settings) -> None:
    """One line of the log `genlock`: a variable that was set once and forgotten makes what looks like real trouble."""
    if faults_from(settings.faults).planted:
        logging.getLogger("genlock").warning("faults are planted on purpose (GENLOCK_FAULTS): %s", settings.faults)


class Guard(StrEnum):
    """A tripwire that can be left off on purpose."""

    GATES = "gates"  # what every rank says of itself is compared at each gate; this setting and faults always are
    PLAN = "plan"  # the door takes the plan's collectives alone: thread, chunk, pass, order, shape, dtype, layout
    CALL_COUNT = "call_count"  # the passes of a chunk are the plan's, at the door and in the verdict
    LEDGER = "ledger"  # the collectives that were made, in order, in the verdict
    EPOCH = "epoch"  # frames and results of another cache epoch
    INPUTS = "inputs"  # the verdict's columns, from here on
    WEIGHTS = "weights"
    KV = "kv"
    OUTPUTS = "outputs"
    FINITE = "finite"  # latents without NaN and infinity; in bring-up mode every summand too


def guards_off_from(text: str) -> frozenset[Guard]:
    """`none`, or names split by commas: `weights,kv`. Raises UsageError naming the setting."""
    try:
        return frozenset() if text == "none" else frozenset(Guard(name.strip()) for name in text.split(","))
    except ValueError:
        raise UsageError(
            f"{text!r} is no list of tripwires", where="GENLOCK_GUARDS_OFF", remedy=f"choose from {', '.join(Guard)}"
        ) from None


def guards_off(settings: Settings) -> frozenset[Guard]:
    """What this run leaves off, `strict` included. Raises as `guards_off_from`."""
    return guards_off_from(settings.guards_off) | (frozenset() if settings.strict else {Guard.FINITE})


def warn_of_guards_off(settings: Settings) -> frozenset[Guard]:
    """The same, and one line of the log `genlock` about it, which is on stderr unless the program has its own."""
    off = guards_off(settings)
    if off:
        named = ", ".join(sorted(off))
        logging.getLogger("genlock").warning("tripwires are off: %s; nothing of this run is to be trusted", named)
    return off


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """What a rank inherits from genlock's own supervisor: two descriptors and a folder."""

    beacon_fd: int
    key_fd: int
    run_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A process's place among the ranks, by the variables of the torchrun contract. supervised: by genlock itself."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    master_addr: str
    master_port: int
    run_id: str
    supervised: Supervised | None

    @property
    def one_host(self) -> bool:
        return self.local_world == self.world


def launch_from(environ: Mapping[str, str]) -> Launch | None:
    """This process's place; None where no launcher gave it one (RANK and WORLD_SIZE are not both set).

    Raises UsageError for a variable out of its form.
    """
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None

    def number(name: str, default: str) -> int:
        try:
            return int(environ.get(name, default))
        except ValueError:
            raise UsageError(f"{environ[name]!r} is not a whole number", where=name) from None

    supervised = None
    if "GENLOCK_BEACON_FD" in environ:
        supervised = Supervised(
            beacon_fd=number("GENLOCK_BEACON_FD", ""),
            key_fd=number("GENLOCK_KEY_FD", ""),
            run_dir=environ["GENLOCK_RUN_DIR"],
        )
    launch = Launch(
        rank=number("RANK", ""),
        world=number("WORLD_SIZE", ""),
        local_rank=number("LOCAL_RANK", "0"),
        local_world=number("LOCAL_WORLD_SIZE", "0"),
        master_addr=environ.get("MASTER_ADDR", ""),
        master_port=number("MASTER_PORT", "0"),
        run_id=environ.get("TORCHELASTIC_RUN_ID", ""),
        supervised=supervised,
    )
    if not 0 <= launch.rank < launch.world:
        raise UsageError(f"rank {launch.rank} of {launch.world}", where="RANK", remedy="count ranks from 0")
    return launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting, described: what a reference page, a manifest and `genlock doctor` print."""

    name: str
    kind: type
    default: Value
    doc: str
    unit: str
    parity: Parity
    choices: tuple[str, ...]
    minimum: int

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def parse(self, text: str) -> Value:
        """The value a variable's text stands for. Raises UsageError naming the variable."""
        word = text.strip()
        if self.kind is bool:
            if word.lower() not in _TRUE + _FALSE:
                raise UsageError(f"{word!r} is neither on nor off", where=self.variable, remedy="use 1 or 0")
            return word.lower() in _TRUE
        if self.kind is int:
            try:
                return int(word)
            except ValueError:
                raise UsageError(f"{word!r} is not a whole number", where=self.variable, remedy=self.advice) from None
        return word

    def check(self, value: Value) -> None:
        """Raises UsageError, naming the variable, unless `value` has the option's type and range."""
        fits = type(value) is self.kind
        if isinstance(value, str):
            fits = fits and (value in self.choices if self.choices else bool(value))
        else:
            fits = fits and value >= self.minimum
        if not fits:
            raise UsageError(f"{value!r} cannot be the setting {self.name}", where=self.variable, remedy=self.advice)

    @property
    def advice(self) -> str:
        if self.choices:
            return f"use {', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.kind is int:
            return f"use a whole number of {self.unit}, {self.minimum} or more"
        return "use 1 or 0" if self.kind is bool else f"give a {self.unit}"


def options() -> tuple[Option, ...]:
    """Every setting there is, in the order of `Settings`."""
    found = []
    for each in fields(Settings):
        assert each.default is not MISSING  # every setting has one default, and this is the only place that says it
        found.append(Option(name=each.name, kind=type(each.default), default=each.default, **each.metadata))
    return tuple(found)


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Settings as the variables in `environ` say, with defaults for the rest.

    Raises SettingUnknown for a GENLOCK_ variable that does not exist, UsageError for a value out of its form.
    """
    known = {option.variable: option for option in options()}
    values: dict[str, Any] = {}
    for name in sorted(n for n in environ if n.startswith(PREFIX) and n not in READ_ELSEWHERE):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingUnknown(
                f"there is no setting {name}",
                where="environment",
                remedy=f"did you mean {near[0]}?" if near else "",
            )
        values[known[name].name] = known[name].parse(environ[name])
    return Settings(**values)


def share_the_cores(environ: MutableMapping[str, str] | None = None) -> None:
    """Lets the tensor library's idle threads spin briefly, then sleep; before torch is loaded, or without effect.

    Delivered frames/s of the bundled model on two cores, quiet and with one other busy process: sleeping at once 14 and
    13, this many turns 19 to 23 and 7, twenty-five times as many 25 and 1.5. A policy that is set already stays.
    """
    variables = os.environ if environ is None else environ
    if "OMP_WAIT_POLICY" not in variables:
        variables.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)


def keep_freed_memory(libc: Any = None) -> bool:
    """Lets the C library keep freed blocks of megabytes for the next ones; whether it could (glibc alone can be told).

    By itself it gives each back to the system and takes it page by page again: 10,000 page faults and up to 30 of 400
    ms of a chunk of the bundled model on one core, and a third of handing 2 MB to another rank.
    """
    try:
        tell = (libc or ctypes.CDLL(None)).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(tell(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)) and bool(tell(M_TRIM_THRESHOLD, KEPT_BYTES))


def from_environment() -> Settings:
    """Settings as this process's environment says. Errors as in `settings_from`."""
    return settings_from(os.environ)


def launch() -> Launch | None:
    """This process's place among the ranks, as its environment says. Errors as in `launch_from`."""
    return launch_from(os.environ)


def rank_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank to be started: this process's own, what NCCL needs to be told, and `extra`."""
    return {**NCCL_DEFAULTS, **os.environ, **extra}


def environment_without_settings(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that is to see no setting of this process: the rest of it, and `extra`."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}, **extra}


def origins(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where each setting's value comes from: the variable that sets it, or "default"."""
    variables = os.environ if environ is None else environ
    return {o.name: o.variable if o.variable in variables else "default" for o in options()}
