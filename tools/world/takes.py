"""What is filmed for training: windows of scripts, chunk by chunk, and the words for every scene in them.

Knows scenes and captions, no pixels and no models. A window begins at a multiple of a chunk's pixel frames, so that a
latent covers the same four pixel frames of the stream whether the window starts the stream or not.

Legend: M takes, K chunks of a take, P phrasings, L tokens of a caption.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from genlock.generator.config import TEMPORAL_STRIDE
from genlock.media.text import train_word_tokenizer

from . import ranks
from .captions import SCANT, caption, held_out, named, opening, plain_caption, vocabulary
from .config import CHUNK
from .motion import WORLD_CYCLE
from .scene import USUAL, Factors, Script, WorldSpec

CHUNK_PIXELS = CHUNK * TEMPORAL_STRIDE  # pixel frames of every chunk but the first
STILL_SHARE = 0.25  # takes in which nothing changes
USUAL_SHARE = 0.5  # takes from the stream's start whose first scene has some of what is usual for its subject
START_SHARE = 0.55  # takes that begin where the stream begins
MIN_GAP = 2  # chunks between two changes
KEPT = ("full", "loose", "says", "first", "plain")  # of the words, in their file
TRIES = 4  # phrasings looked at for one that says what it must
FACTOR_NAMES = ("subject", "colour", "motion", "place", "light", "weather")


def first_pixel(chunk: int) -> int:
    """The first pixel frame of a chunk, counted from the start of the window: 0, 9, 21, 33, ..."""
    return 0 if chunk == 0 else CHUNK_PIXELS * chunk - (TEMPORAL_STRIDE - 1)


def window_pixels(chunks: int) -> int:
    return first_pixel(chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A window of a script. offset: the window's first pixel frame in the stream; a multiple of CHUNK_PIXELS.

    scenes: for each chunk, the scene it asks for. changed: whether that differs from the chunk before.
    """

    script: Script
    offset: int
    scenes: tuple[Factors, ...]

    @property
    def changed(self) -> tuple[bool, ...]:
        return (False, *(a != b for a, b in pairwise(self.scenes)))


def take_of(scenes: Sequence[Factors], offset: int) -> Take:
    """The take that asks for these scenes, one a chunk."""
    changes = [(0, scenes[0])]
    for chunk, (before, after) in enumerate(pairwise(scenes), start=1):
        if after != before:
            changes.append((offset + first_pixel(chunk), after))
    return Take(script=Script(scenes=tuple(changes)), offset=offset, scenes=tuple(scenes))


def with_usual(scene: Factors, allowed: set[Factors], rng: random.Random) -> Factors:
    """The scene with some or most of its factors as they are where nobody says them, if that is allowed."""
    usual, share = USUAL[scene.subject], rng.choice((0.4, 0.85))
    moved = replace(scene, **{name: getattr(usual, name) for name in FACTOR_NAMES if rng.random() < share})
    return moved if moved in allowed else scene


def changed_scene(scene: Factors, combos: Sequence[Factors], allowed: set[Factors], rng: random.Random) -> Factors:
    """Another scene, most often different in one factor alone."""
    if rng.random() < 0.2:
        return rng.choice([c for c in combos if c != scene])
    names = rng.sample(FACTOR_NAMES, 2 if rng.random() < 0.2 else 1)
    for _ in range(20):
        other = rng.choice(combos)
        moved = replace(scene, **{name: getattr(other, name) for name in names})
        if moved != scene and moved in allowed:
            return moved
        names = rng.sample(FACTOR_NAMES, 1)
    return rng.choice([c for c in combos if c != scene])


