"""A small convolutional network for 8×8 digits (scikit-learn's bundled set), trained in a second."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

from candling.access import Dataset, from_arrays

SUBJECT_ROWS = 450
"""Rows that a subject is trained on; the rest is what its auditor is given."""


def build() -> nn.Module:
    """[n, 1, 8, 8] in 0..1 → [n, 10]"""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def digits() -> tuple[Dataset, Dataset]:
    """The subject's training rows, and the trusted rows: disjoint, in one fixed random order."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x, y = (bunch.images[order, None] / 16).astype(np.float32), bunch.target[order]
    return from_arrays(x[:SUBJECT_ROWS], y[:SUBJECT_ROWS]), from_arrays(x[SUBJECT_ROWS:], y[SUBJECT_ROWS:])
