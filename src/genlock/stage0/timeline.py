"""What is asked for now: requests with their times, and the state machine that turns them into one embedding a chunk.

Live requests and those of a file meet here. Everything is a value: the state goes in, a new state comes out, and a
step that was not sent is forgotten by keeping the old state. Knows no cache, no envelope and no text encoder (it is
handed one).

    L  rows of a padded embedding (text_len)        D  width of a row (text_dim)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from genlock.errors import PromptRefused, TimelineRefused
from genlock.stage0.blend import Method, between, blend_prompts, is_same
from genlock.stage0.grid import Boundary, ChunkGrid, Placement

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SEED = 2**53  # exact in every JSON reader; leaves room for the chunk's own offset
WHOLE_CHUNK = 1e-9  # chunks; a duration that is a whole number of chunks, written as a float, is that number


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise PromptRefused("the prompt is empty")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise TimelineRefused(f"weight {self.weight} of a prompt", remedy="give weights of 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPrompts:
    """Prompts shown together. Weights count relative to their sum; if all are 0 they count equally."""

    prompts: tuple[Prompt, ...]
    method: Method = Method.LINEAR

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptRefused("the list of prompts is empty")

    @classmethod
    def of(cls, text: str) -> WeightedPrompts:
        return cls(prompts=(Prompt(text=text),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """How long a change of prompt takes: in chunks or in seconds (rounded up to chunks), never both.

    Over k chunks the first still shows the old prompt and the k-th is wholly the new one; 0 and 1 are no transition.
    """

    chunks: int | None = None
    seconds: float | None = None
    method: Method = Method.LINEAR

    def __post_init__(self) -> None:
        if (self.chunks is None) == (self.seconds is None):
            raise TimelineRefused("a transition has one length", remedy="give either its chunks or its seconds")
        length = self.chunks if self.chunks is not None else self.seconds
        if length is None or not math.isfinite(length) or length < 0:
            raise TimelineRefused(f"a transition of {length}", remedy="give a length of 0 or more")

    def count(self, chunk_s: float) -> int:
        """Its length in chunks of `chunk_s` seconds."""
        if self.chunks is not None:
            return self.chunks
        return math.ceil((self.seconds or 0.0) / chunk_s - WHOLE_CHUNK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing asked for. Only what is given changes; at least one thing is.

    at_s: seconds from the start of the stream, None for as soon as possible. cut: start afresh (an empty cache; the
    running transition is dropped and the prompt applies at once). seed: from this chunk on. strength: of the change in
    video mode, 0 < strength <= 1. attention_bias: weight of the past, 0 < bias <= 1.
    """

    at_s: float | None = None
    prompts: WeightedPrompts | None = None
    transition: Transition | None = None
    cut: bool = False
    seed: int | None = None
    strength: float | None = None
    attention_bias: float | None = None

    def __post_init__(self) -> None:
        if self.at_s is not None and not (math.isfinite(self.at_s) and self.at_s >= 0):
            raise TimelineRefused(f"time {self.at_s} s")
        _check_numbers(self.seed, self.strength, self.attention_bias)
        if self.transition is not None and self.prompts is None:
            raise TimelineRefused("a transition without a prompt", remedy="say what to change to")
        if (self.prompts, self.seed, self.strength, self.attention_bias) == (None,) * 4 and not self.cut:
            raise TimelineRefused("a request that asks for nothing", remedy="give a prompt, a cut or a setting")


