"""Judging a model folder: fair questions, windows where they should be, a complete table, an exit status that tells."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tools.world import bars, evaluate, export, judge, streams, weights
from tools.world.captions import held_out, names_all
from tools.world.config import SMOKE
from tools.world.loop import Log
from tools.world.questions import questions
from tools.world.render import render
from tools.world.scene import FIRST_WORLD, FULL_WORLD, Script
from tools.world.takes import FACTOR_NAMES, Words, first_pixel

from genlock.generator.model_folder import read_model_folder

CPU = torch.device("cpu")
VALUES = judge.values_of(FULL_WORLD)
ASKED = questions(24, FULL_WORLD)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_published_figures_are_of_the_shipped_files_and_all_questions() -> None:
    root = Path(evaluate.__file__).parents[2]
    figures = json.loads((root / evaluate.RESULT).read_text())
    assert figures["model"]["digests"] == read_model_folder(root / "src/genlock/bundled").digests
    assert figures["prompts"] == evaluate.PROMPTS
    assert figures["verdict"] == ["38 of 38 bars met"]


def test_questions_are_of_what_training_never_saw() -> None:
    kept = held_out(FULL_WORLD)
    for number, question in enumerate(ASKED):
        prompts = (question.first, question.second, question.third)
        assert question.number == number
        assert all(prompt.scene in kept and names_all(prompt.text, prompt.scene) for prompt in prompts)
        differing = [n for n in FACTOR_NAMES if getattr(question.first.scene, n) != getattr(question.second.scene, n)]
        assert differing == [question.changed]
        assert question.third.scene.subject != question.second.scene.subject
        assert question.third.scene.place != question.second.scene.place
    assert set(Counter(question.changed for question in ASKED).values()) == {4}
    assert questions(5, FULL_WORLD) == ASKED[:5]


def test_values_are_asked_evenly() -> None:
    asked = questions(64, FULL_WORLD)
    for name in FACTOR_NAMES:
        times = Counter(getattr(question.first.scene, name) for question in asked)
        assert len(times) == len(VALUES[name])
        assert max(times.values()) - min(times.values()) <= 4


def test_the_words_of_questions_were_not_trained_on() -> None:
    words = Words(FIRST_WORLD, phrasings=4, text_len=32, seed=7, device=CPU)
    kept = held_out(FIRST_WORLD)
    shown = [number for number, combo in enumerate(words.combos) if combo not in kept]
    trained = {tuple(ids) for table in (words.full, words.loose) for ids in table[shown].flatten(0, 1).tolist()}
    for question in questions(20, FIRST_WORLD):
        ids = words.tokenizer.encode(question.first.text).ids
        assert (*ids, *[0] * (32 - len(ids))) not in trained


class PerfectSession:
    """Shows what the renderer shows, chunk by chunk, for the texts of the questions."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        prompts = [prompt for question in ASKED for prompt in (question.first, question.second, question.third)]
        self.meant = {prompt.text: prompt.scene for prompt in prompts}
        self.scenes: list[tuple[int, Any]] = []
        self.frame = 0

    def __enter__(self) -> PerfectSession:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def prompt(self, text: str) -> None:
        self.scenes.append((self.frame, self.meant[text]))

    def cut(self, text: str) -> None:
        self.scenes, self.frame = [(0, self.meant[text])], 0

    def stream(self) -> Any:
        while True:
            count = 12 if self.frame else 9
            height, width = self.size
            script = Script(scenes=tuple(self.scenes))
            frames = render([script], first_frame=self.frame, frames=count, height=height, width=width)[0]
            self.frame += count
            yield SimpleNamespace(frames=frames.permute(0, 2, 3, 1))


def bench(size: tuple[int, int] = (32, 48)) -> streams.Bench:
    torch.manual_seed(2)
    net = judge.new(SMOKE.evaluator, FULL_WORLD).eval()
    return streams.Bench(
        model="m", open_session=lambda *_, **__: PerfectSession(size), judge=net, size=size, device="cpu"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 2])
def test_a_perfect_model_is_seen_as_the_renderer_is(number: int) -> None:
    record = streams.ask_question(bench(), ASKED[number])
    assert record["named"] == record["rendered"]
    assert record["tracked"] == record["tracked_rendered"]
    assert {moment: len(seen) for moment, seen in record["named"].items()} == {"steady": 3, "after": 1, "cut": 1}
    assert record["asked"]["after"][FACTOR_NAMES.index(record["changed"])] == getattr(
        ASKED[number].second.scene, record["changed"]
    )
    assert (record["looks"]["psnr"], record["looks"]["edges"]) == (100.0, pytest.approx(100.0))
    assert record["looks"]["border"] == record["looks"]["border_rendered"]


