"""Faults planted on purpose in a chunk's work: what a rank with a defect would do. Never there in a normal run.

Stops and kills are the watchdog's to strike, refusals the worker's; here is what changes the calls and the values.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from genlock.generator.sampler import Call
from genlock.generator.stream import ChunkInputs, OnCall, Stream
from genlock.settings import FaultKind


def plant(
    faults: tuple[FaultKind, ...], stream: Stream, inputs: ChunkInputs, on_call: OnCall | None
) -> tuple[ChunkInputs, OnCall | None]:
    """The chunk as this rank will run it."""
    calls = inputs.expected_generator_calls
    if FaultKind.SKIP_CALL in faults and inputs.do_recompute:
        inputs = cast("ChunkInputs", _Altered(inputs, do_recompute=False, expected_generator_calls=calls - 1))
    if FaultKind.EXTRA_CALL in faults:
        inputs = cast("ChunkInputs", _Altered(inputs, do_cache_write=True, expected_generator_calls=calls + 1))
    if FaultKind.CHANGE_INPUT in faults:
        inputs.noise.view(-1)[0] += 1.0
    if FaultKind.CHANGE_WEIGHT in faults:
        stream.generator.blocks[0].self_attn.v.weight[0, 0] += 1.0
    if FaultKind.CHANGE_KV in faults:
        on_call = _changing_kv(stream, on_call)
    return inputs, on_call


class _Altered:
    """Chunk inputs of which some say something else."""

    def __init__(self, inputs: ChunkInputs, **changes: Any) -> None:
        self._inputs, self._changes = inputs, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._inputs, name)


def _changing_kv(stream: Stream, on_call: OnCall | None) -> OnCall:
    """Changes one key of the first slot once it has been read, which is after the chunk's second call."""
    made = 0

    def after(call: Call, step: int, flow: Tensor, x0: Tensor | None) -> None:
        nonlocal made
        made += 1
        if made == 2:
            stream.cache.keys[0][0, 0, 0, 0] += 1.0
        if on_call is not None:
            on_call(call, step, flow, x0)

    return after
