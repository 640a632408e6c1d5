"""Where the subject is and which scenes are mixed at each frame of each script: pure arithmetic on the host.

Everything is a function of the script and the stream's frame index alone, and periodic in WORLD_CYCLE while a script
stands still, so an endless stream never leaves what its first seconds looked like. What a value brings with it (drops,
a tram, the beat of wings, a bounce) begins anew where the value is asked for: nothing shown before says where it is.
It knows no pixels: lengths are in reference pixels, a picture being REFERENCE_HEIGHT of them high.

N = frames of all scripts, script by script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .scene import COLOURS, LIGHTS, LOOK_FADE, PLACES, SHAPE_FADE, SUBJECTS, WEATHERS, Factors, Script

REFERENCE_HEIGHT = 128.0
REFERENCE_WIDTH = 192.0
WORLD_CYCLE = 384
"""Frames after which an unchanged world of 3:2 pictures is the same again (drifting clouds are the slowest)."""
SPEED = 2.0
"""Reference pixels a frame of drifting, rising and sinking: one latent cell of 8 pixels per latent frame of 4."""
BOB_PERIOD = 48
BOB_HEIGHT = 3.0
RETURN_FRAMES = 48
"""How long a subject that stops travelling takes to glide back to its resting place."""
BOUNCE_PERIOD = 24
BOUNCE_HEIGHT = 22.0
HOME = (96.0, 58.0)
"""Where a floating subject hovers, in a 192x128 picture."""

_VELOCITY = {"drifts left": (-SPEED, 0.0), "drifts right": (SPEED, 0.0), "rises": (0.0, -SPEED), "sinks": (0.0, SPEED)}
_START = {
    "drifts left": (40.0, 0.0),
    "drifts right": (-40.0, 0.0),
    "rises": (0.0, 24.0),
    "sinks": (0.0, -24.0),
    "bounces": (0.0, 10.0),
}
_STILL = (0.0, 0.0)
# A change of velocity is a ramp over LOOK_FADE frames; this is the new one's lost share, summed over the frames so far.
_LAG = np.concatenate([[0.0], np.cumsum(1.0 - np.arange(1, LOOK_FADE + 1) / LOOK_FADE)])

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One factor over N frames: the old value's index, the new one's, and the new one's share (1 outside a fade);
    old_since, new_since: the frames at which the two began."""

    old: Ints
    new: Ints
    share: Floats
    old_since: Ints
    new_since: Ints

    @classmethod
    def steady(cls, value: Ints) -> Mix:
        """No fade: these values alone, from frame 0."""
        since = np.zeros_like(value)
        return cls(old=value, new=value, share=np.ones(len(value)), old_since=since, new_since=since)

    @classmethod
    def joined(cls, parts: Sequence[Mix]) -> Mix:
        """One after the other."""
        return cls(
            **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    def part(self, window: slice | Ints) -> Mix:
        """The same mix over some of the N frames."""
        return Mix(**{field.name: getattr(self, field.name)[window] for field in fields(self)})

    def age(self, value: int, frame: Ints) -> Ints:
        """For how many frames a value has been there, where it is."""
        return np.asarray(frame - np.where(self.new == value, self.new_since, self.old_since))

    def of(self, table: Floats) -> Floats:
        """Blend rows of a table [values, ...] into [N, ...]."""
        share = self.share.reshape(-1, *([1] * (table.ndim - 1)))
        return table[self.old] * (1.0 - share) + table[self.new] * share


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """N frames: stream frame index, subject centre (x, y; not yet wrapped), facing (-1..1, never 0), factor mixes."""

    frame: Ints
    x: Floats
    y: Floats
    facing: Floats
    subject: Mix
    colour: Mix
    place: Mix
    light: Mix
    weather: Mix

    def __len__(self) -> int:
        return len(self.frame)

    def part(self, window: slice | Ints) -> Track:
        """The same track over some of the N frames."""
        return Track(
            frame=self.frame[window],
            x=self.x[window],
            y=self.y[window],
            facing=self.facing[window],
            subject=self.subject.part(window),
            colour=self.colour.part(window),
            place=self.place.part(window),
            light=self.light.part(window),
            weather=self.weather.part(window),
        )


def swing(frame: Ints, period: int, phase: float = 0.0) -> Floats:
    """sin of a full turn every `period` frames (phase in turns), exactly periodic."""
    return np.asarray(np.sin(2.0 * np.pi * (np.mod(frame, period) / period + phase)), dtype=np.float64)


def follow(scripts: Sequence[Script], *, first_frame: int, frames: int, span: float = REFERENCE_WIDTH) -> Track:
    """Track of frames [first_frame, first_frame + frames) of every script, N = len(scripts) * frames.

    span: width of the picture in reference pixels.
    """
    frame = np.arange(first_frame, first_frame + frames, dtype=np.int64)
    tracks = [_follow_one(script, frame, span) for script in scripts]

    mixes = {
        name: Mix.joined([getattr(track, name) for track in tracks])
        for name in ("subject", "colour", "place", "light", "weather")
    }
    return Track(
        frame=np.concatenate([track.frame for track in tracks]),
        x=np.concatenate([track.x for track in tracks]),
        y=np.concatenate([track.y for track in tracks]),
        facing=np.concatenate([track.facing for track in tracks]),
        **mixes,
    )


def _follow_one(script: Script, frame: Ints, span: float) -> Track:
    starts = np.array([start for start, _ in script.scenes], dtype=np.int64)
    scene = np.searchsorted(starts, frame, side="right") - 1
    before = np.maximum(scene - 1, 0)
    age = frame - starts[scene]
    look = _share(age, LOOK_FADE, scene)
    shape = _share(age, SHAPE_FADE, scene)

    def mix(values: tuple[str, ...], name: str, share: Floats) -> Mix:
        index = np.array([values.index(getattr(factors, name)) for _, factors in script.scenes], dtype=np.int64)
        since = _since(script.scenes, name)
        return Mix(old=index[before], new=index[scene], share=share, old_since=since[before], new_since=since[scene])

    x, y = _position(script.scenes, frame, scene, before, age, look, span)
    return Track(
        frame=frame,
        x=x,
        y=y,
        facing=_facing(script.scenes, scene, before, look),
        subject=mix(SUBJECTS, "subject", shape),
        colour=mix(COLOURS, "colour", look),
        place=mix(PLACES, "place", shape),
        light=mix(LIGHTS, "light", look),
        weather=mix(WEATHERS, "weather", look),
    )


def _since(scenes: tuple[tuple[int, Factors], ...], name: str) -> Ints:
    """Of each scene, the frame at which its value of a factor began."""
    since: list[int] = []
    for index, (start, factors) in enumerate(scenes):
        goes_on = index > 0 and getattr(factors, name) == getattr(scenes[index - 1][1], name)
        since.append(since[-1] if goes_on else start)
    return np.array(since, dtype=np.int64)


def _share(age: Ints, fade: int, scene: Ints) -> Floats:
    """The newer scene's share `age` frames into it; the first scene never fades in."""
    return np.asarray(np.where(scene == 0, 1.0, np.minimum((age + 1) / fade, 1.0)), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    """One scene's way: where it began, how fast it goes and went before, how far it glides home; (x, y) each."""

    begun: Floats
    velocity: Floats
    before: Floats
    home: Floats

    def after(self, frames: Ints) -> Floats:
        """Where the subject is that many frames into the scene, [..., 2]."""
        count = np.asarray(frames)[..., None]
        lag = _LAG[np.minimum(count, LOOK_FADE)]
        glide = np.minimum(count / RETURN_FRAMES, 1.0)
        way = self.velocity * count + (self.before - self.velocity) * lag
        return np.asarray(self.begun + way + self.home * glide * glide * (3.0 - 2.0 * glide))


def _legs(scenes: tuple[tuple[int, Factors], ...], span: float) -> list[_Leg]:
    """Along an axis on which it no longer travels, the subject glides back to where it rests, the shorter way round."""
    period = np.array([span, REFERENCE_HEIGHT])
    legs: list[_Leg] = []
    for index, (start, factors) in enumerate(scenes):
        velocity = np.array(_VELOCITY.get(factors.motion, _STILL))
        rest = np.array(_START.get(factors.motion, _STILL))
        before = legs[-1].velocity if legs else velocity
        begun = legs[-1].after(np.array(start - scenes[index - 1][0])) if legs else rest
        away = begun + before * _LAG[-1] - rest
        home = np.where(velocity == 0.0, period / 2.0 - np.mod(away + period / 2.0, period), 0.0)
        legs.append(_Leg(begun=begun, velocity=velocity, before=before, home=home))
    return legs


def _position(
    scenes: tuple[tuple[int, Factors], ...],
    frame: Ints,
    scene: Ints,
    before: Ints,
    age: Ints,
    look: Floats,
    span: float,
) -> tuple[Floats, Floats]:
    place = np.empty((len(frame), 2))
    for index, leg in enumerate(_legs(scenes, span)):
        here = scene == index
        place[here] = leg.after(age[here]) + np.array(HOME)

    since = _since(scenes, "motion")
    bobs, bounces = (
        np.array([amount if factors.motion == motion else 0.0 for _, factors in scenes])
        for motion, amount in (("floats", BOB_HEIGHT), ("bounces", BOUNCE_HEIGHT))
    )

    def below(of: Ints) -> Floats:
        moved = frame - since[of]
        turn = np.mod(moved, BOUNCE_PERIOD) / BOUNCE_PERIOD
        return np.asarray(bobs[of] * swing(moved, BOB_PERIOD) - bounces[of] * 4.0 * turn * (1.0 - turn))

    return place[:, 0], place[:, 1] + below(before) * (1.0 - look) + below(scene) * look


def _facing(scenes: tuple[tuple[int, Factors], ...], scene: Ints, before: Ints, look: Floats) -> Floats:
    """Turning round narrows the subject like a card being flipped, but never to nothing."""
    side = np.array([-1.0 if factors.motion == "drifts left" else 1.0 for _, factors in scenes])
    turn = side[before] * (1.0 - look) + side[scene] * look
    narrowest = 0.3
    sign = np.where(turn == 0.0, side[scene], np.sign(turn))
    return np.asarray(sign * (narrowest + (1.0 - narrowest) * np.abs(turn)))
