"""`candling grade`: every technique examined on planted truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from candling.commands.progress import live_progress


def grade(
    questions: Annotated[
        str, typer.Option(help="Folders of techniques, separated by commas.")
    ] = "flag,locate,search",
    subjects: Annotated[int, typer.Option(help="Organisms of each exam, a third of them clean.")] = 18,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for cards.json and a page for each question.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores unless given.")] = None,
) -> None:
    """Which technique finds what was planted, and is silent where nothing was? Exit status 0."""
    from candling.report.grade_screen import show
    from candling.workflows.grade import grade as run
    from candling.workflows.technique_pages import write

    with live_progress() as progress:
        chosen = [name.strip() for name in questions.split(",")]
        grades = run(chosen, subjects=subjects, seed=seed, workers=workers, progress=progress)
    show(grades, Console())
    if out is not None:
        write(grades, out)
        print(f"cards  {out / 'cards.json'}\nindex  {out / 'README.md'}")
