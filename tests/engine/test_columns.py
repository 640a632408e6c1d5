"""What a rank holds against a reference of its own, a chunk at a time: found when it is due, not where it is off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.generator.conftest import TOY, randomised
from tests.generator.test_stream import COLUMNS, ROWS, first_chunk, later_chunk

from genlock.engine.columns import Columns
from genlock.engine.phase_b import PhaseB
from genlock.errors import NotFinite
from genlock.fabric import collectives
from genlock.fabric.collectives import Mesh
from genlock.fabric.groups import Group
from genlock.generator.model import Generator
from genlock.generator.stream import Stream
from genlock.generator.window import recompute_policy
from genlock.settings import Guard
from genlock.wire.digest import tensor_digest
from genlock.wire.header import Header
from genlock.wire.kinds import Action, Plan
from genlock.wire.verdict import Verdict

PAYLOAD = torch.arange(64, dtype=torch.uint8)
NONE: frozenset[Guard] = frozenset()


class Alone:
    """In place of torch's collectives: a mesh of one."""

    def all_reduce(self, tensor: torch.Tensor, *, group: object) -> None:
        """A sum of one."""


@pytest.fixture
def phase_b(monkeypatch: pytest.MonkeyPatch) -> PhaseB:
    monkeypatch.setattr(collectives, "dist", Alone())
    return made()


def made() -> PhaseB:
    group = Group(handle=None, rank=0, size=1, backend="gloo")  # type: ignore[arg-type]
    door = Mesh(group, device=torch.device("cpu"))
    generator = Generator(TOY, door)
    generator.load_state_dict(randomised(Generator(TOY), seed=1).state_dict())
    stream = Stream(
        generator.requires_grad_(False),
        recompute_policy(),
        latent_height=ROWS,
        latent_width=COLUMNS,
        watch_slots=True,
    )
    return PhaseB(stream, door, Columns(stream, check_every=1))


def run(phase_b: PhaseB, call_id: int, *, payload: torch.Tensor = PAYLOAD) -> Verdict:
    """The verdict of chunk `call_id`, whose cache is carried on from the second on."""
    chunk = first_chunk() if call_id == 1 else later_chunk(3, call_id)
    header = Header(
        action=Action.INFER,
        plan=Plan.V1_GENERATOR_ONLY,
        call_id=call_id,
        chunk_index=call_id - 1,
        cache_epoch=1,
        manifest_bytes=0,
        payload_bytes=64,
        payload_digest=tensor_digest(PAYLOAD),
        manifest_digest=0,
    )
    return phase_b.run(header, chunk, payload)[1]  # type: ignore[arg-type]


def test_what_a_rank_is_made_of_generates_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constructor that made a collective would wait for ranks that are elsewhere: warm-up is a phase of its own."""

    def generated(*_: object, **__: object) -> None:
        pytest.fail("a generator call")

    monkeypatch.setattr(collectives, "dist", None)
    monkeypatch.setattr(Generator, "__call__", generated)
    assert made().stream.observed_calls == 0


def change_weight(phase_b: PhaseB) -> None:
    phase_b.stream.generator.blocks[1].ffn["0"].weight[0, 0] += 1.0


def change_kv(phase_b: PhaseB) -> None:
    phase_b.stream.cache.keys[1][0, 0, 0, 0] += 1.0


def looked(verdict: Verdict) -> dict[str, object]:
    return {name: getattr(verdict, name) for name in ("inputs", "weights", "kv")}


SOUND = {"inputs": True, "weights": True, "kv": True}


@pytest.mark.parametrize(("column", "change"), [("weights", change_weight), ("kv", change_kv)])
def test_a_change_between_two_chunks_is_found_and_not_where_it_is_off(
    phase_b: PhaseB, column: str, change: Callable[[PhaseB], None]
) -> None:
    assert looked(run(phase_b, 1)) == SOUND
    phase_b.leave_off(frozenset([Guard(column)]))
    change(phase_b)
    assert looked(run(phase_b, 2)) == {**SOUND, column: None}
    phase_b.leave_off(NONE)
    again = looked(run(phase_b, 3))
    assert again == {**SOUND, column: column == "kv"}, "a weight is held to what was loaded, a key to what was written"
    change(phase_b)
    assert looked(run(phase_b, 4)) == {**again, column: False}


def test_inputs_and_outputs_are_looked_at_and_not_where_they_are_off(phase_b: PhaseB) -> None:
    changed = PAYLOAD + 1
    first = run(phase_b, 1, payload=changed)
    assert (first.inputs, first.outputs is None) == (False, False)
    phase_b.leave_off(frozenset([Guard.INPUTS, Guard.OUTPUTS]))
    second = run(phase_b, 2, payload=changed)
    assert (second.inputs, second.outputs) == (None, None)


def test_what_is_not_finite_passes_only_where_that_is_off(phase_b: PhaseB) -> None:
    phase_b.stream.generator.head.head.weight[0, 0] = float("nan")
    with pytest.raises(NotFinite):
        run(phase_b, 1)
    phase_b.leave_off(frozenset([Guard.FINITE]))
    run(phase_b, 1)


def test_without_its_account_a_chunk_has_the_ledger_of_none(phase_b: PhaseB) -> None:
    noted = run(phase_b, 1).ledger
    phase_b.leave_off(frozenset([Guard.LEDGER]))
    assert run(phase_b, 2).ledger == run(phase_b, 3).ledger != noted
