"""What formulas over images [n, H, W] call, and the same formulas for many exemplars or boxes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

Image = Any
"""A float array; numpy's own types are lost in slices."""
Many = Sequence[tuple[int, ...]]


def cosine(x: Image, e: Image) -> Image:
    """Of the angle between an image and another; 0 for a blank one."""
    length = np.sqrt((x**2).sum((1, 2)) * (e**2).sum())
    return (x * e).sum((1, 2)) / np.where(length > 0, length, 1.0)


def centre(x: Image, axis: int) -> Image:
    """The mean place of the ink along an axis; the middle of a blank image."""
    place = np.arange(x.shape[axis])
    ink = x.sum(3 - axis)
    total = ink.sum(1)
    return np.where(total > 0, ink @ place / np.where(total > 0, total, 1.0), place.mean())


def scatter(x: Image, axis: int) -> Image:
    """The variance of the ink's place along an axis; 0 for a blank image."""
    place = np.arange(x.shape[axis])
    ink = x.sum(3 - axis)
    total = np.where(ink.sum(1) > 0, ink.sum(1), 1.0)
    return ink @ place**2 / total - (ink @ place / total) ** 2


def _flat(inputs: Mapping[str, Image], params: Many) -> tuple[Image, Image]:
    """Exemplars [f, d] and images [n, d]."""
    x = inputs["x"]
    chosen = np.stack([inputs["e"][row] for (row,) in params])
    return chosen.reshape(len(chosen), -1), x.reshape(len(x), -1)


def dots(inputs: Mapping[str, Image], params: Many) -> Image:
    chosen, x = _flat(inputs, params)
    return chosen @ x.T


def signed(inputs: Mapping[str, Image], params: Many) -> Image:
    chosen, x = _flat(inputs, params)
    return (2 * chosen - 1) @ x.T


def l1s(inputs: Mapping[str, Image], params: Many) -> Image:
    return cdist(*_flat(inputs, params), "cityblock")


def l2s(inputs: Mapping[str, Image], params: Many) -> Image:
    return cdist(*_flat(inputs, params), "sqeuclidean")


def cosines(inputs: Mapping[str, Image], params: Many) -> Image:
    chosen, x = _flat(inputs, params)
    lengths = np.sqrt((chosen**2).sum(1)[:, None] * (x**2).sum(1))
    return chosen @ x.T / np.where(lengths > 0, lengths, 1.0)


def _integral(x: Image) -> Image:
    """[n, H + 1, W + 1] ink above and to the left (Crow 1984)."""
    padded = np.zeros((len(x), x.shape[1] + 1, x.shape[2] + 1))
    padded[:, 1:, 1:] = x.cumsum(1).cumsum(2)
    return padded


def _boxes(integral: Image, boxes: Image) -> Image:
    """[f, n] ink of boxes (top, bottom, left, right) [f, 4]."""
    top, bottom, left, right = boxes.T
    corners = (integral[:, bottom, right], integral[:, top, right], integral[:, bottom, left], integral[:, top, left])
    return (corners[0] - corners[1] - corners[2] + corners[3]).T


def inks(inputs: Mapping[str, Image], params: Many) -> Image:
    return _boxes(_integral(inputs["x"]), np.asarray(params))


def ink_less_ink(inputs: Mapping[str, Image], params: Many) -> Image:
    integral, boxes = _integral(inputs["x"]), np.asarray(params)
    return _boxes(integral, boxes[:, :4]) - _boxes(integral, boxes[:, 4:])
