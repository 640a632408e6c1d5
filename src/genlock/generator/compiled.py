"""A generator whose blocks are compiled by one of torch's back ends, whole or not at all.

A block is handed its own layer's cache and weights, so one graph serves them all, and a stream has one for each shape
of pass. What is in the graphs, the census lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from genlock.errors import GraphRefused
from genlock.generator.census import Census
from genlock.generator.model import Generator

# Graphs of one process that dynamo is to keep, in place of its eight: a stream has one for each shape of pass, whose
# number the policy bounds. Both of a block's code, the second of all that were ever made.
GRAPHS_MAX, GRAPHS_EVER_MAX = 1024, 65536


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
    """Raises GraphRefused for a block that the compiler cannot take whole, or not once more. None: nothing is compiled.

    Dynamo's limits are those of this file inside: what is set of them elsewhere holds for the thread that set it.
    """
    if census is None:
        yield
        return
    from torch._dynamo import config, exc  # noqa: PLC0415 - loaded by who compiles

    try:
        with config.patch(recompile_limit=GRAPHS_MAX, accumulated_recompile_limit=GRAPHS_EVER_MAX):
            yield
    except exc.FailOnRecompileLimitHit as error:
        raise GraphRefused(
            f"a block needs a graph beside the {len(census.graphs)} it has, and torch refuses: its recompile limit"
        ) from error
    except exc.TorchDynamoException as error:
        refused = next((e for e in _chain(error) if isinstance(e, GraphRefused)), None)
        if refused is not None:
            raise refused from None
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GraphRefused(f"a block does not compile whole: {lines[0] if lines else type(error).__name__}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
