"""The commands: parse, call one workflow, print."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.exceptions import TyperException

from candling.errors import CandlingError
from candling.evidence.verdict import Repair
from candling.report import headline, terminal_safe
from candling.runs.jobs import Progress as Report

INTERRUPTED, INTERNAL = 130, 70
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hold a trained network up to the light before it is released.",
)
_debug = False


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="net.py:build, a language model's folder, or sample:backdoor")],
    weights: Annotated[str | None, typer.Option(help="The subject's weights, safetensors.")] = None,
    trusted: Annotated[str | None, typer.Option(help="Trusted data: .npz with x and y, or .jsonl texts.")] = None,
    reference: Annotated[str | None, typer.Option(help="The model that a language model was made from.")] = None,
    untrusted: Annotated[str | None, typer.Option(help="Inputs to rank, .npz with x, or texts, .jsonl.")] = None,
    legitimate: Annotated[str | None, typer.Option(help="Cells that it may read, .npz with bool `cells`.")] = None,
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

    case = open_inputs(model, weights, trusted, reference, dtype, untrusted, legitimate, chat=chat)
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
        ),
    }
    folder = out or default_folder(model, identify(case, **what))
    with _progress() as progress:
        audited = run_case(case, out=folder, repair=repair, workers=workers, progress=progress, **what)
    for verdict in audited.verdicts:
        print(f"\n{verdict.problem}: {headline(verdict)}\n")
        if verdict.repair is not None:
            print(f"{_mended(verdict.repair)}\n")
    print(f"report  {folder / 'report.html'}\nrecord  {folder / 'verdicts.json'}\nreplay  candling replay {folder}")
    raise typer.Exit(audited.exit_code)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(help="A language model's folder, the hub's owner/name, or net.py:build")],
    pairs: Annotated[Path, typer.Option(help="Lines with clean, corrupt, answer and wrong, .jsonl.")],
    weights: Annotated[str | None, typer.Option(help="Weights of net.py:build, safetensors.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Its tokenizer.json.")] = None,
    layout: Annotated[str | None, typer.Option(help="Where it keeps its parts: a table, .json.")] = None,
    keep: Annotated[float, typer.Option(help="Share of the behaviour that the circuit must keep.")] = 0.9,
    largest: Annotated[int, typer.Option(min=1, help="Edges that are measured one by one.")] = 400,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the record; the same command reads it.")] = None,
    device: str = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 ...")] = "float32",
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are questions, for the chat template.")] = False,
) -> None:
    """Which parts of a language model compute this behaviour? Exit status 0."""
    from candling.access import sha256_file
    from candling.access.pairs import read_pairs
    from candling.report.explain_screen import show
    from candling.runs.record import default_folder
    from candling.workflows.audit import Origin
    from candling.workflows.chats import chat_pairs
    from candling.workflows.explain import explain as run
    from candling.workflows.inputs import lasting, open_language

    given, template = read_pairs(pairs), None
    opened = open_language(model, weights, tokenizer, layout, dtype)
    if chat:
        given, note, template = chat_pairs(given, model, opened.tokenizer)
        opened = replace(opened, notes=[*opened.notes, note])
    named = {"weights": opened.model.sha256, "pairs": sha256_file(pairs), "layout": opened.family.layout.json}
    named |= {"keep": repr(keep), "largest": str(largest), "seed": str(seed), "device": device, "dtype": dtype}
    named |= {"chat": template} if template else {}
    folder = out or default_folder(f"explain-{Path(model).name}", named)
    with _progress() as progress:
        explained = run(
            opened,
            given,
            keep=keep,
            largest=largest,
            seed=seed,
            out=folder,
            device=device,
            progress=progress,
            origin=Origin(
                model=lasting(model),
                weights=lasting(weights),
                trusted=lasting(str(pairs)),
                dtype=dtype,
                tokenizer=lasting(tokenizer),
                chat_template=template,
            ),
        )
    for note in explained.record.info.notes:
        print(terminal_safe(f"note: {note}"), file=sys.stderr)
    show(explained.explanation, explained.record.arrays, Console())
    print(
        f"report  {folder / 'report.html'}\nrecord  {folder / 'explanation.json'}\nreplay  candling replay {folder}"
    )


@app.command()
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
    with _progress() as progress:
        solved = run(problem, grammar=grammar, seed=seed, out=folder, progress=progress, origin=origin)
    show(solved.solution, Console())
    print(f"\nprogram {folder / 'program.py'}" if solved.solution.program else "")
    print(f"report  {folder / 'report.html'}\nrecord  {folder / 'solution.json'}\nreplay  candling replay {folder}")
    raise typer.Exit(solved.exit_code)


@app.command()
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

    with _progress() as progress:
        chosen = [name.strip() for name in questions.split(",")]
        grades = run(chosen, subjects=subjects, seed=seed, workers=workers, progress=progress)
    show(grades, Console())
    if out is not None:
        write(grades, out)
        print(f"cards  {out / 'cards.json'}\nindex  {out / 'README.md'}")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    claim: Annotated[str | None, typer.Option(help="Only the claim with this id.")] = None,
    model: Annotated[str | None, typer.Option(help="Where the model is now, if not where it was.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where its weights are now.")] = None,
    trusted: Annotated[str | None, typer.Option(help="Where the trusted data are now.")] = None,
    reference: Annotated[str | None, typer.Option(help="Where the reference is now.")] = None,
    untrusted: Annotated[str | None, typer.Option(help="Where the untrusted inputs are now.")] = None,
    legitimate: Annotated[str | None, typer.Option(help="Where the legitimate cells are now.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Where an explanation's pairs are now.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where its tokenizer is now.")] = None,
    data: Annotated[str | None, typer.Option(help="Where a solution's data are now.")] = None,
    device: str = "cpu",
) -> None:
    """Run the claims of a finished audit, explanation or solution again. Exit status 0 if all hold, 1 if not."""
    from candling.workflows.replay import replay as again

    named = {"model": model, "weights": weights, "trusted": trusted, "reference": reference}
    named |= {"untrusted": untrusted, "legitimate": legitimate, "pairs": pairs, "tokenizer": tokenizer}
    named |= {"data": data}
    moved = {name: path for name, path in named.items() if path is not None}
    with _progress() as progress:
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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    only: Annotated[str | None, typer.Option(help="Show this problem class; seal the rest by hash.")] = None,
) -> None:
    """Draw a finished run's report again."""
    from candling.workflows.report import write_report

    print(write_report(run, only=only))


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pt file with tensors by name.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    seconds: Annotated[int, typer.Option(min=1, help="Most processor time.")] = 120,
    megabytes: Annotated[int, typer.Option(min=1, help="Most memory.")] = 4096,
) -> None:
    """Turn a pickled state into safetensors, in a child process that can run none of its code."""
    from candling.access.convert import convert as run

    print(f"{len(run(source, target, seconds=seconds, megabytes=megabytes))} tensors in {target}")


