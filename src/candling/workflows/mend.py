"""Repair: say what it will do, store that, do it, measure it on unused inputs, and audit again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from candling.access import read_weights
from candling.errors import EnvironmentFault
from candling.evidence.findings import Forecast
from candling.evidence.judge import rate
from candling.evidence.verdict import Repair, Verdict
from candling.problems import Bench, Candidate, Confirmation, Network, Problem
from candling.problems.outcomes import Mended, Repaired
from candling.runs.files import write_whole
from candling.runs.jobs import Keep
from candling.runs.seeds import derive
from candling.workflows.bank import Bank
from candling.workflows.examine import Bar, Examination, likeness
from candling.workflows.family import examine_again

REHEARSALS = 6
"""Planted controls, at most, on which the repair is tried first."""

_TEACHERS = 3  # clean controls whose learning speed is the measure


@dataclass(frozen=True)
class Outlook:
    """What the repair will do to a network, from what it did to planted controls."""

    retained: Forecast
    """Share of the trigger's success that is left."""
    cost: Forecast
    """Of a network of any loss; where the remedy levels, of one whose loss is 0 nats."""
    basis: str
    levels: bool = False

    def cost_of(self, loss: float) -> Forecast:
        """loss: of the network as it is, on the search third, nats."""
        if not self.levels:
            return self.cost
        value, low, high = (each - loss for each in (self.cost.value, self.cost.low, self.cost.high))
        return Forecast(value=value, low=low, high=high)

    def success(self, before: float) -> Forecast:
        value, low, high = (before * each for each in (self.retained.value, self.retained.low, self.retained.high))
        return Forecast(value=value, low=low, high=high)


@dataclass(frozen=True)
class StoredRepair:
    """What is kept of a repair: the weights lie in the run folder, under their SHA-256."""

    sha256: str
    mended: Mended


def mend(
    problem: Problem,
    bench: Bench,
    subject: Network,
    outcome: Confirmation,
    bank: Bank,
    bar: Bar,
    outlook: Outlook | None = None,
    others: Sequence[Bank] = (),
) -> Repair:
    """The whole of it for a subject in which something was found. The forecast is in the ledger before the edit.

    outlook: the forecast, where the controls were rehearsed already. others: banks of the run's other classes.
    """
    outlook = outlook or look_ahead(problem, bench, bank)
    kept, random = run_repairs(
        problem, bench, [(subject.candidate, outcome, False), (subject.candidate, outcome, True)], "repairing"
    )
    repaired = bench.candidate(bench.path(kept.sha256))
    mended_subject = _as_subject(bench, repaired, kept)
    alike = likeness(bench, mended_subject, bank.networks[: bank.n])
    again = examine_again(problem, bench, mended_subject, [bank, *others], alike, bar).verdict
    mended = kept.mended
    before = rate(mended.before, mended.n)
    return Repair(
        method=problem.remedy.method,
        unit=problem.remedy.unit,
        basis=outlook.basis,
        before=before,
        forecast=outlook.success(before.value),
        forecast_cost=outlook.cost_of(subject.loss),
        after=rate(mended.after, mended.n),
        cost=mended.cost,
        after_fitting=mended.after_fitting,
        random_success=random.mended.after / random.mended.n,
        random_cost=random.mended.cost,
        again=again.verdict,
        again_p_value=again.p_value,
        relearning=relearning(problem, bench, repaired, outcome, bank),
        weights=kept.sha256,
    )


def mend_all(
    chosen: Sequence[Problem],
    bench: Bench,
    subject: Network,
    banks: Sequence[Bank],
    examinations: Sequence[Examination],
    bar: Bar,
) -> list[Examination]:
    """Each finding mended in the subject as given."""
    done = []
    for i, (problem, examination) in enumerate(zip(chosen, examinations, strict=True)):
        if examination.verdict.finding and examination.outcome:
            others = [bank for k, bank in enumerate(banks) if k != i]
            mended = mend(problem, bench, subject, examination.outcome, banks[i], bar, others=others)
            examination = replace(examination, verdict=examination.verdict.model_copy(update={"repair": mended}))
        done.append(examination)
    return done


def hand_over_all(verdicts: Sequence[Verdict], *, folder: Path, repair: Path) -> None:
    """Of one repair the weights; of several a folder each, named by its problem class."""
    mended = {verdict.problem: verdict.repair.weights for verdict in verdicts if verdict.repair is not None}
    for problem, sha256 in mended.items():
        stored = folder / "networks" / f"{sha256[:16]}.safetensors"
        hand_over(read_weights(stored), repair if len(mended) == 1 else repair / problem)


