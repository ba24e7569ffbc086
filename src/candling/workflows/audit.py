"""Audit: load → split → controls → detect → judge → confirm → locate → record. One way, nothing reaches back."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candling._version import VERSION
from candling.access import Dataset, LanguageModel, Model, Text, Tokens, sha256_file
from candling.errors import InputError
from candling.evidence.arrays import under
from candling.evidence.control import Networks, RunInfo
from candling.evidence.measurement import Cost
from candling.evidence.untrusted import Untrusted
from candling.evidence.verdict import Controls, Subject, Verdict, Verdicts
from candling.problems import Bench, Network, Problem, make_negatives
from candling.report import draw
from candling.runs.fingerprint import fingerprint
from candling.runs.jobs import Progress, silent
from candling.runs.record import RunRecord, open_run, seal, sealed
from candling.workflows.bank import make_bank
from candling.workflows.case import Case, effort_of, make_case, named
from candling.workflows.examine import Bar, Examination, likeness
from candling.workflows.family import as_family, examine_all
from candling.workflows.group_claims import state_group_claims
from candling.workflows.mend import hand_over_all, mend_all
from candling.workflows.report import write_report
from candling.workflows.untrusted import flag_untrusted
from candling.workflows.untrusted_inputs import JudgedInputs, judge_untrusted

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
    reference: str | None = None
    dtype: str = "float32"
    untrusted: str | None = None
    legitimate: str | None = None
    metric: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    """SHA-256 of what an explanation's prompts were rendered by."""


def identify(case: Case, problems: Sequence[str], bar: Bar, origin: Origin, **settings: str | int) -> dict[str, str]:
    """Everything that decides an audit's results, as `open_run` wants it: files by SHA-256, and settings."""
    return {
        f"weights {Path(origin.weights or '').name}": case.model.sha256,
        f"architecture {Path(origin.model).name}": case.model.architecture.sha256,
        f"trusted {Path(origin.trusted).name}": case.trusted.sha256,
        f"reference {Path(origin.reference or '').name}": case.reference.model.sha256 if case.reference else "none",
        **({"chat template": case.chat} if case.chat else {}),
        "untrusted": fingerprint([*case.untrusted, case.inputs]) if _has_untrusted(case) else "none",
        **_metric(case),
        **({"legitimate": fingerprint(case.legitimate)} if case.legitimate is not None else {}),
        "dtype": origin.dtype,
        "problems": ",".join(problems),
        "min_sensitivity": repr(bar.sensitivity),
        "at": repr(bar.dose),
        **({name: str(value) for name, value in case.effort.settings().items()} if case.reference else {}),
        **{name: str(value) for name, value in settings.items()},
    }


def audit(
    model: Model | nn.Module | LanguageModel,
    trusted: Dataset | Sequence[Text],
    *,
    reference: LanguageModel | None = None,
    untrusted: Sequence[Text] | Tensor = (),
    legitimate: Any = None,
    problems: Sequence[str] = ("backdoor",),
    controls: int = 19,
    seed: int = 0,
    bar: Bar = Bar(),  # noqa: B008 -- frozen
    out: Path | None = None,
    repair: Path | None = None,
    budget: float = 1.0,
    controls_as: str = "auto",
    device: str = "cpu",
    batch: int = 2048,
    workers: int | None = None,
    progress: Progress = silent,
    origin: Origin = Origin(),
) -> Audit:
    """Does this network hide a problem? Makes controls, searches, confirms; says what would be caught.

    model: [n, *input] → logits [n, K]; trusted: inputs with right labels that nobody poisoned; untrusted: inputs
    [m, *input] to rank and group, if any, and legitimate: bool [*input], the cells that the network may read, if you
    know. Or a language model, with trusted texts, the `reference` that it was made from, and untrusted texts to rank,
    if any.
    controls: N negatives and as many positives, resolving p = 1/(N + 1). bar: what `not found` takes.
    out: a folder for the record, new or of the same audit: what was done before is not done again, and a
    finished one is read; None keeps it in memory. repair: a folder for repaired weights, where something is
    found. workers: processes, None for all cores (one on an accelerator).
    For language models, budget: share of the usual training and search. controls_as: `full` fine-tunes, `lora`
    adapters over one reference in memory (in one process), or `auto`: adapters above 20 million parameters.

    Raises InputError on data that does not fit the model, an unknown problem, or fewer than three controls.
    """
    case = make_case(model, trusted, reference, untrusted, legitimate).with_effort(budget, controls_as)
    return run_case(
        case,
        problems=problems,
        controls=controls,
        seed=seed,
        bar=bar,
        out=out,
        repair=repair,
        device=device,
        batch=batch,
        workers=workers,
        progress=progress,
        origin=origin,
    )


