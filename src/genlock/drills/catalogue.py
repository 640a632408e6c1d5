"""The drills there are: what is done to a mesh on purpose, and what must come of it. The tests run the same rows.

A drill is a name and cases; a case is one start of real processes on the toy model with D = 3 s. Nothing here runs
anything: `drills.conduct` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from genlock.drills.hosts import TwoHosts, can_make_hosts
from genlock.drills.runs import ENDLESS, GONE_BOUND_S, KILL_BOUND_S, NOT_ENTERED, SHORT, STOP_BOUND_S, D, Run, fault
from genlock.drills.strikes import fill_disk, kill_supervisor, on_line, outage, stop_supervisor
from genlock.settings import Parity, Phase, options

Strike = Callable[[Run], float | None]

GENERATE = ("generate", *SHORT)
ANY_FAILURE = 1000
HANG_S = 0.7 * D  # at least, where ranks stand until a deadline ends them
PATIENCE_S = 60.0  # of a case that has no bound of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One start. injected, expected: for people.

    words: of a command on the mesh; scene: of `drills.scenes`, in its place. faults: as GENLOCK_FAULTS. guards_off: as
    GENLOCK_GUARDS_OFF. variables: of the environment, of all ranks. of_rank: of single ranks, which are then started
    one by one, as on several hosts; hosts: on two of `drills.hosts`. strike: what is done to the run from outside, of
    `drills.strikes`. code: the exit code; ANY_FAILURE: any but 0. rank: who must be named, None for nobody. says: what
    must be printed, a regular expression. struck: rank and phase from whose entry `bound_s` counts, and `least_s`, of a
    hang; None: from the strike, or the start of the command. video: whether one must be there at the end; None: either
    way. harm: what a scene sees may be amiss, which is what the case is for.
    """

    injected: str
    expected: str
    words: tuple[str, ...] = GENERATE
    scene: str = ""
    faults: str = "none"
    guards_off: str = "none"
    hosts: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    of_rank: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    strike: Strike | None = None
    code: int = 10
    rank: int | None = None
    says: str = ""
    struck: tuple[int, Phase] | None = None
    bound_s: float = PATIENCE_S
    least_s: float = 0.0
    video: bool | None = None
    harm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """about: what it shows. without: what happens where its guard is off, as cases whose expectation is the harm.
    not_run: why this machine or this version cannot run it, "" where it can."""

    name: str
    about: str
    cases: tuple[Case, ...] = ()
    without: tuple[Case, ...] = ()
    not_run: Callable[[], str] = str


def faulty(kind: str, rank: int, phase: Phase = Phase.CALL, **more: Any) -> Case:
    """A rank with a defect in a chunk's work."""
    return Case(
        injected=f"{kind} on rank {rank}",
        faults=fault(kind, phase, rank),
        rank=rank,
        struck=(rank, phase),
        bound_s=KILL_BOUND_S,
        **more,
    )


# Every phase once with each signal, the ranks in turn; `make prove` has all of them.
KILLED = (
    (Phase.LAUNCH, 1),
    (Phase.GATE_1, 0),
    (Phase.RENDEZVOUS, 1),
    (Phase.LOAD, 0),
    (Phase.GATE_2A, 1),
    (Phase.WARM_UP, 0),
    (Phase.GATE_2B, 1),
    (Phase.LOAD_MEDIA, 0),
    (Phase.IDLE, 0),
    (Phase.ACCEPT, 1),
    (Phase.PAYLOAD, 0),
    (Phase.CALL, 1),
    (Phase.VERDICT, 0),
    (Phase.DELIVER, 0),
    (Phase.DRAIN, 0),
    (Phase.EXIT, 1),
)
STOPPED = tuple((phase, 0 if phase in NOT_ENTERED else 1 - rank) for phase, rank in KILLED)
COMPILED = {"GENLOCK_COMPILE": "aot_eager"}  # it has the bits of none
SIGNALLED = {  # kind -> what is said of it, exit code, seconds
    "kill": ("was killed by SIGKILL", 11, KILL_BOUND_S),
    "stop": ("has been stopped for", 12, STOP_BOUND_S),
}


def signalled(kind: str, phase: Phase, rank: int) -> Case:
    says, code, bound_s = SIGNALLED[kind]
    return Case(
        injected=f"{kind} rank {rank} in {phase}",
        expected=f"rank {rank} named within {bound_s:g} s, nothing left",
        faults=fault(kind, phase, rank),
        code=code,
        rank=rank,
        says=rf"rank {rank} {says}(.|\n)*in phase {phase}",
        struck=(rank, phase),
        bound_s=bound_s,
    )


