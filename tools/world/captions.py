"""What people would say about a scene: a small grammar with synonyms, word orders and left-out factors.

Also which combinations training never sees. It knows no pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Mapping

from .scene import USUAL, Factors, WorldSpec

HELD_OUT_SHARE = 0.1
COMPOSITION = ("subject", "colour", "place", "light")
"""The factors whose combinations are kept out of training; motion and weather come with all of them."""

# In every table the plain word comes first.
_SUBJECTS = {
    "balloon": ("balloon", "hot-air balloon", "big balloon"),
    "boat": ("boat", "sailboat", "sailing boat"),
    "car": ("car", "little car", "automobile"),
    "rocket": ("rocket", "space rocket", "spaceship"),
    "bird": ("bird", "little bird", "songbird"),
    "kite": ("kite", "paper kite", "flying kite"),
    "plane": ("plane", "airplane", "little plane"),
    "whale": ("whale", "big whale", "friendly whale"),
}
_COLOURS = {
    "red": ("red", "red", "scarlet"),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    "orange": ("orange", "orange", "tangerine"),
    "pink": ("pink", "pink", "rosy"),
    "white": ("white", "white", "ivory"),
}
_MOTIONS = {
    # as a verb, as a participle
    "floats": (("floats", "floating"), ("hovers", "hovering"), ("stays", "staying")),
    "drifts left": (("drifts left", "drifting left"), ("moves to the left", "moving to the left")),
    "drifts right": (("drifts right", "drifting right"), ("moves to the right", "moving to the right")),
    "rises": (("rises", "rising"), ("climbs", "climbing"), ("goes up", "going up")),
    "sinks": (("sinks", "sinking"), ("descends", "descending"), ("goes down", "going down")),
    "bounces": (("bounces", "bouncing"), ("hops", "hopping"), ("jumps up and down", "jumping up and down")),
}
_PLACES = {
    "sea": ("over the sea", "above the sea", "over the ocean", "above the waves"),
    "meadow": ("over the meadow", "above a meadow", "over grassy fields", "above the countryside"),
    "city": ("over the city", "above the city", "over the town", "above the rooftops"),
    "desert": ("over the desert", "above the desert", "over the dunes", "above the sand"),
    "mountains": ("over the mountains", "above the mountains", "over rocky peaks", "above the summits"),
}
_LIGHTS = {
    "noon": ("at noon", "at midday", "in daylight"),
    "sunset": ("at sunset", "at dusk", "in the evening"),
    "night": ("at night", "by moonlight", "in the dark"),
    "morning": ("in the morning", "at dawn", "at sunrise"),
}
_WEATHERS = {
    "clear": ("in clear weather", "under a clear sky"),
    "rain": ("in the rain", "while it rains", "in rainy weather"),
    "snow": ("in the snow", "while it snows", "in snowy weather"),
    "fog": ("in the fog", "in thick fog", "in foggy weather"),
}
_OPENINGS = ("a picture of", "an illustration of", "a drawing of", "a video of")
_ARTICLES = ("a", "an", "the", "one")
_PUNCTUATION = ","

_DROP = {"colour": 0.06, "motion": 0.2, "place": 0.05, "light": 0.06, "weather": 0.1}
"""How often a factor goes unsaid although it could be another in this world."""
_DROP_CLEAR = 0.6
SCANT = dict.fromkeys(_DROP, 0.5)
"""How often a factor goes unsaid where people are short."""
_DROP_USUAL = 0.7
_SAY_THE_OBVIOUS = 0.1
"""How often a factor is said although this world has only one value for it."""


def caption(
    factors: Factors,
    rng: random.Random,
    *,
    spec: WorldSpec,
    everything: bool = False,
    drop: Mapping[str, float] | None = None,
) -> str:
    """One of many true ways to say a scene, in lower case; the subject is always named.

    everything: say every factor that has more than one value in this world. drop: how often each goes unsaid.
    """
    said = {
        name: (everything and len(getattr(spec, f"{name}s")) > 1) or _is_said(name, factors, rng, spec, drop)
        for name in _DROP
    }
    noun = rng.choice(_SUBJECTS[factors.subject])
    if said["colour"]:
        noun = f"{rng.choice(_COLOURS[factors.colour])} {noun}"
    article = rng.choice(("the", "one")) if rng.random() < 0.15 else _article(noun)
    verb, participle = rng.choice(_MOTIONS[factors.motion])
    where = rng.choice(_PLACES[factors.place]) if said["place"] else ""
    around = [rng.choice(_LIGHTS[factors.light])] if said["light"] else []
    if said["weather"]:
        around.append(rng.choice(_WEATHERS[factors.weather]))
    rng.shuffle(around)
    order = rng.random()
    if order < 0.15:
        what = f"{rng.choice(_OPENINGS)} {article} {noun}"
        return _words(what, participle if said["motion"] else "", where, *around)
    thing = f"{article} {noun}"
    move = (verb if rng.random() < 0.6 else participle) if said["motion"] else ""
    if order < 0.55:
        return _words(thing, move, where, *around)
    if order < 0.75 and around:
        return _words(*around, ",", thing, move, where)
    if order < 0.85 and where:
        return _words(where, *around, ",", thing, move)
    return _words(thing, move, *around, where)


def opening(factors: Factors, rng: random.Random, *, spec: WorldSpec) -> str:
    """One of many ways to ask for a scene where nothing came before: what is usual often goes unsaid."""
    usual = USUAL[factors.subject]
    drop = {name: _DROP_USUAL if getattr(factors, name) == getattr(usual, name) else 0.0 for name in _DROP}
    return caption(factors, rng, spec=spec, drop=drop)


def plain_caption(factors: Factors, *, spec: WorldSpec) -> str:
    """The one plain way to say a scene, naming every factor that has more than one value in this world."""
    thing = f"{factors.colour} {factors.subject}"
    move = _MOTIONS[factors.motion][0][0] if len(spec.motions) > 1 else ""
    weather = _WEATHERS[factors.weather][0] if len(spec.weathers) > 1 else ""
    return _words(_article(thing), thing, move, _PLACES[factors.place][0], _LIGHTS[factors.light][0], weather)


def named(text: str, factors: Factors) -> set[str]:
    """Which of a scene's factors a caption of it says."""
    phrases = {
        "subject": _SUBJECTS[factors.subject],
        "colour": _COLOURS[factors.colour],
        "motion": tuple(itertools.chain.from_iterable(_MOTIONS[factors.motion])),
        "place": _PLACES[factors.place],
        "light": _LIGHTS[factors.light],
        "weather": _WEATHERS[factors.weather],
    }
    return {name for name, choices in phrases.items() if any(phrase in text for phrase in choices)}


