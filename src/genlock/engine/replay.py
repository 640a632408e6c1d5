"""Replay: a recording run again, and the largest difference of every chunk.

Two feeds. *Envelope*: each chunk gets the recorded noise, embedding and context, so that the generator alone is tested.
*Session*: only causes are fed (noise, embeddings by name, schedule, input pixels, requests), so that the session's own
timeline, context, anchors and mixes are tested; what follows from them is compared and never fed.

Causes of an event: `prompts` where they differ from the event before, `transition` where it is requested, `init_cache`
(a cut), `noise_scale`, `kv_cache_attention_bias`, and the case's schedule. Everything else in an event is an effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genlock.engine.job import Job
from genlock.engine.recording import Case
from genlock.engine.rounds import Engine, Generation, closing
from genlock.engine.session import choose_device
from genlock.engine.solo import Alone, load_stream
from genlock.engine.warm_up import begin_job
from genlock.errors import ReplayFailed
from genlock.generator.config import SPATIAL_STRIDE
from genlock.generator.sampler import Call
from genlock.generator.schedule import Schedule
from genlock.generator.stream import Stream
from genlock.generator.window import Policy
from genlock.settings import Settings
from genlock.wire.digest import embeds_id
from genlock.wire.envelope import Envelope
from genlock.wire.kinds import Plan, Recache, Regime
from genlock.wire.prepare import prepare

if TYPE_CHECKING:
    from genlock.stage0.timeline import Request

KINDS = ("latents", "flow", "keys", "values", "contexts", "schedule", "pixels")
Begun = Callable[[Case, str], "Generation"]  # a case and a device: what generates its chunks
FPS = 16.0  # of the grid of chunks; a recording has no clock


@dataclass(slots=True, kw_only=True)
class ChunkErrors:
    """Largest absolute difference of one chunk, by kind; a kind that was not recorded is absent."""

    case: str
    chunk: int
    errors: dict[str, float] = field(default_factory=dict)

    def compare(self, kind: str, ours: Tensor, recorded: Tensor | None) -> None:
        if recorded is None:
            return
        same_shape = ours.numel() == recorded.numel()
        error = (
            float((ours.detach().cpu().double().reshape(recorded.shape) - recorded.double()).abs().max())
            if (same_shape)
            else float("inf")
        )
        known = self.errors.get(kind, 0.0)
        self.errors[kind] = error if not error <= known else known  # a NaN stays

    @property
    def largest(self) -> float:
        return max(self.errors.values(), key=lambda error: (error != error, error), default=0.0)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded tensors of one chunk, by their short names."""

    tensors: Mapping[str, Tensor]
    chunk: int

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(f"chunk{self.chunk:02d}.{name}")

    def flow(self, step: int) -> Tensor | None:
        """[1, F, C, h, w] of a denoise step; a recording of one call has its one flow, channels first."""
        alone = self.tensors.get("flow")
        return self.get(f"step{step}.flow") if alone is None else alone.transpose(1, 2)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f"chunk{self.chunk:02d}.{name}"]


def case_job(case: Case, device: str = "cpu") -> Job:
    """What a rank loads for a case, in float32."""
    rows, columns = case.latent_size
    rolling = case.policy.policy is Policy.ROLLING
    return Job(
        name=case.name,
        weights=case.weights_path,
        config=case.generator,
        policy=case.policy,
        regime=None if rolling else Regime.R0A,
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        steps=len(case.schedule.get("step_list", (0,))),
        dtype=torch.float32,
        device=choose_device(device),
        warm=False,
        pad_sink=case.pad_sink,
    )


def alone(case: Case, device: str) -> Generation:
    """The recording's model on this process."""
    return Alone(load_stream(case_job(case, device)))


def beginning(settings: Settings, cases: Sequence[Case], device: str) -> Begun:
    """How the cases' generations begin: on this process, or on the mesh whose rank 0 this is."""
    if settings.topology == "solo":
        return alone
    from genlock.engine.tp import InLockstep, rank_0  # noqa: PLC0415 - needs torch.distributed, nobody else does

    rank = rank_0(settings, [case_job(case, device) for case in cases])

    def in_lockstep(case: Case, device: str) -> Generation:
        return InLockstep(rank, case_job(case, device), last=case is cases[-1])

    return in_lockstep


