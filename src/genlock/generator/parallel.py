"""What the generator knows about other ranks: a rank, a size, and two sums.

Tensor parallelism is a small object handed to the model, which never hears of processes or groups. The set and the
order of collectives is therefore readable in one place: the calls of these two methods in `model.py`, listed there as
`sums_of_pass`. The stream says which pass they belong to before it makes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

TEXT = "text"  # the pass over a prompt's embedding: sums like a generator call's, and not counted as one


class Sum(NamedTuple):
    """One sum over ranks: the method's name, its site, and the elements of the tensor."""

    operation: str
    site: str
    numel: int


class TensorParallel(Protocol):
    """One rank's view of the mesh that shares a generator by heads and feed-forward columns.

    `site` names the place of the call in the model (layer and projection): a constant at its call.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def begin_call(self, call: str, sums: Sequence[Sum] | None, *, graphs: int = 0) -> None:
        """The sums that follow are these, and belong to this pass: a generator call's kind (`sampler.Call`), or
        TEXT. None where compiled graphs make them, out of sight; graphs: then the digest of what these hold."""
        ...

    def sum_partial(self, partial: Tensor, site: str) -> Tensor:
        """Sum of every rank's `partial` (any shape, model dtype): the product of a column-split projection."""
        ...

    def sum_squares(self, squares: Tensor, site: str) -> Tensor:
        """Sum of every rank's `squares` (float32): the statistic of a norm over a hidden vector split by heads."""
        ...


@dataclass(frozen=True, slots=True)
class Solo:
    """A mesh of one: both sums are the identity."""

    rank: int = 0
    size: int = 1

    def begin_call(self, call: str, sums: Sequence[Sum] | None, *, graphs: int = 0) -> None:
        pass

    def sum_partial(self, partial: Tensor, site: str) -> Tensor:  # noqa: ARG002 - the protocol's argument
        return partial

    def sum_squares(self, squares: Tensor, site: str) -> Tensor:  # noqa: ARG002 - the protocol's argument
        return squares


SOLO = Solo()
