"""Faults planted on purpose in a chunk's work: what a rank with a defect would do. Never there in a normal run.

Stops and kills are the watchdog's to strike, refusals the worker's; here is what changes the calls and the values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from genlock.fabric.collectives import Mesh
from genlock.generator.model import Generator
from genlock.generator.sampler import Call
from genlock.generator.stream import ChunkInputs, OnCall, Stream
from genlock.settings import FaultKind
from genlock.wire.envelope import Envelope


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
    for kind in faults:
        if kind in WRONG_SUMS:
            _sum_wrongly(WRONG_SUMS[kind], cast("Mesh", stream.generator.parallel))
    return inputs, on_call


def plant_in_load(faults: tuple[FaultKind, ...]) -> None:
    """What a rank has that resolves a back end in another way than its peers."""
    if FaultKind.OTHER_BACKEND in faults:
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())


def preparation_altered(faults: tuple[FaultKind, ...], envelope: Envelope) -> Envelope:
    """What a worker with a defect would have prepared by itself."""
    for kind, name in ((FaultKind.CHANGE_NOISE, "noise"), (FaultKind.CHANGE_ANCHOR, "context")):
        tensor: Tensor | None = getattr(envelope, name)
        if kind in faults and tensor is not None:
            changed = tensor.clone()
            changed.view(-1)[0] += 1.0
            envelope = replace(envelope, **{name: changed})  # type: ignore[arg-type]
    return envelope


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


def plant_in_blocks(faults: tuple[FaultKind, ...], generator: Generator) -> None:
    """A block that breaks every graph, or has another one than its like."""
    block = generator.blocks[0]
    right = block.feed_forward

    def breaking(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return right(x)

    def other(x: Tensor) -> Tensor:
        return right(x) + 0.0

    for kind, wrong in ((FaultKind.GRAPH_BREAK, breaking), (FaultKind.OTHER_GRAPH, other)):
        if kind in faults:
            vars(block)["feed_forward"] = wrong  # on this one block, in place of its class's method


Sum = Callable[[Tensor, str], Tensor]


def _unplanned(door: Mesh, right: Sum) -> Sum:
    """At once, before a pass has asked for anything."""
    right(torch.zeros(1, dtype=door.dtype), "planted")
    return right


def _in_other_thread(door: Mesh, right: Sum) -> Sum:  # noqa: ARG001 - as the others
    def wrong(partial: Tensor, site: str) -> Tensor:
        raised: list[BaseException] = []

        def attempt() -> None:
            try:
                right(partial, site)
            except BaseException as error:  # noqa: BLE001 - raised again below, where a caller stands
                raised.append(error)

        second = threading.Thread(target=attempt, name="second caller")
        second.start()
        second.join()
        for error in raised:
            raise error
        return partial

    return wrong


def _in_other_group(door: Mesh, right: Sum) -> Sum:
    def wrong(partial: Tensor, site: str) -> Tensor:
        door.group = replace(door.group, rank=-1)
        return right(partial, site)

    return wrong


def _strided(door: Mesh, right: Sum) -> Sum:  # noqa: ARG001 - as the others
    return lambda partial, site: right(partial.transpose(-1, -2), site)


def _short(door: Mesh, right: Sum) -> Sum:  # noqa: ARG001 - as the others
    return lambda partial, site: right(partial.flatten()[1:].clone(), site)


def _swapped(door: Mesh, right: Sum) -> Sum:  # noqa: ARG001 - as the others
    """Self-attention's and cross-attention's of a block have one shape: no back end could tell them apart."""
    return lambda partial, site: right(partial, site.replace(".self_attn.", ".cross_attn."))


WRONG_SUMS = {
    FaultKind.SUM_UNPLANNED: _unplanned,
    FaultKind.SUM_OTHER_THREAD: _in_other_thread,
    FaultKind.SUM_OTHER_GROUP: _in_other_group,
    FaultKind.SUM_STRIDED: _strided,
    FaultKind.SUM_OTHER_SHAPE: _short,
    FaultKind.SUMS_SWAPPED: _swapped,
}


def _sum_wrongly(how: Callable[[Mesh, Sum], Sum], door: Mesh) -> None:
    """The next partial sum of this rank is made in another way than the plan's, once."""
    right: Sum = door.sum_partial
    wrong = how(door, right)

    def once(partial: Tensor, site: str) -> Tensor:
        vars(door)["sum_partial"] = right
        return wrong(partial, site)

    vars(door)["sum_partial"] = once  # on this one door, in place of its class's method