def replay_envelopes(case: Case, *, device: str = "cpu", begun: Begun = alone) -> Iterator[ChunkErrors]:
    """Feed what each chunk was computed from; compare what came out."""
    tensors, generation = case.tensors(), begun(case, device)
    sender = begin_job(case_job(case, device))
    with closing(generation, lambda: sender):
        for number, envelope in enumerate(recorded_envelopes(case, tensors)):
            prepared, sender = prepare(envelope, sender)
            recorded = Recorded(tensors, number)
            report = ChunkErrors(case=case.name, chunk=number)
            latents = generation.make(prepared, prepared.unpack(), watcher(generation.stream, recorded, report))
            compare_chunk(report, generation.stream, recorded, latents)
            yield report
            unless_drained(generation, case, number)


def recorded_envelopes(case: Case, tensors: Mapping[str, Tensor]) -> Iterator[Envelope]:
    """What every recorded chunk was computed from, in order."""
    if case.one_call:
        yield one_call_envelope(case, tensors)
        return
    previous: Tensor | None = None
    for event in case.events:
        recorded = Recorded(tensors, event["chunk"])
        embeds = recorded.get("cond")
        embeds = tensors[f"emb.{event['prompts'][0]['text']}"] if embeds is None else embeds
        yield recorded_envelope(case, event, recorded, embeds, changed=not _same(embeds, previous))
        previous = embeds


def watcher(stream: Stream, recorded: Recorded, report: ChunkErrors) -> Any:
    """Compares flows and estimates after each call, and the cache after a pass over context."""

    def on_call(call: Call, step: int, flow: Tensor, x0: Tensor | None) -> None:
        if call is Call.DENOISE and x0 is not None:
            report.compare("flow", flow, recorded.flow(step))
            report.compare("latents", x0, recorded.get(f"step{step}.x0"))
        elif call is not Call.CACHE_WRITE:
            compare_cache(report, stream, recorded, "kv_ctx" if call is Call.RECOMPUTE else "kv_recache")

    return on_call


def compare_chunk(report: ChunkErrors, stream: Stream, recorded: Recorded, latents: Tensor) -> None:
    report.compare("latents", latents, recorded.get("x0"))
    compare_cache(report, stream, recorded, "kv")


def compare_cache(report: ChunkErrors, stream: Stream, recorded: Recorded, name: str) -> None:
    """This rank's heads of every layer that was recorded."""
    rank, size = stream.generator.parallel.rank, stream.generator.parallel.size
    for layer in range(stream.generator.config.num_layers):
        for kind, held in zip(("keys", "values"), stream.cache.held(layer, stream.held.end), strict=True):
            whole = recorded.get(f"{name}.layer{layer}.{kind[0]}")
            report.compare(kind, held, None if whole is None else whole.chunk(size, dim=2)[rank])


def recorded_envelope(
    case: Case, event: Mapping[str, Any], recorded: Recorded, embeds: Tensor, *, changed: bool
) -> Envelope:
    """The envelope that the recorded chunk was computed from."""
    rolling = case.policy.policy is Policy.ROLLING
    recached, context = recorded.get("recache_frames"), recorded.get("context")
    cut = bool(event.get("cut", event["chunk"] == 0))
    noise = recorded.get("z")
    noise = recorded["noise0"] if noise is None else noise
    steps = len(event["timesteps"])
    later = [recorded[f"noise{step}"].reshape(noise.shape)[0] for step in range(1, steps)]
    fed = recached if recached is not None else context
    rows, columns = case.latent_size
    held = min(event["start_abs"], case.policy.window_frames) if rolling else (0 if fed is None else fed.shape[1])
    return Envelope(
        plan=Plan.V1_GENERATOR_ONLY,
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        num_frames=event["frames"],
        start_frame=event["start"],
        window_frames=held,
        reset_kv=cut,
        reset_cross=cut or changed,
        cache_policy=case.policy.policy,
        regime=None if rolling else Regime.R0A,
        do_recompute=context is not None,
        do_cache_write=rolling,
        recache=None if recached is None else Recache.SWITCH,
        timesteps=torch.tensor(event["timesteps"]),
        sigmas=torch.tensor(event["sigmas"]),
        expected_generator_calls=(fed is not None) + steps + rolling,
        attention_bias=float(event.get("kv_cache_attention_bias", 1.0)),
        pad_sink=case.pad_sink,
        noise=noise[0],
        step_noise=torch.stack(later),
        embeds=embeds[0],
        embeds_id=embeds_id(embeds[0]),
        context=None if fed is None else fed[0],
        seed=case.config.get("base_seed", 0),
    )


