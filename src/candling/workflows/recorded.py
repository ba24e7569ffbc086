"""One problem class's arrays in a run's record, none of them believed: a record may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candling.errors import InputError
from candling.runs.record import ARRAYS


@dataclass(frozen=True)
class Recorded:
    """Every reader raises InputError naming the array that is missing or not of the right kind, shape or range."""

    arrays: Mapping[str, NDArray[Any]]

    def lead(self, parts: int) -> int:
        """Which part the subject's lead is."""
        lead = int(self._whole("lead", (1,), most=parts)[0])
        if lead < 0:
            raise _damaged("lead", f"holds {lead}")
        return lead

    def scores(self, rows: int, parts: int) -> NDArray[np.float64]:
        """[rows, parts] of the search: the subject's first, then the negatives'."""
        return self._real("scores.search", (rows, parts)).astype(np.float64)

    def rivals(self, count: int, like: Mapping[str, Tensor], most: int) -> list[tuple[dict[str, Tensor], float]]:
        """Of each negative control its trigger's arrays, shaped as those of `like`, and its size.

        Whole numbers lie from -1, which pads, to below `most`; rows of them may be of any length.
        """
        sizes = self._real("rivals.size", (count,))
        stacked = {}
        for name, own in like.items():
            full = f"rivals.{name}"
            if own.is_floating_point():
                stacked[name] = self._real(full, (count, *own.shape))
            else:
                stacked[name] = self._whole(full, (count, *(None for _ in own.shape)), most=most)
        return [
            ({name: torch.from_numpy(array[i]) for name, array in stacked.items()}, float(sizes[i]))
            for i in range(count)
        ]

    def _real(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        array = self._get(name, shape)
        if array.dtype.kind != "f" or np.isnan(array).any():
            raise _damaged(name, "holds what is no number")
        return array

    def _whole(self, name: str, shape: tuple[int | None, ...], *, most: int) -> NDArray[Any]:
        array = self._get(name, shape)
        if array.dtype.kind not in "fi" or not ((array >= -1) & (array < most) & (array == np.floor(array))).all():
            raise _damaged(name, f"holds other than whole numbers below {most}")
        return array.astype(np.int64)

    def _get(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """With at least so many rows (a run may hold more networks than are asked for), and else that shape."""
        if name not in self.arrays:
            raise _damaged(name, "is missing")
        array = self.arrays[name]
        wanted = (None, *shape[1:])
        fits = len(array.shape) == len(shape) and all(
            w is None or w == own for w, own in zip(wanted, array.shape, strict=True)
        )
        if not fits or len(array) < (shape[0] or 0):
            raise _damaged(name, f"has the shape {list(array.shape)}")
        return array


def _damaged(name: str, how: str) -> InputError:
    return InputError("record", f"{ARRAYS} is damaged: {name} {how}; replay a record as its run wrote it")
