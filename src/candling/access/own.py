"""A decoder of the user's own as a language model: a network, its tokenizer, and a table of its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from candling.access.content import open_file
from candling.access.dissect import dissect, named
from candling.access.families import Family
from candling.access.folder import MAX_TOKENIZER
from candling.access.layout import Layout
from candling.access.model import Model, load
from candling.access.pretrained import DTYPES, LanguageModel
from candling.access.tokenizer import Tokenizer, read_tokenizer
from candling.access.wording import bad_input, listed, shown

_BOUNDLESS = 1 << 20  # most tokens of a prompt where nothing else bounds it


def load_decoder(
    source: str | nn.Module,
    *,
    tokenizer: str | Path,
    layout: Layout,
    weights: str | Path | None = None,
    build: Callable[[], nn.Module] | None = None,
    dtype: str = "float32",
) -> LanguageModel:
    """A network, int64 [n, L] → logits [n, L, V], that no family knows.

    source, weights and build as in `load`: a build function's file is run, a module in memory is copied.
    tokenizer: a `tokenizer.json`. layout: where the network keeps its parts; they are put together and must give
    its logits. Raises InputError as `load`, `read_tokenizer` and `dissect` do.
    """
    if dtype not in DTYPES:
        raise bad_input("dtype", f"{shown(dtype)} is not one of {listed(list(DTYPES))}")
    loaded = load(source, weights=weights, build=build)
    module = loaded.module.to(DTYPES[dtype])
    anatomy = dissect(module, layout).anatomy
    rows = None if anatomy.positions is None else len(anatomy.positions)
    known = Family(
        name=named(module), model_class="", config_class="", settings=(), base="", layout=layout
    )  # nothing of it is ever built by transformers
    return LanguageModel(
        model=Model(module, loaded.architecture, loaded.sha256),
        tokenizer=_tokenizer(Path(tokenizer), layout, len(anatomy.embedding)),
        family=known,
        files={},
        notes=[],
        window=min(layout.longest or rows or _BOUNDLESS, rows or _BOUNDLESS),
    )


def _tokenizer(path: Path, layout: Layout, size: int) -> Tokenizer:
    with open_file(path, "tokenizer") as file:
        content = file.read(MAX_TOKENIZER + 1)
    if len(content) > MAX_TOKENIZER:
        raise bad_input("tokenizer", f"{shown(path, 60)} is larger than {MAX_TOKENIZER >> 20} MB")
    if layout.bos >= size:
        raise bad_input("layout", f"bos is {layout.bos:,}, but the embedding has {size:,} rows")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise bad_input("tokenizer", f"{shown(path, 60)} is not UTF-8 at byte {fault.start:,}") from None
    return read_tokenizer(text, size=size, bos=layout.bos if layout.bos >= 0 else None, eos=None)
