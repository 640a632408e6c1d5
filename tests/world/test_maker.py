"""The maker of the bundled model, at sizes a CPU trains in seconds: every stage runs, resumes and hands over."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tools.world import captions, export, ranks, weights
from tools.world.config import FULL, SMOKE, STEPS
from tools.world.footage import LatentPool, anchor_pixel
from tools.world.forward import TrainingGenerator, repeat
from tools.world.loop import Budget, Ema, Log, Trainer, learning_rate
from tools.world.make import main
from tools.world.motion import follow
from tools.world.replay import Lessons
from tools.world.rollout import Rollout
from tools.world.scene import FIRST_WORLD, FULL_WORLD, USUAL
from tools.world.spotlight import spotlight, weighed
from tools.world.takes import (
    FACTOR_NAMES,
    Words,
    bits,
    changes,
    draw_takes,
    exam_takes,
    first_pixel,
    take_of,
    usual_takes,
)

from genlock.generator.cache import KeyValueCache
from genlock.generator.window import Held, recompute_policy, span_of_chunk, span_of_recompute
from genlock.media.text import TextEncoder

SECONDS = 2.5
CPU = torch.device("cpu")
ROOT = Path(weights.__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def make(stage: str, out: Path, *more: str) -> None:
    arguments = ["--stage", stage, "--out", str(out), "--seconds", str(SECONDS), "--preset", "smoke", "--device", "cpu"]
    main([*arguments, *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("maker")
    make("all", out, "--export-dir", str(out / "results"))
    return out


@pytest.mark.slow
def test_every_stage_runs_and_hands_over(made):
    losses = [r["loss"] for r in records(made) if "loss" in r]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert {r["stage"] for r in records(made) if "loss" in r} == {"evaluator", "vae", "teacher", "student"}
    results = {file.name for file in (made / "results").iterdir()}
    assert {"vae.pt", "teacher.pt", "student.pt", "vae-clips.png", "student.png", "log.jsonl"} <= results
    assert {"student-openings.png", "student-beginnings.png"} <= results
    generator, vae, text = export.load(made / export.FOLDER)
    student = weights.read(made / weights.STUDENT)["modules"]["generator"]
    torch.testing.assert_close(generator.head.head.weight, student["head.head.weight"].float())
    assert vae.config.std != (1.0,) * 16
    assert weights.fitted(replace(SMOKE.shape, ffn=8), made) == SMOKE.shape
    assert text.encode("a red balloon over the sea").shape[1] == SMOKE.shape.text_dim


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "student"])
def test_a_stage_goes_on_where_it_stopped(made, stage):
    before = torch.load(made / f"{stage}.ckpt", weights_only=True)
    make(stage, made)
    after = torch.load(made / f"{stage}.ckpt", weights_only=True)
    assert after["steps"] > before["steps"] > 0
    assert after["trained"] > before["trained"]
    assert after["ema"]["count"] == after["steps"]


def test_the_shipped_weights_fit_their_budget():
    files = list((ROOT / "src/genlock/bundled").iterdir())
    assert len(files) >= 6
    assert sum(file.stat().st_size for file in files) <= 14_000_000


def small_generator():
    torch.manual_seed(1)
    generator = weights.new_generator(SMOKE.shape)
    for parameter in generator.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return generator


def test_training_forward_is_the_generator_with_its_cache():
    generator, shape = small_generator(), SMOKE.shape
    rows, columns = shape.height // 8, shape.width // 8
    context, z = torch.randn(2, 2, 3, 16, rows, columns)
    cross = generator.cross_kv(torch.randn(2, 5, shape.text_dim))
    times = torch.tensor([625.0, 1000.0])
    cache = KeyValueCache(
        layers=shape.layers, frames=6, tokens=rows * columns // 4, heads=4, head_dim=shape.dim // 4, batch=2
    )
    policy = recompute_policy()
    with torch.no_grad():
        span, held = span_of_recompute(policy, 3)
        generator(context, torch.zeros(2, 1), cross, cache, span)
        span, _ = span_of_chunk(policy, held, start=3, frames=3)
        expected = generator(z, times.view(2, 1), cross, cache, span)
        span, _ = span_of_chunk(policy, Held(), start=0, frames=3)
        expected_first = generator(z, times.view(2, 1), cross, cache, span)
    training = TrainingGenerator(generator)
    past = training.context(context, cross)
    torch.testing.assert_close(training.flow(z, times, cross, past), expected)
    torch.testing.assert_close(training.flow(z, times, cross, None), expected_first)
    twice = training.flow(z.repeat_interleave(2, 0), times.repeat_interleave(2), repeat(cross, 2), repeat(past, 2))
    torch.testing.assert_close(twice[::2], expected)


def test_rolled_streams_meet_the_context_they_were_trained_on(tmp_path):
    torch.manual_seed(0)
    shape, chunks = SMOKE.shape, 4
    words = Words(FIRST_WORLD, phrasings=1, text_len=shape.text_len, seed=1, device=CPU)
    vae = weights.Vae(weights.vae_config(shape)).eval()
    takes = [take for take in draw_takes(12, chunks, FIRST_WORLD, random.Random(2)) if take.offset == 0][:2]
    pool = LatentPool(vae, takes, words, shape, chunks)
    pool.fill(takes, batch=2, seconds=60, log=lambda **_: None)
    pool.save(tmp_path / "kept", "key")
    again = LatentPool(vae, takes, words, shape, chunks)
    assert not again.restore(tmp_path / "kept", "other", takes, batch=2, log=lambda **_: None)
    assert again.restore(tmp_path / "kept", "key", takes, batch=2, log=lambda **_: None)
    assert again.takes == pool.takes
    rollout = Rollout(small_generator(), vae, shape, streams=2, rng=torch.Generator().manual_seed(1))
    for number in range(chunks):
        expected = pool.chunk(torch.arange(2), torch.full((2,), number), first=number == 0)
        if number:
            error = (rollout.context() - expected.context).abs().mean() / expected.context.abs().mean()
            assert error < 0.02
        rollout.remember(expected.truth)
    assert [anchor_pixel(k) for k in (2, 3)] == [12, 24]


def test_a_rolled_chunk_is_the_sampler_s_chain():
    shape = SMOKE.shape
    generator = small_generator()
    vae = weights.Vae(weights.vae_config(shape)).eval()
    rollout = Rollout(generator, vae, shape, streams=2, rng=torch.Generator().manual_seed(1))
    embeds = torch.randn(2, 5, shape.text_dim)
    first, second = rollout.run(embeds), rollout.run(embeds)
    assert first.context is None
    assert len(second.noised) == len(STEPS)
    assert (first.frames.shape[1], second.frames.shape[1]) == (9, 12)
    torch.testing.assert_close(second.context, first.latents)
    third = rollout.run(embeds)
    torch.testing.assert_close(third.context[:, 1:], second.latents[:, 1:])
    assert not torch.equal(third.context[:, 0], second.latents[:, 0])
    truth = torch.randn_like(third.latents)
    rollout.run(embeds, truth=truth, trusted=torch.tensor([True, False]))
    assert torch.equal(rollout.past[0], truth[0])
    assert not torch.equal(rollout.past[1], truth[1])


def test_scenes_change_where_chunks_begin():
    for take in draw_takes(60, 12, FIRST_WORLD, random.Random(4)):
        starts = [frame for frame, _ in take.script.scenes[1:]]
        changed = [chunk for chunk, new in enumerate(take.changed) if new]
        assert starts == [take.offset + first_pixel(chunk) for chunk in changed]
        assert take_of(take.scenes, take.offset) == take
    assert [first_pixel(k) for k in range(4)] == [0, 9, 21, 33]


def test_full_captions_leave_nothing_open():
    words = Words(FIRST_WORLD, phrasings=6, text_len=32, seed=3, device=CPU)
    assert words.full.shape == words.loose.shape == (len(words.combos), 6, 32)
    combo = words.combos[100]
    for name in ("subject", "colour", "place", "light"):
        values = getattr(FIRST_WORLD, f"{name}s")
        other = replace(combo, **{name: next(v for v in values if v != getattr(combo, name))})
        assert not told(words.full[words.index[other]]) & told(words.full[100])
    assert len({text for rows in words.full for text in told(rows)}) > 4 * len(words.combos)
    open_ = [text for rows in words.loose for text in told(rows)]
    assert len(open_) > len(words.combos)


def test_a_brief_prompt_says_what_is_new():
    words = Words(FIRST_WORLD, phrasings=8, text_len=32, seed=3, device=CPU)
    takes = draw_takes(40, 8, FIRST_WORLD, random.Random(6))
    must, scenes = changes(takes, CPU), words.scenes(takes)
    assert must.shape == scenes.shape
    assert not must[:, 0].any()
    assert [bool(n) for n in must.flatten()] == [new for take in takes for new in take.changed]
    rng, where = torch.Generator().manual_seed(2), must.flatten().nonzero()[:, 0]
    rows = words.draw(scenes.flatten()[where], must.flatten()[where], torch.ones(len(where)) > 0, rng, first=False)
    briefly = 0
    for row, scene, needed in zip(rows, scenes.flatten()[where], must.flatten()[where], strict=True):
        said = bits(captions.named(words.tokenizer.decode(row.tolist()), words.combos[scene]))
        assert int(needed) & ~said == 0
        briefly += said < bits(("subject", "colour", "place", "light"))
    assert briefly


def test_a_first_prompt_leaves_open_what_is_usual_alone():
    usual = [take.scenes[0] for take in usual_takes(FULL_WORLD)]
    assert not set(usual) & captions.held_out(FULL_WORLD)
    rng = random.Random(4)
    for combo in [*usual, *rng.sample(FULL_WORLD.combinations(), 60)]:
        for _ in range(8):
            said = captions.named(captions.opening(combo, rng, spec=FULL_WORLD), combo)
            for name in set(FACTOR_NAMES) - said:
                assert getattr(combo, name) == getattr(USUAL[combo.subject], name)
    short = {captions.opening(usual[0], rng, spec=FULL_WORLD) for _ in range(200)}
    assert any(len(captions.named(text, usual[0])) == 1 for text in short)
    takes = draw_takes(200, 2, FULL_WORLD, random.Random(4))
    assert 0.03 < sum(take.scenes[0] in usual for take in takes) / len(takes) < 0.2


def told(rows):
    return {tuple(ids) for ids in rows.tolist()}


def test_phrasings_are_kept_for_the_next_stage(tmp_path):
    settings = {"text_len": 32, "seed": 3, "device": CPU}
    made = Words.kept(tmp_path, FIRST_WORLD, phrasings=2, **settings)
    again = Words.kept(tmp_path, FIRST_WORLD, phrasings=2, **settings)
    assert torch.equal(made.loose, again.loose)
    assert torch.equal(made.full, again.full)
    assert Words.kept(tmp_path, FIRST_WORLD, phrasings=3, **settings).full.shape[1] == 3
    assert torch.equal(made.first, again.first)
    assert torch.equal(made.says, again.says)
    rng, nothing, brief = (
        torch.Generator().manual_seed(1),
        torch.zeros(2, dtype=torch.uint8),
        torch.tensor([False, True]),
    )
    drawn = again.draw(torch.tensor([4, 9]), nothing, brief, rng, first=False)
    assert drawn.dtype == torch.int64
    assert tuple(drawn[0].tolist()) in told(made.full[4])
    assert tuple(drawn[1].tolist()) in told(made.loose[9])
    opened = again.draw(torch.tensor([4, 9]), nothing, brief, rng, first=True)
    assert tuple(opened[1].tolist()) in told(made.first[9])


def test_takes_that_are_coded_together_begin_together():
    takes = draw_takes(20, 4, FIRST_WORLD, random.Random(5), together=4)
    offsets = [{take.offset for take in takes[at : at + 4]} for at in range(0, 20, 4)]
    assert all(len(group) == 1 for group in offsets)
    assert offsets[0] == {0}
    assert len(set().union(*offsets)) > 1


def test_exams_are_held_out_and_unlike():
    takes = exam_takes(12, 6, FULL_WORLD, random.Random(3))
    assert len({take.scenes[0].subject for take in takes}) > 3
    assert {scene for take in takes for scene in take.scenes} <= captions.held_out(FULL_WORLD)
    assert [len(set(take.scenes)) for take in takes] == [1, 2] * 6


def test_prompts_are_embedded_as_at_run_time():
    torch.manual_seed(2)
    words = Words(FIRST_WORLD, phrasings=1, text_len=SMOKE.shape.text_len, seed=3, device=CPU)
    text = weights.new_text(SMOKE.shape, words.vocabulary).eval()
    encoder = TextEncoder(text, words.tokenizer, max_tokens=SMOKE.shape.text_len)
    rows = weights.embed(text, words.plain[:3])
    for combo, embedded in zip(words.combos, rows, strict=False):
        expected = encoder.encode(words.said(combo))
        torch.testing.assert_close(embedded[: len(expected)], expected)
        assert not embedded[len(expected) :].any()


def test_schedule_and_average():
    assert learning_rate(1.0, 0.0, 0) < learning_rate(1.0, 0.0, 500)
    assert learning_rate(1.0, 1.0, 500) == pytest.approx(0.01)
    budget = Budget(100.0, tail=10.0, before=90.0)
    budget.begin()
    assert budget.progress() == pytest.approx(0.5, abs=0.02)
    shared = Budget(100.0, tail=10.0, planned=180.0)
    shared.begin()
    shared.deadline -= 89.0
    shared.training_from -= 89.0
    assert shared.progress() == pytest.approx(89 / 180, abs=0.02)
    layer = torch.nn.Linear(2, 2)
    ema = Ema({"layer": layer})
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    ema.update()
    with ema.averaged():
        assert bool((layer.weight > before).all())
        assert bool((layer.weight < before + 1).all())
    torch.testing.assert_close(layer.weight.detach(), before + 1)


def test_steps_that_are_not_finite_are_left_out(tmp_path):
    layer = torch.nn.Linear(2, 2)
    trainer = Trainer(
        {"layer": layer}, path=tmp_path / "a.ckpt", log=Log(tmp_path / "log", "x"), seconds=9, tail=0, peak_lr=1.0
    )
    trainer.begin()
    kept = layer.weight.detach().clone()
    trainer.step(layer(torch.full((1, 2), math.nan)).sum())
    torch.testing.assert_close(layer.weight.detach(), kept)
    trainer.step(layer(torch.ones(1, 2)).sum())
    assert not torch.equal(layer.weight.detach(), kept)
    assert int(trainer.skipped) == 1


def test_where_most_steps_are_not_finite_the_average_comes_back(tmp_path):
    layer = torch.nn.Linear(2, 2)
    trainer = Trainer(
        {"layer": layer}, path=tmp_path / "a.ckpt", log=Log(tmp_path / "log", "x"), seconds=9, tail=0, peak_lr=1.0
    )
    trainer.begin()
    kept = trainer.ema.shadow["layer.weight"].clone()
    layer.weight.data.fill_(math.nan)
    trainer.skipped.fill_(13.0)
    trainer._check()
    torch.testing.assert_close(layer.weight.detach(), kept)
    assert trainer.peak_lr == 0.5
    assert not trainer.skipped


def test_errors_where_the_subject_is_count_for_more():
    shape = FULL.shape
    takes = [take for take in draw_takes(40, 3, FULL_WORLD, random.Random(4)) if take.offset == 0][:8]
    lit = spotlight(takes, 33, shape, CPU)
    assert lit.shape == (8, 9, 16, 24)
    track = follow([take.script for take in takes], first_frame=0, frames=33)
    for row, take in enumerate(takes):
        middle = (int(track.y[33 * row] % 128) // 8, int(track.x[33 * row] % 192) // 8)
        assert lit[row, 0][middle] == 1.0, take
    assert 0.08 < float(lit.mean()) < 0.16
    error = torch.ones(8, 9, 16, 16, 24)
    assert float(weighed(error, lit, 4.0)) == pytest.approx(1.0)
    assert float(weighed(error * lit[:, :, None], lit, 4.0)) > 2 * float(lit.mean())


def test_what_cannot_be_recorded_stays_as_it_was(tmp_path):
    layer = torch.nn.Linear(2, 1)
    rng = torch.Generator().manual_seed(1)
    lessons = Lessons(lambda: {"x": torch.randn(3, 2, generator=rng)}, lambda given: layer(given["x"]).square().mean())
    lessons.record([layer], Log(tmp_path / "log", "x"))
    assert not lessons.recorded
    assert layer.weight.grad is None
    lessons().backward()
    assert layer.weight.grad is not None
    assert "failed" in (tmp_path / "log").read_text()


def test_a_loss_without_a_graph_brings_its_gradients(tmp_path):
    layer = torch.nn.Linear(2, 1)
    before = layer.weight.detach().clone()
    trainer = Trainer(
        {"layer": layer}, path=tmp_path / "a.ckpt", log=Log(tmp_path / "log", "x"), seconds=9, tail=0, peak_lr=1.0
    )
    trainer.begin()
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    held = layer.weight.grad
    trainer.step(torch.tensor(0.5))
    assert layer.weight.grad is held
    assert bool((layer.weight < before).all())


def lead(out: Path, rank: int) -> None:
    """What two ranks do in the test below; each sees other samples."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layer = torch.nn.Linear(3, 2)
    log = Log(out / f"log-{rank}.jsonl", "x")
    trainer = Trainer({"layer": layer}, path=out / "a.ckpt", log=log, seconds=0.5, tail=0, peak_lr=1e-2)
    torch.manual_seed(ranks.seed(3))
    trainer.begin()
    while not trainer.over:
        seen = torch.randn(8, 3)
        trainer.step((layer(seen) - seen[:, :2]).square().mean())
    torch.save({"steps": trainer.steps, "weight": layer.weight.detach(), "seen": seen}, out / f"{rank}.pt")


