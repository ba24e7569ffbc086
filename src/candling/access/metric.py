"""A user's own measure of how good outputs are: `FILE.py:FUNCTION` or `package.module:FUNCTION`, higher is better."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from candling.access.source import Source, blaming, importing_from, source_of
from candling.access.wording import bad_input, shown


@dataclass(frozen=True)
class Metric:
    """(outputs [n, ...], y [n, ...]) → a number for each row [n], or one. Pickles to worker processes."""

    name: str
    sha256: str
    """Of the source file (files that it imports are not covered) or of the function's code."""
    source: Source | Callable[..., Any] = field(compare=False)

    @property
    def fingerprint(self) -> object:
        """What decides its values, wherever its file lies."""
        return self.name.rpartition("/")[2], self.sha256

    def __call__(self, outputs: Tensor, y: Tensor) -> float:
        """The mean over rows. Raises InputError where it raises, or gives no finite number a row, nor one."""
        found = self._call(outputs.detach().cpu(), y.detach().cpu())
        try:
            values = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float64)
        except (TypeError, ValueError):
            raise self._fault(f"gives {type(found).__name__}, not a number for each row, nor one") from None
        if values.shape not in ((), (len(y),)):
            raise self._fault(f"gives shape {list(values.shape)} for {len(y):,} rows: give [{len(y)}] or one number")
        if not np.isfinite(values).all():
            odd = np.flatnonzero(~np.isfinite(values.reshape(-1)))
            raise self._fault(f"gives NaN or Inf for {len(odd):,} of {values.size:,} rows, first in row {odd[0]}")
        return float(values.mean())

    def _call(self, outputs: Tensor, y: Tensor) -> Any:
        what = f"{shown(self.name, 60)} on {list(outputs.shape)} outputs"
        if not isinstance(self.source, Source):
            with blaming("metric", what), torch.no_grad():
                return self.source(outputs, y)
        function, sha256 = self.source.load()
        if sha256 != self.sha256:
            raise self._fault("changed since it was loaded")
        with importing_from(self.source.folder), blaming("metric", what), torch.no_grad():
            return function(outputs, y)

    def _fault(self, what: str) -> Exception:
        return bad_input("metric", f"{shown(self.name, 60)} {what}")


def read_metric(given: str | Callable[..., Any]) -> Metric:
    """From a spec, whose file is run as an architecture's is, or from a function. Raises InputError."""
    if not isinstance(given, str):
        name, code = getattr(given, "__qualname__", type(given).__name__), getattr(given, "__code__", None)
        content = repr((code.co_code, code.co_consts, code.co_names)) if code else name
        return Metric(shown(name, 60), hashlib.sha256(content.encode()).hexdigest(), given)
    source = source_of(given, "metric", "metric")
    _, sha256 = source.load()
    return Metric(given, sha256, source)
