"""Labelled examples: checked once when they come in, then taken and split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from candling.access.arrays import check_labels, inputs_of, numbers_of
from candling.access.bands import fit_bands
from candling.access.checkpoint import raw_bytes
from candling.access.metric import read_metric
from candling.access.npz import Array, read_arrays
from candling.access.readings import readings
from candling.access.task import CLASSES, Task, best_actions
from candling.access.wording import bad_input, shown

MAX_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with labels, on the CPU. The tensors are its own; never change them in place."""

    x: Tensor
    """float32, images [n, C, H, W] or tabular [n, d], in the units that the network expects."""
    y: Tensor
    """int64 [n], each in [0, classes): given as such, or the band of a value, or the best of some actions; of sensors
    1 where all say yes, else 0."""
    classes: int
    sha256: str
    """Of the content: shapes, x and y. The same from a file and from memory."""
    low: Tensor
    """Least value that a trigger may use: [1, 1, 1] over all images, or [d], one for each feature."""
    high: Tensor
    """Greatest value that a trigger may use, shaped like `low`."""
    sensors: Tensor | None = None
    """bool [n, sensors]: what each sensor says, where y was given so."""
    values: Tensor | None = None
    """float32 [n] or [n, actions]: y as it was given, where it holds no classes."""
    task: Task = CLASSES

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
        values = None if self.values is None else self.values.to(device)
        return replace(self, x=x, y=y, low=low, high=high, sensors=sensors, values=values)

    def take(self, index: Tensor | Array | Sequence[int]) -> Dataset:
        """The rows at `index` (row numbers, or a mask [n]), with the classes and value range of the whole."""
        rows = torch.as_tensor(index)
        rows = rows if rows.dtype == torch.bool else rows.long()
        x, y = self.x[rows], self.y[rows]
        sensors = None if self.sensors is None else self.sensors[rows]
        values = None if self.values is None else self.values[rows]
        given = next((each for each in (sensors, values) if each is not None), y)
        return replace(self, x=x, y=y, sensors=sensors, values=values, sha256=_sha256(x, given))

    @property
    def targets(self) -> Tensor:
        """[n] what networks are trained on: values, where labels are bands of them, else labels."""
        return self.y if self.values is None or self.task.bands is None else self.values

    @property
    def names(self) -> list[str] | None:
        """Of the classes, where these are bands of a value."""
        return self.task.bands.names() if self.task.bands else None

    def wrong(self, answers: Tensor) -> Tensor:
        """bool [n] whether each answer [n] is none of the right ones: of actions, several may be the best."""
        if not self.task.worth or self.values is None:
            return answers != self.y
        return self.values.gather(1, answers[:, None])[:, 0] < self.values.amax(1)

    def measure(self, logits: Tensor) -> float:
        """How good the answers [n, classes] to these rows are: see `Task.measure`."""
        return self.task.measure(logits, self.y, self.values)


def read_npz(
    path: str | Path, *, classes: int | None = None, metric: str | Callable[..., Any] | None = None
) -> Dataset:
    """The arrays `x` and `y` of an `.npz` file.

    x is [n, d], [n, H, W] (becomes [n, 1, H, W]) or [n, C, H, W], of any real number type; it becomes
    float32 and is not rescaled: give it as the network expects it. y is [n] integers from 0 (`classes`
    is the highest plus one unless given); or real numbers, [n] for a network of one real output (labels
    are then bands of y) or [n, A], what each of A actions is worth (labels are then the best actions). For a
    network that foretells sensors y is [n, sensors], integers or truth values: 1 where a sensor says yes, else
    0, of cases that were not tampered with: see `readings`.
    metric: see `read_metric`. Raises InputError with counts or the first offending row, and
    UnsafeInputError for pickled objects, a repeated member or a zip bomb.
    """
    arrays = read_arrays(Path(path), ("x", "y"))
    return _checked(arrays["x"], arrays["y"], classes, metric, f"{shown(path, 50)}: ")


def from_arrays(
    x: Any, y: Any, *, classes: int | None = None, metric: str | Callable[..., Any] | None = None
) -> Dataset:
    """The same from numpy arrays, tensors or nested lists, copied. Raises InputError as `read_npz` does."""
    return _checked(x, y, classes, metric, "")


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


