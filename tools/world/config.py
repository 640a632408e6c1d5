"""Sizes and budgets of the maker: what is trained, how long, on how much.

One place for every number that a run depends on. Presets: `first` and `full` are for a data-centre GPU, each for the
world of its name; `smoke` runs every stage end to end on a CPU in seconds and makes nothing worth looking at.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
class EvaluatorStage:
    """shrink: how many times smaller it looks at pictures; widths: channels at 1/2 to 1/16 of that; maps: places looked
    at; hidden: features of a frame.

    pool_clips clips of clip_frames (1 + 4 n) frames are kept, rendered in groups that share their first frame, for at
    most pool_seconds at first; one more group every refresh_every steps. Batches count windows of a chunk.
    """

    shrink: int = 2
    widths: tuple[int, int, int, int] = (24, 48, 96, 128)
    maps: int = 6
    hidden: int = 192
    pool_clips: int = 12000
    pool_seconds: float = 15.0
    clip_frames: int = 17
    group: int = 18
    refresh_every: int = 4
    batch: int = 256
    peak_lr: float = 1.5e-3
    exam_clips: int = 1200
    tail_seconds: float = 12.0
    planned_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeStage:
    """pool_takes takes of pool_chunks chunks are rendered once, or as many as pool_seconds allow. image_share: of the
    time, single frames only. Batches count clips. warm_share: of the clips, those that go on after warm_frames frames
    that are not trained on. tail_seconds: kept back for statistics and pictures. show_seconds: how often the weights
    so far are written for the next stage to begin on (0: at the end alone). planned_seconds, in every stage: of
    training, all calls together, where this one will be followed by others.
    """

    pool_takes: int
    pool_chunks: int
    pool_seconds: float
    image_share: float
    image_batch: int
    clip_frames: int
    clip_batch: int
    warm_share: float
    warm_frames: int
    peak_lr: float
    kl: float
    tail_seconds: float
    show_seconds: float = 0.0
    planned_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherStage:
    """contexts: chunks in a batch; draws: noise levels tried on each chunk, sharing one context pass. first_share: of
    them, chunks that start a stream. step_share: of the noise levels, those the sampler stops at. full_share: of the
    captions, those that leave nothing open. subject_more: how many times more
    an error counts where the subject is.
    """

    pool_takes: int
    pool_chunks: int
    pool_seconds: float
    encode_batch: int
    contexts: int
    draws: int
    first_share: float
    text_drop: float
    context_noise: float
    step_share: float
    peak_lr: float
    phrasings: int
    full_share: float
    eval_prompts: int
    eval_chunks: int
    tail_seconds: float
    subject_more: float = 0.0
    planned_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentStage:
    """streams roll out side by side for up to `chunks` chunks; every chunk is followed by `updates` steps on the ring
    of what the rollouts met. truth_share: of the streams, those whose past is put right after every chunk.
    subject_more: as for the teacher.
    """

    streams: int
    chunks: int
    updates: int
    ring: int
    contexts: int
    draws: int
    truth_share: float
    first_share: float
    context_noise: float
    peak_lr: float
    eval_prompts: int
    eval_chunks: int
    tail_seconds: float
    subject_more: float = 0.0
    planned_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    shape: ModelShape
    vae: VaeStage
    teacher: TeacherStage
    student: StudentStage
    evaluator: EvaluatorStage = EvaluatorStage()
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
        ffn=624,
        freq_dim=64,
        text_dim=96,
        text_layers=2,
        text_len=32,
    ),
    vae=VaeStage(
        pool_takes=900,
        pool_chunks=11,
        pool_seconds=45.0,
        image_share=0.3,
        image_batch=128,
        clip_frames=33,
        clip_batch=12,
        warm_share=0.25,
        warm_frames=64,
        peak_lr=1.2e-3,
        kl=1e-4,
        tail_seconds=30.0,
    ),
    teacher=TeacherStage(
        pool_takes=900,
        pool_chunks=18,
        pool_seconds=80.0,
        encode_batch=48,
        contexts=256,
        draws=2,
        first_share=0.2,
        text_drop=0.1,
        context_noise=0.08,
        step_share=0.4,
        peak_lr=1.2e-3,
        phrasings=48,
        full_share=0.6,
        eval_prompts=6,
        eval_chunks=8,
        tail_seconds=35.0,
    ),
    student=StudentStage(
        streams=192,
        chunks=18,
        updates=4,
        ring=12288,
        contexts=192,
        draws=2,
        truth_share=0.2,
        first_share=0.2,
        context_noise=0.03,
        peak_lr=4e-4,
        eval_prompts=8,
        eval_chunks=24,
        tail_seconds=40.0,
    ),
)

FULL = replace(
    FIRST,
    vae=replace(
        FIRST.vae,
        pool_takes=1500,
        pool_seconds=40.0,
        image_share=0.15,
        clip_batch=16,
        peak_lr=7e-4,
        tail_seconds=20.0,
        show_seconds=80.0,
    ),
    teacher=replace(
        FIRST.teacher,
        pool_takes=2400,
        pool_seconds=50.0,
        encode_batch=48,
        contexts=160,
        step_share=0.7,
        subject_more=4.0,
        peak_lr=1e-3,
        phrasings=8,
        tail_seconds=12.0,
        eval_chunks=6,
    ),
    student=replace(
        FIRST.student,
        streams=128,
        updates=6,
        contexts=160,
        ring=16384,
        first_share=0.25,
        subject_more=4.0,
        peak_lr=4e-4,
        tail_seconds=22.0,
        eval_chunks=12,
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
        pool_takes=4,
        pool_chunks=2,
        pool_seconds=5.0,
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
        pool_takes=6,
        pool_chunks=4,
        pool_seconds=5.0,
        encode_batch=2,
        contexts=2,
        draws=2,
        first_share=0.3,
        text_drop=0.1,
        context_noise=0.1,
        step_share=0.4,
        subject_more=2.0,
        peak_lr=1e-3,
        phrasings=3,
        full_share=0.6,
        eval_prompts=1,
        eval_chunks=3,
        tail_seconds=0.5,
    ),
    student=StudentStage(
        streams=2,
        chunks=4,
        updates=1,
        ring=16,
        contexts=2,
        draws=2,
        truth_share=0.5,
        first_share=0.4,
        context_noise=0.03,
        subject_more=2.0,
        peak_lr=1e-3,
        eval_prompts=2,
        eval_chunks=4,
        tail_seconds=0.5,
    ),
    evaluator=EvaluatorStage(
        shrink=1,
        widths=(8, 16, 16, 24),
        maps=3,
        hidden=32,
        pool_clips=16,
        pool_seconds=1.0,
        clip_frames=13,
        group=4,
        batch=4,
        exam_clips=16,
        tail_seconds=0.8,
    ),
)

PRESETS: dict[str, Preset] = {"first": FIRST, "full": FULL, "smoke": SMOKE}
