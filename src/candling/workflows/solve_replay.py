"""Replay of a solution: its program against the network again, on the inputs that it names by hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from candling.access.unlabelled import logits_of
from candling.errors import InputError
from candling.evidence.claim import Claim, Replayed
from candling.evidence.control import RunInfo
from candling.evidence.program import run_program
from candling.evidence.solution import Solution
from candling.runs.jobs import Progress, silent
from candling.runs.seeds import derive, reproducible
from candling.techniques.verify.carried import Place, examine
from candling.workflows.again import chosen, observe_again
from candling.workflows.audit import Origin
from candling.workflows.inputs import relocated
from candling.workflows.solve import parts_of, told
from candling.workflows.solve_inputs import Problem, open_problem
from candling.workflows.solve_record import SolutionRecord

_FIELDS = {"model": "model", "weights": "weights", "data": "trusted"}
"""What a user calls a file, and the record."""


def replay_solution(
    folder: Path,
    *,
    claim: str | None = None,
    problem: Problem | None = None,
    moved: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> list[Replayed]:
    """The claims of a solution again. problem: where it was made from Python."""
    record = SolutionRecord.read(folder)
    said = record.solution
    info = relocated(record.info, moved or {}, _FIELDS)
    claims = chosen(said.claims, claim)
    opened = problem or _opened(info)
    with reproducible(said.seed):
        return observe_again(claims, lambda each: _observe(each, said, opened), progress)


def _opened(info: RunInfo) -> Problem:
    if info.model == Origin().model:
        raise InputError("replay", "this solution was made from Python: use replay_solution(problem=)")
    concepts = info.settings.get("concepts")
    return open_problem(info.model, info.weights, info.trusted, None, str(concepts) if concepts else None)


def _observe(claim: Claim, said: Solution, problem: Problem) -> float:
    if claim.kind == "inputs":
        same = (problem.model.sha256, problem.model.architecture.sha256, problem.data.sha256)
        return float(same == (said.weights, said.architecture, said.data))
    assert said.program is not None
    _, data, _ = parts_of(problem.data, said.seed)
    inputs = data.inputs
    same_answer = logits_of(problem.model.module, data.x).argmax(1).numpy() == run_program(said.program, inputs)
    if claim.kind == "site" and said.site is not None:
        place = Place(said.site.site, tuple(said.site.units), said.site.of)
        testing = told(said.program, data)
        return examine(problem.model.module, place, testing, seed=derive(said.seed, "examine")).follows.value
    if claim.kind == "agreement":
        return float(same_answer.mean())
    rival = next(each.program for each in said.rivals if each.program is not None)
    differ = run_program(rival, inputs) != run_program(said.program, inputs)
    return float(same_answer[differ].mean())
