"""What every rank of a mesh loads and runs, as one value: equal on all ranks, and what gate 1 compares.

A job is made from flags and files before anything heavy is loaded. It says nothing of words, pixels or requests: those
are rank 0's alone.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from genlock.engine.reference import SUFFIX
from genlock.errors import CheckpointMissing, MeshRefused, PlanRefused
from genlock.generator.config import GeneratorConfig, latent_size
from genlock.generator.model_folder import ModelFolder
from genlock.generator.window import CachePolicy, Regime
from genlock.settings import Parity, Settings, options
from genlock.wire.digest import bytes_digest
from genlock.wire.header import WIRE_VERSION
from genlock.wire.kinds import LOADS, Part, Plan
from genlock.wire.rules import dtype_name

ManifestValue = str | int | float | bool

HEAD_BYTES = 64 * 1024  # of a file that is no safetensors: enough to tell two apart, whose sizes are equal
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header


FILES_OF = {Part.TEXT: ("text", "tokenizer"), Part.ENCODER: ("vae",), Part.DECODER: ("vae",)}  # roles in a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage0Job:
    """What a worker's own stage 0 is made of. steps: the list. remembered: prompts whose embeddings are kept."""

    folder: ModelFolder
    steps: tuple[int, ...]
    remembered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model at one size. weights: a file or folder that `load_generator` reads. height, width: pixels. steps:
    denoise steps of a chunk. warm: whether every shape is run once before the first chunk. video: whether chunks may
    come from input frames. attention_bias, pad_sink: as in a preset. compile: torch's back end for the blocks, or
    "off". stage0: where the plan has workers prepare."""

    name: str
    weights: Path
    config: GeneratorConfig
    policy: CachePolicy
    regime: Regime | None
    height: int
    width: int
    steps: int
    dtype: torch.dtype
    device: torch.device
    warm: bool
    video: bool = False
    attention_bias: float = 1.0
    pad_sink: bool = False
    compile: str = "off"
    plan: Plan = Plan.V1_GENERATOR_ONLY
    stage0: Stage0Job | None = None

    @property
    def latent_size(self) -> tuple[int, int]:
        return latent_size(self.height, self.width)

    def about(self) -> dict[str, ManifestValue]:
        """What a reader of a run wants to know of it."""
        return {
            "model": self.name,
            "plan": str(self.plan),
            "regime": str(self.regime or self.policy.policy),
            "height": self.height,
            "width": self.width,
            "steps": self.steps,
            "dtype": dtype_name(self.dtype),
            "device": self.device.type,
        }

    def manifest(self) -> dict[str, ManifestValue]:
        """What must be equal on all ranks, by key. The weights by their sizes and headers, not by their path. Raises
        CheckpointMissing, and PlanRefused for what a worker of this plan needs beside them."""
        values: dict[str, ManifestValue] = {
            "model": self.name,
            "plan": str(self.plan),
            "regime": str(self.regime),
            "height": self.height,
            "width": self.width,
            "steps": self.steps,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            "warm": self.warm,
            "video": self.video,
            "attention_bias": self.attention_bias,
            "pad_sink": self.pad_sink,
            "compile": self.compile,
        }
        values |= {f"config.{key}": value for key, value in asdict(self.config).items()}
        values |= {
            f"cache.{key}": value if isinstance(value, int) else str(value)
            for key, value in asdict(self.policy).items()
        }
        for number, path in enumerate(weight_files(self.weights)):
            values[f"weights.{number}"] = about_file(path)
        if self.stage0 is not None:
            values |= {f"stage0.{role}": about_file(path) for role, path in needed(self.plan, self.stage0).items()}
        return values


def about_file(path: Path) -> str:
    """Of a folder its name alone."""
    if path.is_dir():
        return path.name
    return f"{path.name}, {path.stat().st_size} bytes, header {header_digest(path)}"


def needed(plan: Plan, stage0: Stage0Job) -> dict[str, Path]:
    """The files of stage 0 that a worker of this plan loads, by role. Raises PlanRefused naming one that is missing."""
    found: dict[str, Path] = {}
    for part in sorted(LOADS[plan]):
        for role in FILES_OF[part]:
            try:
                found[role] = stage0.folder.file(role)
            except CheckpointMissing as missing:
                without = [other for other in Plan if all(role not in FILES_OF[each] for each in LOADS[other])]
                raise PlanRefused(
                    f"{plan} has every worker load the {part}, and there is no {role} here",
                    where=missing.where,
                    remedy=f"put it there, or choose a plan that does without: --plan {without[0]}",
                ) from None
    return found


def weight_files(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, or what lies in its folder. Raises CheckpointMissing."""
    files = (
        [path]
        if path.is_file()
        else sorted(file for file in path.glob("*") if file.is_file() and not file.name.endswith(SUFFIX))
    )
    if not files:
        raise CheckpointMissing("no checkpoint here", where=str(path))
    return files


def header_digest(path: Path) -> str:
    """xxh3_128, hex, of what a file says of itself before its tensors: names, shapes, places."""
    with path.open("rb") as file:
        head = file.read(LENGTH_BYTES)
        length = int.from_bytes(head, "little")
        known = path.suffix == ".safetensors" and length < path.stat().st_size
        return f"{bytes_digest(head + file.read(length if known else HEAD_BYTES)):032x}"


def check_mesh(jobs: Sequence[Job], size: int) -> None:
    """Raises MeshRefused, before a process is started, for a mesh that does not divide a model."""
    for job in jobs:
        job.config.check_mesh(size)


def package_version() -> str:
    """Of the installed package; a source folder on the path has none to compare."""
    try:
        return version("genlock")
    except PackageNotFoundError:
        return "not installed"


def manifest(settings: Settings, jobs: Sequence[Job], *, size: int) -> Mapping[str, ManifestValue]:
    """Gate 1's: versions, settings that all ranks share, threads, and every job."""
    if size < 1:
        raise MeshRefused(f"a mesh of {size} ranks")
    values: dict[str, ManifestValue] = {
        "genlock": package_version(),
        "wire": WIRE_VERSION,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "mesh": size,
        "threads": torch.get_num_threads(),
    }
    values |= {
        f"setting.{option.name}": getattr(settings, option.name)
        for option in options()
        if option.parity is Parity.ALL_RANKS and option.name != "model"
    }
    for number, job in enumerate(jobs):
        values |= {f"job{number}.{key}": value for key, value in job.manifest().items()}
    return values
