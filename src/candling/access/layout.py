"""Where a decoder keeps its parts: one table a family, or a user's own, as data."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from candling.access.content import open_file
from candling.access.folder import parse_json
from candling.access.wording import bad_input, listed, shown

MAX_LAYOUT = 1 << 16

_PATH = re.compile(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Paths of submodules; those from `attention` to `key_norm` are relative to a block."""

    blocks: str
    """The list of blocks; block i is `blocks.i`."""
    embedding: str
    unembedding: str
    final_norm: str
    attention: str = ""
    """The whole attention, where it tells its scale (`scaling`) and window (`sliding_window`)."""
    attention_norm: str = ""
    """What is left empty is not there: a block may lack norms, and an MLP."""
    attention_output: str
    """The map from the heads' outputs to the residual stream."""
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    """One map for queries, keys and values, in place of the three."""
    by_head: bool = False
    """Does the fused map hold query, key and value of one head after another? Else all queries come first."""
    mlp_norm: str = ""
    mlp: str = ""
    up: str = ""
    down: str = ""
    """The map from the hidden units to the residual stream."""
    gate: str = ""
    activation: str = ""
    """A submodule, or `relu`, `gelu`, `gelu_tanh` or `silu`."""
    query_norm: str = ""
    key_norm: str = ""
    positions: str = ""
    """An embedding that is added to the tokens'."""
    rotary: str = ""
    """A submodule: (a tensor, positions [1, L]) → cosine and sine [1, L, r], as transformers has it."""
    rotary_base: float = 0.0
    """In place of `rotary`: turn whole heads, the first half of their dimensions against the second."""
    heads: int = 0
    """What the network's `config` says where these are 0."""
    groups: int = 0
    """Key-value heads; as many as there are heads, if not said."""
    window: int = 0
    """How many positions back a token sees; 0: all."""
    parallel: bool = False
    """Do attention and MLP read the same? Some networks say it themselves, in `use_parallel_residual`."""
    longest: int = 0
    """Most tokens of a prompt; what `positions` has room for, if not said."""
    bos: int = -1
    """The token that every prompt begins with; none below 0."""

    @property
    def json(self) -> str:
        """What differs from the defaults, as `layout_from` reads it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value for name, value in own.items() if value != _DEFAULTS.get(name)})


_DEFAULTS = {field.name: field.default for field in fields(Layout) if field.default is not dataclasses.MISSING}
_KINDS = {"str": str, "bool": bool, "int": int, "float": float}


def read_layout(path: str | Path) -> Layout:
    """The table in a JSON file: an object with the fields of `Layout`. Raises InputError; nothing in it is run."""
    with open_file(Path(path), "layout") as file:
        content = file.read(MAX_LAYOUT + 1)
    if len(content) > MAX_LAYOUT:
        raise bad_input("layout", f"{shown(path, 60)} is larger than {MAX_LAYOUT >> 10} kB")
    try:
        return layout_from(content.decode("utf-8"), shown(path, 60))
    except UnicodeDecodeError as fault:
        raise bad_input("layout", f"{shown(path, 60)} is not UTF-8 at byte {fault.start:,}") from None


def layout_from(text: str, where: str = "the layout") -> Layout:
    """The table in JSON text. Raises InputError naming the field that is unknown, missing or malformed."""
    try:
        given = parse_json(text)
    except ValueError as fault:
        raise bad_input("layout", f"{where}: {shown(fault, 80)}") from None
    if not isinstance(given, dict):
        raise bad_input("layout", f"{where} is no JSON object; give one with blocks, embedding, …")
    kinds = {field.name: _KINDS[str(field.type)] for field in fields(Layout)}
    for name, value in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=3, cutoff=0.4)
            raise bad_input(
                "layout",
                f"{where}: no field {shown(name)}; {'nearest' if near else 'there are'}: "
                f"{listed(near or list(kinds))}",
            )
        _check(where, name, value, kinds[name])
    missing = [name for name in kinds if name not in _DEFAULTS and not given.get(name)]
    if missing:
        raise bad_input("layout", f"{where} lacks {listed(missing)}")
    if not given.get("fused") and not all(given.get(name) for name in ("query", "key", "value")):
        raise bad_input("layout", f"{where} lacks query, key and value, or fused in their place")
    if bool(given.get("up")) != bool(given.get("down")):
        raise bad_input("layout", f"{where}: up and down belong together")
    return Layout(**{name: kinds[name](value) for name, value in given.items()})


def _check(where: str, name: str, value: Any, kind: type) -> None:
    fits = type(value) is kind or (kind is float and type(value) is int)
    if fits and kind is str:
        fits = value == "" or (len(value) <= 200 and _PATH.fullmatch(value) is not None)
    if fits and kind in (int, float):
        fits = (-1 if name == "bos" else 0) <= value < 2**31
    if not fits:
        needed = {str: "a path such as layers or attn.q_proj", bool: "true or false"}.get(kind, "a number")
        raise bad_input("layout", f"{where}: {name} is {shown(value)}, not {needed}")