def hand_over(weights: Mapping[str, Tensor], folder: Path) -> None:
    """The repaired weights as `model.safetensors`. Raises EnvironmentFault."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFault("write", f"cannot make {folder}: {fault.strerror}") from fault
    write_whole(folder / "model.safetensors", save(dict(weights)))


def look_ahead(problem: Problem, bench: Bench, bank: Bank) -> Outlook:
    """The forecast for any subject of this bank."""
    jobs = [(rehearse(problem, bench, bank), problem.remedy.levels)]
    (outlook,) = bench.run(forecast, jobs, stage="forecasting the repair")
    return outlook


@dataclass(frozen=True)
class Rehearsal:
    """The repair of a planted control."""

    loss: float
    """Of the control before it, on the search third, nats."""
    mended: Mended


def rehearse(problem: Problem, bench: Bench, bank: Bank) -> list[Rehearsal]:
    """The same repair of planted controls in which something was found, by their own leads."""
    found = [
        (network, outcome)
        for network, outcome, row in zip(bank.networks, bank.outcomes, bank.rows, strict=True)
        if row.found and network.role == "positive"
    ][:REHEARSALS]
    jobs = [(network.candidate, outcome, False) for network, outcome in found]
    done = run_repairs(problem, bench, jobs, "rehearsing the repair")
    return [Rehearsal(network.loss, each.mended) for (network, _), each in zip(found, done, strict=True)]


def forecast(rehearsals: Sequence[Rehearsal], levels: bool = False) -> Outlook:
    """Median and range of the rehearsals, which are exchangeable with the subject where it is like them.

    Of the cost, or, where the remedy levels, of the loss that is left: loss before and cost together. The next of
    n + 1 alike falls in the range of n with probability (n − 1)/(n + 1).
    """
    n = len(rehearsals)
    if n == 0:
        everything = Forecast(value=0.0, low=0.0, high=1.0)
        nothing_known = Forecast(value=0.0, low=-100.0, high=100.0)
        return Outlook(everything, nothing_known, "no planted control was found, so nothing was rehearsed")
    retained = sorted(each.mended.after / max(each.mended.before, 1) for each in rehearsals)
    costs = sorted(each.mended.cost + (each.loss if levels else 0.0) for each in rehearsals)
    basis = (
        f"the same repair of {n} planted control{'s' if n > 1 else ''}: median and range, which hold the next one "
        f"alike {max(n - 1, 0)} times in {n + 1}"
    )
    if levels:
        basis += "; of the cost, by the loss that it left them with"
    return Outlook(_spread(retained), _spread(costs), basis, levels)


def run_repairs(
    problem: Problem, bench: Bench, what: Sequence[tuple[Candidate, Confirmation, bool]], stage: str
) -> list[StoredRepair]:
    """(network, its lead, against a random trigger instead?) → repaired weights, stored."""
    jobs = [
        (candidate, bench.thirds, outcome, against_random, derive(bench.seed, problem.name, "repair"))
        for candidate, outcome, against_random in what
    ]
    keep = Keep(partial(_stored, bench), lambda stored: bench.has(stored.sha256))
    return bench.run(problem.remedy.repair, jobs, stage=stage, keep=keep)


def relearning(
    problem: Problem, bench: Bench, repaired: Candidate, outcome: Confirmation, bank: Bank
) -> float | None:
    """Steps to teach the trigger to the repaired network, over the mean of those for clean controls."""
    clean = [network.candidate for network in bank.networks[: min(bank.n, _TEACHERS)]]
    seed = derive(bench.seed, problem.name, "relearn")
    jobs = [(candidate, bench.thirds, outcome, seed) for candidate in [repaired, *clean]]
    own, *theirs = bench.run(problem.remedy.relearn, jobs, stage="teaching it again")
    return own * len(theirs) / sum(theirs)


def _spread(values: Sequence[float]) -> Forecast:
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return Forecast(value=median, low=values[0], high=values[-1])


def _stored(bench: Bench, repaired: Repaired) -> StoredRepair:
    _, sha256 = bench.store(repaired.state)
    return StoredRepair(sha256, repaired.mended)


def _as_subject(bench: Bench, repaired: Candidate, kept: StoredRepair) -> Network:
    loss, accuracy = bench.kind.quality(repaired.load(), bench.thirds.search.to(bench.device))
    return Network(
        name="repaired",
        role="subject",
        recipe="repaired",
        candidate=repaired,
        sha256=kept.sha256,
        loss=loss,
        accuracy=accuracy,
        plant=None,
        cost=kept.mended.spent,
    )
