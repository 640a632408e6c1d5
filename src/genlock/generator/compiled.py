"""A generator whose blocks are compiled, and the census of what came of it: every graph, and the collectives in it.

A block is handed its own layer's cache and weights, so one graph serves them all, and a stream has one for each shape
of pass. Inside a graph no rule of ours can look: the order of its collectives is therefore a fact of the start, listed
here as the graph is made, and held equal on all ranks before the first chunk. Knows no rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.fx import GraphModule

from genlock.errors import GraphRefused
from genlock.generator.model import Generator

COLLECTIVE = "_c10d_functional"  # the operators' namespace
WAIT = "wait_tensor"


class Census:
    """The graphs of one generator, in the order they were made, each as the list of its collectives.

    closed: whether one more is refused, as it is once a mesh has compared them.
    """

    def __init__(self, backend: str) -> None:
        self.backend, self.closed = backend, False
        self.graphs: list[str] = []

    @property
    def digest(self) -> int:
        """xxh3_128 of all graphs, in order."""
        return int(xxhash.xxh3_128_intdigest("\n".join(self.graphs).encode()))

    def manifest(self) -> dict[str, str | int]:
        """What must be equal on all ranks, by key."""
        return {"graphs": len(self.graphs), **{f"graph {number}": text for number, text in enumerate(self.graphs)}}

    def note(self, graph: GraphModule) -> None:
        """Raises GraphRefused where the census is closed."""
        found = ", ".join(_collectives(graph)) or "no collective"
        if self.closed:
            raise GraphRefused(f"a block is compiled anew after the start, for another shape: {found}")
        self.graphs.append(found)


def compile_blocks(generator: Generator, backend: str) -> Census:
    """From now on the blocks run compiled, whole, by one of torch's back ends. Parameters keep their names.

    A graph is made at the first pass of its shape: inside `graphs_whole`.
    """
    from torch._dynamo.backends.registry import lookup_backend  # noqa: PLC0415 - a second to load, for who compiles

    census = Census(backend)
    compiler = lookup_backend(backend)

    def listed(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        census.note(graph)
        compiled: Callable[..., Any] = compiler(graph, inputs)
        return compiled

    for block in generator.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=listed)
    generator.census = census
    return census


@contextmanager
def graphs_whole(census: Census | None) -> Iterator[None]:
    """Raises GraphRefused for a block that the compiler cannot take whole. None: nothing is compiled."""
    if census is None:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415 - loaded by who compiles

    try:
        yield
    except TorchDynamoException as error:
        refused = next((e for e in _chain(error) if isinstance(e, GraphRefused)), None)
        if refused is not None:
            raise refused from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GraphRefused(f"a block does not compile whole: {lines[0] if lines else type(error).__name__}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _collectives(graph: GraphModule) -> Iterator[str]:
    for node in graph.graph.nodes:
        target = str(node.target)
        if node.op == "call_function" and (COLLECTIVE in target or "all_reduce" in target) and WAIT not in target:
            held = node.meta.get("example_value", node.meta.get("val"))
            shape = f"{held.dtype} {list(held.shape)}" if isinstance(held, torch.Tensor) else "?"
            yield f"{target.rpartition('.')[2]} {shape.removeprefix('torch.')}"
