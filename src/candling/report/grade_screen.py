"""Cards on one screen of a terminal: the best technique of each exam first."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from candling.evidence.card import Card, Figure, Grades
from candling.report.numerals import number


def show(grades: Grades, console: Console) -> None:
    """A table for each exam; intervals of the figure that techniques are ranked by."""
    for exam in dict.fromkeys(card.exam for card in grades.cards):
        cards = sorted((card for card in grades.cards if card.exam == exam), key=lambda card: -rank(card))
        console.print(Text(f"\n{cards[0].question}: {exam}", style="bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("technique", min_width=22)
        for figure in cards[0].figures:
            table.add_column(figure.measure, no_wrap=figure is cards[0].score)
        table.add_column("s each")
        for card in cards:
            rest = (f"{figure.value:.2f}" for figure in card.figures[1:])
            table.add_row(card.technique, shown(card.score), *rest, number(card.seconds))
        console.print(table)


def rank(card: Card) -> float:
    """By what techniques are ranked; one whose figure is unknown comes last."""
    return -math.inf if math.isnan(card.score.value) else card.score.value


def shown(figure: Figure) -> str:
    """0.98 [0.95, 1.00]; without an interval where there is none."""
    if figure.n == 0 or math.isnan(figure.value):
        return "unknown"
    value = f"{figure.value:.2f}"
    return value if math.isnan(figure.low) else f"{value} [{max(-1.0, figure.low):.2f}, {min(1.0, figure.high):.2f}]"
