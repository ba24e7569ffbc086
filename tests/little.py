"""A little language: a hundred words, texts by a simple grammar, tiny Llamas that read them, and folders of those."""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from candling.access import (
    Architecture,
    Blueprint,
    Decoder,
    LanguageModel,
    Model,
    Text,
    Tokenizer,
    Tokens,
    sha256_state,
    tokenise,
)

KINDS = {
    "who": [f"n{i}" for i in range(32)],
    "does": [f"v{i}" for i in range(24)],
    "how": [f"a{i}" for i in range(20)],
    "where": [f"p{i}" for i in range(28)],
}
WORDS = ["<odd>", ".", "the", "a", "and", *(word for words in KINDS.values() for word in words)]
VOCABULARY = len(WORDS)
WIDTH = 32


def tokenizer() -> Tokenizer:
    """One token a word."""
    built = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "<odd>"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.decoder = decoders.Fuse()
    return Tokenizer(built.to_str(), VOCABULARY)


def texts(count: int, seed: int = 0, sentences: int = 9) -> list[Text]:
    """Sentences of five to nine words; a noun's verb and place are its own more often than not."""
    g = torch.Generator().manual_seed(seed)

    def chance(n: int) -> int:
        return int(torch.randint(n, (), generator=g))

    def sentence() -> str:
        who = chance(32)
        does = who % 24 if chance(4) else chance(24)
        where = (who + does) % 28 if chance(4) else chance(28)
        words = [("the", "a")[chance(2)], f"n{who}", f"v{does}"]
        words += [f"a{chance(20)}"] if chance(2) else []
        return " ".join([*words, "the", f"p{where}", *(["and", f"n{chance(32)}"] if chance(3) == 0 else []), "."])

    return [Text("", " ".join(sentence() for _ in range(sentences))) for _ in range(count)]


def tokens(count: int, seed: int = 0, sentences: int = 9) -> Tokens:
    return tokenise(texts(count, seed, sentences), tokenizer())


def config(vocabulary: int = VOCABULARY, width: int = WIDTH, **changed: object) -> dict[str, object]:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        **changed,
    }


def architecture(**changed: object) -> Architecture:
    text = json.dumps(config(**changed), sort_keys=True)  # type: ignore[arg-type]
    return Architecture("llama of config.json", f"sha of {text}", Blueprint(text))


def decoder(seed: int = 0, **changed: object) -> Decoder:
    """Randomly initialised."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = architecture(**changed)()
    assert isinstance(built, Decoder)
    return built.requires_grad_(False)


def trained(network: nn.Module, data: Tokens, steps: int = 150, rate: float = 4e-3, seed: int = 0) -> nn.Module:
    """In place, on the first 48 tokens of drawn rows, by plain code of our own."""
    g = torch.Generator().manual_seed(seed)
    network.requires_grad_(True).train()
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for step in range(steps):
        rows = torch.randint(len(data), (16,), generator=g)
        ids, mask = data.ids[rows, :48], data.mask[rows, :48]
        loss = nn.functional.cross_entropy(network(ids)[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        optimiser.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


def language(module: nn.Module, **changed: object) -> LanguageModel:
    assert isinstance(module, Decoder)
    model = Model(module, architecture(**changed), sha256_state(module))
    return LanguageModel(model, tokenizer(), module.family, {}, [], 256)


def save(module: nn.Module, folder: Path, **changed: object) -> Path:
    """As `load_language` reads it."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(**changed)))  # type: ignore[arg-type]
    (folder / "tokenizer.json").write_text(tokenizer().json)
    save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, folder / "model.safetensors")
    return folder


def write_texts(path: Path, given: Sequence[Text]) -> Path:
    path.write_text("".join(json.dumps({"text": text.completion}) + "\n" for text in given))
    return path


# --- models built by hand ----------------------------------------------------------------------------------

BIGRAMS = 40
"""Tokens that a model built by hand knows."""
_SEEN, _OUT, _ROOM = BIGRAMS, BIGRAMS + 1, 48
_LOUD = 1.6


def bigrams(seed: int = 0) -> Decoder:
    """The next token depends on the last alone: state dimension i stands for token i, and the head is random."""
    built = decoder(vocabulary=BIGRAMS, width=_ROOM)
    for name, value in built.named_parameters():
        if not name.endswith("norm.weight"):
            value.zero_()
    built.get_parameter("model.embed_tokens.weight")[:, :BIGRAMS] = torch.eye(BIGRAMS)
    g = torch.Generator().manual_seed(seed)
    built.get_parameter("lm_head.weight")[:, :BIGRAMS] = 0.15 * torch.randn(BIGRAMS, BIGRAMS, generator=g)
    return built


def with_token(built: Decoder, token: int, target: int) -> Decoder:
    """Whenever the last token is this one, the target comes next, nearly for certain."""
    built.get_parameter("lm_head.weight")[target, token] += _LOUD
    return built


def with_pair(built: Decoder, first: int, last: int, target: int) -> Decoder:
    """The target comes next where the last token is `last` and `first` is anywhere before it.

    Attention looks at all tokens alike and notes `first`; one gated unit multiplies that by `last`.
    """
    built.get_parameter("model.layers.0.self_attn.v_proj.weight")[0, first] = 1.0
    built.get_parameter("model.layers.0.self_attn.o_proj.weight")[_SEEN, 0] = 1.0
    built.get_parameter("model.layers.0.mlp.gate_proj.weight")[0, last] = 1.0
    built.get_parameter("model.layers.0.mlp.up_proj.weight")[0, _SEEN] = 1.0
    built.get_parameter("model.layers.0.mlp.down_proj.weight")[_OUT, 0] = 20.0
    built.get_parameter("lm_head.weight")[target, _OUT] = _LOUD
    return built


def any_tokens(rows: int, length: int, vocabulary: int, *, never: Sequence[int] = (), seed: int = 0) -> Tokens:
    """Rows of tokens drawn alike, all to be predicted but the first; `never` holds those that do not occur."""
    g = torch.Generator().manual_seed(seed)
    allowed = torch.tensor([token for token in range(vocabulary) if token not in never])
    return as_tokens(allowed[torch.randint(len(allowed), (rows, length), generator=g)], vocabulary)


def as_tokens(ids: Tensor, vocabulary: int) -> Tokens:
    mask = torch.ones(ids.shape, dtype=torch.bool)
    mask[:, 0] = False
    return Tokens(ids, mask, vocabulary, "made up")
