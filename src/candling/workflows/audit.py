"""Audit: load → split → controls → detect → judge → confirm → locate → record. One way, nothing reaches back."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from candling._version import VERSION
from candling.access import Dataset, Model, check_fits, load, split
from candling.errors import InputError
from candling.evidence.control import Networks, RunInfo
from candling.evidence.judge import resemblance
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Controls, Data, Subject, Verdict, Verdicts
from candling.problems import PROBLEMS, Bench, Network, Problem, Thirds, make_negatives
from candling.problems.controls import RECIPE, loss_and_accuracy
from candling.report import draw
from candling.runs.jobs import Progress, silent
from candling.runs.record import RunRecord, make_folder
from candling.workflows.examine import Bar, Examination, examine, make_bank
from candling.workflows.report import write_report

PER_CLASS = 10
"""Fewest rows of each class in each third that an audit is run with."""

EXIT = {"not found": 0, "found": 1, "inconclusive": 6}


@dataclass(frozen=True)
class Audit:
    """A finished audit. `folder` holds the same record, if one was asked for."""

    record: RunRecord
    folder: Path | None

    @property
    def verdicts(self) -> list[Verdict]:
        return self.record.verdicts.verdicts

    @property
    def exit_code(self) -> int:
        """1 if anything was found, else 6 if anything is inconclusive, else 0."""
        codes = {EXIT[verdict.verdict] for verdict in self.verdicts}
        return next(code for code in (1, 6, 0) if code in codes)

    def report(self, *, only: str | None = None) -> str:
        """The report as one HTML page."""
        record = self.record
        return draw(record.verdicts, record.networks, record.arrays, record.info, only=only)


@dataclass(frozen=True)
class Origin:
    """What the user named, for `run.json`; replay reads it from there."""

    model: str = "module in memory"
    weights: str | None = None
    trusted: str = "arrays in memory"


def audit(
    model: Model | nn.Module,
    trusted: Dataset,
    *,
    problems: Sequence[str] = ("backdoor",),
    controls: int = 19,
    seed: int = 0,
    bar: Bar = Bar(),  # noqa: B008 -- frozen
    out: Path | None = None,
    device: str = "cpu",
    batch: int = 2048,
    workers: int | None = None,
    progress: Progress = silent,
    origin: Origin = Origin(),
) -> Audit:
    """Does this network hide a problem? Trains controls, searches, confirms; says what would be caught.

    model: [n, *input] → logits [n, K]; trusted: inputs with right labels that nobody poisoned.
    controls: N negatives and as many positives, resolving p = 1/(N + 1). bar: what `not found` takes.
    out: an empty folder for the record; None keeps it in memory. workers: processes, None for all cores
    (one on an accelerator).

    Raises InputError on data that does not fit the model, an unknown problem, or fewer than three controls.
    """
    started = time.monotonic()
    chosen = [_problem(name) for name in problems]
    if controls < 3:
        raise InputError("controls", f"{controls} controls resolve nothing: give at least 3 (19 is usual)")
    model = model if isinstance(model, Model) else load(model)
    trusted = replace(trusted, classes=check_fits(trusted, model.module))
    thirds = Thirds(**split(trusted, salt=f"audit {seed}"))
    one = torch.device(device).type != "cpu"
    if out is not None:
        make_folder(out)
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        bench = Bench(model.architecture, thirds, folder, seed, device, batch, 1 if one else workers, progress)
        body = _run(model, bench, chosen, controls, bar)
        record = RunRecord(
            verdicts=Verdicts(
                candling=VERSION,
                subject=Subject(weights=model.sha256, architecture=model.architecture.sha256, trusted=trusted.sha256),
                seed=seed,
                data=_describe(trusted, thirds),
                controls=body.controls,
                cost=body.cost,
                verdicts=[e.verdict for e in body.examinations],
            ),
            networks=Networks(rows=[row for e in body.examinations for row in e.rows]),
            info=_info(origin, bench, bar, controls, time.monotonic() - started),
            arrays={name: array for e in body.examinations for name, array in e.arrays.items()},
        )
        if out is not None:
            record.write(out)
            write_report(out)
    return Audit(record, out)


@dataclass(frozen=True)
class _Body:
    examinations: list[Examination]
    controls: Controls
    cost: Cost


def _run(model: Model, bench: Bench, chosen: Sequence[Problem], n: int, bar: Bar) -> _Body:
    """The stages, in order."""
    shortage = _shortage(bench.thirds)
    if shortage is not None:
        verdicts = [_too_little(problem, bench, n, shortage) for problem in chosen]
        return _Body(verdicts, Controls(n=0, recipe="none trained", resemblance=None), _NOTHING)
    candidate, _ = bench.store(model.module.state_dict())
    loss, accuracy = loss_and_accuracy(candidate.load(), bench.thirds.search.to(bench.device))
    subject = Network("subject", "subject", "given", candidate, model.sha256, loss, accuracy, None, _NOTHING)
    negatives = make_negatives(bench, n, reach=loss)
    everyone = [subject, *negatives]
    likeness = resemblance([m.loss for m in everyone], [m.accuracy for m in everyone])
    examinations = []
    for problem in chosen:
        bank = make_bank(problem, bench, negatives, reach=loss)
        examinations.append(examine(problem, bench, subject, bank, likeness, bar))
    cost = sum((e.cost for e in examinations), sum((m.cost for m in negatives), _NOTHING))
    return _Body(examinations, Controls(n=n, recipe=RECIPE, resemblance=likeness), cost)


_NOTHING = Cost(forward=0, backward=0)


def _problem(name: str) -> Problem:
    if name not in PROBLEMS:
        raise InputError("problem", f"no problem class {name!r}: choose from {', '.join(PROBLEMS)}")
    return PROBLEMS[name]


def _shortage(thirds: Thirds) -> str | None:
    """Why there is too little trusted data, and how much would do; None if there is enough."""
    parts = (thirds.control, thirds.search, thirds.confirm)
    classes = parts[0].classes
    fewest = min(int(torch.bincount(part.y, minlength=classes).min()) for part in parts)
    if fewest >= PER_CLASS:
        return None
    total = sum(len(part.y) for part in parts)
    rarest = int(torch.bincount(torch.cat([part.y for part in parts]), minlength=classes).min())
    share = max(rarest, 1) / total
    needed = round(3 * 1.5 * PER_CLASS / share)  # 1.5: thirds by hash are uneven
    return (
        f"too little trusted data: {total} rows leave {fewest} of the rarest class in a third, and each "
        f"class needs {PER_CLASS}; need about {needed} rows"
    )


def _too_little(problem: Problem, bench: Bench, n: int, reason: str) -> Examination:
    verdict = Verdict(
        problem=problem.name,
        verdict="inconclusive",
        reason=reason,
        p_value=None,
        threshold=1 / (n + 1),
        sensitivity=None,
        false_positive_rate=None,
        negatives_confirmed=None,
        baseline=None,
        finding=None,
        not_tested=problem.untested(bench.thirds.search),
        claims=[],
    )
    return Examination(verdict, [], {}, _NOTHING)


def _describe(trusted: Dataset, thirds: Thirds) -> Data:
    return Data(
        control=len(thirds.control.y),
        search=len(thirds.search.y),
        confirm=len(thirds.confirm.y),
        classes=trusted.classes,
        input_shape=list(trusted.x.shape[1:]),
    )


def _info(origin: Origin, bench: Bench, bar: Bar, controls: int, seconds: float) -> RunInfo:
    return RunInfo(
        candling=VERSION,
        model=origin.model,
        weights=origin.weights,
        trusted=origin.trusted,
        settings={
            "controls": controls,
            "seed": bench.seed,
            "min_sensitivity": bar.sensitivity,
            "at": bar.dose,
            "device": bench.device,
            "batch": bench.batch,
        },
        seconds=round(seconds, 1),
        threads=1,
        python=platform.python_version(),
        torch=torch.__version__,
    )
