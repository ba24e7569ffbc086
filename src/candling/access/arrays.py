"""What a user's arrays must hold before anything is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from candling.access.npz import Array
from candling.access.wording import bad_input


def inputs_of(x: Any, where: str) -> Tensor:
    """float32 [n, d] or [n, C, H, W]."""
    values = numbers_of(x, "x", "biuf", where)
    if values.ndim not in (2, 3, 4):
        raise bad_input("data", f"{where}x is {list(values.shape)}; it must be [n, d], [n, H, W] or [n, C, H, W]")
    if values.size == 0:
        raise bad_input("data", f"{where}empty: x is {list(values.shape)}")
    with np.errstate(over="ignore"):  # too large for float32 becomes Inf, refused below
        inputs = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    if inputs.ndim == 3:
        inputs = inputs.unsqueeze(1)
    odd = (~torch.isfinite(inputs)).flatten(1).any(1).nonzero().flatten()
    if len(odd):
        raise bad_input("data", f"{where}x has NaN or Inf in {len(odd):,} rows, first in row {int(odd[0])}")
    return inputs


def numbers_of(values: Any, name: str, kinds: str, where: str) -> Array:
    """`values` as an array whose dtype is of one of the kinds."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.dtype == torch.bfloat16 else values  # numpy has none
        array = np.asarray(values)
    except (ValueError, TypeError):
        raise bad_input("data", f"{where}{name} is ragged or holds something other than numbers") from None
    if array.dtype.kind not in kinds:
        need = {
            "y": "integers from 0 (classes, or 0 and 1 of sensors) or real numbers",
            "cells": "truth values",
        }.get(name, "numbers")
        raise bad_input("data", f"{where}{name} is {array.dtype}; it must hold {need}")
    return array


def check_labels(y: Array, count: int, what: str, where: str) -> None:
    """Raises InputError for the first label outside [0, count)."""
    odd = np.flatnonzero((y < 0) | (y >= count))
    if len(odd):
        row = int(odd[0])
        raise bad_input(
            "data", f"{where}label out of range: {int(y[row])} in row {row} ({len(odd):,} such) for {what}"
        )
