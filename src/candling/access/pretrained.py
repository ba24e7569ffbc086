"""Language models from a Hugging Face folder: config, safetensors, tokenizer; no code in it ever runs."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from candling.access import adapter
from candling.access.architecture import Architecture
from candling.access.checkpoint import fill, sha256_state
from candling.access.families import Family, family_of
from candling.access.folder import MAX_TOKENIZER, Folder, check_harmless, located, weight_files
from candling.access.layout import Layout
from candling.access.model import Model
from candling.access.tokenizer import Tokenizer, read_tokenizer
from candling.access.wording import bad_input, listed, shown
from candling.errors import CandlingError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

_IRRELEVANT = {
    *("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "n_ctx"),
    *("bos_token_id", "eos_token_id", "pretraining_tp", "task_specific_params", "is_encoder_decoder"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
    *("summary_use_proj", "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "return_dict"),
    *("is_decoder", "output_hidden_states", "output_attentions", "add_cross_attention"),
}
"""Keys that change nothing here: dropped without a note."""


class Decoder(nn.Module):
    """Token ids in, logits out. Its parts and weights have the names of transformers' own model, no prefix.

    Padding goes on the right: attention is causal, so that what precedes it is as without it.
    """

    def __init__(self, source: nn.Module, family: Family) -> None:
        """`source` is transformers' model with its language head; its parts are taken over, not copied."""
        super().__init__()
        self.family = family
        self.add_module(family.base, source.get_submodule(family.base))
        head: Any = source.get_output_embeddings()  # type: ignore[operator]
        self.add_module(family.unembedding, head)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [n, L] → logits [n, L, V]"""
        base, head = self.get_submodule(self.family.base), self.get_submodule(self.family.unembedding)
        logits: Tensor = head(base(input_ids=tokens, use_cache=False).last_hidden_state)
        return logits

    @property
    def layout(self) -> Layout:
        return self.family.layout

    @property
    def embedding(self) -> Tensor:
        """[V, d] the vector of each token"""
        return self.get_parameter(f"{self.family.embedding}.weight")

    @property
    def width(self) -> int:
        return int(self.embedding.shape[1])


@dataclass(frozen=True)
class Blueprint:
    """Builds a fresh Decoder, randomly initialised, from the text of a config; plain strings when pickled."""

    config: str
    """JSON: the model type and the settings that matter, sorted."""
    dtype: str = "float32"

    @property
    def family(self) -> Family:
        return family_of(json.loads(self.config))

    def __call__(self) -> Decoder:
        """Raises InputError where transformers refuses the settings."""
        import transformers

        fields = json.loads(self.config)
        family = family_of(fields)
        settings = {key: value for key, value in fields.items() if key != "model_type"}
        with _quiet():
            try:
                config = getattr(transformers, family.config_class)(**settings, attn_implementation="sdpa")
                decoder = Decoder(getattr(transformers, family.model_class)(config), family)
            except CandlingError:
                raise
            except Exception as fault:  # transformers and torch raise a dozen kinds on odd settings
                kind = type(fault).__name__
                raise bad_input(
                    "config", f"config.json builds no {family.name} ({kind}: {shown(fault, 80)})"
                ) from None
        config.pad_token_id = None  # else transformers would log advice on padding at every pass
        for parameter in decoder.parameters():  # not the buffers: rotary frequencies stay float32
            parameter.data = parameter.data.to(DTYPES[self.dtype])
        return decoder.eval()


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model with all that its folder says about it."""

    model: Model
    """Its module takes tokens int64 [n, L] to logits [n, L, V]: a `Decoder`, unless it is of the user's own."""
    tokenizer: Tokenizer
    family: Family
    files: dict[str, str]
    """SHA-256 of every file that was read, by its name in the folder."""
    notes: list[str]
    """What was dropped or passed over, one line each."""
    window: int
    """The most positions it takes."""


def load_language(
    path: str | Path, *, reference: LanguageModel | None = None, dtype: str = "float32"
) -> LanguageModel:
    """A language model from a folder, or from the hub's `owner/name`.

    A folder with a LoRA adapter needs the `reference` that it was trained on, and gives the merged model.
    Raises UnsafeInputError for pickled weights, remote code, links and shards that lead out of the folder;
    InputError for whatever is missing, malformed, unknown, or does not fit together, before it is allocated.
    """
    if dtype not in DTYPES:
        raise bad_input("dtype", f"{shown(dtype)} is not one of {listed(list(DTYPES))}")
    folder = Folder(located(path))
    if not folder.has("adapter_config.json"):
        return _whole(folder, dtype)
    if folder.has("config.json"):
        raise bad_input("folder", f"{folder} holds config.json and adapter_config.json; give one model's folder")
    if reference is None:
        raise bad_input("adapter", f"{folder} is a LoRA adapter; give the reference that it was trained on")
    return _merged(folder, reference)


