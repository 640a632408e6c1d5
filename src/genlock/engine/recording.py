"""Recordings of a stream: one folder, one schema, read and written here.

A recording holds tensors and JSON, no code: `index.json` (model configurations, and per case its cache rule, schedule
and one event a chunk), weights, and one file of tensors a case. What of an event is cause and what is effect is said
where it is fed (`engine.replay`); here everything is read as it stands.

Tensor names: `chunkNN.noise0..`, `.x0`, `.stepK.flow`, `.stepK.x0`, `.context`, `.recache_frames`, `.cond`, `.pixels`,
`.input_u8`, `.input_latent`, `.z`, `.kv[_ctx|_recache].layerL.k|v`; `emb.TEXT` for the text encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from genlock.errors import RecordingUnreadable
from genlock.generator.config import GeneratorConfig
from genlock.generator.window import CachePolicy, Policy, Rope, recompute_policy

if TYPE_CHECKING:
    from genlock.media.vae import VaeConfig

FORMAT = 1
INDEX = "index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One recorded stream (or one generator call: `policy` is then none and there are no events)."""

    name: str
    about: str
    config: Mapping[str, Any]
    schedule: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    tensors_path: Path
    weights_path: Path
    generator: GeneratorConfig
    vae_path: Path | None
    vae_sizes: Mapping[str, Any] | None

    @property
    def vae(self) -> VaeConfig | None:
        """Rank 0's alone: the first use loads the VAE's room."""
        return None if self.vae_sizes is None else _vae_config(self.vae_sizes)

    @property
    def one_call(self) -> bool:
        return bool(self.config["policy"] == "none")

    @property
    def latent_size(self) -> tuple[int, int]:
        rows, columns = self.config["latent_hw"]
        return rows, columns

    @property
    def pad_sink(self) -> bool:
        return bool(self.config.get("attention_padding_multiple", 1) != 1)

    @property
    def policy(self) -> CachePolicy:
        """The cache rule as recorded. An unlimited window is as large as the cache that was set aside."""
        config = self.config
        if self.one_call:
            return recompute_policy(context_frames=1, chunk_frames=self.config["frames"])
        if config["policy"] == Policy.RECOMPUTE:
            return recompute_policy(context_frames=config["kv_cache_num_frames"], chunk_frames=config["chunk_frames"])
        window = config["local_attn_size"]
        return CachePolicy(
            policy=Policy.ROLLING,
            chunk_frames=config["chunk_frames"],
            window_frames=config["cache_frames"] if window == -1 else window,
            fixed_window=window != -1,
            sink_frames=config["sink_frames"],
            rope=Rope(config.get("rope", Rope.ABSOLUTE)),
            global_sink=config.get("global_sink", True),
            recache_on_prompt=True,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything recorded of this case, on the CPU."""
        try:
            tensors: dict[str, Tensor] = load_file(self.tensors_path)
        except (OSError, SafetensorError) as error:
            raise RecordingUnreadable(f"cannot be read ({error})", where=str(self.tensors_path)) from error
        return tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    folder: Path
    cases: Mapping[str, Case]

    def case(self, name: str) -> Case:
        if name not in self.cases:
            raise RecordingUnreadable(
                f"no case {name!r}", where=str(self.folder), remedy=f"cases: {', '.join(self.cases)}"
            )
        return self.cases[name]


def read_recording(folder: Path) -> Recording:
    """Raises RecordingUnreadable naming the file and what it lacks; tensors are read case by case, later."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
    except OSError as error:
        raise RecordingUnreadable(f"cannot be read ({error.strerror})", where=str(path)) from error
    except ValueError as error:
        raise RecordingUnreadable(f"not JSON ({error})", where=str(path)) from error
    try:
        if index["format"] != FORMAT:
            raise RecordingUnreadable(f"format {index['format']}, expected {FORMAT}", where=str(path))
        weights = {name: entry["config"] for name, entry in index["weights"].items()}
        cases = {name: _case(folder, name, entry, weights) for name, entry in index["cases"].items()}
    except (KeyError, TypeError) as error:
        raise RecordingUnreadable(f"lacks or misuses {error}", where=str(path)) from error
    return Recording(folder=folder, cases=cases)


def _case(folder: Path, name: str, entry: Mapping[str, Any], weights: Mapping[str, Any]) -> Case:
    vae = entry.get("vae_weights")
    return Case(
        name=name,
        about=entry.get("about", ""),
        config=entry["config"],
        schedule=entry["schedule"],
        events=tuple(entry["events"]),
        tensors_path=folder / entry["file"],
        weights_path=folder / entry["weights"],
        generator=_generator_config(weights[entry["weights"]]),
        vae_path=folder / vae if vae else None,
        vae_sizes=weights[vae] if vae else None,
    )


def _generator_config(config: Mapping[str, Any]) -> GeneratorConfig:
    names = (
        "dim",
        "ffn_dim",
        "num_heads",
        "num_layers",
        "freq_dim",
        "text_dim",
        "text_len",
        "max_rope_positions",
        "eps",
    )
    return GeneratorConfig(latent_channels=config["in_dim"], **{name: config[name] for name in names})


def _vae_config(config: Mapping[str, Any]) -> VaeConfig:
    """The reference's VAE has one width and the Wan constants; `decoder_*` and `latent_*` say where ours differs."""
    from genlock.media.vae import WAN_MEAN, WAN_STD, VaeConfig  # noqa: PLC0415 - rank 0 alone loads the VAE's room

    return VaeConfig(
        encoder_width=config["base_dim"],
        decoder_width=config.get("decoder_base_dim", config["base_dim"]),
        encoder_mult=tuple(config["dim_mult"]),
        decoder_mult=tuple(config.get("decoder_dim_mult", config["dim_mult"])),
        encoder_blocks=config["num_res_blocks"],
        decoder_blocks=config.get("decoder_num_res_blocks", config["num_res_blocks"]),
        latent_channels=config["z_dim"],
        mean=tuple(config.get("latent_mean", WAN_MEAN)),
        std=tuple(config.get("latent_std", WAN_STD)),
        temporal_downsample=tuple(config["temporal_downsample"]),
    )
