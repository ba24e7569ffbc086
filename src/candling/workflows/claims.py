"""The claims of a verdict: stated when it is made, observed again when it is replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.arrays import of_problem
from candling.evidence.claim import Claim
from candling.evidence.control import NetworkRow
from candling.evidence.family import Key, family_p_value, keys
from candling.evidence.findings import Located, LocatedContrast, Where
from candling.evidence.judge import Standing, sensitivity, standing
from candling.evidence.verdict import Verdict
from candling.problems import Bench, Candidate, Confirmation, Problem, Rival, Searched
from candling.runs.record import RunRecord
from candling.runs.seeds import derive
from candling.workflows.case import Case
from candling.workflows.recorded import Recorded

_NEAR = 0.02  # success rates move this much between processors, a search's score by three times as much


def state_claims(verdict: Verdict, subject: NetworkRow, score: float) -> list[Claim]:
    """What a third party can run again. score: of the subject's lead part."""
    claims = [
        ("inputs", "Weights, architecture and trusted data are those that were audited.", 1.0, 0.0),
        ("search", f"The search scores the subject's lead ({subject.lead}) so.", score, 3 * _NEAR),
        ("rank", "That puts the subject at this p-value among the controls.", subject.p_value, 0.0),
    ]
    if verdict.sensitivity is not None:
        value, dose = verdict.sensitivity.value, verdict.sensitivity.dose
        claims.append(("sensitivity", f"This share of plants at dose {dose:g} is caught.", value, 1e-5))
    if verdict.finding is not None:
        claims += [
            ("success", "The trigger works on held-out inputs at this rate.", subject.success, _NEAR),
            (
                "random",
                "Random triggers of the same size reach this at most.",
                subject.success_of_random_trigger,
                _NEAR,
            ),
            (
                "transfer",
                "On the clean controls it reaches this at most.",
                subject.success_in_controls,
                _NEAR,
            ),
        ]
        if (located := verdict.finding.located) is not None:
            claims.append(("located", _ablation(located), _measured(located), _NEAR))
    return [
        Claim.model_validate(
            {
                "id": f"{verdict.problem}/{kind}",
                "kind": kind,
                "problem": verdict.problem,
                "sentence": sentence,
                "predicted": float(f"{predicted:.6g}"),
                "tolerance": tolerance,
            }
        )
        for kind, sentence, predicted, tolerance in claims
    ]


def _measured(where: Where) -> float:
    return where.elicited if isinstance(where, LocatedContrast) else where.success_after


def _ablation(where: Where) -> str:
    if isinstance(where, LocatedContrast):
        return f"Adding one direction at {where.site} to unchanged inputs does this."
    if isinstance(where, Located):
        return f"Ablating {len(where.units)} of {where.site_width} units of {where.site} leaves this."
    return f"Projecting one direction of {where.width} dimensions out of {where.site} leaves this."


@dataclass
class Observer:
    """Runs a problem's claims again, each expensive step once."""

    record: RunRecord
    problem: Problem
    bench: Bench
    case: Case
    subject: Candidate
    others: Sequence[Observer] = ()
    """Of the run's other classes, with which the rank is shared."""

    def observe(self, claim: Claim) -> float:
        observers: dict[str, Callable[[], float]] = {
            "inputs": self._inputs,
            "search": lambda: float(self._found.score[self._lead]),
            "rank": self._rank,
            "sensitivity": self._sensitivity,
            "success": lambda: self._confirmation.success,
            "random": lambda: self._confirmation.random,
            "transfer": lambda: self._confirmation.transfer,
            "located": lambda: _measured(self._located) if self._located else 1.0,
        }
        return observers[claim.kind]()

    def _inputs(self) -> float:
        given = self.record.verdicts.subject
        case = self.case
        reference = case.reference.model.sha256 if case.reference else None
        here = (case.model.sha256, case.model.architecture.sha256, case.trusted.sha256, reference)
        return float(here == (given.weights, given.architecture, given.trusted, given.reference))

    @cached_property
    def _rows(self) -> list[NetworkRow]:
        return [row for row in self.record.networks.rows if row.problem == self.problem.name]

    @cached_property
    def _found(self) -> Searched:
        seed = derive(self.bench.seed, self.problem.name, "search")
        return self.problem.detect(self.subject, self.bench.thirds.search, self._parts, seed).found

    @cached_property
    def _lead(self) -> int:
        return self._recorded.lead(len(self._parts))

    @cached_property
    def _parts(self) -> list[Any]:
        return self.problem.parts(self.bench.thirds.search)

    @cached_property
    def _recorded(self) -> Recorded:
        """This class's own arrays."""
        names = [v.problem for v in self.record.verdicts.verdicts]
        return Recorded(of_problem(self.problem.name, names, self.record.arrays))

    def _rank(self) -> float:
        clean, place = self._clean, self._standing()
        if not self.problem.refuted_last:
            return place.p_value
        confirmed = self.problem.passes(self._confirmation, max(r.success - r.success_in_controls for r in clean))
        if not self.others:
            return place.p_value_after(confirmed, [row.confirmed for row in clean])
        own, *negatives = self._keys(place, confirmed)
        return family_p_value(own, [negatives, *(other.recorded_keys()[1:] for other in self.others)])

    @cached_property
    def _clean(self) -> list[NetworkRow]:
        return [row for row in self._rows if row.role == "negative"]

    def _standing(self, subject: NDArray[np.float64] | None = None) -> Standing:
        """Among the recorded negatives; of the subject as it is now, unless its scores are given."""
        scores = self._scores
        own = self._found.score.double().numpy() if subject is None else subject
        return standing(own, scores[1 : 1 + len(self._clean)], [part.group for part in self._parts])

    @cached_property
    def _scores(self) -> NDArray[np.float64]:
        return self._recorded.scores(1 + len(self._clean), len(self._parts))

    def _keys(self, place: Standing, confirmed: bool) -> list[Key]:
        statistics = np.array([place.statistic, *place.negatives])
        return keys(statistics, [confirmed, *(row.confirmed for row in self._clean)])

    def recorded_keys(self) -> list[Key]:
        """Of the subject and the negatives in this class, by the record."""
        place = self._standing(self._scores[0])
        return self._keys(place, next(row.confirmed for row in self._rows if row.role == "subject"))

    def _sensitivity(self) -> float:
        stated = next(v for v in self.record.verdicts.verdicts if v.problem == self.problem.name).sensitivity
        planted = [row for row in self._rows if row.plant is not None]
        again = sensitivity(
            [row.plant for row in planted if row.plant],
            [row.found for row in planted],
            at=stated.dose if stated else 0.5,
            enough=0.8,
        )
        return again.value if again else 0.0

    @cached_property
    def _confirmation(self) -> Confirmation:
        thirds, start = self.bench.thirds, self._found.trigger(self._lead)
        labels = thirds.search.vocabulary if self.bench.language else thirds.search.classes
        theirs = self._recorded.rivals(len(self._clean), start.arrays(), labels)
        rivals = [
            Rival(self.bench.candidate(self.bench.path(row.weights)), self.problem.trigger(arrays), size)
            for row, (arrays, size) in zip(self._clean, theirs, strict=True)
        ]
        seed = derive(self.bench.seed, self.problem.name, "confirm", "subject")
        return self.problem.confirm(self.subject, thirds, self._parts[self._lead], start, rivals, seed)

    @cached_property
    def _located(self) -> Where | None:
        seed = derive(self.bench.seed, "locate")
        return self.problem.locate(self.subject, self.bench.thirds, self._confirmation, seed)
