"""An explanation on one screen of a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from candling.evidence.explanation import Explanation
from candling.report.explain import edge_lines, maps, summary
from candling.report.heat_map import HeatMap
from candling.report.text import clip, terminal_safe
from candling.report.tokens import marked

_LAYERS, _EDGES = 12, 8
_SHADES = " ░▒▓█"


def show(said: Explanation, arrays: Mapping[str, NDArray[Any]], console: Console) -> None:
    """The result, a small heat map over the tokens that matter, the strongest edges, and how far to trust it."""
    first, *rest = summary(said)
    console.print(Text(f"\n{first}", style="bold"))
    for line in rest[:1]:
        console.print(Text(line))
    residual, _ = maps(said, arrays)
    if residual is not None and len(residual.layers) <= _LAYERS:
        mean = f", mean of {said.maps[0].pairs:,} pairs" if said.maps else ""
        told = "Percent of it that comes back where the clean stream alone is put in, by layer and token"
        console.print(Text(f"\n{told}{mean}:", style="dim"))
        console.print(_heat(residual, arrays["residual"], said, console.width))
    table = Table("from", "to", "lost if cut", "estimate", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for edge in edge_lines(said.circuit)[:_EDGES]:
        cells = (edge.sender, edge.receiver, edge.effect, edge.score)
        table.add_row(*(Text(clip(terminal_safe(cell), 40)) for cell in cells))
    console.print(table)
    left = said.circuit.edges - min(_EDGES, len(said.circuit.rows))
    if left > 0:
        console.print(Text(f"and {left:,} weaker edges", style="dim"))
    for line in rest[1:]:
        console.print(Text(f"\n{line}"))


def _heat(residual: HeatMap, values: NDArray[Any], said: Explanation, width: int) -> Table:
    """The columns with the largest effects, in the order of the text."""
    room = max(1, (width - 10) // 9)
    strongest = np.argsort(-np.nan_to_num(np.abs(values)).max(0), kind="stable")[:room]
    kept = sorted(int(at) for at in strongest if at < len(residual.columns))
    names = [clip(terminal_safe(marked(said.places[at].clean)), 8) for at in kept]
    table = Table("layer", box=None, padding=(0, 1, 0, 0), header_style="dim")
    for name in names:
        table.add_column(Text(name))
    for row, layer in enumerate(residual.layers):
        cells = []
        for at in kept:
            share = float(values[len(residual.layers) - 1 - row, at])
            shade = _SHADES[min(4, int(abs(share) * 5))] if np.isfinite(share) else " "
            cells.append(Text(f"{shade}{shade} {residual.columns[at].cells[row].shown}"))
        table.add_row(layer, *cells)
    return table
