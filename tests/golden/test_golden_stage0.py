"""Stage 0 replayed against recorded streams, without a generator.

Only causes are fed: requests, input pixels, and each chunk's recorded latents as the mesh's answer. Everything else is
worked out by the planner and compared: noise, mixes, blends, contexts with their anchors, schedules, cuts, positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genlock.engine.recording import Case, Recording, read_recording
from genlock.generator.config import SPATIAL_STRIDE
from genlock.generator.schedule import Schedule
from genlock.generator.window import Policy
from genlock.media.vae import Vae, clamp_pixels
from genlock.stage0.blend import Method
from genlock.stage0.chunk import Planned, Sources, StreamSettings
from genlock.stage0.planner import Awaited, Planner
from genlock.stage0.timeline import Controls, Prompt, Request, Transition, WeightedPrompts
from genlock.stage0.video_input import controlled_strength, motion, to_pixels
from genlock.wire.kinds import Action, Recache, Regime
from genlock.wire.lifecycle import State, accept, begin, next_stamp

pytestmark = pytest.mark.golden

TOLERANCE = 2e-5  # one encode or decode of what was recorded
ANCHOR_TOLERANCE = 1e-4  # decoded here and encoded again, which multiplies rounding by about 4; measured 2.5e-5
BLEND_TOLERANCE = 1e-6
SCOPE_ZERO_FRAMES = ("recompute_nctx6", 1)  # upstream pads a short context with zeros; ours stays short
SCOPE_LOST_TRANSITION = ("blend", 9)  # upstream never arrives in a transition of one step; ours snaps
CASES = [
    "rolling_short",
    "rolling_evict",
    "rolling_evict_nosink",
    "rolling_relative",
    "rolling_recache",
    "recompute",
    "recompute_nctx6",
    "recompute_bias",
    "recompute_bias_nopad",
    "recompute_vae",
    "v2v",
    "blend",
]


@dataclass
class Chunk:
    """One planned chunk beside its recording. sender: the lifecycle before it."""

    case: Case
    event: Mapping[str, Any]
    recorded: Mapping[str, Tensor]
    planned: Planned
    sender: State
    input_latents: Tensor | None
    anchor_pixel: int | None
    pixels: Tensor | None = None

    def get(self, name: str) -> Tensor | None:
        """Without the batch axis."""
        found = self.recorded.get(f"chunk{self.event['chunk']:02d}.{name}")
        return None if found is None else found[0] if found.shape[0] == 1 else found


@pytest.fixture(scope="module")
def recording(golden_dir: Path) -> Recording:
    torch.set_num_threads(1)
    return read_recording(golden_dir)


@pytest.fixture(scope="module")
def streams(recording: Recording) -> dict[str, list[Chunk]]:
    return {name: list(replay(recording.case(name))) for name in CASES}


def replay(case: Case) -> Iterator[Chunk]:
    tensors = case.tensors()
    vae = load_vae(case)
    seen: list[Tensor] = []
    sender = begin(case.policy, max_rope_positions=case.generator.max_rope_positions)
    planner = Planner(settings_of(case), sources_of(case, tensors, vae, seen), sender)
    decoder = None
    before: Mapping[str, Any] = {}
    for event in case.events:
        for request in requests_of(event, before):
            planner.submit(request)
        anchor = planner.state.context.anchor_pixel
        assert planner.awaited(sender) is Awaited.NOTHING
        planned = planner.plan(sender, frames=tensors.get(f"chunk{event['chunk']:02d}.input_u8"))
        planner.confirm(planned)
        chunk = Chunk(case, event, tensors, planned, sender, seen[-1] if seen else None, anchor)
        envelope = planned.envelope
        sender = accept(sender, next_stamp(sender, Action.INFER, reset_kv=envelope.reset_kv), envelope)
        latents = chunk.get("x0")
        assert latents is not None
        if vae is not None:
            decoded, decoder = vae.decode_chunk(None if envelope.reset_kv else decoder, latents[None])
            chunk.pixels = clamp_pixels(decoded[0])
        planner.absorb(latents, chunk.pixels, cache_epoch=sender.cache_epoch)
        yield chunk
        before = event


def load_vae(case: Case) -> Vae | None:
    if case.vae is None or case.vae_path is None:
        return None
    vae = Vae(case.vae).requires_grad_(requires_grad=False)
    stored = load_file(case.vae_path)
    own = vae.state_dict()
    vae.load_state_dict({name: stored[name].float().reshape(own[name].shape) for name in own}, strict=True)
    return vae


def settings_of(case: Case) -> StreamSettings:
    rows, columns = case.latent_size
    schedule = case.schedule
    return StreamSettings(
        config=case.generator,
        height=rows * SPATIAL_STRIDE,
        width=columns * SPATIAL_STRIDE,
        dtype=torch.float32,
        schedule=Schedule(shift=schedule["shift"]),
        steps=tuple(schedule["step_list"]),
        warped=schedule["warped"],
        regime=Regime.R0A if case.policy.policy is Policy.RECOMPUTE else None,
        fps=16,
        controls=Controls(seed=case.config.get("base_seed", 42), strength=0.7, attention_bias=1.0),
        pad_sink=case.pad_sink,
        cut_on_prompt=case.config.get("manage_cache", False),
    )


def sources_of(case: Case, tensors: Mapping[str, Tensor], vae: Vae | None, seen: list[Tensor]) -> Sources:
    def text(prompt: str) -> Tensor:
        rows = tensors[f"emb.{prompt}"][0]
        return rows[: int(rows.abs().sum(dim=-1).nonzero().max()) + 1]

    if vae is None:
        return Sources(text=text)

    def video(state: Any, frames: Tensor) -> tuple[Tensor, Any]:
        latents, state = vae.encode(state, frames)
        seen.append(latents[0])
        return latents, state

    return Sources(text=text, image=vae.encode_image, video=video)


def requests_of(event: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Request]:
    if event.get("init_cache"):
        yield Request(cut=True)
    if event["prompts"] != before.get("prompts"):
        yield Request(prompts=prompts_of(event["prompts"]))
    if event.get("transition_requested"):
        asked = event["transition"]
        step = Transition(chunks=asked["num_steps"], method=Method(asked["temporal_interpolation_method"]))
        yield Request(prompts=prompts_of(asked["target_prompts"]), transition=step)
    for ours, theirs in (("strength", "noise_scale"), ("attention_bias", "kv_cache_attention_bias")):
        if event.get(theirs) is not None:
            yield Request(**{ours: event[theirs]})


def prompts_of(entries: list[Mapping[str, Any]]) -> WeightedPrompts:
    return WeightedPrompts(prompts=tuple(Prompt(text=entry["text"], weight=entry["weight"]) for entry in entries))


@pytest.mark.parametrize("name", CASES)
def test_cuts_positions_and_schedules(streams: dict[str, list[Chunk]], name: str) -> None:
    for chunk in streams[name]:
        envelope, event = chunk.planned.envelope, chunk.event
        assert envelope.reset_kv == event.get("cut", event["chunk"] == 0)
        assert (0 if envelope.reset_kv else chunk.sender.start_abs) == event["start_abs"]
        assert envelope.start_frame == event["start"]
        assert envelope.num_frames == event["frames"]
        assert envelope.timesteps.tolist() == event["timesteps"]
        assert envelope.sigmas.tolist() == event["sigmas"]
        assert envelope.attention_bias == event.get("kv_cache_attention_bias", 1.0)


@pytest.mark.parametrize("name", CASES)
def test_contexts_and_their_anchors(streams: dict[str, list[Chunk]], name: str) -> None:
    compared = 0
    for chunk in streams[name]:
        envelope, event = chunk.planned.envelope, chunk.event
        context, recache = chunk.get("context"), chunk.get("recache_frames")
        assert envelope.do_recompute == (context is not None)
        assert (envelope.recache is Recache.SWITCH) == (recache is not None)
        if "anchor_pixel_index" in event:
            assert (None if envelope.reset_kv else chunk.anchor_pixel) == event["anchor_pixel_index"]
        expected = context if context is not None else recache
        if expected is None or (name, event["chunk"]) == SCOPE_ZERO_FRAMES:
            continue
        assert envelope.context is not None
        torch.testing.assert_close(
            envelope.context, expected, atol=0 if recache is not None else ANCHOR_TOLERANCE, rtol=0
        )
        compared += 1
    switches = 2 if name == "rolling_recache" else 0
    assert compared == switches if name.startswith("rolling") else compared >= 3


def test_a_short_context_has_no_zero_frames(streams: dict[str, list[Chunk]]) -> None:
    name, index = SCOPE_ZERO_FRAMES
    first, short = streams[name][index - 1 : index + 1]
    assert short.planned.envelope.context is not None
    assert torch.equal(short.planned.envelope.context, first.get("x0"))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("rolling")])
def test_noise_is_what_was_drawn_bit_for_bit(streams: dict[str, list[Chunk]], name: str) -> None:
    for chunk in streams[name]:
        envelope = chunk.planned.envelope
        for step in range(1, envelope.steps):
            expected = chunk.get(f"noise{step}")
            assert expected is not None
            assert torch.equal(envelope.step_noise[step - 1], expected.reshape(envelope.noise.shape))
        if chunk.get("z") is None:
            assert torch.equal(envelope.noise, chunk.get("noise0"))


def test_video_is_encoded_and_mixed(streams: dict[str, list[Chunk]]) -> None:
    for chunk in streams["v2v"]:
        assert chunk.input_latents is not None
        assert chunk.planned.strength == chunk.event["noise_scale"]
        torch.testing.assert_close(chunk.input_latents, chunk.get("input_latent"), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(chunk.planned.envelope.noise, chunk.get("z"), atol=TOLERANCE, rtol=0)


def test_blends_and_transitions(streams: dict[str, list[Chunk]]) -> None:
    *chunks, last = streams["blend"]
    for chunk in chunks:
        expected = chunk.get("cond")
        assert expected is not None
        embeds = chunk.planned.envelope.embeds
        torch.testing.assert_close(embeds, expected[: embeds.shape[0]], atol=BLEND_TOLERANCE, rtol=0)
        assert float(expected[embeds.shape[0] :].abs().sum()) == 0
        assert chunk.planned.asked.blending == chunk.event["transition_active_after"]
    first_of_transition = [chunk.planned.envelope.reset_cross for chunk in (chunks[2], chunks[6])]
    assert first_of_transition == [False, False]
    assert (last.case.name, last.event["chunk"]) == SCOPE_LOST_TRANSITION
    rows = last.recorded["emb.A"][0]
    assert torch.equal(last.planned.envelope.embeds, rows[: last.planned.envelope.embeds.shape[0]])


@pytest.mark.parametrize("name", ["recompute_vae", "v2v"])
def test_decoded_pixels(streams: dict[str, list[Chunk]], name: str) -> None:
    for chunk in streams[name]:
        recorded = chunk.get("pixels")
        if recorded is not None:
            torch.testing.assert_close(chunk.pixels, recorded, atol=TOLERANCE, rtol=0)


def test_the_noise_controller(recording: Recording) -> None:
    case = recording.case("v2v")
    tensors, reference = case.tensors(), recorded_controller(recording)
    before: Tensor | None = None
    for index, expected in enumerate(reference["resulting"]):
        frames = tensors[f"chunk{index:02d}.input_u8"]
        pixels = to_pixels(frames, height=32, width=32, count=13 if index == 0 else 12)
        moved = motion(pixels, before)
        assert controlled_strength(reference["requested"], moved) == pytest.approx(expected, abs=1e-7)
        before = pixels[-1]


def recorded_controller(recording: Recording) -> Mapping[str, Any]:

    index = json.loads((recording.folder / "index.json").read_text())
    return index["cases"]["v2v"]["noise_controller_reference"]
