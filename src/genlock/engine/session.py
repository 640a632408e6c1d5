"""The library's front door: `genlock.open(...)`, a session, and the chunks it streams.

    with genlock.open() as session:
        session.prompt("a red balloon over the sea at noon")
        for chunk in session.stream(seconds=8.0):
            ...

A session owns one stream of one model on this process. It turns a model folder, settings and arguments into an engine
and knows nothing of files to write or terminals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor

from genlock.engine.job import Job, Stage0Job
from genlock.engine.own_stage0 import Parts, stream_settings
from genlock.engine.rounds import Engine, Generation
from genlock.engine.solo import Alone, begin_trace, device_memory, load_stream
from genlock.engine.warm_up import begin_job
from genlock.errors import DeviceUnavailable, UsageError
from genlock.generator.config import latent_size
from genlock.generator.model_folder import ModelFolder, read_model_folder
from genlock.generator.presets import PRESETS, Preset, preset
from genlock.generator.window import Policy, Regime
from genlock.observe.rank_file import RankFile
from genlock.observe.run_folder import RunNotes, new_folder
from genlock.observe.trace import DELIVERED, PICTURE, SHOWN, Trace
from genlock.settings import Guard, Phase, Settings, warn_of_guards_off
from genlock.wire.kinds import LOADS, Part, Plan
from genlock.wire.lifecycle import State

if TYPE_CHECKING:
    from genlock.media.text import TextEncoder
    from genlock.stage0.chunk import Planned
    from genlock.stage0.grid import Placement
    from genlock.stage0.planner import Planner
    from genlock.stage0.timeline import Request, Timeline

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).resolve().parents[1] / "bundled"
AUTO = "auto"
DEFAULT_STRENGTH = 0.7
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

T = TypeVar("T")
Prompts = str | Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chunk:
    """What one round produced.

    index: from 0, over the whole session. frames: uint8 [T, H, W, 3] on the CPU; T is 12, and 9 after a cut.
    start_frame: pixel frames delivered before it. seconds: its time in the video. timings: seconds spent by phase.
    notes: what took effect with it, in words.
    """

    index: int
    frames: Tensor
    start_frame: int
    seconds: float
    timings: Mapping[str, float]
    notes: tuple[str, ...]


class Session:
    """One stream: ask it for prompts and cuts at any time, and take its chunks. Made by `open`."""

    def __init__(
        self,
        engine: Engine,
        text: TextEncoder,
        *,
        used: Preset,
        job: Job,
        words: Sequence[str],
        video: Iterator[Tensor] | None,
    ) -> None:
        self.engine, self.job, self._text, self._video = engine, job, text, video
        settings = engine.planner.settings
        self.fps, self.height, self.width = float(used.fps), settings.height, settings.width
        self.words = tuple(words)
        self.notes = engine.generation.notes
        self._delivered = 0
        self._drain_asked = self._closed = False
        self._asked_s: dict[int, float] = {}  # by a request's number: when it was made
        folder = engine.generation.rank_file.run_dir
        about = {**engine.generation.rank_file.about, "fps": self.fps, "seed": settings.controls.seed}
        self._run = None if folder is None else RunNotes(folder, about)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the input video and of the mesh, if there are any; the session can not be used afterwards.

        If ranks disagree or are gone, this process ends here, as all of them do. What the session's user raised is no
        failure of the mesh.
        """
        if self._closed:
            return
        self._closed = True
        close = getattr(self._video, "close", None)
        if close is not None:
            close()
        self.engine.generation.close(self.engine.sender, self.engine.failed)

    def prompt(
        self, prompts: Prompts, *, at: float | None = None, transition: float = 0.0, method: str = "linear"
    ) -> Placement:
        """Show something else: from `at` seconds of the stream (rounded up to a chunk), or as soon as possible.

        prompts: a text, or several with weights to blend. transition: seconds the change takes. method: of blending,
        linear or slerp. Returns where it falls. Raises PromptRefused, TimelineRefused.
        """
        from genlock.stage0.blend import Method  # noqa: PLC0415 - rank 0's room
        from genlock.stage0.timeline import Prompt, Request, Transition, WeightedPrompts  # noqa: PLC0415

        if method not in {known.value for known in Method}:
            raise UsageError(f"no blend method {method!r}", remedy=f"use {' or '.join(m.value for m in Method)}")
        pairs = [(prompts, 1.0)] if isinstance(prompts, str) else list(prompts)
        shown = WeightedPrompts(prompts=tuple(Prompt(text=t, weight=w) for t, w in pairs), method=Method(method))
        change = Transition(seconds=transition, method=Method(method)) if transition else None
        return self._submit(Request(at_s=at, prompts=shown, transition=change))

    def cut(self, text: str | None = None, *, at: float | None = None) -> Placement:
        """Forget the past and start afresh, with another prompt if one is given. Times and errors as in `prompt`."""
        from genlock.stage0.timeline import Request, WeightedPrompts  # noqa: PLC0415 - rank 0's room

        return self._submit(Request(at_s=at, cut=True, prompts=None if text is None else WeightedPrompts.of(text)))

    def ask(self, timeline: Timeline) -> tuple[Placement, ...]:
        """Everything in a timeline, or nothing of it; where each request falls."""
        placed = self.engine.planner.submit_timeline(timeline)
        self._asked_s.update(dict.fromkeys((accepted.number for accepted in placed), self.trace.clock()))
        return tuple(accepted.placement for accepted in placed)

    @property
    def trace(self) -> Trace:
        """What this process spends its time on; whoever writes the frames may add spans to it."""
        return self.engine.trace

    @property
    def ranks(self) -> Mapping[int, Mapping[str, Any]]:
        """What is known here of every rank: what its start took, what it held then (`observe/rank_file.py`)."""
        return self.engine.generation.ranks

    @contextmanager
    def handing_on(self) -> Iterator[None]:
        """What is done with a chunk's frames, writing them, say: over a mesh it must get on, like the chunk itself."""
        self.engine.generation.begin_round()
        yield
        self.engine.generation.end_round()

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the model never saw."""
        return self._text.unknown_words(text)

    def embed(self, text: str) -> Tensor:
        """The embedding [L, text_dim] of a prompt, float32 on the CPU, cut at its true length."""
        return self._text.encode(text).cpu()

    def stream(self, *, seconds: float | None = None) -> Iterator[Chunk]:
        """Chunk after chunk, until `seconds` of video are reached (whole chunks), the input ends, or for ever.

        Also until somebody asks it to end, or the mesh it runs on: the chunk in flight is then the last.
        """
        wanted = None if seconds is None else seconds * self.fps
        while not self.draining and (wanted is None or self._delivered < wanted):
            frames = self._input_frames()
            if self._video is not None and frames is None:
                return
            yield self._next(frames)

    def drain(self) -> None:
        """Let the chunk in flight be the last of the stream. May be called from a signal's handler."""
        self._drain_asked = True

    @property
    def draining(self) -> bool:
        """Whether somebody wants the stream to end, here or on the mesh it runs on."""
        return self._drain_asked or self.engine.generation.drain_asked

    def _next(self, frames: Tensor | None) -> Chunk:
        began_s = self.trace.clock()
        made = self.engine.next_chunk(frames=frames)
        shown = made.shown
        if shown is None:
            raise UsageError("this session has no VAE, so it has no frames")
        self._note(made.planned, shown, began_s)
        start = self._delivered
        self._delivered += shown.shape[0]
        return Chunk(
            index=made.planned.start.chunk_index,
            frames=shown,
            start_frame=start,
            seconds=start / self.fps,
            timings=made.seconds,
            notes=(),
        )

    def _note(self, planned: Planned, shown: Tensor, began_s: float) -> None:
        """What is handed on now: its frames, and how long each request that it shows has waited, since it was made or,
        where it had a time, since the stream came to that."""
        from genlock.media.video import small_jpeg  # noqa: PLC0415 - rank 0's rooms
        from genlock.stage0.timeline import words_of  # noqa: PLC0415

        chunk, now_s = planned.start.chunk_index, self.trace.clock()
        for receipt in planned.receipts:
            since_s = self._asked_s.pop(receipt.number, began_s)
            if receipt.request.at_s is not None:
                since_s = max(since_s, began_s)
            self.trace.mark(SHOWN, began_s=since_s, until_s=now_s, number=receipt.number)
            if self._run is not None:
                effect_s = receipt.placement.effect_s
                self._run.shown(chunk=receipt.placement.chunk_index, at_s=effect_s, words=words_of(receipt.request))
        if self._run is not None and self._run.wants(chunk):
            with self.trace.span(PICTURE):
                self._run.picture(chunk, small_jpeg(shown[0]))
        self.trace.mark(DELIVERED, began_s=now_s, until_s=now_s, number=len(shown))

    def _submit(self, request: Request) -> Placement:
        accepted = self.engine.planner.submit(request)
        self._asked_s[accepted.number] = self.trace.clock()
        return accepted.placement

    def _input_frames(self) -> Tensor | None:
        """uint8 [T, H, W, 3] for the next chunk; the last frame is held where the input breaks off inside a chunk."""
        if self._video is None:
            return None
        wanted = self.engine.planner.frames_wanted(self.engine.sender)
        frames = [frame for _, frame in zip(range(wanted), self._video, strict=False)]
        if not frames:
            return None
        return torch.stack(frames + frames[-1:] * (wanted - len(frames)))


