"""The UMT5 encoder's files: three layouts on disk, one state dict in memory, and a small encoder for training.

Layouts: our own (`text.safetensors` with its sizes in the metadata, `tokenizer.json` beside it), the Hugging Face
folder, and Wan's single file with its own key names. Knows no prompt. transformers is imported here and in no other
module of the package, and of it only the UMT5 model file: no Auto classes, no hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers.models.umt5.configuration_umt5 import UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

from genlock.errors import CheckpointConfig, CheckpointKeys, CheckpointMissing, CheckpointShape
from genlock.generator.tensor_files import open_tensors, write_tensors
from genlock.media.text import REMEMBERED_PROMPTS, TextEncoder, read_tokenizer, write_tokenizer
from genlock.observe.trace import SpanOf, unmeasured

WEIGHTS = "text.safetensors"
TOKENIZER = "tokenizer.json"
WAN_TOKENIZER = Path("google") / "umt5-xxl" / TOKENIZER  # beside Wan's models_t5_umt5-xxl-enc-bf16.pth
MAX_DISTANCE = 128  # of the relative position buckets; every released UMT5 has it
EPS = 1e-6

# Hugging Face name <-> Wan name; {} is the layer.
NAMES = {
    "shared.weight": "token_embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight",
    "encoder.block.{}.layer.0.layer_norm.weight": "blocks.{}.norm1.weight",
    "encoder.block.{}.layer.0.SelfAttention.q.weight": "blocks.{}.attn.q.weight",
    "encoder.block.{}.layer.0.SelfAttention.k.weight": "blocks.{}.attn.k.weight",
    "encoder.block.{}.layer.0.SelfAttention.v.weight": "blocks.{}.attn.v.weight",
    "encoder.block.{}.layer.0.SelfAttention.o.weight": "blocks.{}.attn.o.weight",
    "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight": (
        "blocks.{}.pos_embedding.embedding.weight"
    ),
    "encoder.block.{}.layer.1.layer_norm.weight": "blocks.{}.norm2.weight",
    "encoder.block.{}.layer.1.DenseReluDense.wi_0.weight": "blocks.{}.ffn.gate.0.weight",
    "encoder.block.{}.layer.1.DenseReluDense.wi_1.weight": "blocks.{}.ffn.fc1.weight",
    "encoder.block.{}.layer.1.DenseReluDense.wo.weight": "blocks.{}.ffn.fc2.weight",
}
TIED = "encoder.embed_tokens.weight"  # a second name of shared.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSizes:
    """Sizes of a UMT5 encoder. All but max_distance follow from the shapes of its tensors."""

    vocabulary: int
    dim: int
    ffn_dim: int
    num_heads: int
    head_dim: int
    num_layers: int
    buckets: int
    max_distance: int = MAX_DISTANCE

    def config(self) -> UMT5Config:
        return UMT5Config(
            vocab_size=self.vocabulary,
            d_model=self.dim,
            d_ff=self.ffn_dim,
            num_heads=self.num_heads,
            d_kv=self.head_dim,
            num_layers=self.num_layers,
            relative_attention_num_buckets=self.buckets,
            relative_attention_max_distance=self.max_distance,
            layer_norm_epsilon=EPS,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            use_cache=False,
            is_encoder_decoder=False,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Hugging Face name -> shape of every tensor."""
        inner = self.num_heads * self.head_dim
        kinds: dict[str, tuple[int, ...]] = {
            "shared": (self.vocabulary, self.dim),
            "o": (self.dim, inner),
            "relative_attention_bias": (self.buckets, self.num_heads),
            "wi_0": (self.ffn_dim, self.dim),
            "wi_1": (self.ffn_dim, self.dim),
            "wo": (self.dim, self.ffn_dim),
            "layer_norm": (self.dim,),
            "final_layer_norm": (self.dim,),
        }
        names = [name.format(i) for name in NAMES for i in range(self.num_layers if "{}" in name else 1)]
        return {name: kinds.get(name.split(".")[-2], (inner, self.dim)) for name in names}


def to_wan(name: str) -> str:
    """Wan's name of a Hugging Face tensor name. Raises CheckpointKeys."""
    return _rename(name, NAMES)


def to_hugging_face(name: str) -> str:
    """The Hugging Face name of one of Wan's tensor names. Raises CheckpointKeys."""
    return _rename(name, {wan: ours for ours, wan in NAMES.items()})


def encoder_state(tensors: Mapping[str, Tensor], *, where: str) -> tuple[dict[str, Tensor], TextSizes]:
    """State dict by Hugging Face names, of either naming, and the sizes its shapes say.

    Decoder and head of a full T5 are left out. Raises CheckpointKeys and CheckpointShape.
    """
    if "token_embedding.weight" in tensors:
        state = {to_hugging_face(name): tensor for name, tensor in tensors.items()}
    else:
        state = {name: tensor for name, tensor in tensors.items() if _belongs(name)}
    sizes = _sizes(state, where)
    expected = sizes.shapes()
    if unknown := sorted(set(state) - set(expected)):
        raise CheckpointKeys(f"unknown tensor {unknown[0]!r} in a text encoder", where=where)
    if missing := sorted(set(expected) - set(state)):
        raise CheckpointKeys(f"tensor {missing[0]!r} is missing", where=where)
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointShape(f"tensor {name!r} is {list(state[name].shape)}, not {list(shape)}", where=where)
    return state, sizes


