"""The header of a safetensors file, checked strictly before a single weight is read.

The format (https://github.com/huggingface/safetensors): an 8-byte little-endian length, a JSON header of
that length, then the tensors' bytes. The library lets duplicate names, unknown fields, empty names and
absurd shapes pass; here anything that two readers could understand differently is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import torch

from candling.access.wording import shown

MAX_BYTES = 100_000_000
MAX_TENSORS = 100_000
_MAX_AXES = 64
_MAX_SIZE = 2**63 - 1

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}


class Malformed(ValueError):
    """The header breaks a rule; the message says which, without naming the file."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: its bytes are `[begin, end)` of the data that follows the header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def header_length(prefix: bytes, size: int) -> int:
    """The header's length, from the file's first 8 bytes and its size. Raises Malformed."""
    if len(prefix) < 8:
        raise Malformed(f"truncated: {size} bytes hold no header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_BYTES:
        raise Malformed(f"not a safetensors file, or its header of {length:,} bytes is absurd")
    if length > size - 8:
        raise Malformed(f"truncated: a header of {length:,} bytes in a file of {size:,}")
    return length


def entries(header: bytes, data_size: int) -> list[Entry]:
    """The tensors that the header declares, in file order: they tile `data_size` bytes. Raises Malformed."""
    fields = _parsed(header)
    _check_metadata(fields.pop("__metadata__", {}))
    if not fields:
        raise Malformed("it holds no tensor")
    if len(fields) > MAX_TENSORS:
        raise Malformed(f"{len(fields):,} tensors, more than {MAX_TENSORS:,}")
    found = sorted((_entry(*field) for field in fields.items()), key=lambda entry: (entry.begin, entry.end))
    end = 0
    for entry in found:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a hole before it"
            raise Malformed(f"tensor {shown(entry.name)} {what}")
        end = entry.end
    if end != data_size:
        raise Malformed(f"its tensors take {end:,} bytes, but {data_size:,} follow the header")
    return found


def _parsed(header: bytes) -> dict[str, Any]:
    try:
        text = header.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Malformed(f"its header is not UTF-8 at byte {fault.start}") from None
    if not text.startswith("{"):
        raise Malformed("not a safetensors file: its header is no JSON object")
    try:
        fields: dict[str, Any] = json.loads(
            text, object_pairs_hook=_unique, parse_int=_count, parse_float=_no_count, parse_constant=_no_count
        )
    except Malformed:
        raise
    except (ValueError, RecursionError):
        raise Malformed("its header is not well-formed JSON") from None
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if not _is_unicode(name) or (isinstance(value, str) and not _is_unicode(value)):
            raise Malformed(f"its header holds half a character at {shown(name)}")
        if name in fields:
            raise Malformed(f"its header names {shown(name)} twice")
        fields[name] = value
    return fields


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _count(text: str) -> int:
    return _no_count(text) if text.startswith("-") else int(text)  # parsers differ on -0


def _no_count(text: str) -> NoReturn:
    raise Malformed(f"its header holds {shown(text)}, not a whole number from 0")


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Malformed("its __metadata__ is not a map of strings")


def _entry(name: str, field: Any) -> Entry:
    if not name:
        raise Malformed("a tensor has an empty name")
    if not isinstance(field, dict) or field.keys() != {"dtype", "shape", "data_offsets"}:
        raise Malformed(f"tensor {shown(name)}: needs exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(field["dtype"]) if isinstance(field["dtype"], str) else None
    if dtype is None:
        raise Malformed(f"tensor {shown(name)}: unknown dtype {shown(field['dtype'], 20)}")
    shape, offsets = field["shape"], field["data_offsets"]
    if not _counts(shape) or len(shape) > _MAX_AXES or prod(max(n, 1) for n in shape) > _MAX_SIZE:
        raise Malformed(f"tensor {shown(name)}: absurd shape {shown(shape)}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Malformed(f"tensor {shown(name)}: bad data_offsets {shown(offsets)}")
    needed = prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise Malformed(f"tensor {shown(name)}: {offsets[1] - offsets[0]:,} bytes where {needed:,} are needed")
    return Entry(name, dtype, tuple(shape), *offsets)


def _counts(values: Any) -> bool:
    """Whether `values` is a list of numbers below 2^63 (`_count` let no negative one pass; True is none)."""
    return isinstance(values, list) and all(type(n) is int and n <= _MAX_SIZE for n in values)