def _checked(x: Any, y: Any, classes: int | None, metric: str | Callable[..., Any] | None, where: str) -> Dataset:
    values, labels = numbers_of(x, "x", "biuf", where), numbers_of(y, "y", "biuf", where)
    labels = labels if labels.ndim == 2 else numbers_of(labels, "y", "iuf", where)
    if values.ndim not in (2, 3, 4) or labels.ndim not in (1, 2):
        raise bad_input(
            "data",
            f"{where}x is {list(values.shape)} and y {list(labels.shape)}; x must be [n, d], [n, H, W] or "
            "[n, C, H, W], y [n], or [n, actions] of real numbers, or of sensors 0 or 1 [n, sensors]",
        )
    if len(values) != len(labels):
        raise bad_input("data", f"{where}x has {len(values):,} rows, y has {len(labels):,}")
    x = inputs_of(values, where)
    real = labels.dtype.kind == "f"
    if labels.ndim == 2 and not real:
        if metric is not None:
            raise bad_input("metric", f"{where}y holds what sensors say: a metric is for classes, values and actions")
        sensors = readings(labels, where)
        y = sensors.all(1).long()
        return Dataset(x, y, 2, _sha256(x, sensors), *_range(x), sensors)
    found = _of_values(x, labels, where) if real else _of_classes(x, labels, classes, where)
    if metric is None:
        return found
    return replace(found, task=replace(found.task, metric=read_metric(metric)))


def _of_classes(x: Tensor, labels: Array, classes: int | None, where: str) -> Dataset:
    count = min(int(labels.max()) + 1, MAX_CLASSES) if classes is None else classes
    check_labels(labels, count, f"{count:,} classes", where)
    y = torch.from_numpy(np.array(labels, dtype=np.int64))
    if len(y.unique()) < 2:
        raise bad_input("data", f"{where}all {len(y):,} labels are {int(y[0])}; at least two classes are needed")
    return Dataset(x, y, count, _sha256(x, y), *_range(x))


def _of_values(x: Tensor, values: Array, where: str) -> Dataset:
    """Bands of real numbers [n] or [n, 1], or the best of the actions that [n, A] says the worths of."""
    with np.errstate(over="ignore"):
        y = torch.from_numpy(np.array(values, dtype=np.float32))
    odd = (~torch.isfinite(y)).flatten(1).any(1) if y.ndim > 1 else ~torch.isfinite(y)
    if odd.any():
        rows = odd.nonzero().flatten()
        raise bad_input("data", f"{where}y has NaN or Inf in {len(rows):,} rows, first in row {int(rows[0])}")
    if y.numel() == 0:
        raise bad_input("data", f"{where}y is {list(y.shape)}: it says nothing of the rows")
    if y.ndim == 2 and y.shape[1] > 1:
        if ((y == 0) | (y == 1)).all():
            what = f"{where}y {list(y.shape)} holds 0.0 and 1.0 alone"
            raise bad_input("data", f"{what}: give integers for what sensors say, or the right actions as y [n]")
        best = best_actions(y)
        if len(best.unique()) < 2:
            raise bad_input("data", f"{where}action {int(best[0])} is the best in all {len(y):,} rows")
        return Dataset(x, best, y.shape[1], _sha256(x, y), *_range(x), values=y, task=Task(worth=True))
    y = y.flatten()
    bands = fit_bands(y.numpy())
    if bands is None:
        raise bad_input("data", f"{where}all {len(y):,} values are {float(y[0]):g}; at least two are needed")
    return Dataset(x, bands.label(y), len(bands), _sha256(x, y), *_range(x), values=y, task=Task(bands=bands))


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest value that a trigger may use."""
    axes = (0,) if x.ndim == 2 else (0, 1, 2, 3)
    low, high = x.amin(axes), x.amax(axes)
    if x.ndim == 4:
        low, high = low.view(1, 1, 1), high.view(1, 1, 1)
    return low, high


def _sha256(x: Tensor, y: Tensor) -> str:
    digest = hashlib.sha256(json.dumps([list(x.shape), list(y.shape)]).encode())
    digest.update(raw_bytes(x))
    digest.update(raw_bytes(y))
    return digest.hexdigest()