@pytest.mark.slow
def test_a_perfect_minute_does_not_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MINUTE_CHUNKS", 12)
    record = streams.ask_minute(bench(), ASKED[1])
    assert record["named"] == record["rendered"]
    assert len(record["named"]["late"]) == 3
    assert record["drift"] == [0.0, 0.0, 0.0]


def test_windows_lie_in_seconds_two_to_four() -> None:
    assert streams.STEADY[0] == 2 * 16
    assert streams.STEADY[-1] + 12 == 4 * 16
    assert first_pixel(streams.STEADY_CHUNKS) >= 4 * 16


def invented(wrong: Counter[str] | None = None, seed: int = 1) -> list[dict[str, Any]]:
    """Records of a model that shows what is asked, except that of each factor a number of streams are wrong."""
    wrong = wrong or Counter()
    records = []
    for number, question in enumerate(questions(96, FULL_WORLD)):
        asked = {
            moment: [getattr(prompt.scene, name) for name in FACTOR_NAMES]
            for moment, prompt in (
                ("steady", question.first),
                ("after", question.second),
                ("cut", question.third),
                ("late", question.first),
            )
        }
        seen = {
            moment: [
                VALUES[name][(VALUES[name].index(value) + (number < wrong[f"{moment} {name}"])) % len(VALUES[name])]
                for name, value in zip(FACTOR_NAMES, values, strict=True)
            ]
            for moment, values in asked.items()
        }
        named = {moment: [values] for moment, values in seen.items()}
        tracked = {moment: [values[2]] for moment, values in seen.items()}
        looks = {"psnr": 25.0, "edges": 90.0, "border": 110.0, "border_rendered": 100.0, "chunk_s": 0.5}
        common = {"number": number, "asked": asked, "named": named, "rendered": named}
        tracks = {"tracked": tracked, "tracked_rendered": tracked}
        records.append({"kind": "question", "changed": question.changed, "looks": looks, **common, **tracks})
        records.append({"kind": "minute", "drift": [0.01, -0.01, 0.02], **common})
        records.append({"kind": "regime R0", **common})
    return records


GOOD = {kind: dict.fromkeys(FACTOR_NAMES, 99.0) for kind in ("fresh", "plain", "coded")} | {"psnr": [31.0] * 33}


def test_a_model_that_shows_what_is_asked_meets_every_bar() -> None:
    found = bars.rows(invented(), GOOD, VALUES)
    missed = [(row.name, row.figure) for row in found if row.ok is False]
    assert missed == []
    assert sum(row.ok is True for row in found) == 38
    assert {row.group for row in found if row.ok is None} >= {"regime R0, seconds 2 to 4: reported only"}


@pytest.mark.parametrize(
    ("wrong", "row"),
    [
        ("steady subject", "subject"),
        ("steady motion", "motion"),
        ("after light", "the unchanged factors lose, mean"),
        ("cut place", "place"),
        ("late colour", "colour loses"),
    ],
)
def test_what_is_wrong_misses_its_bar(wrong: str, row: str) -> None:
    found = bars.rows(invented(Counter({wrong: 60})), GOOD, VALUES)
    missed = {one.name for one in found if one.ok is False}
    assert row in missed
    assert len(missed) <= 3


def test_a_bad_evaluator_or_vae_misses_its_bars() -> None:
    bad = {
        "fresh": dict.fromkeys(FACTOR_NAMES, 97.0),
        "plain": dict.fromkeys(FACTOR_NAMES, 99.0),
        "coded": dict.fromkeys(FACTOR_NAMES, 96.0),
        "psnr": [29.0] * 20 + [28.0] * 13,
    }
    found = [row for row in bars.rows(invented(), bad, VALUES) if row.ok is False]
    assert len(found) == 6 + 2 + 6


def test_nothing_measured_is_nothing_met() -> None:
    empty: dict[str, Any] = {"fresh": {}, "plain": {}, "coded": {}, "psnr": []}
    found = bars.rows([], empty, VALUES)
    assert sum(row.ok is False for row in found) == 38
    assert all(row.figure is None for row in found)


