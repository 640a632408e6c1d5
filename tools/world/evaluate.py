"""Judges a model folder: prompts nobody trained on, through the package's own front door, against the bars.

    make evaluate
    python -m tools.world.evaluate --prompts 24 --minute 4                    # a quick look, in minutes
    python -m tools.world.evaluate --processes 8                              # on 16 cores
    python -m tools.world.evaluate --shard 0/4                                # a quarter of the work, on this machine
    python -m tools.world.evaluate --model out/first/model --device cuda

Each stream's outcome is one line of WORK/streams.jsonl, so that a run goes on where it stopped and shards add up (give
each its own machine or process and join the files). The table is printed, and the JSON has hardware, versions, command
and every figure. Exits with 4 if a bar is missed, with 3 if a shard leaves streams for others.

Legend: T pixel frames, H W pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

import genlock
from genlock.bench.machine import machine
from genlock.engine.session import BUNDLED_FOLDER
from genlock.generator.config import TEMPORAL_STRIDE
from genlock.generator.model_folder import ModelFolder, file_digest, read_model_folder, write_model_folder
from genlock.generator.window import CachePolicy, Policy, Rope
from genlock.media.vae import Vae, clamp_pixels
from genlock.media.vae_checkpoint import load_vae

from .bars import Row, confusions, rows
from .footage import as_pixels, pieces
from .judge import Evaluator, classes, load, right
from .questions import Question, questions
from .render import render
from .scene import FIRST_WORLD, FULL_WORLD, Factors, Script, WorldSpec
from .sheets import as_bytes, psnr
from .streams import STEADY, Bench, OpenSession, ask_minute, ask_otherwise, ask_question
from .takes import CHUNK_PIXELS, FACTOR_NAMES

WEIGHTS = Path(__file__).parent / "trained" / "evaluator.safetensors"
RESULT = Path("benchmarks/results/bundled-evaluation.json")
WORK = Path("out/evaluation")
WORLDS = {"first": FIRST_WORLD, "full": FULL_WORLD}
PROMPTS, MINUTE, OTHERS = 200, 24, 24
FRESH_CLIPS, CODED_CLIPS = 500, 150
CODED_FRAMES = 33
MISSED, UNFINISHED = 4, 3
UNKNOWN: dict[str, Any] = {"fresh": {}, "plain": {}, "coded": {}, "psnr": []}  # the evaluator, not yet tried


def rolling_folder(folder: ModelFolder, place: Path) -> Path:
    """The same weights with a rolling cache of as many frames, positions by slot: for comparison."""
    place.mkdir(parents=True, exist_ok=True)
    for name in folder.files.values():
        link = place / name
        link.unlink(missing_ok=True)
        link.symlink_to((folder.path / name).resolve())
    cache = CachePolicy(policy=Policy.ROLLING, window_frames=folder.preset.cache.window_frames, rope=Rope.RELATIVE)
    write_model_folder(place, replace(folder.preset, cache=cache, regime=None), words=folder.words)
    return place


def there_and_back(vae: Vae, clips: Tensor) -> Tensor:
    """uint8 clips [B, 1 + 4 k, 3, H, W] as the package codes them on this machine: float32, a chunk at a time."""
    encoder, decoder, parts = None, None, []
    for piece in pieces(clips, 2 * TEMPORAL_STRIDE):
        latents, encoder = vae.encode(encoder, as_pixels(piece))
        frames, decoder = vae.decode(decoder, latents)
        parts.append(as_bytes(clamp_pixels(frames)))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def examine_evaluator(
    judge: Evaluator,
    vae: Vae,
    size: tuple[int, int],
    world: WorldSpec,
    counts: tuple[int, int],
    device: torch.device,
) -> dict[str, Any]:
    """Shares right (per cent) by factor on fresh renders, and before and after the VAE; PSNR by frame."""
    rng, combos, group = random.Random(20), world.combinations(), 10
    height, width = size
    hits: dict[str, list[Tensor]] = {"fresh": [], "plain": [], "coded": []}
    decibels = []

    def note(kind: str, clips: Tensor, scenes: list[Factors]) -> None:
        target = classes(scenes, judge.values, clips.device)
        hits[kind].append(right(judge.logits(as_pixels(clips)), target).float())

    def film(frames: int, first: int) -> tuple[Tensor, list[Factors]]:
        scenes = [rng.choice(combos) for _ in range(group)]
        scripts = [Script(scenes=((0, scene),)) for scene in scenes]
        clips = render(scripts, first_frame=first, frames=frames, height=height, width=width, device=device)
        return clips, scenes

    for _ in range(math.ceil(counts[0] / group)):
        note("fresh", *film(CHUNK_PIXELS, rng.randrange(STEADY[0], STEADY[-1] + 1)))
    for _ in range(math.ceil(counts[1] / group)):
        clips, scenes = film(CODED_FRAMES, 0)
        back = there_and_back(vae, clips)
        decibels.append(psnr(as_pixels(back), as_pixels(clips)))
        for start in (9, 21):
            window = slice(start, start + CHUNK_PIXELS)
            note("plain", clips[:, window], scenes)
            note("coded", back[:, window], scenes)
    shares = {
        kind: dict(zip(FACTOR_NAMES, (100.0 * torch.cat(parts).mean(0)).tolist(), strict=True))
        for kind, parts in hits.items()
    }
    return {**shares, "psnr": torch.cat(decibels).mean(0).tolist(), "clips": list(counts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One line of the record: what it is called and how to make it."""

    kind: str
    number: int
    make: Callable[[], dict[str, Any]]