def open(
    model: str | None = None,
    *,
    height: int | None = None,
    width: int | None = None,
    seed: int = 42,
    steps: int | None = None,
    input_video: str | Path | None = None,
    strength: float | None = None,
    device: str | None = None,
    regime: str | None = None,
    settings: Settings | None = None,
) -> Session:
    """A session over one model.

    model: `bundled`, or the path of a model folder. height, width: pixels, multiples of 16. steps: denoise steps, from
    the model's own list. input_video: a file to follow; strength: how far it is changed, above 0 and at most 1.
    settings: the rest; None takes the defaults. Raises GenlockError of many kinds, each in one line.
    """
    settings = settings or Settings()
    settings = replace(settings, model=model or settings.model, device=device or settings.device)
    settings = replace(settings, regime=regime or settings.regime)
    folder = find_model(settings.model)
    job = session_job(settings, height=height, width=width, steps=steps, video=input_video is not None)
    generation, lifecycle = begin_generation(settings, job)
    controls = {"seed": seed, "strength": DEFAULT_STRENGTH if strength is None else strength}
    try:
        trace = generation.rank_file.trace
        parts = Parts(folder, job.device, parts=frozenset(Part), remembered=settings.text_cache, span_of=trace.span)
        assert parts.text is not None  # all parts were asked for
        generation.ready()
        engine = Engine(
            planner=session_planner(folder.preset, job, steps, parts, lifecycle, controls),
            generation=generation,
            vae=parts.vae,
            lifecycle=lifecycle,
            clock=time.perf_counter,
            shadow=settings.bring_up,
        )
        video = None if input_video is None else input_frames(Path(input_video), job, float(folder.preset.fps))
        return Session(engine, parts.text, used=folder.preset, job=job, words=folder.words, video=video)
    except BaseException as error:
        generation.close(lifecycle, error)
        raise


