"""`candling replay`: the claims of a finished run, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from candling.commands.progress import live_progress
from candling.report import terminal_safe


def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    claim: Annotated[str | None, typer.Option(help="Only the claim with this id.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is now, if not where it was.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where its weights are now.")] = None,
    trusted: Annotated[str | None, typer.Option(help="Where the trusted data are now.")] = None,
    reference: Annotated[str | None, typer.Option(help="Where the reference is now.")] = None,
    untrusted: Annotated[str | None, typer.Option(help="Where the untrusted inputs are now.")] = None,
    legitimate: Annotated[str | None, typer.Option(help="Where the legitimate cells are now.")] = None,
    metric: Annotated[str | None, typer.Option(help="Where the metric is now.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Where an explanation's pairs are now.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where its tokenizer is now.")] = None,
    data: Annotated[str | None, typer.Option(help="Where a solution's data are now.")] = None,
    device: str = "cpu",
) -> None:
    """Run the claims of a finished audit, explanation or solution again. Exit status 0 if all hold, 1 if not."""
    from candling.workflows.replay import replay as again

    named = {"model": model, "weights": weights, "trusted": trusted, "reference": reference}
    named |= {"untrusted": untrusted, "legitimate": legitimate, "metric": metric}
    named |= {"pairs": pairs, "tokenizer": tokenizer}
    named |= {"data": data}
    moved = {name: path for name, path in named.items() if path is not None}
    with live_progress() as progress:
        results = again(run, claim=claim, moved=moved, device=device, progress=progress)
    for each in results:
        mark = "holds" if each.holds else "FAILS"
        name = terminal_safe(each.claim.id)
        print(
            f"{mark}  {name:22s} predicted {each.claim.predicted:<9.6g} observed {each.observed:<9.6g} "
            f"tolerance {each.claim.tolerance:g}"
        )
    failed = sum(not each.holds for each in results)
    print(f"{len(results) - failed} of {len(results)} claims hold")
    raise typer.Exit(1 if failed else 0)