@pytest.mark.slow
def test_two_ranks_train_one_model(tmp_path):
    ranks.run(2, tmp_path / "ranks", partial(lead, tmp_path))
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["steps"] == other["steps"] > 1
    assert torch.equal(one["weight"], other["weight"])
    assert not torch.equal(one["seen"], other["seen"])
    assert not (tmp_path / "log-1.jsonl").exists()


def test_the_shipped_model_can_be_taken_up_again(tmp_path):
    weights.begin(tmp_path, ROOT / "src/genlock/bundled", FULL.shape)
    assert weights.fitted(FULL.shape, tmp_path) == FULL.shape
    content = weights.read(tmp_path / weights.TEACHER)
    weights.fill(weights.new_generator(FULL.shape), content["modules"]["generator"])
    weights.fill(weights.new_text(FULL.shape, content["words"]), content["modules"]["text"])
    vae = weights.read_vae(tmp_path / weights.VAE, FULL.shape, CPU)
    assert vae.config.std != (1.0,) * 16


def test_the_feed_forward_units_that_say_least_are_left_out():
    state = weights.new_generator(SMOKE.shape).state_dict()
    silent = torch.tensor([3, 7, 11])
    for layer in range(SMOKE.shape.layers):
        state[f"blocks.{layer}.ffn.2.weight"][:, silent] = 0.0
    small = replace(SMOKE.shape, ffn=SMOKE.shape.ffn - 3)
    kept = weights.narrowed(state, small)
    wide, narrow = weights.new_generator(SMOKE.shape), weights.new_generator(small)
    weights.fill(wide, state)
    weights.fill(narrow, kept)
    seen = torch.randn(2, 5, SMOKE.shape.dim)
    torch.testing.assert_close(narrow.blocks[1].feed_forward(seen), wide.blocks[1].feed_forward(seen))
    assert weights.narrowed(kept, SMOKE.shape).keys() == kept.keys()
