"""Writing a recording: a session run as usual, with everything that a replay feeds or compares put on disk.

The schema is `engine.recording`'s. What is not recorded of a session is not in it: no clock, no text but the prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from genlock.engine.recording import FORMAT, INDEX
from genlock.engine.rounds import Made
from genlock.errors import InputOutputError, UsageError
from genlock.generator.checkpoint import load_generator
from genlock.generator.config import GeneratorConfig, frame_tokens
from genlock.generator.whole_file import whole_file
from genlock.generator.window import CachePolicy, Policy

if TYPE_CHECKING:
    from genlock.engine.session import Session
    from genlock.media.vae import VaeConfig

GENERATOR_FILE, VAE_FILE = "weights_generator.safetensors", "weights_vae.safetensors"
SNAP = 0  # transition steps of a change at once; 1 is upstream's, which never arrives


def record(session: Session, folder: Path, *, seconds: float, case: str = "session") -> int:
    """Run a session for `seconds` of video and write it to a new folder; returns the number of chunks.

    Over a mesh there are no keys and values in it. Raises InputOutputError if the folder holds something already or
    cannot be written, UsageError for a session in another precision than float32 (a replay computes in float32) or with
    a video input.
    """
    stream = session.engine.stream
    if stream.generator.dtype is not torch.float32:
        raise UsageError("a recording is made in float32", where="--dtype", remedy="set GENLOCK_DTYPE=float32")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputOutputError("the folder is not empty", where=str(folder), remedy="name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    events: list[dict[str, Any]] = []
    delivered = 0
    policy = stream.policy
    chunk_s = session.engine.planner.settings.grid(policy.chunk_frames, video=False).chunk_s
    while not events or (delivered < seconds * session.fps and not session.draining):
        made = session.engine.next_chunk()
        delivered += 0 if made.pixels is None else made.pixels.shape[0]
        events.append(_event(len(events), made, events, chunk_s))
        tensors |= _tensors(f"chunk{len(events) - 1:02d}", made, session)
    tensors |= _embeddings(session, events)
    vae = session.engine.vae
    config = stream.generator.config
    _write(folder / GENERATOR_FILE, load_generator(session.job.weights, config))  # whole, also where ranks share it
    index: dict[str, Any] = {
        "format": FORMAT,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "weights": {GENERATOR_FILE: {"config": _generator_config(config)}},
        "cases": {case: _case(session, case, events, tensors)},
    }
    if vae is not None:
        _write(folder / VAE_FILE, {name: value.contiguous() for name, value in vae.state_dict().items()})
        index["weights"][VAE_FILE] = {"config": _vae_config(vae.config)}
        index["cases"][case]["vae_weights"] = VAE_FILE
    _write(folder / f"{case}.safetensors", tensors)
    with whole_file(folder / INDEX) as partial:  # last: a folder without it is no recording
        partial.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return len(events)


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with whole_file(path) as partial:
        save_file(dict(tensors), partial)


def _event(number: int, made: Made, before: Sequence[Mapping[str, Any]], chunk_s: float) -> dict[str, Any]:
    """Causes as requests, effects as they came out."""
    envelope, asked = made.envelope, made.planned.asked
    shown = [{"text": p.text, "weight": p.weight} for p in asked.prompts.prompts]
    event: dict[str, Any] = {
        "chunk": number,
        "prompts": shown if number == 0 or asked.cut else before[-1]["prompts"],
        "init_cache": asked.cut or number == 0,
        "frames": envelope.num_frames,
        "start_abs": 0 if envelope.reset_kv else before[-1]["start_abs"] + before[-1]["frames"],
        "start": envelope.start_frame,
        "cut": envelope.reset_kv,
        "kv_cache_attention_bias": envelope.attention_bias,
        "context_frames": 0 if envelope.context is None else envelope.context.shape[0],
        "timesteps": envelope.timesteps.tolist(),
        "sigmas": envelope.sigmas.tolist(),
    }
    requests = [receipt.request for receipt in made.planned.receipts]
    changes = [request for request in requests if request.prompts is not None and not request.cut]
    if changes and number > 0:
        transition = changes[-1].transition
        count = SNAP if transition is None else transition.count(chunk_s)
        event["transition_requested"] = True
        event["transition"] = {
            "target_prompts": shown,
            "num_steps": count if count > 1 else SNAP,
            "temporal_interpolation_method": "linear" if transition is None else str(transition.method),
        }
    return event


def _tensors(chunk: str, made: Made, session: Session) -> dict[str, Tensor]:
    envelope, stream = made.envelope, session.engine.stream
    found = {f"{chunk}.noise0": envelope.noise[None], f"{chunk}.x0": made.latents[None]}
    found |= {f"{chunk}.noise{step}": noise[None] for step, noise in enumerate(envelope.step_noise, start=1)}
    missing = stream.generator.config.text_len - envelope.embeds.shape[0]
    found[f"{chunk}.cond"] = torch.nn.functional.pad(envelope.embeds, (0, 0, 0, missing))[None]
    if envelope.context is not None:
        found[f"{chunk}.{'recache_frames' if envelope.recache else 'context'}"] = envelope.context[None]
    if made.pixels is not None:
        found[f"{chunk}.pixels"] = made.pixels[None]
    whole = stream.generator.parallel.size == 1  # of a mesh, rank 0 has only its own heads
    for layer in {0, stream.generator.config.num_layers - 1} if whole else ():
        keys, values = stream.cache.held(layer, stream.held.end)
        found |= {f"{chunk}.kv.layer{layer}.k": keys, f"{chunk}.kv.layer{layer}.v": values}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def _embeddings(session: Session, events: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Every prompt that was asked for, as the text encoder gives it, padded."""
    lists = [event["prompts"] for event in events]
    lists += [event["transition"]["target_prompts"] for event in events if "transition" in event]
    text_len = session.engine.stream.generator.config.text_len
    found = {}
    for text in dict.fromkeys(prompt["text"] for prompts in lists for prompt in prompts):
        rows = session.embed(text)
        found[f"emb.{text}"] = torch.nn.functional.pad(rows, (0, 0, 0, text_len - rows.shape[0]))[None].clone()
    return found