def session_planner(
    used: Preset, job: Job, steps: int | None, parts: Parts, lifecycle: State, controls: Mapping[str, Any]
) -> Planner:
    """Stage 0 of a session. steps: as asked. controls: seed and strength at the start."""
    from genlock.stage0.planner import Planner  # noqa: PLC0415 - rank 0's room

    settings = stream_settings(used, job, choose_steps(used.steps, steps), controls)
    return Planner(settings, parts.sources(), lifecycle)


def input_frames(path: Path, job: Job, fps: float) -> Iterator[Tensor]:
    from genlock.media.video import read_video  # noqa: PLC0415 - rank 0's room

    return read_video(path, height=job.height, width=job.width, fps=fps)


def session_job(
    settings: Settings,
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    video: bool = False,
) -> Job:
    """What every rank loads and runs for a session. Sizes and steps None: the model's own. Raises as `open`."""
    folder = find_model(settings.model)
    used = folder.preset
    height, width = height or used.height, width or used.width
    latent_size(height, width)
    device = choose_device(settings.device)
    plan, own_steps = Plan(settings.plan), choose_steps(used.steps, steps)
    if settings.topology == "solo" and LOADS[plan]:
        raise UsageError(
            f"the plan {plan} is about workers, and there are none", where="--plan", remedy="add --topology tp"
        )
    chosen = used.regime if settings.regime == AUTO else Regime(settings.regime)
    return Job(
        name=used.name,
        weights=folder.file("generator"),
        config=used.generator,
        policy=used.cache,
        regime=None if used.cache.policy is Policy.ROLLING else chosen,
        height=height,
        width=width,
        steps=len(own_steps),
        dtype=choose_dtype(settings.dtype, device),
        device=device,
        warm=settings.topology != "solo",
        video=video,
        attention_bias=used.attention_bias,
        pad_sink=used.pad_sink,
        compile=settings.compile,
        plan=plan,
        stage0=Stage0Job(folder=folder, steps=own_steps, remembered=settings.text_cache) if LOADS[plan] else None,
    )


