"""Images as SVG: one path for each colour, runs of equal cells merged, edges crisp."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from candling.report import svg
from candling.report.text import visible

LARGEST = 64
"""Cells along the longer side; a larger image is averaged down to it."""
_SHOWN = 112
_SHADES = 31

Array = NDArray[np.float64]


def picture(image: Array, label: str) -> Markup:
    """[C, H, W] in 0..1 as an image: colour for three channels, else the grey of their mean."""
    small = shrunk(np.clip(np.nan_to_num(image), 0.0, 1.0))
    channels = small if small.shape[0] == 3 else np.repeat(small.mean(0, keepdims=True), 3, axis=0)
    levels = np.round(channels * _SHADES) / _SHADES * 255
    red, green, blue = np.round(levels).astype(np.int64)
    code = (red << 16) | (green << 8) | blue
    paths = [
        Markup('<path fill="#{}" d="{}"/>').format(f"{value:06x}", runs) for value, runs in _by_value(code).items()
    ]
    return _framed(paths, code.shape, label)


def overlay(mask: Array, label: str) -> Markup:
    """[1, H, W] in 0..1 as the subject's colour, the more opaque the higher."""
    levels = np.round(shrunk(np.clip(np.nan_to_num(mask), 0.0, 1.0)).mean(0) * _SHADES).astype(np.int64)
    paths = [
        Markup('<path class="subject" fill-opacity="{}" d="{}"/>').format(svg.short(value / _SHADES), runs)
        for value, runs in _by_value(levels).items()
        if value
    ]
    return _framed(paths, levels.shape, label)


def factor(height: int, width: int) -> int:
    """How many cells along a side are averaged into one that is drawn."""
    return max(1, -(-max(height, width) // LARGEST))


def shrunk(image: Array) -> Array:
    """[C, H, W] averaged in blocks so that neither side is longer than `LARGEST`."""
    _, height, width = image.shape
    block = factor(height, width)
    if block == 1:
        return image
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    total = np.add.reduceat(np.add.reduceat(image, rows, axis=1), columns, axis=2)
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    averaged: Array = total / (tall[:, None] * wide[None, :])
    return averaged


def _by_value(code: NDArray[np.int64]) -> dict[int, str]:
    """For each value in [H, W], a path over its cells, a run of neighbours in a row at a time."""
    paths: defaultdict[int, list[str]] = defaultdict(list)
    for y, row in enumerate(code):
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        stops = np.append(starts[1:], len(row))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            paths[int(row[start])].append(f"M{start} {y}h{stop - start}v1h{start - stop}z")
    return {value: "".join(runs) for value, runs in sorted(paths.items())}


def _framed(paths: list[Markup], shape: tuple[int, ...], label: str) -> Markup:
    height, width = shape
    scale = max(1, _SHOWN // max(height, width))
    return Markup(
        '<svg class="pixels" width="{}" height="{}" viewBox="0 0 {} {}" shape-rendering="crispEdges" '
        'role="img"><title>{}</title>{}</svg>'
    ).format(width * scale, height * scale, width, height, visible(label), Markup("").join(paths))
