"""The census of a compiled generator: every graph that came of it, and the collectives in it.

Inside a graph no rule of ours can look: the order of its collectives is therefore a fact of the start, listed here as
the graph is made, and held equal on all ranks before the first chunk. Knows no rank.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import xxhash
from torch.fx import GraphModule

from genlock.errors import GraphRefused

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


def _collectives(graph: GraphModule) -> Iterator[str]:
    for node in graph.graph.nodes:
        target = str(node.target)
        if node.op == "call_function" and (COLLECTIVE in target or "all_reduce" in target) and WAIT not in target:
            held = node.meta.get("example_value", node.meta.get("val"))
            shape = f"{held.dtype} {list(held.shape)}" if isinstance(held, torch.Tensor) else "?"
            yield f"{target.rpartition('.')[2]} {shape.removeprefix('torch.')}"
