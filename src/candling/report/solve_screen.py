"""A solution on one screen of a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from candling.evidence.solution import Solution
from candling.report import numerals
from candling.report.solution import rival_rows, site_rows, summary
from candling.report.text import clip, terminal_safe

_ROWS = 4


def show(said: Solution, console: Console) -> None:
    """The outcome, the program, its rivals, the mechanism, and the three-way table where the truth is known."""
    first, *rest = summary(said)
    console.print(Text(f"\n{first}", style="bold"))
    for line in rest:
        console.print(Text(line))
    table = Table("where a rival differs, the network sides with the program", "", box=None, header_style="dim")
    for row in rival_rows(said)[:_ROWS]:
        table.add_row(Text(clip(terminal_safe(row.label), 70)), row.shown)
    for row in site_rows(said):
        table.add_row(Text(clip(terminal_safe(f"{row.label}, {row.words}"), 70)), row.shown)
    console.print(table)
    for part in said.parts:
        if part.network_truth is not None and part.program_truth is not None:
            shares = (part.network_program, part.network_truth, part.program_truth)
            named = zip(("network = program", "network = truth", "program = truth"), shares, strict=True)
            told = ", ".join(f"{name} {numerals.percent(share.value)}" for name, share in named)
            console.print(Text(f"{part.part}: {told}", style="dim"))