def other_settings() -> dict[str, str]:
    """Of a rank that differs from its defaults in every setting that all ranks must share, as variables."""
    others = {}
    for option in options():
        alone = option.name in ("model", "topology", "mesh", "plan", "guards_off")  # with another, it is another run
        if option.parity is not Parity.ALL_RANKS or alone:
            continue
        if option.kind is bool:
            others[option.variable] = str(int(not option.default))
        elif option.kind is int:
            others[option.variable] = "7"
        else:
            others[option.variable] = next(
                (c for c in option.choices if c not in (option.default, "cuda")), OTHER_FAULTS
            )
    return others


OTHER_FAULTS = fault("kill", Phase.CALL, 0)  # of the other rank
ODD = other_settings()
ODD_KEYS = r"(.|\n)*".join(f"setting.{name}" for name in sorted(v.removeprefix("GENLOCK_").lower() for v in ODD))

ANTI_STRANDING = Drill(
    name="anti-stranding",
    about="what cannot be sent is refused before anybody waits for it (BT-1, OM-01, OM-02)",
    cases=(
        Case(
            injected="five envelopes that cannot be packed, checked or digested",
            expected="prepare names the field; no frame left; the next chunk runs",
            scene="anti-stranding",
            code=0,
        ),
    ),
    without=(
        Case(
            injected="rank 0 fails after its GO, and goes on as if nothing were",
            expected="ranks stand in the broadcast until D",
            scene="stranded",
            code=ANY_FAILURE,
            struck=(1, Phase.PAYLOAD),
            least_s=HANG_S,
            bound_s=STOP_BOUND_S,
        ),
    ),
)
CALL_COUNT = Drill(
    name="call-count",
    about="generator calls other than the plan's (BT-2, OM-03)",
    cases=(
        Case(
            injected="expected calls +1 and -1 in an envelope",
            expected="prepare names the field; the next chunk runs",
            scene="call-count",
            code=0,
        ),
        *(
            faulty(kind, rank, expected="refused before its first collective, the odd rank named", says="GL-CALL-01")
            for kind, rank in (("skip_call", 0), ("skip_call", 1), ("extra_call", 0), ("extra_call", 1))
        ),
    ),
    without=(
        Case(
            injected="extra_call on rank 1, nobody counts",
            expected="rank 1 stands in a sum until D",
            faults=fault("extra_call", Phase.CALL, 1),
            guards_off="call_count,plan,ledger",
            code=12,
            struck=(1, Phase.CALL),
            least_s=HANG_S,
            bound_s=STOP_BOUND_S,
        ),
    ),
)
FLAG_MISMATCH = Drill(
    name="flag-mismatch",
    about="a setting or a back end that differs on one rank (BT-3, OM-04, OM-05, C-04)",
    cases=(
        Case(
            injected="every setting that ranks must share differs on rank 1",
            expected="gate 1 ends the start with the table",
            of_rank={1: ODD},
            code=13,
            says=f"GL-GATE-01(.|\n)*{ODD_KEYS}",
        ),
        Case(
            injected="rank 1 resolves another back end",
            expected="gate 2a ends the start with the table",
            faults=fault("other_backend", Phase.LOAD, 1),
            code=13,
            rank=0,
            says=r"GL-GATE-01: gate 2a(.|\n)*deterministic",
        ),
    ),
    without=(
        Case(
            injected="rank 1 computes in bfloat16, no gate compares",
            expected="it hangs or aborts in a collective, or sums bytes that are no numbers",
            of_rank={1: {"GENLOCK_DTYPE": "bfloat16"}},
            guards_off="gates,weights",
            code=ANY_FAILURE,
        ),
    ),
)
STALE_EPOCH = Drill(
    name="stale-epoch",
    about="results that come after a hard cut (BT-4, OM-09)",
    cases=(
        Case(
            injected="results held back across one cut, and across two in a row",
            expected="dropped by epoch, counted, never decoded; the stream goes on",
            scene="stale-epoch",
            code=0,
        ),
    ),
    without=(
        Case(
            injected="a result held back across a cut, nobody looks at its epoch",
            expected="the old prompt's pictures are shown after the cut",
            scene="stale-shown",
            code=0,
            says=r"the first pictures after the cut are those of the old prompt: (?!0\.0)",
            harm=True,
        ),
    ),
)