def _whole(folder: Folder, dtype: str) -> LanguageModel:
    _, config = folder.json("config.json")
    family, blueprint, notes = read_config(config, dtype)
    names = weight_files(folder)
    shapes = folder.shapes(names)
    spelled, dropped = _spelling(shapes, family)
    notes += [f"weights: {listed(dropped)} not needed: config.json decides them"] if dropped else []
    _check_shapes({spelled[name]: shapes[name] for name in spelled}, blueprint, config)
    tokenizer = _tokenizer(folder, config)
    weights = folder.weights(names)
    architecture = Architecture(
        f"{family.name} of config.json", hashlib.sha256(blueprint.config.encode()).hexdigest(), blueprint
    )
    with torch.random.fork_rng(devices=[]):
        module = architecture()
    fill(module, {spelled[name]: weights[name] for name in spelled})
    _check_runs(module)
    model = Model(module.requires_grad_(False), architecture, sha256_state(module))
    return LanguageModel(model, tokenizer, family, folder.files, notes, _window(config, family))


def _merged(folder: Folder, reference: LanguageModel) -> LanguageModel:
    module, notes = adapter.merged(folder, reference.model.module)
    _check_runs(module)
    model = Model(module.requires_grad_(False), reference.model.architecture, sha256_state(module))
    return LanguageModel(model, reference.tokenizer, reference.family, folder.files, notes, reference.window)


def read_config(config: dict[str, Any], dtype: str = "float32") -> tuple[Family, Blueprint, list[str]]:
    """The family, how to build one, and notes on what was dropped. Raises InputError and UnsafeInputError."""
    check_harmless(config, "config.json")
    family = family_of(config)
    if config.get("quantization_config"):
        raise bad_input("config", "config.json asks for quantised weights; give the model in floating point")
    for key in ("vocab_size", family.depth, family.window):
        if type(config.get(key)) is not int or not 0 < config[key] < 2**31:
            raise bad_input("config", f"config.json: {key} is {shown(config.get(key))}, not a count from 1")
    settings = {key: config[key] for key in ("model_type", *family.settings) if key in config}
    text = json.dumps(settings, sort_keys=True)
    dropped = sorted(shown(key) for key in config.keys() - settings.keys() - _IRRELEVANT)
    notes = [f"config.json: dropped {listed(dropped)}"] if dropped else []
    return family, Blueprint(text, dtype), notes


def _window(config: Mapping[str, Any], family: Family) -> int:
    return int(config[family.window])


def _tokenizer(folder: Folder, config: Mapping[str, Any]) -> Tokenizer:
    text, _ = folder.json("tokenizer.json", MAX_TOKENIZER)
    size = config["vocab_size"]
    return read_tokenizer(text, size=size, bos=_special(config, "bos", size), eos=_special(config, "eos", size))


def _special(config: Mapping[str, Any], name: str, size: int) -> int | None:
    value = config.get(f"{name}_token_id")
    value = value[0] if isinstance(value, list) and value else value
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < size:
        raise bad_input("config", f"config.json: {name}_token_id is {shown(value)}, not an id below {size:,}")
    return value


def _spelling(shapes: Mapping[str, object], family: Family) -> tuple[dict[str, str], list[str]]:
    """Each name in the files with its name in a Decoder, and the names of constants that are left out."""
    dropped = [name for name in shapes if name.endswith(family.constants)]
    kept = [name for name in shapes if not name.endswith(family.constants)]
    spelled = {}
    bare = not any(name.startswith(f"{family.base}.") for name in kept)
    for name in kept:
        new = name
        for old, start in family.renamed:
            new = start + new.removeprefix(old) if new.startswith(old) else new
        if bare and not new.startswith(f"{family.unembedding}."):
            new = f"{family.base}.{new}"
        spelled[name] = new
    if len(set(spelled.values())) < len(spelled):
        raise bad_input("weights", "the files hold a tensor under two spellings of its name")
    return spelled, [shown(name) for name in dropped]


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], blueprint: Blueprint, config: Mapping[str, Any]) -> None:
    """Raises InputError with the first five differences between files and config; allocates nothing."""
    family = blueprint.family
    blocks = {
        name.removeprefix(f"{family.blocks}.").split(".")[0] for name in shapes if name.startswith(family.blocks)
    }
    if len(blocks) != config[family.depth]:
        what = f"config.json: {family.depth} is {config[family.depth]:,}, but the weights hold {len(blocks)} blocks"
        raise bad_input("weights", what)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        empty = blueprint()
    wrong = list(_differences(empty, shapes))
    if wrong:
        raise bad_input("weights", f"config.json differs in {len(wrong):,}: {listed(wrong, width=145)}")


def _differences(empty: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    tied = {name: id(value) for name, value in empty.named_parameters(remove_duplicate=False)}
    given = {tied[name] for name in shapes if name in tied}
    expected = empty.state_dict()
    for name, value in expected.items():
        if name not in shapes:
            if tied.get(name) not in given:
                yield f"missing {shown(name)}"
        elif shapes[name] != tuple(value.shape):
            yield f"{shown(name)} is {list(shapes[name])} not {list(value.shape)}"
    yield from (f"extra {shown(name)}" for name in shapes if name not in expected)


def _check_runs(module: nn.Module) -> None:
    """Two tokens through the network. Raises InputError where it fails or gives NaN or Inf."""
    try:
        with torch.no_grad():
            logits = module(torch.zeros(1, 2, dtype=torch.int64))
    except Exception as fault:
        what = f"{type(fault).__name__}: {shown(fault, 80)}"
        raise bad_input("config", f"the model of config.json fails on two tokens ({what})") from None
    if not math.isfinite(float(logits.float().sum())):
        raise bad_input("config", "the model of config.json gives NaN or Inf on two tokens")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' log to itself: what matters is raised or noted."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