def one_call_envelope(case: Case, tensors: Mapping[str, Tensor]) -> Envelope:
    """A recorded call of the model alone, as the only step of a first chunk. Its flow is what counts, not its sigma."""
    rows, columns = case.latent_size
    x, embeds = tensors["x"].transpose(1, 2)[0].contiguous(), tensors["context"][0]
    return Envelope(
        plan=Plan.V1_GENERATOR_ONLY,
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        num_frames=x.shape[0],
        start_frame=0,
        window_frames=0,
        reset_kv=True,
        reset_cross=True,
        cache_policy=case.policy.policy,
        regime=Regime.R0A,
        do_recompute=False,
        do_cache_write=False,
        recache=None,
        timesteps=tensors["t"].float(),
        sigmas=torch.ones(1),
        expected_generator_calls=1,
        attention_bias=1.0,
        pad_sink=False,
        noise=x,
        step_noise=x.new_empty(0, *x.shape),
        embeds=embeds,
        embeds_id=embeds_id(embeds),
        context=None,
        seed=0,
    )


def replay_session(case: Case, *, device: str = "cpu", begun: Begun = alone) -> Iterator[ChunkErrors]:
    """Feed causes alone; the session's own timeline, context, anchors, mixes and pixels are compared with what was
    recorded. Not for `one_shot`, which is no session."""
    engine = _closed_loop(case, device, begun)
    with closing(engine.generation, lambda: engine.sender):
        yield from _follow(case, engine)


def _follow(case: Case, engine: Engine) -> Iterator[ChunkErrors]:
    tensors = case.tensors()
    before: Mapping[str, Any] = {}
    for event in case.events[: closed_loop_chunks(case)]:
        recorded = Recorded(tensors, event["chunk"])
        for request in _requests(event, before):
            engine.planner.submit(request)
        before = event
        report = ChunkErrors(case=case.name, chunk=event["chunk"])
        made = engine.next_chunk(
            frames=recorded.get("input_u8"),
            alter=partial(_with_recorded_noise, recorded=recorded),
            on_call=watcher(engine.stream, recorded, report),
        )
        envelope = made.envelope
        for name, ours in (("start", envelope.start_frame), ("frames", envelope.num_frames)):
            if ours != event[name]:
                raise ReplayFailed(
                    f"{name} is {ours}, recorded {event[name]}", where=case.name, chunk_index=event["chunk"]
                )
        report.compare("schedule", envelope.timesteps, torch.tensor(event["timesteps"]))
        fed = recorded.get("context")
        fed = recorded.get("recache_frames") if fed is None else fed
        if fed is not None and envelope.context is not None:
            report.compare("contexts", envelope.context, fed)
        report.compare("contexts", envelope.noise, recorded.get("z"))
        compare_chunk(report, engine.stream, recorded, made.latents)
        if made.pixels is not None:
            report.compare("pixels", made.pixels, recorded.get("pixels"))
        yield report
        unless_drained(engine.generation, case, event["chunk"])


def unless_drained(generation: Generation, case: Case, chunk: int) -> None:
    """Raises ReplayFailed where somebody wants the run to end: what was compared until here is not all."""
    if generation.drain_asked:
        raise ReplayFailed("asked to end", where=case.name, chunk_index=chunk, remedy="run it again to its end")


