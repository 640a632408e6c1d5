"""Every tripwire there is, as one table: what it holds off, where it looks, how often, what turns it, what it costs.

The table is read by `genlock doctor`, and by the tests, which hold each row to the code, the crosswalk and a test that
trips it. Nothing here checks anything. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from genlock.settings import Guard, Settings, guards_off

COSTS = Path(__file__).with_name("tripwire_costs.json")  # written by `benchmarks/tripwires`, as it measures them


class Cadence(StrEnum):
    """When a tripwire looks."""

    START = "at the start"
    CHUNK = "every chunk"
    COLLECTIVE = "every collective"
    TURN = "a part every chunk, in turn"
    ROUND = "every check_every chunks"
    BRING_UP = "in bring-up mode"
    ALWAYS = "all the time"


THINNED = (Cadence.TURN, Cadence.ROUND)
BRING_UP = "GENLOCK_BRING_UP=1: for a new machine or a hunt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of them. holds_off: failure modes and hazards of the crosswalk. code: of the error that it ends with. place:
    file and function that look first, and raise that error; where a row has the name of a column of the verdict, it
    is raised where verdicts are compared. shown_by: a test or a drill that trips it. guard: the word that leaves it
    off, None where nothing does. alone: whether it stands where there is one rank, too. cost: its name among the
    measured ones, "" where it has none of its own in a chunk; that of a message's own checks has its packing in it."""

    name: str
    holds_off: str
    code: str
    place: str
    cadence: Cadence
    shown_by: str
    guard: Guard | None = None
    alone: bool = False
    cost: str = ""