def _case(
    session: Session, name: str, events: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    settings, stream = session.engine.planner.settings, session.engine.stream
    rows, columns = session.height // 8, session.width // 8
    return {
        "about": "recorded by genlock",
        "weights": GENERATOR_FILE,
        "file": f"{name}.safetensors",
        "config": {
            **_policy(stream.policy),
            "latent_hw": [rows, columns],
            "frame_tokens": frame_tokens(rows, columns),
            "base_seed": settings.controls.seed,
            "attention_padding_multiple": 128 if settings.pad_sink else 1,
        },
        "schedule": {
            "shift": settings.schedule.shift,
            "step_list": list(settings.steps),
            "warped": settings.warped,
        },
        "patches": [],
        "tensors": {key: [str(t.dtype).removeprefix("torch."), list(t.shape)] for key, t in tensors.items()},
        "events": list(events),
    }


def _policy(policy: CachePolicy) -> dict[str, Any]:
    common = {"policy": str(policy.policy), "chunk_frames": policy.chunk_frames}
    if policy.policy is Policy.RECOMPUTE:
        return {**common, "kv_cache_num_frames": policy.context_frames, "cache_frames": policy.window_frames}
    return {
        **common,
        "local_attn_size": policy.window_frames if policy.fixed_window else -1,
        "cache_frames": policy.window_frames,
        "sink_frames": policy.sink_frames,
        "rope": str(policy.rope),
        "global_sink": policy.global_sink,
    }


def _generator_config(config: GeneratorConfig) -> dict[str, Any]:
    sizes = {name: value for name, value in config.to_dict().items() if name != "latent_channels"}
    return {**sizes, "in_dim": config.latent_channels, "out_dim": config.latent_channels, "patch_size": [1, 2, 2]}


def _vae_config(config: VaeConfig) -> dict[str, Any]:
    return {
        "base_dim": config.encoder_width,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.encoder_mult),
        "num_res_blocks": config.encoder_blocks,
        "temporal_downsample": list(config.temporal_downsample),
        "decoder_base_dim": config.decoder_width,
        "decoder_dim_mult": list(config.decoder_mult),
        "decoder_num_res_blocks": config.decoder_blocks,
        "latent_mean": list(config.mean),
        "latent_std": list(config.std),
    }
