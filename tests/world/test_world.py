"""The small world: pictures that depend on script and frame index alone, captions that are true, a fair hold-out."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.world import captions
from tools.world import render as drawing
from tools.world.motion import BOB_PERIOD, WORLD_CYCLE, follow
from tools.world.render import render
from tools.world.scene import FIRST_WORLD, FULL_WORLD, LOOK_FADE, Factors, Script, WorldSpec

COMBINATIONS = {"first": FIRST_WORLD.combinations(), "full": FULL_WORLD.combinations()}
SPECS = {"first": FIRST_WORLD, "full": FULL_WORLD}
FIELDS = ("subject", "colour", "motion", "place", "light", "weather")


def still(index: int, world: str = "full") -> Script:
    combinations = COMBINATIONS[world]
    return Script(scenes=((0, combinations[index % len(combinations)]),))


def changing() -> Script:
    a, b, c = (COMBINATIONS["full"][index] for index in (0, 9_001, 20_011))
    return Script(scenes=((0, a), (9, b), (20, c)))


def paint(scripts: list[Script], first_frame: int, frames: int) -> torch.Tensor:
    return render(scripts, first_frame=first_frame, frames=frames, height=64, width=96)


def test_frames_do_not_depend_on_what_is_rendered_with_them() -> None:
    scripts = [still(17), changing(), still(12_345), still(22_222)]
    whole = paint(scripts, 0, 30)
    assert whole.shape == (4, 30, 3, 64, 96)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole, paint(scripts, 0, 30))
    assert torch.equal(whole[:, 7:23], paint(scripts, 7, 16))
    for script, clip in zip(scripts, whole, strict=True):
        assert torch.equal(clip, paint([script], 0, 30)[0])


def test_frames_may_be_painted_in_any_order() -> None:
    scripts = [still(17), changing(), still(12_345)]
    track = follow(scripts, first_frame=0, frames=8, span=192.0)
    order = drawing._alike(track)
    assert sorted(order.tolist()) == list(range(24))
    stage = drawing._stage(64, 96, "cpu")
    assert torch.equal(stage.paint(track.part(order)), stage.paint(track)[torch.from_numpy(order)])


@pytest.mark.parametrize("motion", FULL_WORLD.motions)
def test_an_endless_stream_comes_round(motion: str) -> None:
    script = Script(
        scenes=(
            (0, Factors(subject="rocket", colour="red", motion=motion, place="sea", light="night", weather="clear")),
        )
    )
    assert torch.equal(paint([script], 5, 3), paint([script], 5 + 3 * WORLD_CYCLE, 3))
    assert not torch.equal(paint([script], 5, 3), paint([script], 17, 3))


def test_every_value_of_every_factor_shows() -> None:
    base = {"subject": "car", "colour": "red", "motion": "rises", "place": "sea", "light": "noon", "weather": "clear"}
    for name in FIELDS:
        values = getattr(FULL_WORLD, f"{name}s")
        scripts = [Script(scenes=((0, Factors(**{**base, name: value})),)) for value in values]
        pictures = paint(scripts, 30, 1)[:, 0].float()
        for one, other in itertools.combinations(range(len(values)), 2):
            apart = (pictures[one] - pictures[other]).abs().mean()
            assert apart > 1.0, f"{name}: {values[one]} and {values[other]} look alike"


def test_a_change_fades_and_then_is_the_new_scene() -> None:
    a = Factors(subject="boat", colour="red", motion="floats", place="sea", light="noon", weather="clear")
    b = Factors(subject="car", colour="blue", motion="floats", place="city", light="night", weather="clear")
    at = WORLD_CYCLE  # what begins here is where it was when the stream began
    turned = paint([Script(scenes=((0, a), (at, b)))], at - 2, 12)[0].float()
    old, new = (paint([Script(scenes=((0, one),))], at - 2, 12)[0].float() for one in (a, b))
    to_new = (turned - new).abs().mean(dim=(1, 2, 3))
    assert torch.equal(turned[:2], old[:2])
    assert torch.equal(turned[2 + LOOK_FADE - 1 :], new[2 + LOOK_FADE - 1 :])
    assert (to_new[2 : 2 + LOOK_FADE - 1] > to_new[3 : 2 + LOOK_FADE]).all()


def test_position_goes_on_through_a_change_of_motion() -> None:
    a = Factors(subject="bird", colour="red", motion="drifts right", place="sea", light="noon", weather="clear")
    b = Factors(subject="bird", colour="red", motion="drifts left", place="sea", light="noon", weather="clear")
    track = follow([Script(scenes=((0, a), (50, b), (90, a)))], first_frame=0, frames=160)
    speed = abs(track.x[1] - track.x[0])
    assert speed > 0
    assert max(abs(track.x[1:] - track.x[:-1])) <= speed + 1e-9
    assert track.x[80] - track.x[70] == pytest.approx(-10 * speed)
    assert track.x[159] - track.x[149] == pytest.approx(10 * speed)
    assert abs(track.facing).min() > 0


@pytest.mark.parametrize("motion", ["drifts right", "rises", "sinks"])
def test_a_subject_that_stops_travelling_glides_home(motion: str) -> None:
    a = Factors(subject="boat", colour="red", motion=motion, place="sea", light="noon", weather="clear")
    b = Factors(subject="boat", colour="red", motion="floats", place="sea", light="noon", weather="clear")
    turned = paint([Script(scenes=((0, a), (BOB_PERIOD, b)))], 100, 4)
    assert torch.equal(turned, paint([Script(scenes=((0, b),))], 100, 4))


@pytest.mark.parametrize(
    ("factor", "one", "other"),
    [
        ("weather", "clear", "rain"),
        ("weather", "rain", "snow"),
        ("weather", "snow", "fog"),
        ("place", "meadow", "city"),
        ("subject", "car", "bird"),
    ],
)
def test_what_a_value_brings_begins_anew_with_it(factor: str, one: str, other: str) -> None:
    base = {"subject": "car", "colour": "red", "motion": "floats", "place": "city", "light": "noon", "weather": "clear"}
    before, after = (Factors(**{**base, factor: value}) for value in (one, other))
    values = getattr(FULL_WORLD, f"{factor}s")
    for start in (21, 45):
        track = follow([Script(scenes=((0, before), (start, after)))], first_frame=start + LOOK_FADE, frames=4)
        mix = getattr(track, factor)
        assert mix.age(values.index(other), track.frame).tolist() == [8, 9, 10, 11]
        assert mix.age(values.index(one), track.frame).tolist() == track.frame.tolist()


def test_rain_falls_the_same_wherever_it_begins() -> None:
    base = {"subject": "car", "colour": "red", "motion": "drifts left", "place": "sea", "light": "noon"}
    dry, wet = Factors(**base, weather="clear"), Factors(**base, weather="rain")
    later = 5 * 48  # the waves are as before, and rain that had fallen all the while would be elsewhere
    top = slice(0, 4)  # rows without clouds, sun and subject
    first, second = (
        paint([Script(scenes=((0, dry), (at, wet)))], at + LOOK_FADE, 4)[0, :, :, top] for at in (33, 33 + later)
    )
    always = paint([Script(scenes=((0, wet),))], 33 + later + LOOK_FADE, 4)[0, :, :, top]
    assert torch.equal(first, second)
    assert not torch.equal(first, always)


def test_a_bounce_begins_where_it_is_asked_for() -> None:
    base = {"subject": "kite", "colour": "red", "place": "sea", "light": "noon", "weather": "clear"}
    still, bouncing = Factors(**base, motion="floats"), Factors(**base, motion="bounces")
    heights = [
        follow([Script(scenes=((0, still), (at, bouncing)))], first_frame=at + 50, frames=24).y for at in (21, 45, 57)
    ]
    assert heights[0] == pytest.approx(heights[1])
    assert heights[0] == pytest.approx(heights[2])


def test_weather_lies_over_everything_and_comes_slowly() -> None:
    base = {"subject": "kite", "colour": "green", "motion": "floats", "place": "mountains", "light": "sunset"}
    clear = Factors(**base, weather="clear")
    for weather in FULL_WORLD.weathers[1:]:
        bad = Factors(**base, weather=weather)
        at = WORLD_CYCLE  # what begins here is where it was when the stream began
        turned = paint([Script(scenes=((0, clear), (at, bad)))], at - 1, 12)[0].float()
        dry, wet = (paint([Script(scenes=((0, one),))], at - 1, 12)[0].float() for one in (clear, bad))
        away = (turned - dry).abs().mean(dim=(1, 2, 3))
        assert torch.equal(turned[0], dry[0])
        assert torch.equal(turned[LOOK_FADE:], wet[LOOK_FADE:])
        assert (away[1:LOOK_FADE] < away[2 : LOOK_FADE + 1]).all()


def test_scripts_that_cannot_be_shown_are_refused() -> None:
    one = COMBINATIONS["first"][0]
    with pytest.raises(ValueError, match="frame 0"):
        Script(scenes=((3, one),))
    with pytest.raises(ValueError, match="closer than"):
        Script(scenes=((0, one), (LOOK_FADE - 1, one)))
    with pytest.raises(ValueError, match="choose from"):
        Factors(subject="horse", colour="red", motion="floats", place="sea", light="noon", weather="clear")


@given(
    world=st.sampled_from(sorted(SPECS)), index=st.integers(0, 10**6), seed=st.integers(0, 10**6), plain=st.booleans()
)
@settings(max_examples=300, deadline=None)
def test_captions_are_true_and_in_the_vocabulary(world: str, index: int, seed: int, plain: bool) -> None:
    factors = COMBINATIONS[world][index % len(COMBINATIONS[world])]
    spec = SPECS[world]
    text = (
        captions.plain_caption(factors, spec=spec)
        if plain
        else captions.caption(factors, random.Random(seed), spec=spec)
    )
    words = captions.split_words(text)
    assert text == " ".join(words).replace(" ,", ",")
    assert set(words) <= set(captions.vocabulary())
    assert len(words) <= 40
    for name in FIELDS:
        own = getattr(factors, name)
        for value in getattr(FULL_WORLD, f"{name}s"):
            if value != own:
                assert not telling(name, value) & phrases_of(text), f"{text!r} also says {value}"
    assert telling("subject", factors.subject) & phrases_of(text)
    if plain:
        for name in FIELDS:
            if len(getattr(spec, f"{name}s")) > 1:
                assert telling(name, getattr(factors, name)) & phrases_of(text), f"{text!r} does not say the {name}"


TABLES = {
    "subject": captions._SUBJECTS,
    "colour": captions._COLOURS,
    "motion": {motion: tuple(itertools.chain(*forms)) for motion, forms in captions._MOTIONS.items()},
    "place": captions._PLACES,
    "light": captions._LIGHTS,
    "weather": captions._WEATHERS,
}


def telling(name: str, value: str) -> set[str]:
    """A value's phrases that no other value of the same factor has."""
    others = set(itertools.chain(*(phrases for other, phrases in TABLES[name].items() if other != value)))
    return set(TABLES[name][value]) - others