def draw_takes(count: int, chunks: int, world: WorldSpec, rng: random.Random, *, together: int = 1) -> list[Take]:
    """Takes of training combinations only. `together` of them at a time begin at one frame, so that what is filmed and
    coded together is always as many."""
    out = held_out(world)
    combos = [c for c in world.combinations() if c not in out]
    allowed = set(combos)
    cycle = WORLD_CYCLE // CHUNK_PIXELS
    takes: list[Take] = []
    offset = 0
    for number in range(count):
        if number and number % together == 0:  # the first ones start the stream, however few there is time for
            offset = 0 if rng.random() < START_SHARE else CHUNK_PIXELS * rng.randrange(1, cycle)
        scene = rng.choice(combos)
        if offset == 0 and rng.random() < USUAL_SHARE:
            scene = with_usual(scene, allowed, rng)
        pace = 0.0 if rng.random() < STILL_SHARE else rng.uniform(0.2, 0.5)
        scenes, since = [scene], 0
        for _ in range(1, chunks):
            since += 1
            if since >= MIN_GAP and rng.random() < pace:
                scene, since = changed_scene(scene, combos, allowed, rng), 0
            scenes.append(scene)
        takes.append(take_of(scenes, offset))
    return takes


def usual_takes(world: WorldSpec) -> list[Take]:
    """What is meant by every subject's bare name at a stream's start, for two chunks."""
    return [take_of([USUAL[subject]] * 2, 0) for subject in world.subjects]


def begin_takes(world: WorldSpec, chunks: int) -> list[Take]:
    """Every weather and place of the world beginning half way through a take in which all else stays."""
    half = chunks // 2
    start = Factors(
        subject="balloon",
        colour="red",
        motion="floats",
        place=world.places[0],
        light=world.lights[0],
        weather=world.weathers[0],
    )
    later = [replace(start, weather=value) for value in world.weathers[1:]]
    later += [replace(start, place=value) for value in world.places[1:]]
    return [take_of([start] * half + [scene] * (chunks - half), 0) for scene in later]


