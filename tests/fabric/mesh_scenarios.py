"""What ranks do in the tests of the door: each function is run by every rank of a `tests.ranks` call."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from tests.generator.conftest import TOY, randomised
from tests.generator.test_stream import COLUMNS, ROWS, STEPS, first_chunk, latents, later_chunk
from tests.ranks import Here

from genlock.errors import GenlockError
from genlock.fabric.collectives import Mesh
from genlock.fabric.groups import device_of, form, leave, shorten
from genlock.generator.cache import KeyValueCache
from genlock.generator.checkpoint import expected_shapes, shard
from genlock.generator.fingerprint import fingerprint
from genlock.generator.model import Block, Generator
from genlock.generator.rope import RopeTable
from genlock.generator.stream import Stream, announced_passes
from genlock.generator.window import Span, recompute_policy
from genlock.settings import Launch, Supervised

CPU = torch.device("cpu")


def place(here: Here, *, supervised: bool = True, port: int = 0) -> Launch:
    return Launch(
        rank=here.rank,
        world=here.size,
        local_rank=here.rank,
        local_world=here.size,
        master_addr="127.0.0.1",
        master_port=port,
        run_id="",
        supervised=Supervised(beacon_fd=-1, key_fd=-1, run_dir=str(here.folder)) if supervised else None,
    )


def door(here: Here, *, timeout_s: float = 20.0, **options: Any) -> Mesh:
    """On the kind of device that the call gave, CPU if none."""
    kind = here.given.get("device", "cpu")
    device = device_of(place(here), kind, devices=torch.cuda.device_count() if kind == "cuda" else 0)
    return Mesh(form(place(here), device=device, timeout_s=timeout_s), device=device, **options)


def sharded(mesh: Mesh) -> Generator:
    """This rank's part of a toy generator that is the same on every mesh."""
    whole = randomised(Generator(TOY), seed=1).state_dict()
    part = Generator(TOY, mesh)
    part.load_state_dict({name: shard(name, tensor, mesh.rank, mesh.size) for name, tensor in whole.items()})
    return part.to(mesh.device).eval()


def stream_of(generator: Generator) -> Stream:
    return Stream(generator, recompute_policy(), latent_height=ROWS, latent_width=COLUMNS)


def chunks() -> list[Any]:
    recomputed = later_chunk(3, 1, do_recompute=True, expected_generator_calls=STEPS + 1, context=latents(3, 2))
    return [first_chunk(), recomputed]


def two_chunks(here: Here) -> dict[str, Any]:
    """Latents and ledgers of two chunks made by a mesh."""
    mesh = door(here)
    stream = stream_of(sharded(mesh))
    made, ledgers = [], []
    for chunk in chunks():
        mesh.begin_chunk(announced_passes(chunk))
        made.append(stream.run(chunk).tolist())
        mesh.end_chunk()
        ledgers.append([hex(mesh.ledger), mesh.collectives])
    return {"latents": made, "ledgers": ledgers, "backend": mesh.group.backend}


def payloads(here: Here) -> dict[str, Any]:
    ticks: list[str] = []
    mesh = door(here, on_progress=ticks.append)
    sent = torch.arange(here.given["numel"]).to(torch.uint8)
    received = mesh.broadcast_payload(sent if here.rank == 0 else None, len(sent))
    return {
        "equal": bool(torch.equal(sent, received)),
        "same": received is sent,
        "on": received.device.type,
        "ticks": ticks,
    }


def sums(here: Here) -> dict[str, Any]:
    mesh = door(here, dtype=torch.bfloat16)
    with mesh.opened("test"):
        partial = torch.full((2, 3), 1.5 + here.rank, dtype=torch.bfloat16, device=mesh.device)
        squares = torch.full((4,), 0.1, device=mesh.device)
        in_place = mesh.sum_partial(partial, "a") is partial and mesh.sum_squares(squares, "b") is squares
    return {"partial": partial.tolist(), "squares": squares.tolist(), "in_place": in_place, "count": mesh.collectives}


def swapped(here: Here) -> list[str]:
    """The same two sums, in another order on rank 1; then in the same order."""
    mesh = door(here)
    ledgers = []
    for sites in (["a", "b"][:: -1 if here.rank else 1], ["a", "b"]):
        mesh.begin_chunk(["denoise"])
        mesh.begin_call("denoise")
        for site in sites:
            mesh.sum_partial(torch.ones(4), site)
        mesh.end_chunk()
        ledgers.append(hex(mesh.ledger))
    return ledgers


