"""Labelled examples: checked once when they come in, then taken, split and fitted to a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from candling.access.checkpoint import raw_bytes
from candling.access.modes import undisturbed
from candling.access.npz import Array, read_arrays
from candling.access.readings import readings
from candling.access.wording import bad_input, shown

MAX_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with labels, on the CPU. The tensors are its own; never change them in place."""

    x: Tensor
    """float32, images [n, C, H, W] or tabular [n, d], in the units that the network expects."""
    y: Tensor
    """int64 [n], each in [0, classes). Of sensors: 1 where all say yes, else 0."""
    classes: int
    sha256: str
    """Of the content: shapes, x and y. The same from a file and from memory."""
    low: Tensor
    """Least value that a trigger may use: [1, 1, 1] over all images, or [d], one for each feature."""
    high: Tensor
    """Greatest value that a trigger may use, shaped like `low`."""
    sensors: Tensor | None = None
    """bool [n, sensors]: what each sensor says, where y was given so."""

    @property
    def kind(self) -> Literal["image", "tabular"]:
        return "image" if self.x.ndim == 4 else "tabular"

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: str) -> Dataset:
        """The same rows on another device."""
        moved = (t.to(device) for t in (self.x, self.y, self.low, self.high))
        x, y, low, high = moved
        sensors = None if self.sensors is None else self.sensors.to(device)
        return Dataset(x, y, self.classes, self.sha256, low, high, sensors)

    def take(self, index: Tensor | Array | Sequence[int]) -> Dataset:
        """The rows at `index` (row numbers, or a mask [n]), with the classes and value range of the whole."""
        rows = torch.as_tensor(index)
        rows = rows if rows.dtype == torch.bool else rows.long()
        x, y = self.x[rows], self.y[rows]
        sensors = None if self.sensors is None else self.sensors[rows]
        sha256 = _sha256(x, y if sensors is None else sensors)
        return Dataset(x, y, self.classes, sha256, self.low, self.high, sensors)


def read_npz(path: str | Path, *, classes: int | None = None) -> Dataset:
    """The arrays `x` and `y` of an `.npz` file.

    x is [n, d], [n, H, W] (becomes [n, 1, H, W]) or [n, C, H, W], of any real number type; it becomes
    float32 and is not rescaled: give it as the network expects it. y is [n] integers from 0; `classes`
    is the highest plus one unless given. For a network that foretells sensors y is [n, sensors], 1 where a
    sensor says yes, else 0, of cases that were not tampered with: see `readings`. Raises InputError with counts
    or the first offending row, and
    UnsafeInputError for pickled objects, a repeated member or a zip bomb.
    """
    arrays = read_arrays(Path(path), ("x", "y"))
    return _checked(arrays["x"], arrays["y"], classes, f"{shown(path, 50)}: ")


def from_arrays(x: Any, y: Any, *, classes: int | None = None) -> Dataset:
    """The same from numpy arrays, tensors or nested lists, copied. Raises InputError as `read_npz` does."""
    return _checked(x, y, classes, "")


def check_fits(dataset: Dataset, module: nn.Module) -> int:
    """How many classes the network tells apart, from one small pass over the first rows.

    Raises InputError where the network cannot take such rows, gives something other than float logits
    [n, classes], or has no output for a label (naming the first offending row). Of sensors: two, yes and no;
    raises where the network does not have one output for each.
    """
    x = dataset.x[:4]
    try:
        with undisturbed(module):
            output = module(x)
    except Exception as fault:
        what = f"{type(fault).__name__}: {shown(fault, 80)}"
        raise bad_input("data", f"the network fails on x of shape {list(x.shape)}: {what}") from fault
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise bad_input("data", f"the network gives {kind}, not float logits [n, classes]")
    if output.ndim != 2 or len(output) != len(x):
        raise bad_input("data", f"the network gives {list(output.shape)} for {len(x)} rows, not [n, classes]")
    if dataset.sensors is not None:
        if output.shape[1] != dataset.sensors.shape[1]:
            what = f"the network has {output.shape[1]} outputs, y {dataset.sensors.shape[1]} sensors"
            raise bad_input("data", f"{what}: give one column of y for each output")
        return dataset.classes
    _check_labels(dataset.y.cpu().numpy(), output.shape[1], f"the network's {output.shape[1]} outputs", "")
    return output.shape[1]


def read_inputs(path: str | Path) -> Tensor:
    """The array `x` of an `.npz` file, as `read_npz` reads it; labels, if there are any, are not looked at."""
    return _inputs(read_arrays(Path(path), ("x",))["x"], f"{shown(path, 50)}: ")


