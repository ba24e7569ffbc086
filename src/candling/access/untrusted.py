"""Inputs that nobody vouches for, and which of their cells are legitimate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from candling.access.arrays import inputs_of, numbers_of
from candling.access.data import Dataset
from candling.access.npz import read_arrays
from candling.access.wording import bad_input, shown


def read_inputs(path: str | Path) -> Tensor:
    """The array `x` of an `.npz` file, as `read_npz` reads it; labels, if there are any, are not looked at."""
    return inputs_of(read_arrays(Path(path), ("x",))["x"], f"{shown(path, 50)}: ")


def check_inputs(x: Any, trusted: Dataset) -> Tensor:
    """Untrusted inputs [m, ...] beside trusted ones, as float32 on the CPU.

    Raises InputError where they have another shape, or where rows are exact copies of trusted ones.
    """
    inputs = inputs_of(x, "untrusted: ")
    if inputs.shape[1:] != trusted.x.shape[1:]:
        raise bad_input(
            "untrusted", f"untrusted inputs are {list(inputs.shape[1:])}, trusted ones {list(trusted.x.shape[1:])}"
        )
    known = {row.tobytes() for row in (trusted.x.cpu() + 0.0).numpy()}
    copies = [row for row, one in enumerate((inputs + 0.0).numpy()) if one.tobytes() in known]
    if copies:
        many = "inputs are" if len(copies) > 1 else "input is"
        what = f"{len(copies):,} untrusted {many} also among the trusted ones"
        raise bad_input("untrusted", f"{what}, first in row {copies[0]}")
    return inputs


def read_legitimate(path: str | Path, shape: Sequence[int]) -> Tensor:
    """The array `cells` of an `.npz` file: bool, shaped like one input [*shape] (or [H, W] for all channels).

    Raises InputError where it has another shape or type, or is the same everywhere; as `read_npz` for the file.
    """
    return check_legitimate(read_arrays(Path(path), ("cells",))["cells"], shape, f"{shown(path, 50)}: ")


def check_legitimate(cells: Any, shape: Sequence[int], where: str = "") -> Tensor:
    """The same from an array."""
    mask = numbers_of(cells, "cells", "b", where)
    wanted = tuple(shape)
    if mask.shape not in (wanted, wanted[1:] if len(wanted) == 3 else wanted):
        raise bad_input(
            "legitimate", f"{where}cells is {list(mask.shape)}, an input {list(wanted)}: give one of each"
        )
    if mask.all() or not mask.any():
        what = "every cell is" if mask.all() else "no cell is"
        raise bad_input("legitimate", f"{where}{what} legitimate: nothing is left to tell apart")
    return torch.from_numpy(np.array(mask)).expand(wanted).clone()
