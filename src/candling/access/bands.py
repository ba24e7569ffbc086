"""A network of one real output, seen as a classifier of bands of that output.

The bands part the trusted values into about equal numbers. A band's score is linear in the output, with weights
that rise from band to band and offsets such that the highest score changes hands exactly at the edges. So the answer
is the band that the output lies in, scores have gradients where the output has, and it can be had back from them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from candling.access.architecture import Architecture
from candling.access.model import Model
from candling.access.npz import Array

ROWS_EACH = 80
"""Trusted rows for each band; there are three to five: narrower ones tell little from the error of a network."""
_FEWEST, _MOST = 3, 5
_APART = 1e-3
"""Least gap of neighbouring centres, in ranges of all centres: scores of nearer ones are lost in float32."""
_FLOAT32 = 1e-6
"""Least range of all centres, in ranges of the values: a closer crowd beside far values is one to float32."""


@dataclass(frozen=True, eq=False)
class Bands:
    """K bands. Numbers are in units of the value unless said otherwise."""

    edges: tuple[float, ...]
    """K − 1 rising; none is itself a trusted value."""
    centres: tuple[float, ...]
    """K: the median of each band's trusted values."""
    mean: float
    spread: float
    """Standard deviation of the trusted values."""

    def __len__(self) -> int:
        return len(self.centres)

    def label(self, values: Tensor) -> Tensor:
        """int64 [n]: the band that each value [n] lies in."""
        return torch.bucketize(values.double(), torch.tensor(self.edges, dtype=torch.float64))

    def scores(self, output: Tensor) -> Tensor:
        """[n, K] of outputs [n] or [n, 1]."""
        weights, offsets = self._line(output)
        return self.standard(output.reshape(-1))[:, None] * weights + offsets

    def output(self, scores: Tensor) -> Tensor:
        """[n]: the outputs that scores [n, K] are of, in standard deviations from the mean."""
        weights, offsets = self._line(scores)
        return (scores[:, -1] - scores[:, 0] - (offsets[-1] - offsets[0])) / (weights[-1] - weights[0])

    def standard(self, values: Tensor) -> Tensor:
        """In standard deviations from the mean."""
        return (values - self.mean) / self.spread

    def values(self, standard: Tensor) -> Tensor:
        """The other way round."""
        return standard * self.spread + self.mean

    def middle(self, labels: Tensor) -> Tensor:
        """float32 [n]: the centres of the bands of these labels [n]."""
        return torch.tensor(self.centres, device=labels.device)[labels]

    def names(self) -> list[str]:
        """Each band in words, in as many digits as tell its edges apart."""
        digits = next((d for d in range(3, 9) if len({f"{e:.{d}g}" for e in self.edges}) == len(self.edges)), 9)
        ends = [f"{edge:.{digits}g}" for edge in self.edges]
        between = [f"{low} to {high}" for low, high in pairwise(ends)]
        return [f"below {ends[0]}", *between, f"above {ends[-1]}"]

    def _line(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and offsets [K] of the scores. At its centre a usual band leads its neighbours by two nats."""
        centres, edges = (
            self.standard(torch.tensor(each, dtype=torch.float64)) for each in (self.centres, self.edges)
        )
        sharpness = 4 / centres.diff().median().square()
        weights = centres * sharpness
        offsets = torch.cat([torch.zeros(1, dtype=torch.float64), (-edges * weights.diff()).cumsum(0)])
        return weights.to(like), (offsets - offsets.mean()).to(like)


def fit_bands(values: Array) -> Bands | None:
    """Of trusted values [n]; None where all are equal.

    Bands never part equal values, none is empty, and any two are far enough apart to be told by their scores.
    """
    values = values.astype(np.float64)
    different = np.unique(values)
    if len(different) < 2:
        return None
    count = min(max(len(values) // ROWS_EACH, _FEWEST), _MOST)
    if len(different) <= count:
        edges = (different[1:] + different[:-1]) / 2
    else:
        above = np.searchsorted(different, np.quantile(values, np.arange(1, count) / count))
        above = np.unique(above.clip(1, len(different) - 1))
        edges = (different[above] + different[above - 1]) / 2
    centres = _medians(values, edges)
    while (gaps := np.diff(centres)).min() < _APART * gaps.sum():
        edges = np.delete(edges, gaps.argmin())
        centres = _medians(values, edges)
    if np.ptp(centres) < _FLOAT32 * np.ptp(values):
        widest = np.diff(different).argmax()
        edges = (different[[widest]] + different[[widest + 1]]) / 2
        centres = _medians(values, edges)
    return Bands(tuple(edges.tolist()), tuple(centres.tolist()), float(values.mean()), float(values.std()))


def _medians(values: Array, edges: Array) -> Array:
    """The median [K] of each band's values."""
    place = np.searchsorted(edges, values)
    return np.array([np.median(values[place == band]) for band in range(len(edges) + 1)])


def banded(model: Model, bands: Bands) -> Model:
    """The same network and architecture with band scores [n, K] for outputs; names and values of its state stay."""
    architecture = Architecture(
        model.architecture.name, model.architecture.sha256, _Banded(model.architecture, bands)
    )
    module = _read_as(copy.deepcopy(model.module), bands)
    return replace(model, module=module, architecture=architecture)


@dataclass(frozen=True)
class _Banded:
    """Builds the networks of a run."""

    architecture: Architecture
    bands: Bands

    def __call__(self) -> nn.Module:
        return _read_as(self.architecture(), self.bands)


@dataclass(frozen=True)
class _Scores:
    """A forward hook on the whole network, so that no part of it gets another name."""

    bands: Bands

    def __call__(self, module: nn.Module, given: object, output: Tensor) -> Tensor:
        return self.bands.scores(output)


def _read_as(module: nn.Module, bands: Bands) -> nn.Module:
    module.register_forward_hook(_Scores(bands))
    return module
