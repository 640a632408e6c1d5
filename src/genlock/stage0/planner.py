"""Stage 0 as one object: requests come in, envelopes go out, results come back.

`Planner` owns what must be owned: the requests that wait, the state after the last envelope that was sent, and the
plans that were made but not sent yet, which a cut may drop. All decisions are `chunk.plan_chunk`'s. One thread: who
serves people from others hands their requests over.

    F  latent frames     C, h, w  latent channels, rows, columns     T  pixel frames     H, W  pixel rows and columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from genlock.errors import OutOfStep, TimelineRefused
from genlock.generator.config import pixel_frames
from genlock.generator.window import Policy
from genlock.stage0.chunk import Planned, Sources, Stage0State, StreamSettings, begin_stage0, padded_encode, plan_chunk
from genlock.stage0.context import ContextWindow
from genlock.stage0.grid import ChunkGrid, Placement
from genlock.stage0.timeline import Agenda, Request, Timeline
from genlock.stage0.video_input import raw_steps
from genlock.wire.kinds import ContextSource, Regime
from genlock.wire.lifecycle import State, must_reset, rebase_due

WAITING_MAX = 100_000  # requests; a day of one a second


class Awaited(Enum):
    """What of the chunk in flight the next plan needs before it can be made."""

    NOTHING = "nothing"
    LATENTS = "latents"
    ANCHOR = "anchor"  # the pixel frame that the context begins with; see `ContextWindow.anchor_wants_latents`


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A request that waits: its number, and where it will fall if nothing is cut before."""

    number: int
    placement: Placement


class Planner:
    """Plans one stream.

    sender: rank 0's sending copy of the lifecycle at the start; afterwards every `plan` is given the current one.
    """

    def __init__(self, settings: StreamSettings, sources: Sources, sender: State) -> None:
        self.settings = settings
        self._sources = sources
        self._policy = sender.policy
        self._sent = begin_stage0(settings, sender)
        self._unsent: list[Planned] = []
        self._agenda = Agenda()
        self._submitted = 0

    @property
    def state(self) -> Stage0State:
        """After the newest plan, sent or not."""
        return self._unsent[-1].state if self._unsent else self._sent

    def submit(self, request: Request) -> Accepted:
        """Take a request, live or timed, or refuse it now: PromptRefused, TimelineRefused, VideoInputRefused."""
        return self.submit_timeline(Timeline(requests=(request,)))[0]

    def submit_timeline(self, timeline: Timeline) -> tuple[Accepted, ...]:
        """Take all requests of a timeline, or none. Raises as `submit`."""
        if len(self._agenda.waiting) + len(timeline.requests) > WAITING_MAX:
            raise TimelineRefused(f"more than {WAITING_MAX} requests wait", remedy="wait until some were served")
        self._check(timeline.requests)
        grid, start = self._grid(), self.state.start
        entries = list(enumerate(timeline.requests, self._submitted))
        self._submitted += len(entries)
        self._agenda = self._agenda.extended(entries)
        return tuple(
            Accepted(number=number, placement=grid.placement(grid.reach(start, request.at_s), request.at_s))
            for number, request in entries
        )

    def awaited(self, sender: State) -> Awaited:
        """What `plan` would miss now. Cautious: it may name latents that a plan turns out not to need."""
        window, due = self.state.context, self._due()
        if must_reset(sender) or any(request.cut for _, request in due):
            return Awaited.NOTHING
        if self._policy.policy is Policy.ROLLING:
            switch = self._policy.recache_on_prompt and (due or self.state.timeline.blend is not None)
            needed = bool(switch) or rebase_due(sender, self._policy.chunk_frames)
        else:
            kept = self.settings.regime is Regime.R0 and sender.context_source is ContextSource.MESH
            needed = self.settings.regime is not Regime.R1 and not kept
        if not needed:
            return Awaited.NOTHING
        if window.end != sender.start_abs:
            return Awaited.LATENTS
        return Awaited.NOTHING if window.has_anchor else Awaited.ANCHOR

    def frames_wanted(self, sender: State) -> int:
        """Pixel frames of a video input that the next chunk stands for."""
        later = pixel_frames(self._policy.chunk_frames, first=False)
        return min(later, self.settings.input_first) if must_reset(sender) else later

    def plan(self, sender: State, *, frames: Tensor | None = None, rebase: bool = False) -> Planned:
        """The next chunk, after all plans made so far. Arguments and errors: `chunk.plan_chunk`.

        `sender` is the lifecycle after the newest plan. A plan that throws has changed nothing.
        """
        planned = plan_chunk(
            self.state, sender, self.settings, self._sources, self._due(), frames=frames, rebase=rebase
        )
        self._unsent.append(planned)
        return planned

    def confirm(self, planned: Planned) -> None:
        """The oldest unsent plan was sent: its requests are served. Raises OutOfStep for any other."""
        if not self._unsent or self._unsent[0].envelope is not planned.envelope:
            raise OutOfStep("a plan was sent out of turn", field="chunk_index")
        self._sent = self._unsent.pop(0).state
        self._agenda = self._agenda.without(frozenset(receipt.number for receipt in planned.receipts))

    def drop(self) -> int:
        """Forget the plans that were not sent; their requests wait again. Returns how many plans there were."""
        count = len(self._unsent)
        self._unsent.clear()
        return count

    def absorb(self, latents: Tensor, pixels: Tensor | None, *, cache_epoch: int) -> None:
        """A chunk's result: clean latents [F, C, h, w] and its clamped pixels [T, 3, H, W], None if not decoded (yet).

        cache_epoch: of the envelope it answers. Raises OutOfStep for a result of an epoch that was left.
        """
        self._each_context(cache_epoch, lambda window: window.after_chunk(latents, pixels))

    def absorb_pixels(self, pixels: Tensor, *, cache_epoch: int) -> None:
        """More decoded frames [T, 3, H, W] of latents absorbed before. Raises as `absorb`."""
        self._each_context(cache_epoch, lambda window: window.after_pixels(pixels))

    def _each_context(self, cache_epoch: int, change: Callable[[ContextWindow], ContextWindow]) -> None:
        states = [self._sent, *(planned.state for planned in self._unsent)]
        if all(state.cache_epoch != cache_epoch for state in states):
            raise OutOfStep(f"a result of epoch {cache_epoch}, which was left", field="cache_epoch")
        changed = [
            replace(state, context=change(state.context)) if state.cache_epoch == cache_epoch else state
            for state in states
        ]
        self._sent = changed[0]
        self._unsent = [replace(planned, state=state) for planned, state in zip(self._unsent, changed[1:], strict=True)]

    def _grid(self) -> ChunkGrid:
        return self.settings.grid(self._policy.chunk_frames, video=self.state.video is not None)

    def _due(self) -> tuple[tuple[int, Request], ...]:
        served = frozenset(receipt.number for planned in self._unsent for receipt in planned.receipts)
        return self._agenda.without(served).due(self.state.start, self._grid())

    def _check(self, requests: Sequence[Request]) -> None:
        """Refuse now what would otherwise be refused when its chunk comes."""
        for request in requests:
            bias = request.attention_bias
            if bias is not None and bias != 1.0 and self._policy.policy is Policy.ROLLING:
                raise TimelineRefused(f"attention_bias {bias} under the rolling policy", remedy="leave it at 1")
            if request.strength is not None and not self.settings.warped:
                raw_steps(self.settings.steps, request.strength)
        encode = padded_encode(self._sources, self.settings.config)
        texts = [prompt.text for request in requests if request.prompts for prompt in request.prompts.prompts]
        for text in dict.fromkeys(texts):
            encode(text)
