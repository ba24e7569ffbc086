"""Replay: run a finished run's claims again, from its record and the inputs that it names by hash."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from candling.access import Dataset, LanguageModel, Model, Text, sha256_file, write_weights
from candling.access.pairs import PromptPair
from candling.errors import InputError
from candling.evidence.claim import Claim, Replayed
from candling.evidence.control import NetworkRow, RunInfo
from candling.problems import Bench
from candling.runs.jobs import Progress, silent
from candling.runs.record import RunRecord
from candling.workflows.again import chosen, observe_again
from candling.workflows.case import Case, make_case
from candling.workflows.claims import Observer
from candling.workflows.explain_record import is_explanation
from candling.workflows.explain_replay import replay_explanation
from candling.workflows.group_claims import PROBLEM, GroupObserver
from candling.workflows.inputs import open_inputs, relocated
from candling.workflows.solve_record import is_solution
from candling.workflows.solve_replay import replay_solution

_NAMED = ("model", "weights", "trusted", "reference")
_OTHERS = ("untrusted", "legitimate", "metric")  # named where there are any


def replay(
    folder: Path,
    *,
    claim: str | None = None,
    model: Model | LanguageModel | None = None,
    trusted: Dataset | Sequence[Text] | None = None,
    reference: LanguageModel | None = None,
    untrusted: Tensor | None = None,
    legitimate: Any = None,
    pairs: Sequence[PromptPair] | None = None,
    moved: Mapping[str, str] | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Replayed]:
    """Each claim (or the one with this id): predicted, observed, whether it holds.

    Give `model` and `trusted` (and `reference`, `untrusted`, `legitimate`) when the audit was made from Python,
    `model` and `pairs` when an explanation was; else they are opened as the record names them, or where `moved` says
    that they are now: `model`, `weights`, `trusted`, `reference`, `untrusted`, `legitimate`, `metric`, or `pairs`, to
    paths.
    Raises InputError on a damaged record or control, or an unknown claim.
    """
    moved = moved or {}
    if is_explanation(folder):
        own = model if isinstance(model, LanguageModel) else None
        return replay_explanation(
            folder, claim=claim, model=own, pairs=pairs, moved=moved, device=device, progress=progress
        )
    if is_solution(folder):
        return replay_solution(folder, claim=claim, moved=moved, progress=progress)
    record = RunRecord.read(folder)
    names = [*_NAMED, *(name for name in _OTHERS if getattr(record.info, name) is not None)]
    record = replace(record, info=relocated(record.info, moved, {name: name for name in names}))
    claims = [c for verdict in record.verdicts.verdicts for c in verdict.claims]
    claims += record.verdicts.flagged.claims if record.verdicts.flagged else []
    claims = chosen(claims, claim)
    case = _case(record, model, trusted, reference, untrusted, legitimate)
    asked = any(each.problem == PROBLEM for each in claims)
    if asked and case.inputs is None:
        raise InputError("replay", "this audit's untrusted inputs are missing: give untrusted= (and legitimate=)")
    settings = record.info.settings
    bench = case.bench(folder, record.verdicts.seed, device=device, batch=int(settings["batch"] or 2048), workers=1)
    if bench.language is not None:
        soup = bench.path(record.verdicts.controls.soup or "")
        bench = replace(bench, language=replace(bench.language, soup=soup))
    elif record.verdicts.controls.soup is not None:
        bench = replace(bench, beside=bench.path(record.verdicts.controls.soup))
    _check_controls(bench, record.networks.rows)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "subject.safetensors"
        write_weights(weights, case.model.module.state_dict())
        subject = bench.candidate(weights)
        observers = {
            verdict.problem: Observer(record, case.kind.problems[verdict.problem], bench, case, subject)
            for verdict in record.verdicts.verdicts
            if verdict.p_value is not None
        }
        for name, observer in observers.items():
            observer.others = [other for other_name, other in observers.items() if other_name != name]
        groups = GroupObserver(record, bench, case, subject)

        def observe(each: Claim) -> float:
            observer = groups if each.problem == PROBLEM else observers[each.problem]
            return observer.observe(each)

        return observe_again(claims, observe, progress)


def _case(
    record: RunRecord,
    model: Model | LanguageModel | None,
    trusted: Dataset | Sequence[Text] | None,
    reference: LanguageModel | None,
    untrusted: Tensor | None,
    legitimate: Any,
) -> Case:
    info = record.info
    if model is not None and trusted is not None:
        given = () if untrusted is None else untrusted
        return _as_then(make_case(model, trusted, reference, given, legitimate), info)
    if info.model == "module in memory":
        raise InputError("replay", "this audit was made from Python: use candling.replay(model=, trusted=)")
    data = None if info.model.startswith("sample:") else info.trusted
    dtype = str(info.settings.get("dtype", "float32"))
    chat = record.verdicts.subject.chat_template
    others = (info.untrusted, info.legitimate) if record.verdicts.subject.untrusted else (None, None)
    case = open_inputs(
        info.model, info.weights, data, info.reference, dtype, *others, chat=chat is not None, metric=info.metric
    )
    if case.chat != chat:
        raise InputError("replay", "the chat template is not the one that the run rendered its texts by")
    return _as_then(case, info)


def _as_then(case: Case, info: RunInfo) -> Case:
    """With the effort that the run was made with."""
    return case.with_effort(float(info.settings.get("budget") or 1.0), str(info.settings.get("controls_as", "full")))


def _check_controls(bench: Bench, rows: list[NetworkRow]) -> None:
    for row in rows:
        if row.role == "subject":
            continue
        path = bench.path(row.weights)
        if not path.is_file() or sha256_file(path) != row.weights:
            raise InputError("record", f"{path} ({row.name}) is missing or not the file that the run wrote")