TRIPWIRES = (
    Row(
        name="launch",
        holds_off="H07, H09, H10, H11",
        code="GL-LAUNCH-01",
        place="genlock/fabric/connection.py:_introduce",
        cadence=Cadence.START,
        shown_by="tests/engine/test_mesh.py::test_a_wrong_key_lets_nobody_in",
    ),
    Row(
        name="rooms of the plan",
        holds_off="FM-01, H08",
        code="GL-PLAN-01",
        place="genlock/engine/mesh_rank.py:check_loaded",
        cadence=Cadence.START,
        shown_by="tests/engine/test_ladder.py::test_a_worker_has_what_its_plan_loads_and_no_more",
    ),
    Row(
        name="gates",
        holds_off="FM-01, FM-03, H13, H14, H23, H24",
        code="GL-GATE-01",
        place="genlock/fabric/gates.py:GateKeeper.hold",
        cadence=Cadence.START,
        shown_by="genlock drill flag-mismatch",
        guard=Guard.GATES,
    ),
    Row(
        name="who comes to a gate",
        holds_off="H11, H21",
        code="GL-GATE-02",
        place="genlock/fabric/gates.py:GateKeeper._missed",
        cadence=Cadence.START,
        shown_by="tests/engine/test_mesh.py::test_a_rank_that_does_not_come_is_named",
    ),
    Row(
        name="weights against the reference",
        holds_off="FM-11, H20",
        code="GL-GATE-01",
        place="genlock/engine/reference.py:hold_to_reference",
        cadence=Cadence.START,
        shown_by="tests/engine/test_reference.py::test_the_first_start_keeps_it_and_the_next_is_held_to_it",
        guard=Guard.WEIGHTS,
    ),
    Row(
        name="device",
        holds_off="H07",
        code="GL-DEV-01",
        place="genlock/fabric/groups.py:device_of",
        cadence=Cadence.START,
        shown_by="tests/fabric/test_groups.py::test_ranks_take_devices_in_turn",
        alone=True,
    ),
    Row(
        name="graphs",
        holds_off="H13, H33",
        code="GL-GRAPH-01",
        place="genlock/generator/compiled.py:graphs_whole",
        cadence=Cadence.START,
        shown_by="genlock drill graph-break",
    ),
    Row(
        name="envelope",
        holds_off="FM-04, FM-06, FM-07, H19, H32",
        code="GL-WIRE-01",
        place="genlock/wire/prepare.py:prepare",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_mutations.py::test_the_sender_names_the_wrong_field",
        alone=True,
        cost="prepare",
    ),
    Row(
        name="frame",
        holds_off="FM-01, FM-07, FM-08, H30",
        code="GL-WIRE-04",
        place="genlock/wire/header.py:open_frame",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_fuzz.py::test_no_wrong_frame_is_taken_and_the_first_wrong_field_is_named",
        cost="frame",
    ),
    Row(
        name="order of frames",
        holds_off="FM-10, FM-17, H12",
        code="GL-WIRE-02",
        place="genlock/wire/lifecycle.py:accept",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_mutations.py::test_a_wrong_id_is_named",
        alone=True,
    ),
    Row(
        name="epoch",
        holds_off="FM-10, OM-09",
        code="GL-WIRE-02",
        place="genlock/wire/lifecycle.py:_compare_stamp",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_mutations.py::test_a_reset_and_its_epoch_belong_together",
        guard=Guard.EPOCH,
        alone=True,
        cost="epoch",
    ),
    Row(
        name="acceptance",
        holds_off="FM-04, FM-23, OM-07",
        code="GL-MESH-02",
        place="genlock/fabric/channel.py:_refused",
        cadence=Cadence.CHUNK,
        shown_by="tests/engine/test_mesh.py::test_a_frame_that_a_worker_refuses_is_entered_by_nobody",
    ),
    Row(
        name="payload",
        holds_off="FM-08, H30",
        code="GL-WIRE-03",
        place="genlock/wire/prepare.py:check_payload",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_codec.py::test_any_changed_byte_of_a_payload_is_refused",
        cost="payload",
    ),
    Row(
        name="plan",
        holds_off="FM-03, FM-08, FM-22, H01, H09, H28, OM-05, OM-06, OM-08",
        code="GL-COLL-01",
        place="genlock/fabric/collectives.py:Mesh._sum",
        cadence=Cadence.COLLECTIVE,
        shown_by="tests/fabric/test_collectives.py::test_nothing_passes_outside_a_plan",
        guard=Guard.PLAN,
        cost="plan",
    ),
    Row(
        name="partials",
        holds_off="FM-11",
        code="GL-COLL-01",
        place="genlock/fabric/collectives.py:Mesh._sum",
        cadence=Cadence.BRING_UP,
        shown_by="tests/fabric/test_collectives.py::"
        "test_a_summand_that_is_not_finite_names_this_rank_and_site_in_strict_mode_only",
        guard=Guard.FINITE,
    ),
    Row(
        name="call_count",
        holds_off="FM-02, OM-03",
        code="GL-CALL-01",
        place="genlock/fabric/collectives.py:Mesh.begin_call",
        cadence=Cadence.CHUNK,
        shown_by="tests/engine/test_mesh.py::test_a_call_that_is_not_the_plans_is_refused_before_its_first_collective",
        guard=Guard.CALL_COUNT,
        cost="call_count",
    ),
    Row(
        name="counter of calls",
        holds_off="FM-02",
        code="GL-CALL-01",
        place="genlock/generator/sampler.py:CallCounter.begin",
        cadence=Cadence.CHUNK,
        shown_by="tests/generator/test_stream.py::test_a_call_that_the_plan_does_not_have_next_is_refused",
        alone=True,
    ),
    Row(
        name="cache",
        holds_off="FM-14, FM-15, FM-16, FM-18",
        code="GL-CACHE-01",
        place="genlock/generator/window.py:span_of_chunk",
        cadence=Cadence.CHUNK,
        shown_by="tests/generator/test_stream.py::test_a_pass_without_its_context_is_refused",
        alone=True,
    ),
    Row(
        name="finite",
        holds_off="FM-11",
        code="GL-NUM-01",
        place="genlock/engine/solo.py:check_finite",
        cadence=Cadence.CHUNK,
        shown_by="tests/engine/test_columns.py::test_what_is_not_finite_passes_only_where_that_is_off",
        guard=Guard.FINITE,
        alone=True,
        cost="finite",
    ),
    Row(
        name="verdict",
        holds_off="FM-12, FM-14, H18",
        code="GL-MESH-03",
        place="genlock/wire/verdict.py:compare",
        cadence=Cadence.CHUNK,
        shown_by="tests/wire/test_verdict.py::test_a_cause_is_named_before_what_follows_from_it",
        cost="verdict",
    ),
    Row(
        name="what a worker prepared",
        holds_off="FM-01, FM-12",
        code="GL-MESH-03",
        place="genlock/wire/verdict.py:compare",
        cadence=Cadence.CHUNK,
        shown_by="genlock drill noise-drift",
    ),
    Row(
        name="shadow of an envelope",
        holds_off="FM-01, FM-12",
        code="GL-MESH-03",
        place="genlock/stage0/events.py:OwnStage0._hold",
        cadence=Cadence.BRING_UP,
        shown_by="genlock drill noise-drift",
    ),
    Row(
        name="ledger",
        holds_off="FM-02, FM-03",
        code="GL-MESH-03",
        place="genlock/fabric/ledger.py:Ledger.note",
        cadence=Cadence.COLLECTIVE,
        shown_by="genlock drill swapped-collectives",
        guard=Guard.LEDGER,
        cost="ledger",
    ),
    Row(
        name="inputs",
        holds_off="FM-12, FM-17, OM-11",
        code="GL-MESH-03",
        place="genlock/engine/columns.py:Columns.finish",
        cadence=Cadence.CHUNK,
        shown_by="tests/engine/test_mesh.py::test_a_value_that_changed_on_one_rank_names_rank_and_column",
        guard=Guard.INPUTS,
        cost="inputs",
    ),
    Row(
        name="weights",
        holds_off="FM-11, H20, OM-12",
        code="GL-MESH-03",
        place="genlock/engine/columns.py:Columns._as_loaded",
        cadence=Cadence.TURN,
        shown_by="tests/engine/test_mesh.py::test_a_value_that_changed_on_one_rank_names_rank_and_column",
        guard=Guard.WEIGHTS,
        cost="weights",
    ),
    Row(
        name="kv",
        holds_off="FM-13, H17",
        code="GL-MESH-03",
        place="genlock/generator/slot_digests.py:SlotDigests.changed",
        cadence=Cadence.ROUND,
        shown_by="tests/engine/test_mesh.py::test_a_value_that_changed_on_one_rank_names_rank_and_column",
        guard=Guard.KV,
        cost="kv",
    ),
    Row(
        name="outputs",
        holds_off="FM-11, FM-12, FM-13, H14",
        code="GL-MESH-03",
        place="genlock/engine/phase_b.py:PhaseB.run",
        cadence=Cadence.ROUND,
        shown_by="tests/engine/test_columns.py::test_inputs_and_outputs_are_looked_at_and_not_where_they_are_off",
        guard=Guard.OUTPUTS,
        cost="outputs",
    ),
    Row(
        name="links",
        holds_off="H27, H30",
        code="GL-LINK-01",
        place="genlock/fabric/connection.py:SocketConnection.receive",
        cadence=Cadence.ALWAYS,
        shown_by="tests/fabric/test_connection.py::test_half_a_frame_is_an_end_of_it_by_death_and_by_deadline",
    ),
    Row(
        name="links in time",
        holds_off="H27",
        code="GL-LINK-02",
        place="genlock/fabric/connection.py:SocketConnection.receive",
        cadence=Cadence.ALWAYS,
        shown_by="tests/fabric/test_connection.py::test_half_a_frame_is_an_end_of_it_by_death_and_by_deadline",
    ),
    Row(
        name="deadlines",
        holds_off="FM-02, H02, H21, H22",
        code="GL-RANK-02",
        place="genlock/fabric/liveness.py:Watch._judge",
        cadence=Cadence.ALWAYS,
        shown_by="genlock drill stop",
    ),
    Row(
        name="deaths",
        holds_off="OM-13, H02, H27",
        code="GL-RANK-01",
        place="genlock/engine/first_cause.py:from_outside",
        cadence=Cadence.ALWAYS,
        shown_by="genlock drill kill",
    ),
    Row(
        name="memory",
        holds_off="FM-23",
        code="GL-MEM-01",
        place="genlock/fabric/liveness.py:_told_as",
        cadence=Cadence.ALWAYS,
        shown_by="tests/fabric/test_liveness.py::test_an_error_of_any_kind_becomes_one_of_ours",
        alone=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a tripwire stands under some settings. looks: whether it does. off: whether it was left off on purpose.
    words: how often. remedy: what makes it look, or look more often; "" where there is nothing more to have."""

    looks: bool
    words: str
    off: bool = False
    remedy: str = ""


def standing(row: Row, settings: Settings) -> Standing:
    """On a mesh, or for one rank those that are `alone`. Raises UsageError where `guards_off` is no list of them."""
    if row.guard in guards_off(settings):
        strict = row.guard is Guard.FINITE and not settings.strict
        remedy = "set GENLOCK_STRICT=1" if strict else "unset GENLOCK_GUARDS_OFF"
        return Standing(looks=False, words="OFF", off=True, remedy=remedy)
    every = 1 if settings.bring_up else settings.check_every
    if row.cadence is Cadence.BRING_UP:
        words = Cadence.CHUNK if settings.bring_up else "in bring-up mode only"
        return Standing(looks=settings.bring_up, words=words, remedy="" if settings.bring_up else BRING_UP)
    if row.cadence in THINNED and every > 1:
        words = row.cadence.replace("check_every", str(every))
        return Standing(looks=True, words=words, remedy="GENLOCK_CHECK_EVERY=1: all of it in every chunk")
    return Standing(looks=True, words=Cadence.CHUNK if row.cadence in THINNED else row.cadence)


def costs() -> Mapping[str, float]:
    """Of each tripwire that was measured, its share of a chunk of the bundled model on two ranks; nothing where the
    figures are not there."""
    try:
        kept = json.loads(COSTS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {str(name): float(share) for name, share in kept["share_of_a_chunk"].items()}
