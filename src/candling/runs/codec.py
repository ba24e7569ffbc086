"""Results of jobs as bytes and back, without pickle: decoding builds values and the classes that it is given.

A safetensors blob. Its metadata holds one JSON text, the skeleton, in which everything but null, booleans,
whole numbers, finite floats, text and lists is an object with the key `!` that says what it is:

    {"!": "tuple", "of": [..]}      {"!": "dict", "of": [[key, value], ..]}      {"!": "float", "bits": "7ff0.."}
    {"!": "tensor", "at": "0", "on": "cpu"}     {"!": "array", "at": "1"}     {"!": "scalar", "at": "2"}
    {"!": "module:Class", "fields": {name: value}}
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

Classes = Mapping[str, type]
"""What may be built: `module:Class` to class."""

_METADATA_KEY = "candling"


class Undecodable(ValueError):
    """Bytes that are no encoded value, or one of a class that is not allowed."""


def classes_in(hint: Any) -> dict[str, type]:
    """The dataclasses and pydantic records that a value of this type may hold, by name.

    hint: a type, or a function, whose return annotation counts. Raises TypeError where it has none.
    """
    while isinstance(hint, partial):
        hint = hint.func
    if isinstance(hint, types.FunctionType | types.MethodType):
        hints = typing.get_type_hints(hint)
        if "return" not in hints:
            raise TypeError(f"{hint.__qualname__} does not say what it returns")
        hint = hints["return"]
    found: dict[str, type] = {}
    _collect(hint, found)
    return found


def _collect(hint: Any, found: dict[str, type]) -> None:
    for argument in typing.get_args(hint):
        _collect(argument, found)
    if not _is_structure(hint) or _name(hint) in found:
        return
    found[_name(hint)] = hint
    for each in typing.get_type_hints(hint).values():
        _collect(each, found)


def _is_structure(kind: Any) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel))


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


# ---- to bytes ----


def encode(value: object, classes: Classes) -> bytes:
    """The same value gives the same bytes. Raises TypeError for what cannot come back as it was."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_encoded(value, classes, tensors), allow_nan=False, separators=(",", ":"))
    return save(tensors, {_METADATA_KEY: skeleton})


def _encoded(value: Any, classes: Classes, tensors: dict[str, Tensor]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"!": "float", "bits": struct.pack(">d", value).hex()}
    if kind is list:
        return [_encoded(item, classes, tensors) for item in value]
    if kind is tuple:
        return {"!": "tuple", "of": [_encoded(item, classes, tensors) for item in value]}
    if kind is dict:
        pairs = [[_encoded(key, classes, tensors), _encoded(item, classes, tensors)] for key, item in value.items()]
        return {"!": "dict", "of": pairs}
    if isinstance(value, Tensor):
        return {"!": "tensor", "at": _put(_plain(value), tensors), "on": str(value.device)}
    if kind is np.ndarray or isinstance(value, np.generic):
        return {"!": "array" if kind is np.ndarray else "scalar", "at": _put(_of_numbers(value), tensors)}
    if classes.get(_name(kind)) is not kind:
        raise TypeError(f"{_name(kind)} is no part of what this job says it returns")
    return {"!": _name(kind), "fields": {n: _encoded(v, classes, tensors) for n, v in _fields(value).items()}}


def _plain(tensor: Tensor) -> Tensor:
    if type(tensor) is not Tensor or tensor.requires_grad or tensor.layout != torch.strided:
        raise TypeError("only plain dense tensors without gradients can be recorded")
    return tensor.cpu()


def _of_numbers(array: Any) -> Tensor:
    if array.dtype.kind not in "biufc" or not array.dtype.isnative:
        raise TypeError(f"an array of {array.dtype} cannot be recorded")
    return torch.from_numpy(np.array(array, order="C"))


def _put(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    at = str(len(tensors))
    tensors[at] = tensor.clone(memory_format=torch.contiguous_format)  # no two may share memory
    return at


def _fields(value: Any) -> dict[str, object]:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    fields = dataclasses.fields(value)
    if not type(value).__dataclass_params__.frozen or not all(field.init for field in fields):
        raise TypeError(f"{_name(type(value))} is not frozen, or sets fields of its own")
    return {field.name: getattr(value, field.name) for field in fields}


# ---- and back ----

_REFUSALS = (
    *(ValueError, TypeError, LookupError, AttributeError, struct.error),
    RuntimeError,  # of torch, and from too deep a nest
    *(SafetensorError, ValidationError),
)


def decode(blob: bytes, classes: Classes) -> Any:
    """What `encode` was given. Raises Undecodable; no name in the bytes is ever imported or called."""
    try:
        length = int.from_bytes(blob[:8], "little")
        header = json.loads(blob[8 : 8 + length])
        skeleton = json.loads(header["__metadata__"][_METADATA_KEY])
        return _decoded(skeleton, classes, load(blob))
    except _REFUSALS as fault:
        raise Undecodable(f"no encoded value: {fault}") from fault


def _decoded(value: Any, classes: Classes, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, classes, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value["!"]
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple(value, tensors)
    if kind == "tuple":
        return tuple(_decoded(item, classes, tensors) for item in value["of"])
    if kind == "dict":
        return {_decoded(k, classes, tensors): _decoded(v, classes, tensors) for k, v in value["of"]}
    cls = classes[kind]
    fields = {name: _decoded(item, classes, tensors) for name, item in value["fields"].items()}
    if not issubclass(cls, BaseModel):
        return cls(**fields)
    aliases = {name: field.alias or name for name, field in cls.model_fields.items()}
    return cls.model_validate({aliases[name]: item for name, item in fields.items()})


def _float(value: dict[str, str], _: dict[str, Tensor]) -> float:
    return float(struct.unpack(">d", bytes.fromhex(value["bits"]))[0])


_SIMPLE: dict[str, Callable[[dict[str, str], dict[str, Tensor]], Any]] = {
    "float": _float,
    "tensor": lambda value, tensors: tensors[value["at"]].to(value["on"]),
    "array": lambda value, tensors: tensors[value["at"]].numpy(),
    "scalar": lambda value, tensors: tensors[value["at"]].numpy()[()],
}
