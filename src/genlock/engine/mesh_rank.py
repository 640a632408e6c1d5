"""One rank of a mesh, from its start to its end: watch, connections, gates, group, weights.

The same steps on every rank, in the same order; rank 0 asks and the workers answer. What is done with chunks is
`engine.tp`'s (rank 0) and `engine.worker`'s. Knows no words and no pixels.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import torch

from genlock.engine.columns import Columns
from genlock.engine.job import Job, ManifestValue, check_mesh, manifest
from genlock.engine.phase_b import PhaseB
from genlock.engine.planted import plant_in_blocks, plant_in_load
from genlock.engine.reference import hold_to_reference, keep_reference, whole
from genlock.engine.solo import begin_trace, device_memory, load_stream
from genlock.errors import InputOutputError, PlanRefused, UsageError
from genlock.fabric import groups
from genlock.fabric.address import address_of
from genlock.fabric.channel import last_word
from genlock.fabric.collectives import Mesh
from genlock.fabric.connection import BEACON, Connection, connect, listen
from genlock.fabric.gates import GateGuest, GateKeeper
from genlock.fabric.liveness import Watch, told_as
from genlock.observe.process import age_s
from genlock.observe.rank_file import Moment, RankFile
from genlock.observe.run_folder import leave_shared_folder, shared_folder
from genlock.settings import Guard, Launch, Phase, Settings, faults_from, guards_off, mesh_deadlines
from genlock.wire.kinds import LOADS, Part, Plan
from genlock.wire.rules import dtype_name

# Modules of rank 0's rooms and what they bring, and those that come with a part that a worker's plan has it load.
RANK_0_ONLY = ("genlock.media", "genlock.serve", "transformers", "av", "fastapi", "uvicorn")
MODULES_OF = {
    Part.TEXT: ("genlock.media.text", "genlock.media.umt5", "transformers"),
    Part.ENCODER: ("genlock.media.vae",),
    Part.DECODER: ("genlock.media.vae",),
}

MEMORY = "memory."  # of a kind, as a rank reports it
ALWAYS_COMPARED = ("setting.faults", "setting.guards_off")  # also where nothing else is


class MeshRank:
    """Made by every rank as early as it can: the watch runs from here on. Raises UsageError, LaunchRefused,
    GateMissed, GateRefused; what is raised after that goes to `fail`."""

    def __init__(self, place: Launch, settings: Settings, jobs: Sequence[Job]) -> None:
        if settings.mesh not in (0, place.world):
            raise UsageError(
                f"a mesh of {settings.mesh} and {place.world} ranks launched", where="--mesh", remedy="make them equal"
            )
        self.place, self.settings = place, settings
        self.rank, self.size = place.rank, place.world
        self.deadlines, self.faults = mesh_deadlines(settings), faults_from(settings.faults)
        self.guards_off = guards_off(settings)
        self.run_dir = run_folder(place, settings)
        self.device = jobs[0].device
        self.trace = begin_trace(settings, self.rank, self.run_dir)
        self.rank_file = RankFile(
            self.run_dir,
            self.trace,
            rank=self.rank,
            about={"topology": settings.topology, "world": self.size, **jobs[0].about()},
            device_memory=lambda: device_memory(self.device),
        )
        self.watch = Watch(place, self.deadlines, self.run_dir, self.faults, self.trace.recorder, self.trace)
        self._warming, self._starting = False, True
        self.workers: dict[int, Connection] = {}
        self.leader: Connection | None = None
        self.seconds: dict[str, float] = {"launch_s": round(age_s(), 3)}
        self._clock = time.monotonic()
        try:
            check_mesh(jobs, self.size)
            share_threads(settings, place)
            torch.backends.cudnn.deterministic = True  # who makes its own context must come to rank 0's bits
            self.watch.enter(Phase.GATE_1)
            address, key = address_of(place, settings)
            if self.rank == 0:
                listener = listen(place, address, key)
                self.workers = listener.accept_all(within_s=self.deadlines.gate_s)
                if place.supervised is None:
                    self.watch.exchange_beacons(listener.accept_all(within_s=self.deadlines.gate_s, channel=BEACON))
                listener.close()
                only = ALWAYS_COMPARED if Guard.GATES in self.guards_off else None
                self._keeper = GateKeeper(self.workers, only=only)
                for rank, connection in self.workers.items():
                    self.watch.hang_up(connection.fileno(), rank)
            else:
                self.leader = connect(place, address, key, within_s=self.deadlines.gate_s)
                if place.supervised is None:
                    beacon = connect(place, address, key, within_s=self.deadlines.gate_s, channel=BEACON)
                    self.watch.exchange_beacons({0: beacon})
                self._guest = GateGuest(self.leader)
                self.watch.hang_up(self.leader.fileno(), 0)
            self.gate("gate 1", manifest(settings, jobs, size=self.size))
            self.watch.enter(Phase.RENDEZVOUS)
            self.device = groups.device_of(place, jobs[0].device.type, devices=torch.cuda.device_count())
            self.group = groups.form(place, device=self.device, timeout_s=self.deadlines.rendezvous_s)
            groups.shorten(self.group, self.deadlines.load_s)
            self._spent("start")
        except BaseException as error:  # noqa: BLE001 - a rank that cannot start says why, and ends the others
            self.fail(error)

    def gate(
        self, name: str, own: Mapping[str, ManifestValue], report: Mapping[str, ManifestValue] | None = None
    ) -> Mapping[int, Mapping[str, ManifestValue]]:
        """What every rank reports, on rank 0; nothing on the others. own: what must be equal. Raises GateRefused."""
        within_s = self.deadlines.of(Phase(name)) or self.deadlines.gate_s
        if self.rank == 0:
            return self._keeper.hold(name, own, report=report or {}, within_s=within_s)
        self._guest.pass_(name, own, report=report or {}, within_s=within_s)
        return {}

    def load(self, job: Job) -> PhaseB:
        """This rank's shard of a job's model on its own device, past gate 2a."""
        self._starting = True
        self.watch.enter(Phase.LOAD)
        plant_in_load(self.faults.at(self.rank, Phase.LOAD))
        job = replace(job, device=self.device)
        door = Mesh(
            self.group,
            device=job.device,
            dtype=job.dtype,
            strict=self.settings.bring_up and Guard.FINITE not in self.guards_off,
            on_enter=self.watch.wait_in,
            on_progress=self.watch.tick,
            guards_off=self.guards_off,
        )
        read: dict[str, int] = {}
        watched = Guard.KV not in self.guards_off
        stream = load_stream(job, door, bytes_read=read, watch_slots=watched, span_of=self.trace.span)
        plant_in_blocks(self.faults.at(self.rank, Phase.LOAD), stream.generator)
        self.census = stream.generator.census
        every = 1 if self.settings.bring_up else self.settings.check_every
        checks = Columns(stream, check_every=every, guards_off=self.guards_off)
        self._spent("load")
        self.watch.enter(Phase.GATE_2A)
        weights = checks.loaded
        cache = sum(held.numel() * held.element_size() for held in (*stream.cache.keys, *stream.cache.values))
        own = {
            "weights.replicated": f"{weights.replicated:016x}",
            "cache_bytes": cache,
            **effective(job.device, job.plan),
        }
        self.loaded = self.gate("gate 2a", own, {"weights.sharded": f"{weights.sharded:016x}", **read})
        if self.rank == 0:
            said = self.loaded.values()
            replicated, sharded = (
                [str(each[f"weights.{part}"]) for each in said] for part in ("replicated", "sharded")
            )
            self.fingerprint = whole(replicated, sharded)
            self.weights_note = "weights held to no reference: that is off"
            if Guard.WEIGHTS not in self.guards_off:
                self.weights_note = hold_to_reference(job.weights, dtype_name(job.dtype), self.fingerprint)
        return PhaseB(stream, door, checks, strict=Guard.FINITE not in self.guards_off)

    def enter(self, phase: Phase, *, call_id: int = -1, chunk: int = -1) -> None:
        """Told to the watch. While warming up every phase is warm-up, whose time is another: what is compiled or
        looked up for the first time takes as long as it takes."""
        self.watch.enter(Phase.WARM_UP if self._warming else phase, call_id=call_id, chunk=chunk)

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        self._warming = True
        self.enter(Phase.WARM_UP)
        yield
        self._warming = False

    def ready(self, job: Job) -> None:
        """Past gate 2b: nothing is loaded that a rank must not have, and from now on collectives are bounded by D."""
        self.watch.enter(Phase.GATE_2B)
        if self.rank:
            check_loaded(job.plan, sys.modules)
        self._spent("warm-up")
        self.rank_file.write(Moment.READY)
        memory = {f"{MEMORY}{kind}": count for kind, count in self.rank_file.held(Moment.READY).items()}
        graphs = {} if self.census is None else self.census.manifest()
        self.reports = self.gate("gate 2b", {"compile": job.compile, **graphs}, {**memory, **self.seconds})
        if self.census is not None:
            self.census.closed = True
        groups.shorten(self.group, self.deadlines.group_s)
        self._starting = False
        if self.rank == 0 and job.warm and Guard.WEIGHTS not in self.guards_off:
            keep_reference(job.weights, dtype_name(job.dtype), self.fingerprint)

    def leave(self) -> None:
        """The good end. The group is taken apart within the exit's deadline, or left to the process's end."""
        self.watch.enter(Phase.EXIT)
        groups.leave(self.group, within_s=self.deadlines.exit_s / 2)
        for connection in (*self.workers.values(), *([self.leader] if self.leader else [])):
            connection.close()
        self.rank_file.write(Moment.EXIT)
        self.trace.close()
        self.watch.close()
        if self.run_dir == passing_folder(self.place, self.settings):
            leave_shared_folder(self.run_dir, rank=self.rank)

    def fail(self, error: BaseException) -> NoReturn:
        """Ends this process with its record. While starting, rank 0 is told first: it waits at a gate."""
        if self._starting and self.leader is not None:
            last_word(self.leader, told_as(error)[0])
        with suppress(InputOutputError):  # a full disk: what was the matter comes first
            self.rank_file.write(Moment.EXIT)
        self.watch.fail(error)

    def _spent(self, step: str) -> None:
        now = time.monotonic()
        self.seconds[f"{step}_s"], self._clock = round(now - self._clock, 3), now


def run_folder(place: Launch, settings: Settings) -> Path:
    """Where this rank writes its recorder and, if it fails, why: the supervisor's folder, the one that was asked for,
    or one of this run in the system's place for such things. Raises InputOutputError."""
    if place.supervised is not None:
        return Path(place.supervised.run_dir)
    passing = passing_folder(place, settings)
    if passing is not None:
        return shared_folder(passing, rank=place.rank, ranks=place.world)
    folder = Path(settings.run_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputOutputError(error.strerror or "cannot be made", where=str(error.filename)) from None
    return folder


def passing_folder(place: Launch, settings: Settings) -> Path | None:
    """The folder that the ranks themselves make and, after a good end, take away; None for the supervisor's or one that
    was asked for."""
    if place.supervised is not None or settings.run_dir != "auto":
        return None
    run_id = quote(place.run_id, safe="") or "none"
    return Path(tempfile.gettempdir()) / f"genlock-run-{os.getuid()}-{place.master_port}-{run_id}"


def memory_of(said: Mapping[str, ManifestValue]) -> dict[str, int]:
    """Bytes by kind, of what a rank reported at gate 2b."""
    return {name.removeprefix(MEMORY): int(held) for name, held in said.items() if name.startswith(MEMORY)}


def share_threads(settings: Settings, place: Launch) -> None:
    """CPU threads of this rank: as set, or the host's cores shared out among its ranks."""
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // (place.local_world or place.world)))


def effective(device: torch.device, plan: Plan) -> dict[str, ManifestValue]:
    """What torch has in force on this rank, wherever it may change the bits of what every rank computes alike. Of the
    processor where the ranks compute on it, or prepare their own chunks."""
    backends: Any = torch.backends
    kernels = {
        "flash": backends.cuda.flash_sdp_enabled(),
        "memory-efficient": backends.cuda.mem_efficient_sdp_enabled(),
        "cudnn": backends.cuda.cudnn_sdp_enabled(),
        "math": backends.cuda.math_sdp_enabled(),
    }
    values: dict[str, ManifestValue] = {
        "attention": ", ".join(name for name, enabled in kernels.items() if enabled) or "none",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    if device.type == "cuda":
        values |= {
            "device.name": torch.cuda.get_device_name(device),
            "device.capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "cuda": str(torch.version.cuda or torch.version.hip),
            "cudnn": backends.cudnn.version() or 0,
            "cudnn.benchmark": backends.cudnn.benchmark,
            "cudnn.tf32": backends.cudnn.allow_tf32,
            "tf32": backends.cuda.matmul.allow_tf32,
            "bf16_reduced": str(backends.cuda.matmul.allow_bf16_reduced_precision_reduction),
        }
    if device.type == "cpu" or LOADS[plan]:
        values["cpu"] = backends.cpu.get_cpu_capability()
    return values


def check_loaded(plan: Plan, modules: Iterable[str]) -> None:
    """Raises PlanRefused for a worker that has loaded what its plan leaves to rank 0."""
    allowed = tuple(name for part in LOADS[plan] for name in MODULES_OF[part])
    beyond = sorted(
        name
        for name in rank_0_modules(modules)
        if not (name.startswith(allowed) or (allowed and name == "genlock.media"))
    )
    if beyond:
        raise PlanRefused(f"a worker of {plan} has loaded {', '.join(beyond[:4])}", remedy="report this")


def rank_0_modules(modules: Iterable[str]) -> list[str]:
    """Those of rank 0's rooms, and the libraries that these bring, which stand for all their modules."""
    return sorted(
        name for name in modules if name in RANK_0_ONLY or name.startswith(("genlock.media.", "genlock.serve."))
    )
