"""`candling audit`: plan or run an audit, and say the verdicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from candling.commands.progress import live_progress
from candling.evidence.verdict import Repair
from candling.report import headline, terminal_safe
from candling.report.words import laid_on


def audit(
    model: Annotated[str, typer.Argument(help="net.py:build, a language model's folder, or sample:backdoor")],
    weights: Annotated[str | None, typer.Option(help="The subject's weights, safetensors.")] = None,
    trusted: Annotated[str | None, typer.Option(help="Trusted data: .npz with x and y, or .jsonl texts.")] = None,
    reference: Annotated[str | None, typer.Option(help="The model that a language model was made from.")] = None,
    untrusted: Annotated[str | None, typer.Option(help="Inputs to rank, .npz with x, or texts, .jsonl.")] = None,
    legitimate: Annotated[str | None, typer.Option(help="Cells that it may read, .npz with bool `cells`.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="How good outputs are: FILE.py:FUNCTION of outputs and y, higher is better.")
    ] = None,
    problems: Annotated[str, typer.Option(help="Problem classes, separated by commas.")] = "backdoor",
    controls: Annotated[int, typer.Option(help="Clean controls, and as many planted.")] = 19,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the record; the same command goes on in it.")] = None,
    repair: Annotated[Path | None, typer.Option(help="Folder for repaired weights, if something is found.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it costs and resolves, and stop.")] = False,
    budget: Annotated[float, typer.Option(help="Share of a language model's usual training and search.")] = 1.0,
    controls_as: Annotated[str, typer.Option(help="full fine-tunes, lora adapters, or auto: by size.")] = "auto",
    device: str = "cpu",
    dtype: Annotated[str, typer.Option(help="Of a language model: float32, bfloat16 ...")] = "float32",
    chat: Annotated[bool, typer.Option("--chat", help="Texts are conversations, for the chat template.")] = False,
    batch: Annotated[int, typer.Option(help="Most inputs in one pass of the search.")] = 2048,
    min_sensitivity: Annotated[float, typer.Option(help="What `not found` takes ...")] = 0.8,
    at: Annotated[float, typer.Option(help="... at this dose, 0 to 1.")] = 0.5,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores unless given.")] = None,
) -> None:
    """Does this network hide a problem? Exit status 0 nothing found, 1 found, 6 inconclusive."""
    from candling.runs.record import default_folder
    from candling.workflows.audit import Origin, identify, run_case
    from candling.workflows.examine import Bar
    from candling.workflows.inputs import lasting, open_inputs
    from candling.workflows.plan import plan as estimate

    case = open_inputs(model, weights, trusted, reference, dtype, untrusted, legitimate, chat=chat, metric=metric)
    case = case.with_effort(budget, controls_as)
    for note in case.notes:
        print(terminal_safe(f"note: {note}"), file=sys.stderr)
    classes = [name.strip() for name in problems.split(",")]
    if plan:
        for line in estimate(case, controls=controls, problems=classes, device=device, batch=batch).lines():
            print(line)
        return
    what: dict[str, Any] = {
        "problems": classes,
        "controls": controls,
        "seed": seed,
        "bar": Bar(min_sensitivity, at),
        "device": device,
        "batch": batch,
        "origin": Origin(
            model=lasting(model),
            weights=lasting(weights),
            trusted=lasting(trusted or model),
            reference=lasting(reference),
            dtype=dtype,
            untrusted=lasting(untrusted),
            legitimate=lasting(legitimate),
            metric=lasting(metric),
        ),
    }
    folder = out or default_folder(model, identify(case, **what))
    with live_progress() as progress:
        audited = run_case(case, out=folder, repair=repair, workers=workers, progress=progress, **what)
    for verdict in audited.verdicts:
        print(f"\n{verdict.problem}: {headline(verdict)}\n")
        if verdict.repair is not None:
            print(f"{_mended(verdict.repair, laid_on(verdict.problem))}\n")
    print(f"report  {folder / 'report.html'}\nrecord  {folder / 'verdicts.json'}\nreplay  candling replay {folder}")
    raise typer.Exit(audited.exit_code)


def _mended(repair: Repair, thing: str) -> str:
    success, cost = repair.forecast, repair.forecast_cost
    by = 100 if repair.unit == "points" else 1  # recorded as a share
    unit = "of the measure" if repair.unit == "measure" else repair.unit
    return (
        f"repair: the {thing}'s success {repair.before.value:.0%} → {repair.after.value:.0%} "
        f"(forecast {success.low:.0%} to {success.high:.0%}) at {by * repair.cost:.2g} {unit} "
        f"(forecast {by * cost.low:.2g} to {by * cost.high:.2g}); audited again: {repair.again}."
    )
