"""Makes the bundled model, stage by stage: `python -m tools.world.make --stage vae --out out/first --seconds 480`.

Every stage reads what the one before left in the folder, can be stopped and given more seconds, and logs to log.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from . import evaluator, export, ranks, train_student, train_teacher, train_vae, weights
from .config import PRESETS
from .loop import Log
from .scene import FIRST_WORLD, FULL_WORLD

STAGES = {"evaluator": evaluator.run, "vae": train_vae.run, "teacher": train_teacher.run, "student": train_student.run}
WORLDS = {"first": FIRST_WORLD, "full": FULL_WORLD}
STUDENT_PICTURES = ("student.png", "student-openings.png", "student-beginnings.png")
PICTURES = {"vae": ("vae-clips.png",), "teacher": ("teacher.png", "teacher-fine.png"), "student": STUDENT_PICTURES}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools.world.make", description=__doc__)
    parser.add_argument("--stage", required=True, choices=["begin", *STAGES, "export", "all"])
    parser.add_argument("--out", required=True, type=Path, help="folder of checkpoints, weights, pictures and the log")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stage, everything included")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="first")
    parser.add_argument("--world", choices=sorted(WORLDS), default="first")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="default: on a GPU")
    parser.add_argument("--cards", type=int, default=1, help="GPUs of this machine that train together")
    parser.add_argument(
        "--planned", type=float, default=0.0, help="training seconds of the stage, later calls included"
    )
    parser.add_argument("--model", type=Path, help="stage begin: the folder whose weights are taken up")
    parser.add_argument("--export-dir", type=Path, help="also copies the stage's small results here")
    return parser.parse_args(argv)


def prepare(device: torch.device) -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64
    if device.type == "cuda":
        torch.cuda.init()


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if options.stage == "begin":
        weights.begin(options.out, options.model, PRESETS[options.preset].shape)
        return
    ranks.run(options.cards, options.out / "ranks", functools.partial(work, options))


def work(options: argparse.Namespace, rank: int) -> None:
    """The stages asked for, in one of the processes that train together."""
    device = torch.device(options.device)
    compile_ = device.type == "cuda" if options.compile is None else options.compile
    prepare(device)
    world = WORLDS[options.world]
    preset = PRESETS[options.preset]
    for stage in [*STAGES, "export"] if options.stage == "all" else [options.stage]:
        begun = time.monotonic()
        preset = replace(preset, shape=weights.fitted(preset.shape, options.out))
        if stage in STAGES and options.planned:
            preset = replace(preset, **{stage: replace(getattr(preset, stage), planned_seconds=options.planned)})
        log = Log(options.out / ("log.jsonl" if rank == 0 else f"log-{rank}.jsonl"), stage)
        try:
            if stage == "export":
                export.run(preset, options.out, log=log)
            else:
                STAGES[stage](
                    preset, world, options.out, seconds=options.seconds, device=device, compile_=compile_, log=log
                )
        finally:
            peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
            log(event="stage ended", took_s=time.monotonic() - begun, peak_gib=peak, cards=ranks.size())
            if options.export_dir is not None and ranks.leads():
                hand_over(stage, options.out, options.export_dir)


def hand_over(stage: str, out: Path, folder: Path) -> None:
    """Copies what is small and worth keeping: this stage's weights and pictures, and the log."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["log.jsonl", f"{stage}.pt", *PICTURES.get(stage, ())]
    for name in names:
        if (out / name).exists():
            shutil.copyfile(out / name, folder / name)


if __name__ == "__main__":
    main()
