"""What a user names, opened: shared by the commands and by replay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import overload

from candling.access import (
    Dataset,
    LanguageModel,
    Layout,
    Model,
    load,
    load_decoder,
    load_language,
    read_inputs,
    read_layout,
    read_legitimate,
    read_npz,
    read_texts,
)
from candling.errors import InputError
from candling.evidence.control import RunInfo
from candling.organisms.samples import SAMPLES, load_sample
from candling.workflows.case import Case, make_case
from candling.workflows.chats import chat_case


def open_inputs(
    model: str,
    weights: str | None,
    trusted: str | None,
    reference: str | None = None,
    dtype: str = "float32",
    untrusted: str | None = None,
    legitimate: str | None = None,
    *,
    chat: bool = False,
    metric: str | None = None,
) -> Case:
    """`sample:NAME` brings its own weights and data; `net.py:build` needs both; a folder needs its reference.

    chat: a language model's texts are conversations, rendered by its chat template. metric: see `read_metric`.
    """
    if metric is not None and (model.startswith("sample:") or reference is not None or Path(model).is_dir()):
        raise InputError("usage", "--metric is for networks of your own, net.py:build, with --trusted FILE.npz")
    if chat and (model.startswith("sample:") or not (reference is not None or Path(model).is_dir())):
        raise InputError("usage", "--chat is for language models")
    if model.startswith("sample:"):
        name = model.removeprefix("sample:")
        if name not in SAMPLES:
            raise InputError("sample", f"no sample {name!r}: choose from {', '.join(SAMPLES)}")
        if weights or trusted or reference:
            raise InputError("sample", f"{model} brings its own weights and data: leave those options out")
        return _classifier(*load_sample(name), untrusted, legitimate)
    if reference is not None or Path(model).is_dir():
        if legitimate is not None:
            raise InputError("usage", "--legitimate is for a classifier's inputs")
        if weights is not None:
            raise InputError("usage", f"{model} brings its own weights: leave --weights out")
        return _language(model, trusted, reference, dtype, untrusted, chat=chat)
    if weights is None or trusted is None:
        missing = "--weights FILE.safetensors" if weights is None else "--trusted FILE.npz"
        raise InputError("usage", f"{model} needs {missing}")
    return _classifier(load(model, weights=weights), read_npz(Path(trusted), metric=metric), untrusted, legitimate)


def _classifier(model: Model, trusted: Dataset, untrusted: str | None, legitimate: str | None) -> Case:
    cells = read_legitimate(legitimate, trusted.x.shape[1:]) if legitimate else None
    return make_case(model, trusted, untrusted=read_inputs(untrusted) if untrusted else (), legitimate=cells)


def _language(
    model: str, trusted: str | None, reference: str | None, dtype: str, untrusted: str | None, *, chat: bool
) -> Case:
    if reference is None:
        raise InputError("usage", f"{model} needs --reference FOLDER, the model that it was made from")
    if trusted is None:
        raise InputError("usage", f"{model} needs --trusted FILE.jsonl")
    if chat:
        return chat_case(model, trusted, reference, dtype, untrusted)
    texts = read_texts(trusted)
    base = load_language(reference, dtype=dtype)
    others = read_texts(untrusted) if untrusted else []
    return make_case(load_language(model, reference=base, dtype=dtype), texts, base, others)


def open_language(
    model: str, weights: str | None, tokenizer: str | None, layout: str | Layout | None, dtype: str = "float32"
) -> LanguageModel:
    """A folder or the hub's `owner/name`; or `net.py:build` with weights, tokenizer and a table of its parts.

    layout: a JSON file, or what it held. Raises InputError where something is missing or too much, and as
    `load_language` and `load_decoder` do.
    """
    given = {"--weights": weights, "--tokenizer": tokenizer, "--layout": layout}
    if ":" not in model:
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise InputError("usage", f"{model} brings its own: leave {' and '.join(extra)} out")
        return load_language(model, dtype=dtype)
    if weights is None or tokenizer is None or layout is None:
        missing = [name for name, value in given.items() if value is None]
        raise InputError("usage", f"{model} needs {' and '.join(missing)} too: see docs/explain.md")
    table = layout if isinstance(layout, Layout) else read_layout(layout)
    return load_decoder(model, weights=weights, tokenizer=tokenizer, layout=table, dtype=dtype)


@overload
def lasting(name: str) -> str: ...
@overload
def lasting(name: str | None) -> str | None: ...
def lasting(name: str | None) -> str | None:
    """What a user named, so that it is found from any working folder; names that are no files stay as they are."""
    if name is None:
        return None
    file, colon, function = name.rpartition(":")
    if colon and file.endswith(".py"):
        return f"{Path(file).absolute()}:{function}"
    return str(Path(name).absolute()) if Path(name).exists() else name


def relocated(info: RunInfo, moved: Mapping[str, str], fields: Mapping[str, str]) -> RunInfo:
    """The record's paths, those that were moved replaced; what the files hold is checked by hash all the same.

    fields: what a user calls a file, and the record. Raises InputError for a name that this record does not have.
    """
    for name in moved:
        if name not in fields:
            raise InputError("usage", f"--{name}: this run names no such file; it names {', '.join(fields)}")
    return info.model_copy(update={fields[name]: path for name, path in moved.items()})
