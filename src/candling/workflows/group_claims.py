"""The claims about untrusted inputs: stated when they are judged, observed by judging them again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from candling.evidence.claim import Claim
from candling.evidence.untrusted import Group
from candling.problems import Bench, Candidate
from candling.runs.record import RunRecord
from candling.workflows.case import Case
from candling.workflows.untrusted_inputs import JudgedInputs, judge_untrusted

PROBLEM = "untrusted"
"""In place of a problem class, in these claims."""

_NEAR = 0.02  # controls trained on another processor differ a little, and so does what they teach the judge


def state_group_claims(groups: Sequence[Group]) -> list[Claim]:
    """What a third party can run again."""
    claims = [(f"{PROBLEM}/inputs", "inputs", "The untrusted inputs are those that were judged.", 1.0, 0.0)]
    for name, group in _named(groups):
        sentence = f"These {group.n:,} inputs stand out together, by another mechanism with this probability."
        claims.append((name, "group", sentence, group.p, _NEAR))
    return [
        Claim.model_validate(
            {
                "id": name,
                "kind": kind,
                "problem": PROBLEM,
                "sentence": sentence,
                "predicted": float(f"{predicted:.6g}"),
                "tolerance": tolerance,
            }
        )
        for name, kind, sentence, predicted, tolerance in claims
    ]


def _named(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    return [(f"{PROBLEM}/group-{i}", group) for i, group in enumerate(groups, 1)]


@dataclass
class GroupObserver:
    """Judges the untrusted inputs again, once: they are ranked and grouped, and controls are taught, anew."""

    record: RunRecord
    bench: Bench
    case: Case
    subject: Candidate

    def observe(self, claim: Claim) -> float:
        """A group's probability is not a number where no group of the same inputs stands out."""
        if claim.kind == "inputs":
            return float(self.case.untrusted_sha256 == self.record.verdicts.subject.untrusted)
        recorded = dict(_named(self.record.verdicts.groups)).get(claim.id)
        again = [g.p for g in self._judged.groups if recorded is not None and g.inputs == recorded.inputs]
        return again[0] if again else math.nan

    @cached_property
    def _judged(self) -> JudgedInputs:
        assert self.case.inputs is not None
        return judge_untrusted(self.bench, self.subject, self.case.inputs, self.case.legitimate)