def phrases_of(text: str) -> set[str]:
    """All runs of up to five words."""
    words = captions.split_words(text)
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 6, len(words) + 1))}


def test_captions_vary_and_repeat_by_seed() -> None:
    factors = COMBINATIONS["full"][4_321]
    texts = [captions.caption(factors, random.Random(seed), spec=FULL_WORLD) for seed in range(200)]
    assert len(set(texts)) > 100
    assert texts[:5] == [captions.caption(factors, random.Random(seed), spec=FULL_WORLD) for seed in range(5)]


@pytest.mark.parametrize("world", sorted(SPECS))
def test_training_sees_every_value_and_pair_but_not_the_held_out(world: str) -> None:
    spec = SPECS[world]
    kept_out = captions.held_out(spec)
    everything = set(COMBINATIONS[world])
    assert kept_out == captions.held_out(spec)
    assert kept_out < everything
    assert 0.05 < len(kept_out) / len(everything) < 0.15
    trained = everything - kept_out
    for name, other in itertools.combinations(FIELDS, 2):
        pairs = {(getattr(factors, name), getattr(factors, other)) for factors in trained}
        assert len(pairs) == len(getattr(spec, f"{name}s")) * len(getattr(spec, f"{other}s"))
    composition = captions.COMPOSITION
    assert not {tuple(getattr(factors, name) for name in composition) for factors in kept_out} & {
        tuple(getattr(factors, name) for name in composition) for factors in trained
    }


def test_what_the_first_world_keeps_out_the_full_one_does_too() -> None:
    assert captions.held_out(FIRST_WORLD) <= captions.held_out(FULL_WORLD)


def test_a_world_too_small_to_spare_anything_keeps_nothing_out() -> None:
    tiny = WorldSpec(
        subjects=("car",), colours=("red",), motions=("floats",), places=("sea",), lights=("noon",), weathers=("clear",)
    )
    assert captions.held_out(tiny) == set()


@pytest.mark.parametrize("subject", FULL_WORLD.subjects)
def test_no_part_of_a_subject_is_beyond_its_reach(subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factors = Factors(subject=subject, colour="red", motion="floats", place="sea", light="night", weather="clear")
    script = Script(scenes=((0, factors),))
    near = paint([script], 0, 24)
    monkeypatch.setattr(drawing, "REACH", 2.0 * drawing.REACH)
    assert torch.equal(near, paint([script], 0, 24))
