"""What a model's weights are known to be: a fingerprint kept beside the checkpoint by the first complete start.

Ranks can agree and still all be wrong: a damaged file, an adapter merged twice. The reference is one number a
precision, the same for every mesh. Reads and writes that one small file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from genlock.errors import GateRefused, InputOutputError
from genlock.generator.whole_file import whole_file

SUFFIX = ".fingerprint.json"


def reference_path(weights: Path) -> Path:
    """Beside a checkpoint's file, or in its folder."""
    return weights / f"generator{SUFFIX}" if weights.is_dir() else weights.with_name(weights.name + SUFFIX)


def read_reference(weights: Path) -> dict[str, str]:
    """Precision -> fingerprint, 16 hexadecimal digits; empty where none is kept. Raises InputOutputError."""
    path = reference_path(weights)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputOutputError(f"cannot be read ({error})", where=str(path), remedy="remove the file") from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise InputOutputError("is no table of fingerprints", where=str(path), remedy="remove the file")
    return content


def whole(replicated: Iterable[str], sharded: Iterable[str]) -> str:
    """The model's fingerprint from what every rank reported, in hexadecimal: the replicated part counts once."""
    return f"{(int(next(iter(replicated)), 16) + sum(int(part, 16) for part in sharded)) % 2**64:016x}"


def hold_to_reference(weights: Path, dtype: str, found: str) -> str:
    """In words what the weights were held to. Raises GateRefused where they are not what they were."""
    known = read_reference(weights).get(dtype)
    if known is None:
        return f"weights {found}, no reference yet"
    if known != found:
        raise GateRefused(
            f"the weights' fingerprint is {found}, the reference says {known}",
            where=str(reference_path(weights)),
            field="weights",
            remedy="fetch the checkpoint again; if it was replaced on purpose, remove the reference",
        )
    return f"weights {found}, as the reference says"


def keep_reference(weights: Path, dtype: str, found: str) -> None:
    """Writes what a complete start found, where nothing was known. A folder that cannot be written keeps none."""
    known = read_reference(weights)
    if dtype not in known:
        with contextlib.suppress(InputOutputError, OSError), whole_file(reference_path(weights)) as partial:
            partial.write_text(json.dumps({**known, dtype: found}, indent=1) + "\n", encoding="utf-8")
