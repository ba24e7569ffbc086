"""Replay: run a finished audit's claims again, from its record and the inputs that it names by hash."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from candling.access import Dataset, Model, check_fits, sha256_file, split, write_weights
from candling.errors import InputError
from candling.evidence.claim import Claim, Replayed
from candling.evidence.control import NetworkRow
from candling.problems import PROBLEMS, Bench, Thirds
from candling.runs.jobs import Progress, silent
from candling.runs.record import RunRecord
from candling.workflows.claims import Observer
from candling.workflows.inputs import open_inputs


def replay(
    folder: Path,
    *,
    claim: str | None = None,
    model: Model | None = None,
    trusted: Dataset | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Replayed]:
    """Each claim (or the one with this id): predicted, observed, whether it holds.

    Give `model` and `trusted` when the audit was made from Python; else they are opened as the record names
    them. Raises InputError on a damaged record or control, or an unknown claim.
    """
    record = RunRecord.read(folder)
    claims = [c for verdict in record.verdicts.verdicts for c in verdict.claims]
    if claim is not None:
        if claim not in {c.id for c in claims}:
            raise InputError("claim", f"no claim {claim!r}: this run has {', '.join(c.id for c in claims)}")
        claims = [c for c in claims if c.id == claim]
    if model is None or trusted is None:
        if record.info.model == "module in memory":
            raise InputError("replay", "this audit was made from Python: use candling.replay(model=, trusted=)")
        model, trusted = open_inputs(record.info.model, record.info.weights, _data(record))
    trusted = replace(trusted, classes=check_fits(trusted, model.module))
    bench = Bench(
        architecture=model.architecture,
        thirds=Thirds(**split(trusted, salt=f"audit {record.verdicts.seed}")),
        folder=folder,
        seed=record.verdicts.seed,
        device=device,
        batch=int(record.info.settings["batch"] or 2048),
        workers=1,
    )
    _check_controls(bench, record.networks.rows)
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "subject.safetensors"
        write_weights(weights, model.module.state_dict())
        observers = {
            name: Observer(record, PROBLEMS[name], bench, model, bench.candidate(weights), trusted.sha256)
            for name in {c.problem for c in claims}
        }
        results = []
        progress("replaying", 0, len(claims))
        for each in claims:
            results.append(_again(each, observers[each.problem]))
            progress("replaying", len(results), len(claims))
    return results


def _again(claim: Claim, observer: Observer) -> Replayed:
    observed = float(f"{observer.observe(claim):.6g}")
    holds = abs(observed - claim.predicted) <= claim.tolerance
    return Replayed(claim=claim, observed=observed, holds=holds)


def _data(record: RunRecord) -> str | None:
    return None if record.info.model.startswith("sample:") else record.info.trusted


def _check_controls(bench: Bench, rows: list[NetworkRow]) -> None:
    for row in rows:
        if row.role == "subject":
            continue
        path = bench.path(row.weights)
        if not path.is_file() or sha256_file(path) != row.weights:
            raise InputError("record", f"{path} ({row.name}) is missing or not the file that the run wrote")
