"""Files of named tensors: one safetensors file, a sharded folder, or a pickle opened by the weights-only loader.

A `TensorFile` knows the name, shape and dtype of everything it holds before any of it is read, and reads whole tensors
or a slice of one, so that a rank never touches bytes it does not keep. Knows nothing of models or key names.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genlock.errors import (
    CheckpointDtype,
    CheckpointKeys,
    CheckpointMissing,
    CheckpointUnreadable,
    InputOutputError,
)
from genlock.generator.whole_file import whole_file

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
INDEX_SUFFIX = ".safetensors.index.json"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin")
# Dictionaries that training scripts wrap weights in; the averaged weights first. The name found is kept as metadata.
CONTAINERS = ("generator_ema", "generator", "generator_lora", "model", "state_dict")
DERIVED = "freqs"  # a rotary table some saves carry: computed, never a weight, and sometimes complex
# What the weights-only loader raises on damaged bytes, besides its own refusal.
DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    AssertionError, OverflowError, OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Part of one dimension: entries start to stop of dimension dim."""

    dim: int
    start: int
    stop: int

    def of(self, tensor: Any) -> Tensor:
        """The part of a tensor, or of a safetensors slice (which then reads nothing else)."""
        taken: Tensor = tensor[(slice(None),) * self.dim + (slice(self.start, self.stop),)]
        return taken