def test_shuffled_captions_are_at_chance() -> None:
    rng = random.Random(4)
    asked = [rng.choice("abcd") for _ in range(60)]
    seen = [value if rng.random() < 0.9 else rng.choice("abcd") for value in asked]
    pairs = [(s, a) for i, s in enumerate(seen) for j, a in enumerate(asked) if i != j]
    brute = 100.0 * sum(s == a for s, a in pairs) / len(pairs)
    assert bars.agreement_when_shuffled(seen, asked) == pytest.approx(brute)
    assert abs(brute - 25.0) < 5.0
    # A model that shows the same to everybody has nothing to fall from, and one that shows one value is not at chance.
    assert bars.agreement_when_shuffled(["a"] * 9, ["a"] * 9) == 100.0
    found = {row.name: row for row in bars.rows(invented(), GOOD, VALUES) if row.group.startswith("captions shuffled")}
    assert set(found) == set(FACTOR_NAMES)
    assert all(row.ok for row in found.values())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and an evaluator that know nothing."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("tiny")
    shape = SMOKE.shape
    words = Words(FIRST_WORLD, phrasings=1, text_len=shape.text_len, seed=1, device=CPU).vocabulary
    modules = {"generator": weights.new_generator(shape), "text": weights.new_text(shape, words)}
    weights.write(out / weights.STUDENT, modules, torch.float32, words=words)
    vae = weights.Vae(weights.vae_config(shape))
    weights.write_vae(out / weights.VAE, vae, torch.zeros(16), torch.ones(16))
    folder = export.run(SMOKE, out, log=Log(out / "log.jsonl", "export"))
    judge.write(out / "evaluator.safetensors", judge.new(SMOKE.evaluator, FULL_WORLD))
    return folder, out / "evaluator.safetensors"


def look(tiny: tuple[Path, Path], work: Path, *more: str, **parts: Any) -> int:
    quick = ["--prompts", "3", "--minute", "1", "--others", "1", "--fresh", "10", "--coded", "10"]
    where = ["--model", str(tiny[0]), "--evaluator", str(tiny[1]), "--work", str(work)]
    return evaluate.main([*where, *quick, *more], **parts)


@pytest.mark.slow
def test_an_evaluation_from_end_to_end(
    tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "MINUTE_CHUNKS", 10)
    assert look(tiny, tmp_path) == evaluate.MISSED
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert all(row["name"] in said and row["group"] in said for row in result["rows"])
    assert {"machine", "genlock", "command", "commit", "rows", "confusions"} <= set(result)
    assert sum(row["ok"] is not None for row in result["rows"]) == 38
    assert all(row["figure"] is not None for row in result["rows"] if row["ok"] is not None)
    groups = {row["group"] for row in result["rows"]}
    for kind in ("regime R0", "regime R1", "rolling window"):
        assert f"{kind}, seconds 2 to 4: reported only" in groups

    def none_left(*_: Any, **__: Any) -> Any:
        raise AssertionError("a stream was asked for twice")

    assert look(tiny, tmp_path, open_session=none_left) == evaluate.MISSED


@pytest.mark.slow
def test_shards_add_up(tiny: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MINUTE_CHUNKS", 10)
    assert look(tiny, tmp_path, "--shard", "0/2") == evaluate.UNFINISHED
    with (tmp_path / "streams.jsonl").open("a") as file:
        file.write('{"key": "cut sho\n')
    assert look(tiny, tmp_path, "--shard", "1/2") == evaluate.MISSED


def test_parts_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[list[str], str]] = []

    class Part:
        def __init__(self, words: list[str], *, env: dict[str, str], stdout: int) -> None:
            begun.append((words, env["OMP_NUM_THREADS"]))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(evaluate.subprocess, "Popen", Part)
    monkeypatch.setattr(evaluate.os, "cpu_count", lambda: 6)
    evaluate.share_out(evaluate.arguments(["--prompts", "9"]))
    assert begun == []
    evaluate.share_out(evaluate.arguments(["--prompts", "9", "--processes", "3"]))
    assert [threads for _, threads in begun] == ["2", "2", "2"]
    shards = [evaluate.arguments(words[3:]) for words, _ in begun]
    assert [(part.shard, part.processes, part.prompts) for part in shards] == [((n, 3), 1, 9) for n in range(3)]


@pytest.mark.parametrize("shard", ["2/2", "a/b", "1"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(SystemExit):
        evaluate.arguments(["--shard", shard])


def test_a_quick_look_does_not_replace_the_kept_result() -> None:
    assert evaluate.arguments([]).out == evaluate.RESULT
    assert evaluate.arguments(["--prompts", "20"]).out == evaluate.WORK / "result.json"
    assert evaluate.arguments(["--prompts", "20"]).minute == 20
