"""What `solve` works on: a network, unlabelled inputs, and, where somebody has it, the truth to compare with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.access import Model, load
from candling.access.npz import read_arrays
from candling.access.unlabelled import Unlabelled, array_names, fitted, read_labels, read_unlabelled
from candling.errors import InputError
from candling.runs.fingerprint import fingerprint

Labels = NDArray[np.int64]
_TRAINING = "x_training"


@dataclass(frozen=True, eq=False)
class Problem:
    """Only `model` and `data` are used to find the program; the rest is compared with it in the end."""

    model: Model
    data: Unlabelled
    """Not what the network was trained on."""
    trained_on: Unlabelled | None = None
    truth: Labels | None = None
    """[n] of `data`."""
    truth_trained_on: Labels | None = None

    def identity(self) -> dict[str, str]:
        """What decides the results, as `open_run` wants it."""
        return {
            "weights": self.model.sha256,
            "architecture": self.model.architecture.sha256,
            "data": self.data.sha256,
            "trained on": self.trained_on.sha256 if self.trained_on else "not given",
            "truth": _hash(self.truth),
            "truth trained on": _hash(self.truth_trained_on),
            "workflow": "solve",
        }


def _hash(labels: Labels | None) -> str:
    return "not given" if labels is None else fingerprint(labels)


def make_problem(
    model: Model,
    data: Unlabelled,
    *,
    trained_on: Unlabelled | None = None,
    truth: Any = None,
    truth_trained_on: Any = None,
    concepts: Any = None,
) -> Problem:
    """With inputs in the type that the network takes, and without those that it was trained on.

    Raises InputError where the network does not take them or too few are left.
    """
    if concepts is not None:
        data = with_concepts(data, concepts)
    labels = None if truth is None else np.asarray(truth, dtype=np.int64)
    if trained_on is not None:
        known = {row.numpy().tobytes() for row in trained_on.x}
        new = np.array([row.numpy().tobytes() not in known for row in data.x])
        if new.sum() < 20:
            raise InputError(
                "data", f"{new.sum()} inputs are left that the network was not trained on; give 20 or more"
            )
        data, labels = data.take(np.flatnonzero(new)), None if labels is None else labels[new]
        trained_on = replace(fitted(model.module, trained_on), pool=data.exemplars)
    kept = None if truth_trained_on is None else np.asarray(truth_trained_on, dtype=np.int64)
    return Problem(model, fitted(model.module, data), trained_on, labels, kept)


def with_concepts(data: Unlabelled, columns: Any) -> Unlabelled:
    """Whole numbers [n] or [n, k] beside images. Raises InputError where they do not fit."""
    found = np.asarray(columns)
    found = found[:, None] if found.ndim == 1 else found
    if data.kind != "images" or found.ndim != 2 or len(found) != len(data) or found.dtype.kind not in "biu":
        what = f"concepts are {list(found.shape)} {found.dtype}"
        raise InputError("concepts", f"{what}; give whole numbers [{len(data)}] or [{len(data)}, k] beside images")
    return replace(data, concepts=found.astype(np.int64))


def read_concepts(path: str) -> NDArray[Any]:
    """All arrays of an `.npz` file as columns, in the order of their names."""
    names = array_names(path)
    arrays = read_arrays(Path(path), names)
    columns = [arrays[name].reshape(len(arrays[name]), -1) for name in sorted(names)]
    if len({len(column) for column in columns}) != 1:
        raise InputError("concepts", f"{Path(path).name}: columns differ in length")
    return np.concatenate(columns, axis=1)


def open_problem(
    model: str, weights: str | None, data: str, truth: str | None, concepts: str | None = None
) -> Problem:
    """From files: `net.py:build` with weights; `x` of the data; `y` of the truth, row for row.

    Either file may hold `x_training`, what the network was trained on, and the truth `y_training`.
    """
    if weights is None:
        raise InputError("usage", f"{model} needs --weights FILE.safetensors")
    inputs = read_unlabelled(data)
    holder = next((file for file in (data, truth) if file and _TRAINING in array_names(file)), None)
    seen = read_unlabelled(holder, _TRAINING) if holder else None
    labels = read_labels(truth, "y", len(inputs)) if truth else None
    of_seen = None
    if truth is not None and seen is not None and "y_training" in array_names(truth):
        of_seen = read_labels(truth, "y_training", len(seen))
    columns = read_concepts(concepts) if concepts else None
    opened = load(model, weights=Path(weights))
    return make_problem(opened, inputs, trained_on=seen, truth=labels, truth_trained_on=of_seen, concepts=columns)