def check_inputs(x: Any, trusted: Dataset) -> Tensor:
    """Untrusted inputs [m, ...] beside trusted ones, as float32 on the CPU.

    Raises InputError where they have another shape, or where rows are exact copies of trusted ones.
    """
    inputs = _inputs(x, "untrusted: ")
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
    mask = _numbers(cells, "cells", "b", where)
    wanted = tuple(shape)
    if mask.shape not in (wanted, wanted[1:] if len(wanted) == 3 else wanted):
        raise bad_input(
            "legitimate", f"{where}cells is {list(mask.shape)}, an input {list(wanted)}: give one of each"
        )
    if mask.all() or not mask.any():
        what = "every cell is" if mask.all() else "no cell is"
        raise bad_input("legitimate", f"{where}{what} legitimate: nothing is left to tell apart")
    return torch.from_numpy(np.array(mask)).expand(wanted).clone()


def split(
    dataset: Dataset, *, salt: str, parts: Sequence[str] = ("control", "search", "confirm")
) -> dict[str, Dataset]:
    """Each row to one part, by the SHA-256 of `salt` and the row's x, so equal rows stay together.

    The parts come out about equal, in the row order of the whole, and depend on nothing but the rows
    and the salt. Raises InputError where a part gets no row.
    """
    rows = (dataset.x.cpu() + 0.0).flatten(1).numpy()  # -0.0 and 0.0 are equal
    prefix = hashlib.sha256(salt.encode())
    place = np.empty(len(rows), dtype=np.int64)
    for number, row in enumerate(rows):
        digest = prefix.copy()
        digest.update(row.tobytes())
        place[number] = int.from_bytes(digest.digest()[:8], "big") % len(parts)
    thirds = {name: dataset.take(np.flatnonzero(place == number)) for number, name in enumerate(parts)}
    if not all(map(len, thirds.values())):
        counts = ", ".join(f"{name} {len(part)}" for name, part in thirds.items())
        raise bad_input("data", f"too few different rows: {len(rows)} give {counts}")
    return thirds


def _checked(x: Any, y: Any, classes: int | None, where: str) -> Dataset:
    values, labels = _numbers(x, "x", "biuf", where), _numbers(y, "y", "biu", where)
    labels = labels if labels.ndim == 2 else _numbers(labels, "y", "iu", where)
    if values.ndim not in (2, 3, 4) or labels.ndim not in (1, 2):
        raise bad_input(
            "data",
            f"{where}x is {list(values.shape)} and y {list(labels.shape)}; "
            "x must be [n, d], [n, H, W] or [n, C, H, W], y integers [n], or of sensors 0 or 1 [n, sensors]",
        )
    if len(values) != len(labels):
        raise bad_input("data", f"{where}x has {len(values):,} rows, y has {len(labels):,}")
    x = _inputs(values, where)
    if labels.ndim == 2:
        sensors = readings(labels, where)
        y = sensors.all(1).long()
        return Dataset(x, y, 2, _sha256(x, sensors), *_range(x), sensors)
    count = min(int(labels.max()) + 1, MAX_CLASSES) if classes is None else classes
    _check_labels(labels, count, f"{count:,} classes", where)
    y = torch.from_numpy(np.array(labels, dtype=np.int64))
    if len(y.unique()) < 2:
        raise bad_input("data", f"{where}all {len(y):,} labels are {int(y[0])}; at least two classes are needed")
    return Dataset(x, y, count, _sha256(x, y), *_range(x))


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest value that a trigger may use."""
    axes = (0,) if x.ndim == 2 else (0, 1, 2, 3)
    low, high = x.amin(axes), x.amax(axes)
    if x.ndim == 4:
        low, high = low.view(1, 1, 1), high.view(1, 1, 1)
    return low, high


def _inputs(x: Any, where: str) -> Tensor:
    """float32 [n, d] or [n, C, H, W]."""
    values = _numbers(x, "x", "biuf", where)
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


def _numbers(values: Any, name: str, kinds: str, where: str) -> Array:
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
            "y": "integers from 0 (classes, or 0 and 1 of sensors; no regression yet)",
            "cells": "truth values",
        }.get(name, "numbers")
        raise bad_input("data", f"{where}{name} is {array.dtype}; it must hold {need}")
    return array


def _check_labels(y: Array, count: int, what: str, where: str) -> None:
    """Raises InputError for the first label outside [0, count)."""
    odd = np.flatnonzero((y < 0) | (y >= count))
    if len(odd):
        row = int(odd[0])
        raise bad_input(
            "data", f"{where}label out of range: {int(y[row])} in row {row} ({len(odd):,} such) for {what}"
        )


def _sha256(x: Tensor, y: Tensor) -> str:
    digest = hashlib.sha256(json.dumps([list(x.shape), list(y.shape)]).encode())
    digest.update(raw_bytes(x))
    digest.update(raw_bytes(y))
    return digest.hexdigest()