def begin_generation(settings: Settings, job: Job) -> tuple[Generation, State]:
    """What generates, and the lifecycle in which its first chunk is due: this process alone, or as rank 0 of a mesh."""
    if settings.topology == "solo":
        if settings.threads:
            torch.set_num_threads(settings.threads)
        off = warn_of_guards_off(settings)
        run_dir = None if settings.run_dir == AUTO else new_folder(Path(settings.run_dir))
        trace = begin_trace(settings, 0, run_dir)
        trace.phase(Phase.LOAD)
        about = {"topology": settings.topology, "world": 1, **job.about()}
        rank_file = RankFile(run_dir, trace, rank=0, about=about, device_memory=lambda: device_memory(job.device))
        stream = load_stream(job, span_of=trace.span)
        trace.phase(Phase.LOAD_MEDIA)
        return Alone(stream, strict=Guard.FINITE not in off, rank_file=rank_file), begin_job(job, off)
    from genlock.engine.tp import InLockstep, rank_0  # noqa: PLC0415 - needs torch.distributed, nobody else does

    generation = InLockstep(rank_0(settings, [job]), job)
    return generation, generation.lifecycle


def find_model(name: str) -> ModelFolder:
    """The model folder that a name or a path stands for. Raises UsageError for a preset without weights."""
    if name == BUNDLED:
        return read_model_folder(BUNDLED_FOLDER)
    if Path(name).exists():
        return read_model_folder(Path(name))
    known = preset(name) if name in PRESETS or "/" not in name else None
    if known is None:
        return read_model_folder(Path(name))
    raise UsageError(
        f"the preset {known.name} comes without weights",
        where="--model",
        remedy="give the folder that holds them and a model.json (docs/reference/model-folder.md)",
    )


def choose_device(name: str) -> torch.device:
    """Raises DeviceUnavailable."""
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("no CUDA device works here", where="--device", remedy="use --device cpu")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == AUTO:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return DTYPES[name]


def choose_steps(own: tuple[int, ...], count: int | None) -> tuple[int, ...]:
    """A model's own list, or `count` steps spread evenly over the same range. Raises UsageError."""
    if count is None or count == len(own):
        return own
    if not 1 <= count <= own[0]:
        raise UsageError(f"{count} denoise steps", where="--steps", remedy=f"give 1 to {own[0]}")
    return tuple(own[0] - round(own[0] * index / count) for index in range(count))
