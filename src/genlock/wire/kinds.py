"""The words that cross the wire as values: actions and plans; regimes and passes are the generator's own. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum

from genlock.generator.window import Recache as Recache
from genlock.generator.window import Regime as Regime


class Action(IntEnum):
    """What a frame asks for; the number is the byte in the header."""

    NOOP = 0  # nothing; answered
    INFER = 1  # one chunk; an envelope follows
    SHUTDOWN = 2  # leave the loop; obeyed whatever its ids
    ERROR = 3  # somebody refused or failed; obeyed whatever its ids
    RESULT = 4  # the answer to an INFER; only ever travels from the mesh to stage 0


class Plan(StrEnum):
    """Which phases a worker runs: the ladder from full pipelines to generator-only."""

    V0_FULL_PIPELINE = "v0_full_pipeline"
    V1A_CONTEXT_OVERRIDE = "v1a_context_override"
    V1B_LATENTS_OVERRIDE = "v1b_latents_override"
    V1_GENERATOR_ONLY = "v1_generator_only"


class Part(StrEnum):
    """What of stage 0 a rank can have loaded."""

    TEXT = "text encoder"
    ENCODER = "VAE encoder"
    DECODER = "VAE decoder"


# The ladder: what a worker has of its own, and so makes by itself. What it cannot make travels to it.
LOADS: Mapping[Plan, frozenset[Part]] = {
    Plan.V0_FULL_PIPELINE: frozenset(Part),
    Plan.V1A_CONTEXT_OVERRIDE: frozenset({Part.TEXT, Part.ENCODER}),
    Plan.V1B_LATENTS_OVERRIDE: frozenset({Part.TEXT}),
    Plan.V1_GENERATOR_ONLY: frozenset(),
}


class ContextSource(StrEnum):
    """Who keeps the latents a recompute pass reads. A parity setting: equal on every rank."""

    ENVELOPE = "envelope"  # stage 0 sends them
    MESH = "mesh"  # the mesh kept its own; regime R0 only, and `context` is then none