def names_all(text: str, factors: Factors) -> bool:
    """Whether a caption says every factor, a clear sky too."""
    return len(named(text, factors)) == 1 + len(_DROP)


def phrases() -> dict[str, list[str]]:
    """What captions are made of, by kind, the plain ways first."""
    tables = {"subjects": _SUBJECTS, "colours": _COLOURS, "places": _PLACES, "lights": _LIGHTS, "weathers": _WEATHERS}
    said = {kind: list(itertools.chain.from_iterable(table.values())) for kind, table in tables.items()}
    said["motions"] = list(itertools.chain.from_iterable(itertools.chain.from_iterable(_MOTIONS.values())))
    order = ("subjects", "colours", "motions", "places", "lights", "weathers")
    return {kind: list(dict.fromkeys(said[kind])) for kind in order} | {"openings": list(_OPENINGS)}


def split_words(text: str) -> list[str]:
    """A caption's words, commas among them."""
    return re.findall(r"[a-z-]+|,", text)


def vocabulary() -> list[str]:
    """Every word the grammar can say (and the comma), sorted."""
    phrases = [*_OPENINGS, *_ARTICLES, _PUNCTUATION]
    for table in (_SUBJECTS, _COLOURS, _PLACES, _LIGHTS, _WEATHERS):
        phrases.extend(itertools.chain.from_iterable(table.values()))
    for forms in _MOTIONS.values():
        phrases.extend(itertools.chain.from_iterable(forms))
    return sorted({word for phrase in phrases for word in split_words(phrase)})


def held_out(spec: WorldSpec) -> set[Factors]:
    """About a tenth of the world's (subject, colour, place, light), with every motion and weather, never trained on.

    A combination is in or out by its name, so a smaller world's held-out ones stay out of a larger one; but none is
    held out that would take the last sight of a pair of values away from training.
    """
    members: dict[tuple[str, ...], list[Factors]] = {}
    for factors in spec.combinations():
        members.setdefault(tuple(getattr(factors, name) for name in COMPOSITION), []).append(factors)
    seen: dict[tuple[tuple[int, str], ...], int] = {}
    for values in members:
        for pair in itertools.combinations(enumerate(values), 2):
            seen[pair] = seen.get(pair, 0) + 1
    kept_out: set[Factors] = set()
    for values in sorted(members):
        pairs = list(itertools.combinations(enumerate(values), 2))
        if _lot(values) < HELD_OUT_SHARE and all(seen[pair] > 1 for pair in pairs):
            kept_out.update(members[values])
            for pair in pairs:
                seen[pair] -= 1
    return kept_out


def _is_said(
    name: str, factors: Factors, rng: random.Random, spec: WorldSpec, drop: Mapping[str, float] | None
) -> bool:
    choices = getattr(spec, f"{name}s")
    if len(choices) <= 1:
        return rng.random() < _SAY_THE_OBVIOUS
    if drop is not None:
        return rng.random() >= drop[name]
    return rng.random() >= (_DROP_CLEAR if name == "weather" and factors.weather == "clear" else _DROP[name])


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part).replace(" ,", ",")


def _lot(values: tuple[str, ...]) -> float:
    """A number in 0..1 drawn from the names themselves."""
    digest = hashlib.sha256(" ".join(values).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
