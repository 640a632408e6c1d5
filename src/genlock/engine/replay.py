"""Replay: a recording run again, and the largest difference of every chunk.

Two feeds. *Envelope*: each chunk gets the recorded noise, embedding and context, so that the generator alone is tested.
*Session*: only causes are fed (noise, embeddings by name, schedule, input pixels, requests), so that the session's own
timeline, context, anchors and mixes are tested; what follows from them is compared and never fed.

Causes of an event: `prompts` where they differ from the event before, `transition` where it is requested, `init_cache`
(a cut), `noise_scale`, `kv_cache_attention_bias`, and the case's schedule. Everything else in an event is an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genlock.engine.recording import Case
from genlock.generator.cache import KeyValueCache
from genlock.generator.checkpoint import load_generator
from genlock.generator.config import SPATIAL_STRIDE, frame_tokens
from genlock.generator.model import Generator
from genlock.generator.sampler import Call
from genlock.generator.stream import Stream
from genlock.generator.window import Policy, Span
from genlock.wire.digest import embeds_id
from genlock.wire.envelope import Envelope
from genlock.wire.kinds import Plan, Recache, Regime

KINDS = ("latents", "flow", "keys", "values", "contexts", "pixels")


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

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f"chunk{self.chunk:02d}.{name}"]


def load_case_generator(case: Case, device: str = "cpu") -> Generator:
    """The recording's generator, in float32."""
    with torch.device("meta"):
        generator = Generator(case.generator)
    state = load_generator(case.weights_path, case.generator, device=device)
    generator.load_state_dict(state, strict=True, assign=True)
    return generator.eval()


def replay_envelopes(case: Case, *, device: str = "cpu") -> Iterator[ChunkErrors]:
    """Feed what each chunk was computed from; compare what came out."""
    generator, tensors = load_case_generator(case, device), case.tensors()
    if case.one_call:
        yield _replay_one_call(case, generator, tensors)
        return
    rows, columns = case.latent_size
    stream = Stream(generator, case.policy, latent_height=rows, latent_width=columns)
    previous: Tensor | None = None
    for event in case.events:
        recorded = Recorded(tensors, event["chunk"])
        embeds = recorded.get("cond")
        embeds = tensors[f"emb.{event['prompts'][0]['text']}"] if embeds is None else embeds
        envelope = recorded_envelope(case, event, recorded, embeds, changed=not _same(embeds, previous))
        previous = embeds
        report = ChunkErrors(case=case.name, chunk=event["chunk"])
        latents = stream.run(envelope, watcher(stream, recorded, report))
        compare_chunk(report, stream, recorded, latents)
        yield report


def watcher(stream: Stream, recorded: Recorded, report: ChunkErrors) -> Any:
    """Compares flows and estimates after each call, and the cache after a pass over context."""

    def on_call(call: Call, step: int, flow: Tensor, x0: Tensor | None) -> None:
        if call is Call.DENOISE and x0 is not None:
            report.compare("flow", flow, recorded.get(f"step{step}.flow"))
            report.compare("latents", x0, recorded.get(f"step{step}.x0"))
        elif call is not Call.CACHE_WRITE:
            compare_cache(report, stream, recorded, "kv_ctx" if call is Call.RECOMPUTE else "kv_recache")

    return on_call


def compare_chunk(report: ChunkErrors, stream: Stream, recorded: Recorded, latents: Tensor) -> None:
    report.compare("latents", latents, recorded["x0"])
    compare_cache(report, stream, recorded, "kv")


def compare_cache(report: ChunkErrors, stream: Stream, recorded: Recorded, name: str) -> None:
    for layer in range(stream.generator.config.num_layers):
        keys, values = stream.cache.held(layer, stream.held.end)
        report.compare("keys", keys, recorded.get(f"{name}.layer{layer}.k"))
        report.compare("values", values, recorded.get(f"{name}.layer{layer}.v"))


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


def _replay_one_call(case: Case, generator: Generator, tensors: Mapping[str, Tensor]) -> ChunkErrors:
    x, config = tensors["x"].transpose(1, 2).to(generator.device), generator.config
    frames = x.shape[1]
    rows, columns = case.latent_size
    store = KeyValueCache(
        layers=config.num_layers,
        frames=frames,
        tokens=frame_tokens(rows, columns),
        heads=config.num_heads,
        head_dim=config.head_dim,
        device=generator.device,
    )
    with torch.inference_mode():
        cross = generator.cross_kv(tensors["context"].to(generator.device))
        span = Span(frames=frames, rope_start=0, write_start=0, visible=frames)
        flow = generator(x, tensors["t"].view(1, 1).to(generator.device), cross, store, span)
    report = ChunkErrors(case=case.name, chunk=0)
    report.compare("flow", flow.transpose(1, 2), tensors["flow"])
    return report


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and torch.equal(a, b)
