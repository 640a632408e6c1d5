"""Where the subject is and which scenes are mixed at each frame of each script: pure arithmetic on the host.

Everything is a function of the script and the stream's frame index alone, and periodic in WORLD_CYCLE while a script
stands still, so an endless stream never leaves what its first seconds looked like.
It knows no pixels: lengths are in reference pixels, a picture being REFERENCE_HEIGHT of them high.

N = frames of all scripts, script by script.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scene import COLOURS, LIGHTS, LOOK_FADE, PLACES, SHAPE_FADE, SUBJECTS, WEATHERS, Factors, Script

REFERENCE_HEIGHT = 128.0
WORLD_CYCLE = 384
"""Frames after which an unchanged world of 3:2 pictures is the same again (drifting clouds are the slowest)."""
SPEED = 2.0
"""Reference pixels a frame of drifting, rising and sinking: one latent cell of 8 pixels per latent frame of 4."""
BOB_PERIOD = 48
BOB_HEIGHT = 3.0
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

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """One factor over N frames: the old value's index, the new one's, and the new one's share (1 outside a fade)."""

    old: Ints
    new: Ints
    share: Floats

    def part(self, window: slice) -> Mix:
        """The same mix over a range of the N frames."""
        return Mix(old=self.old[window], new=self.new[window], share=self.share[window])

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

    def part(self, window: slice) -> Track:
        """The same track over a range of the N frames."""
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


def follow(scripts: Sequence[Script], *, first_frame: int, frames: int) -> Track:
    """Track of frames [first_frame, first_frame + frames) of every script, N = len(scripts) * frames."""
    frame = np.arange(first_frame, first_frame + frames, dtype=np.int64)
    tracks = [_follow_one(script, frame) for script in scripts]

    def join(name: str) -> NDArray[np.generic]:
        return np.concatenate([getattr(track, name) for track in tracks])

    def join_mix(name: str) -> Mix:
        mixes: list[Mix] = [getattr(track, name) for track in tracks]
        return Mix(
            old=np.concatenate([mix.old for mix in mixes]),
            new=np.concatenate([mix.new for mix in mixes]),
            share=np.concatenate([mix.share for mix in mixes]),
        )

    return Track(
        **{name: join(name) for name in ("frame", "x", "y", "facing")},
        **{name: join_mix(name) for name in ("subject", "colour", "place", "light", "weather")},
    )


def _follow_one(script: Script, frame: Ints) -> Track:
    starts = np.array([start for start, _ in script.scenes], dtype=np.int64)
    scene = np.searchsorted(starts, frame, side="right") - 1
    before = np.maximum(scene - 1, 0)
    age = frame - starts[scene]
    look = _share(age, LOOK_FADE, scene)
    shape = _share(age, SHAPE_FADE, scene)

    def mix(values: tuple[str, ...], name: str, share: Floats) -> Mix:
        index = np.array([values.index(getattr(factors, name)) for _, factors in script.scenes], dtype=np.int64)
        return Mix(old=index[before], new=index[scene], share=share)

    x, y = _position(script.scenes, frame, scene, before, age, look)
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


def _share(age: Ints, fade: int, scene: Ints) -> Floats:
    """The newer scene's share `age` frames into it; the first scene never fades in."""
    return np.asarray(np.where(scene == 0, 1.0, np.minimum((age + 1) / fade, 1.0)), dtype=np.float64)


def _position(
    scenes: tuple[tuple[int, Factors], ...], frame: Ints, scene: Ints, before: Ints, age: Ints, look: Floats
) -> tuple[Floats, Floats]:
    velocity = np.array([_VELOCITY.get(factors.motion, _STILL) for _, factors in scenes])
    # A change of velocity is itself a ramp over LOOK_FADE frames: its lost share, summed over the frames so far.
    ramp = np.concatenate([[0.0], np.cumsum(1.0 - np.minimum(np.arange(1, LOOK_FADE + 1) / LOOK_FADE, 1.0))])

    def travelled(index: Ints, length: Ints) -> Floats:
        lag = ramp[np.minimum(length, LOOK_FADE)][..., None]
        return np.asarray(
            velocity[index] * length[..., None] + (velocity[np.maximum(index - 1, 0)] - velocity[index]) * lag
        )

    lengths = np.diff(np.array([start for start, _ in scenes], dtype=np.int64))
    legs = travelled(np.arange(len(lengths)), lengths)
    begun = np.concatenate([np.zeros((1, 2)), np.cumsum(legs, axis=0)]) + np.array(
        _START.get(scenes[0][1].motion, _STILL)
    )
    place = begun[scene] + travelled(scene, age) + np.array(HOME)

    def height(motion: str, amount: float) -> Floats:
        table = np.array([amount if factors.motion == motion else 0.0 for _, factors in scenes])
        return np.asarray(table[before] * (1.0 - look) + table[scene] * look)

    turn = np.mod(frame, BOUNCE_PERIOD) / BOUNCE_PERIOD
    bob = height("floats", BOB_HEIGHT) * swing(frame, BOB_PERIOD)
    bounce = height("bounces", BOUNCE_HEIGHT) * 4.0 * turn * (1.0 - turn)
    return place[:, 0], place[:, 1] + bob - bounce


def _facing(scenes: tuple[tuple[int, Factors], ...], scene: Ints, before: Ints, look: Floats) -> Floats:
    """Turning round narrows the subject like a card being flipped, but never to nothing."""
    side = np.array([-1.0 if factors.motion == "drifts left" else 1.0 for _, factors in scenes])
    turn = side[before] * (1.0 - look) + side[scene] * look
    narrowest = 0.3
    sign = np.where(turn == 0.0, side[scene], np.sign(turn))
    return np.asarray(sign * (narrowest + (1.0 - narrowest) * np.abs(turn)))
