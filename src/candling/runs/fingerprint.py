"""What a job is, as a hash: the same for the same work in another process, folder or week."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from candling._version import VERSION


def keys(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[str]:
    """One SHA-256 for each job: of its function's name, its arguments by content, and the versions in use.

    Equal jobs count themselves, so that no two keys are equal. Raises TypeError for an argument without
    content that can be told: a network, a closure, an open file.
    """
    reader = _Reader()
    head = _digest("job", VERSION, torch.__version__, reader.read(function))
    found: dict[str, int] = {}
    result = []
    for job in jobs:
        content = reader.read(job)
        found[content] = found.get(content, 0) + 1
        result.append(_digest("key", head, content, str(found[content])))
    return result


def fingerprint(value: object) -> str:
    """SHA-256 of a value's content, in hex."""
    return _Reader().read(value)


def _digest(*parts: str | bytes) -> str:
    """Each part with its length, so that no two lists of parts are one text."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


class _Reader:
    """Reads every large thing once: the jobs of a stage share their data.

    Remembers by address, and keeps what it has read, so that no address is used again meanwhile.
    """

    def __init__(self) -> None:
        self._read: dict[int, tuple[object, str]] = {}

    def read(self, value: Any) -> str:
        if id(value) in self._read:
            return self._read[id(value)][1]
        digest = self._digest(value)
        if isinstance(value, Tensor | np.ndarray) or dataclasses.is_dataclass(value):
            self._read[id(value)] = (value, digest)
        return digest

    def _digest(self, value: Any) -> str:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return _digest(kind.__name__, str(value))
        if kind is float:
            return _digest("float", struct.pack("<d", value))
        if kind is bytes:
            return _digest("bytes", value)
        if kind in (list, tuple):
            return _digest(kind.__name__, *map(self.read, value))
        if kind is dict:  # in its order, which a job may see
            return _digest("dict", *(self.read(part) for pair in value.items() for part in pair))
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
            return _digest("array", value.dtype.str, json.dumps(value.shape), value.tobytes())
        if isinstance(value, PurePath):
            return _digest("path", value.name)  # named by content; its folder may have moved
        return self._object(value)

    def _tensor(self, value: Tensor) -> str:
        # A copy: a view as bytes needs strides that `contiguous` does not promise for one element or none.
        copy = value.detach().cpu().clone(memory_format=torch.contiguous_format).flatten()
        data = copy.view(torch.uint8).numpy()
        return _digest("tensor", str(value.dtype), json.dumps(list(value.shape)), value.device.type, data.tobytes())

    def _object(self, value: Any) -> str:
        """`fingerprint`, what the object says it is; else its fields; else a function's name.

        Fields that do not count in a comparison do not count here.
        """
        kind = type(value)
        name = f"{kind.__module__}:{kind.__qualname__}"
        if hasattr(kind, "fingerprint"):
            return _digest("object", name, self.read(value.fingerprint))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [field for field in dataclasses.fields(value) if field.compare]
            return _digest("object", name, *(d for f in fields for d in (f.name, self.read(getattr(value, f.name)))))
        if isinstance(value, BaseModel):
            return _digest("object", name, *(d for n in kind.model_fields for d in (n, self.read(getattr(value, n)))))
        if isinstance(value, partial):
            return _digest("partial", self.read(value.func), self.read(value.args), self.read(value.keywords))
        named = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
        if not callable(value) or "<" in named or named.startswith(":") or isinstance(value, torch.nn.Module):
            raise TypeError(f"a job's argument of type {name} has no content that can be told")
        if getattr(value, "__self__", None) is not None and not isinstance(value.__self__, type(json)):
            raise TypeError(f"{named} belongs to an object: give a function")
        return _digest("function", named)
