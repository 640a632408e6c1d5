"""A model folder: `model.json` and the files it names. What a user points `--model` at, and what the package ships.

`model.json` holds the preset (how the model is run), the names and digests of its files, and what it can be told. Reads
and writes that one file; weights are others' business. No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import xxhash

from genlock.errors import CheckpointConfig, CheckpointMissing, CheckpointUnreadable, GenlockError
from genlock.generator.config import GeneratorConfig
from genlock.generator.presets import Preset
from genlock.generator.whole_file import whole_file

FORMAT = 1
MODEL_JSON = "model.json"
DIGEST = "[0-9a-f]{32}"  # xxh3_128
REMEDY = "correct model.json, or fetch the folder again"
PIECE_BYTES = 16 * 2**20
FILES = {
    "generator": "generator.safetensors",
    "vae": "vae.safetensors",
    "text": "text.safetensors",
    "tokenizer": "tokenizer.json",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What a folder says of itself. files: role -> name. digests: name -> xxh3_128, hex. words: of its vocabulary,
    empty where it knows sub-words. phrases: what prompts are made of, by kind, and example: such a prompt; for people,
    empty where anything can be said."""

    path: Path
    preset: Preset
    files: Mapping[str, str] = field(default_factory=lambda: dict(FILES))
    digests: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    phrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    example: str = ""

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
    """xxh3_128 of a file, hex; read in pieces. Raises CheckpointUnreadable."""
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except OSError as error:
        raise CheckpointUnreadable(f"cannot be read ({error.strerror})", where=str(path)) from None
    return digest.hexdigest()


def read_model_folder(path: Path) -> ModelFolder:
    """Raises CheckpointMissing without a model.json, CheckpointUnreadable if it is no JSON, CheckpointConfig naming
    the key that is unknown, missing or wrong."""
    source = path / MODEL_JSON
    where = str(source)
    if not source.is_file():
        raise CheckpointMissing("no model.json", where=str(path), remedy="give a model folder, or a preset's name")
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(f"not JSON ({error})", where=where) from None
    if isinstance(content, dict):
        content = {"phrases": {}, "example": "", **content}
    _keys(content, {"format", "preset", "files", "digests", "words", "phrases", "example"}, where=where)
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise _refusal(f"format {content['format']!r}, this version reads {FORMAT}", where=where)
    preset: Preset = _record(content["preset"], Preset, "preset", where=where)
    _keys(content["files"], set(FILES), where=f"{where}, files")
    for role, name in content["files"].items():
        if not isinstance(name, str) or Path(name).name != name:
            raise _refusal(f"files.{role} {name!r} is no name of a file in this folder", where=where)
    digests, words = content["digests"], content["words"]
    if not isinstance(digests, dict) or not all(re.fullmatch(DIGEST, str(digest)) for digest in digests.values()):
        raise _refusal("digests are not names with 32 hexadecimal digits", where=where)
    if foreign := sorted(set(digests) - set(content["files"].values())):
        raise _refusal(f"digests has {foreign[0]!r}, which is not one of the files", where=where)
    if not _texts(words):
        raise _refusal("words is no list of words", where=where)
    phrases, example = content["phrases"], content["example"]
    if not isinstance(phrases, dict) or not all(_texts(said) for said in phrases.values()):
        raise _refusal("phrases are not lists of phrases by kind", where=where)
    if not isinstance(example, str):
        raise _refusal("example is no prompt", where=where)
    return ModelFolder(
        path=path,
        preset=preset,
        files=content["files"],
        digests=digests,
        words=tuple(words),
        phrases=phrases,
        example=example,
    )


def write_model_folder(
    path: Path,
    preset: Preset,
    *,
    words: Sequence[str] = (),
    phrases: Mapping[str, Sequence[str]] | None = None,
    example: str = "",
) -> ModelFolder:
    """Writes model.json beside files that are already there, with their digests. Raises CheckpointMissing."""
    folder = ModelFolder(path=path, preset=preset, words=tuple(words), phrases=phrases or {}, example=example)
    digests = {folder.files[role]: file_digest(folder.file(role)) for role in FILES}
    content = {
        "format": FORMAT,
        "preset": asdict(preset),
        "files": dict(folder.files),
        "digests": digests,
        "words": list(words),
        "phrases": {kind: list(said) for kind, said in folder.phrases.items()},
        "example": example,
    }
    with whole_file(path / MODEL_JSON) as partial:
        partial.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return replace(folder, digests=digests)


def _record(content: object, kind: Any, name: str, *, where: str) -> Any:
    """The dataclass `kind` that a JSON object says in full. Raises CheckpointConfig naming what is unknown, missing or
    of another type."""
    hints = get_type_hints(kind)
    values = _keys(content, set(hints), where=f"{where}, {name}")
    if kind is GeneratorConfig and (zero := next((key for key in hints if values[key] == 0), None)):
        raise _refusal(f"{name}.{zero} cannot be 0", where=where)
    typed = {key: _value(values[key], hint, f"{name}.{key}", where=where) for key, hint in hints.items()}
    try:
        return kind(**typed)
    except GenlockError as error:  # values that contradict each other
        raise _refusal(f"{name}: {error.what}", where=where) from None


def _value(value: Any, hint: Any, name: str, *, where: str) -> Any:
    """A JSON value as the type its field has: a record, a word of an enumeration, a tuple of numbers, or plain."""
    if is_dataclass(hint):
        return _record(value, hint, name, where=where)
    choices = get_args(hint)
    if value is None and NoneType in choices:
        return None
    kind = choices[0] if NoneType in choices else hint
    if kind in (int, float):
        # No size of a model is negative, and no JSON true is a 1; NaN is neither.
        if type(value) in (int, kind) and value >= 0:
            return value
    elif kind in (bool, str):
        if type(value) is kind:
            return value
    elif get_origin(kind) is tuple:
        if isinstance(value, list):
            return tuple(_value(item, choices[0], name, where=where) for item in value)
    elif value in list(kind):
        return kind(value)
    raise _refusal(f"{name} cannot be {value!r}", where=where)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _refusal(what: str, *, where: str) -> CheckpointConfig:
    return CheckpointConfig(what, where=where, remedy=REMEDY)


def _keys(content: object, wanted: set[str], *, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _refusal("is no JSON object", where=where)
    for key in sorted(content.keys() ^ wanted):
        raise _refusal(f"{'unknown' if key in content else 'missing'} key {key!r}", where=where)
    return content
