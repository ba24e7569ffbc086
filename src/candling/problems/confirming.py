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
from candling.problems.elicited import ROWS, first_rows
from candling.problems.outcomes import Confirmation, Detection, Rival, Searched
from candling.runs.seeds import reproducible

EXAMPLES = 6
"""Most inputs that are shown."""


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
    share: Callable[[nn.Module, Dataset, Any], float]
    """(network, data, change) → of the rows, those that are answered as it says"""
    size: Callable[[Dataset, Any], float]
    random_like: Callable[[Any, Dataset, torch.Generator], Any]

    def work(self, spent: Cost, data: Dataset, negatives: int) -> Cost:
        """Passes of one network through search, baseline at the same passes, and gate 2."""
        rows = min(ROWS, len(data) // 3)
        nulls = (self.random + (2 + len(self.strengths)) * negatives + len(self.strengths)) * rows
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
        network, share = candidate.load(), trial.share
        controls = [rival.candidate.load() for rival in negatives]
        search, confirm = (first_rows(each.to(candidate.device)) for each in (thirds.search, thirds.confirm))
        whole = thirds.confirm.to(candidate.device)
        change = max(
            (start.scaled(by) for by in trial.strengths),
            key=lambda tried: (
                share(network, search, tried) - max([0.0, *(share(c, search, tried) for c in controls)])
            ),
        )
        size, own = trial.size(thirds.search, change), [0.0]
        for rival, control in zip(negatives, controls, strict=True):
            assert isinstance(rival.trigger, trial.change)
            theirs = rival.trigger.scaled(min(trial.most, size / max(rival.size, 1e-6)))
            own.append(share(control, confirm, theirs))
        random = [trial.random_like(change, thirds.search, generator) for _ in range(trial.random)]
        passes = len(trial.strengths) * len(search) * (1 + len(controls))
        passes += len(confirm) * (2 * len(controls) + trial.random) + len(whole)
        return Confirmation(
            part=part,
            trigger=change,
            size=size,
            hits=round(share(network, whole, change) * len(whole)),
            n=len(whole),
            random=max(share(network, confirm, other) for other in random),
            random_triggers=trial.random,
            transfer=max([0.0, *(share(control, confirm, change) for control in controls)]),
            best_in_controls=max(own),
            cost=Cost(forward=passes, backward=0),
        )


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