def _mended(repair: Repair) -> str:
    success, cost = repair.forecast, repair.forecast_cost
    by = 100 if repair.unit == "points" else 1  # recorded as a share
    return (
        f"repair: the trigger's success {repair.before.value:.0%} → {repair.after.value:.0%} "
        f"(forecast {success.low:.0%} to {success.high:.0%}) at {by * repair.cost:.2g} {repair.unit} "
        f"(forecast {by * cost.low:.2g} to {by * cost.high:.2g}); audited again: {repair.again}."
    )


class _progress:
    """A live line for each stage: done of total and the time left."""

    def __enter__(self) -> Report:
        self.bar = Progress(
            TextColumn("{task.description:24s}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self.tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            self.bar.start()  # at the first stage: an error before it leaves the screen alone
            if stage not in self.tasks:
                kept = f" ({done} were done)" if done else ""
                self.tasks[stage] = self.bar.add_task(stage + kept, total=total)
            self.bar.update(self.tasks[stage], completed=done, total=total)

        return show

    def __exit__(self, *_: object) -> None:
        if self.tasks:
            self.bar.stop()


def main() -> None:
    """The entry point: one clear line for an error, and the exit code of its kind."""
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        status = _guarded(lambda: app(standalone_mode=False))
    finally:
        signal.signal(signal.SIGINT, before)
    sys.exit(status)


def _interrupted(*_: object) -> None:
    """The first time stops in order; the second at once, in the middle of whatever is being tidied up."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


class _Notes(logging.Handler):
    """What a run has to say beside its result: one line each, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(terminal_safe(f"note: {record.getMessage()}"), file=sys.stderr)


def _guarded(command: Callable[[], Any]) -> int:
    notes, log = _Notes(), logging.getLogger("candling")
    log.addHandler(notes)
    try:
        return _status(command)
    finally:
        log.removeHandler(notes)


def _status(command: Callable[[], Any]) -> int:
    try:
        result = command()
    except CandlingError as fault:
        _complain(str(fault))
        return fault.exit_code
    except TyperException as fault:
        message = getattr(fault, "message", None) or str(fault)
        _complain(f"error[usage]: {message} See candling --help.")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except MemoryError:
        _complain("error[memory]: out of memory; give a smaller --batch, or fewer --workers")
        return 4
    except OSError as fault:
        if fault.errno not in _FULL:
            return _internal(fault)
        _complain(f"error[write]: {fault.strerror}; free space and run the same command again")
        return 4
    except Exception as fault:
        return _internal(fault)
    if result == INTERRUPTED:  # typer hands an interruption on as a status
        _complain("error[interrupted]: stopped; what was done is kept, and the same command goes on from there")
    return result if isinstance(result, int) else 0


def _internal(fault: Exception) -> int:
    _complain(f"error[internal]: {type(fault).__name__}: {fault}; --debug shows where")
    return INTERNAL


def _complain(line: str) -> None:
    if _debug:
        traceback.print_exc()
    safe = terminal_safe(line)
    print(safe if len(safe) <= 200 else safe[:199] + "…", file=sys.stderr)


if __name__ == "__main__":
    main()
