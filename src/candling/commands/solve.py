"""`candling solve`: the program that a network computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from candling.commands.progress import live_progress


def solve(
    model: Annotated[str, typer.Argument(help="net.py:build, a function that returns the network.")],
    data: Annotated[Path, typer.Option(help="Unlabelled inputs that it was not trained on, .npz with x.")],
    weights: Annotated[str | None, typer.Option(help="Its weights, safetensors.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="Right answers, .npz with y, to compare with in the end.")
    ] = None,
    concepts: Annotated[Path | None, typer.Option(help="Columns of what is in each image, .npz.")] = None,
    grammar: Annotated[str, typer.Option(help="images, pairs, sequences, or auto: by the inputs.")] = "auto",
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the record; the same command reads it.")] = None,
) -> None:
    """Which program does this network compute? Exit status 0 solved, 1 behaviour only, 6 neither."""
    from candling.report.solve_screen import show
    from candling.runs.record import default_folder
    from candling.workflows.solve import command_origin
    from candling.workflows.solve import solve as run
    from candling.workflows.solve_inputs import open_problem

    problem = open_problem(model, weights, str(data), *(str(file) if file else None for file in (truth, concepts)))
    named = problem.identity() | {"grammar": grammar, "seed": str(seed)}
    folder = out or default_folder(f"solve-{Path(model.partition(':')[0]).stem}", named)
    origin = command_origin(model, weights, data, truth, concepts)
    with live_progress() as progress:
        solved = run(problem, grammar=grammar, seed=seed, out=folder, progress=progress, origin=origin)
    show(solved.solution, Console())
    print(f"\nprogram {folder / 'program.py'}" if solved.solution.program else "")
    print(f"report  {folder / 'report.html'}\nrecord  {folder / 'solution.json'}\nreplay  candling replay {folder}")
    raise typer.Exit(solved.exit_code)