def load_text(
    path: Path,
    *,
    max_tokens: int,
    tokenizer: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    remembered: int = REMEMBERED_PROMPTS,
    span_of: SpanOf = unmeasured,
) -> TextEncoder:
    """The text encoder in a folder or a file, of any of the three layouts.

    max_tokens: the generator's text_len. remembered, span_of: as of a `TextEncoder`. tokenizer: a tokenizer.json; None
    looks beside the weights. Raises CheckpointMissing, CheckpointUnreadable, CheckpointKeys, CheckpointShape,
    CheckpointDtype, and CheckpointConfig where the sizes written beside the weights contradict them.
    """
    path = Path(path)
    weights = path / WEIGHTS if (path / WEIGHTS).is_file() else path
    with open_tensors(weights, device=device) as opened:
        tensors = {name: opened.read(name).to(dtype) for name in opened.shapes if _belongs(name)}
        written = opened.metadata.get("config")
    state, sizes = encoder_state(tensors, where=str(weights))
    _check_sizes(sizes, written, where=str(weights))
    words = read_tokenizer(tokenizer or _tokenizer_beside(path))
    if words.get_vocab_size() > sizes.vocabulary:
        raise CheckpointConfig(
            f"the tokenizer has {words.get_vocab_size()} tokens and the encoder {sizes.vocabulary}", where=str(weights)
        )
    return TextEncoder(build(sizes, state), words, max_tokens=max_tokens, remembered=remembered, span_of=span_of)


def build(sizes: TextSizes, state: Mapping[str, Tensor]) -> UMT5EncoderModel:
    """An encoder that holds exactly these tensors: built without memory, then handed them."""
    with torch.device("meta"):
        model = UMT5EncoderModel(sizes.config())
    model.load_state_dict({**state, TIED: state["shared.weight"]}, strict=True, assign=True)
    return model


def small_umt5(
    vocabulary: int,
    *,
    dim: int = 96,
    num_layers: int = 2,
    num_heads: int = 4,
    head_dim: int = 24,
    ffn_dim: int = 192,
    buckets: int = 32,
) -> UMT5EncoderModel:
    """A small encoder with random weights, for training. Draws from torch's global generator."""
    sizes = TextSizes(
        vocabulary=vocabulary,
        dim=dim,
        ffn_dim=ffn_dim,
        num_heads=num_heads,
        head_dim=head_dim,
        num_layers=num_layers,
        buckets=buckets,
    )
    return UMT5EncoderModel(sizes.config())


def save_text(
    model: UMT5EncoderModel, tokenizer: Tokenizer, folder: Path, *, dtype: torch.dtype = torch.float16
) -> None:
    """Writes text.safetensors and tokenizer.json into a folder, each whole or not at all. Raises InputOutputError."""
    state, sizes = encoder_state(model.state_dict(), where="encoder")
    tensors = {name: tensor.to(dtype) for name, tensor in state.items()}
    write_tensors(folder / WEIGHTS, tensors, {"config": json.dumps(asdict(sizes))})
    write_tokenizer(tokenizer, folder / TOKENIZER)


def _belongs(name: str) -> bool:
    """Whether a tensor of a full T5 is one of its encoder."""
    return name != TIED and not name.startswith(("decoder.", "lm_head."))


def _rename(name: str, table: Mapping[str, str]) -> str:
    layers = re.findall(r"\.(\d+)\.", name)
    for layer in (*layers[:1], ""):
        pattern = name.replace(f".{layer}.", ".{}.", 1) if layer else name
        if pattern in table:
            return table[pattern].format(layer)
    raise CheckpointKeys(f"unknown tensor {name!r} in a text encoder")


def _sizes(state: Mapping[str, Tensor], where: str) -> TextSizes:
    first = "encoder.block.0.layer"
    needed = (
        "shared.weight",
        f"{first}.0.SelfAttention.q.weight",
        f"{first}.0.SelfAttention.relative_attention_bias.weight",
        f"{first}.1.DenseReluDense.wi_0.weight",
    )
    for name in needed:
        if name not in state:
            raise CheckpointKeys(f"tensor {name!r} is missing", where=where, remedy="give a UMT5 encoder")
        if state[name].dim() != 2:
            raise CheckpointShape(f"tensor {name!r} is {list(state[name].shape)}, not a matrix", where=where)
    embedding, query, positions, gate = (tuple(state[name].shape) for name in needed)
    layers = {int(found[1]) for name in state if (found := re.match(r"encoder\.block\.(\d+)\.", name))}
    if query[0] % positions[1]:
        raise CheckpointShape(f"{query[0]} query rows cannot be split over {positions[1]} heads", where=where)
    return TextSizes(
        vocabulary=embedding[0],
        dim=embedding[1],
        ffn_dim=gate[0],
        num_heads=positions[1],
        head_dim=query[0] // positions[1],
        num_layers=max(layers) + 1,
        buckets=positions[0],
    )


def _check_sizes(sizes: TextSizes, written: str | None, *, where: str) -> None:
    if written is None:
        return
    try:
        values = json.loads(written)
    except ValueError:
        raise CheckpointConfig("the metadata's config is not JSON", where=where) from None
    for name, value in asdict(sizes).items():
        if not isinstance(values, dict) or values.get(name) != value:
            said = values.get(name) if isinstance(values, dict) else values
            raise CheckpointConfig(f"the metadata says {name} {said!r}, the tensors say {value}", where=where)


def _tokenizer_beside(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    places = [folder / TOKENIZER, folder / WAN_TOKENIZER, folder.parent / "tokenizer" / TOKENIZER]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointMissing(f"no {TOKENIZER} beside the text encoder", where=str(folder))
    return found