def tasks(
    bench: Bench,
    asked: Sequence[Question],
    minute: int,
    others: int,
    *,
    rolling: str,
    itself: Callable[[], dict[str, Any]],
) -> list[Task]:
    """Everything to be done, the evaluator `itself` and the judged streams first."""
    out = [Task(kind="evaluator", number=0, make=itself)]
    out += [Task(kind="question", number=q.number, make=partial(ask_question, bench, q)) for q in asked]
    ways = {"regime R0": (None, "R0"), "regime R1": (None, "R1"), "rolling window": (rolling, None)}
    for kind, (model, regime) in ways.items():
        for q in asked[:others]:
            make = partial(ask_otherwise, bench, q, model=model, regime=regime)
            out.append(Task(kind=kind, number=q.number, make=make))
    out += [Task(kind="minute", number=q.number, make=partial(ask_minute, bench, q)) for q in asked[:minute]]
    return out


class Ledger:
    """Outcomes kept as JSON lines; those of another model, evaluator or list of questions are not ours."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.held: dict[tuple[str, int], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = _record(line)
                if record is not None and record["key"] == key:
                    self.held[record["kind"], record["number"]] = record

    def add(self, kind: str, number: int, outcome: dict[str, Any]) -> None:
        record = {"key": self.key, "kind": kind, "number": number, **outcome}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.held[kind, number] = record


def _record(line: str) -> dict[str, Any] | None:
    """A line's record; None for one that was cut short."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return found


def work_through(todo: Sequence[Task], ledger: Ledger, shard: tuple[int, int]) -> int:
    """Does what this shard has not done yet; returns how many tasks are open for others."""
    mine = [task for n, task in enumerate(todo) if n % shard[1] == shard[0]]
    mine = [task for task in mine if (task.kind, task.number) not in ledger.held]
    begun = time.monotonic()
    for done, task in enumerate(mine, start=1):
        ledger.add(task.kind, task.number, task.make())
        if done % 10 == 0 or done == len(mine):
            pace = (time.monotonic() - begun) / done
            part = "" if shard[1] == 1 else f"part {shard[0]}: "
            left_min = pace * (len(mine) - done) / 60
            print(f"{part}{done} of {len(mine)} streams, {left_min:.0f} min to go", file=sys.stderr, flush=True)
    return sum((task.kind, task.number) not in ledger.held for task in todo)


def share_out(options: argparse.Namespace) -> None:
    """Runs the work in processes of their own, the cores shared among them. What one of them leaves is done here."""
    count = options.processes
    if count < 2:
        return
    threads = max(1, (os.cpu_count() or 1) // count)
    parts = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tools.world.evaluate",
                *options.said,
                "--processes",
                "1",
                "--shard",
                f"{n}/{count}",
            ],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
        )
        for n in range(count)
    ]
    for part in parts:
        part.wait()


def show(found: Sequence[Row]) -> None:
    """The table, for people."""
    width = max(len(row.name) for row in found) + 2
    group = ""
    for row in found:
        if row.group != group:
            group = row.group
            print(f"\n{group}")
            print(f"  {'':<{width}}{'bar':>16} {'figure':>10} {'rendered':>9}")
        figure = "-" if row.figure is None else f"{row.figure:.2f}" if row.unit in ("dB", "s") else f"{row.figure:.1f}"
        rendered = "" if row.rendered is None else f"{row.rendered:.1f}"
        verdict = {None: "", True: "met", False: "MISSED" if row.figure is not None else "NOT MEASURED"}[row.ok]
        print(f"  {row.name:<{width}}{row.bar:>16} {figure:>10} {rendered:>9}  {verdict}")


