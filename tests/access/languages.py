"""Tiny language models of every family, saved as folders, and a tokenizer for them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

VOCABULARY, WINDOW = 300, 64
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("i", "n"), ("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t")]

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW},
    "gpt_neox": _SIZES,
    "llama": _GROUPED,
    "mistral": {**_GROUPED, "sliding_window": 8},
    "qwen2": _GROUPED,
    "qwen3": {**_GROUPED, "head_dim": 16, "tie_word_embeddings": True},
}


def byte_level() -> str:
    """The text of a tokenizer.json: byte-level, 256 bytes and a few merges, `<end>` last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *("".join(pair) for pair in MERGES)]
    built = tokenizers.Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, MERGES))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(["<end>"])
    built.enable_padding(length=40)  # neither must have an effect
    built.enable_truncation(5)
    return built.to_str()


END = 256 + len(MERGES)


def network(kind: str, seed: int = 0) -> torch.nn.Module:
    """transformers' own model, randomly initialised."""
    config = transformers.AutoConfig.for_model(kind, **SETTINGS[kind], bos_token_id=END, eos_token_id=END)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def save(kind: str, folder: Path, seed: int = 0) -> torch.nn.Module:
    """A folder as people download it; the model in it."""
    model = network(kind, seed)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_level())
    return model


def change(path: Path, **fields: object) -> None:
    """Sets top-level fields of a JSON file; None removes one."""
    whole = {**json.loads(path.read_text()), **fields}
    gone = {key for key, value in fields.items() if value is None}
    path.write_text(json.dumps({key: value for key, value in whole.items() if key not in gone}))