def compiled_block(here: Here) -> dict[str, Any]:
    """A sharded block, compiled whole, against itself in eager."""
    mesh = door(here)
    block = sharded(mesh).blocks[1]
    tokens, frames = 6, 3
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(1, frames, tokens, TOY.dim, generator=draw).to(mesh.device)
    time = torch.randn(1, 1, 6, TOY.dim, generator=draw).to(mesh.device)
    heads = TOY.num_heads // here.size
    text = (1, TOY.text_len, heads, TOY.head_dim)
    cross = tuple(torch.randn(text, generator=draw).to(mesh.device) for _ in range(2))
    span = Span(frames=frames, rope_start=0, write_start=0, visible=frames)
    rotation = RopeTable(TOY).rotation(0, frames, 2, 3, mesh.device)

    def run(forward: Any) -> torch.Tensor:
        store = KeyValueCache(
            layers=2, frames=frames, tokens=tokens, heads=heads, head_dim=TOY.head_dim, device=mesh.device
        )
        out: torch.Tensor = forward(x, time, cross, store.layer(1), span, rotation, None, None)
        return out

    assert isinstance(block, Block)
    with torch.inference_mode():
        mesh.begin_chunk(["denoise"])
        mesh.begin_call("denoise")
        eager = run(block)
        noted = mesh.collectives
        compiled = run(torch.compile(block, fullgraph=True, backend="aot_eager"))
        mesh.end_chunk()
    return {"equal": bool(torch.equal(eager, compiled)), "eager": noted, "compiled": mesh.collectives - noted}


def told(action: Any) -> dict[str, Any]:
    try:
        action()
    except GenlockError as error:
        return {"code": error.code, "rank": error.rank, "text": str(error)}
    return {}


def peer_ends(here: Here) -> dict[str, Any]:
    """Rank 1 is killed or stopped; what rank 0's sum and payload then say."""
    mesh = door(here)
    with mesh.opened("test"):
        mesh.sum_partial(torch.ones(4, device=mesh.device), "first").cpu()
    shorten(mesh.group, here.given.get("timeout_s", 1.5))
    if here.rank:
        if here.given["how"] == "stop":
            here.stop_for(3.0)
        os.kill(os.getpid(), signal.SIGKILL)
    if here.given["at"] == "payload":
        return told(lambda: mesh.broadcast_payload(torch.zeros(4_000_000, dtype=torch.uint8), 4_000_000))
    mesh.begin_chunk(["denoise"])
    mesh.begin_call("denoise")
    summed = torch.ones(4, device=mesh.device)
    return told(lambda: mesh.sum_partial(summed, "blocks.0.ffn.2").cpu())


def another_count(here: Here) -> dict[str, Any]:
    """Rank 1 leaves out its recompute call: it is refused on that rank, before a collective."""
    mesh = door(here, timeout_s=3.0)
    stream = stream_of(sharded(mesh))
    first, second = chunks()
    mesh.begin_chunk(announced_passes(first))
    stream.run(first)
    mesh.end_chunk()
    mesh.begin_chunk(announced_passes(second))
    skipped = later_chunk(3, 1)
    return told(lambda: stream.run(skipped if here.rank else second))


def met_at_an_address(here: Here) -> float:
    """As under torchrun: the address is in the environment."""
    for name, value in (
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(here.given["port"])),
        ("RANK", str(here.rank)),
        ("WORLD_SIZE", str(here.size)),
    ):
        os.environ[name] = value
    group = form(place(here, supervised=False, port=here.given["port"]), device=CPU, timeout_s=10.0)
    mesh = Mesh(group, device=CPU)
    with mesh.opened("test"):
        total = mesh.sum_partial(torch.ones(1), "a").item()
    leave(group, within_s=5.0)
    return total


def alone(here: Here) -> dict[str, Any]:
    """Rank 0 does not come."""
    return told(lambda: form(place(here), device=CPU, timeout_s=1.0)) if here.rank else {}


def left(here: Here) -> bool:
    """Whether a group was taken apart in time."""
    group = form(place(here), device=CPU, timeout_s=10.0)
    Mesh(group, device=CPU).broadcast_payload(torch.zeros(1, dtype=torch.uint8) if here.rank == 0 else None, 1)
    return leave(group, within_s=5.0)


def device_digests(here: Here) -> dict[str, Any]:
    """The same weights fingerprinted on the host and on a device; a watched stream there, and a changed frame."""
    whole = randomised(Generator(TOY), seed=1)
    shapes = expected_shapes(TOY)
    numbers = [
        fingerprint({name: tensor.to(device) for name, tensor in whole.state_dict().items()}, shapes, rank=0, size=1)
        for device in ("cpu", "cuda")
    ]
    stream = Stream(whole.cuda(), recompute_policy(), latent_height=ROWS, latent_width=COLUMNS, watch_slots=True)
    first, second = chunks()
    stream.run(first, slots_due=True)
    quiet = stream.changed_slot()
    stream.cache.values[1][0, 13, 1, 2] += 0.5  # six tokens a frame
    stream.run(second)
    found = stream.changed_slot()
    return {
        "equal": numbers[0] == numbers[1],
        "quiet": quiet is None,
        "found": None if found is None else [found.layer, found.frame],
    }
