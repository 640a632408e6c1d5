"""A loss and its gradients as one recorded launch, where a GPU would wait for the host that launches kernel by kernel.

What is random or chosen is an input; the loss itself must be a function of inputs and weights alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .loop import Log

Inputs = dict[str, Tensor]
Measure = Callable[[Inputs], Tensor]
WARM = 3  # plain calls before the recording, for everything that is made on first use


class Lessons:
    """Calls `measure` on what `draw` gives, and leaves gradients in the parameters.

    `record` tries to make one launch of it. From then on the loss comes without a graph of its own, its gradients
    computed; they lie in the same memory every time and must not be dropped. Inputs must keep their sizes.
    """

    def __init__(self, draw: Callable[[], Inputs], measure: Measure) -> None:
        self.draw, self.measure = draw, measure
        self._replay: Callable[[], None] | None = None
        self._inputs: Inputs = {}
        self._loss: Tensor | None = None

    @property
    def recorded(self) -> bool:
        return self._replay is not None

    def __call__(self) -> Tensor:
        if self._replay is None or self._loss is None:
            return self.measure(self.draw())
        for name, value in self.draw().items():
            self._inputs[name].copy_(value)
        self._replay()
        return self._loss

    def record(self, modules: Iterable[nn.Module], log: Log) -> None:
        """Does nothing but tell the log where it cannot be done."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        begun = time.monotonic()
        try:
            self._record(parameters)
            log(event="recorded", setup_s=time.monotonic() - begun)
        except Exception as fault:  # noqa: BLE001 - whatever cannot be recorded, kernel by kernel remains
            self._replay, self._loss = None, None
            drop(parameters)
            log(event="failed", way="recorded", why=(str(fault).splitlines() or [repr(fault)])[0][:300])

    def _record(self, parameters: list[nn.Parameter]) -> None:
        inputs = {name: value.clone() for name, value in self.draw().items()}
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM):
                drop(parameters)
                self.measure(inputs).backward()
        torch.cuda.current_stream().wait_stream(aside)
        drop(parameters)
        graph = torch.cuda.CUDAGraph()
        # Other threads (of what several cards talk through) may ask their events while this one records.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self.measure(inputs)
            loss.backward()
        missing = sum(parameter.grad is None for parameter in parameters)
        if missing == len(parameters):
            raise RuntimeError("nothing was recorded")
        self._inputs, self._loss, self._replay = inputs, loss.detach(), graph.replay


def drop(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