def run_case(
    case: Case,
    *,
    problems: Sequence[str],
    controls: int,
    seed: int,
    bar: Bar,
    out: Path | None,
    repair: Path | None = None,
    device: str,
    batch: int,
    workers: int | None,
    progress: Progress,
    origin: Origin,
) -> Audit:
    """As `audit`, which says what the arguments are."""
    started = time.monotonic()
    chosen = named(case.kind, problems)
    if controls < 3:
        raise InputError("controls", f"{controls} controls resolve nothing: give at least 3 (19 is usual)")
    settings: dict[str, str | int] = {"controls": controls, "seed": seed, "device": device, "batch": batch}
    with open_run(out, identify(case, problems, bar, origin, **settings)) as (folder, ledger):
        finished = sealed(folder, ledger) if ledger else None
        if finished and (repair is None or all(v.repair or not v.finding for v in finished.verdicts.verdicts)):
            if repair is not None:
                hand_over_all(finished.verdicts.verdicts, folder=folder, repair=repair)
            return Audit(finished, out)
        if torch.device(device).type != "cpu" or case.effort.lowrank:
            workers = 1
        bench = case.bench(
            folder, seed, device=device, batch=batch, workers=workers, progress=progress, ledger=ledger
        )
        body = _run(case, bench, chosen, controls, bar, repair)
        record = RunRecord(
            verdicts=Verdicts(
                candling=VERSION,
                subject=Subject(
                    weights=case.model.sha256,
                    architecture=case.model.architecture.sha256,
                    trusted=case.trusted.sha256,
                    reference=case.reference.model.sha256 if case.reference else None,
                    chat_template=case.chat,
                    untrusted=case.untrusted_sha256,
                ),
                seed=seed,
                data=case.describe(bench.thirds),
                controls=body.controls,
                cost=body.cost,
                verdicts=[e.verdict for e in body.examinations],
                untrusted=body.untrusted,
                flagged=body.inputs.flagged if body.inputs else None,
                groups=body.inputs.groups if body.inputs else [],
            ),
            networks=Networks(rows=[row for e in body.examinations for row in e.rows]),
            info=_info(case, origin, bench, bar, controls, time.monotonic() - started),
            arrays=body.arrays,
        )
        if ledger is not None:
            record.write(folder)
            write_report(folder)
            seal(folder, ledger)
    return Audit(record, out)


def _metric(case: Case) -> dict[str, str]:
    metric = None if isinstance(case.trusted, Tokens) else case.trusted.task.metric
    return {} if metric is None else {f"metric {Path(metric.name).name}": metric.sha256}


def _has_untrusted(case: Case) -> bool:
    return bool(case.untrusted) or case.inputs is not None


@dataclass(frozen=True)
class _Body:
    examinations: list[Examination]
    controls: Controls
    cost: Cost
    untrusted: Untrusted | None = None
    inputs: JudgedInputs | None = None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        names = [examination.verdict.problem for examination in self.examinations]
        held = [under(name, names, e.arrays) for name, e in zip(names, self.examinations, strict=True)]
        held += [dict(self.inputs.arrays)] if self.inputs else []
        return {name: array for arrays in held for name, array in arrays.items()}


def _run(case: Case, bench: Bench, chosen: Sequence[Problem], n: int, bar: Bar, repair: Path | None) -> _Body:
    """The stages, in order."""
    shortage = bench.kind.shortage(bench.thirds)
    if shortage is not None:
        verdicts = [_too_little(problem, bench, n, shortage) for problem in chosen]
        return _Body(verdicts, Controls(n=0, recipe="none trained", resemblance=None), _NOTHING)
    bench = bench.kind.prepare(bench)
    candidate, _ = bench.store(case.model.module.state_dict())
    loss, accuracy = bench.kind.quality(candidate.load(), bench.thirds.search.to(bench.device))
    subject = Network("subject", "subject", "given", candidate, case.model.sha256, loss, accuracy, None, _NOTHING)
    negatives = make_negatives(bench, n, reach=loss)
    alike = likeness(bench, subject, negatives)
    banks = as_family([make_bank(problem, bench, negatives, reach=loss) for problem in chosen])
    examinations = examine_all(chosen, bench, subject, banks, alike, bar)
    if repair is not None:
        examinations = mend_all(chosen, bench, subject, banks, examinations, bar)
        hand_over_all([e.verdict for e in examinations], folder=bench.folder, repair=repair)
    cost = sum((e.cost for e in examinations), sum((m.cost for m in negatives), _NOTHING))
    beside = bench.language.soup if bench.language else bench.beside
    soup = sha256_file(beside) if beside else None
    made = Controls(n=n, recipe=bench.kind.recipe, resemblance=alike, soup=soup)
    flagged = flag_untrusted(bench, candidate, case.texts, case.untrusted) if case.untrusted else None
    judged = None
    if case.inputs is not None:
        judged = judge_untrusted(bench, candidate, case.inputs, case.legitimate)
        judged = judged.with_claims(state_group_claims(judged.groups))
    return _Body(examinations, made, cost + (judged.cost if judged else _NOTHING), flagged, judged)


_NOTHING = Cost(forward=0, backward=0)


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
        not_tested=problem.not_tested(bench.thirds.search),
        claims=[],
    )
    return Examination(verdict, [], {}, _NOTHING)


def _info(case: Case, origin: Origin, bench: Bench, bar: Bar, controls: int, seconds: float) -> RunInfo:
    return RunInfo(
        candling=VERSION,
        model=origin.model,
        weights=origin.weights,
        trusted=origin.trusted,
        reference=origin.reference,
        untrusted=origin.untrusted,
        legitimate=origin.legitimate,
        metric=origin.metric,
        notes=case.notes,
        settings={
            "controls": controls,
            "seed": bench.seed,
            "min_sensitivity": bar.sensitivity,
            "at": bar.dose,
            "device": bench.device,
            "dtype": origin.dtype,
            "batch": bench.batch,
            **effort_of(bench),
        },
        seconds=round(seconds, 1),
        threads=bench.threads,
        python=platform.python_version(),
        torch=torch.__version__,
    )
