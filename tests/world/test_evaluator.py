"""The evaluator: its network, what it is taught on, and motion told without it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tools.world import evaluator, judge
from tools.world.config import SMOKE, EvaluatorStage
from tools.world.evaluator import Reel, augmented, lesson, rehearsed, shot
from tools.world.footage import as_pixels
from tools.world.loop import Log
from tools.world.motion import follow
from tools.world.render import render
from tools.world.scene import FULL_WORLD, MOTIONS, SUBJECTS, Factors, Script, WorldSpec
from tools.world.takes import FACTOR_NAMES
from tools.world.track import colour_mask, tracked_motion, velocities

CPU = torch.device("cpu")
SMALL_WORLD = WorldSpec(
    subjects=SUBJECTS[:2],
    colours=("red", "blue"),
    motions=("floats", "drifts left"),
    places=("sea", "desert"),
    lights=("noon", "night"),
    weathers=("clear", "snow"),
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_net(world: WorldSpec = FULL_WORLD) -> judge.Evaluator:
    torch.manual_seed(1)
    net = judge.new(SMOKE.evaluator, world)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def scene(**values: str) -> Factors:
    base = {"subject": "car", "colour": "red", "motion": "floats", "place": "sea", "light": "noon", "weather": "clear"}
    return Factors(**{**base, **values})


def test_features_see_every_frame_alone_and_pass_gradients_on() -> None:
    net = small_net()
    clips = torch.rand(2, 3, 3, 32, 48).requires_grad_()
    features = net.features(clips)
    assert [tuple(f.shape) for f in features] == [
        (2, 3, 8, 16, 24),
        (2, 3, 16, 8, 12),
        (2, 3, 16, 4, 6),
        (2, 3, 24, 2, 3),
    ]
    for whole, single in zip(features, net.features(clips[:1, 1:2]), strict=True):
        torch.testing.assert_close(whole[0, 1], single[0, 0])
    sum(f.square().mean() for f in features).backward()
    assert clips.grad is not None
    assert bool(clips.grad.abs().sum() > 0)


@pytest.mark.parametrize("frames", [9, 12])
def test_every_factor_is_named_for_clips_of_any_chunk(frames: int) -> None:
    logits = small_net().logits(torch.rand(2, frames, 3, 32, 48) * 2 - 1)
    assert list(logits) == list(FACTOR_NAMES)
    assert {name: values.shape[1] for name, values in logits.items()} == {
        name: len(getattr(FULL_WORLD, f"{name}s")) for name in FACTOR_NAMES
    }


def test_positions_go_on_round_the_edge() -> None:
    share = torch.zeros(3, 12)
    share[0, 10] = share[1, 11] = share[2, 0] = 1.0
    turn = judge._turn(share)
    torch.testing.assert_close((turn[1] - turn[0]).norm(), (turn[2] - turn[1]).norm())


@pytest.mark.parametrize("name", ["evaluator.pt", "evaluator.safetensors"])
def test_a_written_evaluator_says_the_same(tmp_path: Path, name: str) -> None:
    net = small_net(SMALL_WORLD)
    judge.write(tmp_path / name, net)
    again = judge.load(tmp_path / name, CPU)
    clips = torch.rand(1, 12, 3, 32, 48) * 2 - 1
    assert again.values == net.values
    for expected, got in zip(net.logits(clips).values(), again.logits(clips).values(), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)
    assert not any(p.requires_grad for p in again.parameters())


def test_a_shot_shows_its_scene_and_nothing_else() -> None:
    rng, combos = random.Random(3), FULL_WORLD.combinations()
    allowed, changed = set(combos), 0
    for _ in range(60):
        first, wanted = rng.randrange(90), rng.choice(combos)
        script = shot(first, wanted, combos, allowed, rng)
        changed += len(script.scenes) - 1
        track = follow([script], first_frame=first, frames=1)
        assert script.scenes[-1][1] == wanted
        assert track.colour.share[0] == track.subject.share[0] == 1.0
    assert changed > 5


def test_the_reel_knows_what_its_clips_show() -> None:
    stage = replace(SMOKE.evaluator, pool_clips=6, group=4)
    reel = Reel(stage, SMOKE.shape, SMALL_WORLD, None, CPU, random.Random(2))
    for _ in range(2):
        reel.grow()
    assert (reel.filled, reel.next) == (6, 2)
    clips, shown = reel.draw(16, torch.Generator().manual_seed(1))
    assert clips.shape == (16, 12, 3, 32, 48)
    dark = shown[:, FACTOR_NAMES.index("light")] == 1
    if bool(dark.any()) and bool((~dark).any()):
        assert clips[dark].mean() < clips[~dark].mean() - 0.2


def test_pictures_are_looked_at_smaller() -> None:
    stage = replace(SMOKE.evaluator, shrink=2, pool_clips=4, group=4)
    reel = Reel(stage, SMOKE.shape, SMALL_WORLD, None, CPU, random.Random(2))
    reel.grow()
    clips, _ = reel.draw(2, torch.Generator().manual_seed(1))
    assert clips.shape == (2, 12, 3, 16, 24)
    net = judge.new(stage, SMALL_WORLD).eval()
    large = torch.rand(1, 12, 3, 32, 48) * 2 - 1
    small = judge.smaller(large, 2)
    torch.testing.assert_close(small[0, 0, 0, 0, 0], large[0, 0, 0, :2, :2].mean())
    for name, values in net.logits(large).items():
        torch.testing.assert_close(values, net.named(small)[name])


def test_augmented_clips_are_still_clips() -> None:
    scripts = [Script(scenes=((0, scene()),)), Script(scenes=((0, scene(light="night")),))]
    clips = as_pixels(render(scripts, first_frame=5, frames=4, height=32, width=48))
    other = augmented(clips, torch.Generator().manual_seed(3))
    assert other.shape == clips.shape
    assert bool((other.abs() <= 1).all())
    assert 0.005 < float((other - clips).abs().mean()) < 0.25


@pytest.mark.slow
def test_what_is_seen_is_learned() -> None:
    stage = EvaluatorStage(
        shrink=1, widths=(8, 16, 24, 32), maps=2, hidden=32, pool_clips=64, clip_frames=13, group=8, batch=8
    )
    torch.manual_seed(0)
    net = judge.new(stage, SMALL_WORLD)
    reel = Reel(stage, SMOKE.shape, SMALL_WORLD, None, CPU, random.Random(2))
    reel.fill(60.0, lambda **_: None)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    shares = []
    for _ in range(60):
        clips, target = reel.draw(stage.batch, generator)
        loss, share = lesson(net, clips, target, half=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(share)
    late = dict(zip(FACTOR_NAMES, torch.stack(shares[-15:]).mean(0).tolist(), strict=True))
    assert min(late["place"], late["light"]) > 0.9
    assert sum(late.values()) / len(late) > 0.8


def test_equal_maxima_do_not_spoil_a_gradient() -> None:
    net = small_net().train()
    logits = net.logits(torch.zeros(1, 9, 3, 32, 48))  # every place as strong as any other
    sum(values.square().sum() for values in logits.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)


def test_a_gradient_that_is_not_finite_is_named_before_training() -> None:
    stage = replace(SMOKE.evaluator, pool_clips=4, group=4)
    reel = Reel(stage, SMOKE.shape, SMALL_WORLD, None, CPU, random.Random(2))
    reel.grow()
    net = judge.new(stage, SMALL_WORLD)
    generator = torch.Generator().manual_seed(1)
    said: list[str] = []
    assert not rehearsed(net, reel, stage, generator, lambda **told: said.append(told["way"]))
    assert all(p.grad is None for p in net.parameters())
    net.motion.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no finite gradient of"):
        rehearsed(net, reel, stage, generator, lambda **told: said.append(told["way"]))
    assert said == ["float32"]


def test_bfloat16_products_leave_gradients_finite() -> None:
    stage = replace(SMOKE.evaluator, shrink=2, pool_clips=8, group=8, batch=8)
    reel = Reel(stage, SMOKE.shape, SMALL_WORLD, None, CPU, random.Random(2))
    reel.grow()
    torch.manual_seed(1)
    net = judge.new(stage, SMALL_WORLD)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(8):
        loss, _ = lesson(net, augmented(*reel.draw(8, generator)[:1], generator), reel.shown[:8], half=True)
        optimizer.zero_grad()
        loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)
        optimizer.step()


@pytest.mark.slow
def test_the_stage_runs_and_goes_on(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", "evaluator")
    for _ in range(2):
        evaluator.run(SMOKE, SMALL_WORLD, tmp_path, seconds=2.0, device=CPU, compile_=False, log=log)
    state = torch.load(tmp_path / "evaluator.ckpt", weights_only=True)
    assert state["steps"] > 1
    assert evaluator.load(tmp_path / evaluator.FILE, CPU).values["place"] == ("sea", "desert")


@pytest.mark.parametrize("motion", MOTIONS)
def test_motion_is_told_by_colour_alone(motion: str) -> None:
    scenes = [
        scene(motion=motion),
        scene(subject="rocket", colour="yellow", motion=motion, place="city", light="night"),
        scene(subject="balloon", colour="purple", motion=motion, place="mountains", light="sunset", weather="fog"),
    ]
    for first in (33, 45):
        clips = render([Script(scenes=((0, one),)) for one in scenes], first_frame=first, frames=12)
        assert tracked_motion(as_pixels(clips), scenes) == [motion] * len(scenes)


def test_speeds_are_those_of_the_world() -> None:
    right = scene(motion="drifts right", place="desert", colour="blue")
    clips = as_pixels(render([Script(scenes=((0, right),))], first_frame=20, frames=12))
    speed = velocities(colour_mask(clips, [right])).mean(1)[0]
    assert speed.tolist() == pytest.approx([2.0, 0.0], abs=0.5)