def closed_loop_chunks(case: Case) -> int:
    """How many chunks of a recording a session can follow; the rest holds what upstream did and we do not.

    None of a single call, or of a recording whose context holds frames that were never emitted (zero frames); those
    before a transition of one step, which upstream never finishes and we take as a change at once.
    """
    if case.one_call or any(event.get("context_frames", 0) > event["start_abs"] for event in case.events):
        return 0
    for number, event in enumerate(case.events):
        if event.get("transition_requested") and event["transition"]["num_steps"] == 1:
            return number
    return len(case.events)


def _closed_loop(case: Case, device: str, begun: Begun) -> Engine:
    """A session over the recorded weights, with the recorded embeddings in place of a text encoder."""
    from genlock.media.vae_checkpoint import load_vae  # noqa: PLC0415 - rank 0's rooms
    from genlock.stage0.chunk import Sources, StreamSettings  # noqa: PLC0415
    from genlock.stage0.planner import Planner  # noqa: PLC0415
    from genlock.stage0.timeline import Controls  # noqa: PLC0415

    tensors = case.tensors()
    vae = None if case.vae_path is None else load_vae(case.vae_path, case.vae).to(device)
    rows, columns = case.latent_size
    rolling = case.policy.policy is Policy.ROLLING
    settings = StreamSettings(
        config=case.generator,
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        dtype=torch.float32,
        schedule=Schedule(case.schedule["shift"]),
        steps=tuple(case.schedule["step_list"]),
        warped=case.schedule["warped"],
        regime=None if rolling else Regime.R0A,
        fps=FPS,
        controls=Controls(seed=case.config.get("base_seed", 0), strength=1.0, attention_bias=1.0),
        pad_sink=case.pad_sink,
        cut_on_prompt=bool(case.config.get("manage_cache", False)),
    )

    def embed(text: str) -> Tensor:
        rows = tensors[f"emb.{text}"][0]
        return rows[: int(rows.abs().sum(-1).nonzero().max()) + 1]

    sources = Sources(
        text=embed,
        image=None if vae is None else (lambda frame: vae.encode_image(frame.to(device))),
        video=None if vae is None else vae.encode,
    )
    lifecycle = begin_job(case_job(case, device))
    return Engine(
        planner=Planner(settings, sources, lifecycle),
        generation=begun(case, device),
        vae=vae,
        lifecycle=lifecycle,
        clock=lambda: 0.0,
    )


def _requests(event: Mapping[str, Any], before: Mapping[str, Any]) -> list[Request]:
    """What an event asks for: its causes, where they differ from the event before."""
    from genlock.stage0.blend import Method  # noqa: PLC0415 - rank 0's room
    from genlock.stage0.timeline import Prompt, Request, Transition, WeightedPrompts  # noqa: PLC0415

    def weighted(prompts: list[dict[str, Any]]) -> WeightedPrompts:
        return WeightedPrompts(prompts=tuple(Prompt(text=p["text"], weight=p["weight"]) for p in prompts))

    asked: dict[str, Any] = {}
    cut = bool(event.get("init_cache", False))
    if event["prompts"] != before.get("prompts") or cut:
        asked["prompts"] = weighted(event["prompts"])
    for ours, theirs in (("strength", "noise_scale"), ("attention_bias", "kv_cache_attention_bias")):
        if event.get(theirs) is not None and event[theirs] != before.get(theirs):
            asked[ours] = float(event[theirs])
    requests = [Request(cut=cut, **asked)] if asked or cut else []
    if event.get("transition_requested"):
        transition = event["transition"]
        method = Method(transition["temporal_interpolation_method"])
        length = Transition(chunks=transition["num_steps"], method=method)
        requests.append(Request(prompts=weighted(transition["target_prompts"]), transition=length))
    return requests


def _with_recorded_noise(envelope: Envelope, *, recorded: Recorded) -> Envelope:
    """The envelope with recorded noise in place of our draw; of a mixed chunk only what comes after the mix."""
    noise = recorded["noise0"]
    later = [recorded[f"noise{step}"].reshape(noise.shape)[0] for step in range(1, envelope.steps)]
    initial = envelope.noise if recorded.get("z") is not None else noise[0]
    return replace(envelope, noise=initial, step_noise=torch.stack(later))


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and torch.equal(a, b)
