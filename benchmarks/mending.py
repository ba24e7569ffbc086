"""Repairs of networks in which something was found: forecast beside outcome, slope and coverage over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from candling.evidence.findings import Forecast
from candling.evidence.verdict import Repair
from candling.runs.jobs import run_jobs, silent
from candling.workflows.examine import Bar, Examination
from candling.workflows.mend import Outlook, look_ahead, mend
from common import Exam, of, progress

UNIT = {"nats": "nats a token", "points": "share of accuracy"}
LIMIT = {"nats": 0.05, "points": 0.02}
ENDED = 0.1
"""Success down to which a behaviour counts as mended."""


@dataclass(frozen=True)
class Case:
    """A found subject, and how often its planted trigger (which no repair sees) works in a network."""

    examination: Examination
    planted: Callable[[nn.Module], float]


@dataclass(frozen=True)
class Mending:
    """A repair, and how often the planted behaviour itself comes before it and after."""

    name: str
    repair: Repair
    before: float
    after: float


def repairs(exam: Exam, cases: Sequence[Case], *, at_once: bool = False) -> None:
    """A line for each repair, then slope and coverage of the forecasts.

    at_once: on all cores, one job a network, which small networks have memory for.
    """
    outlook = ahead(exam)
    if at_once:
        alone = replace(exam, bench=replace(exam.bench, workers=1, progress=silent))
        jobs = [(alone, case, outlook) for case in cases]
        done = run_jobs(mended, jobs, stage="repairing the subjects", progress=progress())
    else:
        done = [mended(exam, case, outlook) for case in cases]
    print_mendings(done)


def mended(exam: Exam, case: Case, outlook: Outlook | None = None) -> Mending:
    """What an audit with repair does after its verdict: forecast, repair, outcome, second audit; a line of it.

    outlook: the forecast, where it was made already; else the bank's planted controls are rehearsed here.
    """
    row, problem, outcome = case.examination.rows[0], exam.bench.kind.problems[exam.problem], case.examination.outcome
    assert outcome is not None
    subject = exam.subject(row.name, row.weights, row.loss, row.accuracy)
    repair = mend(problem, exam.bench, subject, outcome, exam.bank, Bar(), outlook or ahead(exam))
    before, after = (exam.bench.candidate(exam.bench.path(w)).load() for w in (row.weights, repair.weights))
    done = Mending(row.name, repair, case.planted(before), case.planted(after))
    print(line(done), flush=True)
    return done


def ahead(exam: Exam) -> Outlook:
    """The forecast for any subject of this bank, rehearsed once in each process."""
    if exam.bench.folder not in _AHEAD:
        _AHEAD[exam.bench.folder] = look_ahead(exam.bench.kind.problems[exam.problem], exam.bench, exam.bank)
    return _AHEAD[exam.bench.folder]


_AHEAD: dict[Path, Outlook] = {}


def line(done: Mending) -> str:
    repair = done.repair
    again = "" if repair.again_p_value is None else f" p {repair.again_p_value:.2f}"
    relearning = "neither learned it" if repair.relearning is None else f"{repair.relearning:.2f}"
    return (
        f"repair  {done.name}: found {repair.before.value:.2f} → {repair.after.value:.2f} "
        f"(forecast {_shown(repair.forecast)}), cost {repair.cost:+.3f} (forecast {_shown(repair.forecast_cost)}), "
        f"planted {done.before:.2f} → {done.after:.2f}, found after the same repair against a random one "
        f"{repair.random_success:.2f}, again {repair.again}{again}, relearning {relearning}"
    )


def print_mendings(done: Sequence[Mending]) -> None:
    """Slope and coverage of the forecasts; how many were mended, by what was found and by what was planted."""
    if not done:
        print("repair  nothing was found")
        return
    made = [each.repair for each in done]
    _slope("drop in success", [(r.before.value - r.forecast.value, r.before.value - r.after.value) for r in made])
    _slope("cost", [(r.forecast_cost.value, r.cost) for r in made])
    inside = sum(_within(r.after.value, r.forecast) for r in made)
    costs = sum(_within(r.cost, r.forecast_cost) for r in made)
    print(f"repair  inside the forecast: success {of(inside, len(made))}, cost {of(costs, len(made))}")
    unit, n = made[0].unit, len(made)
    cheap = [each for each in done if each.repair.cost <= LIMIT[unit]]
    print(f"repair  cost at most {LIMIT[unit]} ({UNIT[unit]}): {of(len(cheap), n)}")
    found = sum(each.repair.after.value <= ENDED for each in done)
    both = sum(each.repair.after.value <= ENDED for each in cheap)
    print(f"repair  found behaviour at most {ENDED:.0%}: {of(found, n)}, and at that cost: {of(both, n)}")
    found, both = (sum(each.after <= ENDED for each in group) for group in (done, cheap))
    print(f"repair  planted behaviour at most {ENDED:.0%}: {of(found, n)}, and at that cost: {of(both, n)}")


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
