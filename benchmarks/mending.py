"""Repairs of networks in which something was found: forecast beside outcome, slope and coverage over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from candling.evidence.findings import Forecast
from candling.evidence.verdict import Repair
from candling.runs.jobs import run_jobs, silent
from candling.workflows.examine import Bar, Examination
from candling.workflows.mend import Outlook, look_ahead, mend
from common import Exam, of, progress

UNIT = {"nats": "nats a token", "points": "share of accuracy"}
LIMIT = {"nats": 0.05, "points": 0.02}


@dataclass(frozen=True)
class Case:
    """A found subject, and how often its planted trigger (which no repair sees) works in a network."""

    examination: Examination
    planted: Callable[[nn.Module], float]


def repairs(exam: Exam, cases: Sequence[Case], *, at_once: bool = False) -> None:
    """A line for each repair, then slope and coverage of the forecasts.

    at_once: on all cores, one job a network, which small networks have memory for.
    """
    outlook = look_ahead(exam.bench.kind.problems["backdoor"], exam.bench, exam.bank)
    if at_once:
        alone = replace(exam, bench=replace(exam.bench, workers=1, progress=silent))
        jobs = [(alone, case, outlook) for case in cases]
        done = run_jobs(_repair, jobs, stage="repairing the subjects", progress=progress())
    else:
        done = [_repair(exam, case, outlook) for case in cases]
    if not done:
        print("repair  nothing was found")
        return
    _slope("drop in success", [(r.before.value - r.forecast.value, r.before.value - r.after.value) for r in done])
    _slope("cost", [(r.forecast_cost.value, r.cost) for r in done])
    inside = sum(_within(r.after.value, r.forecast) for r in done)
    costs = sum(_within(r.cost, r.forecast_cost) for r in done)
    print(f"repair  inside the forecast: success {of(inside, len(done))}, cost {of(costs, len(done))}")
    unit = done[0].unit
    good = sum(r.after.value <= 0.1 and r.cost <= LIMIT[unit] for r in done)
    print(f"repair  success at most 10 % at a cost of at most {LIMIT[unit]} ({UNIT[unit]}): {of(good, len(done))}")


def _repair(exam: Exam, case: Case, outlook: Outlook) -> Repair:
    row, problem, outcome = case.examination.rows[0], exam.bench.kind.problems["backdoor"], case.examination.outcome
    assert outcome is not None
    subject = exam.subject(row.name, row.weights, row.loss, row.accuracy)
    repair = mend(problem, exam.bench, subject, outcome, exam.bank, Bar(), outlook)
    before, after = (exam.bench.candidate(exam.bench.path(w)).load() for w in (row.weights, repair.weights))
    parts = [
        f"repair  {row.name}: found trigger {repair.before.value:.2f} → {repair.after.value:.2f}",
        f"(forecast {_shown(repair.forecast)}),",
        f"cost {repair.cost:+.3f} (forecast {_shown(repair.forecast_cost)}),",
        f"planted trigger {case.planted(before):.2f} → {case.planted(after):.2f},",
        f"found trigger after the same repair against a random one {repair.random_success:.2f},",
        f"again {repair.again} p {repair.again_p_value:.2f}, relearning {repair.relearning:.2f}",
    ]
    print(*parts, flush=True)
    return repair


def _slope(name: str, pairs: Sequence[tuple[float, float]]) -> None:
    """Of outcome on forecast, through the origin."""
    square = sum(forecast**2 for forecast, _ in pairs)
    slope = sum(forecast * outcome for forecast, outcome in pairs) / square if square else float("nan")
    error = sum(abs(forecast - outcome) for forecast, outcome in pairs) / len(pairs)
    print(f"repair  {name}: slope {slope:.2f}, mean error {error:.3f}")


def _within(value: float, forecast: Forecast) -> bool:
    return forecast.low <= value <= forecast.high


def _shown(forecast: Forecast) -> str:
    return f"{forecast.value:.3f} [{forecast.low:.3f}, {forecast.high:.3f}]"
