"""What can be said about the small world: factors, worlds made of them, and scripts that change them over time.

Pure data. It does not know how anything looks (render.py) or is called in words (captions.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

FRAMES_PER_SECOND = 16
LOOK_FADE = 8
"""Frames over which colour, light, weather and motion change into the next scene's."""
SHAPE_FADE = 6
"""Frames over which one subject or place dissolves into the next."""

SUBJECTS = ("balloon", "boat", "car", "rocket", "bird", "kite", "plane", "whale")
COLOURS = ("red", "yellow", "green", "blue", "purple", "orange", "pink", "white")
MOTIONS = ("floats", "drifts left", "drifts right", "rises", "sinks", "bounces")
PLACES = ("sea", "meadow", "city", "desert", "mountains")
LIGHTS = ("noon", "sunset", "night", "morning")
WEATHERS = ("clear", "rain", "snow", "fog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """One picture's worth of decisions; every value is one of the tuples above."""

    subject: str
    colour: str
    motion: str
    place: str
    light: str
    weather: str

    def __post_init__(self) -> None:
        known = {
            "subject": SUBJECTS,
            "colour": COLOURS,
            "motion": MOTIONS,
            "place": PLACES,
            "light": LIGHTS,
            "weather": WEATHERS,
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} {getattr(self, name)!r} is not in the world: choose from {', '.join(values)}")


def _usual(subject: str, colour: str, place: str) -> Factors:
    return Factors(subject=subject, colour=colour, motion="floats", place=place, light="noon", weather="clear")


USUAL = {
    "balloon": _usual("balloon", "red", "sea"),
    "boat": _usual("boat", "white", "sea"),
    "car": _usual("car", "yellow", "city"),
    "rocket": _usual("rocket", "red", "desert"),
    "bird": _usual("bird", "blue", "meadow"),
    "kite": _usual("kite", "yellow", "meadow"),
    "plane": _usual("plane", "white", "mountains"),
    "whale": _usual("whale", "blue", "sea"),
}
"""What a first prompt means where it says nothing but the subject. Later, what is unsaid stays as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSpec:
    """Which values of each factor are in a world."""

    subjects: tuple[str, ...]
    colours: tuple[str, ...]
    motions: tuple[str, ...]
    places: tuple[str, ...]
    lights: tuple[str, ...]
    weathers: tuple[str, ...]

    def combinations(self) -> list[Factors]:
        """Every combination, in a fixed order."""
        return [
            Factors(subject=subject, colour=colour, motion=motion, place=place, light=light, weather=weather)
            for subject, colour, motion, place, light, weather in itertools.product(
                self.subjects, self.colours, self.motions, self.places, self.lights, self.weathers
            )
        ]


FIRST_WORLD = WorldSpec(
    subjects=SUBJECTS[:4],
    colours=COLOURS[:5],
    motions=MOTIONS[:1],
    places=PLACES[:3],
    lights=LIGHTS[:3],
    weathers=WEATHERS[:1],
)
FULL_WORLD = WorldSpec(
    subjects=SUBJECTS, colours=COLOURS, motions=MOTIONS, places=PLACES, lights=LIGHTS, weathers=WEATHERS
)
"""Everything that can be drawn and said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a stream shows: (first pixel frame, factors) pairs, the first at frame 0, each later one a change.

    Raises ValueError when the first scene is not at 0 or two scenes are closer than LOOK_FADE frames: a fade must end
    before the next begins.
    """

    scenes: tuple[tuple[int, Factors], ...]

    def __post_init__(self) -> None:
        if not self.scenes or self.scenes[0][0] != 0:
            raise ValueError("a script's first scene must begin at frame 0")
        for (before, _), (after, _) in itertools.pairwise(self.scenes):
            if after - before < LOOK_FADE:
                raise ValueError(f"scenes at frames {before} and {after} are closer than {LOOK_FADE} frames")