CATALOGUE: tuple[Drill, ...] = (
    ANTI_STRANDING,
    CALL_COUNT,
    FLAG_MISMATCH,
    STALE_EPOCH,
    Drill(
        name="wrong-group",
        about="a collective on another group, strided, of another shape (OM-08)",
        cases=tuple(
            faulty(kind, 1, expected="refused before the back end, by name", says=f"GL-COLL-01(.|\n)*{says}")
            for kind, says in (
                ("sum_other_group", "no member of the group"),
                ("sum_strided", "not contiguous"),
                ("sum_other_shape", "sum_partial of 863 elements"),
            )
        ),
    ),
    Drill(
        name="second-caller",
        about="a collective from a thread that does not own the mesh (H01, H28)",
        cases=(faulty("sum_other_thread", 1, expected="refused before the back end, by name", says="'second caller'"),),
    ),
    Drill(
        name="ad-hoc-broadcast",
        about="a collective outside the plan (OM-06)",
        cases=(faulty("sum_unplanned", 1, expected="refused: no plan is in force", says="no plan is in force"),),
    ),
    Drill(
        name="leader-refuses",
        about="an envelope that only the leader finds wrong (OM-07, FM-23)",
        cases=(
            Case(
                injected="rank 0 refuses what the workers would accept",
                expected="ERROR to all, followers leave, exit code 10",
                faults=fault("refuse", Phase.ACCEPT, 0),
                rank=0,
                says="GL-WIRE-01: seed is refused",
            ),
            Case(
                injected="rank 1 refuses what rank 0 sent",
                expected="nobody enters the broadcast, rank 1 and the field named",
                faults=fault("refuse", Phase.ACCEPT, 1),
                rank=1,
                says="GL-MESH-02: rank 1: refuses: (.|\n)*seed is refused",
            ),
        ),
    ),
    Drill(
        name="missing-context",
        about="a recompute without its context, a context without its recompute (OM-10, FM-06, FM-15)",
        cases=(
            Case(
                injected="no context for a recompute; the context of the chunk before a cut",
                expected="refused by name, no fallback; the next chunk runs",
                scene="missing-context",
                code=0,
            ),
        ),
    ),
    *(
        Drill(
            name=name,
            about=f"{what} changes on one rank after receipt ({ids})",
            cases=(
                faulty(
                    kind,
                    1,
                    expected=f"the verdict names rank 1 and {column}; not delivered",
                    says=f"GL-MESH-03(.|\n)*rank 1: {column}",
                    video=False,
                ),
            ),
            without=(
                Case(
                    injected=f"{kind} on rank 1, nobody looks",
                    expected="a wrong picture, delivered, and exit code 0",
                    faults=fault(kind, Phase.CALL, 1),
                    guards_off=f"{column},outputs",
                    code=0,
                    video=True,
                ),
            ),
        )
        for name, kind, column, what, ids in (
            ("input-drift", "change_input", "inputs", "an input", "OM-11, FM-11"),
            ("weight-drift", "change_weight", "weights", "a weight", "OM-12, FM-12"),
            ("kv-drift", "change_kv", "kv", "a cached key", "FM-13, H17"),
        )
    ),
    Drill(
        name="noise-drift",
        about="a worker that prepares its own chunk makes one value of it otherwise (OM-11, FM-11)",
        cases=tuple(
            faulty(
                kind,
                1,
                expected=f"the shadow check names rank 1 and {tensor} before a generator call"
                if bring_up
                else "the digest of what rank 1 prepared is another; not delivered",
                variables={"GENLOCK_PLAN": plan, "GENLOCK_BRING_UP": str(bring_up)},
                says="GL-MESH-03(.|\n)*" + (f"{tensor}: what this rank prepared" if bring_up else "prepared: "),
                video=False,
            )
            for kind, tensor, plan, bring_up in (
                ("change_noise", "noise", "v0_full_pipeline", 1),
                ("change_anchor", "context", "v1b_latents_override", 1),
                ("change_noise", "noise", "v1a_context_override", 0),
            )
        ),
    ),
    Drill(
        name="swapped-collectives",
        about="two sums of one shape in another order on one rank (fact 3)",
        cases=(faulty("sums_swapped", 1, expected="refused at the door, by site", says="GL-COLL-01(.|\n)*cross_attn"),),
        without=(
            Case(
                injected="sums_swapped on rank 1, the door takes anything",
                expected="the ledger differs in the same chunk's verdict",
                faults=fault("sums_swapped", Phase.CALL, 1),
                guards_off="plan",
                says="GL-MESH-03(.|\n)*ledger",
            ),
        ),
    ),
    Drill(
        name="replay",
        about="frames that do not follow from what was sent before",
        cases=tuple(
            Case(
                injected=injected,
                expected="refused by its first differing field, call_id; cache untouched",
                scene=scene,
                rank=1,
                says="GL-MESH-02(.|\n)*GL-WIRE-02(.|\n)*call_id is",
            )
            for scene, injected in (
                ("duplicate", "the last frame once more"),
                ("regress", "a frame from two chunks ago"),
                ("skip", "the next frame but one, as where two are swapped"),
            )
        ),
    ),
    Drill(
        name="kill",
        about="SIGKILL in every phase (OM-13)",
        cases=tuple(signalled("kill", phase, rank) for phase, rank in KILLED),
    ),
    Drill(
        name="stop",
        about="SIGSTOP in every phase",
        cases=tuple(signalled("stop", phase, rank) for phase, rank in STOPPED),
    ),
    Drill(
        name="orphan",
        about="the supervisor is killed, or stopped and continued (OM-13)",
        cases=(
            Case(
                injected="SIGKILL to the supervisor",
                expected=f"all ranks gone within {GONE_BOUND_S:g} s, nothing printed",
                words=("generate", *ENDLESS),
                strike=kill_supervisor,
                code=-9,
                bound_s=GONE_BOUND_S,
            ),
            Case(
                injected="SIGSTOP to the supervisor for longer than D, then SIGCONT and SIGTERM",
                expected="the stream goes on, then drains; the video is whole",
                words=("generate", *ENDLESS),
                strike=stop_supervisor,
                code=0,
                video=True,
            ),
        ),
    ),
    Drill(
        name="exhaustion",
        about="no disk, no memory, no files",
        cases=(
            Case(
                injected="the video's disk is full",
                expected="one line names the file; workers released",
                words=("generate", *ENDLESS),
                strike=fill_disk,
                code=5,
                says="GL-IO-01: .*out.mp4",
            ),
            Case(
                injected="rank 1 gets no memory while it loads",
                expected="rank 1 named, others released",
                faults=fault("no_memory", Phase.LOAD, 1),
                code=14,
                rank=1,
                says="GL-MEM-01",
            ),
            Case(
                injected="rank 1 can open no file while it loads",
                expected="rank 1 named, others released",
                faults=fault("no_files", Phase.LOAD, 1),
                code=5,
                rank=1,
                says="too many open files",
            ),
        ),
    ),
    Drill(
        name="slow-viewer",
        about="a reader that never reads",
        not_run=lambda: "there are no viewers yet: they come with the live page",
    ),
    Drill(
        name="cut-link",
        about="the line between two hosts: lost, refused, down; each direction, each use of it; an outage of 3 s",
        not_run=can_make_hosts,
        cases=(
            *(
                Case(
                    injected=injected,
                    expected="both ranks end within D + 3 s, each of its own",
                    words=("generate", *ENDLESS),
                    hosts=True,
                    strike=partial(on_line, strike=strike),
                    code=ANY_FAILURE,
                    says=r"GL-(RANK-02|LINK-0[12])",
                    bound_s=STOP_BOUND_S,
                    video=False,
                )
                for injected, strike in (
                    ("what rank 0 sends is lost", partial(TwoHosts.cut, sender=0)),
                    ("what rank 1 sends is lost", partial(TwoHosts.cut, sender=1)),
                    ("what rank 0 sends is refused", partial(TwoHosts.refuse, sender=0)),
                    ("the control connections alone are lost", TwoHosts.lose_control),
                    ("all but the control connections is lost", TwoHosts.lose_mesh),
                    ("rank 1's end of the line goes down", partial(TwoHosts.take_down, rank=1)),
                )
            ),
            Case(
                injected="nothing arrives for 3 s, with D = 8 s",
                expected="it heals, and the video is whole",
                words=("generate", *SHORT[:2], "--seconds", "40"),
                hosts=True,
                variables={"GENLOCK_DEADLINE": "8"},
                strike=partial(outage, seconds=3.0),
                code=0,
                video=True,
            ),
        ),
    ),
    Drill(
        name="graph-break",
        about="a block that does not compile whole (C-02)",
        cases=(
            Case(
                injected="a break in a block of every rank",
                expected="ended in warm-up, the break named",
                faults=";".join(fault("graph_break", Phase.LOAD, rank) for rank in (0, 1)),
                variables=COMPILED,
                code=13,
                says="GL-GRAPH-01: a block does not compile whole",
            ),
        ),
    ),
    Drill(
        name="asymmetric-compile",
        about="graphs that are not the same on every rank (C-01, C-03, H13)",
        cases=(
            Case(
                injected="a break in a block of rank 1 alone",
                expected="ended in warm-up, rank 1 named",
                faults=fault("graph_break", Phase.LOAD, 1),
                variables=COMPILED,
                code=13,
                rank=1,
                says="GL-GRAPH-01: a block does not compile whole",
            ),
            Case(
                injected="a block of rank 1 has a graph of its own",
                expected="gate 2b ends the start with the table",
                faults=fault("other_graph", Phase.LOAD, 1),
                variables=COMPILED,
                code=13,
                says=r"GL-GATE-01: gate 2b(.|\n)*graphs",
            ),
        ),
    ),
    Drill(
        name="overlap",
        about="queue depths 1 to 4, a serial run planted (O-01, O-02, O-03)",
        not_run=lambda: "nothing overlaps in solo and tp; it comes with the pipeline",
    ),
)
