"""Words to embeddings: cleaning, tokens, the UMT5 encoder, and a bounded memory of what was already encoded.

Letters: L tokens of a prompt with its end mark, T text_dim. Knows no video, no chunk and no network: everything is read
from files that are already here. Source of the cleaning and of the embedding's true length: Wan 2.1's text encoder.
"""

from __future__ import annotations

import html
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import ftfy
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from genlock.errors import CheckpointMissing, CheckpointUnreadable, PromptRefused
from genlock.generator.whole_file import whole_file
from genlock.observe.trace import TEXT_ENCODE, SpanOf, unmeasured

PAD, EOS, UNKNOWN = "[PAD]", "[EOS]", "[UNK]"  # of a word vocabulary; ids 0, 1, 2 as in T5
END_MARKS = (EOS, "</s>")
UNKNOWN_MARKS = (UNKNOWN, "<unk>")
REMEMBERED_PROMPTS = 64  # at most 64 x 512 rows x 4096 x 4 bytes = 0.5 GB for UMT5-XXL, 1 MB for the bundled model
SHOWN_CHARACTERS = 40


class TextEncoder:
    """Prompts to embeddings.

    model: called with input_ids and attention_mask, int64 [1, L]; its last_hidden_state [1, L, T] is taken.
    max_tokens: longest prompt, end mark included (the generator's text_len). The embeddings of the last
    `remembered` prompts are kept; the oldest unused one is forgotten first. span_of: of each run of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        remembered: int = REMEMBERED_PROMPTS,
        span_of: SpanOf = unmeasured,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self.tokenizer = tokenizer
        self._model = model.eval().requires_grad_(requires_grad=False)
        self._device = next(model.parameters()).device
        self._end = _token_id(tokenizer, END_MARKS)
        self._remembered, self._span_of = remembered, span_of
        self._memory: OrderedDict[str, Tensor] = OrderedDict()

    def tokens(self, text: str) -> list[int]:
        """Token ids of a prompt, the end mark last. Raises PromptRefused: no words, or more than max_tokens."""
        cleaned = clean(text)
        ids: list[int] = self.tokenizer.encode(cleaned).ids
        if not ids or ids[-1] != self._end:
            ids.append(self._end)
        if len(ids) == 1:
            raise PromptRefused(f"the prompt {shown(text)} has no words", field="prompt")
        if len(ids) > self.max_tokens:
            raise PromptRefused(
                f"the prompt {shown(cleaned)} has {len(ids)} tokens, end mark included, of {self.max_tokens}",
                field="prompt",
                remedy="shorten the prompt",
            )
        return ids

    @torch.inference_mode()
    def encode(self, text: str) -> Tensor:
        """Embedding [L, T] float32 on the model's device, cut at the true length. Not to be written to.

        Raises PromptRefused as `tokens` does.
        """
        key = clean(text)
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        ids = torch.tensor([self.tokens(text)], device=self._device)
        with self._span_of(TEXT_ENCODE):
            hidden: Tensor = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        self._memory[key] = hidden[0].float()
        if len(self._memory) > self._remembered:
            self._memory.popitem(last=False)
        return self._memory[key]

    def unknown_words(self, text: str) -> list[str]:
        """Words of a prompt that the vocabulary does not hold, in order, each once. Sub-word vocabularies hold most."""
        cleaned = clean(text)
        encoding = self.tokenizer.encode(cleaned)
        unknown = _token_id(self.tokenizer, UNKNOWN_MARKS)
        spans = [span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token == unknown]
        return list(dict.fromkeys(cleaned[start:stop] for start, stop in spans))


def clean(text: str) -> str:
    """Mended encoding, HTML entities undone twice, white space collapsed."""
    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", mended).strip()


def shown(text: str) -> str:
    """A prompt as a message quotes it: one line, not long."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "...")


def train_word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A tokenizer with one token a word: lower-cased, apostrophes dropped, other punctuation a space, end mark added.

    Ids: 0 [PAD], 1 [EOS], 2 [UNK], then the words in alphabetical order. The marks are no words: a prompt cannot
    contain them.
    """
    normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("['\u2019]"), ""),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}\s]"), " "),
        ]
    )
    known = sorted({part for word in words for part in normalizer.normalize_str(word).split()})
    vocabulary = {token: index for index, token in enumerate((PAD, EOS, UNKNOWN, *known))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises CheckpointMissing or CheckpointUnreadable."""
    if not path.is_file():
        raise CheckpointMissing("no tokenizer here", where=str(path), remedy="put the model's tokenizer.json there")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise CheckpointUnreadable("not a readable text file", where=str(path)) from None
    try:
        return Tokenizer.from_str(content)
    except Exception:  # noqa: BLE001 - the tokenizers library raises bare Exception for a file it cannot parse
        raise CheckpointUnreadable("not a tokenizer.json of the tokenizers library", where=str(path)) from None


def write_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes tokenizer.json, whole or not at all. Raises InputOutputError."""
    with whole_file(path) as partial:
        partial.write_text(tokenizer.to_str(pretty=False), encoding="utf-8")


def _token_id(tokenizer: Tokenizer, names: tuple[str, ...]) -> int:
    ids = [tokenizer.token_to_id(name) for name in names]
    found = next((index for index in ids if index is not None), None)
    if found is None:
        raise CheckpointUnreadable(f"the tokenizer has none of {', '.join(names)}", where="tokenizer.json")
    return found
