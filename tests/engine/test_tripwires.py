"""The table of tripwires is true: each row's place is there and raises its error, each is tripped by a test or a drill,
and every error that ends a run has its row."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import textwrap
from collections import Counter
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.test_manuals import CLASS_OF, CROSSWALK, ROOT, every_error, named_tests

from genlock.drills.catalogue import CATALOGUE
from genlock.engine.tripwires import BRING_UP, COSTS, THINNED, TRIPWIRES, Cadence, Row, costs, standing
from genlock.errors import MeshDisagrees, Tripwire
from genlock.settings import Guard, Settings
from genlock.wire.verdict import Verdict

KEPT = ROOT / "benchmarks" / "results" / "tripwires.json"
ENDS_A_RUN = 10  # exit codes from here on
rows = pytest.mark.parametrize("row", TRIPWIRES, ids=lambda row: row.name)
settings = st.builds(
    Settings,
    bring_up=st.booleans(),
    strict=st.booleans(),
    check_every=st.integers(1, 100),
    guards_off=st.just("none") | st.sets(st.sampled_from(Guard), min_size=1).map(",".join),
)


def test_every_error_that_ends_a_run_has_a_row() -> None:
    ends = {kind.code for kind in every_error() if kind.exit_code >= ENDS_A_RUN and kind is not Tripwire}
    assert ends - {row.code for row in TRIPWIRES} == set()
    assert {row.code for row in TRIPWIRES} <= CLASS_OF.keys()


def test_every_name_is_one_and_every_guard_has_a_row() -> None:
    assert [name for name, count in Counter(row.name for row in TRIPWIRES).items() if count > 1] == []
    assert {row.guard for row in TRIPWIRES if row.guard is not None} == set(Guard)
    assert all(row.name == row.guard for row in TRIPWIRES if row.name in set(Guard))


@rows
def test_the_place_of_a_row_raises_its_error(row: Row) -> None:
    column = row.name in {field.name for field in fields(Verdict)}
    assert raises(*there(row.place), CLASS_OF[row.code]) or (column and row.code == MeshDisagrees.code)
    assert raises(*there("genlock/wire/verdict.py:compare"), "MeshDisagrees")


def test_a_place_that_only_says_what_must_be_done_is_not_one_that_does() -> None:
    assert not raises(*there("genlock/fabric/connection.py:Connection.receive"), "LinkBroken")
    assert raises(*there("genlock/fabric/connection.py:SocketConnection.receive"), "LinkBroken")


def there(place: str) -> tuple[Any, Any, Any]:
    """The module, what the function is an attribute of, and the function."""
    file, dotted = place.split(":")
    owner = within = module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for name in dotted.split("."):
        owner, within = within, getattr(within, name)
    return module, owner, within


def raises(module: Any, owner: Any, function: Any, error: str, depth: int = 2) -> bool:
    """Whether an error is named in a function, or in one that it calls of the same module or class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    if error in names or not depth:
        return error in names
    called = [getattr(place, name, None) for place in (owner, module) for name in names]
    own = {each for each in called if inspect.isfunction(each) and each.__module__ == module.__name__}
    return any(raises(module, owner, each, error, depth - 1) for each in own - {function})


@rows
def test_a_row_is_tripped_by_something_and_holds_something_off(row: Row) -> None:
    drill = row.shown_by.removeprefix("genlock drill ")
    if drill != row.shown_by:
        assert drill in {each.name for each in CATALOGUE}
    else:
        file, name = row.shown_by.split("::")
        assert name in named_tests(file)
    assert set(row.holds_off.split(", ")) <= known()


@cache
def known() -> set[str]:
    """The ids of the crosswalk, each in full: `FM-11, 12` is two of them."""
    said = CROSSWALK.read_text()
    runs = re.findall(r"\b(FM-|OM-|H)(\d\d(?:, (?:FM-|OM-|H)?\d\d)*)", said)
    return {f"{kind}{number}" for kind, numbers in runs for number in re.findall(r"\d\d", numbers)}


@given(st.sampled_from(TRIPWIRES), settings)
def test_what_is_off_is_said_to_be_and_how_it_comes_back(row: Row, now: Settings) -> None:
    stands = standing(row, now)
    named = now.guards_off.split(",")
    off = row.guard is not None and (row.guard in named or (row.guard is Guard.FINITE and not now.strict))
    assert stands.off == off
    assert stands.looks == (not off and (row.cadence is not Cadence.BRING_UP or now.bring_up))
    every = 1 if now.bring_up else now.check_every
    thinned = row.cadence in THINNED and every > 1
    assert bool(stands.remedy) == (off or thinned or (row.cadence is Cadence.BRING_UP and not now.bring_up))
    if thinned and not off:
        assert str(every) in stands.words or row.cadence is Cadence.TURN
    if stands.remedy == BRING_UP:
        assert standing(row, Settings(bring_up=True)).looks


def test_by_default_everything_looks_but_what_is_for_bring_up() -> None:
    idle = {row.name for row in TRIPWIRES if not standing(row, Settings()).looks}
    assert idle == {row.name for row in TRIPWIRES if row.cadence is Cadence.BRING_UP}


def test_what_a_tripwire_costs_was_measured() -> None:
    kept = json.loads(KEPT.read_text())
    assert json.loads(COSTS.read_text())["share_of_a_chunk"] == kept["each_share"]
    assert {row.cost for row in TRIPWIRES if row.cost} <= costs().keys()
    assert kept["ok"]
    assert kept["sum_of_shares"] == pytest.approx(sum(costs().values()), abs=1e-5), "all of them"
    assert kept["sum_of_shares"] < 0.01
