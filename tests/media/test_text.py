"""The text encoder: three layouts on disk give one encoder; prompts are cleaned, bounded, and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from genlock.errors import (
    CheckpointConfig,
    CheckpointKeys,
    CheckpointMissing,
    CheckpointShape,
    CheckpointUnreadable,
    PromptRefused,
)
from genlock.media.text import TextEncoder, clean, train_word_tokenizer, write_tokenizer
from genlock.media.umt5 import TIED, encoder_state, load_text, save_text, small_umt5, to_hugging_face, to_wan

WORDS = ["a", "red", "blue", "balloon", "boat", "drifts", "left", "over", "the", "sea", "at", "noon", "in", "rain"]
PROMPT = "A red balloon drifts left, over the sea!"
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def tokenizer():
    return train_word_tokenizer(WORDS)


@pytest.fixture(scope="module")
def reference(tokenizer):
    torch.manual_seed(3)
    model = small_umt5(tokenizer.get_vocab_size(), dim=32, num_heads=2, head_dim=8, ffn_dim=48).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def wan_names(model):
    return {to_wan(name): tensor for name, tensor in encoder_state(model.state_dict(), where="test")[0].items()}


def write_bundled(folder, model, tokenizer):
    save_text(model, tokenizer, folder, dtype=torch.float32)
    return folder


def write_hugging_face(folder, model, tokenizer):
    state = {name: tensor for name, tensor in model.state_dict().items() if name != TIED}
    save_file({**state, "decoder.final_layer_norm.weight": torch.zeros(32)}, folder / "model.safetensors")
    write_tokenizer(tokenizer, folder / "tokenizer.json")
    return folder


def write_wan(folder, model, tokenizer):
    torch.save(wan_names(model), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    (folder / "google" / "umt5-xxl").mkdir(parents=True)
    write_tokenizer(tokenizer, folder / "google" / "umt5-xxl" / "tokenizer.json")
    return folder / "models_t5_umt5-xxl-enc-bf16.pth"


@pytest.mark.parametrize("write", [write_bundled, write_hugging_face, write_wan])
def test_every_layout_gives_the_embedding_of_the_model_that_was_saved(write, tmp_path, reference, tokenizer):
    encoder = load_text(write(tmp_path, reference, tokenizer), max_tokens=MAX_TOKENS)
    ids = tokenizer.encode("a red balloon drifts left over the sea").ids
    padded = torch.tensor([ids + [0] * (MAX_TOKENS - len(ids))])
    mask = (torch.arange(MAX_TOKENS) < len(ids)).long()[None]
    with torch.no_grad():
        expected = reference(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)]
    found = encoder.encode(PROMPT)
    assert found.dtype == torch.float32
    assert found.shape == (9, 32)  # eight words and the end mark
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_two_namings_are_each_others_inverse(reference):
    names = list(encoder_state(reference.state_dict(), where="test")[0])
    assert len(names) == 2 + 10 * 2
    assert len({to_wan(name) for name in names}) == len(names)
    assert [to_hugging_face(to_wan(name)) for name in names] == names
    assert to_wan("encoder.block.11.layer.1.DenseReluDense.wi_0.weight") == "blocks.11.ffn.gate.0.weight"
    with pytest.raises(CheckpointKeys, match=r"blocks\.0\.attn\.z\.weight"):
        to_hugging_face("blocks.0.attn.z.weight")


def drop(tensors):
    del tensors["blocks.1.attn.k.weight"]


def add(tensors):
    tensors["blocks.1.attn.k.bias"] = torch.zeros(16)


def reshape(tensors):
    tensors["blocks.1.ffn.fc2.weight"] = torch.zeros(32, 47)


def behead(tensors):
    del tensors["token_embedding.weight"]


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (drop, CheckpointKeys, r"encoder\.block\.1\.layer\.0\.SelfAttention\.k\.weight' is missing"),
        (add, CheckpointKeys, r"blocks\.1\.attn\.k\.bias"),
        (reshape, CheckpointShape, r"wo\.weight' is \[32, 47\], not \[32, 48\]"),
        (behead, CheckpointKeys, r"shared\.weight' is missing"),
    ],
)
def test_a_damaged_text_encoder_is_named(damage, error, named, tmp_path, reference, tokenizer):
    path = write_wan(tmp_path, reference, tokenizer)
    tensors = wan_names(reference)
    damage(tensors)
    torch.save(tensors, path)
    with pytest.raises(error, match=named):
        load_text(path, max_tokens=MAX_TOKENS)


def test_a_tokenizer_that_is_absent_damaged_or_too_large_is_named(tmp_path, reference, tokenizer):
    folder = write_bundled(tmp_path, reference, tokenizer)
    write_tokenizer(train_word_tokenizer([*WORDS, "dragon"]), folder / "tokenizer.json")
    with pytest.raises(CheckpointConfig, match="tokenizer has 18 tokens and the encoder 17"):
        load_text(folder, max_tokens=MAX_TOKENS)
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointUnreadable, match=r"tokenizer\.json"):
        load_text(folder, max_tokens=MAX_TOKENS)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointMissing, match=r"tokenizer\.json"):
        load_text(folder, max_tokens=MAX_TOKENS)


def test_sizes_that_contradict_the_tensors_are_refused(tmp_path, reference, tokenizer):
    folder = write_bundled(tmp_path, reference, tokenizer)
    state, _ = encoder_state(reference.state_dict(), where="test")
    save_file(state, folder / "text.safetensors", metadata={"config": json.dumps({"vocabulary": 17, "dim": 64})})
    with pytest.raises(CheckpointConfig, match="dim 64, the tensors say 32"):
        load_text(folder, max_tokens=MAX_TOKENS)


@pytest.mark.parametrize("text", ["", " \n\t", "!?", "&nbsp;"])
def test_a_prompt_without_words_is_refused(text, reference, tokenizer):
    with pytest.raises(PromptRefused, match="has no words"):
        TextEncoder(reference, tokenizer, max_tokens=MAX_TOKENS).encode(text)


def test_the_longest_prompt_is_taken_and_one_more_word_is_refused(reference, tokenizer):
    encoder = TextEncoder(reference, tokenizer, max_tokens=MAX_TOKENS)
    assert encoder.encode("red " * (MAX_TOKENS - 1)).shape[0] == MAX_TOKENS
    with pytest.raises(PromptRefused, match="has 13 tokens, end mark included, of 12"):
        encoder.encode("red " * MAX_TOKENS)


def test_the_memory_is_bounded_and_forgets_the_oldest_unused(reference, tokenizer):
    encoder = TextEncoder(reference, tokenizer, max_tokens=MAX_TOKENS, remembered=2)
    first = encoder.encode("red")
    blue = encoder.encode("blue")
    assert encoder.encode(" red ") is first  # the same words after cleaning; now blue is the oldest
    encoder.encode("sea")
    assert encoder.encode("red") is first
    again = encoder.encode("blue")
    assert again is not blue
    assert torch.equal(again, blue)


def test_words_the_vocabulary_lacks_are_told(reference, tokenizer):
    encoder = TextEncoder(reference, tokenizer, max_tokens=MAX_TOKENS)
    assert encoder.unknown_words("A red dragon, over castles; Dragon! [EOS]") == ["dragon", "castles", "Dragon", "EOS"]
    assert encoder.unknown_words(PROMPT) == []


def test_cleaning_mends_encoding_entities_and_space():
    assert clean("  caf\u00c3\u00a9 &amp;lt;3\n\n the\u00a0sea ") == "caf\u00e9 <3 the sea"


@given(st.text(max_size=60))
def test_any_text_gives_ids_of_the_vocabulary_that_end_once_or_is_refused(text):
    tokenizer = train_word_tokenizer(WORDS)
    encoder = TextEncoder(torch.nn.Linear(1, 1), tokenizer, max_tokens=MAX_TOKENS)
    try:
        ids = encoder.tokens(text)
    except PromptRefused:
        return
    assert 2 <= len(ids) <= MAX_TOKENS
    assert ids.count(1) == 1
    assert ids[-1] == 1
    assert 0 not in ids
    assert max(ids) < tokenizer.get_vocab_size()


def test_a_missing_text_encoder_is_named(tmp_path: Path):
    with pytest.raises(CheckpointMissing, match="no such file"):
        load_text(tmp_path / "none.pth", max_tokens=MAX_TOKENS)
