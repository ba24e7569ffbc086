"""Heat maps over layers: a column for each token or head, the first layer at the bottom, a number in every cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from candling.evidence.explanation import Place
from candling.report import numerals
from candling.report.tokens import Chip, chip, marked

COLUMNS = 400
LAYERS = 120
"""Most columns and layers that are shown."""

NUMBERED = 16
"""Layers up to which cells are high enough for a number."""

_SHOWN_FROM = 0.05
_STEPS = 10


@dataclass(frozen=True)
class Cell:
    kind: str
    """Class of its colour: `w3` for 30 % of the way, `c3` for as much the other way."""
    shown: str
    title: str


@dataclass(frozen=True)
class Column:
    cells: list[Cell]
    """The last layer first, as they stand on the page."""
    chip: Chip | None
    """A token, where the column is one."""
    instead: Chip | None
    """What stands there in the corrupt prompts, where they differ."""
    label: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    layers: list[str]
    """The last first."""
    columns: list[Column]
    columns_left: int
    layers_left: int
    numbered: bool


def kind_of(share: float) -> str:
    """The class of a colour: eleven steps either way, `none` where there is no such part."""
    if not math.isfinite(share):
        return "none"
    step = round(_STEPS * min(1.0, abs(share)))
    return f"{'c' if share < 0 and step else 'w'}{step}"


def over_tokens(values: NDArray[Any], places: Sequence[Place], skipped: int) -> HeatMap:
    """values [layers, positions] as shares of the gap; places: the positions, `skipped` of them to the left."""

    def column(at: int, place: Place) -> Column:
        name = f"position {at + skipped}, {marked(place.clean)}"
        others = f"; {place.tokens} different tokens here" if place.tokens > 1 else ""
        instead = None if place.same else chip(place.corrupt)
        title = name + others if place.same else f"{name}, {marked(place.corrupt)} in the corrupt prompt{others}"
        return Column(_cells(values, at, name), chip(place.clean), instead, "", title)

    fitting = list(enumerate(places[: min(COLUMNS, values.shape[1])]))
    return _map(values, [column(at, place) for at, place in fitting])


def over_heads(values: NDArray[Any]) -> HeatMap:
    """values [layers, heads] as shares of the gap, NaN where a layer has fewer."""
    shown = range(min(COLUMNS, values.shape[1]))
    return _map(values, [Column(_cells(values, at, f"head {at}"), None, None, str(at), f"head {at}") for at in shown])


def _map(values: NDArray[Any], columns: list[Column]) -> HeatMap:
    layers, width = values.shape
    shown = min(layers, LAYERS)
    labels = [str(layer) for layer in reversed(range(shown))]
    return HeatMap(labels, columns, width - len(columns), layers - shown, shown <= NUMBERED)


def _cells(values: NDArray[Any], at: int, name: str) -> list[Cell]:
    cells = []
    for layer in reversed(range(min(len(values), LAYERS))):
        share = float(values[layer, at])
        if not math.isfinite(share):
            cells.append(Cell("none", "", f"layer {layer} has no {name}"))
            continue
        text = f"{100 * share:.0f}".replace("-", "−") if abs(share) >= _SHOWN_FROM else ""
        cells.append(Cell(kind_of(share), text, f"layer {layer}, {name}: {numerals.percent(share)}"))
    return cells
