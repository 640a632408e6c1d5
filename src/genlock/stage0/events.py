"""Stage 0 on a worker: what travels of a planned chunk, and the same chunk planned again from it.

`events_of` is rank 0's: a plan as the events that another stage 0 needs to make it again. `OwnStage0` is that other
one: the same planning on the same values, so that the same bits come out; what travels is taken as it is.
Knows no process and no file.

    F  latent frames     C, h, w  latent channels, rows, columns     T  pixel frames     H, W  pixel rows and columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from genlock.errors import EnvelopeRefused, MeshDisagrees, RefusedInput
from genlock.stage0.chunk import Beginning, Given, Planned, Sources, StreamSettings, begin_stage0, plan_chunk
from genlock.stage0.timeline import Controls, Request
from genlock.stage0.timeline_file import EventEntry, entry_of, parse_request
from genlock.wire.envelope import Envelope, check_model
from genlock.wire.events import LATENTS, SHARED, Events, differences
from genlock.wire.kinds import LOADS, Part
from genlock.wire.lifecycle import State
from genlock.wire.prepare import Prepared, packed_shadow, prepare, read_shadow

Alter = Callable[[Envelope], Envelope]


def events_of(
    planned: Planned, envelope: Envelope, *, frames: Tensor | None, shadow: Prepared[Envelope] | None = None
) -> Events:
    """The events of a chunk that rank 0 has planned. envelope: as rank 0 computes from it. frames: uint8
    [T, H', W', 3], its input. shadow: the same envelope as bytes, to travel too."""
    loads = LOADS[envelope.plan]
    controls = planned.asked.controls
    context_travels, latents_travel = Part.DECODER not in loads, Part.ENCODER not in loads
    shared: dict[str, Any] = {name: getattr(envelope, name) for name in SHARED}
    latents: dict[str, Any] = {name: getattr(envelope, name) if latents_travel else None for name in LATENTS}
    return Events(
        **shared,
        steps=envelope.steps,
        context_frames=0 if envelope.context is None else envelope.context.shape[0],
        base_seed=controls.seed,
        strength=float(controls.strength),
        video=frames is not None,
        requests=pack_requests([receipt.request for receipt in planned.receipts]),
        frames=None if frames is None or latents_travel else frames.cpu(),
        context=envelope.context if context_travels else None,
        **latents,
        **({"shadow_frame": None, "shadow_payload": None} if shadow is None else packed_shadow(shadow)),
    )


def pack_requests(requests: Sequence[Request]) -> Tensor:
    """Requests as JSON, uint8 [B]: a list of events as a timeline's file has them."""
    text = msgspec.json.encode([entry_of(request, at=request.at_s) for request in requests])
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def unpack_requests(packed: Tensor) -> list[Request]:
    """The same requests, from uint8 [B]. Raises EnvelopeRefused."""
    try:
        entries = msgspec.json.decode(bytes(packed.numpy()), type=list[EventEntry])
        return [parse_request(entry) for entry in entries]
    except (msgspec.DecodeError, UnicodeDecodeError, RefusedInput) as error:
        raise EnvelopeRefused(f"requests: {' '.join(str(error).split())}", field="requests") from None


class OwnStage0:
    """Prepares one stream's chunks from their events. lifecycle: in which the first chunk is due; its own copy."""

    def __init__(self, settings: StreamSettings, sources: Sources, lifecycle: State) -> None:
        self.settings = settings
        self._sources = sources
        self.sender = lifecycle
        self._state = begin_stage0(settings, lifecycle)

    def prepare(self, events: Events, *, alter: Alter | None = None) -> Prepared[Envelope]:
        """The next chunk's envelope as this stage 0 makes it, as bytes. alter: a defect planted on purpose.

        Raises MeshDisagrees naming the first field or tensor that is another one than rank 0's, where rank 0's is
        known: of calls and positions always, of everything if its whole envelope came. And what planning raises.
        """
        planned = self._plan(events)
        envelope = planned.envelope if alter is None else alter(planned.envelope)
        self._hold(envelope, events)
        check_model(envelope, self.settings.config)
        prepared, self.sender = prepare(envelope, self.sender)
        self._state = planned.state
        return prepared

    def absorb(self, latents: Tensor, pixels: Tensor | None) -> None:
        """The chunk's clean latents [F, C, h, w] and its clamped pixels [T, 3, H, W]: the next one's context."""
        self._state = replace(self._state, context=self._state.context.after_chunk(latents, pixels))

    def _plan(self, events: Events) -> Planned:
        controls = Controls(
            seed=events.base_seed, strength=events.strength, attention_bias=float(events.attention_bias)
        )
        state = replace(self._state, timeline=replace(self._state.timeline, controls=controls))
        requests = list(enumerate(unpack_requests(events.requests)))
        return plan_chunk(
            state, self.sender, self.settings, self._sources, requests, frames=events.frames, given=given_of(events)
        )

    def _hold(self, envelope: Envelope, events: Events) -> None:
        theirs = read_shadow(events)
        found = next(iter(differences(envelope, theirs)), None) if theirs is not None else None
        if found is None:
            said = {name: (getattr(envelope, name), getattr(events, name)) for name in SHARED}
            odd = ((name, f"{mine} here, {other} on rank 0") for name, (mine, other) in said.items() if mine != other)
            found = next(odd, None)
        if found is not None:
            raise MeshDisagrees(
                f"{found[0]}: what this rank prepared is not what rank 0 did: {found[1]}", field=found[0]
            )


def given_of(events: Events) -> Given:
    """What these events bring that need not be made."""
    beginning = None
    if events.timesteps is not None and events.sigmas is not None:
        assert events.noise is not None  # `Events` has all four or none
        assert events.step_noise is not None
        beginning = Beginning(
            timesteps=events.timesteps, sigmas=events.sigmas, noise=events.noise, step_noise=events.step_noise
        )
    return Given(video=events.video, context=events.context, beginning=beginning)
