"""The public surface: a few names, resolved on first use, and nothing else promised."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version

import pytest

import genlock


def test_the_public_names_are_these() -> None:
    assert genlock.__all__ == ["Chunk", "GenlockError", "Session", "__version__", "open"]
    assert dir(genlock) == sorted(genlock.__all__)


@pytest.mark.parametrize("name", genlock.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(genlock, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip()
        hints = inspect.signature(value).parameters.values()
        assert inspect.isclass(value) or all(each.annotation is not inspect.Parameter.empty for each in hints)


def test_another_name_is_refused_as_any_module_does() -> None:
    with pytest.raises(AttributeError, match="module 'genlock' has no attribute 'opened'"):
        _ = genlock.opened


def test_every_public_method_of_a_session_is_documented() -> None:
    for name, method in inspect.getmembers(genlock.Session, inspect.isfunction):
        assert name.startswith("_") or (method.__doc__ or "").strip(), name


def test_the_version_is_said_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", genlock.__version__)
    assert version("genlock") == genlock.__version__
