"""What the bundled model is asked when it is judged: combinations that training never showed, in words it never read.

Each question is one stream: a first prompt, a second one that changes one factor, a third one after a hard cut. Pure
data, the same for everybody; it knows no model and no pixels.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

from .captions import caption, held_out, names_all
from .scene import Factors, WorldSpec
from .takes import FACTOR_NAMES

TRIES = 400
DRAWN = 16  # pairs drawn for a question; the one whose values were asked least is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What should be seen, and words that say every factor of it."""

    scene: Factors
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """changed: the factor in which `second` differs from `first`. `third` has another subject and another place."""

    number: int
    changed: str
    first: Prompt
    second: Prompt
    third: Prompt


def questions(count: int, world: WorldSpec) -> list[Question]:
    """The first so many questions; a question does not depend on how many are asked."""
    kept = sorted(held_out(world), key=str)
    if len(kept) < 2:  # a world too small to keep any out
        kept = sorted(world.combinations(), key=str)
    members = set(kept)
    changeable = [name for name in FACTOR_NAMES if len(getattr(world, f"{name}s")) > 1]
    asked: list[Question] = []
    times: Counter[tuple[str, str]] = Counter()
    for number in range(count):
        rng = random.Random(f"question {number}")
        changed = changeable[number % len(changeable)]
        pairs = [_pair(changed, kept, members, world, rng) for _ in range(DRAWN)]
        first, second = min(
            pairs, key=lambda pair: sum(times[value] * len(getattr(world, f"{value[0]}s")) for value in _items(pair[0]))
        )
        times.update(_items(first))
        third = _apart(second, kept, rng)
        prompts = [Prompt(scene=scene, text=_words(scene, world, rng)) for scene in (first, second, third)]
        asked.append(Question(number=number, changed=changed, first=prompts[0], second=prompts[1], third=prompts[2]))
    return asked


def _pair(
    changed: str, kept: list[Factors], members: set[Factors], world: WorldSpec, rng: random.Random
) -> tuple[Factors, Factors]:
    """Two scenes that differ in this factor alone, both kept out of training wherever there are such."""
    for _ in range(TRIES):
        scene = rng.choice(kept)
        values = [value for value in getattr(world, f"{changed}s") if value != getattr(scene, changed)]
        others = [replace(scene, **{changed: value}) for value in values]
        if near := [other for other in others if other in members]:
            return scene, rng.choice(near)
    return scene, rng.choice(others)


def _apart(scene: Factors, kept: list[Factors], rng: random.Random) -> Factors:
    for _ in range(TRIES):
        other = rng.choice(kept)
        if other.subject != scene.subject and other.place != scene.place:
            return other
    return other


def _items(scene: Factors) -> list[tuple[str, str]]:
    return [(name, getattr(scene, name)) for name in FACTOR_NAMES]


def _words(scene: Factors, world: WorldSpec, rng: random.Random) -> str:
    """Words that say everything, from a seed of 48 bits: far from the small ones that training draws from."""
    while True:
        text = caption(scene, random.Random(rng.getrandbits(48)), spec=world)
        if names_all(text, scene):
            return text
