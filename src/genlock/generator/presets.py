"""Presets: all that is known beforehand about a model and about how it is run. One name, one value, no inheritance.

Step lists are given as published and say whether they are warped by the schedule's shift. Sizes are Wan 2.1's; policies
are those the models were trained for. Knows no file.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from genlock.errors import CheckpointConfig, UsageError
from genlock.generator.config import GeneratorConfig, latent_size
from genlock.generator.window import CachePolicy, Policy, Regime, recompute_policy

FRAMES_PER_SECOND = 16
SHIFT = 5.0  # of every released causal Wan
STEP_LIMIT = 1000
BIAS_FLOOR = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A model and its way of running.

    steps: denoise steps as published, first to last, 0 to 1000. warped: they are indexes into the shifted schedule, not
    times. attention_bias: beta of the recompute policy, 1.0 is off. pad_sink: reproduce the padding artefact of the
    biased path. regime: none under the rolling policy. height, width: pixels, unless asked otherwise.
    """

    name: str
    title: str
    generator: GeneratorConfig
    cache: CachePolicy
    steps: tuple[int, ...]
    warped: bool
    shift: float = SHIFT
    attention_bias: float = 1.0
    pad_sink: bool = False
    regime: Regime | None = None
    height: int
    width: int
    fps: int = FRAMES_PER_SECOND

    def __post_init__(self) -> None:
        latent_size(self.height, self.width)
        if not self.steps or not all(0 <= step <= STEP_LIMIT for step in self.steps):
            raise CheckpointConfig(f"steps {list(self.steps)} are not numbers from 0 to {STEP_LIMIT}", where=self.name)
        if (self.regime is None) != (self.cache.policy is Policy.ROLLING):
            raise CheckpointConfig(f"regime {self.regime} under the {self.cache.policy} policy", where=self.name)
        if not BIAS_FLOOR <= self.attention_bias <= 1:
            raise CheckpointConfig(
                f"an attention bias of {self.attention_bias} is not in {BIAS_FLOOR} to 1", where=self.name
            )
        if self.cache.policy is Policy.ROLLING and (self.attention_bias != 1 or self.pad_sink):
            raise CheckpointConfig("an attention bias belongs to the recompute policy", where=self.name)
        if self.shift <= 0 or self.fps < 1:
            raise CheckpointConfig(f"a shift of {self.shift} or {self.fps} frames a second", where=self.name)


WAN_1_3B = GeneratorConfig(
    dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, freq_dim=256, text_dim=4096, text_len=512
)
WAN_14B = GeneratorConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, freq_dim=256, text_dim=4096, text_len=512
)
FOUR_STEPS = (1000, 750, 500, 250)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="self-forcing-1.3b",
            title="Self-Forcing 1.3B",
            generator=WAN_1_3B,
            cache=CachePolicy(policy=Policy.ROLLING, window_frames=21),
            steps=FOUR_STEPS,
            warped=True,
            height=480,
            width=832,
        ),
        Preset(
            name="longlive-1.3b",
            title="LongLive 1.3B",
            generator=WAN_1_3B,
            cache=CachePolicy(
                policy=Policy.ROLLING, window_frames=12, sink_frames=3, global_sink=True, recache_on_prompt=True
            ),
            steps=FOUR_STEPS,
            warped=True,
            height=480,
            width=832,
        ),
        # Scope runs this model with an attention bias of 0.3; its makers' own server has none, and nor do we.
        Preset(
            name="krea-14b",
            title="Krea Realtime 14B",
            generator=WAN_14B,
            cache=recompute_policy(context_frames=3, chunk_frames=3),
            steps=FOUR_STEPS,
            warped=True,
            regime=Regime.R0A,
            height=480,
            width=832,
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset of this name. Raises UsageError with the nearest name."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"no preset is called {name!r}", field="model", remedy=f"{guess}presets: {', '.join(PRESETS)}")
    return PRESETS[name]