def summary(found: Sequence[Row]) -> str:
    barred = [row for row in found if row.ok is not None]
    missed = [f"{row.group}: {row.name}" for row in barred if not row.ok]
    return f"{len(barred) - len(missed)} of {len(barred)} bars met" + "".join(f"\n  missed: {name}" for name in missed)


def key_of(options: argparse.Namespace, folder: ModelFolder, world: WorldSpec) -> str:
    """Differs for another model, evaluator, list of questions or device."""
    parts = [*sorted(folder.digests.values()), file_digest(options.evaluator), options.device]
    parts.append(repr(questions(PROMPTS, world)))
    return xxhash.xxh3_64_hexdigest("\n".join(parts).encode())


def surroundings(options: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, command and commit."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "machine": asdict(machine()),
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
        "genlock": genlock.__version__,
        "commit": git.stdout.strip() or "unknown",
        "command": shlex.join(["python", "-m", "tools.world.evaluate", *options.said]),
    }


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools.world.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUNDLED_FOLDER, help="a model folder; default: the shipped one")
    parser.add_argument("--evaluator", type=Path, default=WEIGHTS, help="the evaluator's weights")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="questions asked; fewer for a quick look")
    parser.add_argument("--minute", type=int, help=f"of them, watched for a minute; default: at most {MINUTE}")
    parser.add_argument("--others", type=int, help=f"of them, under each other regime; default: at most {OTHERS}")
    parser.add_argument("--fresh", type=int, default=FRESH_CLIPS, help="fresh clips the evaluator itself is tried on")
    parser.add_argument("--coded", type=int, default=CODED_CLIPS, help="fresh clips that go through the VAE")
    parser.add_argument("--world", choices=sorted(WORLDS), default="full", help="which world is asked about")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="do every N-th stream from the I-th on")
    parser.add_argument("--processes", type=int, default=1, help="work side by side on this machine")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of what is kept between runs")
    parser.add_argument("--out", type=Path, help=f"the JSON; default: {RESULT}, with fewer prompts WORK/result.json")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.said = list(sys.argv[1:] if argv is None else argv)
    options.minute = min(MINUTE, options.prompts) if options.minute is None else options.minute
    options.others = min(OTHERS, options.prompts) if options.others is None else options.others
    full = options.prompts >= PROMPTS and options.minute >= MINUTE
    options.out = options.out or (RESULT if full else options.work / "result.json")
    part, _, whole = options.shard.partition("/")
    if not (part.isdigit() and whole.isdigit() and int(part) < int(whole)):
        parser.error(f"--shard {options.shard}: give it as 0/4, 1/4, ...")
    options.shard = (int(part), int(whole))
    return options


def main(argv: list[str] | None = None, *, open_session: OpenSession = genlock.open) -> int:
    options = arguments(argv)
    folder, world = read_model_folder(options.model), WORLDS[options.world]
    device = torch.device(options.device)
    judge = load(options.evaluator, device)
    size = (folder.preset.height, folder.preset.width)
    bench = Bench(model=str(options.model), open_session=open_session, judge=judge, size=size, device=options.device)
    asked = questions(options.prompts, world)
    share_out(options)
    ledger = Ledger(options.work / "streams.jsonl", key_of(options, folder, world))
    rolling = str(rolling_folder(folder, options.work / f"rolling-{options.shard[0]}"))

    def itself() -> dict[str, Any]:
        vae = load_vae(folder.file("vae"), device=options.device)
        return examine_evaluator(judge, vae, size, world, (options.fresh, options.coded), device)

    todo = tasks(bench, asked, options.minute, options.others, rolling=rolling, itself=itself)
    left = work_through(todo, ledger, options.shard)
    records = [ledger.held[key] for task in todo if (key := (task.kind, task.number)) in ledger.held]
    evaluator = ledger.held.get(("evaluator", 0), UNKNOWN)
    found = rows([record for record in records if record["kind"] != "evaluator"], evaluator, judge.values)
    show(found)
    if left:
        print(f"\nso far: {left} streams are left for other shards; run again when they are done")
        return UNFINISHED
    verdict = summary(found)
    print(f"\n{verdict}")
    name = folder.preset.name if options.model == BUNDLED_FOLDER else str(options.model)
    content = {
        **surroundings(options),
        "model": {"folder": name, "digests": dict(folder.digests)},
        "prompts": options.prompts,
        "minute": options.minute,
        "verdict": verdict.splitlines(),
        "rows": [asdict(row) for row in found],
        "psnr_by_frame": evaluator["psnr"],
        "confusions": confusions([r for r in records if r["kind"] == "question"], "steady"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {options.out}")
    return MISSED if any(row.ok is False for row in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