def exam_takes(count: int, chunks: int, world: WorldSpec, rng: random.Random) -> list[Take]:
    """Takes of held-out combinations from the stream's start; every second one changes to another in mid-stream."""
    out = sorted(held_out(world), key=str)
    if len(out) < 2:  # a world too small to keep any out
        out = sorted(world.combinations(), key=str)
    takes = []
    for _ in range(count):
        scene = rng.choice(out)
        scenes = [scene] * chunks
        if len(takes) % 2 and chunks >= 2 * MIN_GAP:
            near = sorted(out, key=lambda c: (sum(getattr(c, n) != getattr(scene, n) for n in FACTOR_NAMES), str(c)))
            later = near[1 + rng.randrange(min(4, len(near) - 1))]
            scenes[chunks // 2 :] = [later] * (chunks - chunks // 2)
        takes.append(take_of(scenes, 0))
    return takes


class Words:
    """Tokenised phrasings of every combination of a world: int16 [combinations, P, L], zeros after the end mark.

    `full` holds captions that leave nothing open, `loose` such as leave anything open, `says` [combinations, P] what
    those do say (bits of FACTOR_NAMES), `first` such as leave open what is usual; `plain` the one plain caption,
    [combinations, L].
    """

    def __init__(self, world: WorldSpec, *, phrasings: int, text_len: int, seed: int, device: torch.device) -> None:
        self.world = world
        self.combos = world.combinations()
        self.index = {combo: i for i, combo in enumerate(self.combos)}
        self.tokenizer: Tokenizer = train_word_tokenizer(vocabulary())
        self.text_len = text_len

        def phrased(kind: int, say: Callable[[Factors, random.Random, int], str]) -> list[list[str]]:
            rng = random.Random(seed + kind)
            return [[say(combo, rng, number) for number in range(phrasings)] for combo in self.combos]

        full = phrased(0, lambda combo, rng, _: caption(combo, rng, spec=world, everything=True))
        loose = phrased(1, lambda combo, rng, n: caption(combo, rng, spec=world, drop=SCANT if n % 2 else None))
        first = phrased(2, lambda combo, rng, _: opening(combo, rng, spec=world))
        said = [[bits(named(text, combo)) for text in texts] for combo, texts in zip(self.combos, loose, strict=True)]
        self.full, self.loose, self.first = (self._tokens(texts).to(device) for texts in (full, loose, first))
        self.says = torch.tensor(said, dtype=torch.uint8, device=device).view(len(self.combos), phrasings)
        self.plain = self._tokens([[self.said(combo)] for combo in self.combos])[:, 0].long().to(device)

    @classmethod
    def kept(
        cls, folder: Path, world: WorldSpec, *, phrasings: int, text_len: int, seed: int, device: torch.device
    ) -> Words:
        """The same, read from `folder` if they were made before."""
        file, key = folder / "words.pt", f"{KEPT} {world} {phrasings} {text_len} {seed} {vocabulary()}"
        if file.exists() and (held := torch.load(file, map_location=device, weights_only=True))["key"] == key:
            words = cls(world, phrasings=0, text_len=text_len, seed=seed, device=device)
            for name in KEPT:
                setattr(words, name, held[name])
            return words
        words = cls(world, phrasings=phrasings, text_len=text_len, seed=seed, device=device)
        if ranks.leads():
            folder.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            torch.save({"key": key, **{name: getattr(words, name) for name in KEPT}}, partial)
            os.replace(partial, file)
        return words

    def _tokens(self, texts: list[list[str]]) -> Tensor:
        """[combinations, P, L]"""
        rows = [encoded.ids for encoded in self.tokenizer.encode_batch(list(chain.from_iterable(texts)))]
        longest = max(map(len, rows), default=0)
        if longest > self.text_len:
            raise ValueError(f"a caption of {longest} tokens does not fit {self.text_len}")
        padded = [ids + [0] * (self.text_len - len(ids)) for ids in rows]
        return torch.tensor(padded, dtype=torch.int16).view(len(texts), -1 if rows else 0, self.text_len)

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.get_vocab_size()

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """int64 [texts, L] on the training device."""
        return self._tokens([[text] for text in texts])[:, 0].long().to(self.plain.device)

    def said(self, combo: Factors) -> str:
        return plain_caption(combo, spec=self.world)

    def scenes(self, takes: Sequence[Take]) -> Tensor:
        """Combination numbers, int64 [M, K]."""
        return torch.tensor([[self.index[scene] for scene in take.scenes] for take in takes], device=self.plain.device)

    def draw(self, scenes: Tensor, must: Tensor, brief: Tensor, generator: torch.Generator, *, first: bool) -> Tensor:
        """Token ids [B, L] of combination numbers [B]. Where `brief` [B], a phrasing that leaves things open: of a
        stream's first chunk what is usual, of a later one nothing that `must` [B] has (bits); a full one if none fits.
        """
        pick = torch.randint(self.full.shape[1], (TRIES, len(scenes)), generator=generator, device=scenes.device)
        if first:
            open_ = self.first[scenes, pick[0]]
        else:
            fits = must & ~self.says[scenes, pick] == 0  # [TRIES, B]
            chosen = pick.gather(0, fits.int().argmax(0)[None])[0]
            open_, brief = self.loose[scenes, chosen], brief & fits.any(0)
        return torch.where(brief[:, None], open_, self.full[scenes, pick[0]]).long()


def bits(names: Iterable[str]) -> int:
    """Factors as one number."""
    return sum(1 << FACTOR_NAMES.index(name) for name in names)


def changes(takes: Sequence[Take], device: torch.device) -> Tensor:
    """uint8 [M, K]: what a chunk's prompt must say because it was not so in the chunk before, as bits."""
    rows = [
        [0, *(bits(n for n in FACTOR_NAMES if getattr(a, n) != getattr(b, n)) for a, b in pairwise(take.scenes))]
        for take in takes
    ]
    return torch.tensor(rows, dtype=torch.uint8, device=device)
