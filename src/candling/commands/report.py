"""`candling report`: the page of a finished run, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    only: Annotated[str | None, typer.Option(help="Show this problem class; seal the rest by hash.")] = None,
) -> None:
    """Draw a finished run's report again."""
    from candling.workflows.report import write_report

    print(write_report(run, only=only))
