"""What each rung of the ladder costs one worker at real shapes: 14B over a mesh, UMT5-XXL, the Wan VAE, 832 x 480.

    python benchmarks/ladder_14b.py --mesh 8 --out benchmarks/results/ladder-14b-h200-mesh8.json  a minute, 80 GB
    python benchmarks/ladder_14b.py --toy --device cpu --out /tmp/ladder.json          the same at toy sizes

One process stands for one worker of `--mesh` ranks: its shard has random weights, its sums over ranks add nothing, and
what a plan has it load it loads from files of random weights, with the package's own loaders. Every chunk runs what a
worker of that plan runs: the generator, and of stage 0 its own part. Memory is the device's (on a CPU: the process's,
which does not go down again, so that the rungs run from the barest to the fullest). What is not in it: the seconds that
reading the shard takes, which are the same on every rung, and a second rank's traffic. Exits with 4 if the gate is
missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from genlock.bench.ladder import GATE, SAVED_BYTES, SAVED_SHARE
from genlock.bench.machine import machine
from genlock.drills.toy import write_toy_model
from genlock.engine.job import Job
from genlock.engine.own_stage0 import Parts
from genlock.engine.warm_up import begin_job, count, warm_envelope
from genlock.generator.config import frame_tokens, pixel_frames
from genlock.generator.model import Generator
from genlock.generator.model_folder import ModelFolder, read_model_folder
from genlock.generator.parallel import Solo
from genlock.generator.presets import PRESETS
from genlock.generator.stream import Stream
from genlock.media.text import train_word_tokenizer, write_tokenizer
from genlock.media.umt5 import TextSizes
from genlock.media.vae import WAN_VAE, Vae
from genlock.media.vae_checkpoint import save_vae
from genlock.observe.trace import unmeasured
from genlock.wire.kinds import LOADS, Plan
from genlock.wire.prepare import prepare

XXL = TextSizes(vocabulary=256384, dim=4096, ffn_dim=10240, num_heads=64, head_dim=64, num_layers=24, buckets=32)
WORDS = ("a", "red", "blue", "boat", "car", "at", "sea", "night", "noon", "over", "the", "with", "of", "in")
PROMPT_WORDS = 60  # as long as people write
STD = 0.02  # of random weights
WARM = 2  # chunks that are run and not timed


class Meter:
    """Memory of the device; on a CPU of the process."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def held(self) -> int:
        return torch.cuda.memory_allocated() if self.cuda else 0

    def most(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_reserved()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def begin(self) -> None:
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def seconds(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """What the work gives, and how long it takes the device."""
        self.settle()
        begun = time.perf_counter()
        done = work()
        self.settle()
        return done, time.perf_counter() - begun

    def settle(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def random_media(folder: Path, device: torch.device) -> ModelFolder:
    """Text encoder, tokenizer and VAE of the real sizes, random, as files."""
    made = torch.Generator(device=device).manual_seed(5)
    tensors = {}
    for name, shape in XXL.shapes().items():
        drawn = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(0, STD, generator=made)
        tensors[name] = drawn.cpu()
    save_file(tensors, folder / "text.safetensors", {"config": json.dumps(asdict(XXL))})
    write_tokenizer(train_word_tokenizer(WORDS), folder / "tokenizer.json")
    save_vae(Vae(WAN_VAE), folder / "vae.safetensors", dtype=torch.float32)
    return ModelFolder(path=folder, preset=PRESETS["krea-14b"])


def shard(job: Job, *, mesh: int) -> Stream:
    """The last rank's share of a generator with random weights, and its empty cache."""
    with torch.device("meta"):
        generator = Generator(job.config, Solo(rank=mesh - 1, size=mesh))
    generator = generator.to(job.dtype).to_empty(device=job.device).eval().requires_grad_(requires_grad=False)
    for parameter in generator.parameters():
        parameter.normal_(0, STD)
    rows, columns = job.latent_size
    return Stream(generator, job.policy, latent_height=rows, latent_width=columns, watch_slots=True)


def own_part(parts: Parts, job: Job) -> Callable[[Tensor, bool], None]:
    """What a worker with these parts does for a chunk beside the generator: [F, C, h, w], whether a cut comes first."""
    sources = parts.sources()
    prompt = " ".join(WORDS[index % 9] for index in range(min(PROMPT_WORDS, job.config.text_len - 1)))
    frame = torch.zeros(1, 3, job.height, job.width)
    later = torch.zeros(1, pixel_frames(job.policy.chunk_frames, first=False), 3, job.height, job.width)
    state: Any = None

    def run(latents: Tensor, fresh: bool) -> None:
        nonlocal state
        sources.text(prompt)  # runs once: the encoder remembers it
        if sources.video is not None and parts.vae is not None and parts.vae.decoder is None:
            before = None if fresh else state  # a followed video: what an encoder alone is there for
            pixels = later if before is not None else later[:, : later.shape[1] - 3]
            _, state = sources.video(before, pixels)
        elif sources.image is not None:
            sources.image(frame)
        parts.decode(latents, fresh=fresh)

    return run


@torch.inference_mode()
def rung(plan: Plan, job: Job, stream: Stream, folder: ModelFolder, meter: Meter, *, chunks: int) -> dict[str, Any]:
    """Figures of one worker under one plan."""
    meter.begin()
    before = meter.held()
    own: Callable[[Tensor, bool], None] | None = None
    load_s = 0.0
    if LOADS[plan]:
        parts, load_s = meter.seconds(
            lambda: Parts(folder, job.device, parts=LOADS[plan], remembered=1, span_of=unmeasured)
        )
        own = own_part(parts, job)
    loaded = meter.held() - before
    lifecycle, took_b, took_own = begin_job(job), list[float](), list[float]()
    for number in range(WARM + chunks):
        envelope = warm_envelope(job, lifecycle, min(number, count(job) - 1))
        prepared, lifecycle = prepare(envelope, lifecycle)
        unpacked = prepared.unpack()
        latents, seconds = meter.seconds(lambda given=unpacked: stream.run(given))
        took_b.append(seconds)
        if own is not None:
            _, seconds = meter.seconds(lambda made=latents, cut=unpacked.reset_kv: own(made, cut))
        took_own.append(seconds if own is not None else 0.0)
    return {
        "plan": plan,
        "loads": sorted(LOADS[plan]),
        "load_s": load_s,
        "loaded_bytes": loaded,
        "memory_bytes": meter.most(),
        "generator_ms": 1e3 * median(took_b[WARM:]),
        "own_stage0_ms": 1e3 * median(took_own[WARM:]),
    }


def measured(job: Job, folder: ModelFolder, *, mesh: int, chunks: int) -> dict[str, Any]:
    meter = Meter(job.device)
    meter.begin()
    stream, built_s = meter.seconds(lambda: shard(job, mesh=mesh))
    held = meter.held()
    barest_first = sorted(Plan, key=lambda plan: len(LOADS[plan]))
    rungs = {plan: rung(plan, job, stream, folder, meter, chunks=chunks) for plan in barest_first}
    full, bare = rungs[Plan.V0_FULL_PIPELINE], rungs[Plan.V1_GENERATOR_ONLY]
    saved = full["memory_bytes"] - bare["memory_bytes"]
    share = saved / full["memory_bytes"]
    sooner_s = full["load_s"] - bare["load_s"]
    return {
        "shard_and_cache_bytes": held,
        "shard_made_s": built_s,
        "rungs": [rungs[plan] for plan in Plan],
        "gate": {
            "bar": GATE,
            "saved_bytes": saved,
            "saved_share": share,
            "sooner_s": sooner_s,
            "passed": (saved >= SAVED_BYTES or share >= SAVED_SHARE) and sooner_s > 0,
        },
    }


def job_of(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> Job:
    used = folder.preset
    return Job(
        name=used.name,
        weights=Path(),
        config=used.generator,
        policy=used.cache,
        regime=used.regime,
        height=used.height,
        width=used.width,
        steps=len(used.steps),
        dtype=dtype,
        device=device,
        warm=True,
        attention_bias=used.attention_bias,
        pad_sink=used.pad_sink,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--mesh", type=int, default=2, help="ranks that the worker is one of")
    parser.add_argument("--chunks", type=int, default=6, help="timed, after two that are not")
    parser.add_argument("--toy", action="store_true", help="toy sizes, to see that it runs")
    arguments = parser.parse_args()
    device, begun = torch.device(arguments.device), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="genlock-ladder-") as place:
        folder = read_model_folder(write_toy_model(Path(place))) if arguments.toy else random_media(Path(place), device)
        job = job_of(folder, device, torch.float32 if device.type == "cpu" else torch.bfloat16)
        written_s = time.monotonic() - begun
        result = measured(job, folder, mesh=arguments.mesh, chunks=arguments.chunks)
    rows, columns = job.latent_size
    about = {
        "command": f"python benchmarks/ladder_14b.py --mesh {arguments.mesh}" + (" --toy" if arguments.toy else ""),
        "model": job.name,
        "size": f"{job.width}x{job.height}, {frame_tokens(rows, columns)} tokens a latent frame",
        "mesh": arguments.mesh,
        "dtype": str(job.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "files_written_s": written_s,
        "seconds": time.monotonic() - begun,
        "machine": asdict(machine()),
    }
    arguments.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    for each in result["rungs"]:
        print(
            f"{each['plan']}: {each['memory_bytes'] / 1e9:.2f} GB at most, {each['loaded_bytes'] / 1e9:.2f} GB of "
            f"parts in {each['load_s']:.1f} s; a chunk {each['generator_ms']:.0f} + {each['own_stage0_ms']:.0f} ms"
        )
    gate = result["gate"]
    print(
        f"{gate['saved_bytes'] / 1e9:.1f} GB ({gate['saved_share']:.0%}) less, {gate['sooner_s']:.1f} s sooner: "
        f"{'passed' if gate['passed'] else 'missed'}"
    )
    return 0 if gate["passed"] or arguments.toy else 4


if __name__ == "__main__":
    raise SystemExit(main())
