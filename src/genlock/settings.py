"""Every option of the run time, once: name, type, unit, default, meaning, and which ranks must agree on it.

The only place where the environment is read. A setting `threads` is the variable GENLOCK_THREADS, which the command
line reads below its flags; `genlock.open` is handed a `Settings`, or takes the defaults. `Settings` is frozen: nothing
changes while a session runs.
This module knows nothing of models, devices or files; values are checked for form, not for existence. No torch.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any

from genlock.errors import SettingUnknown, UsageError

PREFIX = "GENLOCK_"

# Variables of this prefix that are no settings of a run: name -> what reads it.
READ_ELSEWHERE = {"GENLOCK_GOLDEN": "tests: the folder that holds the recorded tensors"}

SPIN_TURNS = "4000"  # of an idle thread of the tensor library before it sleeps

Value = str | int | bool

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class Parity(StrEnum):
    """Who must hold the same value."""

    ALL_RANKS = "all ranks"  # a difference ends the start, with a table
    RANK_0 = "rank 0"  # read on rank 0 alone; what follows from it travels in the envelope


def _option(
    doc: str,
    *,
    default: Value,
    parity: Parity,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: int = 0,
) -> Any:
    """A dataclass field that carries its own documentation."""
    about = {"doc": doc, "parity": parity, "unit": unit, "choices": choices, "minimum": minimum}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is told beside its prompts. Raises UsageError naming the setting for a value out of its form."""

    model: str = _option(
        default="bundled",
        doc="the model to run: `bundled`, or the path of a model folder",
        parity=Parity.ALL_RANKS,
        unit="name or path",
    )
    device: str = _option(
        default="auto",
        doc="where the model runs; `auto` is CUDA where it works, otherwise the CPU",
        parity=Parity.ALL_RANKS,
        choices=("auto", "cpu", "cuda"),
    )
    dtype: str = _option(
        default="auto",
        doc="precision of the generator; `auto` is float32 on the CPU and bfloat16 on CUDA",
        parity=Parity.ALL_RANKS,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    threads: int = _option(
        default=0,
        doc="CPU threads of the tensor library; 0 leaves its own choice",
        parity=Parity.ALL_RANKS,
        unit="threads",
    )
    regime: str = _option(
        default="auto",
        doc="what the cache is rebuilt from before a chunk: `R0a` exact, `R0` latents only, `R1` never; "
        "`auto` is the model's own",
        parity=Parity.RANK_0,
        choices=("auto", "R0a", "R0", "R1"),
    )
    strict: bool = _option(
        default=True,
        doc="check every chunk's latents for NaN and infinity, which waits for the device once a chunk",
        parity=Parity.ALL_RANKS,
    )
    text_cache: int = _option(
        default=64,
        doc="prompts whose embeddings are kept, the least recently used going first",
        parity=Parity.RANK_0,
        unit="prompts",
        minimum=1,
    )

    def __post_init__(self) -> None:
        for option in options():
            option.check(getattr(self, option.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting, described: what a reference page, a manifest and `genlock doctor` print."""

    name: str
    kind: type
    default: Value
    doc: str
    unit: str
    parity: Parity
    choices: tuple[str, ...]
    minimum: int

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def parse(self, text: str) -> Value:
        """The value a variable's text stands for. Raises UsageError naming the variable."""
        word = text.strip()
        if self.kind is bool:
            if word.lower() not in _TRUE + _FALSE:
                raise UsageError(f"{word!r} is neither on nor off", where=self.variable, remedy="use 1 or 0")
            return word.lower() in _TRUE
        if self.kind is int:
            try:
                return int(word)
            except ValueError:
                raise UsageError(f"{word!r} is not a whole number", where=self.variable, remedy=self.advice) from None
        return word

    def check(self, value: Value) -> None:
        """Raises UsageError, naming the variable, unless `value` has the option's type and range."""
        fits = type(value) is self.kind
        if isinstance(value, str):
            fits = fits and (value in self.choices if self.choices else bool(value))
        else:
            fits = fits and value >= self.minimum
        if not fits:
            raise UsageError(f"{value!r} cannot be the setting {self.name}", where=self.variable, remedy=self.advice)

    @property
    def advice(self) -> str:
        if self.choices:
            return f"use {', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.kind is int:
            return f"use a whole number of {self.unit}, {self.minimum} or more"
        return "use 1 or 0" if self.kind is bool else f"give a {self.unit}"


def options() -> tuple[Option, ...]:
    """Every setting there is, in the order of `Settings`."""
    found = []
    for each in fields(Settings):
        assert each.default is not MISSING  # every setting has one default, and this is the only place that says it
        found.append(Option(name=each.name, kind=type(each.default), default=each.default, **each.metadata))
    return tuple(found)


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Settings as the variables in `environ` say, with defaults for the rest.

    Raises SettingUnknown for a GENLOCK_ variable that does not exist, UsageError for a value out of its form.
    """
    known = {option.variable: option for option in options()}
    values: dict[str, Any] = {}
    for name in sorted(n for n in environ if n.startswith(PREFIX) and n not in READ_ELSEWHERE):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise SettingUnknown(
                f"there is no setting {name}",
                where="environment",
                remedy=f"did you mean {near[0]}?" if near else "",
            )
        values[known[name].name] = known[name].parse(environ[name])
    return Settings(**values)


def share_the_cores(environ: MutableMapping[str, str] | None = None) -> None:
    """Lets the tensor library's idle threads spin briefly, then sleep; before torch is loaded, or without effect.

    Delivered frames/s of the bundled model on two cores, quiet and with one other busy process: sleeping at once 14 and
    13, this many turns 19 to 23 and 7, twenty-five times as many 25 and 1.5. A policy that is set already stays.
    """
    variables = os.environ if environ is None else environ
    if "OMP_WAIT_POLICY" not in variables:
        variables.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)


def from_environment() -> Settings:
    """Settings as this process's environment says. Errors as in `settings_from`."""
    return settings_from(os.environ)


def origins(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where each setting's value comes from: the variable that sets it, or "default"."""
    variables = os.environ if environ is None else environ
    return {o.name: o.variable if o.variable in variables else "default" for o in options()}
