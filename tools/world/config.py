"""Sizes and budgets of the maker: what is trained, how long, on how much.

One place for every number that a run depends on. Two presets: `first` is the one for a data-centre GPU, `smoke` runs
every stage end to end on a CPU in seconds and makes nothing worth looking at.
"""

from __future__ import annotations

from dataclasses import dataclass

from genlock.generator.config import GeneratorConfig

CHUNK = 3  # latent frames of a chunk
CONTEXT = 3  # latent frames the cache is rebuilt from
STEPS = (1000, 750, 500, 250)  # warped, as the sampler runs them
SHIFT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Widths of the bundled model. height, width: pixels."""

    height: int
    width: int
    decoder_width: int
    encoder_width: int
    decoder_mult: tuple[int, ...]
    encoder_mult: tuple[int, ...]
    blocks: int
    dim: int
    heads: int
    layers: int
    ffn: int
    freq_dim: int
    text_dim: int
    text_layers: int
    text_len: int

    @property
    def generator(self) -> GeneratorConfig:
        return GeneratorConfig(
            dim=self.dim,
            ffn_dim=self.ffn,
            num_heads=self.heads,
            num_layers=self.layers,
            freq_dim=self.freq_dim,
            text_dim=self.text_dim,
            text_len=self.text_len,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeStage:
    """pool_scripts x pool_frames pixel frames are rendered once. image_share: of the time, single frames only.
    Batches count clips (a single frame is a clip of one). tail_seconds: kept back for statistics and pictures."""

    pool_scripts: int
    pool_frames: int
    image_share: float
    image_batch: int
    clip_frames: int
    clip_batch: int
    warm_share: float
    warm_frames: int
    peak_lr: float
    kl: float
    tail_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStage:
    """contexts: chunks in a batch; draws: noise levels tried on each chunk, sharing one context pass."""

    pool_scripts: int
    pool_chunks: int
    encode_batch: int
    contexts: int
    draws: int
    first_share: float
    text_drop: float
    context_noise: float
    step_share: float
    peak_lr: float
    phrasings: int
    tail_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentStage:
    """streams roll out side by side for `chunks` chunks; every chunk is followed by `updates` steps on the ring."""

    streams: int
    chunks: int
    updates: int
    ring: int
    contexts: int
    truth_share: float
    peak_lr: float
    eval_prompts: int
    eval_chunks: int
    tail_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    shape: ModelShape
    vae: VaeStage
    teacher: TeacherStage
    student: StudentStage
    seed: int = 7


FIRST = Preset(
    shape=ModelShape(
        height=128,
        width=192,
        decoder_width=16,
        encoder_width=16,
        decoder_mult=(1, 1, 2, 4),
        encoder_mult=(1, 2, 3, 4),
        blocks=1,
        dim=192,
        heads=4,
        layers=8,
        ffn=640,
        freq_dim=64,
        text_dim=96,
        text_layers=2,
        text_len=32,
    ),
    vae=VaeStage(
        pool_scripts=900,
        pool_frames=129,
        image_share=0.3,
        image_batch=192,
        clip_frames=33,
        clip_batch=16,
        warm_share=0.25,
        warm_frames=64,
        peak_lr=1.5e-3,
        kl=1e-4,
        tail_seconds=25.0,
    ),
    teacher=TeacherStage(
        pool_scripts=2000,
        pool_chunks=11,
        encode_batch=48,
        contexts=256,
        draws=2,
        first_share=0.2,
        text_drop=0.1,
        context_noise=0.08,
        step_share=0.4,
        peak_lr=1.2e-3,
        phrasings=48,
        tail_seconds=35.0,
    ),
    student=StudentStage(
        streams=192,
        chunks=10,
        updates=3,
        ring=12288,
        contexts=256,
        truth_share=0.25,
        peak_lr=4e-4,
        eval_prompts=8,
        eval_chunks=24,
        tail_seconds=40.0,
    ),
)

SMOKE = Preset(
    shape=ModelShape(
        height=32,
        width=48,
        decoder_width=8,
        encoder_width=8,
        decoder_mult=(1, 1, 2, 2),
        encoder_mult=(1, 1, 2, 2),
        blocks=1,
        dim=48,
        heads=4,
        layers=2,
        ffn=64,
        freq_dim=16,
        text_dim=32,
        text_layers=1,
        text_len=32,
    ),
    vae=VaeStage(
        pool_scripts=4,
        pool_frames=21,
        image_share=0.3,
        image_batch=2,
        clip_frames=9,
        clip_batch=2,
        warm_share=0.5,
        warm_frames=8,
        peak_lr=1e-3,
        kl=1e-4,
        tail_seconds=0.5,
    ),
    teacher=TeacherStage(
        pool_scripts=4,
        pool_chunks=3,
        encode_batch=2,
        contexts=2,
        draws=2,
        first_share=0.3,
        text_drop=0.1,
        context_noise=0.1,
        step_share=0.4,
        peak_lr=1e-3,
        phrasings=3,
        tail_seconds=0.5,
    ),
    student=StudentStage(
        streams=2,
        chunks=3,
        updates=1,
        ring=16,
        contexts=2,
        truth_share=0.25,
        peak_lr=1e-3,
        eval_prompts=1,
        eval_chunks=2,
        tail_seconds=0.5,
    ),
)

PRESETS: dict[str, Preset] = {"first": FIRST, "smoke": SMOKE}