class TensorFile:
    """Named floating-point tensors that lie in one or more files. Use as a context manager; reads come after.

    metadata: the strings of the safetensors header; for a pickle, {"container": name} where one was unwrapped.
    shapes: name -> shape of everything that can be read. bytes_total: of all of it. bytes_read: of what was taken out,
    a slice counting as itself and a pickle that cannot be mapped as whole; the system may fetch whole pages around it.
    Raises as `open_tensors` says.
    """

    def __init__(self, path: Path, files: list[Path], *, device: str = "cpu") -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.bytes_total = self.bytes_read = 0
        self._in_memory: set[str] = set()  # read when the file was opened
        self._sources: dict[str, Any] = {}
        self._device = device
        self._open_files = ExitStack()
        try:
            for file in files:
                self._add_pickle(file) if file.suffix in PICKLE_SUFFIXES else self._add_safetensors(file)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sources.clear()
        self._open_files.close()

    def read(self, name: str, part: Part | None = None) -> Tensor:
        """One tensor, or `part` of it, in the stored dtype. May alias the mapped file: cast or clone to own it."""
        source = self._sources[name]
        try:
            if isinstance(source, Tensor):
                taken = (source if part is None else part.of(source)).to(self._device)
            else:
                taken = source.get_tensor(name) if part is None else part.of(source.get_slice(name))
        except (SafetensorError, OSError) as error:
            raise CheckpointUnreadable(
                f"tensor {name!r} cannot be read: {one_line(error)}", where=str(self.path)
            ) from None
        self.bytes_read += 0 if name in self._in_memory else taken.nbytes
        return taken

    def _add_safetensors(self, file: Path) -> None:
        try:
            handle = self._open_files.enter_context(safe_open(file, framework="pt", device=self._device))
            names = list(handle.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointUnreadable(f"not a whole safetensors file: {one_line(error)}", where=str(file)) from None
        self.metadata |= handle.metadata() or {}
        for name in names:
            stored = handle.get_slice(name)
            self._add(file, name, tuple(stored.get_shape()), stored.get_dtype(), handle)

    def _add_pickle(self, file: Path) -> None:
        container, tensors = _unwrap(_load_pickle(file), file)
        if container:
            self.metadata["container"] = container
        names = {dtype: name for name, dtype in FLOATS.items()}
        if not zipfile.is_zipfile(file):
            self._in_memory |= set(tensors)
            self.bytes_read += sum(tensor.nbytes for tensor in tensors.values())
        for name, tensor in tensors.items():
            self._add(file, name, tuple(tensor.shape), names.get(tensor.dtype, str(tensor.dtype)), tensor)

    def _add(self, file: Path, name: str, shape: tuple[int, ...], dtype: str, source: Any) -> None:
        if name.rpartition(".")[2] == DERIVED:
            return
        if dtype not in FLOATS:
            raise CheckpointDtype(f"tensor {name!r} is {dtype.removeprefix('torch.').lower()}", where=str(file))
        if name in self.shapes:
            raise CheckpointKeys(f"tensor {name!r} is in more than one shard", where=str(file))
        self.shapes[name] = shape
        self.bytes_total += math.prod(shape) * FLOATS[dtype].itemsize
        self._sources[name] = source


def open_tensors(path: Path, *, device: str = "cpu") -> TensorFile:
    """Opens a .safetensors file, a `*.safetensors.index.json`, a folder of either, or a .pt / .pth / .bin pickle.

    Raises CheckpointMissing (file, folder or shard), CheckpointUnreadable (cut short, damaged, or a pickle that asks
    for more than plain tensors), CheckpointDtype (a tensor that is not float16, bfloat16 or float32), CheckpointKeys
    (a tensor twice, or one that the index promises and no shard holds).
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise CheckpointMissing("no such file", where=str(path))
    if not path.name.endswith(INDEX_SUFFIX):
        if path.suffix != ".safetensors" and path.suffix not in PICKLE_SUFFIXES:
            raise CheckpointUnreadable(
                f"a checkpoint cannot end in {path.suffix or path.name!r}",
                where=str(path),
                remedy=f"give a folder, a .safetensors file, a *{INDEX_SUFFIX}, or a .pt or .pth file",
            )
        return TensorFile(path, _siblings(path), device=device)
    promised = _read_index(path)
    files = [path.parent / name for name in sorted(set(promised.values()))]
    _check_present(files)
    opened = TensorFile(path, files, device=device)
    if absent := sorted(name for name in promised if name not in opened.shapes and name.rpartition(".")[2] != DERIVED):
        opened.close()
        raise CheckpointKeys(f"{few(absent)} promised by the index and in no shard", where=str(path))
    return opened


def read_tensors(
    path: Path, *, device: str = "cpu", dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a checkpoint and its metadata. Formats and errors: see `open_tensors`.

    dtype: cast to it; None keeps the stored one, and the tensors then map the file instead of copying it.
    """
    with open_tensors(path, device=device) as opened:
        tensors = {name: opened.read(name) for name in opened.shapes}
        metadata = dict(opened.metadata)
    return {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in tensors.items()}, metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes one safetensors file, whole or not at all. Raises InputOutputError."""
    owned = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        try:
            save_file(owned, partial, metadata=dict(metadata))
        except SafetensorError as error:
            raise InputOutputError(f"cannot write: {one_line(error)}", where=str(path)) from None


def one_line(error: BaseException) -> str:
    """The first line of an error's text, short enough for a message."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0][:160]


def _in_folder(folder: Path) -> Path:
    """The index or the one weight file of a folder; a diffusers pipeline's weights lie in `transformer/`."""
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    weights = sorted(folder.glob("*.safetensors"))
    if not indexes and not weights and (folder / "transformer").is_dir():
        return _in_folder(folder / "transformer")
    if len(indexes) == 1:
        return indexes[0]
    if not indexes and weights and len(_siblings(weights[0])) == len(weights):
        return weights[0]
    if not indexes and not weights:
        raise CheckpointMissing("no .safetensors file in this folder", where=str(folder))
    names = [file.name for file in indexes or weights]
    raise CheckpointMissing(
        f"more than one checkpoint: {few(names)}", where=str(folder), remedy="name one of the files"
    )


def _siblings(file: Path) -> list[Path]:
    """All shards of a file named `NAME-00001-of-00003.safetensors`, or the file alone."""
    numbered = re.fullmatch(r"(.+)-(\d+)-of-(\d+)\.safetensors", file.name)
    if numbered is None:
        return [file]
    stem, digits, total = numbered.groups()
    width = len(digits)
    files = [file.parent / f"{stem}-{n:0{width}}-of-{total}.safetensors" for n in range(1, int(total) + 1)]
    _check_present(files)
    return files


def _check_present(files: Iterable[Path]) -> None:
    if absent := [file for file in files if not file.is_file()]:
        raise CheckpointMissing(f"shard {absent[0].name} is missing", where=str(absent[0].parent))


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard file name. Shards must lie beside the index."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(f"not a JSON index: {one_line(error)}", where=str(path)) from None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise CheckpointUnreadable("the index has no weight_map", where=str(path))
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointUnreadable(f"the index puts {name!r} in {shard!r}, not a shard beside it", where=str(path))
    return shards


def _load_pickle(file: Path) -> object:
    # Only the zip layout of torch.save can be mapped; the older one is read whole. The loader warns of a pickle
    # protocol it was not written for; what it cannot read it refuses all the same.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except DAMAGE:
        raise CheckpointUnreadable(
            "damaged, cut short, or not a plain dictionary of tensors (nothing in it was run)", where=str(file)
        ) from None
    return content


def _unwrap(content: object, file: Path) -> tuple[str, dict[str, Tensor]]:
    """The dictionary of tensors inside a pickle's content, and the name of the one it was wrapped in."""
    container = ""
    if isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        container = next((key for key in CONTAINERS if isinstance(content.get(key), dict)), "")
        content = content.get(container)
    if not isinstance(content, dict) or not content:
        raise CheckpointUnreadable("holds no dictionary of tensors", where=str(file))
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointUnreadable(f"entry {key!r} is a {type(value).__name__}, not a tensor", where=str(file))
    return container, content


def few(names: list[str], limit: int = 3) -> str:
    """The first names and how many more there are."""
    rest = len(names) - limit
    return ", ".join(map(repr, names[:limit])) + (f" and {rest} more" if rest > 0 else "")
