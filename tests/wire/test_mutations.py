"""One wrong field, and that field is named: by the sender before a byte leaves, and by a receiver of a bad sender."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.generator.conftest import TOY
from tests.wire.conftest import CASES, POLICIES, ROWS, SIDE, Case, case, framed, infer_stamp, make, unchecked
from torch import Tensor

from genlock.errors import EnvelopeRefused, GenlockError, OutOfStep
from genlock.generator.window import Policy, Recache, Regime
from genlock.wire.codec import DTYPES
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.header import Stamp
from genlock.wire.kinds import Action, ContextSource, Plan
from genlock.wire.lifecycle import State, accept, begin, next_stamp
from genlock.wire.prepare import check_payload, prepare, receive
from genlock.wire.rules import agree

TENSORS = ("timesteps", "sigmas", "noise", "step_noise", "embeds", "context")
# Where two fields contradict each other and nothing else takes sides, the one asked about first is named.
ALSO = {
    # Before the payload, an id that changed without a reset is a reset that is missing.
    "embeds_id": ("reset_cross",),
    # Only R0 may come without context.
    "mesh_keeps-regime": ("context",),
}


def wrong_values(e: Envelope, name: str) -> Iterator[Any]:
    """Values that `name` cannot have while every other field stays as it is."""
    value = getattr(e, name)
    if name == "attention_bias":
        yield from (0.0, -0.5, 1.5, float("nan"), 1, None, "1.0")
    elif name == "seed":
        yield from (1.0, True, 2**64, None)
    elif name in TENSORS and value is not None:
        yield from wrong_tensors(name, value)
    elif name == "context":
        yield torch.zeros(max(1, e.window_frames), *e.noise.shape[1:])
    elif name == "pad_sink":
        yield from (0, 1, None)
    elif isinstance(value, bool):
        yield from (not value, int(value), None)
    elif isinstance(value, int):
        yield from (value + 1, value - 1, float(value), -1, None, str(value))
    elif name in ("height", "width"):
        yield from (value + SIDE, value + SIDE // 2)
    elif name == "plan":
        yield from [plan for plan in Plan if plan is not value]
    elif name == "cache_policy":
        yield from [policy for policy in Policy if policy is not value]
    elif name == "recache":
        yield from [kind for kind in (*Recache, None) if kind is not value]
    elif name == "regime":  # of an epoch's first chunk it is a choice
        yield from [
            regime for regime in (*Regime, None) if regime is not value and not (e.reset_kv and value and regime)
        ]


def wrong_tensors(name: str, tensor: Tensor) -> Iterator[Any]:
    yield from (None, 0.5, tensor.unsqueeze(0), tensor.double(), tensor.to_sparse())
    yield from (tensor.to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.int32))
    for dim in range(tensor.ndim):
        if (name, dim) == ("embeds", 1):
            continue  # the width is the model's: `check_model`
        yield from (tensor.narrow(dim, 0, size) for size in {0, tensor.shape[dim] - 1} if 0 <= size < tensor.shape[dim])
        yield (
            torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)
            if tensor.numel()
            else tensor.new_zeros([size + (other == dim) for other, size in enumerate(tensor.shape)])
        )


def other_rows(value: Tensor, right: Tensor) -> bool:
    return value.dtype == right.dtype and value.ndim == right.ndim and value.numel() > 0 and not value.is_sparse


EVERY = [(case, each.name) for case in CASES for each in fields(Envelope)]
NAMES = [f"{case}-{field}" for case, field in EVERY]


def names(error: GenlockError, case: str, field: str, value: Any = None) -> None:
    also = (*ALSO.get(field, ()), *ALSO.get(f"{case}-{field}", ()))
    if field == "embeds" and isinstance(value, Tensor) and other_rows(value, CASES[case].envelope.embeds):
        also = ("embeds_id",)  # the number of rows is said nowhere else: only the digest no longer fits
    assert error.field in (field, *also), str(error)
    assert error.field in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("case", "field"), EVERY, ids=NAMES)
def test_the_sender_names_the_wrong_field(case: str, field: str) -> None:
    right = CASES[case]
    for value in wrong_values(right.envelope, field):
        with pytest.raises(GenlockError) as refusal:
            prepare(replace(right.envelope, **{field: value}), right.state)
        names(refusal.value, case, field, value)


def can_be_sent(field: str, value: Any) -> bool:
    """Whether even a sender that checks nothing could write it: the rest is refused by the codec, or by its reader."""
    if isinstance(value, Tensor):
        return value.dtype in DTYPES.values() and not value.is_sparse
    return value is None or (field not in TENSORS and not (isinstance(value, float) and math.isnan(value)))


def arrive(envelope: Envelope, stamp: Stamp, state: State) -> Envelope:
    """The whole way of a chunk: frame, then payload."""
    frame, payload = framed(envelope, stamp)
    chunk = receive(frame, state).chunk
    assert chunk is not None
    return check_payload(chunk, payload)


@pytest.mark.parametrize(("case", "field"), EVERY, ids=NAMES)
def test_a_receiver_of_an_unchecked_sender_names_the_wrong_field(case: str, field: str) -> None:
    right = CASES[case]
    stamp = infer_stamp(right.envelope, right.state)
    assert arrive(right.envelope, stamp, right.state).seed == right.envelope.seed
    for value in wrong_values(right.envelope, field):
        if not can_be_sent(field, value):
            continue
        with pytest.raises(GenlockError) as refusal:
            arrive(unchecked(right.envelope, **{field: value}), stamp, right.state)
        names(refusal.value, case, field, value)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("field", "shift"), [(f, s) for f in ("call_id", "chunk_index", "cache_epoch") for s in (1, -1, 5)]
)
def test_a_wrong_id_is_named(case: str, field: str, shift: int) -> None:
    right = CASES[case]
    stamp = infer_stamp(right.envelope, right.state)
    wrong = replace(stamp, **{field: getattr(stamp, field) + shift})
    with pytest.raises(OutOfStep) as refusal:
        receive(framed(right.envelope, wrong)[0], right.state)
    assert refusal.value.field == field


@pytest.mark.parametrize("plan", [plan for plan in Plan if plan is not Plan.V1_GENERATOR_ONLY])
def test_another_plan_is_named(plan: Plan) -> None:
    right = CASES["steady"]
    stamp = replace(infer_stamp(right.envelope, right.state), plan=plan)
    with pytest.raises(OutOfStep, match="plan is"):
        receive(framed(right.envelope, stamp)[0], right.state)


@pytest.mark.parametrize("action", [action for action in Action if action is not Action.INFER])
def test_another_action_is_named(action: Action) -> None:
    right = CASES["steady"]
    stamp = replace(infer_stamp(right.envelope, right.state), action=action)
    with pytest.raises(GenlockError) as refusal:
        receive(framed(right.envelope, stamp)[0], right.state)
    assert refusal.value.field == "action"


def test_a_reset_and_its_epoch_belong_together() -> None:
    state = CASES["steady"].state
    cut, carried = make(state, cut=True), make(state)
    with pytest.raises(OutOfStep, match="a reset without its epoch"):
        accept(state, next_stamp(state, Action.INFER, reset_kv=False), cut)
    with pytest.raises(OutOfStep, match="an epoch without its reset"):
        accept(state, next_stamp(state, Action.INFER, reset_kv=True), carried)


@pytest.mark.parametrize(
    "state", [CASES["first"].state, begin(POLICIES["recompute"], max_rope_positions=ROWS)], ids=["warmed", "cold"]
)
def test_the_first_chunk_must_reset(state: State) -> None:
    with pytest.raises(OutOfStep) as refusal:
        accept(state, next_stamp(state, Action.INFER), CASES["steady"].envelope)
    assert refusal.value.field == "reset_kv"


FIRST, STEADY, NO_PASS = (CASES[name].envelope for name in ("first", "steady", "no_pass"))
ROLLING, FIRST_ROLLING = CASES["rolling"].envelope, CASES["first_rolling"].envelope
LONG = 1001  # steps: more than the sigma table has rows
CONTRADICTIONS: list[tuple[Envelope, dict[str, Any], str]] = [
    (FIRST, {"reset_cross": False}, "reset_cross"),
    (STEADY, {"expected_generator_calls": 3}, "expected_generator_calls"),
    (STEADY, {"expected_generator_calls": 5}, "expected_generator_calls"),
    (FIRST, {"expected_generator_calls": 2}, "expected_generator_calls"),
    (STEADY, {"start_frame": 4}, "start_frame"),
    (STEADY, {"context": None}, "context"),
    (STEADY, {"embeds": STEADY.embeds[:0]}, "embeds"),
    (NO_PASS, {"regime": Regime.R0A}, "regime"),
    (ROLLING, {"attention_bias": 0.5}, "attention_bias"),
    (
        FIRST_ROLLING,
        {"recache": Recache.SWITCH, "context": FIRST_ROLLING.noise, "expected_generator_calls": 5},
        "recache",
    ),
    (
        FIRST,
        {
            "timesteps": torch.ones(LONG),
            "sigmas": torch.ones(LONG),
            "step_noise": torch.zeros(LONG - 1, *FIRST.noise.shape),
            "expected_generator_calls": LONG,
        },
        "timesteps",
    ),
]


@pytest.mark.parametrize(("envelope", "changes", "field"), CONTRADICTIONS)
def test_an_envelope_that_contradicts_itself_is_never_made(
    envelope: Envelope, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(EnvelopeRefused) as refusal:
        replace(envelope, **changes)
    assert refusal.value.field == field


def test_a_tensor_resized_after_it_was_checked_is_found() -> None:
    state = CASES["steady"].state
    envelope = make(state)
    envelope.noise.resize_(2, *envelope.noise.shape[1:])
    with pytest.raises(EnvelopeRefused) as refusal:
        prepare(envelope, state)
    assert refusal.value.field == "noise"


def test_a_mesh_that_keeps_latents_still_wants_an_anchor() -> None:
    right = case("recompute", 2, source=ContextSource.MESH, regime=Regime.R0A)
    assert right.envelope.context is not None
    prepare(right.envelope, right.state)


def test_size_and_regime_belong_to_an_epoch() -> None:
    right: Case = CASES["steady"]
    frame = right.envelope.noise.shape[:2]
    tall = replace(
        right.envelope,
        height=2 * SIDE,
        noise=torch.zeros(*frame, 4, 2),
        step_noise=torch.zeros(2, *frame, 4, 2),
        context=torch.zeros(3, frame[1], 4, 2),
    )
    for field, envelope in (("height", tall), ("regime", replace(right.envelope, regime=Regime.R0))):
        with pytest.raises(OutOfStep, match="a change needs a cut") as refusal:
            prepare(envelope, right.state)
        assert refusal.value.field == field


def test_embeds_must_be_what_their_id_says() -> None:
    right = CASES["steady"]
    with pytest.raises(EnvelopeRefused) as refusal:
        prepare(replace(right.envelope, embeds=right.envelope.embeds + 1), right.state)
    assert refusal.value.field == "embeds_id"


@pytest.mark.parametrize(("field", "value"), [("timesteps", 1001.0), ("sigmas", 1.5), ("sigmas", float("nan"))])
def test_the_schedule_lies_on_the_table(field: str, value: float) -> None:
    right = CASES["steady"]
    wrong = getattr(right.envelope, field).clone()
    wrong[1] = value
    with pytest.raises(EnvelopeRefused) as refusal:
        prepare(replace(right.envelope, **{field: wrong}), right.state)
    assert refusal.value.field == field


def test_a_model_takes_its_own_sizes() -> None:
    e = CASES["steady"].envelope
    fitting = replace(TOY, text_dim=e.embeds.shape[1], text_len=e.embeds.shape[0], latent_channels=e.noise.shape[1])
    check_model(e, fitting)
    for changes, field in (
        ({"text_dim": fitting.text_dim + 1}, "embeds"),
        ({"text_len": fitting.text_len - 1}, "embeds"),
        ({"latent_channels": fitting.latent_channels + 1}, "noise"),
    ):
        with pytest.raises(EnvelopeRefused) as refusal:
            check_model(e, replace(fitting, **changes))
        assert refusal.value.field == field


def test_every_field_is_covered() -> None:
    touched = {field for _, field in EVERY for case in CASES.values() if list(wrong_values(case.envelope, field))}
    assert touched == {each.name for each in fields(Envelope)}


@given(st.integers(0, 9), st.integers(3, 6), st.data())
def test_who_stands_alone_is_named(value: int, count: int, data: st.DataObject) -> None:
    odd = data.draw(st.integers(0, count - 1))
    witnesses = [(f"field{i}", value + (i == odd)) for i in range(count)]
    with pytest.raises(EnvelopeRefused) as refusal:
        agree("the size", witnesses)
    assert refusal.value.field == f"field{odd}"
    assert agree("the size", [(name, value) for name, _ in witnesses]) == value
