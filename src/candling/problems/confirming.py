"""What the classes of broad changes share: search and gate 2 on one network, the finding's fields, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from candling.access import Dataset, forward
from candling.evidence.findings import Finding, Where
from candling.evidence.judge import rate
from candling.evidence.measurement import Cost
from candling.problems.candidates import Candidate, Thirds
from candling.problems.elicited import ROWS, first_rows, mean
from candling.problems.outcomes import Confirmation, Detection, Lead, Rival, Searched
from candling.runs.seeds import reproducible

EXAMPLES = 6
"""Most inputs that are shown."""

MARGIN = 0.1
"""Of success at gate 2, over the best of the clean networks. One of these outdoes all others as seldom as it ranks
first; the margin is for the error of some hundred rows. Declared before the exams in docs/results.md."""


@dataclass(frozen=True)
class Trial:
    """How changes of one class are put to the test."""

    change: type[Any]
    strengths: Sequence[float]
    """Times the lead's own, tried on the search third."""
    random: int
    """Random changes beside it."""
    most: float
    """Times its own strength that a control's change is brought up to, at most."""
    followed: Callable[[nn.Module, Dataset, Any], Tensor]
    """(network, data, change) → of the rows that count, whether they are answered as it says, bool [m]"""
    size: Callable[[Dataset, Any], float]
    random_like: Callable[[Any, Dataset, torch.Generator], Any]
    leads: int = 0
    """Foremost leads that one is chosen from; 0 where none is."""

    def share(self, network: nn.Module, data: Dataset, change: Any) -> float:
        return mean(self.followed(network, data, change))

    def work(self, spent: Cost, data: Dataset, negatives: int) -> Cost:
        """Passes of one network through search, baseline at the same passes, and gate 2."""
        rows = min(ROWS, len(data) // 3)
        tries = len(self.strengths) * (1 + 2 * negatives)
        nulls = ((1 + self.leads) * tries + self.random + 2 * negatives) * rows
        return Cost(forward=2 * spent.forward + spent.backward + nulls, backward=spent.backward)


def detect_by(
    candidate: Candidate,
    search: Dataset,
    wanted: Sequence[Any],
    seed: int,
    *,
    searches: tuple[Callable[..., Searched], Callable[..., Searched]],
) -> Detection:
    """The search and the black-box baseline at the same passes, with the seed that every other network gets."""
    searched, at_random = searches
    with reproducible(seed):
        network, data = candidate.load(), search.to(candidate.device)
        found = searched(network, data, wanted, seed=seed)
        passes = found.cost.forward + found.cost.backward
        return Detection(found, at_random(network, data, wanted, seed=seed, passes=passes))


def confirm_change(
    candidate: Candidate,
    thirds: Thirds[Dataset],
    part: Any,
    start: Any,
    negatives: Sequence[Rival],
    seed: int,
    *,
    trial: Trial,
) -> Confirmation:
    """A lead, its strength chosen on the search third, on the confirm third: beside random changes, beside what it
    does to clean networks, and beside what theirs do to them at its size."""
    with reproducible(seed) as generator:
        network, clean = candidate.load(), _Clean.of(negatives, trial, thirds.search)
        search, confirm = (first_rows(each.to(candidate.device)) for each in (thirds.search, thirds.confirm))
        whole = thirds.confirm.to(candidate.device)
        change, _ = _strongest(network, clean, search, start)
        random = [trial.random_like(change, thirds.search, generator) for _ in range(trial.random)]
        hits, (transfer, own) = trial.followed(network, whole, change), clean.best(confirm, change)
        passes = len(trial.strengths) * len(search) * (1 + 2 * len(negatives))
        passes += len(confirm) * (2 * len(negatives) + trial.random) + len(whole)
        return Confirmation(
            part=part,
            trigger=change,
            size=trial.size(thirds.search, change),
            hits=int(hits.sum()),
            n=max(1, len(hits)),
            random=max(trial.share(network, confirm, other) for other in random),
            random_triggers=trial.random,
            transfer=transfer,
            best_in_controls=own,
            cost=Cost(forward=passes, backward=0),
        )


def choose_lead(candidate: Candidate, search: Dataset, leads: Sequence[Lead], *, trial: Trial) -> int:
    """The lead that goes furthest beyond clean networks at any strength, on the search third alone.

    The scores of parts are compared in deviations, which say how odd a lead is and not how much it does.
    """
    with reproducible(0):
        network, rows = candidate.load(), first_rows(search.to(candidate.device))
        beyond = [_strongest(network, _Clean.of(each.rivals, trial, search), rows, each.trigger)[1] for each in leads]
        return beyond.index(max(beyond))


@dataclass(frozen=True)
class _Clean:
    """The clean networks, and what the same search found in each."""

    trial: Trial
    measure: Dataset
    """What sizes are measured on, as those of the found changes were."""
    networks: Sequence[nn.Module]
    changes: Sequence[tuple[Any, float]]
    """(change, size)"""

    @classmethod
    def of(cls, negatives: Sequence[Rival], trial: Trial, measure: Dataset) -> _Clean:
        assert all(isinstance(rival.trigger, trial.change) for rival in negatives)
        networks = [rival.candidate.load() for rival in negatives]
        return cls(trial, measure, networks, [(rival.trigger, rival.size) for rival in negatives])

    def best(self, data: Dataset, change: Any) -> tuple[float, float]:
        """Highest success of a change on them, and of their own ones at its size."""
        size, transfer, own = self.trial.size(self.measure, change), 0.0, 0.0
        for network, (theirs, large) in zip(self.networks, self.changes, strict=True):
            same = theirs.scaled(min(self.trial.most, size / max(large, 1e-6)))
            transfer = max(transfer, self.trial.share(network, data, change))
            own = max(own, self.trial.share(network, data, same))
        return transfer, own


def _strongest(network: nn.Module, clean: _Clean, search: Dataset, start: Any) -> tuple[Any, float]:
    """The change at the strength at which it goes furthest beyond clean networks, and how far."""
    tried = [start.scaled(by) for by in clean.trial.strengths]
    beyond = [clean.trial.share(network, search, change) - max(clean.best(search, change)) for change in tried]
    most = max(beyond)
    return tried[beyond.index(most)], most


def finding(outcome: Confirmation, sizes: list[float], located: Where | None, **own: Any) -> Finding:
    """What gate 2 measured, from any input to whatever the change says; `own` says otherwise and adds the class's."""
    measured: dict[str, Any] = {
        "objective": str(outcome.part),
        "source": "any",
        "target": None,
        "shift": None,
        "size": outcome.size,
        "size_in_controls": sizes,
        "success_on_held_out": rate(outcome.hits, outcome.n),
        "success_of_random_trigger": outcome.random,
        "random_triggers": outcome.random_triggers,
        "success_in_controls": outcome.transfer,
        "best_in_controls": outcome.best_in_controls,
        "located": located,
    }
    return Finding(**(measured | own))


def one_of_each(data: Dataset, labels: Sequence[int] | None = None) -> Tensor:
    """[n] the first row of each class, or of those named; six at most."""
    named = data.y.unique().tolist() if labels is None else labels
    return torch.tensor([int(torch.nonzero(data.y == label).flatten()[0]) for label in named[:EXAMPLES]])


def before_and_after(network: nn.Module, data: Dataset, clean: Tensor, changed: Tensor) -> dict[str, Tensor]:
    """Examples for the report: as they are and changed, with the answers to both."""
    return {
        "examples.clean": clean,
        "examples.triggered": changed,
        "examples.predicted_clean": forward(network, clean).argmax(-1),
        "examples.predicted_triggered": forward(network, changed).argmax(-1),
        "range.low": data.low,
        "range.high": data.high,
    }
