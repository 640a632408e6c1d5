"""What must hold on a GPU, checked in one run: the maths, a whole-block graph, no host waits, a captured step, a mesh.

    python benchmarks/gpu_checks.py --golden FOLDER --out FILE.json

`--golden` is the folder with the recordings (and `golden-vae` beside it is not needed). Each check prints one line; the
JSON holds hardware, versions, command and every figure. Exits with 4 if a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlock.engine.recording import Case, read_recording
from genlock.engine.replay import case_job, recorded_envelopes, replay_envelopes
from genlock.engine.solo import load_stream
from genlock.generator.cache import KeyValueCache
from genlock.generator.config import frame_tokens
from genlock.generator.model import Generator
from genlock.generator.window import Span

FP32_LIMIT = 1e-4
COMPILED_LIMIT = 1e-4
DEVICE = "cuda"


def golden_cases(folder: Path, device: str) -> dict[str, Any]:
    """Every recorded case in float32: the largest error of each."""
    largest = {}
    for name, case in read_recording(folder).cases.items():
        largest[name] = max(report.largest for report in replay_envelopes(case, device=device))
    return {"ok": max(largest.values()) <= FP32_LIMIT, "limit": FP32_LIMIT, "largest_error": largest}


class Prepared:
    """A recompute case up to its second chunk: a stream whose cache is warm, and that chunk's envelope."""

    def __init__(self, folder: Path, device: str) -> None:
        self.case: Case = read_recording(folder).case("recompute")
        self.stream = load_stream(case_job(self.case, device))
        self.generator: Generator = self.stream.generator
        self.envelopes = list(recorded_envelopes(self.case, self.case.tensors()))[:4]
        for envelope in self.envelopes[:2]:
            self.stream.run(envelope)

    def step(self) -> tuple[Tensor, Tensor, Span]:
        """(x, t, span) of a denoise step after a full context."""
        envelope = self.envelopes[1]
        x = envelope.noise.unsqueeze(0).to(self.generator.device)
        t = torch.full((1, 1), 750.0, device=self.generator.device)
        return x, t, Span(frames=3, rope_start=3, write_start=3, visible=6)

    def fresh_cache(self) -> KeyValueCache:
        config = self.generator.config
        cache = KeyValueCache(
            layers=config.num_layers,
            frames=6,
            tokens=frame_tokens(*self.case.latent_size),
            heads=config.num_heads,
            head_dim=config.head_dim,
            device=self.generator.device,
        )
        for ours, theirs in zip(
            cache.keys + cache.values, self.stream.cache.keys + self.stream.cache.values, strict=True
        ):
            ours.copy_(theirs[:, : ours.shape[1]])
        return cache


def compiled_block(folder: Path, device: str) -> dict[str, Any]:
    """Every block compiled whole (no graph break allowed) computes what it computes in eager mode."""
    prepared = Prepared(folder, device)
    x, t, span = prepared.step()
    with torch.inference_mode():
        plain = prepared.generator(x, t, prepared.stream.cross, prepared.fresh_cache(), span)
        for index, block in enumerate(prepared.generator.blocks):
            prepared.generator.blocks[index] = torch.compile(block, fullgraph=True)
        compiled = prepared.generator(x, t, prepared.stream.cross, prepared.fresh_cache(), span)
    error = float((plain - compiled).abs().max())
    return {"ok": error <= COMPILED_LIMIT, "limit": COMPILED_LIMIT, "largest_error": error}


def no_host_wait(folder: Path, device: str) -> dict[str, Any]:
    """A chunk from its first generator call to its last, with every wait for the device an error."""
    prepared = Prepared(folder, device)
    calls = 0
    envelope = prepared.envelopes[2]
    torch.cuda.synchronize()

    def before(*_: Any) -> None:
        nonlocal calls
        calls += 1
        torch.cuda.set_sync_debug_mode("error")

    def after(*_: Any) -> None:
        if calls == envelope.expected_generator_calls:
            torch.cuda.set_sync_debug_mode("default")

    handles = [prepared.generator.register_forward_pre_hook(before), prepared.generator.register_forward_hook(after)]
    try:
        prepared.stream.run(envelope)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for handle in handles:
            handle.remove()
    return {"ok": calls == envelope.expected_generator_calls, "calls": calls}


def captured_step(folder: Path, device: str) -> dict[str, Any]:
    """A denoise step recorded as a CUDA graph and replayed on new noise equals the plain call on it."""
    prepared = Prepared(folder, device)
    x, t, span = prepared.step()
    cross = prepared.stream.cross
    with torch.inference_mode():
        cache, static_x, static_t = prepared.fresh_cache(), x.clone(), t.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                prepared.generator(static_x, static_t, cross, cache, span)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = prepared.generator(static_x, static_t, cross, cache, span)
        fresh_x = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(x.device)
        static_x.copy_(fresh_x)
        static_t.fill_(500.0)
        graph.replay()
        plain_cache = prepared.fresh_cache()
        plain = prepared.generator(fresh_x, torch.full_like(t, 500.0), cross, plain_cache, span)
        torch.cuda.synchronize()
        error = float((captured - plain).abs().max())
        cache_error = max(float((a - b).abs().max()) for a, b in zip(cache.keys, plain_cache.keys, strict=True))
    return {"ok": error == 0.0 and cache_error == 0.0, "largest_error": error, "largest_cache_error": cache_error}


def mesh_of_two(folder: Path, device: str, *, visible: str) -> dict[str, Any]:
    """Every recorded case on two ranks, by the command; `visible`: which GPUs they see. One GPU: over gloo, shared."""
    words = [
        "replay",
        str(folder),
        "--topology",
        "tp",
        "--mesh",
        "2",
        "--device",
        device,
        "--tolerance",
        str(FP32_LIMIT),
    ]
    run = subprocess.run(
        [sys.executable, "-m", "genlock", *words],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [*run.stdout.splitlines(), *run.stderr.splitlines()]
    return {"ok": run.returncode == 0, "exit_code": run.returncode, "command": " ".join(words), "said": lines[-6:]}


def mesh_over_gloo(folder: Path, device: str) -> dict[str, Any]:
    return mesh_of_two(folder, device, visible="0")


def mesh_over_nccl(folder: Path, device: str) -> dict[str, Any]:
    if device != "cpu" and torch.cuda.device_count() < 2:
        return {"ok": True, "not_run": "one GPU: NCCL takes one rank a GPU"}
    return mesh_of_two(folder, device, visible="0,1")


CHECKS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "golden_fp32": golden_cases,
    "compiled_block": compiled_block,
    "no_host_wait": no_host_wait,
    "captured_step": captured_step,
    "mesh_over_gloo": mesh_over_gloo,
    "mesh_over_nccl": mesh_over_nccl,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default=DEVICE, help="cpu runs the two checks that need no GPU")
    parser.add_argument("--only", action="append", choices=sorted(CHECKS), help="this check; default: all")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    on_gpu = arguments.device != "cpu"
    report: dict[str, Any] = {
        "command": " ".join(sys.argv),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "checks": {},
    }
    for name, check in CHECKS.items():
        if arguments.only and name not in arguments.only:
            continue
        if not on_gpu and name in ("no_host_wait", "captured_step"):
            continue
        try:
            outcome = check(arguments.golden, arguments.device)
        except Exception as error:  # noqa: BLE001 - one check must not hide the others
            outcome = {"ok": False, "error": f"{type(error).__name__}: {str(error)[:2000]}"}
        report["checks"][name] = outcome
        print(name, json.dumps(outcome), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(outcome["ok"] for outcome in report["checks"].values()) else 4


if __name__ == "__main__":
    sys.exit(main())
