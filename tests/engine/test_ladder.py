"""The ladder of plans, whole: on every rung the same frames; a rung that cannot start says what it lacks. What becomes
of a worker that prepares something else: `genlock drill noise-drift`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from genlock.drills.runs import SHORT, Apart, Run
from genlock.engine.mesh_rank import MODULES_OF, check_loaded
from genlock.engine.session import session_job
from genlock.errors import PlanRefused, UsageError
from genlock.media.video import VideoWriter, read_video
from genlock.observe.rank_file import read_rank_files
from genlock.observe.trace import TEXT_ENCODE, VAE_DECODE, VAE_ENCODE
from genlock.settings import Settings
from genlock.wire.kinds import LOADS, Part, Plan

PATIENT = {"GENLOCK_DEADLINE": "20"}  # where nothing is to be silent: a busy machine is no failure
CHUNKS, FIRST_PIXELS, PIXELS = 20, 13, 12

Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path, model_folder: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def begin(*words: str, of_rank: dict[int, dict[str, str]] | None = None, **options: str) -> Run:
        folder = tmp_path / f"run{len(runs)}"
        if of_rank is None:
            runs.append(Run(folder, model_folder, "generate", *words, **options))
        else:
            runs.append(Apart(folder, model_folder, "generate", *words, of_rank=of_rank, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.end()


@pytest.mark.slow
def test_every_rung_makes_the_same_frames(start: Start, tmp_path: Path) -> None:
    """A followed video, a prompt change, a transition over it, a cut."""
    length = FIRST_PIXELS + (CHUNKS - 1) * PIXELS
    ramp = torch.arange(length).reshape(-1, 1, 1, 1) * 3 + torch.arange(32).reshape(1, -1, 1, 1) * 5
    with VideoWriter(tmp_path / "in.mp4", 48, 32, 16.0) as video:
        video.write((ramp % 256).to(torch.uint8).expand(length, 32, 48, 3).contiguous())
    words = ["--input", str(tmp_path / "in.mp4"), "--strength", "0.6", "--seconds", "60"]
    words += ["--prompt", "a red boat at sea", "--prompt", "a blue car at night", "--at", "3"]
    words += ["--prompt", "a blue boat at noon", "--at", "10", "--transition", "2", "--cut-at", "7"]
    frames = {}
    for plan in Plan:
        run = start(*words, "--plan", plan, **PATIENT)
        assert run.ended() == 0, run.said
        assert not run.left()
        frames[plan] = torch.stack(list(read_video(run.out, height=32, width=48, fps=16.0)))
        made = {rank: said["calls"] for rank, said in read_rank_files(run.run_dir).items()}
        for name in ("text", "recompute", "denoise"):
            assert made[1][name] == made[0][name]
        assert [made[1].get(name, 0) for name in (TEXT_ENCODE, VAE_ENCODE, VAE_DECODE)] == [
            3 if Part.TEXT in LOADS[plan] else 0,
            made[0][VAE_ENCODE] if Part.DECODER in LOADS[plan] else made[0][VAE_DECODE] * (Part.ENCODER in LOADS[plan]),
            made[0][VAE_DECODE] if Part.DECODER in LOADS[plan] else 0,
        ], "the input is encoded in every chunk, an anchor only where it is decoded too"
    generator_only = frames.pop(Plan.V1_GENERATOR_ONLY)
    assert len(generator_only) >= length
    assert [plan for plan in frames if not torch.equal(frames[plan], generator_only)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "role", "remedy"),
    [
        (Plan.V0_FULL_PIPELINE, "vae", Plan.V1B_LATENTS_OVERRIDE),
        (Plan.V1B_LATENTS_OVERRIDE, "text", Plan.V1_GENERATOR_ONLY),
    ],
)
def test_a_rung_that_cannot_start_says_what_it_lacks(
    start: Start, model_folder: Path, tmp_path: Path, plan: Plan, role: str, remedy: Plan
) -> None:
    bare = shutil.copytree(model_folder, tmp_path / "bare")
    (bare / f"{role}.safetensors").unlink()
    run = start(*SHORT, "--plan", plan, of_rank={1: {"GENLOCK_MODEL": str(bare)}})
    assert run.ended() == 13, run.said
    assert isinstance(run, Apart)
    for said in (run.said, run.said_by(1)):
        (line,) = [line for line in said.splitlines() if "GL-" in line]
        assert "GL-PLAN-01" in line
        assert f"no {role} here; " in line
        assert f"--plan {remedy}" in line
    assert "rank 1" in run.said


def test_a_plan_is_about_workers() -> None:
    with pytest.raises(UsageError, match="the plan v0_full_pipeline is about workers") as refusal:
        session_job(Settings(plan="v0_full_pipeline"))
    assert refusal.value.where == "--plan"


@pytest.mark.parametrize("plan", Plan)
@pytest.mark.parametrize("part", Part)
def test_a_worker_has_what_its_plan_loads_and_no_more(plan: Plan, part: Part) -> None:
    loaded = ["genlock.engine.worker", "torch", *(["genlock.media"] if LOADS[plan] else []), *MODULES_OF[part]]
    shared = {name for other in LOADS[plan] for name in MODULES_OF[other]}
    if set(MODULES_OF[part]) <= shared:
        check_loaded(plan, loaded)
    else:
        with pytest.raises(PlanRefused, match=f"a worker of {plan} has loaded genlock.media"):
            check_loaded(plan, loaded)


@pytest.mark.parametrize("plan", Plan)
@pytest.mark.parametrize("module", ["av", "genlock.media.video", "genlock.serve.page", "fastapi"])
def test_no_worker_reads_files_of_video_or_serves(plan: Plan, module: str) -> None:
    with pytest.raises(PlanRefused, match=module):
        check_loaded(plan, [*sys.builtin_module_names, module])
