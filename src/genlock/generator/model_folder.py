"""A model folder: `model.json` and the files it names. What a user points `--model` at, and what the package ships.

`model.json` holds the preset (how the model is run), the names and digests of its files, and the words it knows. Reads
and writes that one file; weights are others' business. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import xxhash

from genlock.errors import CheckpointConfig, CheckpointMissing, CheckpointUnreadable, GenlockError
from genlock.generator.config import GeneratorConfig
from genlock.generator.presets import Preset
from genlock.generator.whole_file import whole_file
from genlock.generator.window import CachePolicy, Policy, Regime, Rope

FORMAT = 1
MODEL_JSON = "model.json"
FILES = {
    "generator": "generator.safetensors",
    "vae": "vae.safetensors",
    "text": "text.safetensors",
    "tokenizer": "tokenizer.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What a folder says of itself. files: role -> name. digests: name -> xxh3_128, hex. words: of its vocabulary,
    empty where it knows sub-words."""

    path: Path
    preset: Preset
    files: Mapping[str, str] = field(default_factory=lambda: dict(FILES))
    digests: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def file(self, role: str) -> Path:
        """The file of a role. Raises CheckpointMissing."""
        path = self.path / self.files[role]
        if not path.exists():
            raise CheckpointMissing(f"no {role} here", where=str(path))
        return path

    def damaged(self) -> list[str]:
        """Names of files that are not there or not what `model.json` says. Reads them all."""
        return [
            name
            for name, digest in self.digests.items()
            if not (self.path / name).is_file() or file_digest(self.path / name) != digest
        ]


def file_digest(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def read_model_folder(path: Path) -> ModelFolder:
    """Raises CheckpointMissing without a model.json, CheckpointUnreadable if it is no JSON, CheckpointConfig naming
    the key that is unknown, missing or wrong."""
    source = path / MODEL_JSON
    if not source.is_file():
        raise CheckpointMissing("no model.json", where=str(path), remedy="give a model folder, or a preset's name")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(f"not JSON ({error})", where=str(source)) from None
    _keys(content, {"format", "preset", "files", "digests", "words"}, where=str(source))
    if content["format"] != FORMAT:
        raise CheckpointConfig(f"format {content['format']!r}, this version reads {FORMAT}", where=str(source))
    try:
        preset = _preset(content["preset"], where=str(source))
    except (GenlockError, TypeError, ValueError, KeyError) as error:
        said = error.what if isinstance(error, GenlockError) else str(error)
        raise CheckpointConfig(said, where=str(source)) from error
    _keys(content["files"], set(FILES), where=f"{source}, files")
    return ModelFolder(
        path=path,
        preset=preset,
        files=content["files"],
        digests=content["digests"],
        words=tuple(content["words"]),
    )


def write_model_folder(path: Path, preset: Preset, *, words: Sequence[str] = ()) -> ModelFolder:
    """Writes model.json beside files that are already there, with their digests. Raises CheckpointMissing."""
    folder = ModelFolder(path=path, preset=preset, words=tuple(words))
    digests = {folder.files[role]: file_digest(folder.file(role)) for role in FILES}
    content = {
        "format": FORMAT,
        "preset": asdict(preset),
        "files": dict(folder.files),
        "digests": digests,
        "words": list(words),
    }
    with whole_file(path / MODEL_JSON) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return replace(folder, digests=digests)


def _preset(values: Mapping[str, Any], *, where: str) -> Preset:
    _keys(values, {f.name for f in fields(Preset)}, where=f"{where}, preset")
    cache = dict(values["cache"])
    _keys(cache, {f.name for f in fields(CachePolicy)}, where=f"{where}, preset.cache")
    cache |= {"policy": Policy(cache["policy"]), "rope": Rope(cache["rope"])}
    regime = values["regime"]
    return Preset(
        **{
            **values,
            "generator": GeneratorConfig.from_dict(values["generator"], where=f"{where}, preset.generator"),
            "cache": CachePolicy(**cache),
            "steps": tuple(values["steps"]),
            "regime": None if regime is None else Regime(regime),
        }
    )


def _keys(content: object, wanted: set[str], *, where: str) -> None:
    if not isinstance(content, dict):
        raise CheckpointConfig("is no JSON object", where=where)
    for key in sorted(content.keys() ^ wanted):
        raise CheckpointConfig(f"{'unknown' if key in content else 'missing'} key {key!r}", where=where)