def words_of(request: Request) -> str:
    """What a request asks for, in a line."""
    parts = request.prompts.prompts if request.prompts is not None else ()
    shown = " + ".join(part.text if part.weight == 1 else f"{part.weight:g} x {part.text}" for part in parts)
    told = [shown] if shown else []
    told += [
        f"{name} {value:g}" for name in ("seed", "strength", "attention_bias") if (value := getattr(request, name))
    ]
    return f"{'cut' if request.cut else ''}{': ' if request.cut and told else ''}{', '.join(told)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Requests in the order of their times. Raises TimelineRefused if a time goes back."""

    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        latest = 0.0
        for request in self.requests:
            at_s = request.at_s or 0.0
            if at_s < latest:
                raise TimelineRefused(f"time {at_s} s comes after {latest} s")
            latest = at_s

    def placements(self, grid: ChunkGrid) -> tuple[Placement, ...]:
        """The chunk, frame and second at which each request takes effect, with the cuts asked for taken into account.

        A cut that the session makes by itself (a prompt change in video mode) moves what follows; its receipts say so.
        """
        placed = []
        start = Boundary()
        for request in self.requests:
            start = grid.reach(start, request.at_s)
            placed.append(grid.placement(start, request.at_s))
            start = replace(start, first=start.first or request.cut)
        return tuple(placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """Numbers that stay as they were last asked for; bounds as in `Request`."""

    seed: int
    strength: float
    attention_bias: float

    def __post_init__(self) -> None:
        _check_numbers(self.seed, self.strength, self.attention_bias)

    def after(self, request: Request) -> Controls:
        return Controls(
            seed=self.seed if request.seed is None else request.seed,
            strength=self.strength if request.strength is None else request.strength,
            attention_bias=self.attention_bias if request.attention_bias is None else request.attention_bias,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """rows: [L, D] float32, zero from `length` on. length: true rows (of a blend: its longest component's)."""

    rows: Tensor
    length: int


Encode = Callable[[str], Embedding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blend:
    """A transition that runs: `done` of its `chunks` have been shown."""

    source: Embedding
    target: Embedding
    method: Method
    chunks: int
    done: int = 0

    def shown(self) -> Embedding:
        """The embedding of its next chunk; the first is the source itself and the last the target itself."""
        t = self.done / (self.chunks - 1)
        if self.done == 0:
            return self.source
        if self.done == self.chunks - 1:
            return self.target
        return Embedding(
            rows=between(self.source.rows, self.target.rows, t, self.method),
            length=max(self.source.length, self.target.length),
        )

    def following(self) -> Blend | None:
        """What is left of it after its next chunk."""
        return replace(self, done=self.done + 1) if self.done + 1 < self.chunks else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimelineState:
    """Where the stream stands. asked: the prompts in force, or on their way in. embedding: what the last chunk used."""

    controls: Controls
    asked: WeightedPrompts | None = None
    embedding: Embedding | None = None
    blend: Blend | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What one chunk is asked to show.

    changed: the embedding is another one than the chunk before used. cut: asked for explicitly. prompt_switched: the
    prompt changed outside a transition. blending: a transition goes on after this chunk.
    """

    embedding: Embedding
    prompts: WeightedPrompts
    controls: Controls
    changed: bool
    cut: bool
    prompt_switched: bool
    blending: bool


def embed(prompts: WeightedPrompts, encode: Encode) -> Embedding:
    """The blended embedding of prompts shown together. Raises what `encode` raises (PromptRefused)."""
    parts = [encode(prompt.text) for prompt in prompts.prompts]
    rows = blend_prompts([part.rows for part in parts], [prompt.weight for prompt in prompts.prompts], prompts.method)
    return Embedding(rows=rows, length=max(part.length for part in parts))


def advance(
    state: TimelineState, requests: Sequence[Request], encode: Encode, *, chunk_s: float
) -> tuple[Asked, TimelineState]:
    """The next chunk: what it is asked to show, and the state after it.

    requests: those due at this chunk, in order. chunk_s: seconds of an ordinary chunk, for transitions given in
    seconds. Raises TimelineRefused if no prompt was ever given, PromptRefused for a prompt that cannot be encoded.
    """
    before = state.embedding
    cut = any(request.cut for request in requests)
    if cut:
        state = replace(state, embedding=None, blend=None)
    switched = False
    for request in requests:
        state = replace(state, controls=state.controls.after(request))
        if request.prompts is not None and (request.prompts != state.asked or state.embedding is None):
            state = _turn_to(state, request.prompts, request.transition, encode, chunk_s)
            switched = switched or state.blend is None
    prompts = state.asked
    if prompts is None:
        raise TimelineRefused("the stream has no prompt to start with", remedy="give a prompt at 0 s")
    shown = state.embedding or embed(prompts, encode)
    if state.blend is not None:
        shown = state.blend.shown()
    blend = state.blend.following() if state.blend is not None else None
    asked = Asked(
        embedding=shown,
        prompts=prompts,
        controls=state.controls,
        changed=shown is not before,
        cut=cut,
        prompt_switched=switched and shown is not before,
        blending=blend is not None,
    )
    return asked, replace(state, embedding=shown, blend=blend)


def _turn_to(
    state: TimelineState, prompts: WeightedPrompts, transition: Transition | None, encode: Encode, chunk_s: float
) -> TimelineState:
    """New prompts: at once, or as a transition from the embedding in use, which drops the one that runs."""
    target = embed(prompts, encode)
    chunks = transition.count(chunk_s) if transition is not None else 0
    if state.embedding is None or transition is None or chunks <= 1:
        return replace(state, asked=prompts, embedding=target, blend=None)
    if is_same(state.embedding.rows, target.rows):
        return replace(state, asked=prompts, blend=None)
    blend = Blend(source=state.embedding, target=target, method=transition.method, chunks=chunks)
    return replace(state, asked=prompts, blend=blend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agenda:
    """Requests that wait for their chunk, each with the number it was submitted under."""

    waiting: tuple[tuple[int, Request], ...] = field(default=())

    def extended(self, entries: Iterable[tuple[int, Request]]) -> Agenda:
        return Agenda(waiting=(*self.waiting, *entries))

    def without(self, numbers: frozenset[int]) -> Agenda:
        return Agenda(waiting=tuple(entry for entry in self.waiting if entry[0] not in numbers))

    def due(self, start: Boundary, grid: ChunkGrid) -> tuple[tuple[int, Request], ...]:
        """Those for the chunk at `start`: timed ones in the order of their times, then those that said no time."""
        ready = [entry for entry in self.waiting if grid.is_due(start, entry[1].at_s)]
        return tuple(sorted(ready, key=lambda entry: (_time_of(entry[1]), entry[0])))


def _time_of(request: Request) -> float:
    return math.inf if request.at_s is None else request.at_s


def _check_numbers(seed: int | None, strength: float | None, attention_bias: float | None) -> None:
    if seed is not None and not 0 <= seed <= LARGEST_SEED:
        raise TimelineRefused(f"seed {seed}", remedy=f"give a whole number from 0 to {LARGEST_SEED}")
    for name, share in (("strength", strength), ("attention_bias", attention_bias)):
        if share is not None and not 0 < share <= 1:
            raise TimelineRefused(f"{name} {share}", remedy=f"give a {name} above 0 and at most 1")
